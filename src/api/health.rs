//! Whether this process can serve: the store answers, its schema is the one this build needs, and no stop was asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jam_domain::Timestamp;
use jam_domain::retention::CleanupRecord;
use jam_store::{SchemaVersion, Store, StoreError, Trouble};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::cleanup::Retained;

/// How long a store has to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an answer counts: probes of many watchers cost the store one question.
const FRESH: Duration = Duration::from_millis(250);

/// The health of this process.
pub struct Health {
    store: Arc<dyn Store>,
    stale_after: Option<Duration>,
    draining: AtomicBool,
    last: Mutex<Option<(Instant, Checks)>>,
}

/// What the store said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checks {
    /// Why the store can't be used.
    pub store: Result<(), &'static str>,
    /// The schema, when it could be read.
    pub schema: Option<SchemaVersion>,
    /// What became of retention.
    pub retained: Retained,
    /// Whether the blob store serves, where there is one. Without it everything but the bytes of preimages can be served, so
    /// that it does not decide about readiness: every replica would go at once (docs/adr/0031).
    pub blobs: Option<Result<(), Trouble>>,
}

impl Checks {
    /// Whether requests can be served.
    pub fn good(&self) -> bool {
        self.store.is_ok() && self.schema.is_some_and(SchemaVersion::serves)
    }
}

impl Health {
    /// Of a process on this store.
    pub fn new(store: Arc<dyn Store>, stale_after: Option<Duration>) -> Self {
        Self { store, stale_after, draining: AtomicBool::new(false), last: Mutex::new(None) }
    }

    /// How long after the last good cleanup the next one is overdue.
    pub fn stale_after(&self) -> Option<Duration> {
        self.stale_after
    }

    /// From now on the process is not ready: it is about to stop.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether a stop was asked for.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Asks the store, or returns what it said a moment ago.
    pub async fn checks(&self) -> Checks {
        let mut last = self.last.lock().await;
        if let Some((at, checks)) = &*last
            && at.elapsed() < FRESH
        {
            return checks.clone();
        }
        let checks = self.ask().await;
        let before = last.replace((Instant::now(), checks.clone()));
        log_change(before.as_ref().map(|(_, checks)| checks), &checks);
        checks
    }

    async fn ask(&self) -> Checks {
        let deadline = Instant::now() + PATIENCE;
        let answer = timeout_at(deadline, async {
            self.store.ping().await?;
            self.store.schema().await
        });
        let (answer, blobs) = tokio::join!(answer, self.blobs(deadline));
        let away =
            |reason| Checks { store: Err(reason), schema: None, retained: self.retained(None), blobs: blobs.clone() };
        match answer {
            Ok(Ok(schema)) => {
                // An older schema has no such table.
                let retained = if schema.serves() { self.remembered(deadline).await } else { self.retained(None) };
                Checks { store: Ok(()), schema: Some(schema), retained, blobs }
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "the store does not answer");
                away(reason(&error))
            }
            Err(_) => away("the store did not answer within 2 s"),
        }
    }

    async fn blobs(&self, deadline: Instant) -> Option<Result<(), Trouble>> {
        let late = || Trouble::Away { place: String::new(), why: "not within 2 s".into() };
        timeout_at(deadline, self.store.blob_store()).await.unwrap_or_else(|_| Some(Err(late())))
    }

    /// What became of retention. Where only that can't be read, requests are served all the same.
    async fn remembered(&self, deadline: Instant) -> Retained {
        match timeout_at(deadline, self.store.cleanups()).await {
            Ok(Ok(record)) => self.retained(record),
            Ok(Err(error)) => {
                tracing::debug!(%error, "what is remembered of cleanups can't be read");
                Retained::unknown()
            }
            Err(_) => Retained::unknown(),
        }
    }

    fn retained(&self, record: Option<CleanupRecord>) -> Retained {
        Retained::of(record, Timestamp::now(), self.stale_after)
    }
}

fn reason(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable(_) | StoreError::Stopped(_) => "the store can't be reached",
        StoreError::Schema { .. } => "the schema is not the one this build needs",
        StoreError::Fault(_) | StoreError::Unread(..) => "the store failed",
    }
}

fn log_change(before: Option<&Checks>, now: &Checks) {
    let kind = |checks: &Checks| checks.blobs.as_ref().map(|known| known.as_ref().err().map(blob_reason));
    match (&now.blobs, before.and_then(kind)) {
        (Some(Err(trouble)), known) if known != Some(Some(blob_reason(trouble))) => {
            tracing::warn!(%trouble, "preimages can't be stored or read");
        }
        (Some(Ok(())), Some(Some(_))) => tracing::info!("preimages can be stored and read again"),
        (Some(Ok(()) | Err(_)) | None, _) => {}
    }
    if before.is_some_and(|before| (&before.store, before.schema) == (&now.store, now.schema)) {
        return;
    }
    match (&now.store, now.schema) {
        (Err(reason), _) => tracing::warn!(reason, "not ready"),
        (Ok(()), Some(schema)) if !schema.serves() => {
            tracing::warn!(found = schema.found, wanted = schema.wanted, "not ready: {}", unserved(schema));
        }
        (Ok(()), _) if before.is_some() => tracing::info!("ready again"),
        (Ok(()), _) => {}
    }
}

/// What a client is told of the blob store: not where it is, nor what it said.
fn blob_reason(trouble: &Trouble) -> &'static str {
    match trouble {
        Trouble::Away { .. } | Trouble::Missing => "the blob store does not answer: preimages can't be stored or read",
        Trouble::Refused { .. } => "the blob store refuses this server: preimages can't be stored or read, see the log",
    }
}

/// One check: `ok`, and a reason if it is not.
pub fn checked<R: Into<Value>>(problem: Option<R>) -> Value {
    match problem {
        None => json!({"ok": true}),
        Some(reason) => json!({"ok": false, "reason": reason.into()}),
    }
}

/// Why a schema is none to work on, and what to do.
fn unserved(SchemaVersion { found, wanted, oldest: _, foreign }: SchemaVersion) -> String {
    match found {
        None if foreign => {
            "the database is another program's, and no migration is applied to it: name an empty one".into()
        }
        None => format!("the database has no schema yet, version {wanted} is needed: run `jam-api migrate`"),
        Some(found) if found > wanted => {
            format!("the schema has version {found} and serves no build that needs {wanted}: use the later release")
        }
        Some(found) => format!("the schema has version {found}, version {wanted} is needed: run `jam-api migrate`"),
    }
}

/// The checks as `/readyz` shows them: `ok`, and a reason for each that is not.
pub fn shown(checks: &Checks, draining: bool) -> Value {
    let one = checked::<String>;
    let mut schema = one(match checks.schema {
        Some(schema) => (!schema.serves()).then(|| unserved(schema)),
        None => Some("not known while the store does not answer".into()),
    });
    if let (Some(SchemaVersion { found, wanted, oldest: _, foreign: _ }), Value::Object(fields)) =
        (checks.schema, &mut schema)
    {
        fields.insert("found".into(), found.into());
        fields.insert("wanted".into(), wanted.into());
    }
    let mut shown = json!({
        "store": one(checks.store.err().map(str::to_owned)),
        "schema": schema,
        "draining": one(draining.then(|| "the process is stopping".into())),
    });
    if let (Some(known), Value::Object(fields)) = (&checks.blobs, &mut shown) {
        fields.insert("blob_store".into(), one(known.as_ref().err().map(|trouble| blob_reason(trouble).into())));
    }
    shown
}
