//! The rollout of a revision as a state machine: forward, good, or back to the last good one (adr/0016).

#[cfg(test)]
mod tests;

use jam_domain::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::crd::{ConditionType, JamInstance, LastGood, MigrationState, RolloutPhase, RolloutStatus, VersionStatus};
use crate::names;
use crate::observed::{DeploymentState, Observed};

/// How often readiness may be lost again, within the deadline after it was first there.
const LOSSES: i32 = 3;
/// Longest words about a rollout that was given up.
const MESSAGE: usize = 512;
/// Seconds that pods have to become ready once their database is back, before they are blamed.
const RECOVERY: i64 = 60;
/// When what was given up is tried again, in words: turning JAM off or on mends nothing.
pub(crate) const AFTER_A_CHANGE: &str = "until the spec changes in more than runtime.jam.enabled";

/// What the machine looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene<'a> {
    /// Now.
    pub at: Timestamp,
    /// The generation of the spec.
    pub generation: i64,
    /// Hash of the spec without its toggle.
    pub spec: &'a str,
    /// The revision that the spec wants.
    pub wanted: &'a str,
    /// The same one with the other toggle.
    pub toggled: &'a str,
    /// Whether the Deployments are of that revision.
    pub applied: bool,
    /// Whether every pod is of it and available.
    pub settled: bool,
    /// Whether there is an API pod to say so: none at all proves nothing.
    pub serves: bool,
    /// Whether its Deployments say that they have brought it to its end, as they do also where no pod is wanted. They say nothing
    /// more about its pods then, however long those take.
    pub rolled_out: bool,
    /// What keeps it from going on, when its Deployments say that they make no progress.
    pub stuck: Option<String>,
    /// What is wrong with one of the pods, where anybody says so.
    pub trouble: Option<String>,
    /// Since when fewer pods are ready than were before, although nothing is being replaced: one that was ready is not any more. A
    /// pod that was evicted or deleted says nothing about the revision.
    pub lost: Option<Timestamp>,
    /// Whether the database is away: then pods are not to blame.
    pub database_away: bool,
    /// Whether it was away until just now: pods need a moment to become ready. A first look at it is no end of an outage.
    pub recovering: bool,
    /// Of which pods none at all is ready, or has been for long enough.
    pub none_ready: Option<&'static str>,
    /// Since when all of those have fallen, where all have.
    pub all_lost: Option<Timestamp>,
    /// Whether pods fall for reasons of their own, and each that is ready has fallen, too, and come back since the first one fell.
    pub in_turns: bool,
    /// When the migration before its pods ended, where there was one: they could not start sooner.
    pub migrated: Option<Timestamp>,
    /// The version of the schema, where known.
    pub schema: Option<i64>,
    /// Seconds that a rollout has.
    pub deadline: i64,
    /// The last good revision.
    pub good: Option<&'a LastGood>,
    /// What was stored.
    pub before: Option<&'a RolloutStatus>,
}

/// Which revision is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Course {
    /// The wanted one.
    Forward,
    /// The wanted one, although it is bad: the text says why there is no way back.
    NoWayBack(String),
    /// The good one before it.
    Back(LastGood),
}

/// Where a rollout stands now and what follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What is stored.
    pub status: RolloutStatus,
    /// Which revision is applied.
    pub course: Course,
    /// Whether it was given up just now. That is stored before anything is applied, so that a crash cannot forget it.
    pub given_up: bool,
}

/// The next step of a rollout.
pub fn step(scene: &Scene<'_>) -> Step {
    if let Some(before) = scene.before.filter(|before| stays_given_up(scene, before))
        && let Some(good) = &before.from
    {
        let (revision, generation) = (scene.wanted.to_owned(), scene.generation);
        // By this release's hash from now on: one that knows more fields has another, and the toggle may be turned after the upgrade.
        let status = RolloutStatus { revision, generation, spec: Some(scene.spec.to_owned()), ..before.clone() };
        return Step { status, course: Course::Back(good.clone()), given_up: false };
    }
    let mut status = match scene.before {
        Some(before) if before.revision == scene.wanted && before.phase != RolloutPhase::RolledBack => before.clone(),
        before => begun(scene, before),
    };
    if !scene.applied {
        return forward(status);
    }
    if scene.settled {
        return forward(settled(scene, status));
    }
    if scene.database_away {
        return forward(status);
    }
    let began = scene.began(&status);
    let after = |at: Timestamp| (at.as_micros() - began.as_micros()) / 1_000_000;
    let elapsed = after(scene.at);
    if scene.lost().is_some_and(|lost| after(lost) <= scene.deadline)
        && status.phase == RolloutPhase::Serving
        && status.from.is_some()
    {
        return lose(scene, status);
    }
    if let Some(down) = down(scene, elapsed, &mut status)
        && let Some(none) = scene.none_serves(&status)
        && down.min(elapsed) >= scene.deadline
        && !scene.recovering
    {
        let (words, served) = (scene.words(), if status.losses > 0 { "it served, and " } else { "" });
        return give_up(scene, status, &format!("{served}{none} after {down} s: {words}"));
    }
    match &scene.stuck {
        // A word about the revision before it may still stand there: nothing is judged before its time.
        Some(why)
            if status.losses == 0
                && status.phase == RolloutPhase::Progressing
                && elapsed >= scene.deadline
                && !scene.recovering =>
        {
            give_up(scene, status, why)
        }
        Some(_) | None => forward(status),
    }
}

/// Where readiness was lost while it was on trial, however long ago: nobody may have looked.
fn lose(scene: &Scene<'_>, status: RolloutStatus) -> Step {
    let losses = status.losses + 1;
    // Nor has anybody seen an outage of its database then, which may be just over.
    let earliest = scene.at.plus_seconds(RECOVERY.min(scene.deadline) - scene.deadline);
    // Where one has served until a moment ago, the others' dates say nothing about it.
    let down_since = Some(seconds(scene.all_lost.unwrap_or(scene.at).max(earliest)));
    let status = RolloutStatus { phase: RolloutPhase::Progressing, losses, down_since, ..status };
    if losses < LOSSES {
        return forward(status);
    }
    let words = scene.words();
    give_up(scene, status, &format!("readiness was lost {LOSSES} times within {} s: {words}", scene.deadline))
}

/// Where every pod is of it and available. Without a pod nobody has seen it serve.
fn settled(scene: &Scene<'_>, mut status: RolloutStatus) -> RolloutStatus {
    status.down_since = None;
    if status.phase != RolloutPhase::Serving && scene.serves {
        let first = status.losses == 0;
        status.phase = RolloutPhase::Serving;
        status.since = if first { seconds(scene.at) } else { status.since };
    }
    status
}

/// For how many seconds pods have not all been ready of which their Deployments say nothing more: that is counted here, whatever
/// the conditions are about. Once its time is over, a revision of which one pod serves is not held to account for another.
fn down(scene: &Scene<'_>, elapsed: i64, status: &mut RolloutStatus) -> Option<i64> {
    let is_silent = status.phase == RolloutPhase::Progressing && (status.losses > 0 || scene.rolled_out);
    if !is_silent || (scene.none_serves(status).is_none() && elapsed > scene.deadline) {
        status.down_since = None;
        return None;
    }
    let since = status.down_since.get_or_insert_with(|| seconds(scene.at)).0;
    Some(scene.at.as_micros() / 1_000_000 - since.as_second())
}

impl Scene<'_> {
    /// Why pods that were ready are not any more.
    fn words(&self) -> &str {
        self.trouble.as_deref().or(self.stuck.as_deref()).unwrap_or("no pod says why")
    }

    /// Since when the pods of a rollout could be ready.
    fn began(&self, status: &RolloutStatus) -> Timestamp {
        self.migrated.into_iter().fold(Timestamp::from_jiff(status.since.0), Timestamp::max)
    }

    /// Of which pods none serves: none is ready, or each has fallen since the first of them fell on trial. Then they fall in turns.
    fn none_serves(&self, status: &RolloutStatus) -> Option<String> {
        if let Some(of_these) = self.none_ready {
            return Some(format!("no {of_these} is ready"));
        }
        let end = self.began(status).plus_seconds(self.deadline);
        let fell = status.down_since.as_ref().map(|Time(at)| Timestamp::from_jiff(*at));
        (self.in_turns && fell.is_some_and(|fell| fell <= end)).then(|| "no pod stays ready".into())
    }

    /// Since when pods that were ready are not, where their database is not only just back.
    fn lost(&self) -> Option<Timestamp> {
        self.lost.filter(|_| !self.recovering)
    }
}

/// Whether what was given up is still what the spec wants. Who turns JAM off or on wants that at once, of the pods that serve,
/// and has mended nothing: it is no reason to try the rest again.
fn stays_given_up(scene: &Scene<'_>, before: &RolloutStatus) -> bool {
    let same = before.generation == scene.generation && before.revision == scene.wanted;
    let same = same
        || match before.spec.as_deref() {
            Some(spec) => spec == scene.spec,
            // A release before this one did not keep it.
            None => before.revision == scene.toggled,
        };
    before.phase == RolloutPhase::RolledBack && same
}

/// A rollout of this revision that begins now, whatever was decided before.
pub(crate) fn afresh(scene: &Scene<'_>, wanted: &str) -> RolloutStatus {
    begun(&Scene { wanted, ..scene.clone() }, scene.before)
}

fn begun(scene: &Scene<'_>, before: Option<&RolloutStatus>) -> RolloutStatus {
    // What is on trial was good for a moment at most: no way leads back to it, nor to the same pods under the other toggle.
    let way_back = before.filter(|before| is_on_trial(scene, before)).and_then(|before| before.from.as_ref());
    let good = way_back.or(scene.good);
    let from = good.filter(|good| good.revision.as_deref().is_some_and(|name| name != scene.wanted));
    RolloutStatus {
        revision: scene.wanted.to_owned(),
        generation: scene.generation,
        phase: RolloutPhase::Progressing,
        since: seconds(scene.at),
        losses: 0,
        down_since: None,
        from: from.cloned(),
        message: None,
        evidence: before.and_then(|before| before.evidence.clone()),
        spec: None,
    }
}

/// Whether the rollout before this one had not shown yet that its pods go on serving.
fn is_on_trial(scene: &Scene<'_>, before: &RolloutStatus) -> bool {
    let end = Timestamp::from_jiff(before.since.0).plus_seconds(scene.deadline);
    let early = scene.at <= end;
    match before.phase {
        // Once its time is over, a pod that serves has shown it.
        RolloutPhase::Progressing => before.losses == 0 || scene.none_serves(before).is_some() || early,
        RolloutPhase::Serving => {
            // The same pods with the other toggle, or with another password or other keys.
            let same_pods = before.revision == scene.toggled || before.generation == scene.generation;
            // Once its time is over, one that fell in it is held against the version only where none serves.
            let fell = scene.lost().is_some_and(|lost| lost <= end && (early || scene.none_ready.is_some()));
            early && (same_pods || scene.none_ready.is_some()) || fell
        }
        RolloutPhase::RolledBack => false,
    }
}

fn forward(status: RolloutStatus) -> Step {
    Step { status, course: Course::Forward, given_up: false }
}

fn give_up(scene: &Scene<'_>, status: RolloutStatus, why: &str) -> Step {
    let Some(good) = status.from.clone() else {
        return Step { status, course: Course::NoWayBack(why.to_owned()), given_up: false };
    };
    if good.schema.is_some() && scene.schema.is_none() {
        let text = format!("{why}; not rolled back yet: a migration ended and no pod says which schema it left");
        return Step { status, course: Course::NoWayBack(text), given_up: false };
    }
    if let (Some(there), Some(then)) = (scene.schema, good.schema)
        && there > then
    {
        let image = good.image.as_deref().unwrap_or("the last good image");
        let text =
            format!("{why}; not rolled back to {image}: it served with schema {then}, the database is at {there}");
        return Step { status, course: Course::NoWayBack(text), given_up: false };
    }
    let status = RolloutStatus {
        phase: RolloutPhase::RolledBack,
        generation: scene.generation,
        since: seconds(scene.at),
        down_since: None,
        message: Some(why.chars().take(MESSAGE).collect()),
        spec: Some(scene.spec.to_owned()),
        ..status
    };
    Step { status, course: Course::Back(good), given_up: true }
}

fn seconds(at: Timestamp) -> Time {
    Time(crate::status::whole_seconds(at))
}

/// What the machine sees of an instance, where `wanted` is the revision that its spec wants.
pub(crate) fn scene<'a>(
    instance: &'a JamInstance,
    observed: &'a Observed,
    (wanted, toggled, spec): (&'a str, &'a str, &'a str),
    workers: bool,
    deadline: i32,
) -> Scene<'a> {
    let stored = instance.status.as_ref();
    let worker = observed.worker.as_ref().filter(|_| workers);
    let conditions = stored.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let reachable = conditions.iter().find(|told| told.type_ == ConditionType::DatabaseReachable.as_str());
    let both = || observed.api.iter().chain(worker);
    let told = stored.and_then(|status| status.ready_replicas).unwrap_or_default();
    let trouble = observed.told_trouble();
    let stuck = both().find_map(DeploymentState::stuck).map(|why| trouble.as_deref().unwrap_or(why));
    let trouble = trouble.as_deref().filter(|_| both().any(|deployment| !deployment.is_settled()));
    let lost = lost_since(observed, worker, told);
    let good = stored.and_then(|status| status.last_good.as_ref());
    // What is stored was read before the migration of another image: it says nothing about what that one left.
    let complete =
        stored.and_then(|status| status.migration.as_ref()).filter(|told| told.state == MigrationState::Complete);
    let version = stored.and_then(|status| status.version.as_ref());
    let same_image = |version: &&VersionStatus| complete.is_none_or(|told| version.image.as_ref() == Some(&told.image));
    let remembered = version.filter(same_image).and_then(|version| version.schema);
    // A worker that crashes again and again is ready in between, but never for long enough to count.
    let no_server = observed.api.as_ref().is_some_and(|api| api.wanted > 0 && api.ready == 0);
    let no_worker = worker.is_some_and(|worker| worker.wanted > 0 && worker.available == 0);
    Scene {
        at: observed.at,
        generation: instance.metadata.generation.unwrap_or_default(),
        spec,
        wanted,
        toggled,
        applied: observed.api.is_some()
            && both().all(|deployment| deployment.revision.as_deref() == Some(wanted))
            && worker.is_some() == workers,
        settled: both().all(DeploymentState::is_settled),
        serves: observed.api.as_ref().is_some_and(|api| api.ready > 0),
        rolled_out: both().all(|deployment| deployment.rolled_out && deployment.is_seen()),
        // A Deployment that was rolled out once says no more that it makes no progress.
        stuck: if lost.is_some() { trouble.or(stuck) } else { stuck }.map(str::to_owned),
        trouble: trouble.map(str::to_owned),
        lost,
        database_away: observed.database.as_ref().is_some_and(|probe| !probe.reachable)
            || reachable.is_some_and(|told| told.status == "False"),
        recovering: stored.and_then(|status| status.database_away_until.as_ref()).is_some_and(|Time(until)| {
            observed.at < Timestamp::from_jiff(*until).plus_seconds(RECOVERY.min(deadline.into()))
        }),
        all_lost: observed.all_lapsed.max(observed.workers_lapsed.filter(|_| workers)),
        in_turns: in_turns(observed, workers),
        none_ready: if no_server { Some("pod") } else { no_worker.then_some("worker") },
        migrated: complete.and_then(|told| told.finished_at.as_ref()).map(|Time(at)| Timestamp::from_jiff(*at)),
        schema: observed.pod_schema.and_then(|schema| schema.found).or(remembered),
        deadline: i64::from(deadline),
        good,
        before: stored.and_then(|status| status.rollout.as_ref()),
    }
}

fn in_turns(observed: &Observed, workers: bool) -> bool {
    let servers = observed.in_turns && observed.lapsed.is_some();
    servers || workers && observed.workers_in_turns && observed.worker_lapsed.is_some()
}

/// Since when a pod that was ready is not any more, where so many API pods were told to be.
fn lost_since(observed: &Observed, worker: Option<&DeploymentState>, told: i32) -> Option<Timestamp> {
    // How many workers were ready is not told: once they all were.
    let no_worker = worker.is_some_and(|worker| worker.rolled_out && worker.has_lost_readiness(worker.wanted));
    // Where none is ready, what was told may be what an outage or a refused spec had left, which is no loss and was not counted as one.
    let told = |api: &DeploymentState| if api.ready == 0 { api.wanted } else { told };
    let no_server = observed.api.as_ref().is_some_and(|api| api.has_lost_readiness(told(api)));
    let (worker, server) = (observed.worker_lapsed.filter(|_| no_worker), observed.lapsed.filter(|_| no_server));
    worker.into_iter().chain(server).min().map(|lost| lost.min(observed.at))
}

/// Hash of a spec without its toggle. Who turns that has mended nothing.
pub(crate) fn without_toggle(instance: &JamInstance) -> String {
    let mut spec = instance.spec.clone();
    spec.runtime.jam.enabled = None;
    let spec = serde_json::to_value(spec).expect("a spec is JSON");
    names::short_hash([jam_domain::canonical::bytes(&spec).as_slice()])
}

/// The name of the ConfigMap with the evidence against the revision of a rollout.
pub fn evidence_name(instance: &str, status: &RolloutStatus) -> String {
    let generation = status.generation.to_be_bytes();
    names::evidence(instance, &names::short_hash([status.revision.as_bytes(), generation.as_slice()]))
}
