//! The Grafana dashboard of an instance in a ConfigMap that Grafana's sidecar finds by label.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::{Desired, Kind, Write, identity};
use crate::names::{self, Component};
use crate::resolve::Resolved;

/// A panel: its title, its unit, and for each line its expression and its legend. `$S` stands for the selector of the instance.
struct Panel(&'static str, &'static str, &'static [(&'static str, &'static str)]);

const PANELS: [Panel; 8] = [
    Panel(
        "Requests by route",
        "reqps",
        &[("sum by (route) (rate(jam_http_requests_total{$S}[$__rate_interval]))", "{{route}}")],
    ),
    Panel(
        "Errors by route",
        "reqps",
        &[(
            "sum by (route, status) (rate(jam_http_requests_total{$S,status=~\"5..\"}[$__rate_interval]))",
            "{{route}} {{status}}",
        )],
    ),
    Panel(
        "Latency, 99th percentile",
        "s",
        &[(
            "histogram_quantile(0.99, sum by (le, route) (rate(jam_http_request_duration_seconds_bucket{$S}[$__rate_interval])))",
            "{{route}}",
        )],
    ),
    Panel("Packages pending", "short", &[("max(jam_package_pending_gauge{$S})", "pending")]),
    Panel(
        "Packages processed",
        "ops",
        &[
            ("sum(rate(jam_package_process_total{$S}[$__rate_interval]))", "processed"),
            ("sum(rate(jam_package_process_fail_total{$S}[$__rate_interval]))", "disputed"),
        ],
    ),
    Panel("Preimage bytes stored", "Bps", &[("sum(rate(jam_preimage_bytes_total{$S}[$__rate_interval]))", "bytes")]),
    Panel(
        "Preimage uploads, 99th percentile",
        "s",
        &[(
            "histogram_quantile(0.99, sum by (le) (rate(jam_preimage_put_duration_seconds_bucket{$S}[$__rate_interval])))",
            "upload",
        )],
    ),
    Panel(
        "Refused",
        "ops",
        &[
            ("sum(rate(jam_rate_limit_hits_total{$S}[$__rate_interval]))", "rate limit"),
            ("sum(rate(jam_pending_cap_hits_total{$S}[$__rate_interval]))", "pending cap"),
            ("sum by (reason) (rate(jam_auth_failures_total{$S}[$__rate_interval]))", "token {{reason}}"),
            ("sum by (reason) (rate(jam_preimage_quota_reject_total{$S}[$__rate_interval]))", "preimage {{reason}}"),
        ],
    ),
];

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
    let map = ConfigMap { metadata, data: Some(BTreeMap::from([(file, text(resolved))])), ..ConfigMap::default() };
    Some(Desired::new(resolved, Kind::ConfigMap, name, Write::Apply, &map))
}

fn text(resolved: &Resolved) -> String {
    let selector = format!("namespace=\"{}\",service=\"{}\"", resolved.namespace, names::metrics(&resolved.name));
    let panels: Vec<Value> = PANELS.iter().enumerate().map(|(at, one)| panel(at, one, &selector)).collect();
    let dashboard = json!({
        "title": format!("JAM {}/{}", resolved.namespace, resolved.name),
        "uid": format!("jam-{}", names::short_hash([resolved.namespace.as_bytes(), resolved.name.as_bytes()])),
        "tags": ["jam"],
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": panels,
    });
    serde_json::to_string_pretty(&dashboard).expect("a dashboard is JSON")
}

fn panel(at: usize, Panel(title, unit, lines): &Panel, selector: &str) -> Value {
    let source = json!({"type": "prometheus", "uid": "${datasource}"});
    let targets: Vec<Value> = lines
        .iter()
        .zip('A'..)
        .map(|((expression, legend), letter)| {
            json!({"refId": letter.to_string(), "datasource": source,
                "expr": expression.replace("$S", selector), "legendFormat": legend})
        })
        .collect();
    json!({
        "id": at + 1,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": {"h": 8, "w": 12, "x": at % 2 * 12, "y": at / 2 * 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": targets,
    })
}
