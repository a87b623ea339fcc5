//! Which revision is in force: rendered now, pinned by status, or the last good one after a bad rollout.

use super::{Resolved, ResolvedBlobs, ResolvedDatabase, Rollout};
use crate::crd::{ConditionType, JamInstance, LastGood, RevisionStatus, RolloutPhase, RolloutStatus};
use crate::desired::Revision;
use crate::names;
use crate::observed::Observed;
use crate::reason::Reason;
use crate::rollout::{self, Course, Step};

/// The revision that status pins to just this spec and this DSN. Whatever else changed is the operator's, not the user's.
fn pinned<'a>(instance: &'a JamInstance, inputs: &str) -> Option<&'a RevisionStatus> {
    let told = instance.status.as_ref()?.revision.as_ref()?;
    let same = Some(told.generation) == instance.metadata.generation && told.inputs == inputs;
    same.then_some(told)
}

/// What of outside the spec pods are made with: the DSN, and the keys to the blob store.
fn inputs(database: Option<&ResolvedDatabase>, blobs: Option<&ResolvedBlobs>) -> String {
    let dsn = database.map(|database| database.dsn_hash.clone()).unwrap_or_default();
    match blobs.map(|blobs| blobs.hash.as_str()).filter(|hash| !hash.is_empty()) {
        Some(keys) => names::short_hash([dsn.as_bytes(), keys.as_bytes()]),
        None => dsn,
    }
}

/// The revision of just this spec that was given up, and the good one that runs instead. Another DSN does not change that.
fn given_up(instance: &JamInstance) -> Option<(&RevisionStatus, &LastGood)> {
    let status = instance.status.as_ref()?;
    let (wanted, told) = (status.revision.as_ref()?, status.rollout.as_ref()?);
    let of_this_spec = Some(told.generation) == instance.metadata.generation && wanted.generation == told.generation;
    let same = told.phase == RolloutPhase::RolledBack && told.revision == wanted.name && of_this_spec;
    Some((wanted, told.from.as_ref().filter(|_| same)?))
}

/// What runs, where a release that knew no revisions applied just this spec with just this DSN.
fn adopted<'a>(
    instance: &JamInstance,
    observed: &'a Observed,
    database: Option<&ResolvedDatabase>,
    inputs: &str,
) -> Option<&'a Revision> {
    let found = observed.adoptable.as_ref().filter(|_| is_applied_without_revision(instance))?;
    let workers = instance.spec.workers.replicas > 0 && database.is_some();
    (found.dsn_hash() == inputs && found.has_workers() == workers).then_some(found)
}

/// Whether status pins no revision although the spec was applied as it is: what it says then speaks of the pods.
pub fn is_applied_without_revision(instance: &JamInstance) -> bool {
    const OF_PODS: [Reason; 6] = [
        Reason::Serving,
        Reason::ScaledToZero,
        Reason::RollingOut,
        Reason::PodsNotReady,
        Reason::DatabaseUnreachable,
        Reason::RolloutStuck,
    ];
    let Some(status) = instance.status.as_ref().filter(|status| status.revision.is_none()) else { return false };
    let ready = status.conditions.iter().find(|told| told.type_ == ConditionType::Ready.as_str());
    status.observed_generation == instance.metadata.generation
        && ready.is_some_and(|told| OF_PODS.iter().any(|reason| reason.as_str() == told.reason))
}

/// The image in force where that is not what the spec and this release's defaults say: it decides which migration is needed.
pub(super) fn image<'a>(
    instance: &'a JamInstance,
    observed: &'a Observed,
    database: Option<&ResolvedDatabase>,
    blobs: Option<&ResolvedBlobs>,
) -> Option<&'a str> {
    let inputs = &inputs(database, blobs);
    let pinned = pinned(instance, inputs).map(|pinned| pinned.image.as_str());
    let Some((_, good)) = given_up(instance) else {
        return pinned.or_else(|| adopted(instance, observed, database, inputs).map(Revision::image));
    };
    // The migration of what was given up is done; with another DSN, the good image's is what is needed.
    let migrated =
        instance.status.as_ref().and_then(|status| status.migration.as_ref()).map(|told| told.image.as_str());
    pinned.filter(|pinned| migrated.is_none_or(|migrated| migrated == *pinned)).or(good.image.as_deref())
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
    let database = resolved.database.as_ref();
    let inputs = &inputs(database, resolved.blobs.as_ref());
    // What was given up is not needed any more, only its name: it is not tried again.
    let given_up_before = given_up(instance).map(|(wanted, _)| wanted);
    let pinned = pinned(instance, inputs).filter(|pinned| pinned.name != rendered.name());
    // A pinned revision whose ConfigMap is lost is rendered anew: the best that is left.
    let read = pinned.filter(|_| given_up_before.is_none()).and_then(|pinned| stored(&pinned.name));
    let wanted = read.or_else(|| adopted(instance, observed, database, inputs).cloned()).unwrap_or(rendered);
    resolved.wanted = given_up_before.cloned().unwrap_or_else(|| RevisionStatus {
        name: wanted.name().to_owned(),
        generation: resolved.generation,
        inputs: inputs.to_owned(),
        image: wanted.image().to_owned(),
    });
    let name = resolved.wanted.name.clone();
    let scene = rollout::scene(instance, observed, &name, wanted.has_workers(), resolved.progress_deadline);
    let Step { mut status, mut course, mut given_up } = rollout::step(&scene);
    resolved.revision = wanted;
    if let Course::Back(good) = &course {
        match good.revision.as_deref().and_then(&mut stored) {
            // Its pods, but never with a password that does not count any more.
            Some(revision) => {
                resolved.revision = match &resolved.database {
                    Some(database) => {
                        let keys = resolved.blobs.as_ref().map(|blobs| blobs.hash.as_str());
                        revision.with_secrets(&resolved.name, &database.dsn_hash, keys)
                    }
                    None => revision,
                }
            }
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

fn lost(good: &LastGood, status: &RolloutStatus) -> String {
    let why = status.message.as_deref().unwrap_or("it is bad");
    let name = good.revision.as_deref().unwrap_or_default();
    format!("{why}; not rolled back: ConfigMap {name} with the last good revision is gone")
}
