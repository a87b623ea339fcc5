//! Cleanup in memory: what is due is found under the lock, and moved or deleted a batch at a time.

use std::collections::HashMap;

use jam_domain::audit::Deed;
use jam_domain::event::Fact;
use jam_domain::retention::{Cleaned, Retention};
use jam_domain::{By, PackageId, PreimageHash};

use super::MemoryStore;
use super::state::{ArchivedRow, PackageRow, State};
use crate::work::preimages_of;
use crate::{CleanupError, Progress, Restored, Stored};

/// Packages and preimages that go under one lock.
const BATCH: usize = 500;

pub(super) async fn cleanup(
    store: &MemoryStore,
    retention: &Retention,
    dry_run: bool,
    progress: &Progress,
) -> Result<Cleaned, CleanupError> {
    if dry_run {
        return Ok(foretell(&store.state(), retention));
    }
    let _alone = store.cleaning.try_lock().map_err(|_| CleanupError::Busy)?;
    let walked = walk(store, retention, progress).await;
    let cleaned = progress.cleaned();
    walked.map(|()| cleaned).map_err(|error| CleanupError::Failed { error, cleaned })
}

async fn walk(store: &MemoryStore, retention: &Retention, progress: &Progress) -> Stored<()> {
    let found = due(&store.state(), retention);
    each(store, &found, progress, |state, cleaned, id| {
        if let Some(report) = archive(state, *id, retention) {
            cleaned.archived_packages += 1;
            cleaned.archived_reports += u64::from(report);
        }
    })
    .await?;
    let found = over(&store.state(), retention);
    each(store, &found, progress, |state, cleaned, id| {
        if let Some(report) = delete(state, *id) {
            cleaned.deleted_packages += 1;
            cleaned.deleted_reports += u64::from(report);
        }
    })
    .await?;
    let found = unused(&store.state(), retention, &HashMap::new());
    each(store, &found, progress, |state, cleaned, hash| {
        let gone = super::preimages::delete(state, *hash) == Some(true);
        cleaned.deleted_preimages += u64::from(gone);
    })
    .await?;
    if let Some(cutoff) = retention.cutoff() {
        store.state().story.forget(cutoff);
    }
    Ok(())
}

/// Does a step for each, a batch under one lock, unless it is told to end before.
async fn each<T>(
    store: &MemoryStore,
    all: &[T],
    progress: &Progress,
    step: impl Fn(&mut State, &mut Cleaned, &T),
) -> Stored<()> {
    for batch in all.chunks(BATCH) {
        progress.go_on()?;
        {
            let mut state = store.state();
            progress.add(|cleaned| batch.iter().for_each(|one| step(&mut state, cleaned, one)));
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// What a run at this moment would do.
fn foretell(state: &State, retention: &Retention) -> Cleaned {
    let (due, over) = (due(state, retention), over(state, retention));
    let reported = |row: &PackageRow| u64::from(row.report.is_some());
    let new: Vec<&PackageRow> = due.iter().filter_map(|id| state.packages.get(id)).collect();
    let mut gone: Vec<&PackageRow> = over.iter().filter_map(|id| state.stored(*id)).collect();
    if retention.deletes_archived_until() >= retention.now() {
        gone.extend(&new);
    }
    let mut released: HashMap<PreimageHash, u64> = HashMap::new();
    for hash in gone.iter().flat_map(|row| preimages_of(&row.package)) {
        *released.entry(hash).or_default() += 1;
    }
    Cleaned {
        archived_packages: new.len() as u64,
        archived_reports: new.iter().copied().map(reported).sum(),
        deleted_packages: gone.len() as u64,
        deleted_reports: gone.iter().copied().map(reported).sum(),
        deleted_preimages: unused(state, retention, &released).len() as u64,
    }
}

/// Finished packages whose time is over.
fn due(state: &State, retention: &Retention) -> Vec<PackageId> {
    let finished = Retention::FINISHED.into_iter().flat_map(|status| state.package_index.oldest(status));
    let rows = finished.filter_map(|place| state.packages.get(&PackageId(place.id)));
    let due = rows.filter(|row| {
        let package = &row.package;
        retention.archives(&package.service_id, package.created_at, row.restored_at)
    });
    due.map(|row| row.package.id).collect()
}

/// Archived packages whose time is over, too.
fn over(state: &State, retention: &Retention) -> Vec<PackageId> {
    let over = |archived: &&ArchivedRow| retention.deletes(&archived.row.package.service_id, archived.archived_at);
    state.archive.values().filter(over).map(|archived| archived.row.package.id).collect()
}

/// Old preimages that nothing refers to once so many references are gone.
fn unused(state: &State, retention: &Retention, released: &HashMap<PreimageHash, u64>) -> Vec<PreimageHash> {
    let Some(cutoff) = retention.cutoff() else { return Vec::new() };
    let records = state.preimages.values().map(|blob| &blob.record);
    let unused = records.filter(|record| {
        record.created_at < cutoff && record.refcount <= released.get(&record.hash).copied().unwrap_or(0)
    });
    unused.map(|record| record.hash).collect()
}

/// Moves a package into the archive; says whether a report went along, or `None` when the package is not there any more.
fn archive(state: &mut State, id: PackageId, retention: &Retention) -> Option<bool> {
    let row = state.packages.remove(&id)?;
    let (service, status, place) = (&row.package.service_id, row.package.status, row.place());
    state.package_index.remove(service, status, place);
    state.archive_index.insert(service, status, place);
    let report = row.report.and_then(|report| state.reports.remove(&report));
    if let Some(report) = &report {
        let (service, status) = (&report.report.service_id, report.report.status);
        state.report_index.remove(service, status, report.place());
        state.archived_reports.insert(service, status, report.place());
        state.archived_report_ids.insert(report.report.id, id);
    }
    let had = report.is_some();
    state.story.tell(retention.now(), vec![Fact::Archived(service.clone(), id)]);
    state.archive.insert(id, ArchivedRow { row, report, archived_at: retention.now() });
    Some(had)
}

/// Deletes an archived package and takes back its references; says whether a report went along.
fn delete(state: &mut State, id: PackageId) -> Option<bool> {
    let ArchivedRow { row, report, archived_at: _ } = state.archive.remove(&id)?;
    state.archive_index.remove(&row.package.service_id, row.package.status, row.place());
    if let Some(report) = &report {
        state.archived_reports.remove(&report.report.service_id, report.report.status, report.place());
        state.archived_report_ids.remove(&report.report.id);
    }
    for hash in preimages_of(&row.package) {
        if let Some(blob) = state.preimages.get_mut(&hash) {
            blob.record.refcount = blob.record.refcount.saturating_sub(1);
        }
    }
    if let Some(key) = row.idempotency_key {
        state.keys.remove(&(row.package.created_by, key));
    }
    Some(report.is_some())
}

/// Brings a package and its report back. Its id and key are its own for as long as it is kept, so that nobody took them.
pub(super) fn restore(state: &mut State, id: PackageId, by: &By) -> Restored {
    let Some(ArchivedRow { mut row, report, archived_at }) = state.archive.remove(&id) else {
        return Restored::NotArchived;
    };
    row.restored_at = Some(by.at);
    let (service, status, place) = (row.package.service_id.clone(), row.package.status, row.place());
    state.archive_index.remove(&service, status, place);
    state.package_index.insert(&service, status, place);
    state.audit.write(Deed::restored_package(by, id, archived_at));
    if let Some(report) = report {
        state.archived_reports.remove(&service, report.report.status, report.place());
        state.archived_report_ids.remove(&report.report.id);
        state.report_index.insert(&service, report.report.status, report.place());
        state.reports.insert(report.report.id, report);
    }
    let package = row.package.clone();
    state.packages.insert(id, row);
    Restored::Back(package)
}
