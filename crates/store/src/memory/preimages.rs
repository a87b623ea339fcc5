//! Blobs in memory: gathered outside the lock, in chunks that readers share without copying.

use std::collections::hash_map::Entry;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use jam_domain::{Preimage, PreimageHash};

use super::MemoryStore;
use super::state::{Blob, State};
use crate::{BlobBody, Put, PutError, Upload, UploadBody};

/// Bytes of every chunk but the last.
const CHUNK: usize = 256 * 1024;

pub(super) async fn put(store: &MemoryStore, upload: Upload, mut body: UploadBody<'_>) -> Result<Put, PutError> {
    let Upload { hash, size_hint, media_type, uploader, now } = upload;
    if store.state().preimages.contains_key(&hash) {
        while body.try_next().await.map_err(PutError::Refused)?.is_some() {}
    } else {
        let (chunks, size) = gather(body, size_hint).await.map_err(PutError::Refused)?;
        let record =
            Preimage { hash, size, media_type, created_at: now, uploader, storage_class: "memory".into(), refcount: 0 };
        let mut state = store.state();
        if let Entry::Vacant(place) = state.preimages.entry(hash) {
            place.insert(Blob { record: record.clone(), chunks });
            return Ok(Put::Created(record));
        }
    }
    match store.state().preimages.get(&hash) {
        Some(blob) => Ok(Put::AlreadyThere(blob.record.clone())),
        // Deleted while the body was read, without keeping it: the client has to send it once more.
        None => Err(PutError::Store(crate::StoreError::Unavailable("the blob was deleted during its upload".into()))),
    }
}

async fn gather(mut body: UploadBody<'_>, announced: Option<u64>) -> Result<(Vec<Bytes>, u64), jam_domain::Refusal> {
    let (mut chunks, mut open, mut size) = (Vec::new(), BytesMut::new(), 0);
    while let Some(mut bytes) = body.try_next().await? {
        while !bytes.is_empty() {
            if open.capacity() == 0 {
                // Memory that is touched for the first time costs more than the hash: a chunk that grows by doubling touches twice as much.
                let left = announced.map_or(CHUNK as u64, |announced| announced.saturating_sub(size));
                open = BytesMut::with_capacity(
                    usize::try_from(left).unwrap_or(CHUNK).clamp(bytes.len().min(CHUNK), CHUNK),
                );
            }
            let part = bytes.split_to(bytes.len().min(CHUNK - open.len()));
            open.extend_from_slice(&part);
            size += part.len() as u64;
            if open.len() == CHUNK {
                chunks.push(std::mem::take(&mut open).freeze());
            }
        }
    }
    if !open.is_empty() {
        // A short blob whose length was not announced must not keep a whole chunk.
        let fits = open.capacity() / 2 <= open.len();
        chunks.push(if fits { open.freeze() } else { Bytes::copy_from_slice(&open) });
    }
    Ok((chunks, size))
}

/// The bytes in the range, clamped to the blob.
pub(super) fn read(blob: &Blob, range: Range<u64>) -> BlobBody {
    let mut parts = Vec::new();
    let mut start = 0;
    for chunk in &blob.chunks {
        let end = start + chunk.len() as u64;
        let (from, to) = (range.start.clamp(start, end), range.end.clamp(start, end));
        if from < to {
            let inside = |at: u64| usize::try_from(at - start).expect("a chunk fits into memory");
            parts.push(Ok(chunk.slice(inside(from)..inside(to))));
        }
        start = end;
    }
    stream::iter(parts).boxed()
}

pub(super) fn delete(state: &mut State, hash: PreimageHash) -> Option<bool> {
    let unused = state.preimages.get(&hash)?.record.refcount == 0;
    if unused {
        state.preimages.remove(&hash);
    }
    Some(unused)
}
