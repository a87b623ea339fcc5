//! Disputes in memory: rival reports beside the report of a package, and the administrator's word that ends them.

use jam_domain::dispute::{Resolution, conflict, rival};
use jam_domain::event::Fact;
use jam_domain::page::Visible;
use jam_domain::refine::Engine;
use jam_domain::word::MAX_WORDS;
use jam_domain::{Attestation, By, PackageId, PackageStatus, ReportId, Timestamp, WorkReport};

use super::process::accumulate;
use super::state::{ReportRow, State};
use crate::work::applied;
use crate::{Attest, Dispute, Dissent, Place, Resolved};

/// Records the word of a worker who got this output.
pub(super) fn dissent(
    state: &mut State,
    id: ReportId,
    mut word: Attestation,
    hash: &str,
    visible: &Visible,
) -> Dissent {
    let hidden = |report: &WorkReport| visible.as_ref().is_some_and(|services| !services.contains(&report.service_id));
    let own = match state.reports.get(&id) {
        Some(row) if !hidden(&row.report) => row.report.clone(),
        Some(_) | None => return Dissent::Recorded(Attest::NoSuchReport),
    };
    if own.refine_output_hash == hash {
        return Dissent::Agrees;
    }
    if own.status == PackageStatus::Applied {
        return Dissent::TooLate;
    }
    if has_spoken(state, own.package_id, &word.worker_id) {
        return Dissent::Recorded(Attest::Twice);
    }
    let rivals = state.packages.get(&own.package_id).map_or(&[][..], |row| &row.rivals);
    if rivals.iter().map(|rival| rival.attestations.len()).sum::<usize>() >= MAX_WORDS {
        return Dissent::Recorded(Attest::Full);
    }
    if own.status != PackageStatus::Disputed {
        state.move_report(id, PackageStatus::Disputed);
        state.move_package(own.package_id, PackageStatus::Disputed);
        state.story.tell(word.created_at, vec![Fact::Disputed(own.service_id.clone(), own.package_id)]);
    }
    let Some(row) = state.packages.get_mut(&own.package_id) else {
        return Dissent::Recorded(Attest::NoSuchReport);
    };
    row.dispute.get_or_insert_with(|| conflict(&own, &word.worker_id, hash));
    let known = row.rivals.iter().position(|other| other.report.refine_output_hash == hash);
    let at = known.unwrap_or_else(|| {
        let report = rival(&own, hash, word.created_at);
        row.rivals.push(ReportRow { report, attestations: Vec::new(), receipt: None });
        row.rivals.len() - 1
    });
    word.report_id = row.rivals[at].report.id;
    row.rivals[at].attestations.push(word);
    let bundle = state.packages.get(&own.package_id).map(|row| state.bundle_of(&row.rivals[at]));
    Dissent::Recorded(bundle.map_or(Attest::NoSuchReport, Attest::Recorded))
}

/// Whether the worker has given its word for one of the reports of the package.
pub(super) fn has_spoken(state: &State, package: PackageId, worker: &str) -> bool {
    let Some(row) = state.packages.get(&package) else { return false };
    let own = row.report.and_then(|id| state.reports.get(&id));
    row.rivals.iter().chain(own).flat_map(|report| &report.attestations).any(|word| word.worker_id == worker)
}

/// A dispute.
pub(super) fn find(state: &State, id: PackageId) -> Option<Dispute> {
    let row = state.packages.get(&id)?;
    let own = row.report.and_then(|report| state.bundle(report));
    Some(Dispute {
        place: Place::from(&row.package),
        package: Some(row.package.clone()),
        reason: row.dispute.clone()?,
        reports: own.into_iter().chain(row.rivals.iter().map(|rival| state.bundle_of(rival))).collect(),
        resolution: row.resolution.clone(),
    })
}

/// Ends a dispute with this report, or without any.
pub(super) fn resolve(
    state: &mut State,
    id: PackageId,
    accepted: Option<ReportId>,
    by: &By,
    (engine, now): (&Engine, Timestamp),
) -> Resolved {
    let Some(dispute) = find(state, id) else { return Resolved::NotDisputed };
    if dispute.resolution.is_some() {
        return Resolved::Before;
    }
    if let Some(accepted) = accepted {
        let chosen = dispute.reports.iter().find(|bundle| bundle.report.id == accepted);
        let Some(chosen) = chosen else { return Resolved::NoSuchReport };
        let report = WorkReport { status: PackageStatus::Applied, ..chosen.report.clone() };
        take_the_place(state, id, accepted);
        let receipt = engine.receipts.then(|| accumulate(state, engine, &report, now));
        state.story.tell(now, vec![applied(&report, receipt)]);
        state.move_report(accepted, PackageStatus::Applied);
        state.move_package(id, PackageStatus::Applied);
        if let Some(row) = state.reports.get_mut(&accepted) {
            row.receipt = receipt;
        }
    }
    let resolution = Resolution::of(accepted, by);
    state.audit.write(resolution.deed(by, id, &dispute.reason));
    if let Some(row) = state.packages.get_mut(&id) {
        row.resolution = Some(resolution);
    }
    find(state, id).map_or(Resolved::NotDisputed, Resolved::Ended)
}

/// Makes a rival the report of its package, and the report before a rival.
fn take_the_place(state: &mut State, id: PackageId, chosen: ReportId) {
    let Some(row) = state.packages.get_mut(&id) else { return };
    let Some(at) = row.rivals.iter().position(|rival| rival.report.id == chosen) else { return };
    let rival = row.rivals.remove(at);
    let before = row.report.replace(chosen).and_then(|own| state.reports.remove(&own));
    if let Some(before) = before {
        state.report_index.remove(&before.report.service_id, before.report.status, before.place());
        row.rivals.insert(0, before);
    }
    state.report_index.insert(&rival.report.service_id, rival.report.status, rival.place());
    state.reports.insert(chosen, rival);
}
