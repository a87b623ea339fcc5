//! What is said about an instance: its status, and the events of a change.

mod cleaned;
mod conditions;
mod facts;
#[cfg(test)]
mod kstatus;
mod own;
mod rotation;
#[cfg(test)]
mod tests;

use jam_domain::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::crd::{JamInstance, JamInstanceStatus};
use crate::observed::Observed;
use crate::reason::{Reason, Refusal};
use crate::resolve::Resolved;

pub(crate) use conditions::given_up;
pub use rotation::UNMATCHED;

/// How a reconcile ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict<'a> {
    /// Everything was applied.
    Applied(&'a Resolved),
    /// The resource is refused: children stay as they are.
    Refused(&'a Refusal),
    /// The API server refuses one of the children; those that do without it were applied.
    Objected(&'a Resolved, &'a Refusal),
    /// The same where a rule beside it is in the way, such as a quota: it is tried again. The text names the child and the rule.
    Denied(&'a Resolved, &'a str),
    /// A write or a read failed and is tried again; the text is for people.
    Interrupted(Option<&'a Resolved>, &'a str),
    /// Everything but a consumer's Secret was applied; the text says which one is tried again, and why.
    Held(&'a Resolved, &'a str),
    /// `spec.paused`: nothing was written.
    Paused,
}

impl<'a> Verdict<'a> {
    /// What the resource came to, where that is known.
    fn resolved(self) -> Option<&'a Resolved> {
        match self {
            Verdict::Applied(resolved)
            | Verdict::Objected(resolved, _)
            | Verdict::Denied(resolved, _)
            | Verdict::Held(resolved, _)
            | Verdict::Interrupted(Some(resolved), _) => Some(resolved),
            Verdict::Refused(_) | Verdict::Interrupted(None, _) | Verdict::Paused => None,
        }
    }
}

/// An event for `kubectl describe`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Normal or Warning.
    pub kind: EventType,
    /// The reason.
    pub reason: Reason,
    /// One sentence.
    pub note: String,
}

/// How an event is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// Something went as it should.
    Normal,
    /// Somebody should look.
    Warning,
}

/// The status of an instance after a reconcile. Equal to the stored one when nothing changed: then nothing is written.
pub fn status(instance: &JamInstance, verdict: Verdict<'_>, observed: &Observed, now: Timestamp) -> JamInstanceStatus {
    let before = instance.status.clone().unwrap_or_default();
    if verdict == Verdict::Paused {
        let conditions = conditions::paused_only(instance, &before.conditions, now);
        return JamInstanceStatus { observed_generation: instance.metadata.generation, conditions, ..before };
    }
    let said = conditions::all(instance, verdict, observed);
    let resolved = verdict.resolved();
    let mut status = match resolved {
        Some(resolved) => facts::of(resolved, observed, &before),
        None => facts::kept(observed, &before),
    };
    if resolved.is_some() {
        status.rotation = rotation::dated(status.rotation, before.rotation.as_ref(), now);
    }
    status.observed_generation = instance.metadata.generation;
    status.conditions = conditions::dated(said, &before.conditions, instance.metadata.generation, now);
    status.database_away_until = conditions::away_until(&before, &status.conditions);
    status
}

/// The events of a change of status: one for each reason that is new, none for a repetition.
pub fn transitions(old: &JamInstanceStatus, new: &JamInstanceStatus) -> Vec<Event> {
    let is_new = |condition: &&Condition| {
        let earlier = old.conditions.iter().find(|earlier| earlier.type_ == condition.type_);
        earlier.is_none_or(|earlier| earlier.status != condition.status || earlier.reason != condition.reason)
    };
    let mut events: Vec<Event> = Vec::new();
    for event in new.conditions.iter().filter(is_new).filter_map(event) {
        // Ready, Reconciling and Stalled often have one reason in common; it is told once.
        if events.iter().all(|told| told.reason != event.reason) {
            events.push(event);
        }
    }
    let further = rotation::events(old, new).into_iter();
    let further: Vec<_> = further.filter(|event| events.iter().all(|told| told.reason != event.reason)).collect();
    events.extend(further);
    events
}

fn event(condition: &Condition) -> Option<Event> {
    let reason = Reason::ALL.iter().copied().find(|reason| reason.as_str() == condition.reason)?;
    let kind = if reason.is_warning() { EventType::Warning } else { EventType::Normal };
    (!reason.is_quiet()).then(|| Event { kind, reason, note: condition.message.clone() })
}

/// Kubernetes keeps whole seconds; what is written must equal what is read back.
pub(crate) fn whole_seconds(at: Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(at.as_micros().div_euclid(1_000_000)).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}
