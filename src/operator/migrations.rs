//! What is read of migrations: their Jobs, how those ended, and what a dry run said.

use futures::future::try_join_all;
use jam_plan::names;
use jam_plan::observed::{JobState, MigrationJob, MigrationPreview, PreviewSaid};
use k8s_openapi::api::batch::v1::Job;
use kube::{Api, ResourceExt};

use super::context::Context;
use super::error::Error;
use super::key::Key;
use super::pods;

/// The Jobs of an instance's migrations.
#[derive(Debug, Default)]
pub struct Seen {
    /// Those that migrate.
    pub jobs: Vec<MigrationJob>,
    /// Those that only say what they would do.
    pub previews: Vec<MigrationPreview>,
}

/// Reads the Jobs of these names; one that is of no migration is passed over.
pub async fn look(context: &Context, instance: &Key, names: &[String]) -> Result<Seen, Error> {
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &instance.namespace);
    let read = names.iter().map(|name| {
        let jobs = &jobs;
        async move { jobs.get_opt(name).await.map_err(Error::read(format_args!("Job {name}"))) }
    });
    let mut seen = Seen::default();
    for job in try_join_all(read).await?.into_iter().flatten() {
        if job.labels().contains_key(names::MIGRATION_KEY) {
            seen.jobs.push(migration(context, instance, &job).await);
        } else if job.labels().contains_key(names::MIGRATION_PREVIEW) {
            seen.previews.push(preview(context, instance, &job).await);
        }
    }
    Ok(seen)
}

async fn migration(context: &Context, instance: &Key, job: &Job) -> MigrationJob {
    let told = MigrationJob::of(job, None, None);
    match told.state {
        JobState::Failed { .. } => {
            let words = pods::last_words(context, instance, &told.name).await;
            MigrationJob::of(job, words.exit_code, words.text.as_deref())
        }
        JobState::Running | JobState::Complete => told,
    }
}

async fn preview(context: &Context, instance: &Key, job: &Job) -> MigrationPreview {
    let told = MigrationPreview::of(job, None);
    match told.said {
        PreviewSaid::Nothing => told,
        PreviewSaid::Would(_) | PreviewSaid::Failed(_) => {
            let words = pods::last_words(context, instance, &told.job).await;
            MigrationPreview::of(job, words.text.as_deref())
        }
    }
}
