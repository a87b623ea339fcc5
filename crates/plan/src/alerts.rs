//! The alerts: one table for the instances' PrometheusRules and for the operator's own in the chart.

use serde_json::{Value, json};

use crate::Reason;

/// An alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alert {
    /// Its name, which is also its page in docs/runbooks.
    pub name: &'static str,
    /// What has to be true; `$S` stands for the selector of what it is about, `$D` for the seconds without a cleanup,
    /// `$B` for the second from which on they count.
    pub expression: &'static str,
    /// For how long.
    pub lasting: &'static str,
    /// How loud: `critical` wakes somebody, `warning` waits for the morning.
    pub severity: &'static str,
    /// One sentence for whoever is woken.
    pub summary: &'static str,
}

/// The alerts of every instance, on the metrics of its pods.
pub const OF_INSTANCE: [Alert; 5] = [
    Alert {
        name: "JamProcessFailureRateHigh",
        expression: "sum(rate(jam_package_process_fail_total{$S}[10m])) / sum(rate(jam_package_process_total{$S}[10m])) > 0.05",
        lasting: "15m",
        severity: "warning",
        summary: "More than 5 % of the processed packages end disputed",
    },
    Alert {
        name: "JamRateLimitSustained",
        expression: "sum(rate(jam_rate_limit_hits_total{$S}[5m])) > 1",
        lasting: "15m",
        severity: "warning",
        summary: "Callers are over their rate limit for a quarter of an hour",
    },
    Alert {
        name: "JamPendingQueueHigh",
        expression: "max(jam_package_pending_gauge{$S}) > 0 and sum(rate(jam_package_process_total{$S}[15m])) == 0 or sum(increase(jam_pending_cap_hits_total{$S}[15m])) > 0",
        lasting: "15m",
        severity: "warning",
        summary: "Packages wait and nobody processes them, or the cap of pending ones refuses new ones",
    },
    Alert {
        name: "JamCleanupFailing",
        expression: "sum(increase(jam_cleanup_runs_total{$S,result!=\"ok\"}[1d])) > 0 and sum(increase(jam_cleanup_runs_total{$S,result=\"ok\"}[1d])) == 0",
        lasting: "1h",
        severity: "warning",
        summary: "Cleanups fail and none succeeded for a day",
    },
    Alert {
        name: "JamCleanupOverdue",
        expression: "time() - clamp_min(max(jam_cleanup_last_success_timestamp_seconds{$S} > 0), $B) > $D",
        lasting: "1h",
        severity: "warning",
        summary: "No cleanup has succeeded for twice the longest pause of its schedule",
    },
];

/// The alerts on the operator's own metrics.
pub const OF_OPERATOR: [Alert; 10] = [
    Alert {
        name: "JamOperatorDown",
        expression: "absent(jam_operator_leader{$S} == 1)",
        lasting: "5m",
        severity: "critical",
        summary: "No operator leads: what runs goes on running, and nobody keeps it as its spec says",
    },
    Alert {
        name: "JamOperatorWatchStalled",
        expression: "max by (resource) (jam_operator_watch_last_open_age_seconds{$S}) > 720",
        lasting: "5m",
        severity: "critical",
        summary: "A watch of the operator was not reopened for twelve minutes",
    },
    Alert {
        name: "JamOperatorReconcileErrors",
        expression: "sum(rate(jam_operator_reconciles_total{$S,result=\"error\"}[15m])) > 0 and max(jam_operator_failing_instances{$S}) > 0",
        lasting: "30m",
        severity: "warning",
        summary: "Reconciles fail again and again",
    },
    Alert {
        name: "JamInstanceStalled",
        expression: "max(jam_operator_instances{$S,condition=\"Stalled\",status=\"True\"}) > 0",
        lasting: "15m",
        severity: "warning",
        summary: "An instance waits for somebody to change something",
    },
    Alert {
        name: "JamInstanceNotReady",
        expression: "max(jam_operator_instances{$S,condition=\"Ready\",status=\"False\"}) > 0",
        lasting: "30m",
        severity: "warning",
        summary: "An instance is not as its spec says for half an hour",
    },
    Alert {
        name: "JamRolledBack",
        expression: "increase(jam_operator_reconciles_total{$S,reason=\"given_up\"}[1h]) > 0 or (jam_operator_reconciles_total{$S,reason=\"given_up\"} unless jam_operator_reconciles_total{$S,reason=\"given_up\"} offset 1h)",
        lasting: "0m",
        severity: "warning",
        summary: "A rollout was given up: the last good revision serves, and the new one waits for a change of the spec",
    },
    Alert {
        name: "JamTokenRotationOverdue",
        expression: "max(jam_operator_instances{$S,condition=\"TokensReady\",status=\"False\"}) > 0",
        lasting: "1h",
        severity: "warning",
        summary: "Tokens are neither made nor rotated for an hour: a pod does not say which ones it accepts, or goes on with others",
    },
    Alert {
        name: "JamKindNotServed",
        expression: "max(jam_operator_instances{$S,condition=\"OptionalKindsServed\",status=\"False\"}) > 0",
        lasting: "1h",
        severity: "info",
        summary: "An instance asks for a kind whose definition is not installed: it is left out",
    },
    Alert {
        name: "JamDatabaseUnreachable",
        expression: "max(jam_operator_instances{$S,condition=\"DatabaseReachable\",status=\"False\"}) > 0",
        lasting: "5m",
        severity: "critical",
        summary: "The database of an instance does not answer: its pods are unready and come back with it",
    },
    Alert {
        name: "JamMigrationFailed",
        expression: "max(jam_operator_migration_age_seconds{$S}) > 1800",
        lasting: "1m",
        severity: "critical",
        summary: "A migration has not come to its end for half an hour: the old version keeps serving",
    },
];

/// Which alert tells of a reason that is wrong or wants a change. Words, not variants: a reason without an alert is found by a
/// test, and does not have to wait for this page to compile.
const OF_REASONS: [(&str, &str); 19] = [
    ("PodsNotReady", "JamInstanceNotReady"),
    ("RolloutStuck", "JamInstanceNotReady"),
    ("DatabaseUnreachable", "JamDatabaseUnreachable"),
    ("SecretMissing", "JamInstanceStalled"),
    ("SecretKeyMissing", "JamInstanceStalled"),
    ("NameTaken", "JamInstanceStalled"),
    ("MigrationFailed", "JamMigrationFailed"),
    ("CleanupFailed", "JamCleanupFailing"),
    ("CleanupOverdue", "JamCleanupOverdue"),
    ("KindNotServed", "JamKindNotServed"),
    ("ApplyFailed", "JamOperatorReconcileErrors"),
    ("MigrationImpossible", "JamMigrationFailed"),
    ("ApprovalNeeded", "JamInstanceStalled"),
    ("NotImplemented", "JamInstanceStalled"),
    ("InvalidSettings", "JamInstanceStalled"),
    ("InvalidObject", "JamInstanceStalled"),
    ("RolledBack", "JamRolledBack"),
    ("RollbackRefused", "JamRolledBack"),
    ("RotationHeld", "JamTokenRotationOverdue"),
];

/// The alert that tells of a reason, where one does.
pub fn of_reason(reason: Reason) -> Option<&'static Alert> {
    let (_, name) = OF_REASONS.iter().find(|(word, _)| *word == reason.as_str())?;
    OF_INSTANCE.iter().chain(&OF_OPERATOR).find(|alert| alert.name == *name)
}

/// The rules of the operator as the chart has them: it fills in where the operator is.
pub fn operator_yaml() -> String {
    let rules = written(&OF_OPERATOR, "namespace=\"$NAMESPACE\",service=\"$SERVICE\"");
    serde_saphyr::to_string(&rules).expect("rules are YAML")
}

/// Seconds without a good cleanup that are too many for the memory store, which cleans up every hour.
pub const STALE_IN_MEMORY: i64 = 172_800;

/// The rules of one instance, whose pods are scraped through this Service. `stale` are the seconds without a good cleanup that
/// are too many, from the second `since` on at the earliest; where none is expected no rule speaks of it.
pub fn of_instance(namespace: &str, service: &str, stale: Option<i64>, since: i64) -> Vec<Value> {
    let mut all = OF_INSTANCE.to_vec();
    all.retain(|alert| stale.is_some() || !alert.expression.contains("$D"));
    let mut rules = written(&all, &format!("namespace=\"{namespace}\",service=\"{service}\""));
    for rule in &mut rules {
        let told = rule["expr"].as_str().unwrap_or_default();
        let told = told.replace("$D", &stale.unwrap_or_default().to_string());
        rule["expr"] = told.replace("$B", &since.to_string()).into();
    }
    rules
}

fn written(alerts: &[Alert], selector: &str) -> Vec<Value> {
    let one = |alert: &Alert| {
        let Alert { name, expression, lasting, severity, summary } = alert;
        json!({
            "alert": name,
            "expr": expression.replace("$S", selector),
            "for": lasting,
            "labels": {"severity": severity},
            "annotations": {"summary": summary, "runbook": format!("docs/runbooks/{name}.md")},
        })
    };
    alerts.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_that_somebody_should_know_of_has_its_alert_and_no_other_has() {
        for reason in Reason::ALL {
            assert_eq!(of_reason(*reason).is_some(), reason.is_warning(), "{reason}: see OF_REASONS");
        }
    }

    #[test]
    fn every_alert_has_a_name_of_its_own_and_speaks_of_its_selector_alone() {
        let all: Vec<&Alert> = OF_INSTANCE.iter().chain(&OF_OPERATOR).collect();
        for (at, alert) in all.iter().enumerate() {
            assert!(alert.name.starts_with("Jam") && all[..at].iter().all(|other| other.name != alert.name));
            let selectors = alert.expression.matches('{').count();
            assert!(selectors > 0 && alert.expression.matches("{$S").count() == selectors, "{}", alert.name);
            assert!(["info", "warning", "critical"].contains(&alert.severity));
        }
    }
}
