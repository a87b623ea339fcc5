//! Both stores answer every sequence of calls alike: random sequences, the same time on both clocks, every answer compared.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures::future::join;
use jam_domain::page::{PackageFilter, PageRequest, ReceiptFilter, ReportFilter, Start};
use jam_domain::refine::{Engine, RefineFault};
use jam_domain::{PackageId, PackageStatus, PreimageHash, Receipt, ServiceId, Timestamp};
use jam_store::{
    Attest, Clock, MemoryStore, NewPackage, PostgresConfig, PostgresStore, Put, ReportBundle, Store, SubmitError,
    Submitted, Upload,
};

use crate::store_fixture::{by, engine_that, first, only, package, sent_again, service, signed, upload, word_of};
use crate::store_retention::rule_at;
use crate::support::postgres;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.below(sides) == 0
    }
}

/// Two stores that are told the same, and what was told so far.
struct Pair {
    memory: MemoryStore,
    database: PostgresStore,
    now: Arc<AtomicI64>,
    sent: Vec<NewPackage>,
    engine: Engine,
}

const DAY: i64 = 86_400;
const SERVICES: [&str; 3] = ["a", "B", "c:1"];
const BLOBS: [&[u8]; 4] = [b"", b"one", b"two", b"three"];

impl Pair {
    async fn new() -> Self {
        let now = Arc::new(AtomicI64::new(1_700_000_000_000_000));
        let hands = Arc::clone(&now);
        let clock: Clock = Arc::new(move || Timestamp::from_micros(hands.load(Ordering::Relaxed)));
        let config = PostgresConfig::new(postgres::migrated_database().await);
        let database = PostgresStore::connect(PostgresConfig { clock: Arc::clone(&clock), ..config }).await.unwrap();
        let picky = engine_that(|package| match package.nonce.as_bytes().last() {
            Some(b'7') => Err(RefineFault("ends in seven".into())),
            _ => Ok(()),
        });
        let engine = Engine { threshold: 2, ..picky };
        Self { memory: MemoryStore::with_clock(clock), database, now, sent: Vec::new(), engine }
    }

    /// The same call on both stores.
    async fn both<T>(&self, call: impl AsyncFn(&dyn Store) -> T) -> (T, T) {
        join(call(&self.memory), call(&self.database)).await
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_micros(self.now.load(Ordering::Relaxed))
    }

    async fn step(&mut self, dice: &mut Dice) {
        self.now.fetch_add(i64::try_from(dice.below(3)).unwrap(), Ordering::Relaxed);
        match dice.below(12) {
            10 => self.cleanup(dice).await,
            11 => self.restore(dice).await,
            0 => self.put(dice).await,
            1 => self.delete(dice).await,
            2..=5 => self.submit(dice).await,
            6 | 7 => self.process(dice).await,
            8 => self.attest(dice).await,
            _ => self.look(dice).await,
        }
    }

    async fn put(&self, dice: &mut Dice) {
        let blob = BLOBS[dice.below(4)];
        let answers = self.both(async |store| {
            let upload = Upload { now: self.time(), ..upload(blob) };
            let body = futures::stream::iter([Ok(bytes::Bytes::from_static(blob))]);
            match store.put_preimage(upload, Box::pin(body)).await.unwrap() {
                Put::Created(preimage) => (true, preimage.refcount, preimage.created_at),
                Put::AlreadyThere(preimage) => (false, preimage.refcount, preimage.created_at),
            }
        });
        same("put", answers.await);
    }

    async fn delete(&self, dice: &mut Dice) {
        let hash = PreimageHash::of(BLOBS[dice.below(4)]);
        same("delete", self.both(async |store| store.delete_preimage(hash, &by(self.time())).await.unwrap()).await);
    }

    async fn submit(&mut self, dice: &mut Dice) {
        let mut new = match dice.below(5) {
            0 if !self.sent.is_empty() => sent_again(&self.sent[dice.below(self.sent.len())]),
            _ => package(SERVICES[dice.below(3)]),
        };
        if dice.one_in(3) {
            new.idempotency_key = Some(format!("k{}", dice.below(6)));
        }
        if dice.one_in(4) {
            let hashes = (0..=dice.below(3)).map(|_| PreimageHash::of(BLOBS[dice.below(4)]));
            new.package.preimage_hashes = Some(hashes.collect());
        }
        if dice.one_in(6) {
            new.id_from_client = true;
        }
        new.package.nonce = format!("{}", dice.below(40));
        new.package.created_at = self.time().plus_seconds(-DAY * i64::try_from(dice.below(5)).unwrap());
        new.pending_cap = [0, 6][dice.below(2)];
        new.service_pending_cap = [0, 0, 3][dice.below(3)];
        let new = signed(new);
        let answers = self.both(async |store| plain(store.submit(new.clone(), &self.engine).await)).await;
        same("submit", answers);
        self.sent.push(new);
    }

    async fn process(&self, dice: &mut Dice) {
        let limit = u32::try_from(dice.below(5)).unwrap();
        same("process", self.both(async |store| store.process(limit, &self.engine).await.unwrap()).await);
    }

    async fn attest(&self, dice: &mut Dice) {
        let Some(new) = self.sent.get(dice.below(self.sent.len().max(1))) else { return };
        let worker = format!("w{}", dice.below(2));
        let answers = self.both(async |store| {
            let bundle = store.report_of(new.package.id).await.unwrap()?;
            let id = bundle.report.id;
            let word = jam_domain::Attestation { created_at: self.time(), ..word_of(&worker, id, 1) };
            Some(match store.attest(id, word, &None, &self.engine).await.unwrap() {
                Attest::Recorded(bundle) => Ok(outline(&bundle)),
                Attest::Twice => Err("twice"),
                Attest::Full => Err("full"),
                Attest::NoSuchReport => Err("no such report"),
            })
        });
        same("attest", answers.await);
    }

    /// A dry run foretells the real one, and refcounts are what stored packages refer to, archived ones included.
    async fn cleanup(&self, dice: &mut Dice) {
        let days = u32::try_from(dice.below(4)).unwrap();
        let own = [("a", u32::try_from(dice.below(4)).unwrap())];
        let retention = rule_at(days, u32::try_from(dice.below(2)).unwrap(), &own, self.time());
        let answers = self.both(async |store| {
            let foretold = store.cleanup(&retention, true).await.unwrap();
            let cleaned = store.cleanup(&retention, false).await.unwrap();
            assert_eq!(foretold, cleaned, "{retention:?}");
            cleaned
        });
        same("cleanup", answers.await);
        let ids: BTreeSet<PackageId> = self.sent.iter().map(|new| new.package.id).collect();
        let counts = self.both(async |store| {
            let mut counted = BLOBS.map(|blob| (PreimageHash::of(blob), 0));
            for id in &ids {
                let archived = store.archived(*id).await.unwrap().map(|archived| archived.package);
                let Some(package) = store.package(*id).await.unwrap().or(archived) else { continue };
                for (hash, count) in &mut counted {
                    *count += u64::from(package.preimage_hashes.iter().flatten().any(|other| other == hash));
                }
            }
            for (hash, count) in counted {
                let stored = store.preimage(hash).await.unwrap().map_or(0, |preimage| preimage.refcount);
                assert_eq!(stored, count, "the refcount of {hash}");
            }
        });
        counts.await;
    }

    async fn restore(&self, dice: &mut Dice) {
        let Some(new) = self.sent.get(dice.below(self.sent.len().max(1))) else { return };
        let (id, now) = (new.package.id, self.time());
        same("archived", self.both(async |store| store.archived(id).await.unwrap()).await);
        same("restore", self.both(async |store| store.restore(id, &by(now)).await.unwrap()).await);
    }

    async fn look(&self, dice: &mut Dice) {
        let status = [None, Some(PackageStatus::Pending), Some(PackageStatus::Applied)][dice.below(3)];
        let service_id = dice.one_in(2).then(|| service(SERVICES[dice.below(3)]));
        let visible = if dice.one_in(3) { only(&SERVICES[..dice.below(3)]) } else { None };
        let archived = dice.one_in(3);
        let filter = PackageFilter { service_id, status, visible, archived, ..PackageFilter::default() };
        let limit = u32::try_from(1 + dice.below(4)).unwrap();
        let offset = u64::try_from(dice.below(3)).unwrap();
        let pages = self.both(async |store| {
            let page = PageRequest { limit, start: Start::Offset(offset) };
            let one = store.packages(&filter, page).await.unwrap();
            let Some(next) = one.next else { return vec![one] };
            let two = store.packages(&filter, PageRequest { limit, start: Start::After(next) }).await.unwrap();
            vec![one, two]
        });
        same("packages", pages.await);
        let receipts = ReceiptFilter { ascending: dice.one_in(2), ..receipts_of(&filter) };
        let listed = async |store: &dyn Store| {
            let page = store.receipts(&receipts, PageRequest { limit, start: Start::Offset(offset) }).await.unwrap();
            let link = |receipt: &Receipt| (receipt.service_id.clone(), receipt.seq, receipt.hash.clone());
            (page.items.iter().map(link).collect::<Vec<_>>(), page.next)
        };
        same("receipts", self.both(listed).await);
    }

    /// Everything that can be asked about what was sent.
    async fn compare_all(&self) {
        let hashes = BLOBS.map(PreimageHash::of);
        for hash in hashes {
            let counts = self.both(async |store| store.preimage(hash).await.unwrap().map(|preimage| preimage.refcount));
            same("refcount", counts.await);
        }
        for new in &self.sent {
            let id = new.package.id;
            let answers = self.both(async |store| {
                let package = store.package(id).await.unwrap();
                let bundle = store.report_of(id).await.unwrap();
                let receipt = store.package_receipt(id).await.unwrap().map(|receipt| receipt.seq);
                let archived = (store.archived(id).await.unwrap(), store.archived_report(id).await.unwrap());
                let archived = (archived.0, archived.1.as_ref().map(outline));
                (package, archived, bundle.as_ref().map(outline), receipt, store.dispute_of(id).await.unwrap())
            });
            same("everything", answers.await);
        }
        let heads = self.both(async |store| {
            let roots = store.roots(&None, 10).await.unwrap();
            roots.into_iter().map(|root| (root.service_id, root.seq, root.updated_at)).collect::<Vec<_>>()
        });
        same("heads", heads.await);
        same("pending", self.both(async |store| store.pending().await.unwrap()).await);
        let reported = self.both(async |store| {
            let reports = store.reports(&ReportFilter::default(), first(200)).await.unwrap().items;
            let mut ids: Vec<PackageId> = reports.into_iter().map(|report| report.package_id).collect();
            ids.sort_unstable();
            ids
        });
        same("reports", reported.await);
        let told = self.both(async |store| {
            let mut lines = store.audit(first(200)).await.unwrap().items;
            // Each store names itself in the record of a preimage.
            for line in &mut lines {
                line.before["storage_class"] = "".into();
            }
            lines
        });
        let told = told.await;
        assert!(!told.0.is_empty());
        same("audit", told);
    }
}

fn same<T: PartialEq + std::fmt::Debug>(call: &str, (memory, database): (T, T)) {
    assert_eq!(memory, database, "{call}: memory left, database right");
}

fn receipts_of(filter: &PackageFilter) -> ReceiptFilter {
    ReceiptFilter {
        service_id: filter.service_id.clone(),
        visible: filter.visible.clone(),
        hash: None,
        ascending: false,
    }
}

/// An answer without the roots: reports have ids of their own in each store, and roots follow from them.
type Plain = Result<(PackageId, PackageStatus, Option<(ServiceId, u64)>, bool), SubmitError>;

fn plain(answer: Result<Submitted, SubmitError>) -> Plain {
    let Submitted { package, receipt, replayed } = answer?;
    Ok((package.id, package.status, receipt.map(|receipt| (receipt.service_id, receipt.seq)), replayed))
}

fn outline(bundle: &ReportBundle) -> (PackageStatus, String, Vec<String>, Option<(u64, Timestamp)>) {
    let ReportBundle { report, attestations, receipt } = bundle;
    let workers = attestations.iter().map(|attestation| attestation.worker_id.clone()).collect();
    let link = receipt.as_ref().map(|receipt| (receipt.seq, receipt.processed_at));
    (report.status, report.refine_output_hash.clone(), workers, link)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_stores_answer_random_sequences_of_calls_alike() {
    for seed in 1..=4_u64 {
        let mut pair = Pair::new().await;
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for _ in 0..150 {
            pair.step(&mut dice).await;
        }
        pair.compare_all().await;
    }
}
