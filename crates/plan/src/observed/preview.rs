//! What a migration would apply, as the dry run of its image said.

use k8s_openapi::api::batch::v1::Job;

use super::{JobState, LastWords, MigrationJob, SUSPENDED};

/// Whether these words of a dry run say that the schema is the one that its image needs: `jam-api migrate --dry-run` says so in
/// one line.
pub fn applies_nothing(words: &str) -> bool {
    words.trim() == "nothing would apply"
}

/// The dry run of a migration that waits for approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationPreview {
    /// The Job.
    pub job: String,
    /// What it said.
    pub said: PreviewSaid,
    /// What keeps it from saying anything, where its pod says so.
    pub trouble: Option<String>,
}

/// What the dry run of a migration said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PreviewSaid {
    /// Nothing yet.
    Nothing,
    /// What would be applied, a line for each migration.
    Would(String),
    /// Why it could not be found out.
    Failed(String),
}

impl MigrationPreview {
    /// What a Job says, and its last pod.
    pub fn of(job: &Job, pod: Option<&LastWords>) -> Self {
        let MigrationJob { name, state, suspended, key: _, attempt: _, finished_at: _, has_pod: _ } =
            MigrationJob::of(job, pod);
        let said = match state {
            JobState::Running => PreviewSaid::Nothing,
            // An image of an older release leaves no words.
            JobState::Complete => {
                let words = pod.and_then(LastWords::told);
                PreviewSaid::Would(words.unwrap_or_else(|| "it does not say what".to_owned()))
            }
            JobState::Failed { exit_code: _, message } => PreviewSaid::Failed(message),
        };
        let trouble = suspended.then(|| format!("it {SUSPENDED}"));
        Self { job: name, said, trouble }
    }
}
