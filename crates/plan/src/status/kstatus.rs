//! What kstatus computes from every status: the tools that wait for an instance know only this.

use serde_json::json;

use super::tests::{applied, endings, with};
use super::*;
use crate::fixtures::{at, but, on_postgres, settled_cluster_for};

/// The rules of kstatus for a resource it knows nothing about, in their order.
fn computed(status: &JamInstanceStatus, generation: i64) -> &'static str {
    let is = |kind: &str| status.conditions.iter().any(|told| told.type_ == kind && told.status == "True");
    if status.observed_generation.is_some_and(|seen| seen != generation) || is("Reconciling") {
        return "InProgress";
    }
    match (is("Stalled"), is("Ready")) {
        (true, _) => "Failed",
        (false, true) => "Current",
        (false, false) => "InProgress",
    }
}

#[test]
fn every_ending_is_what_kstatus_makes_of_it() {
    let wanted = [
        "Current",    // settled
        "InProgress", // nothing is there yet
        "InProgress", // rolling out
        "InProgress", // pods are not ready any more
        "InProgress", // a migration failed and is tried again
        "Failed",     // a migration that can never succeed
        "Current",    // settled, in memory
        "Failed",     // not implemented
        "Failed",     // a Secret is missing
        "InProgress", // a token is being made
        "InProgress", // a request failed
        "InProgress", // paused before anything was done
    ];
    let computed: Vec<_> = endings().iter().map(|status| computed(status, 1)).collect();
    assert_eq!(computed, wanted);
}

#[test]
fn a_change_that_nobody_has_seen_is_in_progress() {
    let instance = on_postgres();
    let status = applied(&instance, &settled_cluster_for(&instance), 2000);
    assert_eq!((computed(&status, 1), computed(&status, 2)), ("Current", "InProgress"));
}

#[test]
fn a_pause_is_what_it_was_before() {
    let cluster = settled_cluster_for(&on_postgres());
    let good = with(&on_postgres(), applied(&on_postgres(), &cluster, 2000));
    let paused = but(&good, json!({"paused": true}));
    assert_eq!(computed(&status(&paused, Verdict::Paused, &cluster, at(3000)), 2), "Current");
    let refusal = Refusal::new(Reason::SecretMissing, "gone");
    let stalled = with(&good, status(&good, Verdict::Refused(&refusal), &cluster, at(3000)));
    let paused = but(&stalled, json!({"paused": true}));
    assert_eq!(computed(&status(&paused, Verdict::Paused, &cluster, at(4000)), 2), "Failed");
}
