//! Laws of what is said about optional kinds and about overrides.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{applied, condition, pair, short, with};
use crate::crd::JamInstanceStatus;
use crate::fixtures::{at, but, in_memory, on_postgres, settled_cluster_for};
use crate::observed::Observed;
use crate::status::{Verdict, status, transitions};
use crate::{Kind, Reason};

#[test]
fn what_the_api_server_does_not_serve_is_named() {
    let wanted = |change: Value| but(&on_postgres(), change);
    let one = wanted(
        json!({"monitoring": {"serviceMonitor": true}, "httpRoute": {"enabled": true, "parentRefs": [{"name": "g"}]}}),
    );
    let served = settled_cluster_for(&one);
    let bare = Observed { unserved: BTreeSet::from([Kind::HttpRoute, Kind::PrometheusRule]), ..served.clone() };
    let said = applied(&one, &bare, 2000);
    assert_eq!(short(&said, "OptionalKindsServed"), pair("False", Reason::KindNotServed));
    let message = &condition(&said, "OptionalKindsServed").message;
    assert!(message.contains("HTTPRoute (gateway.networking.k8s.io/v1)") && !message.contains("Monitor"), "{message}");
    assert!(!message.contains("PrometheusRule"), "nobody asked for it: {message}");
    assert_eq!(short(&said, "Ready").0, "True", "it serves all the same");
    assert_eq!(short(&applied(&one, &served, 2000), "OptionalKindsServed"), pair("True", Reason::KindsServed));
    let none = applied(&on_postgres(), &bare, 2000);
    assert_eq!(short(&none, "OptionalKindsServed"), pair("True", Reason::NotNeeded));
    let paused = status(&with(&one, said.clone()), Verdict::Paused, &bare, at(3000));
    assert_eq!(
        short(&paused, "OptionalKindsServed"),
        pair("False", Reason::KindNotServed),
        "what was said still holds"
    );
}

#[test]
fn an_override_is_a_condition_from_the_first_one_on_and_is_told_when_it_begins_and_ends() {
    let instance = in_memory();
    let cluster = settled_cluster_for(&instance);
    let seen = |overrides| Observed { overrides, ..cluster.clone() };
    let set = |value: &str| crate::observed::ActiveOverride {
        key: "max_pending_packages".into(),
        value: value.into(),
        overrode: "100".into(),
    };
    let told = |before: &JamInstanceStatus, now: &JamInstanceStatus| -> Vec<Reason> {
        transitions(before, now).into_iter().map(|event| event.reason).collect()
    };
    let is_there = |status: &JamInstanceStatus| status.conditions.iter().any(|told| told.type_ == "Overridden");
    let none = applied(&instance, &seen(Some(Vec::new())), 2000);
    assert!(!is_there(&none), "nobody has ever set one");
    let active = applied(&with(&instance, none.clone()), &seen(Some(vec![set("5")])), 2010);
    assert_eq!(short(&active, "Overridden"), pair("True", Reason::OverrideActive));
    assert!(condition(&active, "Overridden").message.starts_with("max_pending_packages is 5 instead of 100; "));
    assert_eq!(told(&none, &active), [Reason::OverrideActive]);
    for silent in [seen(Some(vec![set("5")])), seen(None)] {
        assert_eq!(applied(&with(&instance, active.clone()), &silent, 2020), active, "nothing new is no write");
    }
    let paused = but(&with(&instance, active.clone()), json!({"paused": true}));
    let kept = status(&paused, Verdict::Paused, &cluster, at(2025));
    assert_eq!(condition(&kept, "Overridden"), condition(&active, "Overridden"));
    let ended = applied(&with(&instance, active.clone()), &seen(Some(Vec::new())), 2030);
    assert_eq!(short(&ended, "Overridden"), pair("False", Reason::NotOverridden));
    assert_eq!(told(&active, &ended), [Reason::NotOverridden]);
    assert_eq!(short(&ended, "Ready"), short(&none, "Ready"), "the instance is as ready as before");
}
