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
