//! What kstatus computes from every status: the tools that wait for an instance know only this.

use proptest::prelude::*;
use serde_json::json;

use super::tests::{applied, endings, with};
use super::*;
use crate::fixtures::{applied_status, at, but, on_postgres, settled_cluster_for};
use crate::observed::DeploymentState;

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
        "Failed",     // a child is refused
        "InProgress", // a request failed
        "InProgress", // paused before anything was done
    ];
    let computed: Vec<_> = endings().iter().map(|status| computed(status, 1)).collect();
    assert_eq!(computed, wanted);
}

/// Most often all of them: one count alone must be enough to make a difference.
fn of(wanted: i32) -> impl Strategy<Value = i32> {
    prop_oneof![6 => Just(wanted), 1 => 0..=wanted + 1]
}

prop_compose! {
    /// A Deployment that wants this many pods, anywhere on its way there.
    fn anywhere(wanted: i32)(
        seen in prop_oneof![6 => Just(2_i64), 1 => Just(1)],
        counts in [of(wanted), of(wanted), of(wanted), of(wanted)],
        deadline_exceeded in proptest::option::of(Just("no progress".to_owned())),
    ) -> DeploymentState {
        let [replicas, updated, ready, available] = counts;
        let told = DeploymentState { generation: 2, observed_generation: seen, wanted, replicas, updated, ready, available,
            ..DeploymentState::default() };
        // Its controller takes that word back in the same write that says so.
        DeploymentState { deadline_exceeded: deadline_exceeded.filter(|_| !is_done(&told)), ..told }
    }
}

/// Every pod of the newest template is there and available, and no other: said apart from what the operator makes of it.
fn is_done(told: &DeploymentState) -> bool {
    told.observed_generation == 2
        && [told.replicas, told.updated, told.available].iter().all(|count| *count == told.wanted)
}

proptest! {
    #[test]
    fn what_is_true_of_the_pods_is_what_kstatus_calls_current(api in anywhere(2), worker in anywhere(1)) {
        let instance = but(&on_postgres(), json!({"workers": {"replicas": 1}}));
        let mut cluster = settled_cluster_for(&instance);
        let settled = cluster.api.clone().unwrap();
        let of_revision = |told: &DeploymentState| DeploymentState {
            revision: settled.revision.clone(), image: settled.image.clone(), ..told.clone()
        };
        (cluster.api, cluster.worker) = (Some(of_revision(&api)), Some(of_revision(&worker)));
        let current = computed(&applied_status(&instance, &cluster), 1) == "Current";
        prop_assert_eq!(current, is_done(&api) && is_done(&worker), "{:?}", cluster);
    }
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
