//! What is read of the cleanup: its CronJob, and how the newest of its Jobs ended.

use jam_plan::observed::{CleanupRun, CleanupState};
use jam_plan::{JamInstance, Kind, ObjectRef, names};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::Api;
use kube::api::ListParams;

use super::context::Context;
use super::error::Error;
use super::key::Key;
use super::last_words;
use super::words::Discretion;

/// The cleanup of an instance, when it has a CronJob that the watches know.
pub async fn look(
    context: &Context,
    instance: &JamInstance,
    discretion: &Discretion<'_>,
) -> Result<Option<CleanupState>, Error> {
    let told = instance.status.as_ref().and_then(|status| status.cleanup.as_ref()?.last_run.as_ref());
    let told = told.map(|at| at.0.as_second());
    let instance = &Key::of(instance);
    let object = ObjectRef { kind: Kind::CronJob, name: names::cleanup(&instance.name) };
    if context.children.mark(instance, &object).is_none() {
        return Ok(None);
    }
    let cron_jobs: Api<CronJob> = Api::namespaced(context.client.clone(), &instance.namespace);
    let Some(cron_job) = cron_jobs.get_opt(&object.name).await.map_err(Error::read(&object))? else { return Ok(None) };
    let uid = cron_job.metadata.uid.as_deref().unwrap_or_default();
    // By the label and not by the controller: a Job that somebody made by hand from the CronJob has none.
    let ran = context.children.of(instance).iter().any(|child| child.object.kind == Kind::Job);
    let jobs = if ran { runs(context, instance, uid).await? } else { Vec::new() };
    let last = newest(context, instance, &jobs, told, discretion).await;
    Ok(Some(CleanupState::of(&cron_job, last).with_runs(&jobs)))
}

/// The Jobs of this CronJob.
async fn runs(context: &Context, instance: &Key, uid: &str) -> Result<Vec<Job>, Error> {
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &instance.namespace);
    let selector = ListParams::default().labels(&names::child_selector(&instance.name));
    let mut jobs = jobs.list(&selector).await.map_err(Error::read("the Jobs of the cleanup"))?.items;
    jobs.retain(|job| job.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid));
    Ok(jobs)
}

/// The newest of these runs that ended, with its last words when it failed or when that is news: `told` is
/// the second in which the run that status tells of began.
async fn newest(
    context: &Context,
    instance: &Key,
    jobs: &[Job],
    told: Option<i64>,
    discretion: &Discretion<'_>,
) -> Option<CleanupRun> {
    let run = CleanupState::newest(jobs)?;
    let began = run.began_at.map(|at| at.as_micros().div_euclid(1_000_000));
    let is_told =
        began.is_some_and(|began| told.is_some_and(|told| began < told || (began == told && run.failure.is_none())));
    if is_told {
        return Some(run);
    }
    let words = last_words::all_of_job(context, instance, &run.job, discretion).await;
    Some(run.with_words(&words))
}
