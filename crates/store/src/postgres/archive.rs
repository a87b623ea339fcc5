//! The tables of archived packages and reports: moved there whole, brought back whole, or deleted.

use std::collections::BTreeMap;

use jam_domain::audit::Deed;
use jam_domain::event::Happening;
use jam_domain::retention::Retention;
use jam_domain::{By, PackageId, PackageStatus, PreimageHash, ServiceId, WorkPackage};
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Row, query, query_as, query_scalar};
use uuid::Uuid;

use super::error::Failure;
use super::packages::{COLUMNS, package_of};
use super::pool::{Begin, begin};
use super::value::{At, count, word};
use super::{audit, events, packages, preimages};
use crate::work::preimages_of;
use crate::{Archived, Restored};

const PACKAGE: &str = "id, service_id, status, created_at, created_by, idempotency_key, fingerprint, receipt_seq, body";
const REPORT: &str = "id, package_id, service_id, status, created_at, receipt_seq, body";

/// A package on a walk by age.
pub(super) struct Aged {
    pub(super) id: PackageId,
    pub(super) service_id: ServiceId,
    /// When it was created or, of an archived one, archived.
    pub(super) at: At,
    pub(super) restored_at: Option<At>,
}

/// Which finished packages are walked: of one service, or of all that have no retention of their own.
pub(super) struct Walk<'a> {
    pub(super) status: PackageStatus,
    pub(super) service: Option<&'a ServiceId>,
    pub(super) cutoff: At,
}

/// Where a walk goes on: behind the last one seen.
fn place(seen: Option<&Aged>) -> (At, Uuid) {
    seen.map_or((At::PAST, Uuid::nil()), |aged| (aged.at, aged.id.0))
}

/// The next finished packages that are older than the cutoff, oldest first.
pub(super) async fn finished(
    connection: &mut PgConnection,
    walk: &Walk<'_>,
    seen: Option<&Aged>,
    limit: u32,
) -> Result<Vec<Aged>, Failure> {
    let Walk { status, service, cutoff } = walk;
    let (at, id) = place(seen);
    let of_service = if service.is_some() { "t.service_id = $5 and" } else { "$5::text is null and" };
    let sql = format!(
        "select t.id, t.service_id, t.created_at as at, t.restored_at from packages t
         where {of_service} t.status = $1 and t.created_at < $2 and (t.created_at, t.id) > ($3, $4)
            and not exists (select from archived_packages a where a.id = t.id)
         order by t.created_at, t.id limit {limit}"
    );
    let walked = query(AssertSqlSafe(sql)).bind(status.as_str()).bind(*cutoff).bind(at).bind(id);
    let rows = walked.bind(service.map(ServiceId::as_str)).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(Aged {
                id: PackageId(row.try_get("id")?),
                service_id: word(row.try_get("service_id")?)?,
                at: row.try_get("at")?,
                restored_at: row.try_get("restored_at")?,
            })
        })
        .collect()
}

/// The next packages that were archived at the moment or before, oldest first.
pub(super) async fn archived_until(
    connection: &mut PgConnection,
    until: At,
    seen: Option<&Aged>,
    limit: u32,
) -> Result<Vec<Aged>, Failure> {
    let (at, id) = place(seen);
    let sql = format!(
        "select id, service_id, archived_at as at from archived_packages
         where archived_at <= $1 and (archived_at, id) > ($2, $3) order by archived_at, id limit {limit}"
    );
    let rows = query(AssertSqlSafe(sql)).bind(until).bind(at).bind(id).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(Aged {
                id: PackageId(row.try_get("id")?),
                service_id: word(row.try_get("service_id")?)?,
                at: row.try_get("at")?,
                restored_at: None,
            })
        })
        .collect()
}

/// How long these packages, archived or not, are as JSON.
pub(super) async fn lengths(connection: &mut PgConnection, ids: &[Uuid]) -> Result<BTreeMap<Uuid, u64>, Failure> {
    let sql = "select id, octet_length(body::text)::bigint from packages where id = any($1)
        union all select id, octet_length(body::text)::bigint from archived_packages where id = any($1)";
    let rows: Vec<(Uuid, i64)> = query_as(sql).bind(ids).fetch_all(connection).await?;
    rows.into_iter().map(|(id, length)| Ok((id, count(length)?))).collect()
}

/// Moves finished packages and their reports here, and tells of it; returns how many of each. What another transaction has in hand is left
/// to the next cleanup.
pub(super) async fn archive(
    connection: &mut PgConnection,
    ids: &[Uuid],
    retention: &Retention,
) -> Result<(u64, u64), Failure> {
    let sql = format!(
        "with moved as (
            delete from packages where id = any(array(
                select p.id from packages p where p.id = any($1) and p.status in ('applied', 'disputed')
                    and not exists (select from archived_packages a where a.id = p.id)
                order by p.id for update skip locked))
            returning {PACKAGE}
         )
         insert into archived_packages ({PACKAGE}, archived_at) select {PACKAGE}, $2 from moved returning id, service_id"
    );
    let rows = query(AssertSqlSafe(sql)).bind(ids).bind(At::from(retention.now()));
    let (mut moved, mut happened) = (Vec::<Uuid>::new(), Vec::new());
    for row in rows.fetch_all(&mut *connection).await? {
        let id = row.try_get("id")?;
        moved.push(id);
        happened.push(Happening::Archived(word(row.try_get("service_id")?)?, PackageId(id)));
    }
    if moved.is_empty() {
        return Ok((0, 0));
    }
    let sql = format!(
        "with {told}, moved as (delete from reports where package_id = any($1) returning {REPORT})
         insert into archived_reports ({REPORT}) select {REPORT} from moved",
        told = events::telling(2)
    );
    let told = events::text_of(&happened)?;
    let reports = query(AssertSqlSafe(sql)).bind(&moved).bind(told).execute(connection).await?;
    Ok((moved.len() as u64, reports.rows_affected()))
}

/// Deletes archived packages with their reports, attestations and disputes, and takes back their references; returns how
/// many packages and reports.
pub(super) async fn delete(connection: &mut PgConnection, ids: &[Uuid]) -> Result<(u64, u64), Failure> {
    let sql = format!(
        "delete from archived_packages t where t.id = any(array(
            select id from archived_packages where id = any($1) order by id for update skip locked))
         returning {COLUMNS}"
    );
    let rows = query(AssertSqlSafe(sql)).bind(ids).fetch_all(&mut *connection).await?;
    let packages = rows.iter().map(package_of).collect::<Result<Vec<_>, _>>()?;
    let gone: Vec<Uuid> = packages.iter().map(|package| package.id.0).collect();
    let reports: Vec<Uuid> = query_scalar("delete from archived_reports where package_id = any($1) returning id")
        .bind(&gone)
        .fetch_all(&mut *connection)
        .await?;
    query("delete from attestations where report_id = any($1)").bind(&reports).execute(&mut *connection).await?;
    // The release before this one accepts the id of an archived package again: then the dispute is the living one's.
    query(
        "delete from disputes d where d.package_id = any($1)
            and not exists (select from packages p where p.id = d.package_id)",
    )
    .bind(&gone)
    .execute(&mut *connection)
    .await?;
    // Last, and for as short as can be: submissions wait for the rows of preimages.
    preimages::release(connection, &references(&packages)).await?;
    Ok((packages.len() as u64, reports.len() as u64))
}

/// How many of these packages refer to each preimage.
fn references(packages: &[WorkPackage]) -> BTreeMap<PreimageHash, u64> {
    let mut references = BTreeMap::new();
    for hash in packages.iter().flat_map(preimages_of) {
        *references.entry(hash).or_default() += 1;
    }
    references
}

/// What a deletion of these packages, archived or about to be, would take along: reports, and references to preimages.
pub(super) async fn weigh(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<(u64, BTreeMap<PreimageHash, u64>), Failure> {
    let sql = format!(
        "select {COLUMNS} from packages t where t.id = any($1)
         union all select {COLUMNS} from archived_packages t where t.id = any($1)"
    );
    let rows = query(AssertSqlSafe(sql)).bind(ids).fetch_all(&mut *connection).await?;
    let packages = rows.iter().map(package_of).collect::<Result<Vec<_>, _>>()?;
    Ok((reports_of(connection, ids).await?, references(&packages)))
}

/// How many reports these packages have, archived or not.
pub(super) async fn reports_of(connection: &mut PgConnection, ids: &[Uuid]) -> Result<u64, Failure> {
    let sql = "select (select count(*) from reports where package_id = any($1))
        + (select count(*) from archived_reports where package_id = any($1))";
    count(query_scalar(sql).bind(ids).fetch_one(connection).await?)
}

pub(super) async fn find(pool: &PgPool, id: PackageId) -> Result<Option<Archived>, Failure> {
    let sql = format!("select {COLUMNS}, t.archived_at from archived_packages t where t.id = $1");
    let row = query(AssertSqlSafe(sql)).bind(id.0).fetch_optional(pool).await?;
    row.map(|row| {
        let archived_at = row.try_get::<At, _>("archived_at")?.timestamp();
        Ok(Archived { package: package_of(&row)?, archived_at })
    })
    .transpose()
}

/// Brings a package and its report back, unless its id or key was given away meanwhile.
pub(super) async fn restore(pool: &PgPool, id: PackageId, by: &By) -> Result<Restored, Failure> {
    let mut transaction = begin(pool, Begin::Admin).await?;
    let sql = format!(
        "with back as (delete from archived_packages where id = $1 returning {PACKAGE}, archived_at),
         made as (
            insert into packages ({PACKAGE}, restored_at) select {PACKAGE}, $2 from back
            on conflict do nothing returning id
         )
         select (select count(*) from back), (select count(*) from made), (select archived_at from back)"
    );
    let counted = query(AssertSqlSafe(sql)).bind(id.0).bind(At::from(by.at)).fetch_one(&mut *transaction).await?;
    match (counted.try_get::<i64, _>(0)?, counted.try_get::<i64, _>(1)?) {
        (0, _) => return Ok(Restored::NotArchived),
        (_, 0) => return Ok(Restored::Taken),
        _ => {}
    }
    let sql = format!(
        "with back as (delete from archived_reports where package_id = $1 returning {REPORT})
         insert into reports ({REPORT}) select {REPORT} from back"
    );
    query(AssertSqlSafe(sql)).bind(id.0).execute(&mut *transaction).await?;
    let archived_at = counted.try_get::<At, _>(2)?.timestamp();
    audit::write(&mut transaction, &Deed::restored_package(by, id, archived_at)).await?;
    transaction.commit().await?;
    let package = packages::find(pool, id).await?;
    Ok(package.map_or(Restored::NotArchived, Restored::Back))
}
