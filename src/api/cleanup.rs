//! Cleanup: `jam-api cleanup`, and the same in process on the memory store. Run, say, log, remember.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jam_domain::retention::{Cleaned, CleanupRecord, CleanupRun, Retention};
use jam_domain::{By, Settings, StoreKind, Timestamp};
use jam_store::{CleanupError, Store};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::program::Ending;
use super::settings::Loaded;
use super::shapes::{CleanupCounts, LastCleanup};
use super::state::store_name;
use super::store;
use crate::shutdown;

/// The clock of a run: its beginning decides what is old, its end is remembered.
pub type Clock = fn() -> Timestamp;

/// Runs one cleanup and says on stdout what it did. The stop signal ends it between two statements: what is done stays done.
pub async fn cleanup(loaded: Loaded, dry_run: bool, result_file: Option<&Path>) -> Result<(), Ending> {
    let Loaded { settings, wiring, sources: _ } = loaded;
    if settings.store == StoreKind::Memory {
        let line = "store is memory, which is another process's: `jam-api serve` cleans it up by itself";
        return Err(Ending::Refused(vec![line.into()]));
    }
    let stop = shutdown::on_signal().map_err(|e| Ending::Failed(format!("no signals: {e}")))?;
    let store = store::open(&settings, &wiring).await?;
    match run(store.as_ref(), &settings, (Timestamp::now, dry_run), None, &stop).await {
        Ok(ended) => {
            print!("{}", said(&ended, dry_run));
            if let Some(file) = result_file
                && let Err(error) = std::fs::write(file, noted(&ended, dry_run).to_string())
            {
                tracing::warn!(file = %file.display(), %error, "the result could not be written there");
            }
            Ok(())
        }
        Err(error @ CleanupError::Busy) => Err(Ending::Failed(format!("{error}: nothing was done, try again later"))),
        Err(CleanupError::Failed { error, cleaned: _ }) => {
            Err(Ending::Failed(format!("cleanup failed: {error}; what it did before stays, run it again")))
        }
    }
}

/// Cleans up a store that lives in this process, again and again until the stop.
pub async fn keep_clean(store: Arc<dyn Store>, settings: Settings, interval: Duration, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
        // Logged where it happens; the next one tries again.
        let _ = run(store.as_ref(), &settings, (Timestamp::now, false), None, &stop).await;
    }
}

/// One run: logged once, and remembered unless it was dry; in the audit, too, when an administrator asked for it.
pub async fn run(
    store: &dyn Store,
    settings: &Settings,
    (clock, dry_run): (Clock, bool),
    by: Option<&By>,
    stop: &CancellationToken,
) -> Result<CleanupRun, CleanupError> {
    let retention = settings.retention(clock());
    let result = stop.run_until_cancelled(store.cleanup(&retention, dry_run)).await;
    let (cleaned, error) = match &result {
        Some(Ok(cleaned)) => (*cleaned, None),
        Some(Err(CleanupError::Failed { error, cleaned })) => (*cleaned, Some(error.to_string())),
        Some(Err(CleanupError::Busy)) => {
            tracing::warn!(store = store_name(store.kind()), "another cleanup is running: nothing was done");
            return Err(CleanupError::Busy);
        }
        None => (Cleaned::default(), Some("it was stopped".to_owned())),
    };
    let (started_at, cutoff) = (retention.now(), retention.cutoff());
    let ended = CleanupRun { started_at, finished_at: clock(), cutoff, cleaned, error };
    log(store, &ended, dry_run);
    if !dry_run && let Err(error) = store.record_cleanup(ended.clone(), by).await {
        tracing::warn!(%error, "the cleanup could not be remembered: /system/status shows the one before");
    }
    match result {
        Some(Err(failed)) => Err(failed),
        Some(Ok(_)) => Ok(ended),
        None => {
            let error = jam_store::StoreError::Unavailable("the cleanup was stopped".into());
            Err(CleanupError::Failed { error, cleaned })
        }
    }
}

fn log(store: &dyn Store, ended: &CleanupRun, dry_run: bool) {
    let Cleaned { archived_packages, archived_reports, deleted_packages, deleted_reports, deleted_preimages } =
        ended.cleaned;
    let (store, duration_ms) = (store_name(store.kind()), milliseconds(ended));
    let cutoff = ended.cutoff.map(|cutoff| cutoff.to_string());
    if let Some(error) = &ended.error {
        tracing::error!(
            store,
            cutoff,
            archived_packages,
            archived_reports,
            deleted_packages,
            deleted_reports,
            deleted_preimages,
            duration_ms,
            dry_run,
            error,
            "cleanup failed"
        );
    } else {
        tracing::info!(
            store,
            cutoff,
            archived_packages,
            archived_reports,
            deleted_packages,
            deleted_reports,
            deleted_preimages,
            duration_ms,
            dry_run,
            "cleanup done"
        );
    }
}

/// How long a run took.
pub fn milliseconds(ended: &CleanupRun) -> u64 {
    u64::try_from((ended.finished_at.as_micros() - ended.started_at.as_micros()) / 1000).unwrap_or(0)
}

/// What it did, for people.
fn said(ended: &CleanupRun, dry_run: bool) -> String {
    let Cleaned { archived_packages, archived_reports, deleted_packages, deleted_reports, deleted_preimages } =
        ended.cleaned;
    let would = if dry_run { "would have " } else { "" };
    let cutoff = ended.cutoff.map_or_else(|| "none: retention_days is 0".to_owned(), |cutoff| cutoff.to_string());
    let duration = milliseconds(ended);
    format!(
        "cutoff {cutoff}\n\
         {would}archived {archived_packages} packages, {archived_reports} reports\n\
         {would}deleted {deleted_packages} packages, {deleted_reports} reports, {deleted_preimages} preimages\n\
         took {duration} ms\n"
    )
}

/// What it did, for whoever started it: the operator reads it in the pod's termination message.
fn noted(ended: &CleanupRun, dry_run: bool) -> Value {
    let Cleaned { archived_packages, archived_reports, deleted_packages, deleted_reports, deleted_preimages } =
        ended.cleaned;
    json!({
        "dry_run": dry_run,
        "cutoff": ended.cutoff,
        "duration_ms": milliseconds(ended),
        "archived": {"packages": archived_packages, "reports": archived_reports},
        "deleted": {"packages": deleted_packages, "reports": deleted_reports, "preimages": deleted_preimages},
    })
}

/// How retention stands: what statuses show of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retained {
    /// What is remembered of cleanups.
    pub record: Option<CleanupRecord>,
    /// Why it is not in order.
    pub problem: Option<&'static str>,
    /// Why somebody has to come: no cleanup has gone well for too long. One that failed is tried again.
    pub overdue: Option<&'static str>,
}

impl Retained {
    /// Before the first cleanup all is in order: this process does not know whether somebody has planned one.
    pub fn of(record: Option<CleanupRecord>, now: Timestamp, stale_after: Option<Duration>) -> Self {
        let stale = stale_after.map(|stale| i64::try_from(stale.as_secs()).unwrap_or(i64::MAX));
        let problem = record.as_ref().and_then(|record| record.problem(now, stale));
        let overdue = record.as_ref().and_then(|record| record.overdue(now, stale));
        Self { record, problem, overdue }
    }

    /// What is remembered can't be read: that alone is no reason to take no requests.
    pub fn unknown() -> Self {
        Self { record: None, problem: Some("what is remembered of cleanups can't be read"), overdue: None }
    }

    /// When the last cleanup ended.
    pub fn last(&self) -> Option<Timestamp> {
        self.record.as_ref().map(|record| record.last.finished_at)
    }

    /// The last cleanup as `/system/status` shows it; why it failed stands in the log only.
    pub fn shown(&self) -> Option<LastCleanup> {
        let CleanupRecord { last, succeeded_at, runs_succeeded: _, runs_failed: _, all: _ } = self.record.as_ref()?;
        let CleanupRun { started_at, finished_at, cutoff, cleaned, error } = last;
        let Cleaned { archived_packages, archived_reports, deleted_packages, deleted_reports, deleted_preimages } =
            *cleaned;
        Some(LastCleanup {
            result: if error.is_none() { "ok" } else { "failed" },
            started_at: *started_at,
            finished_at: *finished_at,
            duration_ms: milliseconds(last),
            cutoff: *cutoff,
            archived: CleanupCounts { packages: archived_packages, reports: archived_reports, preimages: None },
            deleted: CleanupCounts {
                packages: deleted_packages,
                reports: deleted_reports,
                preimages: Some(deleted_preimages),
            },
            succeeded_at: *succeeded_at,
        })
    }
}

/// Whether anything is ever archived under these settings.
pub fn enabled(settings: &Settings, now: Timestamp) -> bool {
    Retention::is_on(&settings.retention(now))
}
