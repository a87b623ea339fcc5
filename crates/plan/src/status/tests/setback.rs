//! What a child that a rule is in the way of takes out of the status, and what it does not.

use super::{applied, condition, pair, short, with};
use crate::Reason;
use crate::crd::{JamInstance, JamInstanceStatus, LastGood};
use crate::fixtures::{at, on_postgres, resolved, settled_cluster_for};
use crate::observed::Observed;
use crate::rollout::Course;
use crate::status::{Verdict, status};

#[test]
fn a_denied_child_is_tried_again_and_what_is_said_of_the_pods_holds() {
    let instance = on_postgres();
    let settled = settled_cluster_for(&instance);
    let mut unready = settled.clone();
    unready.api.as_mut().unwrap().available = 0;
    let denied = |instance: &JamInstance, cluster: &Observed| {
        let resolved = resolved(instance, cluster);
        status(instance, Verdict::Denied(&resolved, "Service main: exceeded quota"), cluster, at(2000))
    };
    let well = applied(&instance, &settled, 2000);
    let new = denied(&instance, &settled);
    assert_eq!(short(&new, "Ready"), pair("False", Reason::ApplyFailed), "not all of this spec is there");
    assert_eq!(JamInstanceStatus { conditions: well.conditions.clone(), ..new }, well);
    let served = with(&instance, well);
    assert_eq!(
        short(&denied(&served, &settled), "Ready"),
        pair("True", Reason::Serving),
        "it was, as this spec wants it"
    );
    for instance in [&instance, &served] {
        let told = denied(instance, &unready);
        assert_eq!(condition(&told, "Ready").status, "False");
        assert!(!condition(&told, "Ready").message.contains("quota"), "what is told of the pods");
        assert_eq!(short(&told, "Reconciling"), pair("True", Reason::ApplyFailed));
    }
    let resolved = resolved(&instance, &settled);
    let course = Course::Back(LastGood { generation: Some(1), ..LastGood::default() });
    let resolved = crate::Resolved { course, ..resolved };
    let told = status(&instance, Verdict::Denied(&resolved, "exceeded quota"), &settled, at(2000));
    assert_eq!(short(&told, "Stalled"), pair("True", Reason::RolledBack), "the graver word");
    assert!(condition(&told, "Ready").message.ends_with("ApplyFailed: exceeded quota"));
}

#[test]
fn pods_that_are_not_ready_are_so_since_they_are_and_not_since_a_child_was_denied() {
    let instance = on_postgres();
    let settled = settled_cluster_for(&instance);
    let denied = {
        let resolved = resolved(&instance, &settled);
        status(&instance, Verdict::Denied(&resolved, "Service main: exceeded quota"), &settled, at(2000))
    };
    assert_eq!(short(&denied, "Ready"), pair("False", Reason::ApplyFailed));
    let mut unready = settled.clone();
    unready.api.as_mut().unwrap().available = 0;
    let since = |before: &JamInstanceStatus, seconds| {
        let told = applied(&with(&instance, before.clone()), &unready, seconds);
        assert_eq!(condition(&told, "Ready").status, "False");
        (condition(&told, "Ready").last_transition_time.clone(), told)
    };
    let (first, told) = since(&denied, 2300);
    let (second, _) = since(&told, 2310);
    assert_ne!(first, condition(&denied, "Ready").last_transition_time, "another reason, another time");
    assert_eq!(first, second, "that stays");
}
