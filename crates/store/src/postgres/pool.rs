//! The connections: opened when first needed, bounded in number and in every wait, replaced when the database was away.

use std::str::FromStr;
use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use super::PostgresConfig;
use super::error::{Cause, Failure};
use super::transaction::Transaction;
use crate::innermost;

/// How often a transaction that stood in another's way is done again.
pub(super) const COLLISIONS: u32 = 5;

/// A transaction: `begin` and what holds for this transaction alone, in one round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// Nothing special.
    Plain,
    /// What is read is as of one moment.
    Look,
    /// One batch of submissions at a time in the whole database: caps are exact, heads and preimages never deadlock.
    /// The lock is an advisory one, so that readers, processors and vacuum do not notice it.
    Submit,
    /// A claim: may be idle for so long while its packages are refined, then the database takes them back.
    Process(Duration),
    /// Chunks of an upload, whose record's commit flushes them in log order; or a batch of a cleanup, which the next
    /// cleanup does again when a crash takes it back. Nobody waits for the disk while it holds rows.
    Staging,
    /// One thing that an administrator does at a time in the whole database: what was before is exactly what the audit says.
    Admin,
}

impl Begin {
    pub(super) fn statement(self) -> AssertSqlSafe<String> {
        let isolation = match self {
            Self::Look => "repeatable read, read only",
            Self::Plain | Self::Submit | Self::Process(_) | Self::Staging | Self::Admin => "read committed",
        };
        let first = match self {
            Self::Plain | Self::Look => String::new(),
            Self::Submit => "; select pg_advisory_xact_lock(5425451, 1)".into(),
            Self::Admin => "; select pg_advisory_xact_lock(5425451, 4)".into(),
            Self::Process(idle) => {
                format!("; set local idle_in_transaction_session_timeout = {}", idle.as_millis())
            }
            Self::Staging => "; set local synchronous_commit = off".into(),
        };
        AssertSqlSafe(format!("begin isolation level {isolation}{first}"))
    }
}

/// What holds for every session.
///
/// A 201 is durable whatever the database or the role says by default. Every statement of the store is written for one
/// index; the statistics of tables that grow from nothing say otherwise for minutes: then a claim or a page sorts everything that is pending (50 ms instead of 1 ms at 20,000 packages).
const SESSION: [(&str, &str); 7] = [
    ("synchronous_commit", "on"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_sort", "off"),
    ("jit", "off"),
];

/// What the server does about a client that it hears nothing of, because its node or the way to it is gone: the session
/// ends, with its locks, within a minute. Such a client is never told from one that thinks, except by these questions.
const LOST_CLIENT: [(&str, &str); 4] = [
    ("tcp_keepalives_idle", "20"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "4"),
    // Also where the server waits for the client to read an answer.
    ("tcp_user_timeout", "60000"),
];

/// Reads the DSN into options; connects to nothing. The error says what is wrong with the DSN, which may name its parts.
pub(super) fn options(config: &PostgresConfig) -> Result<PgConnectOptions, String> {
    let PostgresConfig {
        dsn,
        max_connections: _,
        acquire_timeout: _,
        statement_timeout,
        claim_timeout: _,
        clock: _,
        objects: _,
    } = config;
    let statement = statement_timeout.as_millis().to_string();
    if !["postgres://", "postgresql://"].iter().any(|scheme| dsn.starts_with(scheme)) {
        return Err("it does not begin with postgres:// or postgresql://".into());
    }
    known_parameters(dsn)?;
    Ok(PgConnectOptions::from_str(dsn)
        .map_err(|error| innermost(&error))?
        .application_name("jam-api")
        .statement_cache_capacity(256)
        .options([("statement_timeout", statement.as_str()), ("idle_in_transaction_session_timeout", "30000")])
        .options(LOST_CLIENT))
}

/// The parameters of a DSN that the library reads. Others it drops with a warning that shows their values.
const PARAMETERS: [&str; 13] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "statement-cache-capacity",
    "options",
];
/// Other ways to write some of them.
const ALIASES: [&str; 5] = ["ssl-mode", "ssl-root-cert", "ssl-ca", "ssl-cert", "ssl-key"];

/// What tunes libpq's own waiting, or names what is always so here: without them nothing is less safe. The library warns of each.
const HARMLESS: [&str; 14] = [
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "fallback_application_name",
    "client_encoding",
    "gssencmode",
    "sslcompression",
    "load_balance_hosts",
    // Of other libraries, as hosted databases hand them out.
    "pgbouncer",
    "connection_limit",
    "pool_timeout",
];

/// Refuses a parameter that nobody reads: `sslmod=require` would connect without TLS.
fn known_parameters(dsn: &str) -> Result<(), String> {
    // What is no URL at all, the library refuses in its own words.
    let Ok(url) = reqwest::Url::parse(dsn) else { return Ok(()) };
    let known = |name: &str| {
        let setting = name.starts_with("options[") && name.ends_with(']');
        setting || [&PARAMETERS[..], &ALIASES, &HARMLESS].iter().any(|names| names.contains(&name))
    };
    let Some((name, value)) = url.query_pairs().find(|(name, _)| !known(name)) else { return Ok(()) };
    // Values are secrets, and so may be the end of one that has an `&` in it.
    let is_name = !value.is_empty() && name.bytes().all(|b| b.is_ascii_alphabetic() || b"_-".contains(&b));
    let named =
        if is_name { format!("{name:?} is none of its parameters") } else { "it has a parameter that is none".into() };
    Err(format!("{named}: {}", PARAMETERS.join(", ")))
}

/// A pool that has not connected yet.
pub(super) fn lazy(config: &PostgresConfig) -> Result<PgPool, String> {
    Ok(PgPoolOptions::new()
        .max_connections(config.max_connections.max(1))
        .acquire_timeout(config.acquire_timeout)
        .idle_timeout(Duration::from_mins(10))
        // Connections that died with the database are found by the statement itself, and `begin` and `read` try again.
        .test_before_acquire(false)
        .connect_lazy_with(options(config)?.options(SESSION)))
}

/// Begins a transaction. Connections that died while they lay in the pool are replaced here, unnoticed by the caller.
pub(super) async fn begin(pool: &PgPool, begin: Begin) -> Result<Transaction, Failure> {
    let mut stale = pool.options().get_max_connections();
    loop {
        match Transaction::begin(pool, begin).await.map_err(Failure::from) {
            Err(failure) if failure.cause() == Cause::Connection && stale > 0 => stale -= 1,
            other => return other,
        }
    }
}

/// Does a read, again if it fell on a connection that died while it lay in the pool.
pub(super) async fn read<T, F>(pool: &PgPool, step: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut stale = pool.options().get_max_connections();
    loop {
        match step().await {
            Err(failure) if failure.cause() == Cause::Connection && stale > 0 => stale -= 1,
            other => return other,
        }
    }
}

/// Does a whole transaction, again if it was rolled back because another stood in its way.
pub(super) async fn again<T, F>(step: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut left = COLLISIONS;
    loop {
        match step().await {
            Err(failure) if failure.cause() == Cause::Collision && left > 0 => left -= 1,
            other => return other,
        }
    }
}
