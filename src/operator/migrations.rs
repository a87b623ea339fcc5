//! What is read of migrations: their Jobs, how those ended, and what a dry run said.

use futures::future::try_join_all;
use jam_plan::names::{self, Component};
use jam_plan::observed::{JobState, MigrationJob, MigrationPreview, PreviewSaid};
use jam_plan::resolve::MigrationStep;
use jam_plan::{Desired, Kind, Objects, Observed, Resolved};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::context::Context;
use super::error::Error;
use super::key::Key;
use super::last_words;
use super::observe::Finding;
use super::words::Discretion;

/// The Jobs of an instance's migrations.
#[derive(Debug, Default)]
pub struct Seen {
    /// Those that migrate.
    pub jobs: Vec<MigrationJob>,
    /// Those that only say what they would do.
    pub previews: Vec<MigrationPreview>,
    /// What keeps the one that runs from its end, where its pod says so.
    pub trouble: Option<String>,
}

/// Reads the Jobs of these names; one that is of no migration is passed over.
pub async fn look(
    context: &Context,
    instance: &Key,
    names: &[String],
    discretion: &Discretion<'_>,
) -> Result<Seen, Error> {
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &instance.namespace);
    let read = names.iter().map(|name| {
        let jobs = &jobs;
        async move { jobs.get_opt(name).await.map_err(Error::read(format_args!("Job {name}"))) }
    });
    let mut seen = Seen::default();
    for job in try_join_all(read).await?.into_iter().flatten() {
        if job.labels().contains_key(names::MIGRATION_KEY) {
            seen.jobs.push(migration(context, instance, &job, discretion).await);
        } else if job.labels().contains_key(names::MIGRATION_PREVIEW) {
            seen.previews.push(preview(context, instance, &job, discretion).await);
        }
    }
    if let Some(running) = seen.jobs.iter().find(|job| job.state == JobState::Running) {
        seen.trouble = last_words::trouble_of_job(context, instance, &running.name, discretion).await;
    }
    Ok(seen)
}

/// The pods of an instance's migrations that have not ended, whether their Job is there or not; without those of `job`, which
/// is there and not known where somebody took its labels off.
pub async fn unfinished(context: &Context, instance: &Key, job: &str) -> Result<Vec<String>, Error> {
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &instance.namespace);
    let job = jobs.get_opt(job).await.map_err(Error::read(format_args!("Job {job}")))?.and_then(|job| job.uid());
    let own = |pod: &Pod| pod.owner_references().iter().any(|owner| Some(&owner.uid) == job.as_ref());
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &instance.namespace);
    let labels = names::written(&names::selector(&instance.name, Component::Migration));
    let found = pods.list(&ListParams::default().labels(&labels)).await.map_err(Error::read("the migrations' pods"))?;
    let dry = |pod: &Pod| pod.labels().get(last_words::OF_JOB).is_some_and(|job| names::is_migration_preview(job));
    Ok(found.items.iter().filter(|pod| !has_ended(pod) && !dry(pod) && !own(pod)).map(described).collect())
}

/// A migration's Job that was there when this walk began and went meanwhile is not made by it: nobody has looked for its pods.
pub fn hold_back(resolved: &Resolved, observed: &Observed, objects: &Objects<Desired>, findings: &mut [Finding]) {
    let MigrationStep::Run { job } = &resolved.migration.step else { return };
    if resolved.migration.begins(observed).is_some() {
        return;
    }
    for (desired, finding) in objects.items.iter().zip(findings) {
        if desired.object.kind == Kind::Job && desired.object.name == *job && matches!(finding, Finding::Absent) {
            *finding = Finding::Leaving { why: "a look for its pods: it was deleted just now".into() };
        }
    }
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn described(pod: &Pod) -> String {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("no node");
    let how = if pod.metadata.deletion_timestamp.is_some() { "on its way out, " } else { "" };
    format!("{} ({how}on {node})", pod.name_any())
}

async fn migration(context: &Context, instance: &Key, job: &Job, discretion: &Discretion<'_>) -> MigrationJob {
    let told = MigrationJob::of(job, None);
    match told.state {
        JobState::Failed { .. } => {
            let words = last_words::of_job(context, instance, &told.name, discretion).await;
            MigrationJob::of(job, Some(&words))
        }
        JobState::Running | JobState::Complete => told,
    }
}

async fn preview(context: &Context, instance: &Key, job: &Job, discretion: &Discretion<'_>) -> MigrationPreview {
    let told = MigrationPreview::of(job, None);
    match told.said {
        PreviewSaid::Nothing => {
            let trouble = last_words::trouble_of_job(context, instance, &told.job, discretion).await;
            MigrationPreview { trouble: trouble.or(told.trouble), ..told }
        }
        PreviewSaid::Would(_) | PreviewSaid::Failed(_) => {
            let words = last_words::of_job(context, instance, &told.job, discretion).await;
            match (words.silence.is_some(), words.told()) {
                // Nobody approves what is left out: it is asked for again.
                (true, Some(why)) => MigrationPreview { said: PreviewSaid::Failed(why), ..told },
                (_, _) => MigrationPreview::of(job, Some(&words)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_the_kubelet_has_seen_end_has_ended() {
        for (status, ended) in [
            (json!({"phase": "Succeeded"}), true),
            (json!({"phase": "Failed"}), true),
            (json!({"phase": "Running"}), false),
            (json!({"phase": "Unknown"}), false),
            (json!({}), false),
        ] {
            let metadata = json!({"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"});
            let pod: Pod = serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap();
            assert_eq!(has_ended(&pod), ended, "{status}");
            assert_eq!(described(&pod), "a (on its way out, on no node)");
        }
    }
}
