//! The tables of chunks and uploads: the bytes of preimages, written as they come in and read piece by piece.

use std::ops::Range;

use bytes::Bytes;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, query, query_as, query_scalar};
use uuid::Uuid;

use super::error::Failure;
use super::pool::{Begin, begin};
use super::value::number;

/// Bytes of a chunk row of a blob that has several. A blob of up to [`WINDOW`] bytes has one row.
const CHUNK: usize = 256 * 1024;
/// Bytes of an upload that are held in memory at most.
pub(super) const WINDOW: usize = 1024 * 1024;
/// Chunks that a sweep removes at once: 128 MiB at most, well within the time of a statement.
const SWEPT: u64 = 128;

/// Writes the next bytes of an upload, in a transaction of its own so that no connection waits for a slow client.
///
/// The first write makes the upload known, so that what is left of it can be found when this server dies. One statement,
/// which may be done again when its connection broke; it does not wait for the disk: the commit of the blob's record
/// flushes the log up to its end.
pub(super) async fn stage(pool: &PgPool, blob: Uuid, start: u64, bytes: &[u8]) -> Result<(), Failure> {
    let chunks: Vec<&[u8]> = bytes.chunks(CHUNK).collect();
    let starts = (0..chunks.len()).map(|n| number(start + (n * CHUNK) as u64)).collect::<Result<Vec<i64>, _>>()?;
    let known = if start == 0 {
        "insert into uploads (blob) values ($1) on conflict (blob) do update set touched_at = now()"
    } else {
        "update uploads set touched_at = now() where blob = $1"
    };
    let sql = format!(
        "with known as ({known} returning blob, set_config('synchronous_commit', 'off', true)), chunks as (
            insert into blob_chunks (blob, start, bytes)
            select known.blob, u.start, u.bytes from known cross join unnest($2::bigint[], $3::bytea[]) as u(start, bytes)
            on conflict do nothing
         )
         select count(*) from known"
    );
    let known: i64 = query_scalar(AssertSqlSafe(sql)).bind(blob).bind(starts).bind(chunks).fetch_one(pool).await?;
    if known == 0 {
        return Err(Failure::Gone("the upload was taken for abandoned"));
    }
    Ok(())
}

/// Ends an upload whose bytes are all there: from now on they belong to a preimage.
pub(super) async fn adopt(connection: &mut PgConnection, blob: Uuid) -> Result<(), Failure> {
    let known = query("delete from uploads where blob = $1").bind(blob).execute(connection).await?;
    if known.rows_affected() == 0 {
        return Err(Failure::Gone("the upload was taken for abandoned"));
    }
    Ok(())
}

/// Removes the bytes of a blob.
pub(super) async fn remove(connection: &mut PgConnection, blob: Uuid) -> Result<(), Failure> {
    query("delete from blob_chunks where blob = $1").bind(blob).execute(connection).await?;
    Ok(())
}

/// Removes what was staged of an upload. If the upload is not known any more, its bytes belong to a preimage: an answer to
/// its last commit may have been lost.
pub(super) async fn abandon(pool: &PgPool, blob: Uuid) -> Result<(), Failure> {
    let mut transaction = begin(pool, Begin::Staging).await?;
    let known = query("delete from uploads where blob = $1").bind(blob).execute(&mut *transaction).await?;
    if known.rows_affected() > 0 {
        remove(&mut transaction, blob).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Removes a batch of what was staged of uploads that nobody touched for so long. Returns how many uploads are gone with
/// it; `None` when nothing is left to do.
///
/// A batch is bounded by chunks: an upload goes when its last chunk went, and until then it is found again.
pub(super) async fn sweep(pool: &PgPool, idle_seconds: u32) -> Result<Option<u64>, Failure> {
    let mut transaction = begin(pool, Begin::Staging).await?;
    let blobs: Vec<Uuid> = query_scalar(
        "select blob from uploads where touched_at <= now() - make_interval(secs => $1)
         limit 100 for update skip locked",
    )
    .bind(f64::from(idle_seconds))
    .fetch_all(&mut *transaction)
    .await?;
    if blobs.is_empty() {
        return Ok(None);
    }
    let sql = format!(
        "delete from blob_chunks where ctid = any(array(select ctid from blob_chunks where blob = any($1) limit {SWEPT}))"
    );
    let chunks = query(AssertSqlSafe(sql)).bind(&blobs).execute(&mut *transaction).await?.rows_affected();
    let ended = chunks < SWEPT;
    if ended {
        query("delete from uploads where blob = any($1)").bind(&blobs).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(Some(if ended { blobs.len() as u64 } else { 0 }))
}

/// The next bytes of a blob in the range, from one row; `None` when the row is gone.
pub(super) async fn read(pool: &PgPool, blob: Uuid, range: Range<u64>) -> Result<Option<Bytes>, Failure> {
    let wanted = range.end.saturating_sub(range.start).min(CHUNK as u64);
    // The row that holds the first byte is the last one that starts at or before it. Only the part that is asked for
    // leaves the server.
    let found: Option<(Vec<u8>,)> = query_as(
        "select substring(bytes from ($2 - start + 1)::int for $3) from blob_chunks
         where blob = $1 and start <= $2 order by start desc limit 1",
    )
    .bind(blob)
    .bind(number(range.start)?)
    .bind(i32::try_from(wanted).map_err(|_| Failure::Corrupt("a chunk is longer than its limit".into()))?)
    .fetch_optional(pool)
    .await?;
    Ok(found.map(|(bytes,)| Bytes::from(bytes)).filter(|bytes| !bytes.is_empty()))
}
