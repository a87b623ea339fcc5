//! The table of attestations: every worker's word for a report.

use std::collections::HashMap;

use jam_domain::page::PAGE_BYTES;
use jam_domain::{Attestation, ReportId};
use serde::Deserialize;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{AssertSqlSafe, Row, query, query_scalar};
use uuid::Uuid;

use super::error::Failure;
use super::value::{At, body, count, unbody};
use crate::bodies::{WORD, WordBody};

#[derive(Deserialize)]
struct AttestationBody {
    signature: String,
    engine: String,
    engine_version: String,
}

fn attestation_of(row: &PgRow) -> Result<Attestation, Failure> {
    let (report, worker) = (ReportId(row.try_get("report_id")?), row.try_get::<&str, _>("worker_id")?);
    word_of(row, report, worker)
        .map_err(|failure| failure.in_row(|| format!("attestation of worker {worker} for report {report}")))
}

fn word_of(row: &PgRow, report_id: ReportId, worker: &str) -> Result<Attestation, Failure> {
    let AttestationBody { signature, engine, engine_version } = unbody(row.try_get_unchecked("body")?)?;
    let weight = count(row.try_get("weight")?)?;
    Ok(Attestation {
        report_id,
        worker_id: worker.to_owned(),
        signature,
        weight: u32::try_from(weight).map_err(|_| Failure::Corrupt(format!("stored weight {weight}")))?,
        created_at: row.try_get::<At, _>("created_at")?.timestamp(),
        engine,
        engine_version,
    })
}

/// Every worker's word for a report, oldest first.
pub(super) async fn of(connection: &mut PgConnection, id: ReportId) -> Result<Vec<Attestation>, Failure> {
    query(
        "select report_id, worker_id, weight, created_at, body from attestations where report_id = $1 order by ordinal",
    )
    .bind(id.0)
    .fetch_all(connection)
    .await?
    .iter()
    .map(attestation_of)
    .collect()
}

/// The same for each of these reports, in their order.
pub(super) async fn of_each(pool: &PgPool, ids: &[ReportId]) -> Result<Vec<Vec<Attestation>>, Failure> {
    let rows = query(
        "select report_id, worker_id, weight, created_at, body from attestations where report_id = any($1)
         order by ordinal",
    )
    .bind(uuids(ids))
    .fetch_all(pool)
    .await?;
    let mut found: HashMap<ReportId, Vec<Attestation>> = HashMap::new();
    for row in &rows {
        let word = attestation_of(row)?;
        found.entry(word.report_id).or_default().push(word);
    }
    Ok(ids.iter().map(|id| found.remove(id).unwrap_or_default()).collect())
}

/// How much the words for each of these reports take, in their order; where a page is full already nothing further is measured
/// (see `lists`: what is stored of a body is no more than the body and a header).
pub(super) async fn bytes(pool: &PgPool, ids: &[ReportId]) -> Result<Vec<u64>, Failure> {
    let sql = format!(
        "select case when s.before > {PAGE_BYTES} then {PAGE_BYTES} else (
            select coalesce(sum(octet_length(a.body::text) + octet_length(a.worker_id) + {WORD}), 0)::bigint
            from attestations a where a.report_id = s.id
         ) end
         from (
            select u.id, u.place, coalesce(sum(w.stored) over (
                order by u.place rows between unbounded preceding and 1 preceding), 0) as before
            from unnest($1::uuid[]) with ordinality as u(id, place) cross join lateral (
                select sum(pg_column_size(a.body) - 4) as stored from attestations a where a.report_id = u.id
            ) w
         ) s order by s.place"
    );
    let found: Vec<i64> = query_scalar(AssertSqlSafe(sql)).bind(uuids(ids)).fetch_all(pool).await?;
    found.into_iter().map(count).collect()
}

fn uuids(ids: &[ReportId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.0).collect()
}

/// Writes attestations and returns how many are new: a worker's second word for a report is not written.
pub(super) async fn write(connection: &mut PgConnection, attestations: &[Attestation]) -> Result<u64, Failure> {
    if attestations.is_empty() {
        return Ok(0);
    }
    let (mut reports, mut workers, mut weights) = (Vec::new(), Vec::new(), Vec::new());
    let (mut times, mut bodies) = (Vec::new(), Vec::new());
    for attestation in attestations {
        let Attestation { report_id, worker_id, signature: _, weight, created_at, engine: _, engine_version: _ } =
            attestation;
        reports.push(report_id.0);
        workers.push(worker_id.as_str());
        weights.push(i64::from(*weight));
        times.push(At::from(*created_at));
        bodies.push(body(&WordBody::of(attestation))?);
    }
    let written = query(
        "insert into attestations (report_id, worker_id, weight, created_at, body)
         select u.report_id, u.worker_id, u.weight, u.created_at, u.body::json
         from unnest($1::uuid[], $2::text[], $3::bigint[], $4::timestamptz[], $5::text[])
            as u(report_id, worker_id, weight, created_at, body)
         on conflict on constraint attestations_once_per_worker do nothing",
    )
    .bind(reports)
    .bind(workers)
    .bind(weights)
    .bind(times)
    .bind(bodies)
    .execute(connection)
    .await?;
    Ok(written.rows_affected())
}
