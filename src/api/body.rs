//! The body of a request: read whole when it is small JSON, streamed and hashed when it is a blob, and read to its end when
//! it was refused, so that the client hears the answer.

use std::time::Duration;

use axum::http::header::EXPECT;
use axum::http::{HeaderMap, HeaderValue};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use jam_domain::{Code, PreimageHash, Refusal};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout};

use super::admit::too_large;

/// How long a client may leave us waiting for the next part of a body.
const STALL: Duration = Duration::from_secs(30);
/// How much of a refused body is read, and for how long, before the connection is closed.
const DRAIN_BYTES: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The next bytes of a body; `None` at its end.
async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Refusal> {
    loop {
        match timeout(STALL, body.frame()).await {
            Ok(None) => return Ok(None),
            // Trailers carry nothing that anybody asked for.
            Ok(Some(Ok(frame))) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
            Ok(Some(Err(_))) => return Err(Refusal::new(Code::BadRequest, "the body ended before it was whole")),
            Err(_) => return Err(Refusal::new(Code::BadRequest, "the body stalled for 30 s")),
        }
    }
}

/// Reads a JSON body of at most `cap` bytes.
pub async fn whole(body: &mut Incoming, cap: u64) -> Result<Bytes, Refusal> {
    let mut read = BytesMut::new();
    while let Some(bytes) = next(body).await? {
        if read.len() as u64 + bytes.len() as u64 > cap {
            return Err(too_large(cap));
        }
        read.extend_from_slice(&bytes);
    }
    Ok(read.freeze())
}

struct Checked<'a> {
    body: &'a mut Incoming,
    hasher: Sha256,
    announced: PreimageHash,
    read: u64,
    cap: u64,
    ended: bool,
}

impl Checked<'_> {
    async fn step(&mut self) -> Option<Result<Bytes, Refusal>> {
        if self.ended {
            return None;
        }
        let step = match next(self.body).await {
            Ok(Some(bytes)) => {
                self.read += bytes.len() as u64;
                self.hasher.update(&bytes);
                if self.read > self.cap { Err(too_large(self.cap)) } else { Ok(Some(bytes)) }
            }
            Ok(None) => self.end().map(|()| None),
            Err(refusal) => Err(refusal),
        };
        self.ended = !matches!(step, Ok(Some(_)));
        step.transpose()
    }

    fn end(&self) -> Result<(), Refusal> {
        let actual = PreimageHash(self.hasher.clone().finalize().into());
        if actual == self.announced {
            return Ok(());
        }
        Err(Refusal::field("hash", format!("the SHA-256 of the body is {actual}")))
    }
}

/// The bytes of a blob as they come, hashed on the way; the stream ends with a refusal when they are too many, too few, or
/// hash to another name than announced.
pub fn checked(body: &mut Incoming, announced: PreimageHash, cap: u64) -> BoxStream<'_, Result<Bytes, Refusal>> {
    let start = Checked { body, hasher: Sha256::new(), announced, read: 0, cap, ended: false };
    futures::stream::unfold(start, |mut checked| async move { checked.step().await.map(|step| (step, checked)) })
        .boxed()
}

/// Reads what is left of a refused body for a while: a client that is still sending would otherwise see its connection
/// reset before it reads the answer. One that waits for `100 Continue` sends nothing, so nothing is read.
pub fn drain(mut body: Incoming, headers: &HeaderMap) {
    let waits = headers.get(EXPECT).is_some_and(|v| v == HeaderValue::from_static("100-continue"));
    if body.is_end_stream() || waits {
        return;
    }
    tokio::spawn(async move {
        let (end, mut left) = (Instant::now() + DRAIN_TIME, DRAIN_BYTES);
        while let Ok(Some(Ok(frame))) = tokio::time::timeout_at(end, body.frame()).await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    });
}
