//! The body of a request: read whole when it is small JSON, streamed and hashed when it is a blob, and read to its end when
//! it was refused or nobody asked for it, so that the client hears the answer and may go on.

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

use super::admit::{Admitted, announced, too_large};
use super::room::Turn;
use super::state::Api;

/// Bytes that have to come for each time that we are patient: slower than this is a client that only holds a place.
const PROGRESS: usize = 64 << 10;
/// How much of a refused body, or of one that nobody asked for, is read, and for how long, before the connection is closed.
const DRAIN_BYTES: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// A body as it comes. Only the time that we wait for the client counts against it, not the time that we take ourselves.
struct Arriving<'a> {
    body: &'a mut Incoming,
    patience: Duration,
    waited: Duration,
    came: usize,
}

impl<'a> Arriving<'a> {
    fn new(body: &'a mut Incoming, patience: Duration) -> Self {
        Self { body, patience, waited: Duration::ZERO, came: 0 }
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            let began = Instant::now();
            let frame = timeout(self.patience.saturating_sub(self.waited), self.body.frame()).await;
            self.waited += began.elapsed();
            match frame {
                Ok(None) => return Ok(None),
                // Trailers carry nothing that anybody asked for.
                Ok(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.progress(bytes.len());
                        return Ok(Some(bytes));
                    }
                }
                Ok(Some(Err(_))) => return Err(Refusal::new(Code::BadRequest, "the body ended before it was whole")),
                Err(_) => return Err(self.too_slow()),
            }
        }
    }

    fn progress(&mut self, count: usize) {
        self.came += count;
        if self.came >= PROGRESS {
            (self.came, self.waited) = (0, Duration::ZERO);
        }
    }

    fn too_slow(&self) -> Refusal {
        let seconds = self.patience.as_secs();
        let kib = PROGRESS >> 10;
        Refusal::new(Code::BadRequest, format!("the body came too slowly: less than {kib} KiB in {seconds} s"))
    }
}

/// Reads a JSON body that was let in, once there is room for it; the room is given back with the turn.
pub async fn received(api: &Api, admitted: &Admitted<'_>, body: &mut Incoming) -> Result<(Bytes, Turn), Refusal> {
    let most = announced(admitted.headers).unwrap_or(admitted.cap).min(admitted.cap);
    let turn = api.gate.json.turn(&admitted.caller.bucket, most).await?;
    Ok((whole(body, admitted.cap, admitted.patience).await?, turn))
}

/// Reads a JSON body of at most `cap` bytes.
async fn whole(body: &mut Incoming, cap: u64, patience: Duration) -> Result<Bytes, Refusal> {
    let (mut body, mut read) = (Arriving::new(body, patience), BytesMut::new());
    while let Some(bytes) = body.next().await? {
        if read.len() as u64 + bytes.len() as u64 > cap {
            return Err(too_large(cap));
        }
        read.extend_from_slice(&bytes);
    }
    Ok(read.freeze())
}

struct Checked<'a> {
    body: Arriving<'a>,
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
        let step = match self.body.next().await {
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
pub fn checked(
    body: &mut Incoming,
    announced: PreimageHash,
    cap: u64,
    patience: Duration,
) -> BoxStream<'_, Result<Bytes, Refusal>> {
    let body = Arriving::new(body, patience);
    let start = Checked { body, hasher: Sha256::new(), announced, read: 0, cap, ended: false };
    futures::stream::unfold(start, |mut checked| async move { checked.step().await.map(|step| (step, checked)) })
        .boxed()
}

/// Reads what is left of a body for a while: a client that is still sending would otherwise see its connection reset before
/// it reads the answer. One that waits for `100 Continue` sends nothing, so nothing is read.
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
