//! A migration that is ended from outside: what it was at, who stands in its way, and that the database takes it back at once.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{Row, query, query_scalar};
use tokio::time::sleep;

use super::{MigrateError, PostgresConfig, Session, Step, words};
use crate::postgres::error::Failure;

/// How often it is looked whether the database has ended the session, and the pause between two looks.
const LOOKS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// Sessions that are named of those in its way.
const NAMED: i64 = 3;

const WAITS_FOR_ANOTHER: &str = "select coalesce((select wait_event_type = 'Lock' and wait_event = 'advisory'
    from pg_stat_activity where pid = $1), false)";
const IN_ITS_WAY: &str =
    "select pid, coalesce(usename::text, 'unknown') as owner, coalesce(application_name, '') as program,
        coalesce(state, 'at work') as state, extract(epoch from now() - xact_start)::bigint as age
    from pg_stat_activity where pid = any(pg_blocking_pids($1)) order by xact_start, pid limit $2";

/// Ends the session of this process id in the database, which does not notice by itself that nobody listens any more: it would
/// wait on, with its lock. Returns what it was at.
pub(super) async fn end(config: &PostgresConfig, session: i32) -> String {
    let Ok(mut other) = Session::open(config).await else {
        return "its database did not answer".to_owned();
    };
    let said = match other.at(session).await {
        Ok(said) => said,
        Err(error) => format!("what it was at can't be read ({error})"),
    };
    if let Err(error) = other.terminate(session).await {
        tracing::warn!(%error, session, "the database could not be told to end the migration's session");
    }
    other.close().await;
    said
}

impl Session {
    /// What the session of this process id is at.
    async fn at(&mut self, session: i32) -> Result<String, MigrateError> {
        let another: bool = self.said(query_scalar(WAITS_FOR_ANOTHER).bind(session)).await?;
        let holders = query(IN_ITS_WAY).bind(session).bind(NAMED).fetch_all(&mut self.connection).await;
        let holders = holders.map_err(|error| words(&self.redaction, None, &error.into()))?;
        let holders: Result<Vec<String>, Failure> = holders.iter().map(holder).collect();
        let holders = holders.map_err(|failure| words(&self.redaction, None, &failure))?.join(", ");
        if another {
            return Ok(format!("waiting for another migration of this database: {holders}"));
        }
        let what = match self.status().await?.pending.first() {
            Some(Step { version, description }) => format!("applying {version} {description}"),
            None => "finishing".to_owned(),
        };
        Ok(if holders.is_empty() { what } else { format!("{what}, which waits for {holders}") })
    }

    /// Ends that session and waits until it is gone, and its lock with it.
    async fn terminate(&mut self, session: i32) -> Result<(), MigrateError> {
        let _: bool = self.said(query_scalar("select pg_terminate_backend($1)").bind(session)).await?;
        for _ in 0..LOOKS {
            let there = query_scalar("select exists (select from pg_stat_activity where pid = $1)").bind(session);
            if !self.said(there).await? {
                break;
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// The one answer of a question that is answered with yes or no.
    async fn said(
        &mut self,
        question: sqlx::query::QueryScalar<'_, sqlx::Postgres, bool, sqlx::postgres::PgArguments>,
    ) -> Result<bool, MigrateError> {
        let answer = question.fetch_one(&mut self.connection).await;
        answer.map_err(|error| words(&self.redaction, None, &error.into()))
    }
}

/// One session, as an administrator finds it again.
fn holder(row: &PgRow) -> Result<String, Failure> {
    let pid: i32 = row.try_get("pid")?;
    let (owner, program): (String, String) = (row.try_get("owner")?, row.try_get("program")?);
    let (state, age): (String, Option<i64>) = (row.try_get("state")?, row.try_get("age")?);
    let program = if program.is_empty() { String::new() } else { format!(" ({program})") };
    let age = age.map(|age| format!(" for {age} s")).unwrap_or_default();
    Ok(format!("process {pid} of {owner}{program}, {state}{age}"))
}
