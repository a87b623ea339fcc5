//! One writer for all submissions of this process: while a batch commits, the next one gathers, so that many share a commit.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::error::{Cause, Failure, Redaction};
use super::outage::Outage;
use super::pool::COLLISIONS;
use super::submit::{Candidate, submit};
use crate::{StoreError, SubmitError, Submitted};

/// Packages in one transaction at most.
const BATCH: usize = 256;
/// Bytes of their bodies after which no further one joins.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

type Verdict = Result<Submitted, SubmitError>;

/// Gathers submissions and writes them. Nothing runs while there is nothing to write: the first submission starts a task
/// that ends with the last one. The task is not the caller's, so that a caller who goes away takes no other with it.
#[derive(Clone)]
pub(super) struct Writer {
    pool: PgPool,
    outage: Outage,
    redaction: Redaction,
    patience: Duration,
    wanted: i64,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    writing: bool,
}

struct Waiting {
    candidate: Candidate,
    answer: oneshot::Sender<Verdict>,
    since: Instant,
}

impl Writer {
    pub(super) fn new(pool: PgPool, outage: Outage, redaction: Redaction, patience: Duration, wanted: i64) -> Self {
        Self { pool, outage, redaction, patience, wanted, queue: Arc::default() }
    }

    /// Stores one package with whatever else is waiting; answers after the commit.
    pub(super) async fn submit(&self, candidate: Candidate) -> Verdict {
        let (answer, verdict) = oneshot::channel();
        let start = {
            let mut queue = self.queue();
            queue.waiting.push_back(Waiting { candidate, answer, since: Instant::now() });
            !std::mem::replace(&mut queue.writing, true)
        };
        if start {
            let writer = self.clone();
            tokio::spawn(async move { writer.run().await });
        }
        match verdict.await {
            Ok(verdict) => verdict,
            Err(_) => Err(StoreError::Fault("the writer of submissions stopped".into()).into()),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self) {
        let mut flag = Running { writer: self, ended: false };
        while let Some(batch) = flag.next() {
            let (candidates, answers): (Vec<Candidate>, Vec<_>) =
                batch.into_iter().map(|one| (one.candidate, one.answer)).unzip();
            let verdicts = match self.outage.pass().await {
                Ok(()) => self.write(&candidates).await,
                // The batch before this one has found out.
                Err(away) => refused(&candidates, &away),
            };
            for (answer, verdict) in answers.into_iter().zip(verdicts) {
                // A caller who went away has no use for the verdict.
                let _ = answer.send(verdict);
            }
        }
    }

    /// Writes a batch; when it can't be written whole, each package by itself, so that one bad package fails alone.
    async fn write(&self, batch: &[Candidate]) -> Vec<Verdict> {
        match self.attempt(batch).await {
            Ok(verdicts) => verdicts,
            Err(StoreError::Fault(_)) if batch.len() > 1 => {
                let mut verdicts = Vec::with_capacity(batch.len());
                for candidate in batch {
                    match self.attempt(std::slice::from_ref(candidate)).await {
                        Ok(mut single) => verdicts.append(&mut single),
                        Err(error) => verdicts.push(Err(error.into())),
                    }
                }
                verdicts
            }
            Err(error) => refused(batch, &error),
        }
    }

    /// Tries until the batch is committed, refused or the patience ends. A try whose connection broke may have been
    /// committed all the same, so the next one looks for its packages first.
    async fn attempt(&self, batch: &[Candidate]) -> Result<Vec<Verdict>, StoreError> {
        let tries = async {
            let (mut left, mut repeated) = (COLLISIONS, false);
            loop {
                let failure = match submit(&self.pool, batch, repeated).await {
                    Ok(verdicts) => return Ok(verdicts),
                    Err(failure) => failure,
                };
                if left == 0 || !may_pass(&failure) {
                    self.outage.note(&failure);
                    return Err(self.redaction.answer(&failure, self.wanted));
                }
                left -= 1;
                repeated |= failure.cause() == Cause::Connection;
            }
        };
        if let Ok(result) = timeout(self.patience, tries).await {
            return result;
        }
        self.outage.suspect();
        Err(StoreError::Unavailable("the database did not answer in time".into()))
    }
}

fn refused(batch: &[Candidate], error: &StoreError) -> Vec<Verdict> {
    batch.iter().map(|_| Err(error.clone().into())).collect()
}

/// Whether the next try can go better. A new id or key that another server stores at the same moment is a collision, too:
/// the next try finds it.
fn may_pass(failure: &Failure) -> bool {
    match failure.cause() {
        Cause::Connection | Cause::Collision => true,
        Cause::Fault => failure.code() == Some("23505"),
        Cause::Exhausted | Cause::Schema => false,
    }
}

/// The task that writes. If it ends early, by a panic or with its runtime, the next submission starts another.
struct Running<'a> {
    writer: &'a Writer,
    ended: bool,
}

impl Running<'_> {
    /// The next batch; none ends the task, decided under the lock so that no submission falls between.
    ///
    /// Nobody waits for the batches before his own longer than for his own: of what is refused here nothing was written.
    fn next(&mut self) -> Option<Vec<Waiting>> {
        let mut queue = self.writer.queue();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let Some(next) = queue.waiting.pop_front() else { break };
            if next.since.elapsed() > self.writer.patience {
                let late = StoreError::Unavailable("the submissions before this one took too long".into());
                let _ = next.answer.send(Err(late.into()));
                continue;
            }
            bytes += next.candidate.weight();
            batch.push(next);
        }
        if batch.is_empty() {
            queue.writing = false;
            self.ended = true;
            return None;
        }
        Some(batch)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let mut queue = self.writer.queue();
            queue.writing = false;
            queue.waiting.clear();
        }
    }
}
