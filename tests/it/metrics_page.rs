//! The metrics as spec/observability.md lists them: nothing is missing, nothing is beside it, and Prometheus likes them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use jam::api::action::TABLE;
use jam_plan::dashboards;
use serde_json::{Value, json};

use crate::alerts::promtool;
use crate::api_support::{Server, TOKEN, World, answer, laws};
use crate::operator_support::{Account, Kubelet, apply, condition};
use crate::support::cluster::control_plane;

laws!(every_metric_of_the_page_is_there_with_its_type_and_labels_and_no_other_is);

/// The page's table: name, type, and the labels beside `store`.
const PAGE: [(&str, &str, &[&str]); 27] = [
    ("jam_preimage_put_total", "counter", &[]),
    ("jam_preimage_get_total", "counter", &[]),
    ("jam_preimage_head_total", "counter", &[]),
    ("jam_preimage_bytes_total", "counter", &[]),
    ("jam_preimage_put_duration_seconds", "histogram", &[]),
    ("jam_preimage_quota_reject_total", "counter", &["reason"]),
    ("jam_package_submit_total", "counter", &[]),
    ("jam_package_process_total", "counter", &[]),
    ("jam_package_process_fail_total", "counter", &[]),
    ("jam_package_pending_gauge", "gauge", &[]),
    ("jam_package_process_duration_seconds", "histogram", &[]),
    ("jam_attestations_total", "counter", &[]),
    ("jam_reports_total", "counter", &[]),
    ("jam_receipts_total", "counter", &[]),
    ("jam_rate_limit_hits_total", "counter", &[]),
    ("jam_pending_cap_hits_total", "counter", &[]),
    ("jam_auth_failures_total", "counter", &["reason"]),
    ("jam_cleanup_runs_total", "counter", &["result"]),
    ("jam_cleanup_deleted_packages_total", "counter", &[]),
    ("jam_cleanup_deleted_reports_total", "counter", &[]),
    ("jam_cleanup_deleted_preimages_total", "counter", &[]),
    ("jam_cleanup_last_success_timestamp_seconds", "gauge", &[]),
    ("jam_http_requests_total", "counter", &["method", "route", "status"]),
    ("jam_http_request_duration_seconds", "histogram", &["method", "route"]),
    ("jam_store_pool_connections", "gauge", &["state"]),
    ("jam_build_info", "gauge", &["commit", "version"]),
    ("jam_schema_version", "gauge", &[]),
];

/// What spec/operator.md wants of the operator: reconciles by result and reason, duration, queue depth, age of each watch, requests,
/// instances by condition, ages of rotations and migrations; and what its alerts need besides.
const OF_OPERATOR: [(&str, &str, &[&str]); 14] = [
    ("jam_operator_api_requests_total", "counter", &["outcome", "resource", "verb"]),
    ("jam_operator_build_info", "gauge", &["version"]),
    ("jam_operator_children", "gauge", &[]),
    ("jam_operator_failing_instances", "gauge", &[]),
    ("jam_operator_instances", "gauge", &["condition", "status"]),
    ("jam_operator_leader", "gauge", &[]),
    ("jam_operator_migration_age_seconds", "gauge", &[]),
    ("jam_operator_queue_depth", "gauge", &[]),
    ("jam_operator_reconcile_duration_seconds", "histogram", &["result"]),
    ("jam_operator_reconciles_total", "counter", &["reason", "result"]),
    ("jam_operator_rotation_age_seconds", "gauge", &[]),
    ("jam_operator_watch_errors_total", "counter", &["resource"]),
    ("jam_operator_watch_last_event_age_seconds", "gauge", &["resource"]),
    ("jam_operator_watch_last_open_age_seconds", "gauge", &["resource"]),
];

/// Label values that the page gives or that follow from a table.
fn values_of(metric: &str, label: &str) -> Option<BTreeSet<String>> {
    let words: &[&str] = match (metric, label) {
        ("jam_preimage_quota_reject_total", "reason") => &["too_large", "unsupported_media"],
        ("jam_auth_failures_total", "reason") => &["missing", "unknown", "expired", "scope"],
        ("jam_cleanup_runs_total", "result") => &["ok", "failed"],
        ("jam_store_pool_connections", "state") => &["used", "idle"],
        (_, "route") => {
            return Some(TABLE.iter().map(|rule| rule.path.to_owned()).chain(["unmatched".into()]).collect());
        }
        (_, "method") => &["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "OTHER"],
        _ => return None,
    };
    Some(words.iter().map(|word| (*word).to_owned()).collect())
}

/// What a scrape says: the type of each metric, and the labels of each of its series.
#[derive(Default)]
struct Scraped {
    types: BTreeMap<String, String>,
    series: Vec<(String, BTreeMap<String, String>)>,
}

impl Scraped {
    fn of(text: &str) -> Self {
        let mut scraped = Self::default();
        for line in text.lines() {
            if let Some(typed) = line.strip_prefix("# TYPE ") {
                let (name, kind) = typed.split_once(' ').unwrap();
                scraped.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let (series, _) = line.rsplit_once(' ').unwrap();
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                let metric = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
                    name.strip_suffix(end)
                        .filter(|metric| scraped.types.get(*metric).is_some_and(|kind| kind == "histogram"))
                });
                let labels = labels.trim_end_matches('}').split("\",").filter(|pair| !pair.is_empty()).map(|pair| {
                    let (label, value) = pair.split_once("=\"").unwrap();
                    (label.to_owned(), value.trim_end_matches('"').to_owned())
                });
                let labels = labels.filter(|(label, _)| label != "le").collect();
                scraped.series.push((metric.unwrap_or(name).to_owned(), labels));
            }
        }
        scraped
    }

    /// The labels that each metric has.
    fn labels(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut all: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (metric, labels) in &self.series {
            all.entry(metric).or_default().extend(labels.keys().map(String::as_str));
        }
        all
    }
}

async fn scrape(server: &Server) -> String {
    reqwest::get(format!("{}/metrics", server.metrics)).await.unwrap().text().await.unwrap()
}

/// A bit of everything that is counted.
async fn busy(server: &Server) -> Vec<String> {
    let hash = server.upload(b"blob").await;
    for method in ["GET", "HEAD"] {
        answer(server.request(method, &format!("/jam/preimages/{hash}"))).await.expect(200);
    }
    let id = server.submit("svc-of-metrics", "n").await["id"].as_str().unwrap().to_owned();
    server.post("/jam/process", &json!(null)).await.expect(200);
    server.get(&format!("/jam/packages/{id}")).await.expect(200);
    answer(server.bare("GET", "/jam/status")).await.expect(401);
    answer(server.bare("BREW", "/jam/status")).await.expect(405);
    answer(server.bare("GET", "/a-path-of-clients")).await.expect(404);
    let token = jam_domain::token::TokenHash::of(TOKEN).id().to_string();
    vec![hash, id, token, "svc-of-metrics".into(), "a-path-of-clients".into(), "BREW".into()]
}

async fn every_metric_of_the_page_is_there_with_its_type_and_labels_and_no_other_is(world: World) {
    let server = world.serve().await;
    let private = busy(&server).await;
    let text = scrape(&server).await;
    for word in private {
        assert!(!text.contains(&word), "{word} is in a label");
    }
    let scraped = Scraped::of(&text);
    let page: BTreeMap<String, String> =
        PAGE.iter().map(|(name, kind, _)| ((*name).to_owned(), (*kind).to_owned())).collect();
    assert_eq!(scraped.types, page);
    let labels =
        PAGE.iter().map(|(name, _, labels)| (*name, labels.iter().copied().chain(["store"]).collect())).collect();
    assert_eq!(scraped.labels(), labels);
    for (metric, labels) in &scraped.series {
        assert_eq!(labels["store"], world.store(), "{metric}");
        for (label, value) in labels {
            let known = values_of(metric, label);
            assert!(known.is_none_or(|known| known.contains(value)), "{metric} has {label}={value}");
        }
    }
    for (metric, label) in [("jam_auth_failures_total", "reason"), ("jam_store_pool_connections", "state")] {
        let series = scraped.series.iter().filter(|(name, _)| name == metric);
        let there: BTreeSet<String> = series.map(|(_, labels)| labels[label].clone()).collect();
        assert_eq!(
            Some(there),
            values_of(metric, label),
            "{metric}: each from the start, or its first rise has no rate"
        );
    }
    assert_eq!(linted(&text), [GAUGE], "what promtool says of the API");
    let connections = server.metric("jam_store_pool_connections{state=\"idle\"").await.unwrap()
        + server.metric("jam_store_pool_connections{state=\"used\"").await.unwrap();
    assert_eq!(connections > 0.0, world.store() == "postgres", "{connections}");
}

/// The contract fixes this name, which says its own type; promtool would have it without.
const GAUGE: &str = "jam_package_pending_gauge metric name should not include type 'gauge'";

/// What `promtool check metrics` finds.
fn linted(text: &str) -> Vec<String> {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("promtool: {error}; run dev/prerequisites --install test"));
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let told = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[told.stdout, told.stderr].concat()).into_owned();
    let found: Vec<String> = said.lines().map(str::to_owned).collect();
    // 3 is "there are findings"; anything else without a finding would be a scrape that cannot be read.
    assert_eq!(told.status.code(), Some(if found.is_empty() { 0 } else { 3 }), "{said}");
    found
}

/// The expressions of a dashboard, with their legends.
fn targets(dashboard: &str) -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|one| (one["expr"].as_str().unwrap().into(), one["legendFormat"].as_str().unwrap().into())).collect()
}

/// What Prometheus itself adds to every series that it scrapes for us.
const OF_THE_SCRAPE: [&str; 2] = ["namespace", "service"];

/// Proves that an expression can be read, and that each metric and label in it is there.
fn asks_for_what_there_is(expression: &str, legend: &str, scraped: &Scraped) {
    let labels = scraped.labels();
    let mut known: BTreeSet<&str> = OF_THE_SCRAPE.into();
    let mut rest = expression;
    while let Some(at) = rest.find("jam_") {
        let name: &str = rest[at..].split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().unwrap();
        let metric = name.strip_suffix("_bucket").unwrap_or(name);
        let own = labels.get(metric).unwrap_or_else(|| panic!("{metric} is not there: {expression}"));
        let braces = rest[at + name.len()..].strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap();
        for matcher in braces.split(',') {
            let label = matcher.split(['=', '!']).next().unwrap();
            assert!(own.contains(label) || OF_THE_SCRAPE.contains(&label), "{metric} has no {label}: {expression}");
        }
        known.extend(own);
        if name.ends_with("_bucket") {
            known.insert("le");
        }
        rest = &rest[at + name.len()..];
    }
    let grouped: BTreeSet<&str> =
        expression.split("by (").skip(1).flat_map(|after| after.split(')').next().unwrap().split(", ")).collect();
    assert!(grouped.is_subset(&known), "{grouped:?} of {known:?}: {expression}");
    for label in legend.split("{{").skip(1).map(|after| after.split("}}").next().unwrap()) {
        assert!(grouped.contains(label), "{legend} says what is summed away: {expression}");
    }
}

fn parses(expressions: &[(String, String)]) {
    let folder = tempfile::tempdir().unwrap();
    let rule = |(at, (expression, _)): (usize, &(String, String))| json!({"record": format!("panel:{at}"), "expr": expression.replace("$__rate_interval", "5m")});
    let rules: Vec<Value> = expressions.iter().enumerate().map(rule).collect();
    let file = json!({"groups": [{"name": "panels", "rules": rules}]}).to_string();
    std::fs::write(folder.path().join("panels.yaml"), file).unwrap();
    promtool(folder.path(), &["check", "rules", "panels.yaml"]).unwrap_or_else(|said| panic!("{said}"));
}

/// The titles of a dashboard's panels that answer what the page asks of it.
fn shows(dashboard: &str, wanted: &[&str]) {
    for title in wanted {
        assert!(dashboard.contains(&format!("\"title\": \"{title}\"")), "no panel {title}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_of_an_instance_asks_for_metrics_and_labels_that_its_servers_have() {
    let server = Server::start().await;
    busy(&server).await;
    let scraped = Scraped::of(&scrape(&server).await);
    let dashboard = dashboards::of_instance("jam", "main", "main-metrics");
    shows(
        &dashboard,
        &[
            "Requests by route",
            "Errors by route",
            "Packages pending",
            "Preimage size, mean of uploads",
            "Preimage uploads, 99th percentile",
            "Refused",
        ],
    );
    let targets = targets(&dashboard);
    parses(&targets);
    for (expression, legend) in &targets {
        asks_for_what_there_is(expression, legend, &scraped);
    }
    for alert in jam_plan::alerts::OF_INSTANCE {
        asks_for_what_there_is(&alert.expression.replace("$S", "namespace=\"a\""), "", &scraped);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_metrics_are_well_formed_and_its_dashboard_and_alerts_ask_for_what_they_have() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let operator = account.start(plane, &["--leader-election", "false"]);
    apply(&client, &namespace, "main", json!({"runtime": {"jam": {"enabled": true, "store": "memory"}}})).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let text = operator.answer("/metrics").await.1;
    assert!(linted(&text).is_empty(), "{:?}", linted(&text));
    let scraped = Scraped::of(&text);
    let labels = scraped.labels();
    let there: Vec<_> =
        scraped.types.iter().map(|(name, kind)| (name.as_str(), kind.as_str(), labels[&**name].clone())).collect();
    let wanted = OF_OPERATOR.iter().map(|(name, kind, labels)| (*name, *kind, labels.iter().copied().collect()));
    assert_eq!(there, wanted.collect::<Vec<_>>());
    let dashboard = dashboards::of_operator();
    shows(
        &dashboard,
        &[
            "Instances by condition",
            "Reconciles",
            "Time of a reconcile, 99th percentile",
            "Age of watches",
            "Age of rotations and migrations",
        ],
    );
    let dashboard = dashboard.replace("$NAMESPACE", "jam").replace("$SERVICE", "jam-operator");
    let targets = targets(&dashboard);
    parses(&targets);
    for (expression, legend) in &targets {
        asks_for_what_there_is(expression, legend, &scraped);
    }
    for alert in jam_plan::alerts::OF_OPERATOR {
        asks_for_what_there_is(&alert.expression.replace("$S", "namespace=\"a\""), "", &scraped);
    }
}
