//! The short way while the database is away: after the first failure nobody waits for it any more, and one connection at a
//! time asks whether it is back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;
use sqlx::{ConnectOptions, Connection};
use tokio::sync::watch;
use tokio::time::timeout;

use super::error::{Cause, Failure};
use crate::StoreError;

/// How long a caller waits for the answer to the question whether it is back: where a dead host is not told from a slow
/// one at once, callers must not pile up behind it. Long enough for a new connection with TLS on a busy machine: else
/// everybody would be refused by a database that is well.
const WAIT: Duration = Duration::from_secs(1);
/// The least pause between two questions: a database that is starting must not be asked by every request.
const PAUSE: Duration = Duration::from_millis(50);

/// Whether the database is away, as far as is known.
#[derive(Clone)]
pub(super) struct Outage(Arc<Inner>);

struct Inner {
    pool: PgPool,
    /// How long a question may take.
    patience: Duration,
    away: AtomicBool,
    question: Mutex<Question>,
    answered: watch::Sender<()>,
}

#[derive(Default)]
struct Question {
    under_way: bool,
    ended: Option<Instant>,
}

impl Outage {
    pub(super) fn new(pool: PgPool, patience: Duration) -> Self {
        let (away, question) = (AtomicBool::new(false), Mutex::default());
        Self(Arc::new(Inner { pool, patience, away, question, answered: watch::Sender::default() }))
    }

    /// Lets the caller through, or tells it at once that the database is away. Who comes when it is back gets through:
    /// the caller itself makes the question be asked. It stands before what begins, never in the middle: what has begun
    /// may hold a connection that is sound.
    pub(super) async fn pass(&self) -> Result<(), StoreError> {
        if self.is_away() {
            let mut answered = self.0.answered.subscribe();
            if self.ask() {
                // Late or not: what counts is what is known then.
                let _ = timeout(WAIT, answered.changed()).await;
            }
        }
        if self.is_away() {
            return Err(StoreError::Unavailable("the database is away; asking until it is back".into()));
        }
        Ok(())
    }

    /// Takes note of a failure. One that may mean an outage makes the next caller ask.
    pub(super) fn note(&self, failure: &Failure) {
        // With every connection in use it is we who are busy; whether the database is away, those who hold them find out.
        let unconnected = matches!(failure, Failure::Sql(sqlx::Error::PoolTimedOut)) && !self.0.is_full();
        if failure.cause() == Cause::Connection || unconnected {
            self.suspect();
        }
    }

    /// Something took longer than it may.
    pub(super) fn suspect(&self) {
        self.0.away.store(true, Ordering::Relaxed);
    }

    fn is_away(&self) -> bool {
        self.0.away.load(Ordering::Relaxed)
    }

    /// Asks whether it is back, unless that was asked a moment ago; says whether an answer is to come.
    fn ask(&self) -> bool {
        {
            let mut question = self.0.question.lock().unwrap_or_else(PoisonError::into_inner);
            if question.under_way {
                return true;
            }
            if question.ended.is_some_and(|ended| ended.elapsed() < PAUSE) {
                return false;
            }
            question.under_way = true;
        }
        // Not the caller's own: a caller who goes away must not take the answer with it.
        tokio::spawn(Asking { inner: Arc::clone(&self.0), back: false }.answer());
        true
    }
}

/// A question under way. It ends however its task ends, else nobody would ever ask again.
struct Asking {
    inner: Arc<Inner>,
    back: bool,
}

impl Asking {
    async fn answer(mut self) {
        self.back = self.inner.is_back().await;
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.inner.away.store(!self.back, Ordering::Relaxed);
        *self.inner.question.lock().unwrap_or_else(PoisonError::into_inner) =
            Question { under_way: false, ended: Some(Instant::now()) };
        self.inner.answered.send_replace(());
    }
}

impl Inner {
    /// Whether no further connection may be opened.
    fn is_full(&self) -> bool {
        self.pool.size() >= self.pool.options().get_max_connections()
    }

    /// Whether it takes a new connection, or at least says why not.
    async fn is_back(&self) -> bool {
        match timeout(self.patience, self.pool.connect_options().connect()).await {
            Ok(Ok(connection)) => {
                // Back is back, however this connection ends; but nobody waits for its end.
                let _ = timeout(WAIT, connection.close()).await;
                true
            }
            Ok(Err(error)) => match Failure::from(error).cause() {
                Cause::Connection => false,
                // Full: the connections that there are go on serving, if there are any.
                Cause::Exhausted => self.pool.size() > 0,
                Cause::Collision | Cause::Schema | Cause::Fault => true,
            },
            Err(_) => false,
        }
    }
}
