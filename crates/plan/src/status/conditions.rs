//! The conditions: what each says, and when it last changed.

mod cleanup;
mod database;
mod optional;
mod overridden;
mod setback;

use jam_domain::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::rotation::TokensSaid;
use super::{Verdict, whole_seconds};
use crate::crd::{ConditionType, JamInstance, RolloutPhase};
use crate::observed::{DeploymentState, Observed};
use crate::reason::{Reason, Refusal};
use crate::resolve::{MigrationStep, Preview, Resolved, Rollout};
use crate::rollout::Course;

pub(super) use database::away_until;
pub(crate) use setback::given_up;

/// Longest message, in characters; Kubernetes takes 32768 bytes, people read less.
const MESSAGE: usize = 1024;
/// What is said while the operator keeps its hands off.
const PAUSED: &str = "spec.paused is true: nothing is changed until it is false";
/// Longest last words in a message: with what stands before them they fit into it.
const LAST_WORDS: usize = 640;
/// What follows "failed" when no further attempt can succeed.
const IMPOSSIBLE: &str = " and is tried again when the spec changes, or jam.network/retry-migration names this Job";

/// One condition before it has a date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    kind: ConditionType,
    status: &'static str,
    reason: Reason,
    message: String,
}

fn yes<T: Into<String>>(kind: ConditionType, reason: Reason, message: T) -> Said {
    Said { kind, status: "True", reason, message: message.into() }
}

fn no<T: Into<String>>(kind: ConditionType, reason: Reason, message: T) -> Said {
    Said { kind, status: "False", reason, message: message.into() }
}

fn unknown(kind: ConditionType, reason: Reason, message: impl Into<String>) -> Said {
    Said { kind, status: "Unknown", reason, message: message.into() }
}

/// Gives each condition its date: the old one when its status is unchanged, else now.
pub(super) fn dated(said: Vec<Said>, before: &[Condition], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    said.into_iter()
        .map(|Said { kind, status, reason, message }| {
            let earlier = before.iter().find(|c| c.type_ == kind.as_str() && c.status == status);
            Condition {
                type_: kind.as_str().into(),
                status: status.into(),
                reason: reason.as_str().into(),
                message: message.chars().take(MESSAGE).collect(),
                observed_generation: generation,
                last_transition_time: earlier.map_or(Time(whole_seconds(now)), |c| c.last_transition_time.clone()),
            }
        })
        .collect()
}

/// Where the whole stands: what Ready, Reconciling and Stalled say together, so that they never contradict each other.
enum Standing {
    Good(Reason, String),
    /// Everything that was ready is, while an autoscaler changes the number.
    Scaling(String),
    UnderWay(Reason, String),
    Unwell(Reason, String),
    Stalled(Reason, String),
    Interrupted(String),
}

/// Every condition, in the order they are written.
pub(super) fn all(instance: &JamInstance, verdict: Verdict<'_>, observed: &Observed) -> Vec<Said> {
    let standing = standing(instance, verdict, observed);
    let mut said = three(instance, standing);
    if let (Verdict::Held(_, message), [ready, reconciling, _]) = (verdict, said.as_mut_slice())
        && ready.status == "True"
    {
        *reconciling = yes(ConditionType::Reconciling, Reason::ApplyFailed, message);
    }
    if let (Verdict::Denied(_, message), [ready, reconciling, stalled]) = (verdict, said.as_mut_slice()) {
        setback::denied(instance, message, [ready, reconciling, stalled]);
    }
    let resolved = verdict.resolved();
    said.push(database::database(resolved, verdict, observed));
    said.push(migrated(instance, resolved, observed));
    said.push(tokens(instance, resolved, verdict, observed));
    said.push(cleanup::cleanup(instance, resolved, observed));
    said.push(optional::optional(instance, resolved));
    said.extend(overridden::overridden(instance, observed));
    said.push(paused(instance));
    said
}

/// The conditions of a paused instance: as they were, word for word and for the generation they spoke of, and Paused.
pub(super) fn paused_only(instance: &JamInstance, before: &[Condition], now: Timestamp) -> Vec<Condition> {
    let earlier = |kind: ConditionType| before.iter().find(|told| told.type_ == kind.as_str()).cloned();
    let fresh = |kind: ConditionType| {
        let message = "paused before anything was done";
        let said = match kind {
            ConditionType::Overridden => return Vec::new(),
            ConditionType::Reconciling | ConditionType::Stalled => no(kind, Reason::Settled, message),
            ConditionType::Ready
            | ConditionType::DatabaseReachable
            | ConditionType::Migrated
            | ConditionType::TokensReady
            | ConditionType::CleanupScheduled
            | ConditionType::OptionalKindsServed
            | ConditionType::Paused => unknown(kind, Reason::PausedBySpec, message),
        };
        dated(vec![said], &[], instance.metadata.generation, now)
    };
    let one = |kind: ConditionType| match kind {
        ConditionType::Paused => dated(vec![paused(instance)], before, instance.metadata.generation, now),
        ConditionType::Ready
        | ConditionType::Reconciling
        | ConditionType::Stalled
        | ConditionType::DatabaseReachable
        | ConditionType::Migrated
        | ConditionType::TokensReady
        | ConditionType::CleanupScheduled
        | ConditionType::OptionalKindsServed
        | ConditionType::Overridden => earlier(kind).map_or_else(|| fresh(kind), |told| vec![told]),
    };
    ConditionType::ALL.into_iter().flat_map(one).collect()
}

fn three(instance: &JamInstance, standing: Standing) -> Vec<Said> {
    use ConditionType::{Ready, Reconciling, Stalled};
    let settled = "nothing is under way";
    let free = "nothing stands in the way";
    match standing {
        Standing::Good(reason, message) => {
            vec![
                yes(Ready, reason, message),
                no(Reconciling, Reason::Settled, settled),
                no(Stalled, Reason::Settled, free),
            ]
        }
        Standing::Scaling(message) => vec![
            yes(Ready, Reason::Serving, message.clone()),
            yes(Reconciling, Reason::RollingOut, message),
            no(Stalled, Reason::Settled, free),
        ],
        Standing::UnderWay(reason, message) => vec![
            no(Ready, reason, message.clone()),
            yes(Reconciling, reason, message),
            no(Stalled, Reason::Settled, free),
        ],
        // Something outside is broken and watched: kstatus knows this as "in progress", not as failed.
        Standing::Unwell(reason, message) => vec![
            no(Ready, reason, message.clone()),
            yes(Reconciling, reason, format!("waiting: {message}")),
            no(Stalled, Reason::Settled, free),
        ],
        // A request that failed says nothing about the pods: what was said of this very spec still holds, but no earlier failure.
        Standing::Interrupted(message) => {
            let current =
                instance.status.as_ref().is_some_and(|s| s.observed_generation == instance.metadata.generation);
            let ready = stored(instance, Ready).filter(|told| current && told.reason != Reason::ApplyFailed);
            vec![
                ready.unwrap_or_else(|| no(Ready, Reason::ApplyFailed, message.clone())),
                yes(Reconciling, Reason::ApplyFailed, message),
                no(Stalled, Reason::Settled, free),
            ]
        }
        Standing::Stalled(reason, message) => vec![
            no(Ready, reason, message.clone()),
            no(Reconciling, Reason::Settled, settled),
            yes(Stalled, reason, message),
        ],
    }
}

fn standing(instance: &JamInstance, verdict: Verdict<'_>, observed: &Observed) -> Standing {
    match verdict {
        Verdict::Paused => Standing::UnderWay(Reason::PausedBySpec, PAUSED.into()),
        Verdict::Refused(Refusal { reason: Reason::TokensPending, message }) => {
            Standing::UnderWay(Reason::TokensPending, message.clone())
        }
        Verdict::Refused(Refusal { reason, message }) => Standing::Stalled(*reason, message.clone()),
        Verdict::Objected(resolved, refusal) => setback::objected(resolved, observed, refusal),
        Verdict::Interrupted(_, message) => Standing::Interrupted(message.to_owned()),
        Verdict::Applied(resolved) | Verdict::Held(resolved, _) | Verdict::Denied(resolved, _)
            if resolved.migration.is_complete() && is_scaled(instance, resolved, observed) =>
        {
            let (ready, wanted) = observed.api.as_ref().map_or((0, 0), |api| (api.ready, api.wanted));
            Standing::Scaling(format!("{ready} replicas are ready, the autoscaler wants {wanted}"))
        }
        Verdict::Applied(resolved) | Verdict::Held(resolved, _) | Verdict::Denied(resolved, _) => {
            applied(resolved, observed)
        }
    }
}

fn applied(resolved: &Resolved, observed: &Observed) -> Standing {
    match &resolved.migration.step {
        MigrationStep::NotNeeded | MigrationStep::Complete => pods(resolved, observed),
        MigrationStep::Run { job } => Standing::UnderWay(Reason::Migrating, super::facts::migrating(job, observed)),
        MigrationStep::Wait { what } => Standing::UnderWay(Reason::Migrating, earlier_migration(what)),
        MigrationStep::AwaitApproval { key, preview } => {
            Standing::Stalled(Reason::ApprovalNeeded, approval(resolved, key, preview))
        }
        MigrationStep::Never => Standing::Stalled(Reason::MigrationImpossible, failed_migration(resolved, IMPOSSIBLE)),
        MigrationStep::Retry { at } => Standing::Unwell(
            Reason::MigrationFailed,
            failed_migration(resolved, &format!("; the next starts at {}", whole_seconds(*at))),
        ),
    }
}

fn earlier_migration(what: &str) -> String {
    format!("waiting for the end of an earlier migration: {what}")
}

fn approval(resolved: &Resolved, key: &str, preview: &Preview) -> String {
    let (image, name, namespace) = (&resolved.image.reference, &resolved.name, &resolved.namespace);
    let annotation = crate::names::APPROVE_MIGRATION;
    let would = match preview {
        Preview::Asks { job, trouble: None } => format!("Job {job} finds out what it would apply"),
        Preview::Asks { job, trouble: Some(why) } => format!("Job {job} finds out what it would apply: {}", tail(why)),
        Preview::Failed { job, why } => format!("Job {job} could not find out what it would apply: {}", tail(why)),
        Preview::Told { what } => tail(&what.lines().map(str::trim).collect::<Vec<_>>().join("; ")),
    };
    format!(
        "the migration to {image} waits for approval: kubectl annotate -n {namespace} jam/{name} {annotation}={key} --overwrite ({would})"
    )
}

fn failed_migration(resolved: &Resolved, after: &str) -> String {
    let told = resolved.migration.status.as_ref();
    let job = told.map_or("", |told| told.job.as_str());
    let words = tail(told.and_then(|told| told.message.as_deref()).unwrap_or("no message"));
    format!("migration Job {job} failed{after}: {words}")
}

/// The end of last words, from the beginning of a line on: what went wrong stands there, and must not be cut off with the message.
fn tail(words: &str) -> String {
    let over = words.chars().count().saturating_sub(LAST_WORDS);
    if over == 0 {
        return words.to_owned();
    }
    let end: String = words.chars().skip(over).collect();
    let whole = end.split_once('\n').map(|(_, lines)| lines.to_owned()).filter(|lines| !lines.trim().is_empty());
    format!("… {}", whole.unwrap_or(end))
}

fn pods(resolved: &Resolved, observed: &Observed) -> Standing {
    let Some(api) = &observed.api else {
        if let Some((reason, why)) = given_up(resolved).filter(|_| resolved.rollout == Rollout::LeaveAlone) {
            return Standing::Stalled(reason, why);
        }
        return Standing::UnderWay(Reason::RollingOut, format!("Deployment {} is being made", resolved.name));
    };
    if let Some(probe) = observed.database.as_ref().filter(|probe| !probe.reachable && api.ready < api.wanted) {
        return Standing::Unwell(
            Reason::DatabaseUnreachable,
            format!("the database does not answer: {}", probe.message),
        );
    }
    if let Some((reason, why)) = given_up(resolved) {
        return Standing::Stalled(reason, why);
    }
    let trouble = observed.told_trouble();
    let worker = observed.worker.as_ref().filter(|_| resolved.runs_workers());
    let worker_name = crate::names::worker(&resolved.name);
    let stuck = |(name, state): (&str, &DeploymentState)| state.stuck().map(|why| (name.to_owned(), why.to_owned()));
    let both = [Some((resolved.name.as_str(), api)), worker.map(|worker| (worker_name.as_str(), worker))];
    if let Some((name, message)) = both.into_iter().flatten().find_map(stuck) {
        let why = trouble.as_deref().unwrap_or(&message);
        return Standing::Stalled(Reason::RolloutStuck, format!("Deployment {name} makes no progress: {why}"));
    }
    if let Some(unsettled) = progress("Deployment", &resolved.name, api, trouble.as_deref()) {
        return unsettled;
    }
    if let Some(worker) = worker
        && let Some(unsettled) = progress("worker Deployment", &worker_name, worker, trouble.as_deref())
    {
        return unsettled;
    }
    let jam = if resolved.settings.enabled { "" } else { "; JAM is disabled, /jam/* answers 404" };
    match api.wanted {
        0 => Standing::Good(Reason::ScaledToZero, "no replica is wanted".into()),
        1 => Standing::Good(Reason::Serving, format!("1 replica is ready{jam}")),
        n => Standing::Good(Reason::Serving, format!("{n} replicas are ready{jam}")),
    }
}

/// Whether an autoscaler changes the number of pods, and all that were ready are: that makes no instance unready, nor is it one
/// any more when one of these is lost.
fn is_scaled(instance: &JamInstance, resolved: &Resolved, observed: &Observed) -> bool {
    let told = instance.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
    let was_ready = stored(instance, ConditionType::Ready).is_some_and(|told| told.status == "True");
    let serves = resolved.rollout_status.phase == RolloutPhase::Serving && resolved.course == Course::Forward;
    let untroubled = observed.told_trouble().is_none() && observed.lapsed.or(observed.worker_lapsed).is_none();
    let worker = observed.worker.as_ref().filter(|_| resolved.runs_workers());
    (resolved.replicas.is_none() && was_ready && serves && untroubled)
        && worker.is_none_or(DeploymentState::is_settled)
        && observed.api.as_ref().is_some_and(|api| {
            // Of the present template: a rollout has pods of another.
            let of_it = api.updated == api.replicas && api.stuck().is_none() && !api.is_settled();
            of_it && api.ready > 0 && api.ready >= told.min(api.wanted)
        })
}

/// What a Deployment that is not settled waits for; `None` when it is settled.
fn progress(what: &str, name: &str, state: &DeploymentState, trouble: Option<&str>) -> Option<Standing> {
    if state.is_settled() {
        return None;
    }
    let why = trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
    if !state.is_seen() {
        // Its numbers are those of before the change.
        return Some(Standing::UnderWay(Reason::RollingOut, format!("{what} {name}: its change is taken up{why}")));
    }
    let (updated, wanted, available) = (state.updated, state.wanted, state.available);
    let numbers = format!("{what} {name}: {updated} of {wanted} replicas are updated, {available} available");
    let same_revision = state.updated == state.wanted && state.replicas == state.wanted;
    // Pods that have only just started are part of the rollout, unless they are in trouble.
    Some(if same_revision && (state.rolled_out || trouble.is_some()) {
        Standing::Unwell(Reason::PodsNotReady, format!("{numbers}{why}"))
    } else {
        Standing::UnderWay(Reason::RollingOut, format!("{numbers}{why}"))
    })
}

fn migrated(instance: &JamInstance, resolved: Option<&Resolved>, observed: &Observed) -> Said {
    let kind = ConditionType::Migrated;
    let Some(resolved) = resolved else {
        return stored(instance, kind).unwrap_or_else(|| unknown(kind, Reason::NotAsked, "nothing was migrated yet"));
    };
    match &resolved.migration.step {
        MigrationStep::NotNeeded => yes(kind, Reason::NotNeeded, "the memory store has no schema"),
        MigrationStep::Complete => {
            yes(kind, Reason::MigrationComplete, format!("the schema is what {} needs", resolved.image.reference))
        }
        MigrationStep::Run { job } => no(kind, Reason::Migrating, super::facts::migrating(job, observed)),
        MigrationStep::Wait { what } => no(kind, Reason::Migrating, earlier_migration(what)),
        MigrationStep::AwaitApproval { key, preview } => {
            no(kind, Reason::ApprovalNeeded, approval(resolved, key, preview))
        }
        MigrationStep::Never => no(kind, Reason::MigrationImpossible, failed_migration(resolved, IMPOSSIBLE)),
        MigrationStep::Retry { .. } => no(kind, Reason::MigrationFailed, failed_migration(resolved, "")),
    }
}

fn tokens(instance: &JamInstance, resolved: Option<&Resolved>, verdict: Verdict<'_>, observed: &Observed) -> Said {
    let kind = ConditionType::TokensReady;
    if let Verdict::Refused(Refusal { reason: Reason::TokensPending, message }) = verdict {
        return no(kind, Reason::TokensPending, message.clone());
    }
    match resolved {
        None => match super::rotation::revocation_waits(instance, observed, verdict) {
            Some(waits) => no(kind, Reason::RotationHeld, waits),
            None => stored(instance, kind).unwrap_or_else(|| unknown(kind, Reason::NotAsked, "no token was made yet")),
        },
        Some(resolved) => {
            let TokensSaid { ready, reason, message } = super::rotation::said(resolved, observed);
            Said { kind, status: if ready { "True" } else { "False" }, reason, message }
        }
    }
}

fn paused(instance: &JamInstance) -> Said {
    if instance.spec.paused {
        yes(ConditionType::Paused, Reason::PausedBySpec, PAUSED)
    } else {
        no(ConditionType::Paused, Reason::NotPaused, "the operator keeps the instance as its spec says")
    }
}

/// What the stored status says about a condition.
fn stored(instance: &JamInstance, kind: ConditionType) -> Option<Said> {
    let conditions = instance.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let told = conditions.iter().find(|condition| condition.type_ == kind.as_str())?;
    let reason = Reason::ALL.iter().copied().find(|reason| reason.as_str() == told.reason)?;
    let status = match told.status.as_str() {
        "True" => "True",
        "False" => "False",
        _ => "Unknown",
    };
    Some(Said { kind, status, reason, message: told.message.clone() })
}
