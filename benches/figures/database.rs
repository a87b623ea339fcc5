//! The private PostgreSQL of the figures: durable, with pg_stat_statements, and the counters that are read from it.

use std::time::Duration;

use jam_store::{PostgresConfig, PostgresStore};
use sqlx::{PgConnection, Row as _, query, query_scalar};

use crate::postgres::{Server, connect, execute};
use crate::program;

/// More than the tests' server, because a million packages are kept; durable all the same. pg_stat_statements also counts
/// `begin` and `commit`.
const SETTINGS: &str = "-c shared_buffers=256MB -c max_wal_size=4GB -c shared_preload_libraries=pg_stat_statements \
    -c pg_stat_statements.max=2000";

/// The server.
pub struct Database {
    server: Server,
    postmaster: u32,
}

/// What the programs under measurement have made one database do; the harness has a role of its own and is not in it.
#[derive(Clone, Copy, Default)]
pub struct Counters {
    /// Statements, `begin` and `commit` among them.
    pub statements: f64,
    /// Of these, commits.
    pub commits: f64,
    /// Pages of 8 KiB touched, in memory or not.
    pub blocks: f64,
    /// Bytes of write-ahead log.
    pub wal: f64,
}

impl Counters {
    /// What was added since, for each of so many operations.
    pub fn since(self, before: Self, operations: f64) -> Self {
        Self {
            statements: (self.statements - before.statements) / operations,
            commits: (self.commits - before.commits) / operations,
            blocks: (self.blocks - before.blocks) / operations,
            wal: (self.wal - before.wal) / operations,
        }
    }
}

impl Database {
    /// Starts it.
    pub async fn start() -> Self {
        let server = Server::tuned(SETTINGS);
        let dsn = server.dsn("postgres");
        execute(&dsn, "create extension pg_stat_statements").await;
        execute(&dsn, "create role jam superuser login").await;
        let backend: i32 =
            query_scalar("select pg_backend_pid()").fetch_one(&mut connect(&dsn).await).await.expect("it answers");
        // The connection is closed, but its process may not be gone yet; otherwise ask the kernel about a living one.
        let mut living = connect(&dsn).await;
        let backend = query_scalar("select pg_backend_pid()").fetch_one(&mut living).await.unwrap_or(backend);
        let backend = u32::try_from(backend).expect("process ids are positive");
        let postmaster = program::parent(backend).expect("a backend is the postmaster's child");
        Self { server, postmaster }
    }

    /// A new database with our schema: its DSN for the harness.
    pub async fn fresh(&self) -> String {
        self.server.migrated_database().await
    }

    /// The same database as the programs under measurement see it: under the role whose statements are counted.
    pub fn counted(dsn: &str) -> String {
        dsn.replace("postgres://postgres@", "postgres://jam@")
    }

    /// The counters of a database now.
    pub async fn counters(&self, dsn: &str) -> Counters {
        let name = dsn.rsplit('/').next().and_then(|rest| rest.split('?').next()).unwrap_or_default();
        let row = query(
            "select coalesce(sum(calls), 0)::float8 as statements,
                coalesce(sum(calls) filter (where query ilike 'commit%'), 0)::float8 as commits,
                coalesce(sum(shared_blks_hit + shared_blks_read), 0)::float8 as blocks,
                coalesce(sum(wal_bytes), 0)::float8 as wal
             from pg_stat_statements s join pg_database d on d.oid = s.dbid join pg_roles r on r.oid = s.userid
             where r.rolname = 'jam' and d.datname = $1",
        )
        .bind(name)
        .fetch_one(&mut self.admin().await)
        .await
        .expect("pg_stat_statements answers");
        Counters {
            statements: row.get("statements"),
            commits: row.get("commits"),
            blocks: row.get("blocks"),
            wal: row.get("wal"),
        }
    }

    /// How often the write-ahead log was flushed to disk, by anyone. A backend reports when it ends: read it after the
    /// programs have.
    pub async fn fsyncs(&self) -> f64 {
        tokio::time::sleep(Duration::from_millis(200)).await; // backends end after their clients
        let count: i64 = query_scalar("select wal_sync from pg_stat_wal")
            .fetch_one(&mut self.admin().await)
            .await
            .expect("pg_stat_wal answers");
        crate::table::float(count.unsigned_abs())
    }

    /// Bytes of write-ahead log ever written, by anyone.
    pub async fn log_position(&self) -> f64 {
        query_scalar("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8")
            .fetch_one(&mut self.admin().await)
            .await
            .expect("it answers")
    }

    /// CPU of every process of the database since another reading; one that ended in between is lost.
    pub fn cpu_since(&self, before: &[(u32, Duration)]) -> Duration {
        let mut total = Duration::ZERO;
        for (pid, used) in self.cpu() {
            let earlier = before.iter().find(|(id, _)| *id == pid).map_or(Duration::ZERO, |(_, earlier)| *earlier);
            total += used.saturating_sub(earlier);
        }
        total
    }

    /// CPU of its processes.
    pub fn cpu(&self) -> Vec<(u32, Duration)> {
        program::children_cpu(self.postmaster)
    }

    async fn admin(&self) -> PgConnection {
        connect(&self.server.dsn("postgres")).await
    }
}

/// The store of a database, for the harness to fill and to check it.
pub async fn store(dsn: &str) -> PostgresStore {
    PostgresStore::connect(PostgresConfig::new(dsn)).await.expect("a DSN of ours")
}
