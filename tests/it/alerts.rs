//! The alerts as Prometheus reads them: each fires on what it is for and on nothing beside it (`promtool`).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use jam_plan::alerts::{Alert, OF_INSTANCE, OF_OPERATOR};
use jam_plan::render::{render, to_yaml};
use serde_json::{Map, Value, json};

use crate::crd_generated::repository;
use crate::plan_snapshots::defaults;

/// Series by name and labels, with their values minute by minute as promtool writes them. `S` stands for where they come from.
type Series = &'static [(&'static str, &'static str)];

/// What has to be tried of an alert.
struct Case {
    alert: &'static str,
    /// After so many minutes …
    at: u32,
    /// … it fires on these,
    fires: &'static [Series],
    /// and not on these.
    rests: &'static [Series],
    /// The labels of what fires, beside the severity.
    labels: &'static [(&'static str, &'static str)],
}

const CASES: [Case; 15] = [
    Case {
        alert: "JamProcessFailureRateHigh",
        at: 40,
        fires: &[&[("jam_package_process_fail_total{S}", "0+6x60"), ("jam_package_process_total{S}", "0+100x60")]],
        rests: &[
            &[("jam_package_process_fail_total{S}", "0+4x60"), ("jam_package_process_total{S}", "0+100x60")],
            &[("jam_package_process_fail_total{S}", "0x60"), ("jam_package_process_total{S}", "0x60")],
        ],
        labels: &[],
    },
    Case {
        alert: "JamRateLimitSustained",
        at: 30,
        fires: &[&[("jam_rate_limit_hits_total{S}", "0+90x60")]],
        rests: &[&[("jam_rate_limit_hits_total{S}", "0+30x60")], &[("jam_rate_limit_hits_total{S}", "0x25 0+900x3")]],
        labels: &[],
    },
    Case {
        alert: "JamPendingQueueHigh",
        at: 40,
        fires: &[
            &[("jam_package_pending_gauge{S}", "3x60"), ("jam_package_process_total{S}", "7x60")],
            &[("jam_package_pending_gauge{S}", "3x60"), ("jam_pending_cap_hits_total{S}", "0+1x60")],
        ],
        rests: &[
            &[("jam_package_pending_gauge{S}", "3x60"), ("jam_package_process_total{S}", "7+1x60")],
            &[("jam_package_pending_gauge{S}", "0x60"), ("jam_package_process_total{S}", "7x60")],
            &[("jam_pending_cap_hits_total{S}", "5x60")],
        ],
        labels: &[],
    },
    Case {
        alert: "JamCleanupFailing",
        at: 180,
        fires: &[&[
            ("jam_cleanup_runs_total{S,result=\"failed\"}", "0x5 1x300"),
            ("jam_cleanup_runs_total{S,result=\"ok\"}", "4x300"),
        ]],
        rests: &[
            &[
                ("jam_cleanup_runs_total{S,result=\"failed\"}", "0x5 1x300"),
                ("jam_cleanup_runs_total{S,result=\"ok\"}", "4x9 5x300"),
            ],
            &[
                ("jam_cleanup_runs_total{S,result=\"failed\"}", "1x300"),
                ("jam_cleanup_runs_total{S,result=\"ok\"}", "4x300"),
            ],
        ],
        labels: &[],
    },
    Case {
        // Time begins at 1970 here: after 3080 minutes a cleanup at its beginning is more than an hour over the 50 that a daily schedule has,
        // and one two hours later is not yet.
        alert: "JamCleanupOverdue",
        at: 3080,
        fires: &[&[("jam_cleanup_last_success_timestamp_seconds{S}", "60x3100")]],
        rests: &[
            &[("jam_cleanup_last_success_timestamp_seconds{S}", "60000x3100")],
            &[("jam_cleanup_last_success_timestamp_seconds{S}", "7200x3100")],
            &[("jam_cleanup_last_success_timestamp_seconds{S}", "0x3100")],
        ],
        labels: &[],
    },
    Case {
        alert: "JamOperatorDown",
        at: 15,
        fires: &[&[("jam_operator_leader{S}", "0x30")], &[("jam_operator_leader{S}", "1x2 _x30")], &[]],
        rests: &[
            &[("jam_operator_leader{S}", "1x30")],
            &[("jam_operator_leader{S,pod=\"a\"}", "0x30"), ("jam_operator_leader{S,pod=\"b\"}", "1x30")],
        ],
        labels: &[],
    },
    Case {
        alert: "JamOperatorWatchStalled",
        at: 10,
        fires: &[&[("jam_operator_watch_last_open_age_seconds{S,resource=\"pods\"}", "800x30")]],
        rests: &[&[("jam_operator_watch_last_open_age_seconds{S,resource=\"pods\"}", "700x30")]],
        labels: &[("resource", "pods")],
    },
    Case {
        alert: "JamOperatorReconcileErrors",
        at: 60,
        fires: &[&[
            ("jam_operator_reconciles_total{S,result=\"error\",reason=\"write\"}", "0+1x90"),
            ("jam_operator_failing_instances{S}", "1x90"),
        ]],
        rests: &[
            &[
                ("jam_operator_reconciles_total{S,result=\"error\",reason=\"write\"}", "5x90"),
                ("jam_operator_failing_instances{S}", "1x90"),
            ],
            &[
                ("jam_operator_reconciles_total{S,result=\"error\",reason=\"write\"}", "0+1x90"),
                ("jam_operator_failing_instances{S}", "0x90"),
            ],
            &[
                ("jam_operator_reconciles_total{S,result=\"ok\",reason=\"applied\"}", "0+1x90"),
                ("jam_operator_failing_instances{S}", "1x90"),
            ],
        ],
        labels: &[],
    },
    Case {
        alert: "JamInstanceStalled",
        at: 20,
        fires: &[&[("jam_operator_instances{S,condition=\"Stalled\",status=\"True\"}", "1x60")]],
        rests: &[
            &[("jam_operator_instances{S,condition=\"Stalled\",status=\"True\"}", "0x60")],
            &[("jam_operator_instances{S,condition=\"Stalled\",status=\"False\"}", "1x60")],
        ],
        labels: &[],
    },
    Case {
        alert: "JamInstanceNotReady",
        at: 40,
        fires: &[&[("jam_operator_instances{S,condition=\"Ready\",status=\"False\"}", "1x60")]],
        rests: &[
            &[("jam_operator_instances{S,condition=\"Ready\",status=\"True\"}", "1x60")],
            &[("jam_operator_instances{S,condition=\"Ready\",status=\"False\"}", "0x20 1x40")],
        ],
        labels: &[],
    },
    Case {
        alert: "JamRolledBack",
        at: 70,
        fires: &[
            &[("jam_operator_reconciles_total{S,result=\"ok\",reason=\"given_up\"}", "_x30 1x90")],
            &[("jam_operator_reconciles_total{S,result=\"ok\",reason=\"given_up\"}", "1x30 2x90")],
        ],
        rests: &[
            &[("jam_operator_reconciles_total{S,result=\"ok\",reason=\"given_up\"}", "1x90")],
            &[("jam_operator_reconciles_total{S,result=\"ok\",reason=\"applied\"}", "0+1x90")],
        ],
        labels: &[("namespace", "jam"), ("service", "SERVICE"), ("result", "ok"), ("reason", "given_up")],
    },
    Case {
        alert: "JamTokenRotationOverdue",
        at: 70,
        fires: &[&[("jam_operator_instances{S,condition=\"TokensReady\",status=\"False\"}", "1x90")]],
        rests: &[
            &[("jam_operator_instances{S,condition=\"TokensReady\",status=\"True\"}", "1x90")],
            &[("jam_operator_instances{S,condition=\"TokensReady\",status=\"False\"}", "0x20 1x70")],
        ],
        labels: &[],
    },
    Case {
        alert: "JamKindNotServed",
        at: 70,
        fires: &[&[("jam_operator_instances{S,condition=\"OptionalKindsServed\",status=\"False\"}", "1x90")]],
        rests: &[&[("jam_operator_instances{S,condition=\"OptionalKindsServed\",status=\"True\"}", "1x90")]],
        labels: &[],
    },
    Case {
        alert: "JamDatabaseUnreachable",
        at: 10,
        fires: &[&[("jam_operator_instances{S,condition=\"DatabaseReachable\",status=\"False\"}", "2x60")]],
        rests: &[
            &[("jam_operator_instances{S,condition=\"DatabaseReachable\",status=\"True\"}", "2x60")],
            &[("jam_operator_instances{S,condition=\"DatabaseReachable\",status=\"False\"}", "0x7 1x60")],
        ],
        labels: &[],
    },
    Case {
        alert: "JamMigrationFailed",
        at: 40,
        fires: &[&[("jam_operator_migration_age_seconds{S}", "0+60x60")]],
        rests: &[
            &[("jam_operator_migration_age_seconds{S}", "0x60")],
            // One after the other, each at its end in time.
            &[("jam_operator_migration_age_seconds{S}", "0+60x25 0+60x35")],
        ],
        labels: &[],
    },
];

/// The alerts that spec/observability.md names.
const OF_THE_PAGE: [&str; 13] = [
    "JamProcessFailureRateHigh",
    "JamRateLimitSustained",
    "JamCleanupFailing",
    "JamCleanupOverdue",
    "JamPendingQueueHigh",
    "JamDatabaseUnreachable",
    "JamMigrationFailed",
    "JamTokenRotationOverdue",
    "JamInstanceStalled",
    "JamRolledBack",
    "JamOperatorDown",
    "JamOperatorWatchStalled",
    "JamOperatorReconcileErrors",
];

/// What `promtool` says of files in this folder.
pub fn promtool(folder: &Path, arguments: &[&str]) -> Result<String, String> {
    let told = Command::new("promtool").args(arguments).current_dir(folder).output();
    let told = told.unwrap_or_else(|error| panic!("promtool: {error}; run dev/prerequisites --install test"));
    let said = String::from_utf8_lossy(&[told.stdout, told.stderr].concat()).into_owned();
    if told.status.success() { Ok(said) } else { Err(said) }
}

/// The rules of an instance as the operator makes them, and where they look.
fn of_an_instance() -> (Value, &'static str) {
    let mut manifest = fs::read_to_string(repository("manifests/monitoring.yaml")).unwrap();
    // The spec is what the file ends with.
    manifest.push_str("  cleanup: {}\n");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&to_yaml(&render(&manifest, &defaults()).unwrap())).unwrap();
    let rule = objects.into_iter().find(|object| object["kind"] == "PrometheusRule").unwrap();
    (json!({"groups": rule["spec"]["groups"]}), "monitoring-metrics")
}

/// The operator's own rules, as the chart has them.
fn of_the_operator() -> (Value, &'static str) {
    let file = fs::read_to_string(repository("charts/jam-operator/files/alerts.yaml")).unwrap();
    let file = file.replace("$NAMESPACE", "jam").replace("$SERVICE", "jam-operator");
    let rules: Value = serde_saphyr::from_str(&file).unwrap();
    (json!({"groups": [{"name": "jam-operator", "rules": rules}]}), "jam-operator")
}

fn tests_of(case: &Case, alert: &Alert, service: &str) -> Vec<Value> {
    let place = |text: &str| text.replace("{S", &format!("{{namespace=\"jam\",service=\"{service}\""));
    let input = |series: Series| -> Vec<Value> {
        series.iter().map(|(name, values)| json!({"series": place(name), "values": values})).collect()
    };
    let labels = case.labels.iter().map(|(name, value)| ((*name).to_owned(), json!(value.replace("SERVICE", service))));
    let labels: Map<String, Value> = labels.chain([("severity".to_owned(), json!(alert.severity))]).collect();
    let annotations = json!({"summary": alert.summary, "runbook": format!("docs/runbooks/{}.md", alert.name)});
    let one = |series: Series, expected: Value| {
        let first = json!({"eval_time": "0m", "alertname": alert.name, "exp_alerts": []});
        let later = json!({"eval_time": format!("{}m", case.at), "alertname": alert.name, "exp_alerts": expected});
        // What fires at once has no time before it.
        let looks = if alert.lasting == "0m" { vec![later] } else { vec![first, later] };
        json!({"interval": "1m", "input_series": input(series), "alert_rule_test": looks})
    };
    let fires =
        case.fires.iter().map(|series| one(series, json!([{"exp_labels": labels, "exp_annotations": annotations}])));
    fires.chain(case.rests.iter().map(|series| one(series, json!([])))).collect()
}

#[test]
fn every_alert_fires_on_what_it_is_for_and_rests_on_what_is_like_it() {
    for ((rules, service), alerts) in [(of_an_instance(), &OF_INSTANCE[..]), (of_the_operator(), &OF_OPERATOR[..])] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("rules.yaml"), rules.to_string()).unwrap();
        let said = promtool(folder.path(), &["check", "rules", "rules.yaml"]).unwrap_or_else(|said| panic!("{said}"));
        assert!(said.contains(&format!("{} rules found", alerts.len())), "{said}");
        let mut tests = Vec::new();
        for alert in alerts {
            let case = CASES.iter().find(|case| case.alert == alert.name);
            let case = case.unwrap_or_else(|| panic!("{} has no case", alert.name));
            assert!(!case.fires.is_empty() && !case.rests.is_empty(), "{}", alert.name);
            tests.extend(tests_of(case, alert, service));
        }
        let suite = json!({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests});
        fs::write(folder.path().join("tests.yaml"), suite.to_string()).unwrap();
        promtool(folder.path(), &["test", "rules", "tests.yaml"]).unwrap_or_else(|said| panic!("{said}"));
    }
}

#[test]
fn every_alert_of_the_page_is_there() {
    let all: BTreeSet<&str> = OF_INSTANCE.iter().chain(&OF_OPERATOR).map(|alert| alert.name).collect();
    let missing: Vec<_> = OF_THE_PAGE.iter().filter(|name| !all.contains(**name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(all, CASES.iter().map(|case| case.alert).collect(), "each is tried, and nothing else is");
}
