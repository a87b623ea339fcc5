//! The schema: which version is there, and how to get to the one that this build needs.

mod halt;

use std::pin::pin;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::migrate::{Migrate, MigrateError as Problem, Migrator};
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{ConnectOptions, Connection, query, query_as, query_scalar};
use tokio::time::{sleep, timeout};

use super::PostgresConfig;
use super::error::{Cause, Failure, Redaction};
use super::{events, pool};
use crate::SchemaVersion;

static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a statement waits for a lock: whoever comes after it waits behind it, and the servers of the release before
/// this one are at work.
const LOCK: &str = "set lock_timeout = '2s'";
/// How often a migration that did not get its lock is tried again, and after which pause: half a minute in all.
const AGAIN: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// One migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its number, 1 for the first.
    pub version: i64,
    /// Its name.
    pub description: String,
}

/// What is applied, and what is not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The version that is there and the one that is needed.
    pub version: SchemaVersion,
    /// Applied migrations, in order.
    pub applied: Vec<Step>,
    /// Migrations that [`apply`] would apply, in order.
    pub pending: Vec<Step>,
}

/// Why the schema can't be migrated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MigrateError {
    /// The database can't be reached or gave up half way; a migration that was under way left nothing behind.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The DSN can't be read.
    #[error("the database DSN can't be read: {0}")]
    Dsn(String),
    /// The database belongs to another program.
    #[error("the database is not ours: it has {0}; use an empty database")]
    Foreign(String),
    /// The database refuses what a migration needs, such as a role without a right: to be put right there, then it can go on.
    #[error("the database refuses the migration{}: {problem}", version.map(|v| format!(" at version {v}")).unwrap_or_default())]
    Refused {
        /// The migration, when it was one of its statements.
        version: Option<i64>,
        /// What the database said.
        problem: String,
    },
    /// A later release has migrated the database.
    #[error("the database schema is at version {found}, this build knows up to {wanted}: use the later release")]
    Newer {
        /// The version that is there.
        found: i64,
        /// The last version of this build.
        wanted: i64,
    },
    /// A migration that was applied is not the one of this build.
    #[error("migration {version} was applied from a file that differs from this build's")]
    Changed {
        /// The migration.
        version: i64,
    },
    /// The database refused a statement.
    #[error("migration failed{}: {problem}", version.map(|v| format!(" at version {v}")).unwrap_or_default())]
    Failed {
        /// The migration, when it was one of its statements.
        version: Option<i64>,
        /// What the database said.
        problem: String,
    },
    /// It was ended from outside; nothing of what was under way is left.
    #[error("ended while it was {0}")]
    Halted(String),
}

impl MigrateError {
    /// Whether trying again can never help: then `jam-api migrate` exits with 3.
    pub fn permanent(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Refused { .. } | Self::Halted(_) => false,
            Self::Dsn(_) | Self::Foreign(_) | Self::Newer { .. } | Self::Changed { .. } | Self::Failed { .. } => true,
        }
    }

    /// A word for logs and conditions.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Refused { .. } => "refused",
            Self::Dsn(_) => "dsn",
            Self::Foreign(_) => "foreign",
            Self::Newer { .. } => "newer",
            Self::Changed { .. } => "changed",
            Self::Failed { .. } => "failed",
            Self::Halted(_) => "halted",
        }
    }
}

/// The version that this build needs.
pub fn wanted() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// The version that is there, for readiness: reads only, changes nothing.
pub(super) async fn version(pool: &PgPool) -> Result<SchemaVersion, Failure> {
    let table: Option<String> = query_scalar("select to_regclass('_sqlx_migrations')::text").fetch_one(pool).await?;
    let rows = match table {
        None => Vec::new(),
        Some(_) => query_as(ROWS).fetch_all(pool).await?,
    };
    let (found, wanted) = (standing(&rows), wanted());
    let later = found.filter(|found| *found > wanted);
    let oldest = match later {
        Some(later) => {
            query_scalar("select oldest from schema_serves where schema = $1").bind(later).fetch_optional(pool).await?
        }
        None => None,
    };
    let foreign = match found {
        None => stranger(&rows, &query_scalar(OTHERS).fetch_all(pool).await?).is_some(),
        Some(_) => false,
    };
    Ok(SchemaVersion { found, wanted, oldest, foreign })
}

/// The version that the schema really has: the last one before the first that is missing, was not finished or is another
/// program's; a later release's only when all of ours are there.
fn standing(rows: &[Applied]) -> Option<i64> {
    let whole = |version: i64, checksum: &[u8]| {
        rows.iter().any(|row| row.version == version && row.success && row.checksum == checksum)
    };
    let ours = MIGRATOR.iter().take_while(|migration| whole(migration.version, &migration.checksum));
    let reached = ours.last().map(|migration| migration.version);
    let later = rows.iter().filter(|row| row.success && row.version > wanted()).map(|row| row.version).max();
    reached.map(|reached| later.filter(|_| reached == wanted()).unwrap_or(reached))
}

/// What is applied and what is pending; changes nothing.
///
/// # Errors
/// The same refusals as [`apply`], so that they are known beforehand.
pub async fn status(config: &PostgresConfig) -> Result<Status, MigrateError> {
    let mut session = Session::open(config).await?;
    session.status().await
}

/// What [`apply`] would apply; changes nothing.
pub async fn plan(config: &PostgresConfig) -> Result<Vec<Step>, MigrateError> {
    Ok(status(config).await?.pending)
}

/// Applies what is pending, each migration in a transaction of its own, and returns what it applied. Runs at the same
/// time wait for one another; the later ones find nothing left to do.
pub async fn apply(config: &PostgresConfig) -> Result<Vec<Step>, MigrateError> {
    apply_until(config, std::future::pending()).await
}

/// The same, ended by `halt` when that comes first: the database has then taken back what was under way, and given up the lock.
///
/// # Errors
/// [`MigrateError::Halted`] says what it was at.
pub async fn apply_until(config: &PostgresConfig, halt: impl Future<Output = ()>) -> Result<Vec<Step>, MigrateError> {
    let mut halt = pin!(halt);
    let mut session = tokio::select! {
        session = Session::open(config) => session?,
        () = &mut halt => return Err(MigrateError::Halted("connecting to its database".into())),
    };
    let process = tokio::select! {
        process = session.process() => process?,
        () = &mut halt => return Err(MigrateError::Halted("asking its database".into())),
    };
    let mut work = pin!(session.apply());
    tokio::select! {
        applied = &mut work => return applied,
        () = &mut halt => {}
    }
    let at = timeout(CONNECT, halt::end(config, process)).await;
    let at = at.unwrap_or_else(|_| "its database did not answer".into());
    match timeout(CONNECT, work).await {
        // It came to its end in this very moment.
        Ok(Ok(steps)) => Ok(steps),
        Ok(Err(_)) | Err(_) => Err(MigrateError::Halted(at)),
    }
}

/// One connection of its own, without the time limits of the store; closing it gives up its advisory lock.
struct Session {
    connection: PgConnection,
    redaction: Redaction,
}

impl Session {
    async fn open(config: &PostgresConfig) -> Result<Self, MigrateError> {
        let redaction = Redaction::of(&config.dsn);
        let unlimited = PostgresConfig { statement_timeout: Duration::ZERO, ..config.clone() };
        let options = pool::options(&unlimited).map_err(|error| MigrateError::Dsn(redaction.clean(&error)))?;
        // A second run finds what is there already, as it should: the library would log a notice of the server for it.
        let options = options.options([("client_min_messages", "warning")]);
        match timeout(CONNECT, options.connect()).await {
            Ok(Ok(connection)) => Ok(Self { connection, redaction }),
            Ok(Err(error)) => Err(words(&redaction, None, &error.into())),
            Err(_) => Err(MigrateError::Unavailable("it did not answer in time".into())),
        }
    }

    fn explain(&self, problem: Problem) -> MigrateError {
        match problem {
            Problem::Execute(error) => words(&self.redaction, None, &error.into()),
            Problem::ExecuteMigration(error, version) => words(&self.redaction, Some(version), &error.into()),
            Problem::VersionMismatch(version) => MigrateError::Changed { version },
            Problem::VersionMissing(found) => MigrateError::Newer { found, wanted: wanted() },
            // The library's own enum, which may grow.
            other => MigrateError::Failed { version: None, problem: self.redaction.clean(&other.to_string()) },
        }
    }

    /// The number by which the database knows this session.
    async fn process(&mut self) -> Result<i32, MigrateError> {
        let process = query_scalar("select pg_backend_pid()").fetch_one(&mut self.connection).await;
        process.map_err(|error| words(&self.redaction, None, &error.into()))
    }

    async fn apply(mut self) -> Result<Vec<Step>, MigrateError> {
        self.lock().await?;
        // Looked at under the lock: another run may have just finished.
        let pending = self.status().await?.pending;
        self.run().await?;
        self.rebase().await?;
        self.close().await;
        Ok(pending)
    }

    async fn lock(&mut self) -> Result<(), MigrateError> {
        let locked = self.connection.lock().await;
        locked.map_err(|problem| self.explain(problem))
    }

    async fn run(&mut self) -> Result<(), MigrateError> {
        // Not before the lock of the migrations: that one is waited for as long as another run takes.
        let bounded = query(LOCK).execute(&mut self.connection).await;
        bounded.map_err(|error| words(&self.redaction, None, &error.into()))?;
        let (migrator, mut left) = (Migrator { locking: false, ..borrowed() }, AGAIN);
        loop {
            match migrator.run_direct(None, &mut self.connection, false).await {
                Err(problem) if left > 0 && is_locked_out(&problem) => {
                    left -= 1;
                    tracing::warn!(left, "a table is in use; the migration lets others pass and tries again");
                    sleep(PAUSE).await;
                }
                ran => return ran.map_err(|problem| self.explain(problem)),
            }
        }
    }

    /// A database that was restored from a dump goes on with its events where they were.
    async fn rebase(&mut self) -> Result<(), MigrateError> {
        let rebased = query(events::REBASE).execute(&mut self.connection).await;
        rebased.map(drop).map_err(|error| words(&self.redaction, None, &error.into()))
    }

    async fn close(self) {
        // The work is done; a connection that breaks now is closed as well.
        let _ = self.connection.close().await;
    }

    async fn status(&mut self) -> Result<Status, MigrateError> {
        let state = state(&mut self.connection).await;
        let (rows, others) = state.map_err(|failure| words(&self.redaction, None, &failure))?;
        judge(&rows, &others)?;
        let steps = |applied: bool| {
            MIGRATOR
                .iter()
                .filter(|migration| rows.iter().any(|row| row.version == migration.version) == applied)
                .map(|migration| Step { version: migration.version, description: migration.description.to_string() })
                .collect()
        };
        let found = standing(&rows);
        Ok(Status {
            version: SchemaVersion { found, wanted: wanted(), oldest: None, foreign: false },
            applied: steps(true),
            pending: steps(false),
        })
    }
}

/// Whether a statement gave up waiting for a lock; its migration left nothing behind.
fn is_locked_out(problem: &Problem) -> bool {
    match problem {
        Problem::Execute(error) | Problem::ExecuteMigration(error, _) => {
            error.as_database_error().and_then(DatabaseError::code).is_some_and(|code| code == "55P03")
        }
        // The library's own enum, which may grow.
        _ => false,
    }
}

/// Whether somebody can put it right in the database without another build: a right that the role lacks, a schema that is not
/// there yet, an object that others hold.
fn can_be_granted(code: &str) -> bool {
    matches!(code, "42501" | "3F000" | "55006")
}

/// The same migrations; the library's type can't be cloned.
fn borrowed() -> Migrator {
    Migrator { migrations: std::borrow::Cow::Borrowed(&MIGRATOR.migrations), ..Migrator::DEFAULT }
}

fn words(redaction: &Redaction, version: Option<i64>, failure: &Failure) -> MigrateError {
    let problem = redaction.clean(&failure.to_string());
    if failure.code().is_some_and(can_be_granted) {
        return MigrateError::Refused { version, problem };
    }
    match failure.cause() {
        Cause::Connection | Cause::Collision | Cause::Exhausted => MigrateError::Unavailable(problem),
        Cause::Schema | Cause::Fault => MigrateError::Failed { version, problem },
    }
}

/// The rows of the table of migrations.
const ROWS: &str = "select version, description, checksum, success from _sqlx_migrations order by version";

/// A row of the table of migrations.
#[derive(sqlx::FromRow)]
struct Applied {
    version: i64,
    description: String,
    checksum: Vec<u8>,
    success: bool,
}

/// The first tables and views that are neither the migrations' nor an extension's.
const OTHERS: &str = "select c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = current_schema() and c.relkind in ('r', 'p', 'f', 'v', 'm') and c.relname <> '_sqlx_migrations'
        and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
    order by c.relname limit 5";

/// The applied migrations, and the first tables and views that are neither theirs nor an extension's.
async fn state(connection: &mut PgConnection) -> Result<(Vec<Applied>, Vec<String>), Failure> {
    let table: Option<String> =
        query_scalar("select to_regclass('_sqlx_migrations')::text").fetch_one(&mut *connection).await?;
    let rows = match table {
        None => Vec::new(),
        Some(_) => query_as(ROWS).fetch_all(&mut *connection).await?,
    };
    let others = query_scalar(OTHERS).fetch_all(connection).await?;
    Ok((rows, others))
}

/// What says that the database is another program's.
fn stranger(rows: &[Applied], others: &[String]) -> Option<String> {
    let ours = |row: &Applied| MIGRATOR.iter().any(|m| m.version == row.version && *m.description == row.description);
    match others {
        [] if rows.is_empty() => None,
        [..] if rows.is_empty() => Some(format!("the tables or views {}", others.join(", "))),
        [..] if rows.iter().any(ours) => None,
        [..] => Some("the migrations of another program".into()),
    }
}

/// Refuses what must not be migrated.
fn judge(rows: &[Applied], others: &[String]) -> Result<(), MigrateError> {
    if let Some(what) = stranger(rows, others) {
        return Err(MigrateError::Foreign(what));
    }
    let wanted = wanted();
    if let Some(found) = rows.iter().map(|row| row.version).max().filter(|found| *found > wanted) {
        return Err(MigrateError::Newer { found, wanted });
    }
    // Ours are applied in one transaction each: what was begun and not finished is somebody's doing by hand.
    if let Some(row) = rows.iter().find(|row| !row.success) {
        let problem = "_sqlx_migrations says that it was not finished: restore the database from a backup".into();
        return Err(MigrateError::Failed { version: Some(row.version), problem });
    }
    let changed = rows.iter().find(|row| {
        MIGRATOR.iter().any(|migration| migration.version == row.version && *migration.checksum != row.checksum)
    });
    changed.map_or(Ok(()), |row| Err(MigrateError::Changed { version: row.version }))
}
