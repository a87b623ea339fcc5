//! The table of preimages: records and how many packages refer to them.

use std::collections::{BTreeMap, BTreeSet};

use jam_domain::{Preimage, PreimageHash};
use sqlx::postgres::{PgArguments, PgConnection, PgPool, PgRow};
use sqlx::{Arguments, AssertSqlSafe, Row, query, query_as_with, query_scalar, query_scalar_with, query_with};
use uuid::Uuid;

use super::error::Failure;
use super::value::{At, count, number, word};

/// Where these bytes are.
pub(super) const STORAGE_CLASS: &str = "database";

const COLUMNS: &str = "hash, blob, size, media_type, created_at, uploader, storage_class, refcount";

fn hash_of(bytes: &[u8]) -> Result<PreimageHash, Failure> {
    bytes.try_into().map(PreimageHash).map_err(|_| Failure::Corrupt("a stored hash does not have 32 bytes".into()))
}

fn preimage_of(row: &PgRow) -> Result<(Preimage, Uuid), Failure> {
    let preimage = Preimage {
        hash: hash_of(row.try_get("hash")?)?,
        size: count(row.try_get("size")?)?,
        media_type: row.try_get("media_type")?,
        created_at: row.try_get::<At, _>("created_at")?.timestamp(),
        uploader: word(row.try_get("uploader")?)?,
        storage_class: row.try_get("storage_class")?,
        refcount: count(row.try_get("refcount")?)?,
    };
    Ok((preimage, row.try_get("blob")?))
}

/// What `COLUMNS` are written with, in their order: `$1` to `$8`.
fn fields(preimage: &Preimage, blob: Uuid) -> Result<PgArguments, Failure> {
    let Preimage { hash, size, media_type, created_at, uploader, storage_class, refcount } = preimage;
    let mut all = PgArguments::default();
    let added = [
        all.add(hash.0.as_slice()),
        all.add(blob),
        all.add(number(*size)?),
        all.add(media_type),
        all.add(At::from(*created_at)),
        all.add(uploader.as_str()),
        all.add(storage_class),
        all.add(number(*refcount)?),
    ];
    added.into_iter().collect::<Result<(), _>>().map_err(sqlx::Error::Encode)?;
    Ok(all)
}

/// A preimage's record and the key of its bytes.
pub(super) async fn find(pool: &PgPool, hash: PreimageHash) -> Result<Option<(Preimage, Uuid)>, Failure> {
    let sql = format!("select {COLUMNS} from preimages where hash = $1");
    query(AssertSqlSafe(sql)).bind(hash.0.as_slice()).fetch_optional(pool).await?.as_ref().map(preimage_of).transpose()
}

/// Writes a record for staged bytes unless there is one with the same hash; says whether it did.
///
/// The bytes are measured by the same statement: they were staged without waiting for the disk, and a crash of the server
/// or a standby that took over may have lost some that this upload was told of.
pub(super) async fn insert(connection: &mut PgConnection, preimage: &Preimage, blob: Uuid) -> Result<bool, Failure> {
    let (whole, made): (bool, i64) = query_as_with(
        "with staged as (
            select coalesce(sum(octet_length(bytes)), 0) = $3 as whole from blob_chunks where blob = $2
         ), made as (
            insert into preimages (hash, blob, size, media_type, created_at, uploader, storage_class, refcount)
            select $1, $2, $3, $4, $5, $6, $7, $8 from staged where whole on conflict (hash) do nothing returning blob
         )
         select whole, (select count(*) from made) from staged",
        fields(preimage, blob)?,
    )
    .fetch_one(connection)
    .await?;
    if !whole {
        return Err(Failure::Gone("some bytes of the upload were lost; send it again"));
    }
    Ok(made == 1)
}

/// Writes a record with all its bytes in one row, unless there is one with the same hash; says whether it did.
///
/// One statement, so that a small blob costs one round trip and one flush, and needs no transaction around it.
pub(super) async fn insert_whole(
    pool: &PgPool,
    preimage: &Preimage,
    blob: Uuid,
    bytes: &[u8],
) -> Result<bool, Failure> {
    let written: i64 = query_scalar_with(
        "with made as (
            insert into preimages (hash, blob, size, media_type, created_at, uploader, storage_class, refcount)
            values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (hash) do nothing returning blob
         ), bytes as (
            insert into blob_chunks (blob, start, bytes) select blob, 0, $9 from made where $3 > 0
         )
         select count(*) from made",
        fields(preimage, blob)?,
    )
    .bind(bytes)
    .fetch_one(pool)
    .await?;
    Ok(written == 1)
}

/// Writes a record for an object, unless there is one with the same hash; says whether it did.
pub(super) async fn insert_outside(
    connection: &mut PgConnection,
    preimage: &Preimage,
    blob: Uuid,
) -> Result<bool, Failure> {
    let made = query_with(
        "insert into preimages (hash, blob, size, media_type, created_at, uploader, storage_class, refcount)
         values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (hash) do nothing",
        fields(preimage, blob)?,
    )
    .execute(connection)
    .await?;
    Ok(made.rows_affected() == 1)
}

/// Removes a record that nothing refers to; returns it with the key of its bytes.
pub(super) async fn remove(
    connection: &mut PgConnection,
    hash: PreimageHash,
) -> Result<Option<(Preimage, Uuid)>, Failure> {
    let sql = format!("delete from preimages where hash = $1 and refcount = 0 returning {COLUMNS}");
    let removed = query(AssertSqlSafe(sql)).bind(hash.0.as_slice()).fetch_optional(connection).await?;
    removed.as_ref().map(preimage_of).transpose()
}

/// Which of these are stored; they stay so until the transaction ends.
pub(super) async fn hold(
    connection: &mut PgConnection,
    hashes: &BTreeSet<PreimageHash>,
) -> Result<BTreeSet<PreimageHash>, Failure> {
    if hashes.is_empty() {
        return Ok(BTreeSet::new());
    }
    let hashes: Vec<&[u8]> = hashes.iter().map(|hash| hash.0.as_slice()).collect();
    let rows = query("select hash from preimages where hash = any($1) order by hash for no key update")
        .bind(hashes)
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| hash_of(row.try_get("hash")?)).collect()
}

/// Counts so many more packages that refer to each; the rows are held already.
pub(super) async fn refer(
    connection: &mut PgConnection,
    references: &BTreeMap<PreimageHash, u64>,
) -> Result<(), Failure> {
    if references.is_empty() {
        return Ok(());
    }
    let hashes: Vec<&[u8]> = references.keys().map(|hash| hash.0.as_slice()).collect();
    let counts = references.values().map(|count| number(*count)).collect::<Result<Vec<i64>, _>>()?;
    query(
        "update preimages p set refcount = p.refcount + u.more
         from unnest($1::bytea[], $2::bigint[]) as u(hash, more) where p.hash = u.hash",
    )
    .bind(hashes)
    .bind(counts)
    .execute(connection)
    .await?;
    Ok(())
}

/// Counts so many packages less that refer to each. The rows are locked in the order in which submissions lock them.
pub(super) async fn release(
    connection: &mut PgConnection,
    references: &BTreeMap<PreimageHash, u64>,
) -> Result<(), Failure> {
    hold(connection, &references.keys().copied().collect()).await?;
    if references.is_empty() {
        return Ok(());
    }
    let hashes: Vec<&[u8]> = references.keys().map(|hash| hash.0.as_slice()).collect();
    let counts = references.values().map(|count| number(*count)).collect::<Result<Vec<i64>, _>>()?;
    // A count that was wrong before must not stop retention for ever.
    query(
        "update preimages p set refcount = greatest(p.refcount - u.less, 0)
         from unnest($1::bytea[], $2::bigint[]) as u(hash, less) where p.hash = u.hash",
    )
    .bind(hashes)
    .bind(counts)
    .execute(connection)
    .await?;
    Ok(())
}

/// A preimage on a walk.
pub(super) struct Walked {
    pub(super) hash: PreimageHash,
    pub(super) created_at: At,
    pub(super) refcount: u64,
}

/// The next preimages after the last one seen, in the order of their hashes: an index by age would be written with every
/// upload, and of what retention leaves nearly all is old.
pub(super) async fn walk(
    connection: &mut PgConnection,
    seen: Option<&Walked>,
    limit: u32,
) -> Result<Vec<Walked>, Failure> {
    let sql = format!("select hash, created_at, refcount from preimages where hash > $1 order by hash limit {limit}");
    let seen = seen.map_or(&[][..], |walked| walked.hash.0.as_slice());
    let rows = query(AssertSqlSafe(sql)).bind(seen).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(Walked {
                hash: hash_of(row.try_get("hash")?)?,
                created_at: row.try_get("created_at")?,
                refcount: count(row.try_get("refcount")?)?,
            })
        })
        .collect()
}

/// Removes records that nothing refers to by now, and returns how many. Their bytes become those of an abandoned upload, so
/// that nobody waits for a row here while megabytes go; an object is put into doubt by a trigger of the table.
pub(super) async fn abandon(connection: &mut PgConnection, hashes: &[PreimageHash]) -> Result<u64, Failure> {
    let hashes: Vec<&[u8]> = hashes.iter().map(|hash| hash.0.as_slice()).collect();
    let abandoned: i64 = query_scalar(
        "with gone as (
            delete from preimages where hash = any(array(
                select hash from preimages where hash = any($1) and refcount = 0 order by hash for update skip locked))
            returning blob, storage_class
         ), left_over as (
            insert into uploads (blob, touched_at) select blob, '-infinity' from gone where storage_class = $2
         )
         select count(*) from gone",
    )
    .bind(hashes)
    .bind(STORAGE_CLASS)
    .fetch_one(connection)
    .await?;
    count(abandoned)
}
