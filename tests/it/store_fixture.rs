//! One suite of laws for both stores, and for both places of blobs outside of the database: the worlds in which each law is tried, and packages and engines as sentences.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use jam_domain::digest::HashAlgorithm;
use jam_domain::page::{Page, PageRequest, ReceiptFilter, Start, Visible};
use jam_domain::receipt::{Chain, verify_next};
use jam_domain::refine::{Engine, RefineFault, Refined, Refiner, content_of};
use jam_domain::{
    Attestation, By, ItemId, PackageId, PackageStatus, PreimageHash, Receipt, ReportId, ServiceId, Timestamp, TokenId,
    WorkItem, WorkPackage, canonical,
};
use jam_store::{MemoryStore, NewPackage, PostgresConfig, PostgresStore, Put, Store, Upload};

use crate::support::objects::Place;
use crate::support::postgres;

/// The hash of receipts in these tests.
pub const ALGORITHM: HashAlgorithm = HashAlgorithm::Blake3;

/// A store as several replicas of a server see it.
pub struct World {
    replicas: Vec<Arc<dyn Store>>,
    /// The database, when there is one.
    pub dsn: Option<String>,
    /// Where the bytes of preimages are, when not in the store.
    pub place: Option<Place>,
}

impl World {
    pub fn memory() -> Self {
        Self { replicas: vec![Arc::new(MemoryStore::new())], dsn: None, place: None }
    }

    pub async fn postgres() -> Self {
        Self::on_postgres(None).await
    }

    pub async fn with_files() -> Self {
        Self::on_postgres(Some(Place::files())).await
    }

    pub async fn with_bucket() -> Self {
        Self::on_postgres(Some(Place::bucket().await)).await
    }

    async fn on_postgres(place: Option<Place>) -> Self {
        let dsn = postgres::migrated_database().await;
        let mut replicas: Vec<Arc<dyn Store>> = Vec::new();
        // The laws say what comes of calls at once, however long they wait for each other on a busy machine.
        let (acquire_timeout, statement_timeout) = (Duration::from_mins(1), Duration::from_mins(1));
        for _ in 0..3 {
            let objects = place.as_ref().map(Place::open);
            let config = PostgresConfig { acquire_timeout, statement_timeout, objects, ..PostgresConfig::new(&dsn) };
            replicas.push(Arc::new(PostgresStore::connect(config).await.unwrap()));
        }
        Self { replicas, dsn: Some(dsn), place }
    }

    /// The first replica's store.
    pub fn store(&self) -> Arc<dyn Store> {
        self.replica(0)
    }

    /// The store of the n-th replica, round and round.
    pub fn replica(&self, n: usize) -> Arc<dyn Store> {
        Arc::clone(&self.replicas[n % self.replicas.len()])
    }
}

/// Tries each law on both stores.
macro_rules! laws {
    ($($law:ident),* $(,)?) => {
        mod on_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $law() {
                super::$law(crate::store_fixture::World::memory()).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $law() {
                super::$law(crate::store_fixture::World::postgres().await).await;
            })*
        }
    };
}
pub(crate) use laws;

/// Tries each law about blobs on both stores, and with the bytes in files and in a bucket.
macro_rules! blob_laws {
    ($($law:ident),* $(,)?) => {
        crate::store_fixture::laws!($($law),*);
        mod on_postgres_and_files {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $law() {
                super::$law(crate::store_fixture::World::with_files().await).await;
            })*
        }
        mod on_postgres_and_a_bucket {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $law() {
                super::$law(crate::store_fixture::World::with_bucket().await).await;
            })*
        }
    };
}
pub(crate) use blob_laws;

/// The built-in engine with receipts and a threshold of 1.
pub fn engine() -> Engine {
    Engine::hash_refiner(ALGORITHM, 1, true)
}

/// An engine whose refiner does what the test says.
pub fn engine_that<F>(refine: F) -> Engine
where
    F: Fn(&WorkPackage) -> Result<(), RefineFault> + Send + Sync + 'static,
{
    struct Told<F>(F);
    impl<F: Fn(&WorkPackage) -> Result<(), RefineFault> + Send + Sync> Refiner for Told<F> {
        fn refine(&self, package: &WorkPackage) -> Result<Refined, RefineFault> {
            (self.0)(package)?;
            let hash = ALGORITHM.hash(&canonical::bytes(&content_of(package)));
            Ok(Refined { output_hash: hex::encode(hash), compact: hash.to_vec(), traces: Some(vec!["told".into()]) })
        }
    }
    Engine { refiner: Box::new(Told(refine)), ..engine() }
}

pub fn service(name: &str) -> ServiceId {
    name.parse().unwrap()
}

/// An administrator at this moment.
pub fn by(at: Timestamp) -> By {
    By { token_id: "ad31c0de".parse().unwrap(), at }
}

/// An engine that says of each package when it has begun, and then does nothing at all until it is told to go on; when nobody is left
/// who could tell it, it goes on with all of them.
pub fn frozen() -> (Engine, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (begun, heard) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let engine = engine_that(move |_| {
        let _ = begun.send(());
        // The runtime goes on without this thread.
        let _ = tokio::task::block_in_place(|| gone.lock().unwrap().recv());
        Ok(())
    });
    (engine, heard, go)
}

/// A new package of one item for the service, with a nonce of its own.
pub fn package(name: &str) -> NewPackage {
    let id = PackageId::new();
    let package = WorkPackage {
        id,
        service_id: service(name),
        items: vec![item(id)],
        created_by: "0badcafe".parse::<TokenId>().unwrap(),
        nonce: id.to_string(),
        expiry: None,
        signature: None,
        preimage_hashes: None,
        status: PackageStatus::Pending,
        created_at: Timestamp::now(),
    };
    signed(NewPackage {
        package,
        fingerprint: [0; 32],
        id_from_client: false,
        idempotency_key: None,
        pending_cap: 0,
        service_pending_cap: 0,
    })
}

pub fn item(package_id: PackageId) -> WorkItem {
    WorkItem {
        id: ItemId::new(),
        package_id,
        kind: "transfer".into(),
        params_hash: "00ff".into(),
        preimage_hashes: None,
        max_fee: None,
        memo: None,
    }
}

/// The same submission with the fingerprint of its content.
pub fn signed(mut new: NewPackage) -> NewPackage {
    new.fingerprint = PreimageHash::of(&canonical::bytes(&content_of(&new.package))).0;
    new
}

/// The same package sent once more: the server makes other ids and another time.
pub fn sent_again(new: &NewPackage) -> NewPackage {
    let mut again = new.clone();
    if !new.id_from_client {
        again.package.id = PackageId::new();
    }
    again.package.created_at = Timestamp::now();
    for item in &mut again.package.items {
        item.id = ItemId::new();
        item.package_id = again.package.id;
    }
    again
}

/// Stores a blob that comes in pieces of this size.
pub async fn put(store: &dyn Store, bytes: &[u8], piece: usize) -> Put {
    let pieces: Vec<_> = bytes.chunks(piece.max(1)).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    store.put_preimage(upload(bytes), stream::iter(pieces).boxed()).await.unwrap()
}

pub fn upload(bytes: &[u8]) -> Upload {
    Upload {
        hash: PreimageHash::of(bytes),
        size_hint: None,
        media_type: "text/plain".into(),
        uploader: TokenId::anonymous(),
        now: Timestamp::now(),
    }
}

/// The stored bytes in the range.
pub async fn bytes_of(store: &dyn Store, hash: PreimageHash, range: std::ops::Range<u64>) -> Vec<u8> {
    let (_, body) = store.read_preimage(hash, range).await.unwrap().expect("the blob is stored");
    body.try_collect::<Vec<Bytes>>().await.unwrap().concat()
}

/// Bytes without a pattern that a compressor would find.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// One more worker's word.
pub fn word_of(worker: &str, report_id: ReportId, weight: u32) -> Attestation {
    Attestation {
        report_id,
        worker_id: worker.into(),
        signature: "c2ln".into(),
        weight,
        created_at: Timestamp::now(),
        engine: "test".into(),
        engine_version: "1".into(),
    }
}

pub fn first<C>(limit: u32) -> PageRequest<C> {
    PageRequest { limit, start: Start::Offset(0) }
}

/// Every page of a list, by cursor.
pub async fn all_pages<T, C>(limit: u32, turn: impl AsyncFn(PageRequest<C>) -> Page<T, C>) -> Vec<T> {
    let (mut items, mut start) = (Vec::new(), Start::Offset(0));
    loop {
        let page = turn(PageRequest { limit, start }).await;
        assert!(page.items.len() <= limit as usize);
        items.extend(page.items);
        match page.next {
            Some(next) => start = Start::After(next),
            None => return items,
        }
    }
}

/// The whole chain of a service, verified from its stored values alone, and against the head.
pub async fn verified_chain(store: &dyn Store, name: &str) -> Vec<Receipt> {
    let filter = ReceiptFilter { service_id: Some(service(name)), ascending: true, ..ReceiptFilter::default() };
    let receipts = all_pages(37, async |page| store.receipts(&filter, page).await.unwrap()).await;
    let mut chain = Chain::empty(service(name));
    for receipt in &receipts {
        verify_next(ALGORITHM, &mut chain, receipt).unwrap();
    }
    let head = store.root(&service(name)).await.unwrap();
    assert_eq!(head.as_ref().map(|head| (head.seq, head.root.as_str())), head_of(&receipts));
    receipts
}

fn head_of(receipts: &[Receipt]) -> Option<(u64, &str)> {
    receipts.last().map(|last| (last.seq, last.new_root.as_str()))
}

/// Only these services.
#[allow(clippy::unnecessary_wraps)] // a filter takes it so
pub fn only(names: &[&str]) -> Visible {
    Some(names.iter().map(|name| service(name)).collect())
}
