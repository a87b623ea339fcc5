//! The last cleanup, as status tells of it: a dry run is shown, and takes back no failure of one that was to do more.

use std::cmp::Ordering;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::crd::{CleanupStatus, JamInstanceStatus};
use crate::observed::{CleanupOutcome, CleanupRun, Observed, ToldRun, end_of};
use crate::resolve::{Resolved, Timetable};

/// The newest cleanup that ended, and the schedule that it is judged by.
pub(super) fn told(resolved: &Resolved, observed: &Observed, before: &JamInstanceStatus) -> Option<CleanupStatus> {
    let Timetable { words, since } = &resolved.timetable;
    let told = last(observed, before);
    let timetable_since = since.map(|at| Time(super::whole_seconds(at)));
    (told.is_some() || words.is_some()).then(|| CleanupStatus {
        timetable: words.clone(),
        timetable_since,
        ..told.unwrap_or_default()
    })
}

/// Why the cleanup fails, as the last run that counts says: where the spec asks for `dry_run` every one does, else none that only
/// counted takes back what the last real one said.
pub(super) fn failure(observed: &Observed, before: &JamInstanceStatus, dry_run: bool) -> Option<String> {
    let told = last(observed, before)?;
    let real = told.real().filter(|_| !dry_run).and_then(|real| real.failure);
    real.or(told.failure)
}

/// The newest cleanup that did anything; what it said earlier when its Job is gone by now, whatever Jobs are left of before. Of two
/// beside each other it is the one that ended last, which may have begun first.
fn last(observed: &Observed, before: &JamInstanceStatus) -> Option<CleanupStatus> {
    let told = before.cleanup.as_ref();
    let Some(state) = &observed.cleanup else { return told.cloned() };
    let known = told.and_then(CleanupStatus::real);
    let against_known = |run: &CleanupRun| run.against(known.as_ref().map(ToldRun::real));
    let (beside, real) = match &state.real {
        Some(run) if run.was_beside() => (true, None),
        real => (false, real.as_ref().filter(|run| against_known(run) != Ordering::Less)),
    };
    let shown = real.map(|run| block(run, told.filter(|told| !told.only_counted())));
    let last_real = shown.as_ref().and_then(CleanupStatus::real).or(known.clone());

    let counted = told.filter(|told| told.only_counted());
    // What was told is newer than what is left, where its Job is gone.
    let newest = counted.or(told.filter(|_| real.is_none())).and_then(ToldRun::last);
    let dry = state.counted.as_ref().filter(|run| !run.was_beside() && run.against(newest) != Ordering::Less);
    if let Some(run) = dry {
        return Some(CleanupStatus { last_real, ..block(run, counted) });
    }
    let is_news = real.is_some_and(|run| against_known(run) == Ordering::Greater);
    let is_later = |counted: &CleanupStatus| {
        is_news && real.and_then(ended).as_ref() >= counted.last_ended.as_ref().or(counted.last_run.as_ref())
    };
    match (counted, shown) {
        (Some(counted), shown) if !is_later(counted) || shown.is_none() => {
            Some(CleanupStatus { last_real, ..counted.clone() })
        }
        (_, Some(shown)) => Some(shown),
        (_, None) if beside => {
            let told = told.cloned().unwrap_or_default();
            let last_result = told.last_result.clone().or(Some("Skipped".into()));
            Some(CleanupStatus { last_result, ..told })
        }
        (_, None) => told.cloned(),
    }
}

/// When a run began, as status says it.
fn begun(run: &CleanupRun) -> Option<Time> {
    run.began_at.or(run.ended_at).map(|at| Time(super::whole_seconds(at)))
}

fn ended(run: &CleanupRun) -> Option<Time> {
    run.ended_at.map(|at| Time(super::whole_seconds(at)))
}

/// What is said of one run. `told` is what was said before, of this one or of another.
fn block(run: &CleanupRun, told: Option<&CleanupStatus>) -> CleanupStatus {
    let (last_run, last_ended, dry_run) = (begun(run), ended(run), run.dry_run);
    let same = told.filter(|told| run.against(ToldRun::last(told)) == Ordering::Equal).cloned().unwrap_or_default();
    let failure = run.failure.as_ref().map(|words| end_of(&format!("Job {} failed: {words}", run.job)));
    let good = if dry_run { "DryRun" } else { "Succeeded" };
    let failed = failure.as_ref().map(|_| "Failed".to_owned());
    let Some(outcome) = &run.outcome else {
        // Nobody was asked again, because it is told already; or its pod said nothing of what it did.
        let last_result = failed.or(same.last_result.clone()).or(Some(good.into()));
        return CleanupStatus { last_run, last_ended, last_result, dry_run, failure, last_real: None, ..same };
    };
    let CleanupOutcome { dry_run: _, skipped: _, error: _, cutoff, duration_ms, archived, deleted } = outcome.clone();
    CleanupStatus {
        last_run,
        last_ended,
        last_result: Some(failed.unwrap_or_else(|| good.to_owned())),
        dry_run,
        failure,
        last_real: None,
        cutoff: cutoff.map(|at| Time(super::whole_seconds(at))),
        duration_ms,
        archived,
        deleted,
        ..same
    }
}
