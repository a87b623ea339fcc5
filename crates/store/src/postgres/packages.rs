//! The table of packages.

use jam_domain::event::Fact;
use jam_domain::page::{PackageFilter, Page, PageRequest, TimeCursor, Visible};
use jam_domain::{PackageId, PackageStatus, PreimageHash, Receipt, Timestamp, WorkItem, WorkPackage};
use serde::Deserialize;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{AssertSqlSafe, Row, query, query_scalar};
use uuid::Uuid;

use super::apart::Exceptions;
use super::error::Failure;
use super::lists::{self, Cut, Listed};
use super::value::{At, body, count, number, unbody, word};
use super::{events, receipts};
use crate::bodies::PackageBody;
use crate::{NewPackage, Place};

pub(super) const COLUMNS: &str = "t.id, t.service_id, t.status, t.created_at, t.created_by, t.body";

/// What no statement asks for by itself, as [`PackageBody`] writes it.
#[derive(Deserialize)]
struct Body {
    items: Vec<WorkItem>,
    nonce: String,
    #[serde(default)]
    expiry: Option<Timestamp>,
    #[serde(default)]
    signature: Option<String>,
    #[serde(default)]
    preimage_hashes: Option<Vec<PreimageHash>>,
}

/// A stored package with what decides about a replay.
pub(super) struct Existing {
    pub(super) package: WorkPackage,
    pub(super) fingerprint: Vec<u8>,
    pub(super) idempotency_key: Option<String>,
    pub(super) receipt: Option<Receipt>,
}

pub(super) fn package_of(row: &PgRow) -> Result<WorkPackage, Failure> {
    let id = PackageId(row.try_get("id")?);
    columns_of(row, id).map_err(|failure| failure.in_row(|| format!("package {id}")))
}

fn columns_of(row: &PgRow, id: PackageId) -> Result<WorkPackage, Failure> {
    let Body { items, nonce, expiry, signature, preimage_hashes } = unbody(row.try_get_unchecked("body")?)?;
    Ok(WorkPackage {
        id,
        service_id: word(row.try_get("service_id")?)?,
        items,
        created_by: word(row.try_get("created_by")?)?,
        nonce,
        expiry,
        signature,
        preimage_hashes,
        status: word(row.try_get("status")?)?,
        created_at: row.try_get::<At, _>("created_at")?.timestamp(),
    })
}

fn place_of(row: &PgRow) -> Result<Place, Failure> {
    let id = PackageId(row.try_get("id")?);
    let read =
        || Ok(Place { id, service_id: word(row.try_get("service_id")?)?, status: word(row.try_get("status")?)? });
    read().map_err(|failure: Failure| failure.in_row(|| format!("package {id}")))
}

/// Where a package stands, and the package or why it can't be read.
pub(super) async fn read(
    connection: &mut PgConnection,
    id: PackageId,
) -> Result<Option<(Place, Result<WorkPackage, Failure>)>, Failure> {
    let sql = format!("select {COLUMNS} from packages t where t.id = $1");
    let found = query(AssertSqlSafe(sql)).bind(id.0).fetch_optional(connection).await?;
    found.map(|row| Ok((place_of(&row)?, package_of(&row)))).transpose()
}

pub(super) async fn place(pool: &PgPool, id: PackageId, archived: bool) -> Result<Option<Place>, Failure> {
    let table = if archived { "archived_packages" } else { "packages" };
    let sql = format!("select id, service_id, status from {table} where id = $1");
    query(AssertSqlSafe(sql)).bind(id.0).fetch_optional(pool).await?.as_ref().map(place_of).transpose()
}

pub(super) async fn find(pool: &PgPool, id: PackageId) -> Result<Option<WorkPackage>, Failure> {
    let sql = format!("select {COLUMNS} from packages t where t.id = $1");
    query(AssertSqlSafe(sql)).bind(id.0).fetch_optional(pool).await?.as_ref().map(package_of).transpose()
}

pub(super) async fn list(
    pool: &PgPool,
    filter: &PackageFilter,
    page: PageRequest<TimeCursor>,
) -> Result<Page<WorkPackage, TimeCursor>, Failure> {
    let PackageFilter { service_id, status, created_after, created_before, visible, archived } = filter;
    let cut = Cut {
        service_id: service_id.as_ref(),
        status: *status,
        after: *created_after,
        before: *created_before,
        visible,
    };
    let table = if *archived { "archived_packages" } else { "packages" };
    let rows = lists::rows(pool, &Listed { table, columns: COLUMNS }, &cut, page).await?;
    rows.page(package_of, |last| TimeCursor { created_at: last.created_at, id: last.id.0 })
}

pub(super) async fn pending(pool: &PgPool) -> Result<u64, Failure> {
    count(query_scalar("select count(*) from packages where status = 'pending'").fetch_one(pool).await?)
}

/// Pending packages, of one service or of all, counted no further than the cap.
pub(super) async fn pending_up_to(
    connection: &mut PgConnection,
    cap: u32,
    service: Option<&str>,
) -> Result<u64, Failure> {
    let (of_service, order) =
        if service.is_some() { ("service_id = $1 and", "service_id") } else { ("$1 is null and", "status") };
    // Ordered by an index, so that the planner counts along it whatever it believes about the table.
    let sql = format!(
        "select count(*) from (
            select from packages where {of_service} status = 'pending' order by {order}, created_at desc, id desc limit {cap}
        ) p"
    );
    count(query_scalar(AssertSqlSafe(sql)).bind(service).fetch_one(connection).await?)
}

/// Stored packages with one of these ids, or with one of these keys of one of these tokens; archived ones, too, as long as
/// they are kept (docs/adr/0013), and before the others, so that a later package of that id counts.
pub(super) async fn existing(
    connection: &mut PgConnection,
    ids: &[Uuid],
    keys: &[(&str, &str)],
) -> Result<Vec<Existing>, Failure> {
    if ids.is_empty() && keys.is_empty() {
        return Ok(Vec::new());
    }
    let (tokens, names): (Vec<&str>, Vec<&str>) = keys.iter().copied().unzip();
    let of = |table: &str| {
        format!(
            "select {COLUMNS}, t.fingerprint, t.idempotency_key, {receipt} from {table} t
             left join receipts r on r.service_id = t.service_id and r.seq = t.receipt_seq
             where t.id = any($1) or t.id = any(array(
                select k.id from unnest($2::text[], $3::text[]) as u(created_by, name)
                join {table} k on k.created_by = u.created_by and k.idempotency_key = u.name))",
            receipt = receipts::JOINED
        )
    };
    let sql = format!("{} union all {}", of("archived_packages"), of("packages"));
    let rows = query(AssertSqlSafe(sql)).bind(ids).bind(tokens).bind(names).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(Existing {
                package: package_of(row)?,
                fingerprint: row.try_get("fingerprint")?,
                idempotency_key: row.try_get("idempotency_key")?,
                receipt: receipts::joined(row)?,
            })
        })
        .collect()
}

/// A package about to be written: with its body and the seq of its receipt.
pub(super) struct NewRow<'a> {
    pub(super) new: &'a NewPackage,
    pub(super) body: &'a str,
    pub(super) receipt: Option<u64>,
}

/// Writes new packages, and that they were submitted.
pub(super) async fn insert(connection: &mut PgConnection, rows: &[NewRow<'_>]) -> Result<(), Failure> {
    let (mut ids, mut services, mut statuses, mut times) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut tokens, mut keys, mut fingerprints) = (Vec::new(), Vec::new(), Vec::new());
    let (mut receipts, mut bodies, mut deeds) = (Vec::new(), Vec::new(), Vec::new());
    for NewRow { new, body, receipt } in rows {
        let NewPackage { package, fingerprint, idempotency_key, .. } = new;
        deeds.push(Fact::Submitted(package.service_id.clone(), package.id, *receipt));
        ids.push(package.id.0);
        services.push(package.service_id.as_str());
        statuses.push(package.status.as_str());
        times.push(At::from(package.created_at));
        tokens.push(package.created_by.as_str());
        keys.push(idempotency_key.as_deref());
        fingerprints.push(fingerprint.as_slice());
        receipts.push(receipt.map(number).transpose()?);
        bodies.push(*body);
    }
    let sql = format!(
        "with {told} insert into packages
            (id, service_id, status, created_at, created_by, idempotency_key, fingerprint, receipt_seq, body)
         select u.id, u.service_id, u.status, u.created_at, u.created_by, u.key, u.fingerprint, u.receipt, u.body::json
         from unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::bytea[],
            $8::bigint[], $9::text[]) as u(id, service_id, status, created_at, created_by, key, fingerprint, receipt, body)",
        told = events::telling(10)
    );
    query(AssertSqlSafe(sql))
        .bind(ids)
        .bind(services)
        .bind(statuses)
        .bind(times)
        .bind(tokens)
        .bind(keys)
        .bind(fingerprints)
        .bind(receipts)
        .bind(bodies)
        .bind(events::text_of(&deeds)?)
        .execute(connection)
        .await?;
    Ok(())
}

/// Gives packages that have none the key under which they were sent again.
pub(super) async fn keep_keys(connection: &mut PgConnection, keys: &[(Uuid, String)]) -> Result<(), Failure> {
    if keys.is_empty() {
        return Ok(());
    }
    let (ids, names): (Vec<Uuid>, Vec<&str>) = keys.iter().map(|(id, key)| (*id, key.as_str())).unzip();
    query(
        "with kept as (select * from unnest($1::uuid[], $2::text[]) as u(id, name)), archived as (
            update archived_packages a set idempotency_key = k.name from kept k
            where a.id = k.id and a.idempotency_key is null)
         update packages p set idempotency_key = k.name from kept k where p.id = k.id and p.idempotency_key is null",
    )
    .bind(ids)
    .bind(names)
    .execute(connection)
    .await?;
    Ok(())
}

/// What of a package does not stand in columns, as text.
pub(super) fn body_of(package: &WorkPackage) -> Result<String, Failure> {
    body(&PackageBody::of(package))
}

/// Packages that a processor has in hand: in bytes no more than a page of them.
pub(super) struct Claimed {
    pub(super) packages: Vec<WorkPackage>,
    /// Whether more are locked than fitted.
    pub(super) cut: bool,
}

impl Claimed {
    fn of(rows: &[PgRow]) -> Result<Self, Failure> {
        let packages = rows.iter().map(package_of).collect::<Result<_, _>>()?;
        Ok(Self { packages, cut: lists::is_cut(rows)? })
    }
}

/// Locks up to `limit` pending packages that nobody else has in hand, oldest first. The lock is the claim: it ends with
/// the transaction, also when the processor dies.
pub(super) async fn claim(
    connection: &mut PgConnection,
    limit: usize,
    visible: &Visible,
    (packages, left_out): &Exceptions,
) -> Result<Claimed, Failure> {
    let services = lists::narrowed(None, visible);
    let of_services = if services.is_some() { "service_id = any($1) and" } else { "" };
    let excepted = !packages.is_empty() || !left_out.is_empty();
    let but = match (excepted, &services) {
        (false, _) => "",
        (true, Some(_)) => "id <> all($2) and service_id <> all($3) and",
        (true, None) => "id <> all($1) and service_id <> all($2) and",
    };
    let sql = format!(
        "select {COLUMNS} from packages t where t.id = any(array(
            select id from packages where {of_services} {but} status = 'pending'
            order by status, created_at, id limit {limit} for update skip locked))"
    );
    let mut claim = query(AssertSqlSafe(lists::bounded(&sql, "asc")));
    if let Some(services) = services {
        claim = claim.bind(services);
    }
    if excepted {
        claim = claim.bind(packages).bind(left_out);
    }
    Claimed::of(&claim.fetch_all(connection).await?)
}

/// The oldest pending packages with their services, of which nothing is read that may be broken; nobody is kept from them.
pub(super) async fn oldest(
    pool: &PgPool,
    limit: u32,
    visible: &Visible,
    (packages, left_out): &Exceptions,
) -> Result<Vec<(PackageId, String)>, Failure> {
    let services = lists::narrowed(None, visible);
    let of_services = if services.is_some() { "service_id = any($3) and" } else { "cardinality($3::text[]) = 0 and" };
    let sql = format!(
        "select id, service_id from packages
         where {of_services} id <> all($1) and service_id <> all($2) and status = 'pending'
         order by status, created_at, id limit {limit}"
    );
    let found = query(AssertSqlSafe(sql)).bind(packages).bind(left_out).bind(services.unwrap_or_default());
    let rows = found.fetch_all(pool).await?;
    rows.iter().map(|row| Ok((PackageId(row.try_get("id")?), row.try_get("service_id")?))).collect()
}

/// Locks those of these packages that are pending and that nobody else has in hand.
pub(super) async fn claim_these(connection: &mut PgConnection, ids: &[PackageId]) -> Result<Claimed, Failure> {
    let sql = format!(
        "select {COLUMNS} from packages t where t.id = any(array(
            select id from packages where id = any($1) and status = 'pending' for update skip locked))"
    );
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    Claimed::of(&query(AssertSqlSafe(lists::bounded(&sql, "asc"))).bind(ids).fetch_all(connection).await?)
}

/// Locks one package, so that its status changes under one hand.
pub(super) async fn lock(connection: &mut PgConnection, id: PackageId) -> Result<(), Failure> {
    query("select from packages where id = $1 for no key update").bind(id.0).execute(connection).await?;
    Ok(())
}

/// Gives packages another status.
pub(super) async fn move_all(
    connection: &mut PgConnection,
    moves: &[(PackageId, PackageStatus)],
) -> Result<(), Failure> {
    let (ids, statuses): (Vec<Uuid>, Vec<&str>) = moves.iter().map(|(id, status)| (id.0, status.as_str())).unzip();
    query(
        "update packages p set status = u.status
         from unnest($1::uuid[], $2::text[]) as u(id, status) where p.id = u.id",
    )
    .bind(ids)
    .bind(statuses)
    .execute(connection)
    .await?;
    Ok(())
}
