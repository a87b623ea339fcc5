//! The tables of what administrators set at run time, and the count of its changes.

use jam_domain::By;
use jam_domain::audit::Deed;
use jam_domain::control::{Change, Control, ControlKey, Controls};
use serde_json::Value;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{Row, query, query_scalar};

use super::audit;
use super::error::Failure;
use super::pool::{Begin, begin};
use super::value::{At, body, count, unbody, word};

fn control_of(row: &PgRow) -> Result<Control, Failure> {
    let key = ControlKey::read(row.try_get("kind")?, row.try_get("name")?);
    Ok(Control {
        key: key.map_err(|problem| Failure::Corrupt(format!("a stored control: {problem}")))?,
        value: unbody(row.try_get_unchecked("value")?)?,
        set_at: row.try_get::<At, _>("set_at")?.timestamp(),
        set_by: word(row.try_get("set_by")?)?,
    })
}

pub(super) async fn version(pool: &PgPool) -> Result<u64, Failure> {
    count(query_scalar("select version from controls_version").fetch_one(pool).await?)
}

/// The count is read first: what is set meanwhile is read again at the next look.
pub(super) async fn all(pool: &PgPool) -> Result<Controls, Failure> {
    let version = version(pool).await?;
    let sql = "select kind, name, value, set_at, set_by from controls order by kind, name";
    let rows = query(sql).fetch_all(pool).await?;
    Ok(Controls { version, list: rows.iter().map(control_of).collect::<Result<_, _>>()? })
}

async fn find(connection: &mut PgConnection, key: &ControlKey) -> Result<Option<Control>, Failure> {
    let sql = "select kind, name, value, set_at, set_by from controls where kind = $1 and name = $2";
    let found = query(sql).bind(key.kind()).bind(key.name()).fetch_optional(connection).await?;
    found.as_ref().map(control_of).transpose()
}

/// Changes one control, counts the change and writes the audit.
pub(super) async fn change(
    pool: &PgPool,
    key: &ControlKey,
    change: &Change,
    by: &By,
) -> Result<Option<Control>, Failure> {
    let mut transaction = begin(pool, Begin::Admin).await?;
    let before = find(&mut transaction, key).await?;
    match (change, &before) {
        (Change::Set(value), _) => set(&mut transaction, key, value, by).await?,
        (Change::Remove, Some(_)) => remove(&mut transaction, key).await?,
        (Change::End(value), Some(found)) if found.value == *value => remove(&mut transaction, key).await?,
        (Change::Remove | Change::End(_), _) => return Ok(None),
    }
    query("update controls_version set version = version + 1").execute(&mut *transaction).await?;
    let deed = Deed::controlled(by, key, before.as_ref().map(|found| &found.value), change);
    audit::write(&mut transaction, &deed).await?;
    transaction.commit().await?;
    Ok(before)
}

async fn set(connection: &mut PgConnection, key: &ControlKey, value: &Value, by: &By) -> Result<(), Failure> {
    query(
        "insert into controls (kind, name, value, set_at, set_by) values ($1, $2, $3::json, $4, $5)
         on conflict (kind, name) do update
            set value = excluded.value, set_at = excluded.set_at, set_by = excluded.set_by",
    )
    .bind(key.kind())
    .bind(key.name())
    .bind(body(value)?)
    .bind(At::from(by.at))
    .bind(by.token_id.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

async fn remove(connection: &mut PgConnection, key: &ControlKey) -> Result<(), Failure> {
    let sql = "delete from controls where kind = $1 and name = $2";
    query(sql).bind(key.kind()).bind(key.name()).execute(connection).await?;
    Ok(())
}
