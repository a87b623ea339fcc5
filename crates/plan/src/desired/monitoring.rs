//! What Prometheus is given: a Service of everything that is scraped, a ServiceMonitor for it, and alerts.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::{Desired, Kind, Write, cleanup, identity, pod};
use crate::alerts;
use crate::names::{self, Component};
use crate::resolve::Resolved;

/// The headless Service of API pods and workers, which only a scrape needs: workers have no other.
pub(super) fn service(resolved: &Resolved) -> Option<Desired> {
    if !resolved.monitoring.service_monitor {
        return None;
    }
    let name = names::metrics(&resolved.name);
    let service = Service {
        metadata: identity::metadata(resolved, &name, Component::Metrics),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            cluster_ip: Some("None".into()),
            selector: Some(names::pods(&resolved.name)),
            ports: Some(vec![ServicePort {
                name: Some("metrics".into()),
                protocol: Some("TCP".into()),
                port: pod::METRICS_PORT,
                target_port: Some(IntOrString::String("metrics".into())),
                ..ServicePort::default()
            }]),
            // A pod that is not ready is the one whose numbers matter.
            publish_not_ready_addresses: Some(true),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    };
    Some(Desired::new(resolved, Kind::Service, name, Write::Apply, &service))
}

/// The ServiceMonitor, when the spec wants one.
pub(super) fn service_monitor(resolved: &Resolved) -> Option<Desired> {
    if !resolved.monitoring.service_monitor {
        return None;
    }
    let name = names::api(&resolved.name);
    let monitor = json!({
        "metadata": identity::metadata(resolved, &name, Component::Metrics),
        "spec": {
            "selector": {"matchLabels": names::selector(&resolved.name, Component::Metrics)},
            "endpoints": [{"port": "metrics", "path": "/metrics", "interval": "30s"}],
        },
    });
    Some(Desired::new(resolved, Kind::ServiceMonitor, name, Write::Apply, &monitor))
}

/// The PrometheusRule with the alerts of this instance, when the spec wants one.
pub(super) fn prometheus_rule(resolved: &Resolved) -> Option<Desired> {
    if !resolved.monitoring.prometheus_rule {
        return None;
    }
    let name = names::api(&resolved.name);
    let stale = match resolved.database {
        Some(_) => cleanup::alarm_after(resolved),
        None => Some(alerts::STALE_IN_MEMORY),
    };
    let since = resolved.timetable.since.map_or(0, |at| at.as_micros().div_euclid(1_000_000));
    let rules = alerts::of_instance(&resolved.namespace, &names::metrics(&resolved.name), stale, since);
    let rule = json!({
        "metadata": identity::metadata(resolved, &name, Component::Metrics),
        "spec": {"groups": [{"name": format!("jam-{name}"), "rules": rules}]},
    });
    Some(Desired::new(resolved, Kind::PrometheusRule, name, Write::Apply, &rule))
}
