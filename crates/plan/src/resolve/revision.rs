//! Which revision is in force: rendered now, pinned by status, or the last good one after a bad rollout.

use super::{BLOB_KEYS, Resolved, ResolvedBlobs, ResolvedDatabase, Rollout};
use crate::crd::{ConditionType, JamInstance, LastGood, RevisionStatus, RolloutPhase, RolloutStatus};
use crate::desired::{DSN, Revision};
use crate::names;
use crate::observed::Observed;
use crate::reason::Reason;
use crate::rollout::{self, AFTER_A_CHANGE, Course, Scene, Step};

/// The revision that status pins to just this spec and this DSN. Whatever else changed is the operator's, not the user's.
fn pinned<'a>(instance: &'a JamInstance, inputs: &str) -> Option<&'a RevisionStatus> {
    let status = instance.status.as_ref()?;
    let told = status.revision.as_ref()?;
    let same_spec = Some(told.generation) == instance.metadata.generation || given_up(instance).is_some();
    (same_spec && told.inputs == inputs).then_some(told)
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
    let generation = Some(told.generation) == instance.metadata.generation && wanted.generation == told.generation;
    let of_this_spec = || told.spec.as_deref() == Some(&rollout::without_toggle(instance));
    let same = told.phase == RolloutPhase::RolledBack && told.revision == wanted.name && (generation || of_this_spec());
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
fn is_applied_without_revision(instance: &JamInstance) -> bool {
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

/// Whether what runs may be needed as a revision: status pins none, or the good one that was gone back to is lost by now.
pub fn may_be_adopted(instance: &JamInstance) -> bool {
    let rollout = instance.status.as_ref().and_then(|status| status.rollout.as_ref());
    let went_back = rollout.is_some_and(|told| told.phase == RolloutPhase::RolledBack);
    went_back || is_applied_without_revision(instance)
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
        down_since: None,
        from: None,
        message: None,
        evidence: None,
        spec: None,
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
    let generation = resolved.generation;
    let before = given_up_before.map(|told| RevisionStatus { generation, ..told.clone() });
    resolved.wanted = before.unwrap_or_else(|| pin(&resolved, &wanted));
    let name = resolved.wanted.name.clone();
    let toggled = wanted.clone().with_enabled(&resolved.name, !resolved.settings.enabled);
    let spec = rollout::without_toggle(instance);
    let names = (name.as_str(), toggled.name(), spec.as_str());
    let scene = rollout::scene(instance, observed, names, wanted.has_workers(), resolved.progress_deadline);
    let mut step = rollout::step(&scene);
    resolved.known = vec![wanted.clone()];
    resolved.revision = wanted;
    if let Course::Back(good) = step.course.clone() {
        let found = good.revision.as_deref().and_then(&mut stored);
        let found = found.or_else(|| as_it_runs(&resolved, observed, &scene, &mut step, &good));
        go_back(&mut resolved, &scene, &mut step, &good, found);
    }
    let Step { mut status, course, given_up } = step;
    let last = instance.status.as_ref().and_then(|status| status.last_good.as_ref());
    if resolved.rollout == Rollout::AfterMigration {
        let good = last.and_then(|good| good.revision.as_deref()).and_then(&mut stored);
        keep_what_serves(&mut resolved, instance, observed, good);
    }
    if given_up {
        status.evidence = Some(rollout::evidence_name(&resolved.name, &status));
    }
    // What serves now is the last good one from this walk on: nobody comes to say when the one before it may go.
    let last = last.filter(|_| !(course == Course::Forward && resolved.is_served(observed)));
    let kept = [status.from.as_ref(), last].into_iter().flatten().filter_map(|good| good.revision.clone());
    resolved.kept_maps = kept.chain(status.evidence.clone()).collect();
    resolved.known.push(resolved.revision.clone());
    (resolved.course, resolved.rollout_status, resolved.given_up, resolved.lacks) = (course, status, given_up, lacks);
    resolved
}

/// The good revision as its pods are made, where the ConfigMap that held it is gone. Kubernetes may write it in other words, and
/// it may have followed a toggle or a password since: then it has another name, by which it is stored from now on.
fn as_it_runs(
    resolved: &Resolved,
    observed: &Observed,
    scene: &Scene<'_>,
    step: &mut Step,
    good: &LastGood,
) -> Option<Revision> {
    let found = observed.adoptable.as_ref().filter(|_| !step.given_up)?;
    let says = |proves: &dyn Fn(&str) -> bool| {
        let mut both = observed.api.iter().chain(&observed.worker);
        both.all(|deployment| deployment.revision.as_deref().is_some_and(proves))
    };
    // Nothing may have been carried out yet of the decision to go back, and the toggle been turned since.
    let is_back = says(&|name| name != step.status.revision && name != scene.toggled)
        && Some(found.image()) == good.image.as_deref();
    let is_whole = says(&|name| name == found.name()) || found.has_workers() == resolved.runs_workers();
    if !is_back || !is_whole {
        return None;
    }
    let now = up_to_date(found.clone(), resolved);
    let good = LastGood { revision: Some(now.name().to_owned()), ..good.clone() };
    step.status.from = Some(good.clone());
    step.course = Course::Back(good);
    Some(now)
}

/// Puts the good revision in place of the wanted one.
fn go_back(resolved: &mut Resolved, scene: &Scene<'_>, step: &mut Step, good: &LastGood, found: Option<Revision>) {
    match found.map(|found| (up_to_date(found.clone(), resolved), found)) {
        // With this DSN and this toggle the good pods are the wanted ones: there is no other way to go, and none to give up.
        Some((back, _)) if back.name() == resolved.revision.name() && back.image() == resolved.wanted.image => {
            let before = scene.before.filter(|_| step.given_up).cloned();
            step.status = before.unwrap_or_else(|| rollout::afresh(scene, back.name()));
            (step.course, step.given_up) = (Course::Forward, false);
            resolved.wanted = pin(resolved, &back);
        }
        Some((back, good)) => {
            resolved.known.push(good);
            resolved.revision = back;
        }
        None if step.given_up => {
            (step.course, step.given_up) = (Course::NoWayBack(lost(good, &step.status)), false);
            step.status = scene.before.cloned().unwrap_or_else(|| step.status.clone());
        }
        // Its pods run as long as they do: nothing is left to make them from, and what was given up is not tried again.
        None => {
            resolved.rollout = Rollout::LeaveAlone;
            step.course = Course::NoWayBack(lost_since(good, &step.status));
        }
    }
}

fn pin(resolved: &Resolved, wanted: &Revision) -> RevisionStatus {
    RevisionStatus {
        name: wanted.name().to_owned(),
        generation: resolved.generation,
        inputs: inputs(resolved.database.as_ref(), resolved.blobs.as_ref()),
        image: wanted.image().to_owned(),
    }
}

/// The good pods, but never with a password or keys that do not count any more, nor with a toggle that somebody has turned. What
/// they take from another Secret than the spec names now is as it was: a new hash would restart them, and change nothing.
fn up_to_date(good: Revision, resolved: &Resolved) -> Revision {
    let [id, ..] = BLOB_KEYS;
    let dsn = resolved.database.as_ref().filter(|now| good.takes(DSN, (&now.secret, &now.key)));
    let keys = resolved.blobs.as_ref().filter(|now| now.secret.as_ref().is_some_and(|now| good.takes(id, (now, id))));
    let (dsn, keys) = (dsn.map(|now| now.dsn_hash.as_str()), keys.map(|now| now.hash.as_str()));
    good.with_secrets(&resolved.name, dsn, keys).with_enabled(&resolved.name, resolved.settings.enabled)
}

/// Keeps what serves as it is to be, though what the spec wants of it now waits for a migration, perhaps for days until somebody
/// approves it: what was edited or deleted is put right, its number of pods is the spec's, and it gets the spec's toggle.
fn keep_what_serves(resolved: &mut Resolved, instance: &JamInstance, observed: &Observed, good: Option<Revision>) {
    let applied = observed.api.as_ref().and_then(|api| api.revision.as_deref()).unwrap_or_default();
    if applied == resolved.revision.name() {
        // A migration that is run again, such as after a restore: these pods are there already.
        resolved.rollout = Rollout::Apply;
        return;
    }
    let Some(good) = good else { return };
    let wanted = resolved.settings.enabled;
    let target = up_to_date(good.clone(), resolved);
    let turned = target.clone().with_enabled(&resolved.name, !wanted);
    resolved.known.extend([good.clone(), turned.clone()]);
    let kept = if applied == good.name() {
        let says = good.enabled().is_none_or(|says| says == wanted);
        Some(if says { good } else { target })
    } else {
        let told = instance.status.as_ref().and_then(|status| status.enabled);
        let begun = applied == target.name() || applied == turned.name() || observed.api.is_none();
        (begun || told.is_some_and(|says| says != wanted)).then_some(target)
    };
    if let Some(kept) = kept {
        (resolved.revision, resolved.rollout) = (kept, Rollout::Apply);
    }
}

/// Why a rollout was given up.
fn why(status: &RolloutStatus) -> &str {
    status.message.as_deref().unwrap_or("it is bad")
}

fn lost(good: &LastGood, status: &RolloutStatus) -> String {
    let why = why(status);
    let name = good.revision.as_deref().unwrap_or_default();
    format!("{why}; not rolled back: ConfigMap {name} with the last good revision is gone")
}

fn lost_since(good: &LastGood, status: &RolloutStatus) -> String {
    let why = why(status);
    let (name, image) = (good.revision.as_deref().unwrap_or_default(), good.image.as_deref().unwrap_or_default());
    format!(
        "{why}; rolled back to {image}, but ConfigMap {name} with that revision is gone since: its pods are left as they are \
         and none is made again {AFTER_A_CHANGE}"
    )
}
