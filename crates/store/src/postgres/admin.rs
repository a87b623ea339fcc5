//! What administrators do to the database: every change in one transaction with its line of the audit.

use async_trait::async_trait;
use jam_domain::audit::{AuditEntry, Deed};
use jam_domain::control::{Change, Control, ControlKey, Controls};
use jam_domain::page::{AuditCursor, Page, PageRequest, Visible};
use jam_domain::refine::Engine;
use jam_domain::{Attestation, By, PackageId, ReportId};

use super::pool::again;
use super::{PostgresStore, audit, controls, disputes};
use crate::{Administration, Dispute, Dissent, Resolved, Stored};

#[async_trait]
impl Administration for PostgresStore {
    async fn audit(&self, page: PageRequest<AuditCursor>) -> Stored<Page<AuditEntry, AuditCursor>> {
        self.read(|| audit::list(&self.pool, page)).await
    }

    async fn controls_version(&self) -> Stored<u64> {
        self.read(|| controls::version(&self.pool)).await
    }

    async fn controls(&self) -> Stored<Controls> {
        self.read(|| controls::all(&self.pool)).await
    }

    async fn control(&self, key: &ControlKey, change: &Change, by: &By) -> Stored<Option<Control>> {
        self.begun(again(|| controls::change(&self.pool, key, change, by))).await
    }

    async fn dissent(&self, report: ReportId, word: Attestation, output: &str, visible: &Visible) -> Stored<Dissent> {
        self.begun(again(|| disputes::dissent(self, report, &word, output, visible))).await
    }

    async fn dispute(&self, package: PackageId) -> Stored<Option<Dispute>> {
        self.read(|| disputes::find(self, package)).await
    }

    async fn resolve(
        &self,
        package: PackageId,
        accepted: Option<ReportId>,
        by: &By,
        engine: &Engine,
    ) -> Stored<Resolved> {
        self.begun(again(|| disputes::resolve(self, package, accepted, by, engine))).await
    }

    async fn note(&self, deed: Deed) -> Stored<()> {
        self.begun(again(|| audit::note(&self.pool, &deed))).await
    }
}
