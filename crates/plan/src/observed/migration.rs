//! What is known of a migration's Job, and of any Job that ended.

use jam_domain::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition};

use super::{LastWords, instant, noted};
use crate::names;

/// Why the Job controller ends what its deadline ends.
const DEADLINE: &str = "DeadlineExceeded";
/// What follows the name of a Job that is suspended.
pub const SUSPENDED: &str = "is suspended: it runs when its spec.suspend is false";

/// A migration Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationJob {
    /// Its name.
    pub name: String,
    /// What it migrates.
    pub key: String,
    /// How many failed before it.
    pub attempt: i32,
    /// Where it stands.
    pub state: JobState,
    /// Whether it has no pod because somebody else, such as a queue for Jobs, has suspended it.
    pub suspended: bool,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Whether a pod of it is left that says how it ended.
    pub has_pod: bool,
}

/// Where a Job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// It has not ended.
    Running,
    /// It ended well.
    Complete,
    /// It failed for good.
    Failed {
        /// The exit code of its last pod, where known; 3 means that it can never succeed.
        exit_code: Option<i32>,
        /// Its last words.
        message: String,
    },
}

impl JobState {
    /// Whether a migration failed only because its database did not answer: `jam-api migrate` exits with 1 for nothing else.
    pub fn lacks_database(&self) -> bool {
        match self {
            Self::Failed { exit_code, message: _ } => *exit_code == Some(1),
            Self::Running | Self::Complete => false,
        }
    }
}

impl MigrationJob {
    /// What a Job says, and the newest of its pods that is still there and has ended.
    pub fn of(job: &Job, pod: Option<&LastWords>) -> Self {
        let exit_code = pod.and_then(|pod| pod.exit_code);
        let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let met =
            |kind: &str| conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True");
        let (state, finished_at) = match (met("Complete"), met("Failed")) {
            (Some(complete), _) => (JobState::Complete, instant(complete.last_transition_time.as_ref())),
            (None, Some(failed)) => {
                let message = match CutShort::of(job) {
                    Some(cut) => cut.told(pod),
                    None => pod.and_then(LastWords::told).unwrap_or_else(|| said(failed)),
                };
                // The Job's own words about its pod stay when that is gone.
                let exit_code = match failed.reason.as_deref() {
                    Some("PodFailurePolicy") => exit_code.or_else(|| Some(policed(failed.message.as_deref()))),
                    Some(DEADLINE) => None,
                    Some(_) | None => exit_code,
                };
                (JobState::Failed { exit_code, message }, instant(failed.last_transition_time.as_ref()))
            }
            (None, None) => (JobState::Running, None),
        };
        Self {
            name: job.metadata.name.clone().unwrap_or_default(),
            key: noted(job.metadata.labels.as_ref(), names::MIGRATION_KEY).unwrap_or_default(),
            attempt: noted(job.metadata.annotations.as_ref(), names::MIGRATION_ATTEMPT)
                .and_then(|text| text.parse().ok())
                .unwrap_or_default(),
            suspended: state == JobState::Running && job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true)),
            state,
            finished_at,
            has_pod: pod.is_some_and(|pod| pod.exit_code.is_some()),
        }
    }
}

/// What Kubernetes says of the end of a Job.
fn said(failed: &JobCondition) -> String {
    let words = [&failed.reason, &failed.message].into_iter().flatten().cloned().collect::<Vec<_>>();
    words.join(": ")
}

/// That its deadline ended a Job. Kubernetes deletes the pod that still ran, and its last words with it: how much of the time it had, where
/// another one was before it, and what that one said, is all that is left (adr/0050).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutShort {
    said: String,
    deadline: Option<Timestamp>,
    /// How many pods failed.
    failed: i32,
}

impl CutShort {
    /// Of a Job that its deadline ended.
    pub(super) fn of(job: &Job) -> Option<Self> {
        let status = job.status.as_ref()?;
        let by_deadline = |condition: &&JobCondition| {
            condition.type_ == "Failed" && condition.status == "True" && condition.reason.as_deref() == Some(DEADLINE)
        };
        let failed = status.conditions.iter().flatten().find(by_deadline)?;
        let limit = job.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        let began = instant(status.start_time.as_ref());
        Some(Self {
            said: limit.map_or_else(|| said(failed), |limit| format!("{} of {limit} s", said(failed))),
            deadline: began.zip(limit).map(|(began, limit)| began.plus_seconds(limit)),
            failed: status.failed.unwrap_or_default(),
        })
    }

    /// In words, with those of the newest of its pods that is still there.
    pub(super) fn told(&self, pod: Option<&LastWords>) -> String {
        let Self { said, deadline, failed } = self;
        let ended = pod.and_then(|pod| pod.ended_at);
        let left = deadline.zip(ended).map(|(deadline, ended)| (deadline.as_micros() - ended.as_micros()) / 1_000_000);
        let words = pod.and_then(LastWords::told);
        let (whose, words) = match (left, words) {
            (Some(..=0), Some(words)) => return format!("{said}; its pod said: {words}"),
            (Some(left @ 1..), words) => (format!("its last pod had {left} s of that and left no words"), words),
            (Some(..=0) | None, words) => ("its last pod left no words".to_owned(), words),
        };
        match words {
            Some(words) => format!("{said}; {whose}; a pod before it said: {words}"),
            None if *failed > 1 => format!("{said}; {whose}, nor did one before it"),
            None => format!("{said}; {whose}"),
        }
    }
}

/// The exit code at which a Job's failure policy ended it: "Container jam for pod jam/x failed with exit code 124 matching FailJob
/// rule at index 1". The policies of earlier operators had one code, 3.
fn policed(message: Option<&str>) -> i32 {
    let named = message.and_then(|message| message.split_once("exit code "));
    let digits = named.map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(3)
}
