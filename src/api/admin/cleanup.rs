//! Cleanup by hand: now, and how it stands.

use axum::response::Response;
use jam_domain::retention::{Cleaned, CleanupRun};
use jam_domain::{Code, Refusal, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::api::admit::Admitted;
use crate::api::cleanup::{self, Retained, Unfinished, milliseconds};
use crate::api::fault::{Fault, ok};
use crate::api::shapes::CleanupCounts;
use crate::api::shapes::admin::{CleanupRan, CleanupStands};
use crate::api::state::Api;

/// Seconds after which another run may have ended.
const BUSY_RETRY: u32 = 10;

/// POST /jam/admin/cleanup/run: answers when the run has ended. It goes on when the client goes away, so that what it does
/// is remembered and stands in the audit.
pub async fn run(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    admitted.caller.may_touch_all()?;
    admitted.query.only(&["dry_run"])?;
    let dry_run = admitted.query.flag("dry_run")?;
    let (store, settings, by) = (api.store.clone(), admitted.settings.clone(), admitted.by());
    let running = tokio::spawn(async move {
        let stop = CancellationToken::new();
        cleanup::run(store.as_ref(), &settings, (Timestamp::now, dry_run), Some(&by), &stop).await
    });
    match running.await {
        Ok(Ok(ended)) => Ok(ok(&ran(&ended, dry_run))),
        Ok(Err(Unfinished::Busy)) => {
            let message = "another cleanup is running: nothing was done, try again later";
            Err(Refusal::new(Code::Conflict, message).retry_after(BUSY_RETRY).into())
        }
        Ok(Err(Unfinished::Half { run: _, error })) => Err(error.into()),
        Err(_) => Err(Fault::Panicked),
    }
}

fn ran(ended: &CleanupRun, dry_run: bool) -> CleanupRan {
    let CleanupRun { started_at, finished_at, cutoff, cleaned, error: _ } = ended;
    let Cleaned { archived_packages, archived_reports, deleted_packages, deleted_reports, deleted_preimages } =
        *cleaned;
    CleanupRan {
        dry_run,
        started_at: *started_at,
        finished_at: *finished_at,
        duration_ms: milliseconds(ended),
        cutoff: *cutoff,
        archived: CleanupCounts { packages: archived_packages, reports: archived_reports, preimages: None },
        deleted: CleanupCounts {
            packages: deleted_packages,
            reports: deleted_reports,
            preimages: Some(deleted_preimages),
        },
    }
}

/// GET /jam/admin/cleanup/status.
pub async fn status(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    admitted.caller.may_touch_all()?;
    let record = api.store.cleanups().await?;
    let retained = Retained::of(record, admitted.now, api.pulse.health.stale_after());
    Ok(ok(&CleanupStands {
        enabled: cleanup::enabled(&admitted.settings, admitted.now),
        ok: retained.problem.is_none(),
        problem: retained.problem,
        last: retained.shown(),
    }))
}
