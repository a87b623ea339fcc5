//! The store in this process's memory: everything behind one lock that is never held while waiting or refining.

mod admin;
mod cleanup;
mod disputes;
mod index;
mod packages;
mod preimages;
mod process;
mod receipts;
mod state;
mod story;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jam_domain::audit::Deed;
use jam_domain::event::{Reach, Step};
use jam_domain::page::{
    PackageFilter, Page, PageRequest, ReceiptCursor, ReceiptFilter, ReportFilter, TimeCursor, Visible,
};
use jam_domain::refine::Engine;
use jam_domain::retention::{Cleaned, CleanupRecord, CleanupRun, Retention};
use jam_domain::{
    AccumulatorRoot, Attestation, By, PackageId, Preimage, PreimageHash, Receipt, ReportId, ServiceId, StoreKind,
    WorkPackage, WorkReport,
};

use self::state::State;
use self::story::Story;
use crate::{
    Archived, Attest, BlobBody, CleanupError, Clock, Connections, Limits, NewPackage, Place, Processed, Progress, Put,
    PutError, ReportBundle, Restored, SchemaVersion, Store, Stored, SubmitError, Submitted, Upload, UploadBody,
    machine_clock,
};

/// Keeps everything until the process ends.
pub struct MemoryStore {
    state: Mutex<State>,
    clock: Clock,
    /// Held by the one cleanup that runs.
    cleaning: tokio::sync::Mutex<()>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::with_clock(machine_clock())
    }

    /// An empty store that reads the time from this clock.
    pub fn with_clock(clock: Clock) -> Self {
        // Numbers of an earlier life are behind those of this one: its readers are told that their events are gone.
        let state = State { story: Story::from(clock()), ..State::default() };
        Self { state: Mutex::new(state), clock, cleaning: tokio::sync::Mutex::default() }
    }

    /// Every change below is computed first and then written without a call that can panic, so that the state is whole
    /// even after a panic of an engine under the lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn kind(&self) -> StoreKind {
        StoreKind::Memory
    }

    async fn ping(&self) -> Stored<()> {
        Ok(())
    }

    async fn schema(&self) -> Stored<SchemaVersion> {
        Ok(SchemaVersion { found: Some(0), wanted: 0, oldest: None, foreign: false })
    }

    async fn put_preimage(&self, upload: Upload, body: UploadBody<'_>) -> Result<Put, PutError> {
        preimages::put(self, upload, body).await
    }

    async fn preimage(&self, hash: PreimageHash) -> Stored<Option<Preimage>> {
        Ok(self.state().preimages.get(&hash).map(|blob| blob.record.clone()))
    }

    async fn read_preimage(&self, hash: PreimageHash, range: Range<u64>) -> Stored<Option<(Preimage, BlobBody)>> {
        Ok(self.state().preimages.get(&hash).map(|blob| (blob.record.clone(), preimages::read(blob, range))))
    }

    async fn delete_preimage(&self, hash: PreimageHash, by: &By) -> Stored<Option<bool>> {
        Ok(admin::delete_preimage(&mut self.state(), hash, by))
    }

    async fn submit(&self, new: NewPackage, engine: &Engine) -> Result<Submitted, SubmitError> {
        packages::submit(&mut self.state(), new, engine)
    }

    async fn package(&self, id: PackageId) -> Stored<Option<WorkPackage>> {
        Ok(self.state().packages.get(&id).map(|row| row.package.clone()))
    }

    async fn place(&self, id: PackageId, archived: bool) -> Stored<Option<Place>> {
        Ok(packages::row(&self.state(), id, archived).map(|row| Place::from(&row.package)))
    }

    async fn package_receipt(&self, id: PackageId) -> Stored<Option<Receipt>> {
        Ok(packages::receipt(&self.state(), id, false))
    }

    async fn package_receipts(&self, ids: &[PackageId], archived: bool) -> Stored<Vec<Receipt>> {
        let state = self.state();
        Ok(ids.iter().filter_map(|id| packages::receipt(&state, *id, archived)).collect())
    }

    async fn report_receipts(&self, packages: &[PackageId], archived: bool) -> Stored<Vec<Receipt>> {
        let state = self.state();
        let bundle = |id: &PackageId| {
            if archived {
                return state.archived_bundle(*id);
            }
            state.bundle(state.packages.get(id)?.report?)
        };
        Ok(packages.iter().filter_map(|id| bundle(id)?.receipt).collect())
    }

    async fn packages(
        &self,
        filter: &PackageFilter,
        page: PageRequest<TimeCursor>,
    ) -> Stored<Page<WorkPackage, TimeCursor>> {
        Ok(packages::list(&self.state(), filter, page))
    }

    async fn pending(&self) -> Stored<u64> {
        Ok(packages::pending(&self.state()))
    }

    async fn process_visible(&self, limit: u32, visible: &Visible, engine: &Engine) -> Stored<Vec<Processed>> {
        Ok(process::process(self, limit, visible, engine).await)
    }

    async fn report_of(&self, package: PackageId) -> Stored<Option<ReportBundle>> {
        let state = self.state();
        let report = state.packages.get(&package).and_then(|row| row.report);
        Ok(report.and_then(|id| state.bundle(id)))
    }

    async fn dispute_of(&self, package: PackageId) -> Stored<Option<String>> {
        Ok(self.state().packages.get(&package).and_then(|row| row.dispute.clone()))
    }

    async fn reports(
        &self,
        filter: &ReportFilter,
        page: PageRequest<TimeCursor>,
    ) -> Stored<Page<WorkReport, TimeCursor>> {
        Ok(process::list_reports(&self.state(), filter, page))
    }

    async fn attested_reports(
        &self,
        filter: &ReportFilter,
        page: PageRequest<TimeCursor>,
    ) -> Stored<Page<(WorkReport, Vec<Attestation>), TimeCursor>> {
        Ok(process::list_attested(&self.state(), filter, page))
    }

    async fn attest(
        &self,
        report: ReportId,
        attestation: Attestation,
        visible: &Visible,
        engine: &Engine,
    ) -> Stored<Attest> {
        Ok(process::attest(self, report, attestation, visible, engine))
    }

    async fn clean(&self, retention: &Retention, dry_run: bool, progress: &Progress) -> Result<Cleaned, CleanupError> {
        cleanup::cleanup(self, retention, dry_run, progress).await
    }

    async fn record_cleanup(&self, run: CleanupRun, by: Option<&By>) -> Stored<()> {
        let mut state = self.state();
        if let Some(by) = by {
            state.audit.write(Deed::ran_cleanup(by, &run));
        }
        state.cleanups = Some(CleanupRecord::with(state.cleanups.as_ref(), run));
        Ok(())
    }

    async fn cleanups(&self) -> Stored<Option<CleanupRecord>> {
        Ok(self.state().cleanups.clone())
    }

    async fn archived(&self, id: PackageId) -> Stored<Option<Archived>> {
        let state = self.state();
        let archived = state.archive.get(&id);
        Ok(archived.map(|a| Archived { package: a.row.package.clone(), archived_at: a.archived_at }))
    }

    async fn archived_report(&self, package: PackageId) -> Stored<Option<ReportBundle>> {
        Ok(self.state().archived_bundle(package))
    }

    async fn restore(&self, id: PackageId, by: &By) -> Stored<Restored> {
        Ok(cleanup::restore(&mut self.state(), id, by))
    }

    async fn receipts(
        &self,
        filter: &ReceiptFilter,
        page: PageRequest<ReceiptCursor>,
    ) -> Stored<Page<Receipt, ReceiptCursor>> {
        Ok(receipts::list(&self.state().ledgers, filter, &page))
    }

    async fn root(&self, service: &ServiceId) -> Stored<Option<AccumulatorRoot>> {
        Ok(self.state().ledgers.root(service))
    }

    async fn roots(&self, visible: &Visible, limit: u32) -> Stored<Vec<AccumulatorRoot>> {
        Ok(self.state().ledgers.roots(visible, limit))
    }

    async fn reach(&self) -> Stored<Reach> {
        Ok(self.state().story.reach())
    }

    async fn steps(&self, after: u64) -> Stored<Vec<Step>> {
        Ok(self.state().story.after(after))
    }

    fn connections(&self) -> Connections {
        Connections::default()
    }

    fn limits(&self) -> Option<Arc<dyn Limits>> {
        None
    }
}
