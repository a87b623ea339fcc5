//! The table of events: one row for each transaction, read up to where no transaction is under way (docs/adr/0028).

use jam_domain::event::{Happening, Reach, Step};
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Row, query, query_scalar};

use super::error::Failure;
use super::value::{At, body, count, number, unbody};

/// Bytes of events that are read at once, unless one step alone is longer; and steps.
const PAGE_BYTES: u32 = 256 * 1024;
const PAGE_STEPS: u32 = 500;
/// Steps that are deleted at once.
const OLD: u32 = 500;

/// Steps below this number are whole: their transactions have ended, and every later one gets a higher number. The snapshot
/// is the statement's own.
const WHOLE: &str = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint + (select base from event_log)";

/// Tables that were restored into another cluster number their steps on from where they were.
pub(super) const REBASE: &str = "update event_log l set base = s.last - c.next + 1
    from (select coalesce(max(step), 0) as last from events) s,
        (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as next) c
    where s.last >= c.next + l.base";

/// The part of a statement that writes the events of its transaction; `$n` is their text. Once in a transaction, and in one
/// that is flushed before it is seen: else a crash could give its number away again.
pub(super) fn telling(n: u8) -> String {
    format!(
        "told as (
            insert into events (step, body)
            select pg_current_xact_id()::text::bigint + l.base, ${n} from event_log l
         )"
    )
}

/// The text of the events.
pub(super) fn text_of(happened: &[Happening]) -> Result<String, Failure> {
    body(&happened)
}

/// How far the events reach.
pub(super) async fn reach(pool: &PgPool) -> Result<Reach, Failure> {
    let sql = format!(
        "select forgotten, coalesce((select step from events where step < {WHOLE} order by step desc limit 1), 0) as last
         from event_log"
    );
    let row = query(AssertSqlSafe(sql)).fetch_one(pool).await?;
    let (forgotten, last) = (count(row.try_get("forgotten")?)?, count(row.try_get("last")?)?);
    Ok(Reach { forgotten, last: last.max(forgotten) })
}

/// The next steps after this one, in order.
pub(super) async fn after(pool: &PgPool, step: u64) -> Result<Vec<Step>, Failure> {
    let sql = format!(
        "select step, at, body from (
            select e.step, e.at, e.body,
                sum(octet_length(e.body)) over (order by e.step) - octet_length(e.body) as before
            from events e where e.step > $1 and e.step < {WHOLE} order by e.step limit {PAGE_STEPS}
         ) p where before < {PAGE_BYTES} order by step"
    );
    let rows = query(AssertSqlSafe(sql)).bind(number(step)?).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            Ok(Step {
                number: count(row.try_get("step")?)?,
                at: row.try_get::<At, _>("at")?.timestamp(),
                happened: unbody(row.try_get("body")?)?,
            })
        })
        .collect()
}

/// Deletes some of the steps from before the cutoff, oldest first and never the last one, at which readers stand; returns
/// how many.
pub(super) async fn forget(connection: &mut PgConnection, cutoff: At) -> Result<u64, Failure> {
    let sql = format!(
        "with gone as (
            delete from events where step = any(array(select step from events order by step limit {OLD}))
                and at < $1 and step < {WHOLE} and step < (select max(step) from events) returning step
         ), told as (
            update event_log set forgotten = greatest(forgotten, (select max(step) from gone))
            where exists (select from gone)
         )
         select count(*) from gone"
    );
    count(query_scalar(AssertSqlSafe(sql)).bind(cutoff).fetch_one(connection).await?)
}
