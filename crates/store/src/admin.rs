//! What administrators ask of a store beside everybody else: every change leaves a line in the audit, in the transaction of
//! its effect.

use async_trait::async_trait;
use jam_domain::audit::{AuditEntry, Deed};
use jam_domain::control::{Change, Control, ControlKey, Controls};
use jam_domain::dispute::Resolution;
use jam_domain::page::{AuditCursor, Page, PageRequest, Visible};
use jam_domain::refine::Engine;
use jam_domain::{Attestation, By, PackageId, PackageStatus, ReportId, ServiceId, WorkPackage};

use crate::{Attest, ReportBundle, Stored};

/// Where a package stands: what of it can be told whatever its body is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The package.
    pub id: PackageId,
    /// Its service.
    pub service_id: ServiceId,
    /// Its status.
    pub status: PackageStatus,
}

impl From<&WorkPackage> for Place {
    fn from(package: &WorkPackage) -> Self {
        Self { id: package.id, service_id: package.service_id.clone(), status: package.status }
    }
}

/// A package that is or was disputed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispute {
    /// Where it stands.
    pub place: Place,
    /// The package; none when its body can't be read.
    pub package: Option<WorkPackage>,
    /// Why.
    pub reason: String,
    /// Its report, when it could be refined, then those that contradict it, oldest first.
    pub reports: Vec<ReportBundle>,
    /// How it was ended, when it was.
    pub resolution: Option<Resolution>,
}

/// What became of the word of a worker who says which output it got.
#[allow(clippy::large_enum_variant)] // one value for one request; a box would only add a step for the reader
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dissent {
    /// It is the report's own output: an attestation like any other, and not written yet.
    Agrees,
    /// The report is applied already.
    TooLate,
    /// It counts for a rival report and the package is disputed, or there is no such report, or the worker spoke before.
    Recorded(Attest),
}

/// What became of a wish to end a dispute.
#[allow(clippy::large_enum_variant)] // one value for one request; a box would only add a step for the reader
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// It is ended.
    Ended(Dispute),
    /// It was ended before.
    Before,
    /// The package has no such report.
    NoSuchReport,
    /// There is no such package, or it was never disputed.
    NotDisputed,
}

/// The admin plane of a store.
#[async_trait]
pub trait Administration {
    /// What administrators did, newest first.
    async fn audit(&self, page: PageRequest<AuditCursor>) -> Stored<Page<AuditEntry, AuditCursor>>;
    /// How often what is set at run time has changed: what every replica looks at, again and again.
    async fn controls_version(&self) -> Stored<u64>;
    /// What is set at run time.
    async fn controls(&self) -> Stored<Controls>;
    /// Sets something at run time, or takes it away; returns what was set before. Where nothing is to be taken away nothing
    /// is written.
    async fn control(&self, key: &ControlKey, change: &Change, by: &By) -> Stored<Option<Control>>;
    /// Records the word of a worker who says which output it got for the package of this report. Another one than the
    /// report's makes report and package disputed, and counts for a rival report with that output.
    async fn dissent(&self, report: ReportId, word: Attestation, output: &str, visible: &Visible) -> Stored<Dissent>;
    /// A dispute of a package that is not archived.
    async fn dispute(&self, package: PackageId) -> Stored<Option<Dispute>>;
    /// Ends a dispute: with a report, which is applied whatever was attested, or without any.
    async fn resolve(
        &self,
        package: PackageId,
        accepted: Option<ReportId>,
        by: &By,
        engine: &Engine,
    ) -> Stored<Resolved>;
    /// Writes the line of something whose effect is not in the store.
    async fn note(&self, deed: Deed) -> Stored<()>;
}
