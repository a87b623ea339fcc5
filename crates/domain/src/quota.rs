//! What one service may use: its own override, else the instance's value; 0 means no cap.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::{MAX_BYTES, MAX_PENDING};
use crate::fields::{Fields, object_of};
use crate::names::ServiceId;
use crate::refusal::Refusal;
use crate::settings::{ServiceLimits, Settings};

/// The highest of each number, as in the settings.
const MAX_SERVICE_RATE: u64 = 1_000_000;
const MAX_DAYS: u64 = 36_500;

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

/// What is set for one service at run time; what is left out is the settings' value for the service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Packages a minute that the service may submit; 0 = no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_SERVICE_RATE))]
    pub max_packages_per_minute: Option<u32>,
    /// Packages of the service that may be pending at once; 0 = no cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_PENDING))]
    pub max_pending_packages: Option<u32>,
    /// Largest preimage in bytes that tokens bound to the service may upload; 0 = no cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_BYTES))]
    pub max_preimage_bytes: Option<u64>,
    /// Days that finished packages of the service are kept; 0 = for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_DAYS))]
    pub retention_days: Option<u32>,
}

impl Quota {
    /// Reads the body of a request.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let mut fields = Fields::new(object_of(body)?, "");
        let mut small = |key: &str, most: u64| -> Result<Option<u32>, Refusal> {
            Ok(fields.number(key, 0..=most)?.map(|number| u32::try_from(number).unwrap_or(u32::MAX)))
        };
        let quota = Self {
            max_packages_per_minute: small("max_packages_per_minute", MAX_SERVICE_RATE)?,
            max_pending_packages: small("max_pending_packages", MAX_PENDING)?,
            retention_days: small("retention_days", MAX_DAYS)?,
            max_preimage_bytes: fields.number("max_preimage_bytes", 0..=MAX_BYTES)?,
        };
        fields.finish()?;
        Ok(quota)
    }

    /// The limits of the service when this stands in front of what the settings say of it.
    pub fn over(self, id: &ServiceId, settings: Option<&ServiceLimits>) -> ServiceLimits {
        let Self { max_packages_per_minute, max_pending_packages, max_preimage_bytes, retention_days } = self;
        ServiceLimits {
            id: id.clone(),
            max_packages_per_minute: max_packages_per_minute
                .or_else(|| settings.and_then(|limits| limits.max_packages_per_minute)),
            max_pending_packages: max_pending_packages
                .or_else(|| settings.and_then(|limits| limits.max_pending_packages)),
            max_preimage_bytes: max_preimage_bytes.or_else(|| settings.and_then(|limits| limits.max_preimage_bytes)),
            retention_days: retention_days.or_else(|| settings.and_then(|limits| limits.retention_days)),
        }
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

    #[test]
    fn a_quota_stands_in_front_of_the_settings_field_by_field() {
        let id: ServiceId = "s".parse().unwrap();
        let quota = Quota::parse(br#"{"max_pending_packages": 2, "retention_days": 0}"#).unwrap();
        let below = ServiceLimits {
            id: id.clone(),
            max_packages_per_minute: Some(5),
            max_pending_packages: Some(6),
            max_preimage_bytes: None,
            retention_days: None,
        };
        let wanted = ServiceLimits { max_pending_packages: Some(2), retention_days: Some(0), ..below.clone() };
        assert_eq!(quota.over(&id, Some(&below)), wanted);
        assert_eq!(quota.over(&id, None).max_packages_per_minute, None);
        for wrong in [r#"{"retention_days": 99999}"#, r#"{"id": "s"}"#, "[]", r#"{"max_preimage_bytes": "1"}"#] {
            assert!(Quota::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
