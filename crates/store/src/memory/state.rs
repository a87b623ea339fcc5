//! What the memory store holds, and the steps that keep its parts in agreement.

use std::collections::{BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use jam_domain::page::TimeCursor;
use jam_domain::retention::CleanupRecord;
use jam_domain::{
    Attestation, PackageId, PackageStatus, Preimage, PreimageHash, Receipt, ReportId, ServiceId, Timestamp, TokenId,
    WorkPackage, WorkReport,
};

use super::admin::Audit;
use super::index::TimeIndex;
use super::receipts::Ledgers;
use super::story::Story;
use crate::ReportBundle;

/// Everything.
#[derive(Default)]
pub(super) struct State {
    /// Blobs by name.
    pub(super) preimages: HashMap<PreimageHash, Blob>,
    /// Packages by id.
    pub(super) packages: HashMap<PackageId, PackageRow>,
    /// Packages by service, status and time.
    pub(super) package_index: TimeIndex,
    /// Idempotency keys of each token.
    pub(super) keys: HashMap<(TokenId, String), PackageId>,
    /// Pending packages that a processor has in hand.
    pub(super) claimed: HashSet<PackageId>,
    /// Reports by id.
    pub(super) reports: HashMap<ReportId, ReportRow>,
    /// Reports by service, status and time.
    pub(super) report_index: TimeIndex,
    /// Archived packages with their reports.
    pub(super) archive: HashMap<PackageId, ArchivedRow>,
    /// Archived packages by service, status and time.
    pub(super) archive_index: TimeIndex,
    /// Reports of archived packages by service, status and time.
    pub(super) archived_reports: TimeIndex,
    /// Whose reports these are.
    pub(super) archived_report_ids: HashMap<ReportId, PackageId>,
    /// What administrators did.
    pub(super) audit: Audit,
    /// What is remembered of cleanups.
    pub(super) cleanups: Option<CleanupRecord>,
    /// The receipt chains.
    pub(super) ledgers: Ledgers,
    /// What happened.
    pub(super) story: Story,
}

/// What stays of a package and its report until it is restored or deleted.
pub(super) struct ArchivedRow {
    pub(super) row: PackageRow,
    pub(super) report: Option<ReportRow>,
    pub(super) archived_at: Timestamp,
}

/// A blob: its record, and its bytes in chunks of one size (the last may be shorter).
pub(super) struct Blob {
    pub(super) record: Preimage,
    pub(super) chunks: Vec<Bytes>,
}

/// A package with what the API does not show.
pub(super) struct PackageRow {
    pub(super) package: WorkPackage,
    pub(super) fingerprint: [u8; 32],
    pub(super) idempotency_key: Option<String>,
    pub(super) receipt: Option<u64>,
    pub(super) report: Option<ReportId>,
    pub(super) dispute: Option<String>,
    pub(super) restored_at: Option<Timestamp>,
}

/// A report with what was said about it.
pub(super) struct ReportRow {
    pub(super) report: WorkReport,
    pub(super) attestations: Vec<Attestation>,
    pub(super) receipt: Option<u64>,
}

impl PackageRow {
    /// Where the package stands in lists.
    pub(super) fn place(&self) -> TimeCursor {
        TimeCursor { created_at: self.package.created_at, id: self.package.id.0 }
    }
}

impl ReportRow {
    /// Where the report stands in lists.
    pub(super) fn place(&self) -> TimeCursor {
        TimeCursor { created_at: self.report.created_at, id: self.report.id.0 }
    }
}

impl State {
    /// Gives a package another status, in its record and in the lists.
    pub(super) fn move_package(&mut self, id: PackageId, status: PackageStatus) {
        let Some(row) = self.packages.get_mut(&id) else { return };
        let place = row.place();
        self.package_index.move_entry(&row.package.service_id, row.package.status, status, place);
        row.package.status = status;
    }

    /// Gives a report another status, in its record and in the lists.
    pub(super) fn move_report(&mut self, id: ReportId, status: PackageStatus) {
        let Some(row) = self.reports.get_mut(&id) else { return };
        let place = row.place();
        self.report_index.move_entry(&row.report.service_id, row.report.status, status, place);
        row.report.status = status;
    }

    /// A package that is stored, archived or not.
    pub(super) fn stored(&self, id: PackageId) -> Option<&PackageRow> {
        self.packages.get(&id).or_else(|| self.archive.get(&id).map(|archived| &archived.row))
    }

    /// A report that is stored, its package archived or not.
    pub(super) fn stored_report(&self, id: ReportId) -> Option<&ReportRow> {
        let archived = || self.archive.get(self.archived_report_ids.get(&id)?)?.report.as_ref();
        self.reports.get(&id).or_else(archived)
    }

    /// The report with everything said about it.
    pub(super) fn bundle(&self, id: ReportId) -> Option<ReportBundle> {
        Some(self.bundle_of(self.reports.get(&id)?))
    }

    /// The same of an archived package.
    pub(super) fn archived_bundle(&self, package: PackageId) -> Option<ReportBundle> {
        Some(self.bundle_of(self.archive.get(&package)?.report.as_ref()?))
    }

    fn bundle_of(&self, row: &ReportRow) -> ReportBundle {
        let ReportRow { report, attestations, receipt } = row;
        ReportBundle {
            report: report.clone(),
            attestations: attestations.clone(),
            receipt: receipt.and_then(|seq| self.receipt(&report.service_id, seq)),
        }
    }

    /// One link of a chain.
    pub(super) fn receipt(&self, service: &ServiceId, seq: u64) -> Option<Receipt> {
        self.ledgers.receipt(service, seq).cloned()
    }
}

/// The services that a list covers when it does not cover all of them.
pub(super) fn narrowed<'a>(
    service: Option<&'a ServiceId>,
    visible: Option<&'a BTreeSet<ServiceId>>,
) -> Option<Vec<&'a ServiceId>> {
    match (service, visible) {
        (None, None) => None,
        (Some(service), None) => Some(vec![service]),
        (Some(service), Some(visible)) => Some(visible.get(service).into_iter().collect()),
        (None, Some(visible)) => Some(visible.iter().collect()),
    }
}
