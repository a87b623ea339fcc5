//! Processing in memory: claim under the lock, refine without it, write under it again.

use jam_domain::event::Fact;
use jam_domain::page::{Page, PageRequest, ReportFilter, TimeCursor, Visible, fitting};
use jam_domain::refine::{Attested, Engine, reached};
use jam_domain::word::MAX_WORDS;
use jam_domain::{Attestation, PackageId, PackageStatus, ReportId, Timestamp, WorkPackage, WorkReport};

use super::MemoryStore;
use super::disputes::has_spoken;
use super::index::Cut;
use super::receipts::turn;
use super::state::{ReportRow, State, narrowed};
use crate::bodies::{ReportBody, bytes, ending, words_bytes};
use crate::work::{applied, reported, work};
use crate::{Attest, Processed};

/// Packages that one caller has in hand; whatever becomes of the caller, they are given back.
struct Claim<'a> {
    store: &'a MemoryStore,
    packages: Vec<WorkPackage>,
}

impl<'a> Claim<'a> {
    fn take(store: &'a MemoryStore, limit: u32, visible: &Visible) -> Self {
        let mut state = store.state();
        let ids: Vec<PackageId> = state
            .package_index
            .oldest(PackageStatus::Pending)
            .map(|place| PackageId(place.id))
            .filter(|id| !state.claimed.contains(id))
            .filter(|id| {
                let Some(services) = visible else { return true };
                state.packages.get(id).is_some_and(|row| services.contains(&row.package.service_id))
            })
            .take(limit as usize)
            .collect();
        let packages = ids.iter().filter_map(|id| state.packages.get(id)).map(|row| row.package.clone()).collect();
        state.claimed.extend(ids);
        Self { store, packages }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.store.state();
        for package in &self.packages {
            state.claimed.remove(&package.id);
        }
    }
}

pub(super) async fn process(store: &MemoryStore, limit: u32, visible: &Visible, engine: &Engine) -> Vec<Processed> {
    let claim = Claim::take(store, limit, visible);
    let mut outcomes = Vec::with_capacity(claim.packages.len());
    for package in &claim.packages {
        outcomes.push(work(engine, package, (store.clock)()));
        // A batch of slow packages must neither starve the other tasks of this thread nor outlive its caller.
        tokio::task::yield_now().await;
    }
    let now = (store.clock)();
    let mut state = store.state();
    let mut deeds = Vec::with_capacity(claim.packages.len());
    let finished = claim.packages.iter().zip(outcomes).map(|(package, outcome)| {
        let (fault, applied) = match outcome {
            Ok(attested) => (None, write_report(&mut state, attested, engine, now, &mut deeds)),
            Err(reason) => {
                deeds.push(Fact::Disputed(package.service_id.clone(), package.id));
                (Some(write_dispute(&mut state, package.id, reason)), false)
            }
        };
        Processed { package_id: package.id, service_id: package.service_id.clone(), fault, applied }
    });
    let finished = finished.collect();
    state.story.tell(now, deeds);
    drop(state);
    finished
}

fn write_report(state: &mut State, attested: Attested, engine: &Engine, now: Timestamp, deeds: &mut Vec<Fact>) -> bool {
    let Attested { report, attestations } = attested;
    let applied = report.status == PackageStatus::Applied;
    let receipt = (applied && engine.receipts).then(|| accumulate(state, engine, &report, now));
    deeds.push(reported(&report, receipt));
    state.move_package(report.package_id, report.status);
    if let Some(row) = state.packages.get_mut(&report.package_id) {
        row.report = Some(report.id);
    }
    let (service, status, id) = (report.service_id.clone(), report.status, report.id);
    let row = ReportRow { report, attestations, receipt };
    state.report_index.insert(&service, status, row.place());
    state.reports.insert(id, row);
    applied
}

pub(super) fn accumulate(state: &mut State, engine: &Engine, report: &WorkReport, now: Timestamp) -> u64 {
    state.ledgers.append(&report.service_id, |chain| engine.accumulator.accumulate(chain, report, now)).seq
}

fn write_dispute(state: &mut State, id: PackageId, reason: String) -> String {
    state.move_package(id, PackageStatus::Disputed);
    if let Some(row) = state.packages.get_mut(&id) {
        row.dispute = Some(reason.clone());
    }
    reason
}

pub(super) fn attest(
    store: &MemoryStore,
    id: ReportId,
    attestation: Attestation,
    visible: &Visible,
    engine: &Engine,
) -> Attest {
    let mut state = store.state();
    let Some(row) = state.reports.get(&id) else { return Attest::NoSuchReport };
    if visible.as_ref().is_some_and(|services| !services.contains(&row.report.service_id)) {
        return Attest::NoSuchReport;
    }
    let (package, worker) = (row.report.package_id, attestation.worker_id.clone());
    if has_spoken(&state, package, &worker) {
        return Attest::Twice;
    }
    let Some(row) = state.reports.get_mut(&id) else { return Attest::NoSuchReport };
    if row.attestations.len() >= MAX_WORDS {
        return Attest::Full;
    }
    row.attestations.push(attestation);
    let waits = row.report.status == PackageStatus::Refined;
    if waits && reached(engine.threshold, row.attestations.iter().map(|attestation| attestation.weight)) {
        let report = WorkReport { status: PackageStatus::Applied, ..row.report.clone() };
        let now = (store.clock)();
        let receipt = engine.receipts.then(|| accumulate(&mut state, engine, &report, now));
        state.story.tell(now, vec![applied(&report, receipt)]);
        state.move_report(id, PackageStatus::Applied);
        state.move_package(report.package_id, PackageStatus::Applied);
        if let Some(row) = state.reports.get_mut(&id) {
            row.receipt = receipt;
        }
    }
    state.bundle(id).map_or(Attest::NoSuchReport, Attest::Recorded)
}

pub(super) fn list_reports(
    state: &State,
    filter: &ReportFilter,
    page: PageRequest<TimeCursor>,
) -> Page<WorkReport, TimeCursor> {
    let ReportFilter { service_id, status, visible, archived } = filter;
    let services = narrowed(service_id.as_ref(), visible.as_ref());
    let cut = Cut { status: *status, after: None, before: None, start: page.start, count: page.limit as usize + 1 };
    let index = if *archived { &state.archived_reports } else { &state.report_index };
    let mut places = index.cut(services.as_deref(), &cut);
    let report = |place: &TimeCursor| state.stored_report(ReportId(place.id)).map(|row| &row.report);
    let fits = fitting(places.iter().filter_map(report).map(|report| bytes(&ReportBody::of(report))));
    let next = turn(&mut places, page.limit.min(fits));
    Page { items: places.iter().filter_map(report).cloned().collect(), next }
}

pub(super) fn list_attested(
    state: &State,
    filter: &ReportFilter,
    page: PageRequest<TimeCursor>,
) -> Page<(WorkReport, Vec<Attestation>), TimeCursor> {
    let page = list_reports(state, filter, page);
    let words = |report: &WorkReport| state.stored_report(report.id).map_or(&[][..], |row| &row.attestations);
    let bytes = page.items.iter().map(|report| words_bytes(words(report))).collect();
    let Page { items, next } = ending(page, bytes);
    let attested = |report: WorkReport| {
        let words = words(&report).to_vec();
        (report, words)
    };
    Page { items: items.into_iter().map(attested).collect(), next }
}
