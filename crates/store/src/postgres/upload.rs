//! Uploads and downloads of preimages: a bounded window in memory, no connection held while a client is slow.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use jam_domain::audit::Deed;
use jam_domain::{By, Preimage, PreimageHash};
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::PostgresStore;
use super::blobs::{self, WINDOW};
use super::error::Failure;
use super::pool::{Begin, again, begin, read};
use super::preimages::{self, STORAGE_CLASS};
use super::{audit, outside};
use crate::{BlobBody, Put, PutError, StoreError, Upload, UploadBody};

/// The bytes of one upload on their way: in the window, or staged in the database.
struct Intake<'a> {
    store: &'a PostgresStore,
    blob: Uuid,
    window: BytesMut,
    staged: u64,
    settled: bool,
}

impl Intake<'_> {
    async fn take(&mut self, mut bytes: Bytes) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            if self.window.len() == WINDOW {
                self.flush().await?;
            }
            let part = bytes.split_to(bytes.len().min(WINDOW - self.window.len()));
            self.window.extend_from_slice(&part);
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        let (start, length) = (self.staged, self.window.len() as u64);
        // Counted first: if the statement is cut off in the middle, what it may have written is looked for.
        self.staged += length;
        let (pool, tried) = (&self.store.pool, AtomicBool::new(false));
        let stage = || async {
            // The first window makes the upload known. A try of it whose connection broke may still come through when the
            // bytes belong to a preimage: under the same key the sweep would take them away, under its own they are nobody's.
            let another = start == 0 && tried.swap(true, Ordering::Relaxed);
            let blob = if another { Uuid::now_v7() } else { self.blob };
            blobs::stage(pool, blob, start, &self.window).await.map(|()| blob)
        };
        self.blob = self.store.bounded(read(pool, stage)).await?;
        self.window.clear();
        Ok(())
    }

    /// Makes the bytes a preimage, unless there is one already.
    async fn settle(&mut self, preimage: &Preimage) -> Result<bool, StoreError> {
        let (pool, blob) = (&self.store.pool, self.blob);
        let created = if self.staged == 0 {
            let whole = || again(|| preimages::insert_whole(pool, preimage, blob, &self.window));
            self.store.bounded(read(pool, whole)).await?
        } else {
            if !self.window.is_empty() {
                self.flush().await?;
            }
            self.store.bounded(again(|| settle(pool, blob, preimage))).await?
        };
        self.settled = true;
        Ok(created)
    }
}

impl Drop for Intake<'_> {
    fn drop(&mut self) {
        if self.settled || self.staged == 0 {
            return;
        }
        // Refused, interrupted, or its caller went away. Without a runtime the sweep finds it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (pool, blob) = (self.store.pool.clone(), self.blob);
            runtime.spawn(async move {
                if let Err(failure) = blobs::abandon(&pool, blob).await {
                    tracing::debug!(cause = ?failure.cause(), "an interrupted upload is left to the sweep");
                }
            });
        }
    }
}

/// Makes the staged bytes a preimage, unless there is one already.
async fn settle(pool: &PgPool, blob: Uuid, preimage: &Preimage) -> Result<bool, Failure> {
    let mut transaction = begin(pool, Begin::Plain).await?;
    blobs::adopt(&mut transaction, blob).await?;
    let created = preimages::insert(&mut transaction, preimage, blob).await?;
    if !created {
        blobs::remove(&mut transaction, blob).await?;
    }
    transaction.commit().await?;
    Ok(created)
}

pub(super) async fn put(store: &PostgresStore, upload: Upload, mut body: UploadBody<'_>) -> Result<Put, PutError> {
    let hash = upload.hash;
    if let Some((preimage, _)) = find(store, hash).await? {
        while body.try_next().await.map_err(PutError::Refused)?.is_some() {}
        return Ok(Put::AlreadyThere(preimage));
    }
    if let Some(objects) = &store.objects {
        return match outside::put(store, objects, upload, body).await? {
            Some(put) => Ok(put),
            None => already_there(store, hash, None).await,
        };
    }
    let Upload { hash, size_hint: _, media_type, uploader, now } = upload;
    let mut size = 0;
    let mut intake = Intake { store, blob: Uuid::now_v7(), window: BytesMut::new(), staged: 0, settled: false };
    while let Some(bytes) = body.try_next().await.map_err(PutError::Refused)? {
        size += bytes.len() as u64;
        intake.take(bytes).await?;
    }
    let storage_class = STORAGE_CLASS.to_owned();
    let preimage = Preimage { hash, size, media_type, created_at: now, uploader, storage_class, refcount: 0 };
    if intake.settle(&preimage).await? {
        return Ok(Put::Created(preimage));
    }
    already_there(store, hash, Some(intake.blob)).await
}

/// The answer where there was a preimage in the end.
async fn already_there(store: &PostgresStore, hash: PreimageHash, own: Option<Uuid>) -> Result<Put, PutError> {
    match find(store, hash).await? {
        // The answer to a first try was lost, and the second found what it had written.
        Some((preimage, blob)) if Some(blob) == own => Ok(Put::Created(preimage)),
        Some((preimage, _)) => Ok(Put::AlreadyThere(preimage)),
        None => Err(StoreError::Unavailable("the blob was deleted during its upload".into()).into()),
    }
}

async fn find(store: &PostgresStore, hash: PreimageHash) -> Result<Option<(Preimage, Uuid)>, StoreError> {
    store.bounded(read(&store.pool, || preimages::find(&store.pool, hash))).await
}

/// The bytes in the range, one chunk for each step of the reader.
pub(super) fn download(store: &PostgresStore, preimage: &Preimage, blob: Uuid, range: Range<u64>) -> BlobBody {
    let (end, at) = (range.end.min(preimage.size), range.start);
    let store = store.clone();
    stream::try_unfold((store, at), move |(store, at)| async move {
        if at >= end {
            return Ok(None);
        }
        let pool = &store.pool;
        match store.bounded(read(pool, || blobs::read(pool, blob, at..end))).await? {
            Some(bytes) => {
                let next = at + bytes.len() as u64;
                Ok(Some((bytes, (store, next))))
            }
            None => Err(StoreError::Unavailable("the blob was deleted while it was read".into())),
        }
    })
    .boxed()
}

/// What became of a wish to delete a preimage.
pub(super) enum Deleted {
    /// There is none.
    NotThere,
    /// Packages refer to it.
    Referenced,
    /// It is gone, with its bytes.
    Gone,
    /// It is gone; its object under this key is not.
    Leaving(Uuid),
}

/// Removes a blob nobody refers to.
pub(super) async fn delete(pool: &PgPool, hash: PreimageHash, by: &By) -> Result<Deleted, Failure> {
    let mut transaction = begin(pool, Begin::Admin).await?;
    if let Some((preimage, blob)) = preimages::remove(&mut transaction, hash).await? {
        let inside = preimage.storage_class == STORAGE_CLASS;
        if inside {
            blobs::remove(&mut transaction, blob).await?;
        }
        audit::write(&mut transaction, &Deed::deleted_preimage(by, &preimage)).await?;
        transaction.commit().await?;
        return Ok(if inside { Deleted::Gone } else { Deleted::Leaving(blob) });
    }
    transaction.rollback().await?;
    Ok(preimages::find(pool, hash).await?.map_or(Deleted::NotThere, |_| Deleted::Referenced))
}

/// How long an upload may lie still before its server is taken for dead; the API's own timeouts are far shorter.
pub(super) const ABANDONED: Duration = Duration::from_hours(1);
