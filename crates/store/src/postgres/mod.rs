//! The store in PostgreSQL: one module for each group of tables, and the only place that knows SQL.

mod admin;
mod apart;
mod archive;
mod audit;
mod blobs;
mod cleanup;
mod cleanups;
mod controls;
mod disputes;
mod doubts;
mod error;
mod events;
mod limits;
mod lists;
pub mod migrate;
mod outage;
mod outside;
mod packages;
mod pool;
mod preimages;
mod process;
mod receipts;
mod reports;
mod submit;
mod sweep;
mod transaction;
mod upload;
mod value;
mod words;
mod writer;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
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
use sqlx::postgres::PgPool;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::apart::Aside;
use self::error::{Failure, Redaction};
use self::outage::Outage;
use self::pool::{again, read};
use self::submit::Candidate;
use self::upload::Deleted;
use self::writer::Writer;
use crate::objects::{Objects, PART, Trouble};
use crate::{
    Archived, Attest, BlobBody, CleanupError, Clock, Connections, Limits, NewPackage, Place, Processed, Progress, Put,
    PutError, ReportBundle, Restored, SchemaVersion, Store, StoreError, Stored, SubmitError, Submitted, Upload,
    UploadBody, machine_clock,
};

/// How to reach the database, and how long to wait for it.
#[derive(Clone)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database?sslmode=…`; never shown.
    pub dsn: String,
    /// Connections at most.
    pub max_connections: u32,
    /// How long a caller waits for a connection.
    pub acquire_timeout: Duration,
    /// How long one statement may take.
    pub statement_timeout: Duration,
    /// How long a processor may be silent before the database takes its claim back. Between two packages it gives a sign of
    /// life, so that refining one package has to take less.
    pub claim_timeout: Duration,
    /// What `processed_at` and reports are dated with.
    pub clock: Clock,
    /// Where the bytes of new preimages go, when not into the database.
    pub objects: Option<Objects>,
}

impl PostgresConfig {
    /// This database with the usual bounds: 10 connections, 3 s for a connection, 5 s for a statement, a minute for a claim.
    pub fn new(dsn: impl Into<String>) -> Self {
        Self {
            dsn: dsn.into(),
            max_connections: 10,
            acquire_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(5),
            claim_timeout: Duration::from_mins(1),
            clock: machine_clock(),
            objects: None,
        }
    }
}

impl PostgresConfig {
    /// What is wrong with the DSN, without its secrets; nothing is connected.
    ///
    /// # Errors
    /// The words, when it can't be read.
    pub fn check(&self) -> Result<(), String> {
        pool::options(self).map(drop).map_err(|problem| Redaction::of(&self.dsn).clean(&problem))
    }
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig").field("max_connections", &self.max_connections).finish_non_exhaustive()
    }
}

/// Keeps everything in a PostgreSQL database.
#[derive(Clone)]
pub struct PostgresStore {
    pool: PgPool,
    writer: Writer,
    outage: Outage,
    redaction: Redaction,
    patience: Duration,
    claim_timeout: Duration,
    clock: Clock,
    objects: Option<Objects>,
    /// Half of the connections may wait for refiners; the other half stays for everybody else.
    processors: Arc<Semaphore>,
    swept: Arc<Mutex<Option<Instant>>>,
    aside: Arc<Aside>,
}

impl PostgresStore {
    /// A store on this database. Nothing is connected yet: [`Store::ping`] and [`Store::schema`] tell whether it is there.
    ///
    /// # Errors
    /// [`StoreError::Fault`] when the DSN can't be read.
    #[allow(clippy::unused_async)] // must be called within a runtime, which the pool's upkeep needs
    pub async fn connect(config: PostgresConfig) -> Result<Self, StoreError> {
        let redaction = Redaction::of(&config.dsn);
        let wanted = migrate::wanted();
        let pool = pool::lazy(&config)
            .map_err(|error| StoreError::Fault(redaction.clean(&format!("the database DSN can't be read: {error}"))))?;
        // A statement that the server can't cut short, because it is stopped or unreachable, is cut short here.
        let patience = config.acquire_timeout + config.statement_timeout;
        let outage = Outage::new(pool.clone(), config.acquire_timeout);
        let writer = Writer::new(pool.clone(), outage.clone(), redaction.clone(), patience, wanted);
        let processors = Arc::new(Semaphore::new(config.max_connections.div_ceil(2).max(1) as usize));
        let PostgresConfig { claim_timeout, clock, objects, .. } = config;
        let (swept, aside) = (Arc::default(), Arc::default());
        Ok(Self { pool, writer, outage, redaction, patience, claim_timeout, clock, objects, processors, swept, aside })
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// A first step: who begins while the database is away is told so at once.
    async fn begun<T>(&self, step: impl Future<Output = Result<T, Failure>>) -> Stored<T> {
        self.outage.pass().await?;
        self.bounded(step).await
    }

    /// Puts an end to waiting, and failures into words.
    async fn bounded<T>(&self, step: impl Future<Output = Result<T, Failure>>) -> Stored<T> {
        match timeout(self.patience, step).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(failure)) => {
                self.outage.note(&failure);
                Err(self.answer(&failure))
            }
            Err(_) => {
                self.outage.suspect();
                Err(StoreError::Unavailable("the database did not answer in time".into()))
            }
        }
    }

    /// The same for work that nobody waits for: how long it takes says nothing about the way to the database, and must
    /// not stop the requests of others.
    async fn aside<T>(&self, step: impl Future<Output = Result<T, Failure>>) -> Stored<T> {
        match timeout(self.patience, step).await {
            Ok(done) => done.map_err(|failure| self.answer(&failure)),
            Err(_) => Err(StoreError::Unavailable("the database did not answer in time".into())),
        }
    }

    fn answer(&self, failure: &Failure) -> StoreError {
        self.redaction.answer(failure, migrate::wanted())
    }

    async fn read<T, F>(&self, step: impl Fn() -> F) -> Stored<T>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.begun(read(&self.pool, step)).await
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn kind(&self) -> StoreKind {
        StoreKind::Postgres
    }

    async fn ping(&self) -> Stored<()> {
        self.read(|| async {
            sqlx::query("select 1").execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    async fn schema(&self) -> Stored<SchemaVersion> {
        self.read(|| migrate::version(&self.pool)).await
    }

    async fn put_preimage(&self, upload: Upload, body: UploadBody<'_>) -> Result<Put, PutError> {
        self.outage.pass().await?;
        self.sweep_sometimes();
        upload::put(self, upload, body).await
    }

    async fn preimage(&self, hash: PreimageHash) -> Stored<Option<Preimage>> {
        let found = self.read(|| preimages::find(&self.pool, hash)).await?;
        Ok(found.map(|(preimage, _)| preimage))
    }

    async fn read_preimage(&self, hash: PreimageHash, range: Range<u64>) -> Stored<Option<(Preimage, BlobBody)>> {
        let found = self.read(|| preimages::find(&self.pool, hash)).await?;
        let Some((preimage, blob)) = found else { return Ok(None) };
        let body = if preimage.storage_class == preimages::STORAGE_CLASS {
            Some(upload::download(self, &preimage, blob, range))
        } else {
            outside::download(self, &preimage, blob, range).await?
        };
        Ok(body.map(|body| (preimage, body)))
    }

    async fn delete_preimage(&self, hash: PreimageHash, by: &By) -> Stored<Option<bool>> {
        Ok(match self.begun(again(|| upload::delete(&self.pool, hash, by))).await? {
            Deleted::NotThere => None,
            Deleted::Referenced => Some(false),
            Deleted::Gone => Some(true),
            Deleted::Leaving(blob) => {
                outside::remove(self, blob).await;
                Some(true)
            }
        })
    }

    fn upload_window(&self) -> u64 {
        self.objects.as_ref().map_or(blobs::WINDOW as u64, |_| PART as u64)
    }

    async fn blob_store(&self) -> Option<Result<(), Trouble>> {
        Some(self.objects.as_ref()?.health().await)
    }

    async fn submit(&self, new: NewPackage, engine: &Engine) -> Result<Submitted, SubmitError> {
        self.outage.pass().await?;
        let candidate = Candidate::of(new, engine).map_err(|failure| self.answer(&failure))?;
        self.writer.submit(candidate).await
    }

    async fn package(&self, id: PackageId) -> Stored<Option<WorkPackage>> {
        self.read(|| packages::find(&self.pool, id)).await
    }

    async fn place(&self, id: PackageId, archived: bool) -> Stored<Option<Place>> {
        self.read(|| packages::place(&self.pool, id, archived)).await
    }

    async fn package_receipt(&self, id: PackageId) -> Stored<Option<Receipt>> {
        Ok(self.package_receipts(&[id], false).await?.into_iter().next())
    }

    async fn package_receipts(&self, ids: &[PackageId], archived: bool) -> Stored<Vec<Receipt>> {
        let table = if archived { "archived_packages" } else { "packages" };
        self.read(|| receipts::of(&self.pool, (table, "id"), ids)).await
    }

    async fn report_receipts(&self, packages: &[PackageId], archived: bool) -> Stored<Vec<Receipt>> {
        let table = if archived { "archived_reports" } else { "reports" };
        self.read(|| receipts::of(&self.pool, (table, "package_id"), packages)).await
    }

    async fn packages(
        &self,
        filter: &PackageFilter,
        page: PageRequest<TimeCursor>,
    ) -> Stored<Page<WorkPackage, TimeCursor>> {
        self.read(|| packages::list(&self.pool, filter, page)).await
    }

    async fn pending(&self) -> Stored<u64> {
        self.read(|| packages::pending(&self.pool)).await
    }

    async fn process_visible(&self, limit: u32, visible: &Visible, engine: &Engine) -> Stored<Vec<Processed>> {
        process::process(self, limit, visible, engine).await
    }

    async fn report_of(&self, package: PackageId) -> Stored<Option<ReportBundle>> {
        self.read(|| process::report_of(self, package, false)).await
    }

    async fn dispute_of(&self, package: PackageId) -> Stored<Option<String>> {
        self.read(|| reports::dispute_of(&self.pool, package)).await
    }

    async fn reports(
        &self,
        filter: &ReportFilter,
        page: PageRequest<TimeCursor>,
    ) -> Stored<Page<WorkReport, TimeCursor>> {
        self.read(|| reports::list(&self.pool, filter, page)).await
    }

    async fn attested_reports(
        &self,
        filter: &ReportFilter,
        page: PageRequest<TimeCursor>,
    ) -> Stored<Page<(WorkReport, Vec<Attestation>), TimeCursor>> {
        self.read(|| reports::list_attested(&self.pool, filter, page)).await
    }

    async fn attest(
        &self,
        report: ReportId,
        attestation: Attestation,
        visible: &Visible,
        engine: &Engine,
    ) -> Stored<Attest> {
        self.begun(again(|| process::attest(self, report, &attestation, visible, engine))).await
    }

    async fn clean(&self, retention: &Retention, dry_run: bool, progress: &Progress) -> Result<Cleaned, CleanupError> {
        cleanup::cleanup(self, retention, dry_run, progress).await
    }

    async fn record_cleanup(&self, run: CleanupRun, by: Option<&By>) -> Stored<()> {
        self.begun(again(|| cleanups::add(&self.pool, &run, by))).await
    }

    async fn cleanups(&self) -> Stored<Option<CleanupRecord>> {
        self.read(|| cleanups::find(&self.pool)).await
    }

    async fn archived(&self, id: PackageId) -> Stored<Option<Archived>> {
        self.read(|| archive::find(&self.pool, id)).await
    }

    async fn archived_report(&self, package: PackageId) -> Stored<Option<ReportBundle>> {
        self.read(|| process::report_of(self, package, true)).await
    }

    async fn restore(&self, id: PackageId, by: &By) -> Stored<Restored> {
        self.begun(again(|| archive::restore(&self.pool, id, by))).await
    }

    async fn receipts(
        &self,
        filter: &ReceiptFilter,
        page: PageRequest<ReceiptCursor>,
    ) -> Stored<Page<Receipt, ReceiptCursor>> {
        self.read(|| receipts::list(&self.pool, filter, page.clone())).await
    }

    async fn root(&self, service: &ServiceId) -> Stored<Option<AccumulatorRoot>> {
        let only = Some([service.clone()].into());
        Ok(self.roots(&only, 1).await?.into_iter().next())
    }

    async fn roots(&self, visible: &Visible, limit: u32) -> Stored<Vec<AccumulatorRoot>> {
        self.read(|| receipts::roots(&self.pool, visible, limit)).await
    }

    async fn reach(&self) -> Stored<Reach> {
        self.read(|| events::reach(&self.pool)).await
    }

    async fn steps(&self, after: u64) -> Stored<Vec<Step>> {
        self.read(|| events::after(&self.pool, after)).await
    }

    fn connections(&self) -> Connections {
        let idle = u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX);
        Connections { used: self.pool.size().saturating_sub(idle), idle }
    }

    fn limits(&self) -> Option<Arc<dyn Limits>> {
        Some(Arc::new(self.clone()))
    }
}
