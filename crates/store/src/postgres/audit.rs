//! The table of the audit: one line for each thing that an administrator did, written with its effect.

use jam_domain::By;
use jam_domain::audit::{AuditEntry, Deed};
use jam_domain::page::{AuditCursor, Page, PageRequest, Start};
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{AssertSqlSafe, Row, query};

use super::error::Failure;
use super::lists::{self, skip_of};
use super::pool::{Begin, begin};
use super::value::{At, body, count, number, unbody, word};

/// Writes one line. The transaction is one of [`Begin::Admin`], so that numbers have no gap and no later line a lower one.
pub(super) async fn write(connection: &mut PgConnection, deed: &Deed) -> Result<(), Failure> {
    let Deed { by: By { token_id, at }, act, target, before, after } = deed;
    query(
        "insert into audit (id, at, token_id, action, target, before, after)
         values (coalesce((select id from audit order by id desc limit 1), 0) + 1, $1, $2, $3, $4, $5::json, $6::json)",
    )
    .bind(At::from(*at))
    .bind(token_id.as_str())
    .bind(act.as_str())
    .bind(target)
    .bind(body(before)?)
    .bind(body(after)?)
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes the line of something that leaves no other trace in the database.
pub(super) async fn note(pool: &PgPool, deed: &Deed) -> Result<(), Failure> {
    let mut transaction = begin(pool, Begin::Admin).await?;
    write(&mut transaction, deed).await?;
    transaction.commit().await?;
    Ok(())
}

fn entry_of(row: &PgRow) -> Result<AuditEntry, Failure> {
    Ok(AuditEntry {
        id: count(row.try_get("id")?)?,
        at: row.try_get::<At, _>("at")?.timestamp(),
        token_id: word(row.try_get("token_id")?)?,
        action: word(row.try_get("action")?)?,
        target: row.try_get("target")?,
        before: unbody(row.try_get_unchecked("before")?)?,
        after: unbody(row.try_get_unchecked("after")?)?,
    })
}

/// The newest lines first.
pub(super) async fn list(
    pool: &PgPool,
    page: PageRequest<AuditCursor>,
) -> Result<Page<AuditEntry, AuditCursor>, Failure> {
    let below = match page.start {
        Start::Offset(_) => i64::MAX,
        Start::After(AuditCursor(id)) => number(id)?,
    };
    let (skip, limit) = (skip_of(&page.start)?, i64::from(page.limit) + 1);
    let sql = format!(
        "select id, at, token_id, action, target, before, after from audit where id < $1
         order by id desc offset {skip} limit {limit}"
    );
    let rows = query(AssertSqlSafe(sql)).persistent(skip == 0).bind(below).fetch_all(pool).await?;
    lists::page(&rows, page.limit, entry_of, |last| AuditCursor(last.id))
}
