//! The memory of the JAM API: one trait, two stores, and a place for blobs outside of them. The only place with SQL.

mod admin;
mod bodies;
mod limits;
pub mod memory;
mod objects;
pub mod postgres;
mod progress;
mod work;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jam_domain::event::{Reach, Step};
use jam_domain::page::{
    PackageFilter, Page, PageRequest, ReceiptCursor, ReceiptFilter, ReportFilter, TimeCursor, Visible,
};
use jam_domain::refine::Engine;
use jam_domain::retention::{Cleaned, CleanupRecord, CleanupRun, Retention};
use jam_domain::{
    AccumulatorRoot, Attestation, By, PackageId, Preimage, PreimageHash, Receipt, Refusal, ReportId, ServiceId,
    StoreKind, Timestamp, TokenId, WorkPackage, WorkReport,
};

pub use admin::{Administration, Dispute, Dissent, Place, Resolved};
pub use limits::{Limits, Reset, SharedBucket};
pub use memory::MemoryStore;
pub use objects::{Objects, Trouble};
pub use postgres::{PostgresConfig, PostgresStore, migrate};
pub use progress::Progress;
pub use work::{Clock, machine_clock};

/// The last cause: what stands around it only repeats where it happened.
fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

/// A blob on its way in.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The hash that the client announced; the body stream ends with a refusal when the bytes hash to another.
    pub hash: PreimageHash,
    /// Content-Length, when the client sent one.
    pub size_hint: Option<u64>,
    /// Content-Type.
    pub media_type: String,
    /// The token that uploads.
    pub uploader: TokenId,
    /// Now.
    pub now: Timestamp,
}

/// The bytes of an upload. A refusal in it (wrong hash, too large, client gone) leaves nothing behind in the store.
pub type UploadBody<'a> = BoxStream<'a, Result<Bytes, Refusal>>;

/// The bytes of a stored blob, in order, in bounded chunks.
pub type BlobBody = BoxStream<'static, Result<Bytes, StoreError>>;

/// What became of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// It is new.
    Created(Preimage),
    /// It was there; nothing was rewritten.
    AlreadyThere(Preimage),
}

/// A validated package with what decides about its acceptance.
#[derive(Debug, Clone)]
pub struct NewPackage {
    /// The package as it will be stored, status `pending`.
    pub package: WorkPackage,
    /// SHA-256 of the canonical JSON of what the client sent, without its `id`: equal bodies have equal fingerprints.
    pub fingerprint: [u8; 32],
    /// Whether the client chose the id (then the id makes the submission idempotent).
    pub id_from_client: bool,
    /// The client's Idempotency-Key, scoped to the token in `package.created_by`.
    pub idempotency_key: Option<String>,
    /// The instance's cap on pending packages, 0 = none.
    pub pending_cap: u32,
    /// The service's own cap on pending packages, 0 = none.
    pub service_pending_cap: u32,
}

/// An accepted submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// The stored package.
    pub package: WorkPackage,
    /// Its receipt, when receipts are kept.
    pub receipt: Option<Receipt>,
    /// It was there already: same id or key, equal body.
    pub replayed: bool,
}

/// Why a submission is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// So many packages are pending already.
    #[error("{cap} packages are pending")]
    PendingLimit {
        /// The cap that is reached.
        cap: u32,
        /// Of this service, or of the instance.
        service: Option<ServiceId>,
    },
    /// The id or the key was used with another body.
    #[error("{what} was used for a different package")]
    Conflict {
        /// `id` or `Idempotency-Key`.
        what: &'static str,
    },
    /// A package that is new and whose expiry has passed.
    #[error("the package expired at {0}")]
    Expired(Timestamp),
    /// A preimage that is not stored.
    #[error("preimage {hash} is not stored")]
    UnknownPreimage {
        /// The preimage.
        hash: PreimageHash,
        /// The field that names it first.
        field: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A report with everything said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportBundle {
    /// The report.
    pub report: WorkReport,
    /// Every worker's word, oldest first.
    pub attestations: Vec<Attestation>,
    /// The report's receipt, once accumulated and when receipts are kept.
    pub receipt: Option<Receipt>,
}

/// One package that a call of [`Store::process`] finished or failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processed {
    /// The package.
    pub package_id: PackageId,
    /// Its service.
    pub service_id: ServiceId,
    /// The refiner's clause, when it is now disputed.
    pub fault: Option<String>,
    /// Whether the report was accumulated (false: it waits for attestations).
    pub applied: bool,
}

/// What a further attestation did.
#[allow(clippy::large_enum_variant)] // one value for one request; a box would only add a step for the reader
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attest {
    /// It counts; the report's state after it.
    Recorded(ReportBundle),
    /// The same worker attested this report before.
    Twice,
    /// It has [`jam_domain::word::MAX_WORDS`] already.
    Full,
    /// There is no such report, or the caller may not see it.
    NoSuchReport,
}

/// A package that is out of every list and count, with its report, until it is restored or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// The package.
    pub package: WorkPackage,
    /// When it was archived.
    pub archived_at: Timestamp,
}

/// What became of a wish to restore a package.
#[allow(clippy::large_enum_variant)] // one value for one request; a box would only add a step for the reader
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// It is back, with its report.
    Back(WorkPackage),
    /// Another package has its id or its Idempotency-Key now.
    Taken,
    /// It is not archived.
    NotArchived,
}

/// Why a cleanup did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CleanupError {
    /// One at a time; nothing was done.
    #[error("another cleanup is running")]
    Busy,
    /// The store failed half way. What was done stays done; the next run goes on from there.
    #[error("{error}")]
    Failed {
        /// Why.
        error: StoreError,
        /// What was done before.
        cleaned: Cleaned,
    },
}

/// The state of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaVersion {
    /// The version that is there; `None` when the database has no schema of ours.
    pub found: Option<i64>,
    /// The version that this build needs.
    pub wanted: i64,
    /// Of a later version: the version of the oldest build that it says it serves.
    pub oldest: Option<i64>,
    /// Nothing of ours is there, and tables or views of another program are: a migration would be refused.
    pub foreign: bool,
}

impl SchemaVersion {
    /// Whether this build can work on it: it is exactly what the build needs, or says itself that it still is.
    pub fn serves(self) -> bool {
        let Self { found, wanted, oldest, foreign: _ } = self;
        let still = |found| found > wanted && oldest.is_some_and(|oldest| oldest <= wanted);
        found.is_some_and(|found| found == wanted || still(found))
    }
}

/// The connections of a store to its database; none where there is no database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connections {
    /// At work.
    pub used: u32,
    /// Open, and waiting for work.
    pub idle: u32,
}

/// Why a store did not answer. Nothing of it goes to clients; it is logged once, with its source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store can't be reached, or did not answer in time: try again later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// It was told to end before it was done, with how far that went.
    #[error("{0}")]
    Stopped(String),
    /// The schema is not the one this build needs.
    #[error("the database schema is at version {found:?}, this build needs {wanted}: run `jam-api migrate`")]
    Schema {
        /// The version that is there.
        found: Option<i64>,
        /// The version that is needed.
        wanted: i64,
    },
    /// A fault of ours: a statement or a stored value that can't be.
    #[error("the store failed: {0}")]
    Fault(String),
    /// A fault of the item with which a page would begin: the list goes on behind it.
    #[error("the store failed: {0}")]
    Unread(String, TimeCursor),
}

/// Why an upload is not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// The body ended with a refusal.
    #[error(transparent)]
    Refused(Refusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The answer of a store.
pub type Stored<T> = Result<T, StoreError>;

/// What the API keeps. Both stores give the guarantees of spec/api.md §4; memory gives 2 to 5 within one process.
#[async_trait]
pub trait Store: Administration + Send + Sync + 'static {
    /// Which store this is.
    fn kind(&self) -> StoreKind;
    /// The connections that are open now; asks nobody.
    fn connections(&self) -> Connections;
    /// Asks for a sign of life.
    async fn ping(&self) -> Stored<()>;
    /// Compares the schema with what this build needs.
    async fn schema(&self) -> Stored<SchemaVersion>;

    /// Stores a blob, streaming; reads the body to its end even when the blob is there already (so that its hash is proven).
    async fn put_preimage(&self, upload: Upload, body: UploadBody<'_>) -> Result<Put, PutError>;
    /// A blob's record.
    async fn preimage(&self, hash: PreimageHash) -> Stored<Option<Preimage>>;
    /// A blob's record and its bytes from `range.start` up to, not including, `range.end` (clamped to the size).
    async fn read_preimage(
        &self,
        hash: PreimageHash,
        range: std::ops::Range<u64>,
    ) -> Stored<Option<(Preimage, BlobBody)>>;
    /// Removes a blob nobody refers to, and writes the audit: `Some(true)` removed, `Some(false)` referenced, `None` not there.
    async fn delete_preimage(&self, hash: PreimageHash, by: &By) -> Stored<Option<bool>>;
    /// Bytes of one upload that are held in memory at most, where it is not held whole.
    fn upload_window(&self) -> u64 {
        1 << 20
    }
    /// Whether the blob store serves us, as far as was known a moment ago; `None` where the store keeps the bytes itself.
    async fn blob_store(&self) -> Option<Result<(), Trouble>> {
        None
    }

    /// Accepts a package: caps, idempotency, preimages, refcounts and the receipt in one transaction.
    async fn submit(&self, new: NewPackage, engine: &Engine) -> Result<Submitted, SubmitError>;
    /// A package.
    async fn package(&self, id: PackageId) -> Stored<Option<WorkPackage>>;
    /// Where a package stands, or an archived one; its body is not read.
    async fn place(&self, id: PackageId, archived: bool) -> Stored<Option<Place>>;
    /// A package's own receipt.
    async fn package_receipt(&self, id: PackageId) -> Stored<Option<Receipt>>;
    /// Receipts of these packages, or of these archived ones, for lists with `include_receipt`.
    async fn package_receipts(&self, ids: &[PackageId], archived: bool) -> Stored<Vec<Receipt>>;
    /// Receipts of the reports of these packages, or of these archived ones; none for a report that is not accumulated.
    async fn report_receipts(&self, packages: &[PackageId], archived: bool) -> Stored<Vec<Receipt>>;
    /// Packages, newest first.
    async fn packages(
        &self,
        filter: &PackageFilter,
        page: PageRequest<TimeCursor>,
    ) -> Stored<Page<WorkPackage, TimeCursor>>;
    /// Pending packages now, for the gauge and the logs; may be a few milliseconds old.
    async fn pending(&self) -> Stored<u64>;

    /// Processes up to `limit` pending packages, oldest first, each exactly once whatever the number of callers:
    /// claim, refine and attest (no chain is held), then report, attestations, receipt and status in one transaction.
    async fn process(&self, limit: u32, engine: &Engine) -> Stored<Vec<Processed>> {
        self.process_visible(limit, &None, engine).await
    }
    /// The same for the packages of the services that the caller may see.
    async fn process_visible(&self, limit: u32, visible: &Visible, engine: &Engine) -> Stored<Vec<Processed>>;
    /// The report of a package.
    async fn report_of(&self, package: PackageId) -> Stored<Option<ReportBundle>>;
    /// Why a package is disputed.
    async fn dispute_of(&self, package: PackageId) -> Stored<Option<String>>;
    /// Reports, newest first.
    async fn reports(
        &self,
        filter: &ReportFilter,
        page: PageRequest<TimeCursor>,
    ) -> Stored<Page<WorkReport, TimeCursor>>;
    /// The same with every worker's word for each of them, oldest first: a page ends where bodies and words reach its bytes.
    async fn attested_reports(
        &self,
        filter: &ReportFilter,
        page: PageRequest<TimeCursor>,
    ) -> Stored<Page<(WorkReport, Vec<Attestation>), TimeCursor>>;
    /// Records a further attestation and accumulates when the threshold is reached, in one transaction.
    async fn attest(
        &self,
        report: ReportId,
        attestation: Attestation,
        visible: &Visible,
        engine: &Engine,
    ) -> Stored<Attest>;

    /// Archives and deletes what the rule says, in bounded batches beside everybody else's work, one run at a time. A dry
    /// run changes nothing and counts what a run at this moment would do.
    async fn cleanup(&self, retention: &Retention, dry_run: bool) -> Result<Cleaned, CleanupError> {
        self.clean(retention, dry_run, &Progress::default()).await
    }
    /// The same, for one who asks how far it is or ends it early.
    async fn clean(&self, retention: &Retention, dry_run: bool, progress: &Progress) -> Result<Cleaned, CleanupError>;
    /// Remembers a cleanup that ended; in the audit, too, when an administrator asked for it.
    async fn record_cleanup(&self, run: CleanupRun, by: Option<&By>) -> Stored<()>;
    /// What is remembered of cleanups; `None` when there was none yet.
    async fn cleanups(&self) -> Stored<Option<CleanupRecord>>;
    /// An archived package.
    async fn archived(&self, id: PackageId) -> Stored<Option<Archived>>;
    /// The report of an archived package.
    async fn archived_report(&self, package: PackageId) -> Stored<Option<ReportBundle>>;
    /// Brings an archived package back with its report, to be kept for another retention period from now.
    async fn restore(&self, id: PackageId, by: &By) -> Stored<Restored>;

    /// Receipts: of a service by seq, else newest first.
    async fn receipts(
        &self,
        filter: &ReceiptFilter,
        page: PageRequest<ReceiptCursor>,
    ) -> Stored<Page<Receipt, ReceiptCursor>>;
    /// The head of a service's chain.
    async fn root(&self, service: &ServiceId) -> Stored<Option<AccumulatorRoot>>;
    /// The heads of the first chains, sorted by service.
    async fn roots(&self, visible: &Visible, limit: u32) -> Stored<Vec<AccumulatorRoot>>;

    /// How far the events reach that can be read now.
    async fn reach(&self) -> Stored<Reach>;
    /// The next steps after this one, in order; what a caller read is whole, and nothing ever appears behind it.
    async fn steps(&self, after: u64) -> Stored<Vec<Step>>;

    /// The rate limit that is shared with other processes; `None` where there can be no others.
    fn limits(&self) -> Option<Arc<dyn Limits>>;
}
