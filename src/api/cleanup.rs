//! Cleanup: `jam-api cleanup`, and the same in process on the memory store. Run, say, log, remember.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use jam_domain::audit::Deed;
use jam_domain::retention::{Cleaned, CleanupRecord, CleanupRun, Retention};
use jam_domain::{By, Settings, StoreKind, Timestamp};
use jam_store::{CleanupError, Progress, Store, StoreError};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::program::Ending;
use super::settings::Loaded;
use super::shapes::{CleanupCounts, LastCleanup};
use super::state::store_name;
use super::{controls, store};
use crate::shutdown;

/// The clock of a run: its beginning decides what is old, its end is remembered.
pub type Clock = fn() -> Timestamp;

/// How long the batch that a run is at may still take when it is told to stop; a container is given 30 s in all.
const LAST_BATCH: Duration = Duration::from_secs(5);

/// What is asked of `jam-api cleanup`.
#[derive(Debug)]
pub struct Order<'a> {
    /// Only to count.
    pub dry_run: bool,
    /// Where what was done is written as well.
    pub result_file: Option<&'a Path>,
    /// How long it may take.
    pub limit: Option<Duration>,
}

/// Why a run did not come to its end.
#[derive(Debug)]
pub enum Unfinished {
    /// Another one is running, and does what this one would have done.
    Busy,
    /// It failed or was stopped half way.
    Half {
        /// What it did.
        run: Box<CleanupRun>,
        /// Why it did no more.
        error: StoreError,
    },
}

/// Runs one cleanup and says on stdout what it did. The stop signal and the limit end it between two batches: what is done stays
/// done. Beside another run it does nothing, and that is no failure: nobody has to come for it.
pub async fn cleanup(loaded: Loaded, order: Order<'_>) -> Result<(), Ending> {
    let Loaded { settings, wiring, sources: _ } = loaded;
    let Order { dry_run, result_file, limit } = order;
    if settings.store == StoreKind::Memory {
        let line = "store is memory, which is another process's: `jam-api serve` cleans it up by itself";
        return Err(Ending::Refused(vec![line.into()]));
    }
    let told = shutdown::on_signal().map_err(|e| Ending::Failed(format!("no signals: {e}")))?;
    let stop = told.child_token();
    if let Some(limit) = limit {
        let stop = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            stop.cancel();
        });
    }
    let opened = store::open(&settings, &wiring).await?;
    let settings = with_quotas(opened.as_ref(), settings).await?;
    match run(opened.as_ref(), &settings, (Timestamp::now, dry_run), None, &stop).await {
        Ok(ended) => {
            print!("{}", said(&ended, dry_run));
            store::leave(result_file, &noted(&ended, dry_run).to_string());
            Ok(())
        }
        Err(Unfinished::Busy) => {
            println!("skipped: {}, nothing was done", CleanupError::Busy);
            let skipped =
                json!({"dry_run": dry_run, "skipped": true, "why": CleanupError::Busy.to_string(), "deleted": {}});
            store::leave(result_file, &skipped.to_string());
            Ok(())
        }
        Err(Unfinished::Half { run, error }) => {
            print!("{}", said(&run, dry_run));
            store::leave(result_file, &noted(&run, dry_run).to_string());
            let line = format!("cleanup failed: {error}; what it did before stays, run it again");
            let late = stop.is_cancelled() && !told.is_cancelled();
            match limit.filter(|_| late) {
                Some(limit) => Err(Ending::Late(format!("gave up after {} s: {line} (timeout)", limit.as_secs_f32()))),
                None => Err(Ending::Failed(line)),
            }
        }
    }
}

/// The settings with the quotas that administrators set: without knowing how long a service's packages are to be kept,
/// nothing is cleaned up.
async fn with_quotas(store: &dyn Store, settings: Settings) -> Result<Settings, Ending> {
    match store.controls().await {
        Ok(set) => Ok(controls::with_quotas(settings, &set)),
        Err(error) => Err(Ending::Failed(format!("cleanup failed: {error}; nothing was done, run it again"))),
    }
}

/// One run: logged once, and remembered unless it was dry. When an administrator asked for it, the audit says so before the first
/// batch and how it ended after the last.
pub async fn run(
    store: &dyn Store,
    settings: &Settings,
    (clock, dry_run): (Clock, bool),
    by: Option<&By>,
    stop: &CancellationToken,
) -> Result<CleanupRun, Unfinished> {
    let retention = settings.retention(clock());
    let (started_at, cutoff) = (retention.now(), retention.cutoff());
    let ended = |cleaned, error: Option<&StoreError>| {
        let error = error.map(ToString::to_string);
        CleanupRun { started_at, finished_at: clock(), cutoff, cleaned, error }
    };
    // A cleanup that nobody knows of must not be.
    if let Some(by) = by.filter(|_| !dry_run)
        && let Err(error) = store.note(Deed::asks_for_cleanup(by, cutoff)).await
    {
        return Err(Unfinished::Half { run: Box::new(ended(Cleaned::default(), Some(&error))), error });
    }
    let (cleaned, error) = match cleaned(store, &retention, dry_run, stop).await {
        Ok(cleaned) => (cleaned, None),
        Err(CleanupError::Failed { error, cleaned }) => (cleaned, Some(error)),
        Err(CleanupError::Busy) => {
            tracing::warn!(store = store_name(store.kind()), "another cleanup is running: nothing was done");
            return Err(Unfinished::Busy);
        }
    };
    let ended = ended(cleaned, error.as_ref());
    log(store, &ended, dry_run);
    let mut forgotten = None;
    if !dry_run && let Err(error) = store.record_cleanup(ended.clone(), by).await {
        tracing::warn!(%error, "the cleanup could not be remembered: /system/status shows the one before");
        forgotten = by.map(|_| error);
    }
    match error.or(forgotten) {
        Some(error) => Err(Unfinished::Half { run: Box::new(ended), error }),
        None => Ok(ended),
    }
}

/// Cleans until it is done, or told to stop: then the batch that it is at comes to its end, unless that takes too long.
async fn cleaned(
    store: &dyn Store,
    retention: &Retention,
    dry_run: bool,
    stop: &CancellationToken,
) -> Result<Cleaned, CleanupError> {
    let progress = Progress::default();
    stopped(store.clean(retention, dry_run, &progress), &progress, stop).await
}

/// What comes of the work, which is asked for its end when it is told to stop. What goes wrong in its last batch is told as well.
async fn stopped(
    work: impl Future<Output = Result<Cleaned, CleanupError>>,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Cleaned, CleanupError> {
    let mut work = pin!(work);
    tokio::select! {
        ended = &mut work => return ended,
        () = stop.cancelled() => progress.end(),
    }
    match tokio::time::timeout(LAST_BATCH, work).await {
        Ok(Err(CleanupError::Failed { error, cleaned })) if error != Progress::stopped() => {
            let error =
                StoreError::Stopped(format!("the cleanup was told to stop, and its last batch failed: {error}"));
            Err(CleanupError::Failed { error, cleaned })
        }
        Ok(ended) => ended,
        Err(_) => Err(CleanupError::Failed { error: Progress::stopped(), cleaned: progress.cleaned() }),
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
        "error": ended.error,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_goes_wrong_in_the_last_batch_is_told_and_one_that_never_ends_was_told_to_stop() {
        let (progress, stop) = (Progress::default(), CancellationToken::new());
        let full = async {
            stop.cancelled().await;
            // Its last batch goes on when it was asked for its end.
            tokio::task::yield_now().await;
            let error = StoreError::Unavailable("no space left on device".into());
            Err(CleanupError::Failed { error, cleaned: Cleaned::default() })
        };
        stop.cancel();
        let told = stopped(full, &progress, &stop).await.unwrap_err().to_string();
        assert_eq!(
            told,
            "the cleanup was told to stop, and its last batch failed: the store is unavailable: no space left on device"
        );
        let told = stopped(std::future::pending(), &progress, &stop).await.unwrap_err().to_string();
        assert_eq!(told, "the cleanup was told to stop");
    }
}
