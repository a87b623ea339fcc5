//! The Grafana dashboard of an instance in a ConfigMap that Grafana's sidecar finds by label.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::{Desired, Kind, Write, identity};
use crate::dashboards;
use crate::names::{self, Component};
use crate::resolve::Resolved;

/// The ConfigMap, when the spec wants one.
pub(super) fn config_map(resolved: &Resolved) -> Option<Desired> {
    if !resolved.monitoring.dashboard {
        return None;
    }
    let name = names::dashboard(&resolved.name);
    let mut metadata = identity::metadata(resolved, &name, Component::Metrics);
    let (label, value) = names::DASHBOARD;
    metadata.labels.get_or_insert_default().insert(label.into(), value.into());
    let file = format!("jam-{}-{}.json", resolved.namespace, resolved.name);
    let text = dashboards::of_instance(&resolved.namespace, &resolved.name, &names::metrics(&resolved.name));
    let map = ConfigMap { metadata, data: Some(BTreeMap::from([(file, text)])), ..ConfigMap::default() };
    Some(Desired::new(resolved, Kind::ConfigMap, name, Write::Apply, &map))
}
