//! What is known of the cleanup: its CronJob, and how its newest run ended.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use jam_domain::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job, JobSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;

use super::{CutShort, JobState, LastWords, MigrationJob, instant};
use crate::crd::{CleanupStatus, RealCleanup};
use crate::names;
/// Kinds that are told.
const KINDS: usize = 16;
/// Letters that the name of a kind has at most.
const KIND: usize = 32;

/// The CronJob and its last run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanupState {
    /// Whether it starts no run, whatever the spec says by now.
    pub suspended: bool,
    /// Whether a run is under way.
    pub running: bool,
    /// When it was last known to work: its last start, its last success, or its own making.
    pub since: Option<Timestamp>,
    /// The newest run that ended and did more than count, unless it ended before the one that status tells of.
    pub real: Option<CleanupRun>,
    /// The newest run that ended and only counted, unless it ended before that one.
    pub counted: Option<CleanupRun>,
    /// The ConfigMaps that pods of the CronJob and of runs that have not ended mount.
    pub mounts: BTreeSet<String>,
}

/// A run that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanupRun {
    /// The Job.
    pub job: String,
    /// Whether its pod was told only to count.
    pub dry_run: bool,
    /// When it began.
    pub began_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Its last words, when it failed.
    pub failure: Option<String>,
    /// That its deadline ended it, where that did.
    pub cut_short: Option<CutShort>,
    /// What it said that it did, when it was asked and said so.
    pub outcome: Option<CleanupOutcome>,
}

/// Which run status tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToldRun<'a> {
    /// When it began.
    began: &'a Time,
    /// When it ended; none where an operator said it that told no ends.
    ended: Option<&'a Time>,
}

impl<'a> ToldRun<'a> {
    /// The last run of either kind.
    pub fn last(told: &'a CleanupStatus) -> Option<Self> {
        Some(Self { began: told.last_run.as_ref()?, ended: told.last_ended.as_ref() })
    }

    /// The last one that did more than count.
    pub fn real(told: &'a RealCleanup) -> Self {
        Self { began: &told.last_run, ended: told.last_ended.as_ref() }
    }
}

/// What a run did, as its pod said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct CleanupOutcome {
    /// It only counted.
    pub dry_run: bool,
    /// It did nothing, because another one was running.
    #[serde(default)]
    pub skipped: bool,
    /// Why it did not come to its end; what it did until then stays done.
    #[serde(default)]
    pub error: Option<String>,
    /// What is older was archived; none where retention is 0.
    #[serde(default)]
    pub cutoff: Option<Timestamp>,
    /// How many milliseconds it took.
    #[serde(default)]
    pub duration_ms: Option<i64>,
    /// What it archived, or would have: number by kind.
    #[serde(default)]
    pub archived: BTreeMap<String, i64>,
    /// What it deleted, or would have: number by kind.
    pub deleted: BTreeMap<String, i64>,
}

impl CleanupOutcome {
    /// What a termination message says; `None` when it is none of ours.
    pub fn of(message: &str) -> Option<Self> {
        let mut told: Self = serde_json::from_str(message).ok()?;
        // They are shown: the names of kinds, and nothing else that somebody may have written there.
        let is_kind =
            |kind: &str| kind.len() <= KIND && kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        for counts in [&mut told.archived, &mut told.deleted] {
            counts.retain(|kind, _| is_kind(kind));
            while counts.len() > KINDS {
                counts.pop_last();
            }
        }
        Some(told)
    }
}

impl CleanupOutcome {
    /// What two pods of one run did, `self` after `earlier`. Who only counts has counted the same things before.
    #[must_use]
    fn after(self, earlier: Self) -> Self {
        if self.dry_run {
            return self;
        }
        let Self { dry_run, skipped, error, cutoff, duration_ms, archived, deleted } = self;
        let sum = |mut counts: BTreeMap<String, i64>, more: BTreeMap<String, i64>| {
            for (kind, count) in more {
                let all = counts.entry(kind).or_default();
                *all = all.saturating_add(count);
            }
            counts
        };
        Self {
            dry_run,
            skipped: skipped && earlier.skipped,
            error,
            cutoff: cutoff.or(earlier.cutoff),
            duration_ms: duration_ms.into_iter().chain(earlier.duration_ms).reduce(i64::saturating_add),
            archived: sum(archived, earlier.archived),
            deleted: sum(deleted, earlier.deleted),
        }
    }
}

impl CleanupState {
    /// What the CronJob says, without its runs.
    pub fn of(cron_job: &CronJob) -> Self {
        let status = cron_job.status.as_ref();
        let told = [
            cron_job.metadata.creation_timestamp.as_ref(),
            status.and_then(|status| status.last_schedule_time.as_ref()),
            status.and_then(|status| status.last_successful_time.as_ref()),
        ];
        Self {
            suspended: cron_job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or_default(),
            running: status.and_then(|status| status.active.as_ref()).is_some_and(|active| !active.is_empty()),
            since: told.into_iter().filter_map(instant).max(),
            real: None,
            counted: None,
            mounts: cron_job.spec.iter().flat_map(|spec| mounted(spec.job_template.spec.as_ref())).collect(),
        }
    }

    /// The same, with what runs mount that have not ended: a pod of an earlier revision may still wait for its node.
    #[must_use]
    pub fn with_runs(mut self, jobs: &[Job]) -> Self {
        let unended = jobs.iter().filter(|job| CleanupRun::of(job).is_none());
        self.mounts.extend(unended.flat_map(|job| mounted(job.spec.as_ref())));
        self
    }

    /// Those of these Jobs that ended, without their last words, the newest first.
    pub fn ended(jobs: &[Job]) -> Vec<CleanupRun> {
        let mut all: Vec<_> = jobs.iter().filter_map(CleanupRun::of).collect();
        all.sort_by_key(|run| std::cmp::Reverse((run.ended_at, run.began_at)));
        all
    }
}

/// The ConfigMaps that the pods of a Job mount.
fn mounted(job: Option<&JobSpec>) -> Vec<String> {
    let volumes = job.and_then(|job| job.template.spec.as_ref()?.volumes.as_ref()).into_iter().flatten();
    volumes.filter_map(|volume| Some(volume.config_map.as_ref()?.name.clone())).collect()
}

/// Whether the container of a Job is told only to count.
fn counts(job: Option<&JobSpec>) -> bool {
    let containers = job.and_then(|job| job.template.spec.as_ref()).map(|pod| pod.containers.as_slice());
    let own = containers.unwrap_or_default().iter().filter(|container| container.name == names::CONTAINER);
    own.flat_map(|own| own.args.iter().flatten()).any(|argument| argument == names::DRY_RUN)
}

impl CleanupRun {
    /// The run with the last words of its pods, the newest first: what they did together, also when it failed, or the end of the
    /// last one's log.
    #[must_use]
    pub fn with_words(self, pods: &[LastWords]) -> Self {
        let outcome_of = |pod: &LastWords| pod.text.as_deref().and_then(CleanupOutcome::of);
        let last = pods.first().map(|pod| match (outcome_of(pod), &pod.silence) {
            (Some(outcome), None) => LastWords { text: outcome.error, ..pod.clone() },
            (None, _) | (Some(_), Some(_)) => pod.clone(),
        });
        let said = match &self.cut_short {
            // What is left are the words of a pod before the one that it cut short.
            Some(cut) => Some(cut.told(last.as_ref())),
            None => last.and_then(|last| last.told()),
        };
        let outcome = pods.iter().filter_map(outcome_of).reduce(CleanupOutcome::after);
        let failure = self.failure.map(|told| said.unwrap_or(told));
        Self { failure, outcome, ..self }
    }

    fn of(job: &Job) -> Option<Self> {
        let told = MigrationJob::of(job, None);
        let failure = match told.state {
            JobState::Running => return None,
            JobState::Complete => None,
            JobState::Failed { exit_code: _, message } => Some(message),
        };
        let began_at = instant(job.status.as_ref().and_then(|status| status.start_time.as_ref()));
        let dry_run = counts(job.spec.as_ref());
        let (ended_at, cut_short) = (told.finished_at, CutShort::of(job));
        Some(Self { job: told.name, dry_run, began_at, ended_at, failure, cut_short, outcome: None })
    }

    /// Whether it ended before the run that is told, is that one, or ended after it and is news. Within one second, which is as fine as
    /// Kubernetes tells it, the one that began first counts as ended first. By the begins alone where an end is unknown.
    pub fn against(&self, told: Option<ToldRun<'_>>) -> Ordering {
        let Some(ToldRun { began, ended }) = told else { return Ordering::Greater };
        let second = |at: Timestamp| at.as_micros().div_euclid(1_000_000);
        let begins = self.began_at.or(self.ended_at).map(second).cmp(&Some(began.0.as_second()));
        let ends = self.ended_at.zip(ended).map(|(at, told)| second(at).cmp(&told.0.as_second()));
        ends.map_or(begins, |ends| ends.then(begins))
    }

    /// Whether it did nothing, because another one was running.
    pub fn was_beside(&self) -> bool {
        self.failure.is_none() && self.outcome.as_ref().is_some_and(|outcome| outcome.skipped)
    }
}
