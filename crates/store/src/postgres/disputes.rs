//! Disputes: rival reports beside the report of a package, and the administrator's word that ends them.

use jam_domain::dispute::{Resolution, conflict, rival};
use jam_domain::event::Fact;
use jam_domain::page::Visible;
use jam_domain::refine::Engine;
use jam_domain::word::MAX_WORDS;
use jam_domain::{Attestation, By, PackageId, PackageStatus, ReportId, WorkReport};
use sqlx::postgres::PgConnection;
use sqlx::{Row, query, query_scalar};
use uuid::Uuid;

use super::PostgresStore;
use super::error::Failure;
use super::pool::{Begin, begin};
use super::value::{body, unbody};
use super::{audit, events, packages, process, reports, words};
use crate::{Attest, Dispute, Dissent, Resolved};

/// Records the word of a worker who got this output.
pub(super) async fn dissent(
    store: &PostgresStore,
    id: ReportId,
    word: &Attestation,
    hash: &str,
    visible: &Visible,
) -> Result<Dissent, Failure> {
    let mut transaction = begin(&store.pool, Begin::Plain).await?;
    let Some(package) = reports::package_of(&mut transaction, id).await? else {
        return Ok(Dissent::Recorded(Attest::NoSuchReport));
    };
    packages::lock(&mut transaction, package).await?;
    let Some(own) = reports::lock(&mut transaction, id).await? else {
        return Ok(Dissent::Recorded(Attest::NoSuchReport));
    };
    if visible.as_ref().is_some_and(|services| !services.contains(&own.service_id)) {
        return Ok(Dissent::Recorded(Attest::NoSuchReport));
    }
    if own.refine_output_hash == hash {
        return Ok(Dissent::Agrees);
    }
    if own.status == PackageStatus::Applied {
        return Ok(Dissent::TooLate);
    }
    if has_spoken(&mut transaction, package, &word.worker_id).await? {
        return Ok(Dissent::Recorded(Attest::Twice));
    }
    let rivals = reports::rivals(&mut transaction, package).await?;
    if rivals.iter().map(|bundle| bundle.attestations.len()).sum::<usize>() >= MAX_WORDS {
        return Ok(Dissent::Recorded(Attest::Full));
    }
    let known = rivals.into_iter().map(|bundle| bundle.report).find(|report| report.refine_output_hash == hash);
    let target = if let Some(known) = known {
        known
    } else {
        let new = rival(&own, hash, word.created_at);
        reports::insert_rival(&mut transaction, &new).await?;
        new
    };
    if own.status != PackageStatus::Disputed {
        let reason = conflict(&own, &word.worker_id, hash);
        reports::set_status(&mut transaction, own.id, PackageStatus::Disputed).await?;
        packages::move_all(&mut transaction, &[(package, PackageStatus::Disputed)]).await?;
        reports::dispute(&mut transaction, &[(package, reason)], word.created_at).await?;
        events::tell(&mut transaction, &[Fact::Disputed(own.service_id.clone(), package)]).await?;
    }
    words::write(&mut transaction, &[Attestation { report_id: target.id, ..word.clone() }]).await?;
    let rivals = reports::rivals(&mut transaction, package).await?;
    transaction.commit().await?;
    let recorded = rivals.into_iter().find(|bundle| bundle.report.id == target.id);
    Ok(Dissent::Recorded(recorded.map_or(Attest::NoSuchReport, Attest::Recorded)))
}

/// Whether the worker has given its word for one of the reports of the package.
pub(super) async fn has_spoken(
    connection: &mut PgConnection,
    package: PackageId,
    worker: &str,
) -> Result<bool, Failure> {
    let sql = "select exists (select from attestations where worker_id = $2 and report_id in (
            select id from reports where package_id = $1 union all select id from rival_reports where package_id = $1))";
    Ok(query_scalar(sql).bind(package.0).bind(worker).fetch_one(connection).await?)
}

/// The reason of a package's dispute and its end, when there is one; of archived packages there is none.
async fn row_of(connection: &mut PgConnection, id: PackageId) -> Result<Option<(String, Option<Resolution>)>, Failure> {
    let sql = "select d.reason, d.resolution from disputes d join packages p on p.id = d.package_id
        where d.package_id = $1";
    let Some(row) = query(sql).bind(id.0).fetch_optional(connection).await? else { return Ok(None) };
    let resolution: Option<&str> = row.try_get_unchecked("resolution")?;
    Ok(Some((row.try_get("reason")?, resolution.map(unbody).transpose()?)))
}

async fn dispute_of(connection: &mut PgConnection, id: PackageId) -> Result<Option<Dispute>, Failure> {
    let Some((reason, resolution)) = row_of(connection, id).await? else { return Ok(None) };
    let Some((place, package)) = packages::read(connection, id).await? else { return Ok(None) };
    let mut all: Vec<_> = reports::of_package(connection, id).await?.into_iter().collect();
    all.extend(reports::rivals(connection, id).await?);
    let package = match package {
        Err(problem @ Failure::Corrupt(_)) => {
            tracing::warn!(%problem, "a disputed package can't be read: its dispute is shown without it");
            None
        }
        package => Some(package?),
    };
    Ok(Some(Dispute { place, package, reason, reports: all, resolution }))
}

/// A dispute as of one moment.
pub(super) async fn find(store: &PostgresStore, id: PackageId) -> Result<Option<Dispute>, Failure> {
    let mut transaction = begin(&store.pool, Begin::Look).await?;
    let found = dispute_of(&mut transaction, id).await?;
    transaction.rollback().await?;
    Ok(found)
}

/// Ends a dispute with this report, or without any.
pub(super) async fn resolve(
    store: &PostgresStore,
    id: PackageId,
    accepted: Option<ReportId>,
    by: &By,
    engine: &Engine,
) -> Result<Resolved, Failure> {
    let mut transaction = begin(&store.pool, Begin::Admin).await?;
    let resolved = end(store, &mut transaction, (id, accepted), by, engine).await?;
    match resolved {
        Resolved::Ended(_) => transaction.commit().await?,
        // At once: who looks for pending packages passes over those that somebody holds.
        Resolved::Before | Resolved::NoSuchReport | Resolved::NotDisputed => transaction.rollback().await?,
    }
    Ok(resolved)
}

async fn end(
    store: &PostgresStore,
    transaction: &mut PgConnection,
    (id, accepted): (PackageId, Option<ReportId>),
    by: &By,
    engine: &Engine,
) -> Result<Resolved, Failure> {
    packages::lock(transaction, id).await?;
    let Some(dispute) = dispute_of(transaction, id).await? else { return Ok(Resolved::NotDisputed) };
    if dispute.resolution.is_some() {
        return Ok(Resolved::Before);
    }
    if let Some(accepted) = accepted {
        let chosen = dispute.reports.iter().position(|bundle| bundle.report.id == accepted);
        let Some(place) = chosen else { return Ok(Resolved::NoSuchReport) };
        let report = WorkReport { status: PackageStatus::Applied, ..dispute.reports[place].report.clone() };
        if place > 0 {
            reports::take_the_place(transaction, id, accepted).await?;
        }
        let seqs = process::accumulate(transaction, &[&report], engine, || (store.clock)()).await?;
        reports::apply(transaction, &report, seqs.get(&accepted).copied()).await?;
        packages::move_all(transaction, &[(id, PackageStatus::Applied)]).await?;
    }
    let resolution = Resolution::of(accepted, by);
    query("update disputes set resolution = $2::json where package_id = $1")
        .bind(id.0)
        .bind(body(&resolution)?)
        .execute(&mut *transaction)
        .await?;
    audit::write(transaction, &resolution.deed(by, id, &dispute.reason)).await?;
    let ended = dispute_of(transaction, id).await?;
    Ok(ended.map_or(Resolved::NotDisputed, Resolved::Ended))
}

/// Deletes the rival reports of these packages, and what was said for them.
pub(super) async fn delete(connection: &mut PgConnection, packages: &[Uuid]) -> Result<(), Failure> {
    let sql = "with gone as (
            delete from rival_reports r where r.package_id = any($1)
                and not exists (select from packages p where p.id = r.package_id)
            returning id
         )
         delete from attestations where report_id in (select id from gone)";
    query(sql).bind(packages).execute(connection).await?;
    Ok(())
}
