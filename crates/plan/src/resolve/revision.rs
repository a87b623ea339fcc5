//! Which revision is in force: rendered now, pinned by status, or the last good one after a bad rollout.

use super::{Resolved, ResolvedDatabase, Rollout};
use crate::crd::{JamInstance, LastGood, RevisionStatus, RolloutPhase, RolloutStatus};
use crate::desired::Revision;
use crate::observed::Observed;
use crate::rollout::{self, Course, Step};

/// The revision that status pins to just this spec and this DSN. Whatever else changed is the operator's, not the user's.
pub(super) fn pinned<'a>(instance: &'a JamInstance, database: Option<&ResolvedDatabase>) -> Option<&'a RevisionStatus> {
    let told = instance.status.as_ref()?.revision.as_ref()?;
    let same = Some(told.generation) == instance.metadata.generation && told.inputs == inputs(database);
    same.then_some(told)
}

fn inputs(database: Option<&ResolvedDatabase>) -> String {
    database.map(|database| database.dsn_hash.clone()).unwrap_or_default()
}

/// What stands in a value that is not chosen yet.
pub(super) fn none_yet() -> RolloutStatus {
    let at = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH);
    RolloutStatus {
        revision: String::new(),
        generation: 0,
        phase: RolloutPhase::Progressing,
        since: at,
        losses: 0,
        from: None,
        message: None,
        evidence: None,
    }
}

/// Completes a resolved instance with the revision in force.
pub(super) fn choose(mut resolved: Resolved, instance: &JamInstance, observed: &Observed) -> Resolved {
    let mut lacks = Vec::new();
    let mut stored = |name: &str| {
        let found = observed.revisions.iter().find(|revision| revision.name() == name).cloned();
        if found.is_none() {
            lacks.push(name.to_owned());
        }
        found
    };
    let rendered = Revision::render(&resolved);
    let pinned = pinned(instance, resolved.database.as_ref()).filter(|pinned| pinned.name != rendered.name());
    // What was given up is not needed any more, only its name: it is not tried again.
    let given_up_before = pinned.filter(|pinned| is_given_up(instance, pinned));
    // A pinned revision whose ConfigMap is lost is rendered anew: the best that is left.
    let read = pinned.filter(|_| given_up_before.is_none()).and_then(|pinned| stored(&pinned.name));
    let wanted = read.unwrap_or(rendered);
    resolved.wanted = given_up_before.cloned().unwrap_or_else(|| RevisionStatus {
        name: wanted.name().to_owned(),
        generation: resolved.generation,
        inputs: inputs(resolved.database.as_ref()),
        image: wanted.image().to_owned(),
    });
    let name = resolved.wanted.name.clone();
    let scene = rollout::scene(instance, observed, &name, wanted.has_workers(), resolved.progress_deadline);
    let Step { mut status, mut course, mut given_up } = rollout::step(&scene);
    resolved.revision = wanted;
    if let Course::Back(good) = &course {
        match good.revision.as_deref().and_then(&mut stored) {
            Some(revision) => resolved.revision = revision,
            None if given_up => {
                (course, given_up) = (Course::NoWayBack(lost(good, &status)), false);
                status = scene.before.cloned().unwrap_or(status);
            }
            // Its pods run; nothing is left to make them from, and what was given up is not tried again.
            None => resolved.rollout = Rollout::LeaveAlone,
        }
    }
    if given_up {
        status.evidence = Some(rollout::evidence_name(&resolved.name, &status));
    }
    let last = instance.status.as_ref().and_then(|status| status.last_good.as_ref());
    let kept = [status.from.as_ref(), last].into_iter().flatten().filter_map(|good| good.revision.clone());
    resolved.kept_maps = kept.chain(status.evidence.clone()).collect();
    (resolved.course, resolved.rollout_status, resolved.given_up, resolved.lacks) = (course, status, given_up, lacks);
    resolved
}

fn is_given_up(instance: &JamInstance, wanted: &RevisionStatus) -> bool {
    let told = instance.status.as_ref().and_then(|status| status.rollout.as_ref());
    told.is_some_and(|told| {
        told.phase == RolloutPhase::RolledBack && (&told.revision, told.generation) == (&wanted.name, wanted.generation)
    })
}

fn lost(good: &LastGood, status: &RolloutStatus) -> String {
    let why = status.message.as_deref().unwrap_or("it is bad");
    let name = good.revision.as_deref().unwrap_or_default();
    format!("{why}; not rolled back: ConfigMap {name} with the last good revision is gone")
}
