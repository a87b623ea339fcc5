//! What is read of the cleanup: its CronJob, and how the newest of its Jobs ended.

use jam_plan::observed::{CleanupRun, CleanupState};
use jam_plan::{Kind, ObjectRef, names};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::Api;
use kube::api::ListParams;

use super::context::Context;
use super::error::Error;
use super::key::Key;
use super::pods;

/// The cleanup of an instance, when it has a CronJob that the watches know.
pub async fn look(context: &Context, instance: &Key) -> Result<Option<CleanupState>, Error> {
    let object = ObjectRef { kind: Kind::CronJob, name: names::cleanup(&instance.name) };
    if context.children.mark(instance, &object).is_none() {
        return Ok(None);
    }
    let cron_jobs: Api<CronJob> = Api::namespaced(context.client.clone(), &instance.namespace);
    let Some(cron_job) = cron_jobs.get_opt(&object.name).await.map_err(Error::read(&object))? else { return Ok(None) };
    let uid = cron_job.metadata.uid.as_deref().unwrap_or_default();
    let ran = context.children.of(instance).iter().any(|child| child.controller.as_deref() == Some(uid));
    let last = if ran { newest(context, instance, uid).await? } else { None };
    Ok(Some(CleanupState::of(&cron_job, last)))
}

/// The newest run of this CronJob that ended, with its last words when it failed.
async fn newest(context: &Context, instance: &Key, uid: &str) -> Result<Option<CleanupRun>, Error> {
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &instance.namespace);
    let selector = ListParams::default().labels(&names::child_selector(&instance.name));
    let mut jobs = jobs.list(&selector).await.map_err(Error::read("the Jobs of the cleanup"))?.items;
    jobs.retain(|job| job.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid));
    let Some(run) = CleanupState::newest(&jobs) else { return Ok(None) };
    let failure = match run.failure {
        None => None,
        Some(told) => Some(pods::last_words(context, instance, &run.job).await.text.unwrap_or(told)),
    };
    Ok(Some(CleanupRun { failure, ..run }))
}
