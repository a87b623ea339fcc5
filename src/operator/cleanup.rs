//! What is read of the cleanup: its CronJob, and how the newest of its Jobs ended.

use std::cmp::Ordering;

use jam_plan::crd::CleanupStatus;
use jam_plan::observed::{CleanupRun, CleanupState, ToldRun};
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
    let told = instance.status.as_ref().and_then(|status| status.cleanup.as_ref());
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
    let (real, counted) = newest(context, instance, &jobs, told, discretion).await;
    Ok(Some(CleanupState { real, counted, ..CleanupState::of(&cron_job).with_runs(&jobs) }))
}

/// The Jobs of this CronJob.
async fn runs(context: &Context, instance: &Key, uid: &str) -> Result<Vec<Job>, Error> {
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &instance.namespace);
    let selector = ListParams::default().labels(&names::child_selector(&instance.name));
    let mut jobs = jobs.list(&selector).await.map_err(Error::read("the Jobs of the cleanup"))?.items;
    jobs.retain(|job| job.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid));
    Ok(jobs)
}

/// The newest of these runs that ended and did more than count, unless it ended before the one that is told, and the newest that only
/// counted, unless it ended before that one.
async fn newest(
    context: &Context,
    instance: &Key,
    jobs: &[Job],
    told: Option<&CleanupStatus>,
    discretion: &Discretion<'_>,
) -> (Option<CleanupRun>, Option<CleanupRun>) {
    let (dry, real): (Vec<_>, Vec<_>) = CleanupState::ended(jobs).into_iter().partition(|run| run.dry_run);
    let known = told.and_then(CleanupStatus::real);
    let told_real = known.as_ref().map(ToldRun::real);
    let (mut did, mut beside) = (None, None);
    // What ended before the one that is told is no news, and hides none.
    for run in real.into_iter().filter(|run| run.against(told_real) != Ordering::Less) {
        let run = spoken(context, instance, run, told_real, discretion).await;
        if run.was_beside() {
            // It says nothing of the one before it, which may have failed.
            beside = beside.or(Some(run));
        } else {
            did = Some(run);
            break;
        }
    }
    let told_dry = told.filter(|told| told.only_counted()).and_then(ToldRun::last);
    let later = |dry: &CleanupRun| did.as_ref().is_none_or(|real| real.ended_at < dry.ended_at);
    let counted = match dry.into_iter().next().filter(later) {
        Some(run) => Some(spoken(context, instance, run, told_dry, discretion).await),
        None => None,
    };
    (did.or(beside), counted)
}

/// A run with its last words when it failed or when that is news: `told` is the run of its kind that status tells of.
async fn spoken(
    context: &Context,
    instance: &Key,
    run: CleanupRun,
    told: Option<ToldRun<'_>>,
    discretion: &Discretion<'_>,
) -> CleanupRun {
    let is_told = match run.against(told) {
        Ordering::Less => true,
        Ordering::Equal => run.failure.is_none(),
        Ordering::Greater => false,
    };
    if is_told {
        return run;
    }
    let words = last_words::all_of_job(context, instance, &run.job, discretion).await;
    run.with_words(&words)
}
