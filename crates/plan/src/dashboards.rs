//! The Grafana dashboards: a table of panels for the instances and one for the operator, which the chart has.

use serde_json::{Value, json};

use crate::names;

/// A panel: its title, its unit, and for each line its expression and its legend. `$S` stands for the selector of what it is about.
struct Panel(&'static str, &'static str, &'static [(&'static str, &'static str)]);

const OF_INSTANCE: [Panel; 9] = [
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
        "Preimage size, mean of uploads",
        "bytes",
        &[(
            "sum(rate(jam_preimage_bytes_total{$S}[$__rate_interval])) / sum(rate(jam_preimage_put_total{$S}[$__rate_interval]))",
            "size",
        )],
    ),
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

const OF_OPERATOR: [Panel; 7] = [
    Panel(
        "Instances by condition",
        "short",
        &[("max by (condition, status) (jam_operator_instances{$S})", "{{condition}} {{status}}")],
    ),
    Panel(
        "Reconciles",
        "ops",
        &[(
            "sum by (result, reason) (rate(jam_operator_reconciles_total{$S}[$__rate_interval]))",
            "{{result}} {{reason}}",
        )],
    ),
    Panel(
        "Time of a reconcile, 99th percentile",
        "s",
        &[(
            "histogram_quantile(0.99, sum by (le, result) (rate(jam_operator_reconcile_duration_seconds_bucket{$S}[$__rate_interval])))",
            "{{result}}",
        )],
    ),
    Panel(
        "Age of watches",
        "s",
        &[("max by (resource) (jam_operator_watch_last_open_age_seconds{$S})", "{{resource}}")],
    ),
    Panel(
        "Age of rotations and migrations",
        "s",
        &[
            ("max(jam_operator_rotation_age_seconds{$S})", "the oldest rotation"),
            ("max(jam_operator_migration_age_seconds{$S})", "the oldest migration"),
        ],
    ),
    Panel(
        "Queue and failures",
        "short",
        &[
            ("max(jam_operator_queue_depth{$S})", "waiting"),
            ("max(jam_operator_failing_instances{$S})", "failing"),
            ("sum(jam_operator_leader{$S})", "leaders"),
        ],
    ),
    Panel(
        "Requests to the Kubernetes API",
        "reqps",
        &[(
            "sum by (verb, outcome) (rate(jam_operator_api_requests_total{$S}[$__rate_interval]))",
            "{{verb}} {{outcome}}",
        )],
    ),
];

/// The dashboard of one instance, whose pods are scraped through this Service.
pub fn of_instance(namespace: &str, name: &str, service: &str) -> String {
    let selector = format!("namespace=\"{namespace}\",service=\"{service}\"");
    written(&format!("JAM {namespace}/{name}"), &[namespace, name], &OF_INSTANCE, &selector)
}

/// The dashboard of the operator as the chart has it: it fills in where the operator is.
pub fn of_operator() -> String {
    written("JAM operator", &["operator"], &OF_OPERATOR, "namespace=\"$NAMESPACE\",service=\"$SERVICE\"")
}

fn written(title: &str, id: &[&str], panels: &[Panel], selector: &str) -> String {
    let panels: Vec<Value> = panels.iter().enumerate().map(|(at, one)| panel(at, one, selector)).collect();
    let dashboard = json!({
        "title": title,
        "uid": format!("jam-{}", names::short_hash(id.iter().map(|part| part.as_bytes()))),
        "tags": ["jam"],
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": panels,
    });
    serde_json::to_string_pretty(&dashboard).expect("a dashboard is JSON") + "\n"
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
