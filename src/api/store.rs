//! The store that the settings name, opened; and its migrations.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jam_domain::{Settings, StoreKind};
use jam_store::postgres::migrate::{self, MigrateError, Status, Step};
use jam_store::{MemoryStore, PostgresConfig, PostgresStore, Store, Trouble};
use tokio_util::sync::CancellationToken;

use super::program::Ending;
use super::settings::{Loaded, Wiring};

/// How long a start waits for the blob store: who starts many servers waits for each.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// Opens the store. PostgreSQL need not answer yet: readiness and every request say so until it does.
pub async fn open(settings: &Settings, wiring: &Wiring) -> Result<Arc<dyn Store>, Ending> {
    match settings.store {
        StoreKind::Memory => Ok(Arc::new(MemoryStore::new())),
        StoreKind::Postgres => {
            let store = PostgresStore::connect(config(wiring)?).await;
            Ok(Arc::new(store.map_err(|error| Ending::Refused(vec![format!("pg_dsn {error}")]))?))
        }
    }
}

fn config(wiring: &Wiring) -> Result<PostgresConfig, Ending> {
    let dsn = wiring.pg_dsn.as_ref().ok_or_else(|| Ending::Refused(vec!["pg_dsn is missing".into()]))?;
    Ok(PostgresConfig {
        max_connections: wiring.pg_max_connections,
        claim_timeout: Duration::from_secs(wiring.claim_timeout_seconds.into()),
        objects: wiring.blob_store.clone(),
        ..PostgresConfig::new(dsn.reveal())
    })
}

/// Asks the blob store for a sign of life before anything is served. One that refuses us is a mistake in the settings; one
/// that does not answer need not yet: readiness says so, and it heals by itself.
pub async fn prove_blobs(wiring: &Wiring) -> Result<(), Ending> {
    let Some(objects) = &wiring.blob_store else { return Ok(()) };
    match tokio::time::timeout(FIRST_ANSWER, objects.probe()).await {
        Ok(Ok(()) | Err(Trouble::Missing)) => tracing::info!(blob_store = %objects, "preimages are kept there"),
        Ok(Err(trouble @ Trouble::Refused { .. })) => {
            return Err(Ending::Refused(vec![format!("blob_store can't be used: {trouble}")]));
        }
        Ok(Err(trouble @ Trouble::Away { .. })) => tracing::warn!(%trouble, "preimages can't be stored or read yet"),
        Err(_) => {
            tracing::warn!(blob_store = %objects, "the blob store does not answer; preimages can't be stored or read yet");
        }
    }
    Ok(())
}

/// What `migrate` is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Migration {
    /// Apply.
    Apply,
    /// Say which version is there.
    Status,
    /// Say what would be applied.
    DryRun,
}

impl Migration {
    /// What the flags ask for.
    pub fn of(status: bool, dry_run: bool) -> Self {
        match (status, dry_run) {
            (true, _) => Self::Status,
            (false, true) => Self::DryRun,
            (false, false) => Self::Apply,
        }
    }
}

/// What ends a command that works on the schema before it is done.
#[derive(Debug)]
pub struct Bounds {
    /// How long it may take.
    pub limit: Option<Duration>,
    /// The stop signal.
    pub stop: CancellationToken,
}

/// Why it was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Halt {
    /// It was told to stop.
    Told,
    /// Its time was up.
    Late(Duration),
}

impl Bounds {
    async fn halt(&self) -> Halt {
        match self.limit {
            None => self.stop.cancelled().await,
            Some(limit) => match tokio::time::timeout(limit, self.stop.cancelled()).await {
                Ok(()) => {}
                Err(_) => return Halt::Late(limit),
            },
        }
        Halt::Told
    }
}

impl Halt {
    fn ending(self, at: &str) -> Ending {
        match self {
            Self::Told => Ending::Stopped(format!("stopped half way, {at}: what was not committed is taken back")),
            Self::Late(limit) => Ending::Late(format!(
                "gave up after {} s, {at}: what was not committed is taken back; end what it waits for, or give it longer \
                 (--timeout, spec.migrations.timeoutSeconds), and run it again (timeout)",
                limit.as_secs_f32()
            )),
        }
    }
}

/// `jam-api migrate`: says on stdout what it did, would do, or found.
pub async fn migrate(
    loaded: &Loaded,
    migration: Migration,
    result_file: Option<&Path>,
    bounds: &Bounds,
) -> Result<(), Ending> {
    if loaded.settings.store == StoreKind::Memory {
        println!("store is memory: there is nothing to migrate");
        return Ok(());
    }
    let config = config(&loaded.wiring)?;
    let looked = async {
        match migration {
            Migration::Apply => apply(&config, result_file, bounds).await,
            Migration::Status => status(&config).await,
            Migration::DryRun => {
                let steps = migrate::plan(&config).await.map_err(ending)?;
                note(result_file, &said("would apply", &steps));
                Ok(())
            }
        }
    };
    match migration {
        Migration::Apply => looked.await,
        Migration::Status | Migration::DryRun => tokio::select! {
            ended = looked => ended,
            halt = bounds.halt() => Err(halt.ending("looking at the schema")),
        },
    }
}

async fn apply(config: &PostgresConfig, result_file: Option<&Path>, bounds: &Bounds) -> Result<(), Ending> {
    let mut halted = None;
    let halt = async { halted = Some(bounds.halt().await) };
    match (migrate::apply_until(config, halt).await, halted) {
        (Ok(steps), _) => {
            note(result_file, &format!("{}schema version {}\n", said("applied", &steps), migrate::wanted()));
            Ok(())
        }
        (Err(MigrateError::Halted(at)), Some(halt)) => Err(halt.ending(&at)),
        (Err(error), _) => Err(ending(error)),
    }
}

async fn status(config: &PostgresConfig) -> Result<(), Ending> {
    let Status { version, applied, pending } = migrate::status(config).await.map_err(ending)?;
    let found = version.found.map_or_else(|| "none".to_owned(), |found| found.to_string());
    println!("schema version {found}, this build needs {}", version.wanted);
    print!("{}{}", said("is applied", &applied), said("is pending", &pending));
    if pending.is_empty() {
        return Ok(());
    }
    Err(Ending::Failed("the schema is not the one this build needs: run `jam-api migrate`".into()))
}

fn said(what: &str, steps: &[Step]) -> String {
    if steps.is_empty() {
        return format!("nothing {what}\n");
    }
    let lines = steps.iter().map(|Step { version, description }| format!("{what}: {version} {description}"));
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// Says it on stdout and, for whoever started it, in a file: the operator reads it in the pod's termination message.
fn note(file: Option<&Path>, text: &str) {
    print!("{text}");
    leave(file, text);
}

/// Leaves it in the file alone, where there is one.
pub fn leave(file: Option<&Path>, text: &str) {
    if let Some(file) = file
        && let Err(error) = std::fs::write(file, text)
    {
        tracing::warn!(file = %file.display(), %error, "the result could not be written there");
    }
}

#[allow(clippy::needless_pass_by_value)] // the shape that `map_err` wants
fn ending(error: MigrateError) -> Ending {
    let line = format!("{error} ({})", error.code());
    if error.permanent() { Ending::Never(line) } else { Ending::Failed(line) }
}
