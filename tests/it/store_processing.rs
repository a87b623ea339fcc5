//! Laws of processing, attesting and receipts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use futures::future::join_all;
use jam_domain::page::{PackageFilter, ReceiptCursor, ReceiptFilter, ReportFilter};
use jam_domain::refine::{Engine, RefineFault};
use jam_domain::{EntryType, PackageId, PackageStatus, Receipt, ReportId, Timestamp};
use jam_store::{Attest, NewPackage, Store, StoreError};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, query_scalar};

use crate::api_support::until;
use crate::store_fixture::{
    ALGORITHM, World, all_pages, engine, engine_that, first, frozen, laws, only, package, sent_again, service, signed,
    verified_chain, word_of,
};
use crate::support::postgres;

laws!(
    sixteen_processors_give_each_package_one_report_and_one_receipt,
    submitting_and_processing_at_once_keeps_every_chain_whole,
    the_oldest_package_is_processed_first,
    a_processor_that_goes_away_leaves_its_packages_pending,
    a_failing_refiner_disputes_the_package_with_its_reason,
    a_threshold_above_one_waits_for_further_attestations,
    attestations_at_once_accumulate_once,
    a_worker_attests_a_report_once_and_only_where_the_caller_may_see_it,
    equal_content_refined_twice_gives_two_receipts_with_one_hash,
    receipts_page_by_seq_and_by_time,
    reports_page_and_filter_as_packages_do,
);

async fn submit_all(world: &World, news: Vec<NewPackage>) -> Vec<PackageId> {
    let tasks = news.into_iter().enumerate().map(|(n, new)| {
        let store = world.replica(n);
        tokio::spawn(async move { store.submit(new, &engine()).await.unwrap().package.id })
    });
    join_all(tasks).await.into_iter().map(Result::unwrap).collect()
}

async fn submit_one(store: &dyn Store, name: &str) -> PackageId {
    store.submit(package(name), &engine()).await.unwrap().package.id
}

/// Processes until nothing is pending, as one of several processors.
async fn drain(store: Arc<dyn Store>, batch: u32) -> usize {
    let mut count = 0;
    loop {
        let processed = store.process(batch, &engine()).await.unwrap();
        count += processed.len();
        if processed.is_empty() && store.pending().await.unwrap() == 0 {
            return count;
        }
        tokio::task::yield_now().await;
    }
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

async fn sixteen_processors_give_each_package_one_report_and_one_receipt(world: World) {
    let ids = submit_all(&world, (0..200).map(|n| package(NAMES[n % 5])).collect()).await;
    let drains = (0..16).map(|n| tokio::spawn(drain(world.replica(n), [1, 3, 10, 50][n % 4])));
    let counts: Vec<usize> = join_all(drains).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(counts.iter().sum::<usize>(), 200);
    audit(&*world.store(), &ids).await;
}

/// Every package applied with one report, one attestation and one receipt of it in its service's chain.
async fn audit(store: &dyn Store, ids: &[PackageId]) {
    let filter = ReportFilter::default();
    let reports = all_pages(50, async |page| store.reports(&filter, page).await.unwrap()).await;
    let reported: BTreeSet<PackageId> = reports.iter().map(|report| report.package_id).collect();
    assert_eq!((reports.len(), reported), (ids.len(), ids.iter().copied().collect()));
    let mut receipted: BTreeMap<String, usize> = BTreeMap::new();
    for name in NAMES {
        for receipt in verified_chain(store, name).await {
            let said = receipt.extra.as_ref().and_then(|extra| extra["package_id"].as_str()).map(str::to_owned);
            *receipted.entry(said.unwrap_or(receipt.hash)).or_default() += 1;
        }
    }
    for id in ids {
        let bundle = store.report_of(*id).await.unwrap().unwrap();
        assert_eq!(store.package(*id).await.unwrap().unwrap().status, PackageStatus::Applied);
        assert_eq!((bundle.report.status, bundle.attestations.len()), (PackageStatus::Applied, 1));
        assert_eq!(bundle.receipt.unwrap().entry_type, EntryType::Report);
        assert_eq!(receipted.get(&id.to_string()), Some(&2), "one receipt for the package, one for its report");
    }
}

async fn submitting_and_processing_at_once_keeps_every_chain_whole(world: World) {
    let submitters = (0..8).map(|n| {
        let store = world.replica(n);
        tokio::spawn(async move {
            let mut ids = Vec::new();
            for m in 0..15 {
                ids.push(submit_one(&*store, NAMES[(n + m) % 5]).await);
            }
            ids
        })
    });
    let processors: Vec<_> = (0..6)
        .map(|n| {
            let store = world.replica(n);
            tokio::spawn(async move {
                for _ in 0..30 {
                    store.process(7, &engine()).await.unwrap();
                }
            })
        })
        .collect();
    let ids: Vec<PackageId> = join_all(submitters).await.into_iter().flat_map(Result::unwrap).collect();
    for processor in processors {
        processor.await.unwrap();
    }
    drain(world.store(), 100).await;
    audit(&*world.store(), &ids).await;
}

async fn the_oldest_package_is_processed_first(world: World) {
    let store = world.store();
    let start = Timestamp::now();
    let mut ids = Vec::new();
    for n in [3, 1, 2, 0] {
        let mut new = package("s");
        new.package.created_at = start.plus_seconds(n);
        ids.push(store.submit(new, &engine()).await.unwrap().package.id);
    }
    let mut order = Vec::new();
    for limit in [1, 2, 5] {
        order.extend(store.process(limit, &engine()).await.unwrap().into_iter().map(|processed| processed.package_id));
    }
    assert_eq!(order, [ids[3], ids[1], ids[2], ids[0]]);
    assert!(store.process(1, &engine()).await.unwrap().is_empty());
    assert!(store.process(0, &engine()).await.unwrap().is_empty());
}

async fn a_processor_that_goes_away_leaves_its_packages_pending(world: World) {
    let ids = submit_all(&world, (0..6).map(|_| package("a")).collect()).await;
    let store = world.replica(1);
    let (frozen, heard, go) = frozen();
    let batch = tokio::spawn(async move { store.process(6, &frozen).await });
    until("the batch", async || heard.try_recv().ok()).await;
    // While it lives, nobody else gets its packages.
    assert!(world.store().process(10, &engine()).await.unwrap().is_empty());
    batch.abort();
    drop(go);
    assert!(batch.await.unwrap_err().is_cancelled());
    assert_eq!(world.store().pending().await.unwrap(), 6);
    assert_eq!(world.store().reports(&ReportFilter::default(), first(10)).await.unwrap().items, []);
    tokio::time::timeout(Duration::from_secs(20), drain(world.store(), 10)).await.unwrap();
    audit(&*world.store(), &ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_packages_are_processed_in_batches_bounded_in_bytes_and_all_of_them_in_one_call() {
    let world = World::postgres().await;
    let large = |_| {
        let mut new = package("a");
        new.package.nonce = "n".repeat(1_000_000);
        signed(new)
    };
    let mut ids = Vec::new();
    for n in 0..9 {
        ids.push(world.store().submit(large(n), &engine()).await.unwrap().package.id);
    }
    let (store, other, begun) = (world.replica(1), world.replica(2), Arc::new(Barrier::new(2)));
    let (at_work, first) = (Arc::clone(&begun), ids[0]);
    let waits = engine_that(move |package| {
        // Twice: when the first batch is claimed, and when the other one has had its turn. A worker that only waited would
        // take the runtime's ear for the network with it.
        for _ in (0..2).filter(|_| package.id == first) {
            tokio::task::block_in_place(|| at_work.wait());
        }
        Ok(())
    });
    let all = tokio::spawn(async move { store.process(9, &waits).await.unwrap() });
    tokio::task::block_in_place(|| begun.wait());
    // What does not fit into the first batch is free for others.
    let one = other.process(1, &engine()).await.unwrap();
    tokio::task::block_in_place(|| begun.wait());
    assert_eq!(one.iter().map(|one| one.package_id).collect::<Vec<_>>(), ids[4..5]);
    let processed: BTreeSet<_> = all.await.unwrap().into_iter().chain(one).map(|one| one.package_id).collect();
    assert_eq!(processed, ids.iter().copied().collect());
    let mut connection = PgConnection::connect(world.dsn.as_ref().unwrap()).await.unwrap();
    let sql = "select count(*) from reports group by xmin order by 1";
    let batches: Vec<i64> = query_scalar(sql).fetch_all(&mut connection).await.unwrap();
    assert_eq!(batches, [1, 4, 4], "packages in each transaction");
    audit(&*world.store(), &ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_processor_whose_connection_is_killed_leaves_its_packages_pending() {
    let world = World::postgres().await;
    let dsn = world.dsn.clone().unwrap();
    let ids = submit_all(&world, (0..4).map(|_| package("a")).collect()).await;
    let store = world.replica(1);
    let (frozen, heard, go) = frozen();
    let batch = tokio::spawn(async move { store.process(4, &frozen).await });
    until("the batch", async || heard.try_recv().ok()).await;
    assert!(postgres::terminate_connections(&dsn).await > 0);
    drop(go);
    assert!(matches!(batch.await.unwrap(), Err(StoreError::Unavailable(_))));
    assert_eq!(world.store().pending().await.unwrap(), 4);
    assert_eq!(drain(world.store(), 10).await, 4);
    audit(&*world.store(), &ids).await;
}

async fn a_failing_refiner_disputes_the_package_with_its_reason(world: World) {
    let store = world.store();
    let (good, bad, ugly) =
        (submit_one(&*store, "a").await, submit_one(&*store, "b").await, submit_one(&*store, "c").await);
    let picky = engine_that(|package| match package.service_id.as_str() {
        "b" => Err(RefineFault("no such\0 kind".into())),
        "c" => panic!("a bug in the refiner"),
        _ => Ok(()),
    });
    let processed = store.process(10, &picky).await.unwrap();
    let outcome = |id| {
        let one = processed.iter().find(|one| one.package_id == id).unwrap();
        (one.applied, one.fault.is_some())
    };
    assert_eq!([outcome(good), outcome(bad), outcome(ugly)], [(true, false), (false, true), (false, true)]);
    for (id, reason) in [(bad, "no such"), (ugly, "panicked")] {
        assert_eq!(store.package(id).await.unwrap().unwrap().status, PackageStatus::Disputed);
        assert!(store.dispute_of(id).await.unwrap().unwrap().contains(reason));
        assert_eq!(store.report_of(id).await.unwrap(), None);
    }
    assert_eq!(store.dispute_of(good).await.unwrap(), None);
    assert_eq!(store.pending().await.unwrap(), 0);
    assert_eq!(verified_chain(&*store, "b").await.len(), 1);
}

async fn a_threshold_above_one_waits_for_further_attestations(world: World) {
    let store = world.store();
    let three = Engine::hash_refiner(ALGORITHM, 3, true);
    let id = submit_one(&*store, "s").await;
    let processed = store.process(1, &three).await.unwrap();
    assert_eq!((processed[0].applied, processed[0].fault.as_deref()), (false, None));
    let waiting = store.report_of(id).await.unwrap().unwrap();
    assert_eq!((waiting.report.status, waiting.receipt.as_ref()), (PackageStatus::Refined, None));
    assert_eq!(store.package(id).await.unwrap().unwrap().status, PackageStatus::Refined);
    let attest = async |worker: &str, weight| {
        let said = word_of(worker, waiting.report.id, weight);
        let Attest::Recorded(bundle) = store.attest(waiting.report.id, said, &None, &three).await.unwrap() else {
            panic!("{worker} attests for the first time")
        };
        bundle
    };
    let still = attest("second", 1).await;
    assert_eq!((still.report.status, still.attestations.len()), (PackageStatus::Refined, 2));
    let reached = attest("third", 1).await;
    assert_eq!((reached.report.status, reached.attestations.len()), (PackageStatus::Applied, 3));
    assert_eq!(reached.receipt.as_ref().map(|receipt| receipt.seq), Some(2));
    assert_eq!(store.package(id).await.unwrap().unwrap().status, PackageStatus::Applied);
    let late = attest("fourth", 9).await;
    assert_eq!((late.attestations.len(), late.receipt), (4, reached.receipt));
    assert_eq!(store.report_of(id).await.unwrap().unwrap().attestations, late.attestations);
    assert_eq!(verified_chain(&*store, "s").await.len(), 2);
}

async fn attestations_at_once_accumulate_once(world: World) {
    let five = Arc::new(Engine::hash_refiner(ALGORITHM, 5, true));
    let id = submit_one(&*world.store(), "s").await;
    world.store().process(1, &five).await.unwrap();
    let report = world.store().report_of(id).await.unwrap().unwrap().report.id;
    let workers = (0..12).map(|n| {
        let (store, engine) = (world.replica(n), Arc::clone(&five));
        let said = word_of(&format!("w{}", n % 6), report, 1);
        tokio::spawn(async move { store.attest(report, said, &None, &engine).await.unwrap() })
    });
    let answers: Vec<Attest> = join_all(workers).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| **answer == Attest::Twice).count(), 6);
    let bundle = world.store().report_of(id).await.unwrap().unwrap();
    assert_eq!((bundle.report.status, bundle.attestations.len()), (PackageStatus::Applied, 7));
    assert_eq!(verified_chain(&*world.store(), "s").await.len(), 2);
}

async fn a_worker_attests_a_report_once_and_only_where_the_caller_may_see_it(world: World) {
    let store = world.store();
    let id = submit_one(&*store, "s").await;
    store.process(1, &engine()).await.unwrap();
    let report = store.report_of(id).await.unwrap().unwrap().report.id;
    let attest = |id, worker: &str, visible| {
        let (store, said) = (Arc::clone(&store), word_of(worker, id, 1));
        async move { store.attest(id, said, &visible, &engine()).await.unwrap() }
    };
    assert_eq!(attest(report, "local", None).await, Attest::Twice);
    assert_eq!(attest(report, "w", only(&["other"])).await, Attest::NoSuchReport);
    assert_eq!(attest(ReportId::new(), "w", None).await, Attest::NoSuchReport);
    assert!(matches!(attest(report, "w", only(&["s"])).await, Attest::Recorded(_)));
    assert_eq!(attest(report, "w", None).await, Attest::Twice);
}

async fn equal_content_refined_twice_gives_two_receipts_with_one_hash(world: World) {
    let store = world.store();
    let new = signed(package("s"));
    for _ in 0..2 {
        store.submit(sent_again(&new), &engine()).await.unwrap();
    }
    store.process(2, &engine()).await.unwrap();
    let chain = verified_chain(&*store, "s").await;
    let hash = chain[3].hash.clone();
    assert_eq!(chain[2].hash, hash);
    let filter = ReceiptFilter { hash: Some(hash.clone()), ..ReceiptFilter::default() };
    let latest = store.receipts(&filter, first(1)).await.unwrap();
    assert_eq!(latest.items, [chain[3].clone()]);
    let both = ReceiptFilter { service_id: Some(service("s")), ascending: true, ..filter.clone() };
    assert_eq!(store.receipts(&both, first(10)).await.unwrap().items, chain[2..]);
    let hidden = ReceiptFilter { visible: only(&["t"]), ..filter };
    assert_eq!(store.receipts(&hidden, first(10)).await.unwrap().items, []);
}

async fn receipts_page_by_seq_and_by_time(world: World) {
    submit_all(&world, (0..45).map(|n| package(NAMES[n % 3])).collect()).await;
    let store = world.store();
    store.process(20, &engine()).await.unwrap();
    let list = async |filter: ReceiptFilter, limit| {
        all_pages(limit, async |page| store.receipts(&filter, page).await.unwrap()).await
    };
    let chain = verified_chain(&*store, "b").await;
    let of_b = ReceiptFilter { service_id: Some(service("b")), ..ReceiptFilter::default() };
    let newest: Vec<Receipt> = chain.iter().rev().cloned().collect();
    assert_eq!(list(of_b.clone(), 4).await, newest);
    assert_eq!(list(ReceiptFilter { visible: only(&["a"]), ..of_b }, 4).await, []);
    let places = |receipts: &[Receipt]| -> Vec<ReceiptCursor> {
        let place =
            |r: &Receipt| ReceiptCursor { processed_at: r.processed_at, service_id: r.service_id.clone(), seq: r.seq };
        receipts.iter().map(place).collect()
    };
    let all = places(&list(ReceiptFilter::default(), 6).await);
    assert_eq!(all.len(), 65);
    assert!(all.windows(2).all(|pair| pair[0] > pair[1]));
    let two = places(&list(ReceiptFilter { visible: only(&["a", "c"]), ..ReceiptFilter::default() }, 6).await);
    let wanted: Vec<_> = all.into_iter().filter(|place| place.service_id != service("b")).collect();
    assert_eq!(two, wanted);
}

async fn reports_page_and_filter_as_packages_do(world: World) {
    submit_all(&world, (0..30).map(|n| package(NAMES[n % 3])).collect()).await;
    let store = world.store();
    store.process(12, &engine()).await.unwrap();
    store.process(12, &Engine::hash_refiner(ALGORITHM, 2, true)).await.unwrap();
    let count = async |filter: ReportFilter| {
        let all = all_pages(5, async |page| store.reports(&filter, page).await.unwrap()).await;
        assert!(all.windows(2).all(|pair| (pair[0].created_at, pair[0].id) > (pair[1].created_at, pair[1].id)));
        all.len()
    };
    let any = ReportFilter::default;
    assert_eq!(count(any()).await, 24);
    assert_eq!(count(ReportFilter { status: Some(PackageStatus::Refined), ..any() }).await, 12);
    assert_eq!(count(ReportFilter { status: Some(PackageStatus::Pending), ..any() }).await, 0);
    let of = async |name| count(ReportFilter { service_id: Some(service(name)), ..any() }).await;
    assert_eq!(of("a").await + of("b").await + of("c").await, 24);
    assert_eq!(count(ReportFilter { visible: only(&["a"]), ..any() }).await, of("a").await);
    let left = PackageFilter { status: Some(PackageStatus::Pending), ..PackageFilter::default() };
    assert_eq!(store.packages(&left, first(50)).await.unwrap().items.len(), 6);
}
