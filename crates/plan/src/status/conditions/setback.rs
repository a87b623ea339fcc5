//! A rollout that was given up, alone and beside a child that the API server refuses; and what a denied child takes from Ready.

use super::{MESSAGE, Said, Standing, no, stored, yes};
use crate::crd::{ConditionType, JamInstance, RolloutStatus};
use crate::observed::Observed;
use crate::reason::{Reason, Refusal};
use crate::resolve::Resolved;
use crate::rollout::{AFTER_A_CHANGE, Course};

/// What is said of a rollout that is not tried any further.
pub(crate) fn given_up(resolved: &Resolved) -> Option<(Reason, String)> {
    let RolloutStatus { generation, message, evidence, .. } = &resolved.rollout_status;
    match &resolved.course {
        Course::Forward => None,
        // Without a good revision there is nothing to go back to: the Deployment's own words say it.
        Course::NoWayBack(_) if resolved.rollout_status.from.is_none() => None,
        Course::NoWayBack(why) => Some((Reason::RollbackRefused, why.clone())),
        Course::Back(good) => {
            let (wanted, good_image) = (&resolved.wanted.image, good.image.as_deref().unwrap_or("an earlier image"));
            let why = message.as_deref().unwrap_or("it did not become ready");
            let evidence = evidence.as_deref().unwrap_or("none");
            let message = format!(
                "generation {generation} ({wanted}) was rolled back to generation {} ({good_image}): {why}; evidence in \
                 ConfigMap {evidence}; it is not tried again {AFTER_A_CHANGE}",
                good.generation.unwrap_or_default()
            );
            Some((Reason::RolledBack, message))
        }
    }
}

/// What the API server refuses waits for a change; so does a rollout that was given up beside it, which is the graver word. Whatever
/// else is wrong meanwhile, such as with the pods, is told after it: no other condition says so.
pub(super) fn objected(resolved: &Resolved, observed: &Observed, Refusal { reason, message }: &Refusal) -> Standing {
    if let Some((graver, why)) = given_up(resolved) {
        return Standing::Stalled(graver, format!("{why}; {reason}: {message}"));
    }
    let beside = match super::applied(resolved, observed) {
        Standing::Unwell(reason, why) | Standing::Stalled(reason, why) => Some((reason, why)),
        Standing::UnderWay(reason, _) => observed.told_trouble().map(|why| (reason, why)),
        Standing::Good(..) | Standing::Scaling(_) | Standing::Interrupted(_) => None,
    };
    let words = match beside {
        Some((other, why)) => format!("{}; {other}: {why}", message.chars().take(MESSAGE / 2).collect::<String>()),
        None => message.clone(),
    };
    Standing::Stalled(*reason, words)
}

/// A child that a rule is in the way of is tried again. What is said of the pods holds; but what has not been ready as this spec wants
/// it is not before all of it is there.
pub(super) fn denied(instance: &JamInstance, message: &str, [ready, reconciling, stalled]: [&mut Said; 3]) {
    if stalled.status == "True" {
        for told in [ready, stalled] {
            told.message = format!("{}; {}: {message}", told.message, Reason::ApplyFailed);
        }
        return;
    }
    let current = instance.status.as_ref().is_some_and(|s| s.observed_generation == instance.metadata.generation);
    let was_ready = current && stored(instance, ConditionType::Ready).is_some_and(|told| told.status == "True");
    if ready.status == "True" && !was_ready {
        *ready = no(ConditionType::Ready, Reason::ApplyFailed, message);
    }
    *reconciling = yes(ConditionType::Reconciling, Reason::ApplyFailed, message);
}
