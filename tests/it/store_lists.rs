//! Laws of lists that are walked page by page while others submit, process, archive and delete.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jam_domain::page::{PAGE_BYTES, PackageFilter, PageRequest, ReceiptFilter, ReportFilter, Start};
use jam_domain::refine::{Engine, RefineFault, Refined, Refiner};
use jam_domain::{PackageId, PackageStatus, Receipt, Timestamp, WorkPackage};
use jam_store::{NewPackage, Store};
use tokio::task::JoinHandle;

use crate::store_fixture::{
    World, all_pages, engine, first, laws, noise, only, package, service, signed, verified_chain,
};
use crate::store_retention::rule_at;

laws!(
    what_is_there_throughout_comes_once_on_the_pages_of_every_list_while_others_write_and_clean_up,
    a_page_ends_where_its_bodies_reach_its_bytes_and_the_next_one_begins_there,
);

/// Packages of `kept` are processed and stay, of `idle` stay pending, of `gone` are processed, archived and deleted.
const SERVICES: [&str; 3] = ["kept", "gone", "idle"];
/// Of each service, before anybody looks.
const EACH: usize = 40;
const PAGE: u32 = 7;

/// Those who write meanwhile, and what they have done.
struct Others {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    submitted: Arc<AtomicUsize>,
    processed: Arc<AtomicUsize>,
    deleted: Arc<AtomicUsize>,
}

async fn submit_each(store: Arc<dyn Store>) -> usize {
    for name in SERVICES {
        store.submit(package(name), &engine()).await.unwrap();
    }
    SERVICES.len()
}

async fn process(store: Arc<dyn Store>, limit: u32) -> usize {
    store.process_visible(limit, &only(&["kept", "gone"]), &engine()).await.unwrap().len()
}

/// Archives and deletes at once what is processed of `gone`, and nothing else.
async fn clean_up(store: Arc<dyn Store>) -> usize {
    let in_three_days = Timestamp::now().plus_seconds(3 * 86_400);
    let rule = rule_at(1, 0, &[("kept", 0), ("idle", 0)], in_three_days);
    let cleaned = store.cleanup(&rule, false).await.unwrap();
    usize::try_from(cleaned.deleted_packages).unwrap()
}

impl Others {
    fn begin(world: &World) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let [submitted, processed, deleted]: [Arc<AtomicUsize>; 3] = Default::default();
        let mut others = Self { stop, tasks: Vec::new(), submitted, processed, deleted };
        let [submitted, processed, deleted] = [&others.submitted, &others.processed, &others.deleted].map(Arc::clone);
        for n in 0..2 {
            others.go_on(world.replica(n), &submitted, |store| submit_each(store).boxed());
            others.go_on(world.replica(n + 1), &processed, |store| process(store, 5).boxed());
        }
        others.go_on(world.replica(2), &deleted, |store| clean_up(store).boxed());
        others
    }

    /// Does it again and again, with a pause in which the lists stay short enough to be walked.
    fn go_on(
        &mut self,
        store: Arc<dyn Store>,
        count: &Arc<AtomicUsize>,
        turn: fn(Arc<dyn Store>) -> BoxFuture<'static, usize>,
    ) {
        let (stop, count) = (self.stop.clone(), Arc::clone(count));
        self.tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                count.fetch_add(turn(store.clone()).await, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }));
    }

    fn done(&self) -> [usize; 3] {
        [&self.submitted, &self.processed, &self.deleted].map(|count| count.load(Ordering::Relaxed))
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

/// What was there before: packages of `kept` and of `idle`, and every receipt.
struct There {
    kept: BTreeSet<PackageId>,
    idle: BTreeSet<PackageId>,
    receipts: BTreeSet<(String, u64)>,
    at: Timestamp,
}

async fn before(world: &World) -> There {
    let store = world.store();
    for _ in 0..EACH {
        submit_each(store.clone()).await;
    }
    while process(store.clone(), 100).await > 0 {}
    let of = async |name| {
        let filter = PackageFilter { service_id: Some(service(name)), ..PackageFilter::default() };
        let page = store.packages(&filter, first(200)).await.unwrap();
        page.items.into_iter().map(|package| package.id).collect::<BTreeSet<_>>()
    };
    let (kept, idle) = (of("kept").await, of("idle").await);
    assert_eq!((kept.len(), idle.len()), (EACH, EACH));
    let mut receipts = BTreeSet::new();
    for name in SERVICES {
        receipts.extend(verified_chain(&*store, name).await.iter().map(place));
    }
    There { kept, idle, receipts, at: Timestamp::now() }
}

fn place(receipt: &Receipt) -> (String, u64) {
    (receipt.service_id.to_string(), receipt.seq)
}

/// Everything that was there throughout is among what was found, and nothing was found twice.
fn once<T: Ord + std::fmt::Debug + Clone>(what: &str, there: &BTreeSet<T>, found: &[T]) {
    let distinct: BTreeSet<T> = found.iter().cloned().collect();
    assert_eq!(distinct.len(), found.len(), "{what}: something came twice");
    let skipped: Vec<&T> = there.difference(&distinct).collect();
    assert!(skipped.is_empty(), "{what}: {skipped:?} were there throughout and did not come");
}

async fn walk_packages(world: &World, There { kept, idle, at, .. }: &There) {
    let any = PackageFilter::default;
    let both: BTreeSet<PackageId> = kept | idle;
    for (what, filter, there) in [
        ("all", any(), &both),
        ("of kept", PackageFilter { service_id: Some(service("kept")), ..any() }, kept),
        ("applied", PackageFilter { status: Some(PackageStatus::Applied), ..any() }, kept),
        ("pending", PackageFilter { status: Some(PackageStatus::Pending), ..any() }, idle),
        ("old", PackageFilter { created_before: Some(*at), ..any() }, &both),
        ("not so old", PackageFilter { created_after: Some(at.plus_seconds(-3600)), ..any() }, &both),
        ("of two", PackageFilter { visible: only(&["kept", "gone"]), ..any() }, kept),
        (
            "pending of two",
            PackageFilter { status: Some(PackageStatus::Pending), visible: only(&["gone", "idle"]), ..any() },
            idle,
        ),
    ] {
        let replica = AtomicUsize::new(0);
        let found = all_pages(PAGE, async |page| {
            let store = world.replica(replica.fetch_add(1, Ordering::Relaxed));
            store.packages(&filter, page).await.unwrap()
        });
        once(what, there, &found.await.iter().map(|package| package.id).collect::<Vec<_>>());
    }
}

async fn walk_reports(world: &World, There { kept, .. }: &There) {
    let any = ReportFilter::default;
    for (what, filter) in [
        ("reports", any()),
        ("reports of kept", ReportFilter { service_id: Some(service("kept")), ..any() }),
        ("applied reports", ReportFilter { status: Some(PackageStatus::Applied), ..any() }),
        ("reports of two", ReportFilter { visible: only(&["kept", "gone"]), ..any() }),
    ] {
        let found = all_pages(PAGE, async |page| world.store().reports(&filter, page).await.unwrap()).await;
        once(what, kept, &found.iter().map(|report| report.package_id).collect::<Vec<_>>());
    }
}

async fn walk_receipts(world: &World, There { receipts, .. }: &There) {
    let any = ReceiptFilter::default;
    let of_kept = receipts.iter().filter(|(name, _)| name == "kept").cloned().collect();
    for (what, filter, there) in [
        ("receipts", any(), receipts),
        ("receipts of all by name", ReceiptFilter { visible: only(&SERVICES), ..any() }, receipts),
        ("newest of kept", ReceiptFilter { service_id: Some(service("kept")), ..any() }, &of_kept),
        ("the chain of kept", ReceiptFilter { service_id: Some(service("kept")), ascending: true, ..any() }, &of_kept),
    ] {
        let found = all_pages(PAGE, async |page| world.store().receipts(&filter, page).await.unwrap()).await;
        once(what, there, &found.iter().map(place).collect::<Vec<_>>());
        if filter.service_id.is_some() {
            let mut seqs: Vec<u64> = found.iter().map(|receipt| receipt.seq).collect();
            seqs.sort_unstable();
            assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "{what}: a gap in {seqs:?}");
        }
    }
}

async fn what_is_there_throughout_comes_once_on_the_pages_of_every_list_while_others_write_and_clean_up(world: World) {
    let there = before(&world).await;
    let others = Others::begin(&world);
    let (mut rounds, enough) = (0, [60, 40, EACH + 10]);
    // Until all three have done something worth while, which the first rounds may be too quick for.
    while rounds < 3 || others.done().iter().zip(enough).any(|(done, enough)| *done < enough) {
        assert!(rounds < 200, "{:?} in {rounds} rounds", others.done());
        tokio::join!(walk_packages(&world, &there), walk_reports(&world, &there), walk_receipts(&world, &there));
        rounds += 1;
    }
    others.end().await;
    let store = world.store();
    for name in SERVICES {
        verified_chain(&*store, name).await;
    }
}

/// A body that is as large as it takes with a nonce of so many bytes.
fn large(nonce: String) -> NewPackage {
    let mut new = package("s");
    new.package.nonce = nonce;
    signed(new)
}

async fn a_page_ends_where_its_bodies_reach_its_bytes_and_the_next_one_begins_there(world: World) {
    let store = world.store();
    let page_bytes = usize::try_from(PAGE_BYTES).unwrap();
    let spare = "0".repeat(page_bytes + 1);
    // Newest last: one too large, two that fill a page to the byte, two that are a byte too much, and bodies that pack well and badly.
    let own = body_length(&large(String::new()));
    let half = page_bytes / 2 - own;
    let mut nonces = vec![spare.clone()];
    nonces.extend([half, half, half, half + 1].map(|length| spare[..length].to_owned()));
    nonces.extend((0..3).map(|seed| hex::encode(noise(page_bytes / 8, seed))));
    let mut ids = Vec::new();
    for nonce in nonces {
        ids.push(store.submit(large(nonce), &engine()).await.unwrap().package.id);
    }
    ids.reverse();
    let sizes = Mutex::new(Vec::new());
    let found = all_pages(200, async |page| {
        let page = store.packages(&PackageFilter::default(), page).await.unwrap();
        sizes.lock().unwrap().push(page.items.len());
        page
    });
    assert_eq!(found.await.iter().map(|package| package.id).collect::<Vec<_>>(), ids);
    assert_eq!(*sizes.lock().unwrap(), [3, 1, 2, 1, 1]);
    let bounded = store.packages(&PackageFilter::default(), PageRequest { limit: 2, start: Start::Offset(4) }).await;
    assert_eq!(bounded.unwrap().items.iter().map(|package| package.id).collect::<Vec<_>>(), ids[4..6]);
    assert_eq!(store.process(100, &wordy(page_bytes / 3 + 1)).await.unwrap().len(), ids.len());
    let reports = store.reports(&ReportFilter::default(), first(200)).await.unwrap();
    assert_eq!((reports.items.len(), reports.next.is_some()), (2, true));
}

fn body_length(new: &NewPackage) -> usize {
    serde_json::json!({"items": new.package.items, "nonce": new.package.nonce}).to_string().len()
}

/// An engine whose reports have traces of so many bytes.
fn wordy(length: usize) -> Engine {
    struct Wordy(usize);
    impl Refiner for Wordy {
        fn refine(&self, package: &WorkPackage) -> Result<Refined, RefineFault> {
            let output_hash = package.id.to_string();
            Ok(Refined { output_hash, compact: Vec::new(), traces: Some(vec!["t".repeat(self.0)]) })
        }
    }
    Engine { refiner: Box::new(Wordy(length)), ..engine() }
}
