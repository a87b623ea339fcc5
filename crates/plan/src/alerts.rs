//! The alerts: one table for the instances' PrometheusRules and for the operator's own in the chart.

use serde_json::{Value, json};

/// An alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alert {
    /// Its name, which is also its page in docs/runbooks.
    pub name: &'static str,
    /// What has to be true; `$S` stands for the selector of what it is about.
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
        expression: "time() - max(jam_cleanup_last_success_timestamp_seconds{$S} > 0) > 172800",
        lasting: "1h",
        severity: "warning",
        summary: "No cleanup has succeeded for two days",
    },
];

/// The alerts on the operator's own metrics.
pub const OF_OPERATOR: [Alert; 6] = [
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
        name: "JamDatabaseUnreachable",
        expression: "max(jam_operator_instances{$S,condition=\"DatabaseReachable\",status=\"False\"}) > 0",
        lasting: "5m",
        severity: "critical",
        summary: "The database of an instance does not answer: its pods are unready and come back with it",
    },
    Alert {
        name: "JamMigrationFailed",
        expression: "max(jam_operator_instances{$S,condition=\"Migrated\",status=\"False\"}) > 0",
        lasting: "30m",
        severity: "critical",
        summary: "A migration has not come to its end for half an hour: the old version keeps serving",
    },
];

/// The rules of one instance, whose pods are scraped through this Service.
pub fn of_instance(namespace: &str, service: &str) -> Vec<Value> {
    written(&OF_INSTANCE, &format!("namespace=\"{namespace}\",service=\"{service}\""))
}

/// The rules of the operator, for the chart. The selector is the chart's to fill in.
pub fn of_operator(selector: &str) -> Vec<Value> {
    written(&OF_OPERATOR, selector)
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
