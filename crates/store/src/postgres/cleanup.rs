//! Cleanup: walks what is old in pages, and archives or deletes it in short transactions that nobody waits for.

use std::collections::BTreeMap;
use std::time::Duration;

use jam_domain::retention::{Cleaned, Retention};
use jam_domain::{PackageStatus, PreimageHash, ServiceId, Timestamp};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection, query, query_scalar};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::PostgresStore;
use super::archive::{self, Aged, Walk};
use super::error::Failure;
use super::pool::Begin;
use super::value::At;
use super::{events, preimages, upload};
use crate::{CleanupError, Progress, Stored};

/// Packages that are looked at, and at most moved or deleted, at once.
const PACKAGES: u32 = 500;
/// Packages that are moved or deleted in one transaction: what submits at that moment waits for no more than these.
const SLICE: usize = 25;
/// For each unit of time that a slice took, how many the database is left to others: a cleanup has hours, a submitter waits.
const REST: u32 = 4;
/// The longest rest: behind a slow disk a cleanup still ends.
const MOST_REST: Duration = Duration::from_secs(1);
/// Bytes of packages that are moved or deleted at once, unless one alone is longer: a deletion reads them, in a pod with
/// little memory.
const BYTES: u64 = 8 * 1024 * 1024;
/// Preimages that are read at once.
const PREIMAGES: u32 = 2000;

/// One cleanup on a connection of its own: with the connection its lock goes, however the run ends.
struct Run<'a> {
    store: &'a PostgresStore,
    connection: PgConnection,
    retention: &'a Retention,
    progress: &'a Progress,
    /// A dry run changes nothing, and keeps which references the packages that it would delete take along.
    dry: Option<BTreeMap<PreimageHash, u64>>,
    /// Packages that stay in the archive because they can't be read.
    left: u64,
}

pub(super) async fn cleanup(
    store: &PostgresStore,
    retention: &Retention,
    dry_run: bool,
    progress: &Progress,
) -> Result<Cleaned, CleanupError> {
    let failed = |error, cleaned| CleanupError::Failed { error, cleaned };
    let (connection, alone) =
        store.bounded(open(store, dry_run)).await.map_err(|error| failed(error, Cleaned::default()))?;
    if !alone {
        return Err(CleanupError::Busy);
    }
    let dry = dry_run.then(BTreeMap::new);
    let mut run = Run { store, connection, retention, progress, dry, left: 0 };
    let walked = run.walk().await;
    let cleaned = progress.cleaned();
    if run.left > 0 {
        tracing::warn!(left = run.left, "packages stay in the archive because they can't be read: this log names each");
    }
    // What was done is done; a connection that breaks now is closed as well.
    let _ = store.aside(leave(run.connection, dry_run)).await;
    walked.map(|()| cleaned).map_err(|error| failed(error, cleaned))
}

/// A connection, and whether this run is the only one. A dry run looks at one moment, and stands in nobody's way.
async fn open(store: &PostgresStore, dry_run: bool) -> Result<(PgConnection, bool), Failure> {
    let mut connection = store.pool.connect_options().connect().await?;
    let alone = if dry_run {
        query("begin isolation level repeatable read, read only").execute(&mut connection).await?;
        true
    } else {
        query_scalar("select pg_try_advisory_lock(5425451, 2)").fetch_one(&mut connection).await?
    };
    Ok((connection, alone))
}

/// Lets the next run begin before this one has ended: the database sees a closed connection some time later.
async fn leave(mut connection: PgConnection, dry_run: bool) -> Result<(), Failure> {
    if !dry_run {
        query("select pg_advisory_unlock(5425451, 2)").execute(&mut connection).await?;
    }
    Ok(connection.close().await?)
}

impl Run<'_> {
    /// The steps, in the order of the contract: archive, delete what was archived, delete preimages.
    async fn walk(&mut self) -> Stored<()> {
        let retention = self.retention;
        for status in Retention::FINISHED {
            self.archive(status, None, retention.cutoff()).await?;
            for (service, cutoff) in retention.services() {
                self.archive(status, Some(service), cutoff).await?;
            }
        }
        self.delete().await?;
        self.delete_preimages().await?;
        if self.dry.is_none() {
            self.forget_events().await?;
            let idle = u32::try_from(upload::ABANDONED.as_secs()).unwrap_or(u32::MAX);
            self.store.sweep_uploads(idle).await?;
        }
        Ok(())
    }

    /// Archives the finished packages of one service, or of all services without a retention of their own.
    async fn archive(
        &mut self,
        status: PackageStatus,
        service: Option<&ServiceId>,
        cutoff: Option<Timestamp>,
    ) -> Stored<()> {
        let Some(cutoff) = cutoff else { return Ok(()) };
        let (walk, mut seen) = (Walk { status, service, cutoff: At::from(cutoff) }, None);
        loop {
            self.progress.go_on()?;
            let page = archive::finished(&mut self.connection, &walk, seen.as_ref(), PACKAGES);
            let page = self.store.aside(page).await?;
            let due = |aged: &&Aged| {
                // A service with a retention of its own has a walk of its own.
                (service.is_some() || !self.retention.has_own(&aged.service_id))
                    && self.retention.archives(
                        &aged.service_id,
                        aged.at.timestamp(),
                        aged.restored_at.map(At::timestamp),
                    )
            };
            let ids: Vec<Uuid> = page.iter().filter(due).map(|aged| aged.id.0).collect();
            for slice in self.slices(&ids).await? {
                self.progress.go_on()?;
                self.archive_slice(slice).await?;
            }
            match ended(page, PACKAGES) {
                Some(last) => seen = Some(last),
                None => return Ok(()),
            }
        }
    }

    /// The packages of a page in slices that are not too large.
    async fn slices<'i>(&mut self, ids: &'i [Uuid]) -> Stored<Vec<&'i [Uuid]>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let lengths = self.store.aside(archive::lengths(&mut self.connection, ids)).await?;
        Ok(sliced(ids, |id| lengths.get(id).copied().unwrap_or(0)))
    }

    async fn archive_slice(&mut self, ids: &[Uuid]) -> Stored<()> {
        let began = Instant::now();
        let (packages, reports) = if self.dry.is_some() {
            let reports = self.store.aside(archive::reports_of(&mut self.connection, ids)).await?;
            // With no days in between, what is archived now is deleted now.
            if self.retention.deletes_archived_until() >= self.retention.now() {
                self.weigh(ids).await?;
            }
            (ids.len() as u64, reports)
        } else {
            let (connection, retention) = (&mut self.connection, self.retention);
            let moved = async {
                // Flushed, because its events are seen; nobody waits for rows of finished packages meanwhile.
                let mut transaction = connection.begin_with(Begin::Plain.statement()).await?;
                let moved = archive::archive(&mut transaction, ids, retention).await?;
                transaction.commit().await?;
                Ok(moved)
            };
            self.store.aside(moved).await?
        };
        self.progress.add(|cleaned| {
            cleaned.archived_packages += packages;
            cleaned.archived_reports += reports;
        });
        if self.dry.is_none() {
            rest(began).await;
        }
        Ok(())
    }

    /// Deletes what has been archived for long enough.
    async fn delete(&mut self) -> Stored<()> {
        let until = At::from(self.retention.deletes_archived_until());
        let mut seen = None;
        loop {
            self.progress.go_on()?;
            let page = archive::archived_until(&mut self.connection, until, seen.as_ref(), PACKAGES);
            let page = self.store.aside(page).await?;
            let due = |aged: &&Aged| self.retention.deletes(&aged.service_id, aged.at.timestamp());
            let ids: Vec<Uuid> = page.iter().filter(due).map(|aged| aged.id.0).collect();
            for slice in self.slices(&ids).await? {
                self.progress.go_on()?;
                self.delete_slice(slice).await?;
            }
            match ended(page, PACKAGES) {
                Some(last) => seen = Some(last),
                None => return Ok(()),
            }
        }
    }

    async fn delete_slice(&mut self, ids: &[Uuid]) -> Stored<()> {
        if self.dry.is_some() {
            return self.weigh(ids).await;
        }
        let began = Instant::now();
        if self.delete_these(ids).await?.is_err() {
            for one in ids.chunks(1) {
                if let Err(unread) = self.delete_these(one).await? {
                    self.leave(&unread);
                }
            }
        }
        rest(began).await;
        Ok(())
    }

    /// Deletes these together; the inner error says which one can't be read, and none is deleted then.
    async fn delete_these(&mut self, ids: &[Uuid]) -> Stored<Result<(), Failure>> {
        let connection = &mut self.connection;
        let deleted = async {
            let mut transaction = connection.begin_with(Begin::Staging.statement()).await?;
            let deleted = unless_unread(archive::delete(&mut transaction, ids).await)?;
            match deleted {
                Ok(_) => transaction.commit().await?,
                Err(_) => transaction.rollback().await?,
            }
            Ok(deleted)
        };
        let deleted = self.store.aside(deleted).await?;
        Ok(deleted.map(|(packages, reports)| self.deleted(packages, reports)))
    }

    /// Counts these as deleted, and remembers the references that would go with them.
    async fn weigh(&mut self, ids: &[Uuid]) -> Stored<()> {
        if self.weigh_these(ids).await?.is_err() {
            for one in ids.chunks(1) {
                if let Err(unread) = self.weigh_these(one).await? {
                    self.leave(&unread);
                }
            }
        }
        Ok(())
    }

    async fn weigh_these(&mut self, ids: &[Uuid]) -> Stored<Result<(), Failure>> {
        let connection = &mut self.connection;
        let weighed = async { unless_unread(archive::weigh(connection, ids).await) };
        let (reports, references) = match self.store.aside(weighed).await? {
            Ok(weighed) => weighed,
            Err(unread) => return Ok(Err(unread)),
        };
        let released = self.dry.get_or_insert_default();
        for (hash, count) in references {
            *released.entry(hash).or_default() += count;
        }
        self.deleted(ids.len() as u64, reports);
        Ok(Ok(()))
    }

    /// Tells of a package that stays in the archive: what it refers to can't be known, and it stops no other (adr/0056).
    fn leave(&mut self, unread: &Failure) {
        self.left += 1;
        let error = self.store.answer(unread);
        tracing::error!(%error, "an archived package can't be read: it is not deleted");
    }

    fn deleted(&self, packages: u64, reports: u64) {
        self.progress.add(|cleaned| {
            cleaned.deleted_packages += packages;
            cleaned.deleted_reports += reports;
        });
    }

    /// Deletes events from before the retention.
    async fn forget_events(&mut self) -> Stored<()> {
        let Some(cutoff) = self.retention.cutoff() else { return Ok(()) };
        let mut steps = 0;
        loop {
            self.progress.go_on()?;
            let forgotten = self.store.aside(events::forget(&mut self.connection, At::from(cutoff))).await?;
            if forgotten == 0 {
                break;
            }
            steps += forgotten;
        }
        tracing::debug!(steps, "old events deleted");
        Ok(())
    }

    /// Deletes old preimages that nothing refers to any more.
    async fn delete_preimages(&mut self) -> Stored<()> {
        let Some(cutoff) = self.retention.cutoff() else { return Ok(()) };
        let mut seen = None;
        loop {
            self.progress.go_on()?;
            let page = preimages::walk(&mut self.connection, seen.as_ref(), PREIMAGES);
            let page = self.store.aside(page).await?;
            let released = |hash| self.dry.as_ref().and_then(|released| released.get(hash)).copied().unwrap_or(0);
            let unused: Vec<PreimageHash> = page
                .iter()
                .filter(|one| one.created_at.timestamp() < cutoff && one.refcount <= released(&one.hash))
                .map(|one| one.hash)
                .collect();
            let deleted = match &self.dry {
                Some(_) => unused.len() as u64,
                None if unused.is_empty() => 0,
                None => self.store.aside(preimages::abandon(&mut self.connection, &unused)).await?,
            };
            self.progress.add(|cleaned| cleaned.deleted_preimages += deleted);
            match ended(page, PREIMAGES) {
                Some(last) => seen = Some(last),
                None => return Ok(()),
            }
        }
    }
}

/// Sets what can't be read apart from what stops the run.
fn unless_unread<T>(done: Result<T, Failure>) -> Result<Result<T, Failure>, Failure> {
    match done {
        Err(unread @ Failure::Corrupt(_)) => Ok(Err(unread)),
        done => done.map(Ok),
    }
}

/// Leaves the database to others for a while after a slice.
async fn rest(began: Instant) {
    sleep((began.elapsed() * REST).min(MOST_REST)).await;
}

/// Where the walk goes on after this page; nowhere after one that is not full.
fn ended<T>(mut page: Vec<T>, limit: u32) -> Option<T> {
    if page.len() < limit as usize { None } else { page.pop() }
}

/// Cuts before each one that would make its slice longer than [`BYTES`], and after [`SLICE`] of them.
fn sliced<T>(all: &[T], length: impl Fn(&T) -> u64) -> Vec<&[T]> {
    let (mut slices, mut from, mut sum) = (Vec::new(), 0, 0);
    for (at, one) in all.iter().enumerate() {
        let length = length(one);
        if at > from && (sum + length > BYTES || at - from == SLICE) {
            slices.push(&all[from..at]);
            (from, sum) = (at, 0);
        }
        sum += length;
    }
    slices.push(&all[from..]);
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_bounded_in_number_and_in_bytes_and_no_package_is_left_out() {
        let all: Vec<u64> = (0..60).map(|n| if n == 30 { 3 * BYTES } else { 1 }).collect();
        let slices = sliced(&all, |length| *length);
        assert_eq!(slices.iter().map(|slice| slice.len()).collect::<Vec<_>>(), [25, 5, 1, 25, 4]);
        assert_eq!(slices.concat(), all);
    }
}
