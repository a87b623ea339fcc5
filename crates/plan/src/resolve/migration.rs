//! Which migration an image and a database need, and whether it is done: the gate before every new version.

#[cfg(test)]
mod tests;

use jam_domain::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{ResolvedDatabase, ResolvedImage, name_of};
use crate::crd::{JamInstance, MigrationMode, MigrationState, MigrationStatus};
use crate::names;
use crate::observed::{JobState, MigrationJob, Observed, PodSchema, PreviewSaid, SUSPENDED, applies_nothing, end_of};
use crate::status::whole_seconds;

/// Seconds before the second Job of a key; doubled for each further one.
const FIRST_DELAY: i64 = 30;
/// Most seconds between two Jobs of a key.
const LONGEST_DELAY: i64 = 3600;
/// The same while all that is wrong is that the database does not answer: it is to heal without a hand.
const LONGEST_WAIT: i64 = 300;

/// The migration of one image and one database.
#[derive(Debug, Clone, PartialEq)]
pub struct MigrationPlan {
    /// What is to be done now.
    pub step: MigrationStep,
    /// What is said about it; `None` with the memory store.
    pub status: Option<MigrationStatus>,
}

/// What is to be done about a migration now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MigrationStep {
    /// Nothing: the store has no schema.
    NotNeeded,
    /// Nothing: it is complete.
    Complete,
    /// This Job is to be there.
    Run {
        /// The Job.
        job: String,
    },
    /// Another migration of this instance still runs: its end is waited for, two never run at once.
    Wait {
        /// The Job, or the pod that its Job has left behind.
        what: String,
    },
    /// The last Job failed; the next one starts at the given time.
    Retry {
        /// When.
        at: Timestamp,
    },
    /// The mode is Manual and nobody has approved this migration yet.
    AwaitApproval {
        /// What the annotation has to say.
        key: String,
        /// What it would apply.
        preview: Preview,
    },
    /// The last Job said that no further one can succeed: the image or the database must change.
    Never,
}

/// What is known of what a migration would apply that nobody has approved yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preview {
    /// This Job is to be there, to find out.
    Asks {
        /// The Job.
        job: String,
        /// What keeps it from finding out, where anybody says so.
        trouble: Option<String>,
    },
    /// The Job could not find out; it is made again when its time to live is over.
    Failed {
        /// The Job.
        job: String,
        /// Its last words.
        why: String,
    },
    /// It is known: status remembers it when the Job is gone.
    Told {
        /// A line for each migration.
        what: String,
    },
}

impl MigrationPlan {
    /// The Job that is to be made: it is not known, so a pod of a migration that runs is of an earlier one.
    pub fn begins(&self, observed: &Observed) -> Option<&str> {
        match &self.step {
            MigrationStep::Run { job } => {
                Some(job.as_str()).filter(|job| observed.migration_jobs.iter().all(|there| there.name != *job))
            }
            MigrationStep::NotNeeded
            | MigrationStep::Complete
            | MigrationStep::Wait { .. }
            | MigrationStep::Retry { .. }
            | MigrationStep::AwaitApproval { .. }
            | MigrationStep::Never => None,
        }
    }

    /// Whether pods of the wanted image may start.
    pub fn is_complete(&self) -> bool {
        match self.step {
            MigrationStep::NotNeeded | MigrationStep::Complete => true,
            MigrationStep::Run { .. }
            | MigrationStep::Wait { .. }
            | MigrationStep::Retry { .. }
            | MigrationStep::AwaitApproval { .. }
            | MigrationStep::Never => false,
        }
    }
}

/// Decides about the migration from what is stored in status and the Jobs that are there.
///
/// Status remembers what Jobs no longer say, because finished ones are removed after a day: a completed key stays
/// complete, and the number of failed attempts survives a restart of the operator.
pub(super) fn plan(
    instance: &JamInstance,
    observed: &Observed,
    image: &ResolvedImage,
    database: Option<&ResolvedDatabase>,
) -> MigrationPlan {
    let Some(database) = database else {
        return MigrationPlan { step: MigrationStep::NotNeeded, status: None };
    };
    let key = names::short_hash([image.reference.as_bytes(), database.dsn_hash.as_bytes()]);
    let stored = instance.status.as_ref().and_then(|status| status.migration.clone()).filter(|told| told.key == key);
    let newest = observed.migration_jobs.iter().filter(|job| job.key == key).max_by_key(|job| job.attempt);
    let name = name_of(instance);
    let told = match (stored, newest) {
        (Some(told), None) => told,
        (Some(told), Some(job)) if told.attempt > job.attempt => told,
        (Some(told), Some(job)) if told.attempt == job.attempt && is_still_so(&told, job) => told,
        (_, Some(job)) => told_by(job, &image.reference, impossible_for(instance, &job.name)),
        // Status keeps one key. What serves has the schema that it needs, whatever was tried after it.
        (None, None) if serves(observed, image, database) => {
            MigrationStatus { state: MigrationState::Complete, ..begun(&name, &key, &image.reference, 0) }
        }
        (None, None) => begun(&name, &key, &image.reference, 0),
    };
    let next = |told: &MigrationStatus| run(instance, observed, begun(&name, &key, &image.reference, told.attempt + 1));
    match told.state {
        MigrationState::Complete if is_lost(&told, observed) => next(&told),
        MigrationState::Complete => MigrationPlan { step: MigrationStep::Complete, status: Some(told) },
        MigrationState::Pending | MigrationState::Running => run(instance, observed, told),
        MigrationState::Impossible if is_asked_again(instance, &told) => next(&told),
        MigrationState::Impossible => MigrationPlan { step: MigrationStep::Never, status: Some(told) },
        MigrationState::Failed => {
            let at = told.retry_at.as_ref().map_or(observed.at, |Time(at)| Timestamp::from_jiff(*at));
            if observed.at < at {
                return MigrationPlan { step: MigrationStep::Retry { at }, status: Some(told) };
            }
            next(&told)
        }
    }
}

/// Whether nothing is to be learnt from the Job any more: it is complete, or it failed and its pod, which said how, is gone since.
fn is_still_so(told: &MigrationStatus, job: &MigrationJob) -> bool {
    match (told.state, &job.state) {
        (MigrationState::Complete, _) => true,
        (MigrationState::Failed, JobState::Failed { .. }) => !job.has_pod,
        _ => false,
    }
}

/// Whether ready pods run this very image on this very database: a pod is ready only on a schema that serves it.
fn serves(observed: &Observed, image: &ResolvedImage, database: &ResolvedDatabase) -> bool {
    observed.api.as_ref().is_some_and(|api| {
        let same = api.image.as_ref() == Some(&image.reference) && api.dsn_hash.as_ref() == Some(&database.dsn_hash);
        same && api.rolled_out && api.ready > 0
    })
}

/// Whether a migration that no further Job could bring to its end is to be tried once more: the spec has changed since it was
/// told of, or somebody who has put right what stood in the way names the Job that failed.
fn is_asked_again(instance: &JamInstance, told: &MigrationStatus) -> bool {
    let changed = impossible_for(instance, &told.job) != instance.metadata.generation;
    changed || instance.annotations().get(names::RETRY_MIGRATION) == Some(&told.job)
}

/// The generation of the spec for which it was told that this Job found its migration impossible; the present one, when that is
/// to be told now. What was observed since does not count: a walk that was refused has seen a change and not tried it.
fn impossible_for(instance: &JamInstance, job: &str) -> Option<i64> {
    let status = instance.status.as_ref();
    let told = status.and_then(|status| status.migration.as_ref());
    match told.filter(|told| told.job == job && told.state == MigrationState::Impossible) {
        // A release before this one did not keep it.
        Some(told) => told.generation.or(status?.observed_generation),
        None => instance.metadata.generation,
    }
}

/// Whether pods find an older schema than the completed migration left: the database was replaced or restored from a
/// backup. They are believed when they had the time to look again, each time a longer one.
fn is_lost(told: &MigrationStatus, observed: &Observed) -> bool {
    let ended = told.finished_at.as_ref().map(|Time(at)| Timestamp::from_jiff(*at));
    let patience_is_over = ended.is_none_or(|at| observed.at >= at.plus_seconds(delay(told.attempt)));
    observed.pod_schema.is_some_and(PodSchema::is_behind) && patience_is_over
}

/// The Job of `told` is to be there, unless another one still runs or somebody has to approve it first.
fn run(instance: &JamInstance, observed: &Observed, told: MigrationStatus) -> MigrationPlan {
    let other = observed.migration_jobs.iter().find(|job| job.name != told.job && job.state == JobState::Running);
    let made = observed.migration_jobs.iter().find(|job| job.name == told.job);
    let (begun, suspended) = (made.is_some(), made.is_some_and(|job| job.suspended));
    let state = if begun && !suspended { MigrationState::Running } else { MigrationState::Pending };
    let message = suspended.then(|| format!("Job {} {SUSPENDED}", told.job));
    let told = MigrationStatus { state, message, ..told };
    let approved = match instance.spec.migrations.mode {
        MigrationMode::Auto => true,
        // By key: an approval is for one image and one database, never for what comes later.
        MigrationMode::Manual => instance.annotations().get(names::APPROVE_MIGRATION) == Some(&told.key),
    };
    // A Job that is there was made when no pod was left; what runs now is its own.
    let left = observed.migration_pods.first().filter(|_| !begun);
    let step = match (other, left) {
        (Some(other), _) => MigrationStep::Wait { what: format!("Job {}", other.name) },
        (None, _) if !begun && !approved => return await_approval(&name_of(instance), observed, told),
        (None, Some(pod)) => MigrationStep::Wait { what: format!("pod {pod}") },
        (None, None) => MigrationStep::Run { job: told.job.clone() },
    };
    MigrationPlan { step, status: Some(told) }
}

/// Nobody has approved it yet: the dry run of its image says what it would apply.
fn await_approval(instance: &str, observed: &Observed, told: MigrationStatus) -> MigrationPlan {
    let job = names::migration_preview(instance, &told.key);
    let asked = observed.migration_previews.iter().find(|preview| preview.job == job);
    let preview = match (asked.map(|preview| &preview.said), &told.would_apply) {
        (Some(PreviewSaid::Would(what)), _) => Preview::Told { what: end_of(what) },
        (_, Some(what)) => Preview::Told { what: what.clone() },
        (Some(PreviewSaid::Failed(why)), None) => Preview::Failed { job, why: end_of(why) },
        (Some(PreviewSaid::Nothing) | None, None) => {
            Preview::Asks { job, trouble: asked.and_then(|preview| preview.trouble.clone()) }
        }
    };
    let runs = observed.api.as_ref().is_some_and(|api| api.image.as_ref() == Some(&told.image));
    if let Preview::Told { what } = &preview
        && applies_nothing(what)
        && runs
    {
        // What runs has another DSN, and has found the schema that it needs there: nothing to approve, and nothing to run.
        let (state, finished_at) = (MigrationState::Complete, Some(Time(whole_seconds(observed.at))));
        let status = MigrationStatus { state, finished_at, would_apply: Some(what.clone()), ..told };
        return MigrationPlan { step: MigrationStep::Complete, status: Some(status) };
    }
    let would_apply = match &preview {
        Preview::Told { what } => Some(what.clone()),
        Preview::Asks { .. } | Preview::Failed { .. } => None,
    };
    let step = MigrationStep::AwaitApproval { key: told.key.clone(), preview };
    MigrationPlan { step, status: Some(MigrationStatus { would_apply, ..told }) }
}

fn begun(instance: &str, key: &str, image: &str, attempt: i32) -> MigrationStatus {
    MigrationStatus {
        key: key.to_owned(),
        image: image.to_owned(),
        attempt,
        job: names::migration_job(instance, key, attempt),
        state: MigrationState::Pending,
        message: None,
        would_apply: None,
        generation: None,
        finished_at: None,
        retry_at: None,
    }
}

fn told_by(job: &MigrationJob, image: &str, generation: Option<i64>) -> MigrationStatus {
    let (state, message) = match &job.state {
        JobState::Running => (MigrationState::Running, None),
        JobState::Complete => (MigrationState::Complete, None),
        JobState::Failed { exit_code: Some(3), message } => (MigrationState::Impossible, Some(end_of(message))),
        JobState::Failed { exit_code: _, message } => (MigrationState::Failed, Some(end_of(message))),
    };
    let retry_at = match (state, job.finished_at) {
        (MigrationState::Failed, Some(at)) if job.state.lacks_database() => {
            Some(at.plus_seconds(delay(job.attempt).min(LONGEST_WAIT)))
        }
        (MigrationState::Failed, Some(at)) => Some(at.plus_seconds(delay(job.attempt))),
        (
            MigrationState::Pending
            | MigrationState::Running
            | MigrationState::Complete
            | MigrationState::Failed
            | MigrationState::Impossible,
            _,
        ) => None,
    };
    MigrationStatus {
        key: job.key.clone(),
        image: image.to_owned(),
        attempt: job.attempt,
        job: job.name.clone(),
        state,
        message,
        would_apply: None,
        generation: generation.filter(|_| state == MigrationState::Impossible),
        finished_at: job.finished_at.map(|at| Time(at.to_jiff())),
        retry_at: retry_at.map(|at| Time(at.to_jiff())),
    }
}

fn delay(attempt: i32) -> i64 {
    let doublings = u32::try_from(attempt.clamp(0, 16)).unwrap_or_default();
    (FIRST_DELAY << doublings).min(LONGEST_DELAY)
}
