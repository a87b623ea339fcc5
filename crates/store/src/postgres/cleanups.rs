//! The table of cleanups: the last run and the sums of all, in one row.

use jam_domain::By;
use jam_domain::audit::Deed;
use jam_domain::retention::{Cleaned, CleanupRecord, CleanupRun};
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{Row, query};

use super::audit;
use super::error::Failure;
use super::pool::{Begin, begin};
use super::value::{At, count, number};

const READ: &str = "select started_at, finished_at, cutoff, error, succeeded_at, archived_packages, archived_reports,
    deleted_packages, deleted_reports, deleted_preimages, runs_succeeded, runs_failed, all_deleted_packages,
    all_deleted_reports, all_deleted_preimages from cleanups";

fn record_of(row: &PgRow) -> Result<CleanupRecord, Failure> {
    let at = |column: &str| Ok::<_, Failure>(row.try_get::<Option<At>, _>(column)?.map(At::timestamp));
    let number = |column: &str| count(row.try_get(column)?);
    let last = CleanupRun {
        started_at: row.try_get::<At, _>("started_at")?.timestamp(),
        finished_at: row.try_get::<At, _>("finished_at")?.timestamp(),
        cutoff: at("cutoff")?,
        cleaned: Cleaned {
            archived_packages: number("archived_packages")?,
            archived_reports: number("archived_reports")?,
            deleted_packages: number("deleted_packages")?,
            deleted_reports: number("deleted_reports")?,
            deleted_preimages: number("deleted_preimages")?,
        },
        error: row.try_get("error")?,
    };
    Ok(CleanupRecord {
        last,
        succeeded_at: at("succeeded_at")?,
        runs_succeeded: number("runs_succeeded")?,
        runs_failed: number("runs_failed")?,
        all: Cleaned {
            archived_packages: 0,
            archived_reports: 0,
            deleted_packages: number("all_deleted_packages")?,
            deleted_reports: number("all_deleted_reports")?,
            deleted_preimages: number("all_deleted_preimages")?,
        },
    })
}

pub(super) async fn find(pool: &PgPool) -> Result<Option<CleanupRecord>, Failure> {
    query(READ).fetch_optional(pool).await?.as_ref().map(record_of).transpose()
}

/// Adds one run; in the audit, too, when an administrator asked for it.
pub(super) async fn add(pool: &PgPool, run: &CleanupRun, by: Option<&By>) -> Result<(), Failure> {
    let how = if by.is_some() { Begin::Admin } else { Begin::Plain };
    let mut transaction = begin(pool, how).await?;
    // Runs are one at a time, but the record of one may still be on its way when the next begins.
    query("lock table cleanups in share row exclusive mode").execute(&mut *transaction).await?;
    let before = query(READ).fetch_optional(&mut *transaction).await?.as_ref().map(record_of).transpose()?;
    let CleanupRecord { last, succeeded_at, runs_succeeded, runs_failed, all } =
        CleanupRecord::with(before.as_ref(), run.clone());
    let CleanupRun { started_at, finished_at, cutoff, cleaned, error } = last;
    query("delete from cleanups").execute(&mut *transaction).await?;
    let mut insert = query(
        "insert into cleanups (started_at, finished_at, cutoff, error, succeeded_at, archived_packages, archived_reports,
            deleted_packages, deleted_reports, deleted_preimages, runs_succeeded, runs_failed, all_deleted_packages,
            all_deleted_reports, all_deleted_preimages)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(At::from(started_at))
    .bind(At::from(finished_at))
    .bind(cutoff.map(At::from))
    .bind(error)
    .bind(succeeded_at.map(At::from));
    for count in [
        cleaned.archived_packages,
        cleaned.archived_reports,
        cleaned.deleted_packages,
        cleaned.deleted_reports,
        cleaned.deleted_preimages,
        runs_succeeded,
        runs_failed,
        all.deleted_packages,
        all.deleted_reports,
        all.deleted_preimages,
    ] {
        insert = insert.bind(number(count)?);
    }
    insert.execute(&mut *transaction).await?;
    if let Some(by) = by {
        audit::write(&mut transaction, &Deed::ran_cleanup(by, run)).await?;
    }
    transaction.commit().await?;
    Ok(())
}
