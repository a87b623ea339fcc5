//! Pages of packages and reports: both tables have the same keys, so one statement serves both.

use jam_domain::page::{PAGE_BYTES, Page, PageRequest, Start, TimeCursor, Visible};
use jam_domain::{PackageStatus, ServiceId, Timestamp};
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{AssertSqlSafe, Row, query};
use uuid::Uuid;

use super::error::Failure;
use super::value::{At, number};

/// A table that is listed by service, status and time.
pub(super) struct Listed {
    /// The table's name.
    pub(super) table: &'static str,
    /// What is read of it.
    pub(super) columns: &'static str,
}

/// Which part of a list is asked for.
pub(super) struct Cut<'a> {
    pub(super) service_id: Option<&'a ServiceId>,
    pub(super) status: Option<PackageStatus>,
    pub(super) after: Option<Timestamp>,
    pub(super) before: Option<Timestamp>,
    pub(super) visible: &'a Visible,
}

/// The services that a list covers when it does not cover all of them.
pub(super) fn narrowed(service: Option<&ServiceId>, visible: &Visible) -> Option<Vec<String>> {
    let names = match (service, visible) {
        (None, None) => return None,
        (Some(service), None) => vec![service],
        (Some(service), Some(visible)) => visible.get(service).into_iter().collect(),
        (None, Some(visible)) => visible.iter().collect(),
    };
    Some(names.into_iter().map(ToString::to_string).collect())
}

/// The rows of one page, and whether more follow.
pub(super) struct Rows {
    rows: Vec<PgRow>,
    more: bool,
}

impl Rows {
    /// Makes the page of them. One that can't be read ends it, as if it were too large: only a page that would begin with it fails,
    /// and says where the list goes on.
    pub(super) fn page<T>(
        self,
        read: impl Fn(&PgRow) -> Result<T, Failure>,
        place: impl Fn(&T) -> TimeCursor,
    ) -> Result<Page<T, TimeCursor>, Failure> {
        let Self { rows, mut more } = self;
        let mut items = Vec::with_capacity(rows.len());
        for row in &rows {
            match read(row) {
                Ok(item) => items.push(item),
                Err(Failure::Corrupt(problem)) if items.is_empty() => {
                    return Err(Failure::Unread(problem, place_of(row)?));
                }
                Err(Failure::Corrupt(_)) => {
                    more = true;
                    break;
                }
                Err(failure @ (Failure::Sql(_) | Failure::Unread(..) | Failure::Gone(_))) => return Err(failure),
            }
        }
        let next = if more { items.last().map(place) } else { None };
        Ok(Page { items, next })
    }
}

fn place_of(row: &PgRow) -> Result<TimeCursor, Failure> {
    Ok(TimeCursor { created_at: row.try_get::<At, _>("created_at")?.timestamp(), id: row.try_get("id")? })
}

/// Reads the rows of one page, newest first: as many as fit, and only those leave the database.
///
/// The lists of the statuses (and services) are merged: each is one range of an index, so a deep page costs what the first
/// one costs. Limits are literals, because a parameter would give a plan for any limit.
pub(super) async fn rows(
    pool: &PgPool,
    listed: &Listed,
    cut: &Cut<'_>,
    page: PageRequest<TimeCursor>,
) -> Result<Rows, Failure> {
    let Cut { service_id, status, after, before, visible } = cut;
    let services = narrowed(*service_id, visible);
    let statuses: Vec<&str> = match status {
        Some(status) => vec![status.as_str()],
        None => PackageStatus::ALL.iter().map(|status| status.as_str()).collect(),
    };
    let low = after.map_or(At::PAST, At::from);
    let (high, high_id) = high_end(*before, page.start);
    let (skip, limit) = (skip_of(&page.start)?, i64::from(page.limit) + 1);
    let sql = statement(listed, services.is_some(), skip, limit);
    let mut rows = query(AssertSqlSafe(sql))
        .persistent(skip == 0)
        .bind(statuses)
        .bind(low)
        .bind(high)
        .bind(high_id)
        .bind(services.unwrap_or_default())
        .fetch_all(pool)
        .await?;
    rows.truncate(page.limit as usize);
    Ok(Rows { more: is_cut(&rows)?, rows })
}

/// The place before which the page starts: strictly before `before`, and after what the caller has seen.
fn high_end(before: Option<Timestamp>, start: Start<TimeCursor>) -> (At, Uuid) {
    let before = before.map(|created_at| TimeCursor { created_at, id: Uuid::nil() });
    let cursor = match start {
        Start::Offset(_) => None,
        Start::After(cursor) => Some(cursor),
    };
    match before.into_iter().chain(cursor).min() {
        Some(TimeCursor { created_at, id }) => (At::from(created_at), id),
        None => (At::FUTURE, Uuid::max()),
    }
}

/// Rows to skip; more than a bigint is more than a table can have.
pub(super) fn skip_of<C>(start: &Start<C>) -> Result<i64, Failure> {
    match start {
        Start::Offset(offset) => number((*offset).min(1 << 40)),
        Start::After(_) => Ok(0),
    }
}

/// One row more than the page has is found; those that make it too large stay behind.
fn statement(listed: &Listed, narrowed: bool, skip: i64, limit: i64) -> String {
    let Listed { table, columns } = listed;
    let (services, of_service) = if narrowed {
        ("cross join unnest($5::text[]) as v(service_id)", "t.service_id = v.service_id and")
    } else {
        ("", "cardinality($5::text[]) = 0 and")
    };
    let reach = limit + skip;
    let found = format!(
        "select p.* from unnest($1::text[]) as s(status) {services} cross join lateral (
            select {columns} from {table} t
            where {of_service} t.status = s.status and t.created_at > $2 and (t.created_at, t.id) < ($3, $4)
            order by t.created_at desc, t.id desc limit {reach}
        ) p order by p.created_at desc, p.id desc offset {skip} limit {limit}"
    );
    bounded(&found, "desc")
}

/// Of what is found, by time (`asc` or `desc`), the first row and as many more as fit; each says how many were found.
///
/// A body is looked at to be measured, which takes a large one apart. What is stored of it, packed or not, is known without: it is
/// no more than the body and a header of 4 bytes, so that where these sums have reached the bound already, nothing further is looked at.
pub(super) fn bounded(found: &str, way: &str) -> String {
    format!(
        "select * from (
            select s.*, sum(case when s.before <= {PAGE_BYTES} then octet_length(s.body::text) else {PAGE_BYTES} end)
                over (order by s.created_at {way}, s.id {way} rows unbounded preceding) as bytes
            from (
                select f.*, count(*) over () as found, row_number() over so_far as place,
                    coalesce(sum(pg_column_size(f.body) - 4) over (so_far rows between unbounded preceding and 1 preceding), 0)
                        as before
                from ({found}) f window so_far as (order by f.created_at {way}, f.id {way})
            ) s
         ) m where m.place = 1 or m.bytes <= {PAGE_BYTES} order by m.created_at {way}, m.id {way}"
    )
}

/// Whether more was found than these rows, which are what fits of it.
pub(super) fn is_cut(rows: &[PgRow]) -> Result<bool, Failure> {
    let found: i64 = rows.first().map_or(Ok(0), |row| row.try_get("found"))?;
    Ok(found > i64::try_from(rows.len()).unwrap_or(i64::MAX))
}

/// Makes the page of rows that were read one too far. That one is only counted: where it can't be read, the next page fails.
pub(super) fn page<T, C>(
    rows: &[PgRow],
    limit: u32,
    read: impl Fn(&PgRow) -> Result<T, Failure>,
    place: impl Fn(&T) -> C,
) -> Result<Page<T, C>, Failure> {
    let limit = limit as usize;
    let items = rows.iter().take(limit).map(read).collect::<Result<Vec<_>, _>>()?;
    let next = if rows.len() > limit { items.last().map(place) } else { None };
    Ok(Page { items, next })
}
