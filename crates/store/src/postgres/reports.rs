//! The tables of reports and disputes: what processing leaves behind.

use jam_domain::event::Fact;
use jam_domain::page::{Page, PageRequest, ReportFilter, TimeCursor};
use jam_domain::{Attestation, PackageId, PackageStatus, ReportId, Timestamp, WorkReport};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{AssertSqlSafe, Row, query, query_scalar};
use uuid::Uuid;

use super::error::Failure;
use super::lists::{self, Cut, Listed};
use super::value::{At, body, number, unbody, word};
use super::{events, receipts, words};
use crate::ReportBundle;
use crate::bodies::ending;

const COLUMNS: &str = "t.id, t.package_id, t.service_id, t.status, t.created_at, t.body";

#[derive(Serialize, Deserialize)]
struct ReportBody {
    refine_output_hash: String,
    refine_output_compact: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traces: Option<Vec<String>>,
}

fn report_of(row: &PgRow) -> Result<WorkReport, Failure> {
    let id = ReportId(row.try_get("id")?);
    columns_of(row, id).map_err(|failure| failure.in_row(|| format!("report {id}")))
}

fn columns_of(row: &PgRow, id: ReportId) -> Result<WorkReport, Failure> {
    let ReportBody { refine_output_hash, refine_output_compact, traces } = unbody(row.try_get_unchecked("body")?)?;
    Ok(WorkReport {
        id,
        package_id: PackageId(row.try_get("package_id")?),
        service_id: word(row.try_get("service_id")?)?,
        refine_output_hash,
        refine_output_compact,
        traces,
        created_at: row.try_get::<At, _>("created_at")?.timestamp(),
        status: word(row.try_get("status")?)?,
    })
}

pub(super) async fn list(
    pool: &PgPool,
    filter: &ReportFilter,
    page: PageRequest<TimeCursor>,
) -> Result<Page<WorkReport, TimeCursor>, Failure> {
    let ReportFilter { service_id, status, visible, archived } = filter;
    let cut = Cut { service_id: service_id.as_ref(), status: *status, after: None, before: None, visible };
    let table = if *archived { "archived_reports" } else { "reports" };
    let rows = lists::rows(pool, &Listed { table, columns: COLUMNS }, &cut, page).await?;
    rows.page(report_of, |last| TimeCursor { created_at: last.created_at, id: last.id.0 })
}

/// The same with every worker's word for each of them, as far as the words fit onto the page, too.
pub(super) async fn list_attested(
    pool: &PgPool,
    filter: &ReportFilter,
    page: PageRequest<TimeCursor>,
) -> Result<Page<(WorkReport, Vec<Attestation>), TimeCursor>, Failure> {
    let ids = |page: &Page<WorkReport, TimeCursor>| page.items.iter().map(|report| report.id).collect::<Vec<_>>();
    let page = list(pool, filter, page).await?;
    let bytes = words::bytes(pool, &ids(&page)).await?;
    let page = ending(page, bytes);
    let words = words::of_each(pool, &ids(&page)).await?;
    Ok(Page { items: page.items.into_iter().zip(words).collect(), next: page.next })
}

/// The report of a package with everything said about it, as of one moment.
pub(super) async fn of_package(connection: &mut PgConnection, id: PackageId) -> Result<Option<ReportBundle>, Failure> {
    bundle(connection, "reports", id).await
}

/// The same of an archived package.
pub(super) async fn of_archived(connection: &mut PgConnection, id: PackageId) -> Result<Option<ReportBundle>, Failure> {
    bundle(connection, "archived_reports", id).await
}

async fn bundle(connection: &mut PgConnection, table: &str, id: PackageId) -> Result<Option<ReportBundle>, Failure> {
    Ok(bundles(connection, table, id).await?.into_iter().next())
}

/// The reports of workers who got another output than the report of the package says, oldest first.
pub(super) async fn rivals(connection: &mut PgConnection, id: PackageId) -> Result<Vec<ReportBundle>, Failure> {
    bundles(connection, "rival_reports", id).await
}

async fn bundles(connection: &mut PgConnection, table: &str, id: PackageId) -> Result<Vec<ReportBundle>, Failure> {
    let sql = format!(
        "select {COLUMNS}, {receipt} from {table} t
         left join receipts r on r.service_id = t.service_id and r.seq = t.receipt_seq
         where t.package_id = $1 order by t.created_at, t.id",
        receipt = receipts::JOINED
    );
    let rows = query(AssertSqlSafe(sql)).bind(id.0).fetch_all(&mut *connection).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let report = report_of(row)?;
        let receipt = receipts::joined(row)?;
        found.push(ReportBundle { attestations: words::of(connection, report.id).await?, report, receipt });
    }
    Ok(found)
}

/// The package of a report.
pub(super) async fn package_of(connection: &mut PgConnection, id: ReportId) -> Result<Option<PackageId>, Failure> {
    let found = query_scalar("select package_id from reports where id = $1").bind(id.0);
    Ok(found.fetch_optional(connection).await?.map(PackageId))
}

/// Writes the report of a worker who got another output.
pub(super) async fn insert_rival(connection: &mut PgConnection, report: &WorkReport) -> Result<(), Failure> {
    let WorkReport {
        id,
        package_id,
        service_id,
        refine_output_hash,
        refine_output_compact,
        traces,
        created_at,
        status,
    } = report.clone();
    query(
        "insert into rival_reports (id, package_id, service_id, status, created_at, body)
         values ($1, $2, $3, $4, $5, $6::json)",
    )
    .bind(id.0)
    .bind(package_id.0)
    .bind(service_id.as_str())
    .bind(status.as_str())
    .bind(At::from(created_at))
    .bind(body(&ReportBody { refine_output_hash, refine_output_compact, traces })?)
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes a rival the report of its package, and the report before a rival.
pub(super) async fn take_the_place(
    connection: &mut PgConnection,
    package: PackageId,
    chosen: ReportId,
) -> Result<(), Failure> {
    const MOVED: &str = "id, package_id, service_id, status, created_at, receipt_seq, body";
    let away = format!(
        "with own as (delete from reports where package_id = $1 returning {MOVED})
         insert into rival_reports ({MOVED}) select {MOVED} from own"
    );
    query(AssertSqlSafe(away)).bind(package.0).execute(&mut *connection).await?;
    let here = format!(
        "with chosen as (delete from rival_reports where id = $1 returning {MOVED})
         insert into reports ({MOVED}) select {MOVED} from chosen"
    );
    query(AssertSqlSafe(here)).bind(chosen.0).execute(connection).await?;
    Ok(())
}

/// Gives a report another status.
pub(super) async fn set_status(
    connection: &mut PgConnection,
    id: ReportId,
    status: PackageStatus,
) -> Result<(), Failure> {
    query("update reports set status = $2 where id = $1").bind(id.0).bind(status.as_str()).execute(connection).await?;
    Ok(())
}

/// Locks a report, so that its attestations are summed under one hand.
pub(super) async fn lock(connection: &mut PgConnection, id: ReportId) -> Result<Option<WorkReport>, Failure> {
    let sql = format!("select {COLUMNS} from reports t where t.id = $1 for no key update");
    query(AssertSqlSafe(sql)).bind(id.0).fetch_optional(connection).await?.as_ref().map(report_of).transpose()
}

/// Writes new reports, and what else the transaction did; `receipt` is the seq of each one's receipt.
pub(super) async fn insert(
    connection: &mut PgConnection,
    reports: &[(&WorkReport, Option<u64>)],
    deeds: &[Fact],
) -> Result<(), Failure> {
    let (mut ids, mut packages, mut services) = (Vec::new(), Vec::new(), Vec::new());
    let (mut statuses, mut times, mut receipts, mut bodies) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (report, receipt) in reports {
        let WorkReport {
            id,
            package_id,
            service_id,
            refine_output_hash,
            refine_output_compact,
            traces,
            created_at,
            status,
        } = report;
        ids.push(id.0);
        packages.push(package_id.0);
        services.push(service_id.as_str());
        statuses.push(status.as_str());
        times.push(At::from(*created_at));
        receipts.push(receipt.map(number).transpose()?);
        bodies.push(body(&ReportBody {
            refine_output_hash: refine_output_hash.clone(),
            refine_output_compact: refine_output_compact.clone(),
            traces: traces.clone(),
        })?);
    }
    let sql = format!(
        "with {told} insert into reports (id, package_id, service_id, status, created_at, receipt_seq, body)
         select u.id, u.package_id, u.service_id, u.status, u.created_at, u.receipt, u.body::json
         from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[], $6::bigint[], $7::text[])
            as u(id, package_id, service_id, status, created_at, receipt, body)",
        told = events::telling(8)
    );
    query(AssertSqlSafe(sql))
        .bind(ids)
        .bind(packages)
        .bind(services)
        .bind(statuses)
        .bind(times)
        .bind(receipts)
        .bind(bodies)
        .bind(events::text_of(deeds)?)
        .execute(connection)
        .await?;
    Ok(())
}

/// Marks a report applied, with the seq of its receipt, and tells of it.
pub(super) async fn apply(
    connection: &mut PgConnection,
    report: &WorkReport,
    receipt: Option<u64>,
) -> Result<(), Failure> {
    let sql = format!(
        "with {told} update reports set status = $2, receipt_seq = $3 where id = $1",
        told = events::telling(4)
    );
    query(AssertSqlSafe(sql))
        .bind(report.id.0)
        .bind(PackageStatus::Applied.as_str())
        .bind(receipt.map(number).transpose()?)
        .bind(events::text_of(&[crate::work::applied(report, receipt)])?)
        .execute(connection)
        .await?;
    Ok(())
}

/// Writes why packages are disputed.
pub(super) async fn dispute(
    connection: &mut PgConnection,
    disputes: &[(PackageId, String)],
    now: Timestamp,
) -> Result<(), Failure> {
    if disputes.is_empty() {
        return Ok(());
    }
    // A column can't hold NUL, and a refiner may say anything.
    let (ids, reasons): (Vec<Uuid>, Vec<String>) =
        disputes.iter().map(|(id, reason)| (id.0, reason.replace('\0', "\u{fffd}"))).unzip();
    query(
        "insert into disputes (package_id, reason, created_at)
         select u.id, u.reason, $3 from unnest($1::uuid[], $2::text[]) as u(id, reason)",
    )
    .bind(ids)
    .bind(reasons)
    .bind(At::from(now))
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn dispute_of(pool: &PgPool, id: PackageId) -> Result<Option<String>, Failure> {
    // The reason of an archived package waits for its restoration.
    let sql = "select d.reason from disputes d join packages p on p.id = d.package_id where d.package_id = $1";
    Ok(query_scalar(sql).bind(id.0).fetch_optional(pool).await?)
}
