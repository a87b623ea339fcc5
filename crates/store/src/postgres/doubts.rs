//! The table of objects in doubt: those that no preimage has, because one is on its way to be one's or was one's.

use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::error::Failure;

/// Objects that a sweep looks for at once.
const SWEPT: i64 = 100;

const TAKEN: Failure = Failure::Gone("the upload was taken for abandoned");

/// Makes a key known before anything is written under it.
///
/// Each try has a key of its own: one whose connection broke may still come through when the bytes belong to a preimage, and
/// under the same key the sweep would take them away.
pub(super) async fn note(pool: &PgPool, storage_class: &str) -> Result<Uuid, Failure> {
    let blob = Uuid::now_v7();
    let sql = "insert into objects_in_doubt (blob, storage_class) values ($1, $2)";
    query(sql).bind(blob).bind(storage_class).execute(pool).await?;
    Ok(blob)
}

/// Says that an upload is alive, and which multipart upload it has.
pub(super) async fn touch(pool: &PgPool, blob: Uuid, upload: Option<&str>) -> Result<(), Failure> {
    let sql = "update objects_in_doubt set touched_at = now(), upload = $2 where blob = $1 and not doomed";
    let known = query(sql).bind(blob).bind(upload).execute(pool).await?;
    if known.rows_affected() == 0 { Err(TAKEN) } else { Ok(()) }
}

/// Ends the doubt: from now on the object is a preimage's.
pub(super) async fn adopt(connection: &mut PgConnection, blob: Uuid) -> Result<(), Failure> {
    let sql = "delete from objects_in_doubt where blob = $1 and not doomed";
    let known = query(sql).bind(blob).execute(connection).await?;
    if known.rows_affected() == 0 { Err(TAKEN) } else { Ok(()) }
}

/// Gives an upload up, unless its object is a preimage's: an answer to its last commit may have been lost. Says whether it did.
pub(super) async fn give_up(pool: &PgPool, blob: Uuid) -> Result<bool, Failure> {
    let sql = "update objects_in_doubt set doomed = true, touched_at = now() where blob = $1";
    Ok(query(sql).bind(blob).execute(pool).await?.rows_affected() > 0)
}

/// Gives up some objects of a class that nobody touched for so long, and says which, each with its multipart upload. They are
/// found again until they are forgotten.
pub(super) async fn give_up_idle(
    pool: &PgPool,
    storage_class: &str,
    idle_seconds: u32,
) -> Result<Vec<(Uuid, Option<String>)>, Failure> {
    let given_up = query_as(
        "update objects_in_doubt set doomed = true where blob = any(array(
            select blob from objects_in_doubt
            where storage_class = $1 and touched_at <= now() - make_interval(secs => $2)
            limit $3 for update skip locked))
         returning blob, upload",
    )
    .bind(storage_class)
    .bind(f64::from(idle_seconds))
    .bind(SWEPT)
    .fetch_all(pool)
    .await?;
    Ok(given_up)
}

/// Strikes objects off that are gone.
pub(super) async fn forget(pool: &PgPool, blobs: &[Uuid]) -> Result<(), Failure> {
    query("delete from objects_in_doubt where blob = any($1) and doomed").bind(blobs).execute(pool).await?;
    Ok(())
}

/// How many objects of other classes than this one wait to be removed.
pub(super) async fn elsewhere(pool: &PgPool, storage_class: Option<&str>, idle_seconds: u32) -> Result<i64, Failure> {
    let count = query_scalar(
        "select count(*) from objects_in_doubt
         where storage_class is distinct from $1 and touched_at <= now() - make_interval(secs => $2)",
    )
    .bind(storage_class)
    .bind(f64::from(idle_seconds))
    .fetch_one(pool)
    .await?;
    Ok(count)
}
