//! Processing: one transaction claims, and after refining writes report, attestations, receipt and status of the whole batch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use jam_domain::event::Fact;
use jam_domain::page::Visible;
use jam_domain::receipt::Chain;
use jam_domain::refine::{Attested, Engine, reached};
use jam_domain::word::MAX_WORDS;
use jam_domain::{
    Attestation, PackageId, PackageStatus, Receipt, ReportId, ServiceId, Timestamp, WorkPackage, WorkReport,
};
use sqlx::postgres::PgConnection;
use tokio::time::{Instant, timeout};

use super::PostgresStore;
use super::error::{Cause, Failure};
use super::packages::Claimed;
use super::pool::{Begin, begin};
use super::transaction::Transaction;
use super::value::word;
use super::{apart, disputes, packages, receipts, reports, words};
use crate::work::{reported, work};
use crate::{Attest, Processed, ReportBundle, StoreError};

/// How often and how long at first a call that finds all pending packages in other hands looks again, each time twice as
/// long: who claims large ones lets most of them go as soon as they are measured.
const LOOKS: u32 = 5;
const FIRST_LOOK: Duration = Duration::from_millis(10);

/// Claims, refines and writes one batch, or several where the packages are large: what is in hand is bounded in bytes. Until
/// its commit nothing of a batch is visible, and when this process or its connection dies, the claim dies with it.
pub(super) async fn process(
    store: &PostgresStore,
    limit: u32,
    visible: &Visible,
    engine: &Engine,
) -> Result<Vec<Processed>, StoreError> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let busy = || StoreError::Unavailable("every processor's connection is in use".into());
    let turn = timeout(store.patience, store.processors.acquire()).await;
    let _turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
    let (limit, mut most) = (limit as usize, limit as usize);
    let (mut done, mut looks) = (Vec::new(), 0);
    loop {
        let asked = most.min(limit - done.len());
        match batch(store, asked, visible, engine).await {
            Err(error) if !done.is_empty() => {
                // What is done is done, and said; who calls again hears of the rest.
                tracing::warn!(%error, processed = done.len(), "a later batch of this call failed");
                return Ok(done);
            }
            Err(why @ StoreError::Fault(_)) => return apart::process(store, limit, visible, engine, why).await,
            Err(error) => return Err(error),
            Ok((processed, _)) if processed.is_empty() && done.is_empty() && looks < LOOKS => {
                if !any_pending(store, visible).await? {
                    return Ok(done);
                }
                tokio::time::sleep(FIRST_LOOK * 2_u32.pow(looks)).await;
                looks += 1;
            }
            Ok((processed, cut)) => {
                let count = processed.len();
                done.extend(processed);
                if done.len() >= limit || (count < asked && !cut) {
                    return Ok(done);
                }
                most = if cut { count } else { 2 * most };
            }
        }
    }
}

/// Whether packages are pending that could be claimed, whoever has them in hand.
async fn any_pending(store: &PostgresStore, visible: &Visible) -> Result<bool, StoreError> {
    let except = store.aside.at(Instant::now().into_std());
    let oldest = store.begun(packages::oldest(&store.pool, 1, visible, &except)).await?;
    Ok(!oldest.is_empty())
}

/// One transaction's work, and whether it was cut: then more is pending than fitted.
async fn batch(
    store: &PostgresStore,
    limit: usize,
    visible: &Visible,
    engine: &Engine,
) -> Result<(Vec<Processed>, bool), StoreError> {
    let (transaction, Claimed { packages, cut }) = store.begun(claim_fitting(store, limit, visible)).await?;
    Ok((finish(store, transaction, &packages, engine).await?, cut))
}

/// Claims what fits. Where more was locked than that, it is let go at once: others may have it meanwhile.
async fn claim_fitting(
    store: &PostgresStore,
    limit: usize,
    visible: &Visible,
) -> Result<(Transaction, Claimed), Failure> {
    let (transaction, claimed) = claim(store, limit, visible).await?;
    if !claimed.cut {
        return Ok((transaction, claimed));
    }
    transaction.rollback().await?;
    let (transaction, again) = claim(store, claimed.packages.len(), visible).await?;
    Ok((transaction, Claimed { cut: !again.packages.is_empty(), ..again }))
}

/// Refines what was claimed, and writes what came of it.
pub(super) async fn finish(
    store: &PostgresStore,
    mut transaction: Transaction,
    packages: &[WorkPackage],
    engine: &Engine,
) -> Result<Vec<Processed>, StoreError> {
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    let mut outcomes = Vec::with_capacity(packages.len());
    let mut heard = Instant::now();
    for package in packages {
        outcomes.push(work(engine, package, (store.clock)()));
        // A batch of slow packages must neither starve the other tasks of this thread nor outlive its caller.
        tokio::task::yield_now().await;
        if heard.elapsed() >= store.claim_timeout / 4 {
            store.bounded(sign_of_life(&mut transaction)).await?;
            heard = Instant::now();
        }
    }
    store.bounded(write(store, transaction, Sorted::of(packages, outcomes), engine)).await
}

async fn claim(store: &PostgresStore, limit: usize, visible: &Visible) -> Result<(Transaction, Claimed), Failure> {
    let mut transaction = begin(&store.pool, Begin::Process(store.claim_timeout)).await?;
    let except = store.aside.at(Instant::now().into_std());
    match packages::claim(&mut transaction, limit, visible, &except).await {
        Ok(claimed) => Ok((transaction, claimed)),
        Err(failure) => back(transaction, failure).await,
    }
}

/// Takes back what failed, at once: whoever tries its packages one by one must find them free.
pub(super) async fn back<T>(transaction: Transaction, failure: Failure) -> Result<T, Failure> {
    if failure.cause() == Cause::Fault {
        transaction.rollback().await?;
    }
    Err(failure)
}

/// Disputes a claimed package of which nothing can be told but its id and its service.
pub(super) async fn dispute_unread(
    store: &PostgresStore,
    transaction: Transaction,
    (id, service): (PackageId, &str),
    engine: &Engine,
) -> Result<Vec<Processed>, Failure> {
    let mut sorted = Sorted::default();
    sorted.dispute(id, &word(service)?, "the stored package can't be read".into());
    write(store, transaction, sorted, engine).await
}

/// A claim of which nothing is heard is taken back: a processor may be frozen for ever, and its packages with it.
async fn sign_of_life(transaction: &mut Transaction) -> Result<(), Failure> {
    sqlx::query("select 1").execute(&mut **transaction).await?;
    Ok(())
}

async fn write(
    store: &PostgresStore,
    mut transaction: Transaction,
    sorted: Sorted,
    engine: &Engine,
) -> Result<Vec<Processed>, Failure> {
    match rows_of(store, &mut transaction, sorted, engine).await {
        Ok(finished) => {
            transaction.commit().await?;
            Ok(finished)
        }
        Err(failure) => back(transaction, failure).await,
    }
}

async fn rows_of(
    store: &PostgresStore,
    transaction: &mut PgConnection,
    sorted: Sorted,
    engine: &Engine,
) -> Result<Vec<Processed>, Failure> {
    let Sorted { finished, reports: done, attestations, disputes, moves, mut deeds } = sorted;
    // Heads are locked last and for as short as can be: the other processors of these services wait for them.
    words::write(transaction, &attestations).await?;
    reports::dispute(transaction, &disputes, (store.clock)()).await?;
    packages::move_all(transaction, &moves).await?;
    let applied: Vec<&WorkReport> = done.iter().filter(|report| report.status == PackageStatus::Applied).collect();
    let seqs = accumulate(transaction, &applied, engine, || (store.clock)()).await?;
    let rows: Vec<_> = done.iter().map(|report| (report, seqs.get(&report.id).copied())).collect();
    deeds.extend(rows.iter().map(|(report, seq)| reported(report, *seq)));
    reports::insert(transaction, &rows, &deeds).await?;
    Ok(finished)
}

/// The outcomes of a batch by the table they go to.
#[derive(Default)]
struct Sorted {
    finished: Vec<Processed>,
    reports: Vec<WorkReport>,
    attestations: Vec<Attestation>,
    disputes: Vec<(PackageId, String)>,
    moves: Vec<(PackageId, PackageStatus)>,
    /// What is told of the disputed ones; the others are told of when their receipts are known.
    deeds: Vec<Fact>,
}

impl Sorted {
    fn of(packages: &[WorkPackage], outcomes: Vec<Result<Attested, String>>) -> Self {
        let mut sorted = Self::default();
        for (package, outcome) in packages.iter().zip(outcomes) {
            match outcome {
                Ok(Attested { report, attestations }) => {
                    sorted.finish(package.id, &package.service_id, report.status, None);
                    sorted.reports.push(report);
                    sorted.attestations.extend(attestations);
                }
                Err(reason) => sorted.dispute(package.id, &package.service_id, reason),
            }
        }
        sorted
    }

    fn dispute(&mut self, id: PackageId, service: &ServiceId, reason: String) {
        self.disputes.push((id, reason.clone()));
        self.deeds.push(Fact::Disputed(service.clone(), id));
        self.finish(id, service, PackageStatus::Disputed, Some(reason));
    }

    fn finish(&mut self, id: PackageId, service: &ServiceId, status: PackageStatus, fault: Option<String>) {
        self.moves.push((id, status));
        let applied = status == PackageStatus::Applied;
        self.finished.push(Processed { package_id: id, service_id: service.clone(), fault, applied });
    }
}

/// Hangs the reports' receipts on their chains and returns the seq of each. The heads are locked here, after refining.
pub(super) async fn accumulate(
    connection: &mut PgConnection,
    reports: &[&WorkReport],
    engine: &Engine,
    now: impl Fn() -> Timestamp,
) -> Result<HashMap<ReportId, u64>, Failure> {
    if !engine.receipts || reports.is_empty() {
        return Ok(HashMap::new());
    }
    let services: BTreeSet<&ServiceId> = reports.iter().map(|report| &report.service_id).collect();
    let mut chains = receipts::lock_heads(connection, &services).await?;
    // Read after the locks, so that one server's receipts are in order of time, too.
    let now = now();
    let made = links(&mut chains, reports, engine, now)?;
    receipts::append(connection, &chains, &made).await?;
    Ok(reports.iter().map(|report| report.id).zip(made.iter().map(|receipt| receipt.seq)).collect())
}

fn links(
    chains: &mut BTreeMap<ServiceId, Chain>,
    reports: &[&WorkReport],
    engine: &Engine,
    now: Timestamp,
) -> Result<Vec<Receipt>, Failure> {
    reports
        .iter()
        .map(|report| {
            let chain = chains.get_mut(&report.service_id).ok_or(Failure::Gone("a chain's head vanished"))?;
            Ok(engine.accumulator.accumulate(chain, report, now))
        })
        .collect()
}

/// Records one more attestation, and accumulates when it is the one that reaches the threshold.
pub(super) async fn attest(
    store: &PostgresStore,
    id: ReportId,
    attestation: &Attestation,
    visible: &Visible,
    engine: &Engine,
) -> Result<Attest, Failure> {
    let mut transaction = begin(&store.pool, Begin::Plain).await?;
    let Some(report) = reports::lock(&mut transaction, id).await? else { return Ok(Attest::NoSuchReport) };
    if visible.as_ref().is_some_and(|services| !services.contains(&report.service_id)) {
        return Ok(Attest::NoSuchReport);
    }
    let package = report.package_id;
    // Where the report has or had rivals: also once one of them was accepted.
    let may_have_spoken = report.status != PackageStatus::Refined;
    if may_have_spoken && disputes::has_spoken(&mut transaction, package, &attestation.worker_id).await? {
        return Ok(Attest::Twice);
    }
    if words::write(&mut transaction, &[Attestation { report_id: id, ..attestation.clone() }]).await? == 0 {
        return Ok(Attest::Twice);
    }
    let attestations = words::of(&mut transaction, id).await?;
    if attestations.len() > MAX_WORDS {
        return Ok(Attest::Full);
    }
    let waits = report.status == PackageStatus::Refined;
    if waits && reached(engine.threshold, attestations.iter().map(|attestation| attestation.weight)) {
        let report = WorkReport { status: PackageStatus::Applied, ..report };
        packages::lock(&mut transaction, package).await?;
        let seqs = accumulate(&mut transaction, &[&report], engine, || (store.clock)()).await?;
        reports::apply(&mut transaction, &report, seqs.get(&id).copied()).await?;
        packages::move_all(&mut transaction, &[(package, PackageStatus::Applied)]).await?;
    }
    let bundle = reports::of_package(&mut transaction, package).await?;
    transaction.commit().await?;
    Ok(bundle.map_or(Attest::NoSuchReport, Attest::Recorded))
}

/// The report of a package, archived or not, as of one moment.
pub(super) async fn report_of(
    store: &PostgresStore,
    package: PackageId,
    archived: bool,
) -> Result<Option<ReportBundle>, Failure> {
    let mut transaction = begin(&store.pool, Begin::Look).await?;
    let bundle = if archived {
        reports::of_archived(&mut transaction, package).await?
    } else {
        reports::of_package(&mut transaction, package).await?
    };
    transaction.rollback().await?;
    Ok(bundle)
}
