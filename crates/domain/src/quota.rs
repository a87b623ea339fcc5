//! What one service may use: its own override, else the instance's value; 0 means no cap.

use std::collections::BTreeSet;

use crate::names::ServiceId;
use crate::settings::{ServiceLimits, Settings};

impl Settings {
    fn of_service<T>(&self, service: &ServiceId, pick: impl Fn(&ServiceLimits) -> Option<T>) -> Option<T> {
        self.services.get(service).and_then(pick)
    }

    /// The largest preimage that a token bound to these services may upload (`None`: not bound).
    ///
    /// A token of several services gets the most generous of their caps: it could upload as the other service anyway.
    pub fn preimage_cap(&self, services: Option<&BTreeSet<ServiceId>>) -> u64 {
        let caps = services.into_iter().flatten().map(|service| {
            self.of_service(service, |limits| limits.max_preimage_bytes).unwrap_or(self.max_preimage_bytes)
        });
        caps.max_by_key(|cap| if *cap == 0 { u64::MAX } else { *cap }).unwrap_or(self.max_preimage_bytes)
    }

    /// The service's own cap on pending packages, 0 = only the instance's cap.
    pub fn service_pending_cap(&self, service: &ServiceId) -> u32 {
        self.of_service(service, |limits| limits.max_pending_packages).unwrap_or(0)
    }

    /// Packages a minute that the service may submit, 0 = no limit of its own.
    pub fn service_packages_per_minute(&self, service: &ServiceId) -> u32 {
        self.of_service(service, |limits| limits.max_packages_per_minute).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{JamSettings, Profile};

    fn settings() -> Settings {
        let limits = |id: &str, max| ServiceLimits {
            id: id.parse().unwrap(),
            max_packages_per_minute: None,
            max_pending_packages: Some(3),
            max_preimage_bytes: max,
            retention_days: None,
        };
        JamSettings {
            max_preimage_bytes: Some(10),
            services: Some(vec![
                limits("small", Some(5)),
                limits("big", Some(20)),
                limits("open", Some(0)),
                limits("like", None),
            ]),
            ..JamSettings::default()
        }
        .resolve(Profile::Local)
        .unwrap()
    }

    #[test]
    fn what_a_service_leaves_out_is_the_instances_value() {
        let settings = settings();
        let cap = |names: &[&str]| settings.preimage_cap(Some(&names.iter().map(|n| n.parse().unwrap()).collect()));
        assert_eq!(settings.preimage_cap(None), 10);
        assert_eq!([cap(&["small"]), cap(&["big"]), cap(&["like"]), cap(&["other"])], [5, 20, 10, 10]);
        assert_eq!([cap(&["small", "big"]), cap(&["small", "open"])], [20, 0]);
        assert_eq!(settings.service_pending_cap(&"small".parse().unwrap()), 3);
        assert_eq!(settings.service_pending_cap(&"other".parse().unwrap()), 0);
    }
}
