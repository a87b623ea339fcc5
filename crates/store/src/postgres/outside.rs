//! Preimages whose bytes are in the blob store: written before their record, removed after it, and never forgotten in between.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use jam_domain::{Code, Preimage, PreimageHash, Refusal};
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::error::Failure;
use super::pool::{Begin, again, begin, read};
use super::{PostgresStore, doubts, preimages};
use crate::objects::{Objects, PART, Pieces, Trouble, Writing};
use crate::{BlobBody, Put, PutError, StoreError, Stored, Upload, UploadBody};

/// Bytes of a download that are asked for, and held, at once.
const WINDOW: u64 = 1024 * 1024;
/// Parts that S3 takes of one upload.
const MOST_PARTS: usize = 10_000;
/// Objects that are removed at the same time.
const AT_ONCE: usize = 8;

/// The bytes of one upload on their way: waiting for their part to be full, or in the blob store.
struct Intake<'a> {
    store: &'a PostgresStore,
    objects: &'a Objects,
    waiting: Pieces,
    writing: Option<Writing>,
    /// The key, once it is in doubt; taken away when the object is a preimage's.
    blob: Option<Uuid>,
}

impl Intake<'_> {
    async fn take(&mut self, mut bytes: Bytes) -> Result<(), PutError> {
        while !bytes.is_empty() {
            if self.waiting.is_full() {
                self.send().await?;
            }
            self.waiting.take(&mut bytes);
        }
        Ok(())
    }

    /// Makes the upload known, once.
    async fn note(&mut self) -> Result<Uuid, StoreError> {
        if let Some(blob) = self.blob {
            return Ok(blob);
        }
        let (pool, class) = (&self.store.pool, self.objects.storage_class());
        let blob = self.store.bounded(read(pool, || doubts::note(pool, class))).await?;
        self.blob = Some(blob);
        Ok(blob)
    }

    /// Sends the part that waits.
    async fn send(&mut self) -> Result<(), PutError> {
        let blob = self.note().await?;
        if self.writing.is_none() {
            self.writing = Some(self.objects.begin(blob).await.map_err(StoreError::from)?);
        }
        let writing = self.writing.as_mut().expect("it was begun above");
        if writing.parts() == MOST_PARTS {
            let most = PART as u64 * MOST_PARTS as u64;
            let told = format!("the blob store takes at most {most} bytes of one preimage");
            return Err(PutError::Refused(Refusal::new(Code::TooLarge, told)));
        }
        let (pool, upload) = (&self.store.pool, writing.upload().map(str::to_owned));
        self.store.bounded(read(pool, || doubts::touch(pool, blob, upload.as_deref()))).await?;
        self.objects.part(writing, self.waiting.payload()).await.map_err(StoreError::from)?;
        Ok(())
    }

    /// Makes the bytes an object, and the object a preimage's, unless there is one already.
    async fn settle(&mut self, preimage: &Preimage) -> Result<bool, PutError> {
        let blob = self.note().await?;
        if self.writing.is_some() {
            if !self.waiting.is_empty() {
                self.send().await?;
            }
            let writing = self.writing.take().expect("it is there, as seen above");
            let size = self.objects.complete(blob, writing).await.map_err(StoreError::from)?;
            if size != preimage.size {
                let told = format!("the blob store has {size} of {} bytes; send them again", preimage.size);
                return Err(StoreError::Unavailable(told).into());
            }
        } else {
            self.objects.put(blob, self.waiting.payload()).await.map_err(StoreError::from)?;
        }
        let pool = &self.store.pool;
        let created = self.store.bounded(again(|| settle(pool, blob, preimage))).await?;
        if created {
            self.blob = None;
        }
        Ok(created)
    }
}

impl Drop for Intake<'_> {
    fn drop(&mut self) {
        let Some(blob) = self.blob else { return };
        // Refused, interrupted, or not the first one. Without a runtime the sweep finds it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let upload = self.writing.as_ref().and_then(Writing::upload).map(str::to_owned);
            let (pool, objects) = (self.store.pool.clone(), self.objects.clone());
            runtime.spawn(async move {
                match doubts::give_up(&pool, blob).await {
                    // The line stays: a write that was cut off may come through later, and the sweep looks once more.
                    Ok(true) => {
                        if let Err(trouble) = objects.remove(blob, upload.as_deref()).await {
                            tracing::debug!(%trouble, "an interrupted upload is left to the sweep");
                        }
                    }
                    Ok(false) => {}
                    Err(failure) => {
                        tracing::debug!(cause = ?failure.cause(), "an interrupted upload is left to the sweep");
                    }
                }
            });
        }
    }
}

/// Makes the object a preimage's, unless there is one already. The doubt ends in the transaction in which the record begins.
async fn settle(pool: &PgPool, blob: Uuid, preimage: &Preimage) -> Result<bool, Failure> {
    let mut transaction = begin(pool, Begin::Plain).await?;
    let created = preimages::insert_outside(&mut transaction, preimage, blob).await?;
    if created {
        doubts::adopt(&mut transaction, blob).await?;
        transaction.commit().await?;
    } else {
        transaction.rollback().await?;
    }
    Ok(created)
}

/// Stores a blob that is new as far as is known; `None` when another upload of it was faster.
pub(super) async fn put(
    store: &PostgresStore,
    objects: &Objects,
    upload: Upload,
    mut body: UploadBody<'_>,
) -> Result<Option<Put>, PutError> {
    let Upload { hash, size_hint: _, media_type, uploader, now } = upload;
    let mut intake = Intake { store, objects, waiting: Pieces::default(), writing: None, blob: None };
    let mut size = 0;
    while let Some(bytes) = body.try_next().await.map_err(PutError::Refused)? {
        size += bytes.len() as u64;
        intake.take(bytes).await?;
    }
    let storage_class = objects.storage_class().to_owned();
    let preimage = Preimage { hash, size, media_type, created_at: now, uploader, storage_class, refcount: 0 };
    Ok(intake.settle(&preimage).await?.then_some(Put::Created(preimage)))
}

/// What a download needs for each of its steps.
struct Reader {
    store: PostgresStore,
    objects: Objects,
    preimage: Preimage,
    blob: Uuid,
}

impl Reader {
    /// The next bytes of the range; `None` when the preimage was deleted meanwhile.
    async fn window(&self, range: Range<u64>) -> Stored<Option<Bytes>> {
        let (hash, size) = (self.preimage.hash, self.preimage.size);
        let wanted = range.start..range.end.min(range.start + WINDOW);
        let length = wanted.end - wanted.start;
        let problem = match self.objects.read(self.blob, wanted).await {
            Ok((bytes, there)) if there == size && bytes.len() as u64 == length => return Ok(Some(bytes)),
            Ok((_, there)) => format!("has {there} of the {size} bytes"),
            Err(Trouble::Missing) => "has no object".to_owned(),
            Err(trouble @ (Trouble::Refused { .. } | Trouble::Away { .. })) => return Err(trouble.into()),
        };
        let pool = &self.store.pool;
        let still = self.store.bounded(read(pool, || preimages::find(pool, hash))).await?;
        if still.is_none_or(|(_, blob)| blob != self.blob) {
            return Ok(None);
        }
        let (place, blob) = (&self.objects, self.blob);
        Err(StoreError::Fault(format!(
            "the blob store {place} {problem} of preimage {hash}: bring {blob} back from a backup, or DELETE the preimage \
             and upload it again"
        )))
    }
}

/// The bytes in the range, one window for each step of the reader. The first is read before anything is answered; `None` when
/// the preimage was deleted meanwhile.
pub(super) async fn download(
    store: &PostgresStore,
    preimage: &Preimage,
    blob: Uuid,
    range: Range<u64>,
) -> Stored<Option<BlobBody>> {
    let class = &preimage.storage_class;
    let Some(objects) = store.objects.clone().filter(|objects| objects.storage_class() == class) else {
        let hash: PreimageHash = preimage.hash;
        return Err(StoreError::Unavailable(format!(
            "the bytes of preimage {hash} are in a blob store of class {class}, and this process was not given it: set \
             JAM_BLOB_STORE to where they are"
        )));
    };
    let (end, at) = (range.end.min(preimage.size), range.start);
    let reader = Arc::new(Reader { store: store.clone(), objects, preimage: preimage.clone(), blob });
    let first = if at < end {
        match reader.window(at..end).await? {
            Some(bytes) => bytes,
            None => return Ok(None),
        }
    } else {
        Bytes::new()
    };
    let next = at + first.len() as u64;
    let rest = stream::try_unfold((reader, next), move |(reader, at)| async move {
        if at >= end {
            return Ok(None);
        }
        match reader.window(at..end).await? {
            Some(bytes) => {
                let next = at + bytes.len() as u64;
                Ok(Some((bytes, (reader, next))))
            }
            None => Err(StoreError::Unavailable("the blob was deleted while it was read".into())),
        }
    });
    let first = (!first.is_empty()).then_some(Ok(first));
    Ok(Some(stream::iter(first).chain(rest).boxed()))
}

/// Removes an object whose record is gone. When that fails the sweep does it: its line is there.
pub(super) async fn remove(store: &PostgresStore, blob: Uuid) {
    let Some(objects) = &store.objects else { return };
    match objects.remove(blob, None).await {
        Ok(()) => {
            let pool = &store.pool;
            if let Err(error) = store.aside(doubts::forget(pool, &[blob])).await {
                tracing::debug!(%error, "an object that is gone is left to the sweep");
            }
        }
        Err(trouble) => tracing::warn!(%trouble, "an object without a preimage is left to the next cleanup"),
    }
}

/// Removes objects that have been in doubt for so long; returns how many.
///
/// Each batch is given up first, so that no upload can make one of them a preimage's any more; then it goes, then its lines.
pub(super) async fn sweep(store: &PostgresStore, idle_seconds: u32) -> Stored<u64> {
    let (pool, mut swept) = (&store.pool, 0);
    if let Some(objects) = &store.objects {
        loop {
            let class = objects.storage_class();
            let batch = store.aside(doubts::give_up_idle(pool, class, idle_seconds)).await?;
            if batch.is_empty() {
                break;
            }
            let removed = stream::iter(batch)
                .map(|(blob, upload)| async move { objects.remove(blob, upload.as_deref()).await.map(|()| blob) });
            let removed: Vec<Result<Uuid, Trouble>> = removed.buffer_unordered(AT_ONCE).collect().await;
            let gone: Vec<Uuid> = removed.iter().filter_map(|one| one.as_ref().ok().copied()).collect();
            store.aside(doubts::forget(pool, &gone)).await?;
            swept += gone.len() as u64;
            if let Some(trouble) = removed.into_iter().find_map(Result::err) {
                return Err(trouble.into());
            }
        }
    }
    let class = store.objects.as_ref().map(Objects::storage_class);
    match store.aside(doubts::elsewhere(pool, class, idle_seconds)).await? {
        0 => Ok(swept),
        left => Err(StoreError::Unavailable(format!(
            "{left} objects that no preimage has are in a blob store that this process was not given: set JAM_BLOB_STORE to \
             where they are"
        ))),
    }
}
