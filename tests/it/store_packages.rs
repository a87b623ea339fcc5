//! Laws of submitting and listing packages.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use jam_domain::page::{PackageFilter, PageRequest, ReceiptFilter, Start, TimeCursor};
use jam_domain::{PackageId, PackageStatus, PreimageHash, Timestamp, WorkPackage};
use jam_store::{NewPackage, Store, SubmitError, Submitted};

use crate::store_fixture::{
    World, all_pages, engine, first, item, laws, only, package, put, sent_again, service, signed, verified_chain,
};

laws!(
    a_pending_cap_is_exact_under_64_submitters,
    a_services_own_cap_is_exact_and_leaves_other_services_alone,
    equal_submissions_at_once_store_one_package,
    another_body_under_the_same_id_or_key_is_a_conflict,
    a_key_belongs_to_its_token,
    a_key_that_was_answered_by_the_id_stands_for_the_package_from_then_on,
    a_replay_answers_when_the_cap_is_reached_and_after_processing,
    an_unknown_preimage_is_named_and_nothing_is_stored,
    a_refcount_is_the_number_of_packages_that_refer,
    what_was_submitted_is_read_back_exactly,
    a_package_has_its_receipt_and_the_chain_of_concurrent_submissions_verifies,
    without_receipts_nothing_is_chained,
    paging_never_repeats_or_skips_while_others_submit,
    filters_narrow_lists,
    chains_are_listed_by_the_bytes_of_their_names,
);

async fn submit(store: &dyn Store, new: NewPackage) -> Result<Submitted, SubmitError> {
    store.submit(new, &engine()).await
}

async fn submit_at_once(world: &World, news: Vec<NewPackage>) -> Vec<Result<Submitted, SubmitError>> {
    let tasks = news.into_iter().enumerate().map(|(n, new)| {
        let store = world.replica(n);
        tokio::spawn(async move { submit(&*store, new).await })
    });
    join_all(tasks).await.into_iter().map(Result::unwrap).collect()
}

async fn a_pending_cap_is_exact_under_64_submitters(world: World) {
    let news = (0..64).map(|n| NewPackage { pending_cap: 10, ..package(["a", "b", "c"][n % 3]) }).collect();
    let answers = submit_at_once(&world, news).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 10);
    let refused = answers.into_iter().filter_map(Result::err);
    assert!(refused.into_iter().all(|error| error == SubmitError::PendingLimit { cap: 10, service: None }));
    assert_eq!(world.store().pending().await.unwrap(), 10);
    // Each that is processed makes room for exactly one more.
    assert_eq!(world.store().process(3, &engine()).await.unwrap().len(), 3);
    let news = (0..32).map(|_| NewPackage { pending_cap: 10, ..package("a") }).collect();
    let answers = submit_at_once(&world, news).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3);
}

async fn a_services_own_cap_is_exact_and_leaves_other_services_alone(world: World) {
    let capped = (0..40).map(|_| NewPackage { service_pending_cap: 7, ..package("small") });
    let free = (0..20).map(|_| package("free"));
    let answers = submit_at_once(&world, capped.chain(free).collect()).await;
    let accepted =
        |name: &str| answers.iter().flatten().filter(|submitted| submitted.package.service_id == service(name)).count();
    assert_eq!((accepted("small"), accepted("free")), (7, 20));
    let refused = SubmitError::PendingLimit { cap: 7, service: Some(service("small")) };
    assert!(answers.iter().filter_map(|answer| answer.as_ref().err()).all(|error| *error == refused));
}

async fn equal_submissions_at_once_store_one_package(world: World) {
    let hash = PreimageHash::of(b"blob");
    put(&*world.store(), b"blob", 4).await;
    let mut by_key = package("s");
    by_key.idempotency_key = Some("once".into());
    by_key.package.preimage_hashes = Some(vec![hash]);
    let mut by_id = package("s");
    by_id.id_from_client = true;
    by_id.package.preimage_hashes = Some(vec![hash]);
    for new in [signed(by_key), signed(by_id)] {
        let answers = submit_at_once(&world, (0..32).map(|_| sent_again(&new)).collect()).await;
        let stored: Vec<Submitted> = answers.into_iter().map(Result::unwrap).collect();
        assert_eq!(stored.iter().filter(|submitted| !submitted.replayed).count(), 1);
        assert!(stored.iter().all(|submitted| submitted.package == stored[0].package));
        assert!(stored.iter().all(|submitted| submitted.receipt.is_some() && submitted.receipt == stored[0].receipt));
    }
    assert_eq!(world.store().pending().await.unwrap(), 2);
    assert_eq!(world.store().preimage(hash).await.unwrap().unwrap().refcount, 2);
    assert_eq!(verified_chain(&*world.store(), "s").await.len(), 2);
}

async fn another_body_under_the_same_id_or_key_is_a_conflict(world: World) {
    let store = world.store();
    let mut new = package("s");
    new.id_from_client = true;
    new.idempotency_key = Some("k".into());
    submit(&*store, new.clone()).await.unwrap();
    let mut other = sent_again(&new);
    other.package.nonce = "other".into();
    let other = signed(other);
    let by_id = NewPackage { idempotency_key: None, ..other.clone() };
    assert_eq!(submit(&*store, by_id).await.unwrap_err(), SubmitError::Conflict { what: "id" });
    let mut by_key = other;
    by_key.package.id = PackageId::new();
    assert_eq!(submit(&*store, by_key).await.unwrap_err(), SubmitError::Conflict { what: "Idempotency-Key" });
    assert_eq!(store.pending().await.unwrap(), 1);
}

async fn a_key_belongs_to_its_token(world: World) {
    let store = world.store();
    let mut one = package("s");
    one.idempotency_key = Some("k".into());
    let mut two = package("s");
    two.idempotency_key = Some("k".into());
    two.package.created_by = "feedbeef".parse().unwrap();
    assert!(!submit(&*store, one).await.unwrap().replayed);
    assert!(!submit(&*store, two).await.unwrap().replayed);
}

async fn a_key_that_was_answered_by_the_id_stands_for_the_package_from_then_on(world: World) {
    let store = world.store();
    let first = NewPackage { id_from_client: true, ..package("s") };
    let stored = submit(&*store, first.clone()).await.unwrap();
    let with = |new: &NewPackage, key: &str| NewPackage { idempotency_key: Some(key.into()), ..new.clone() };
    let mut stranger = with(&first, "k");
    stranger.package.created_by = "feedbeef".parse().unwrap();
    for new in [stranger, with(&first, "k"), with(&first, "k2")] {
        let replay = submit(&*store, new).await.unwrap();
        assert!(replay.replayed && replay.package.id == stored.package.id);
    }
    let again = sent_again(&NewPackage { id_from_client: false, ..with(&first, "k") });
    let by_key = submit(&*store, again).await.unwrap();
    assert_eq!((by_key.replayed, by_key.package.id), (true, stored.package.id), "the same content under the key alone");
    let mut other = with(&package("s"), "k");
    other.fingerprint = [7; 32];
    assert!(matches!(submit(&*store, other).await, Err(SubmitError::Conflict { what: "Idempotency-Key" })));
}

async fn a_replay_answers_when_the_cap_is_reached_and_after_processing(world: World) {
    let store = world.store();
    let new = NewPackage { idempotency_key: Some("k".into()), pending_cap: 1, ..package("s") };
    let stored = submit(&*store, new.clone()).await.unwrap();
    assert!(submit(&*store, package_capped("s", 1)).await.is_err());
    let replay = submit(&*store, sent_again(&new)).await.unwrap();
    assert_eq!(replay, Submitted { replayed: true, ..stored.clone() });
    store.process(1, &engine()).await.unwrap();
    let replay = submit(&*store, sent_again(&new)).await.unwrap();
    assert_eq!((replay.package.status, replay.receipt), (PackageStatus::Applied, stored.receipt));
}

fn package_capped(name: &str, pending_cap: u32) -> NewPackage {
    NewPackage { pending_cap, ..package(name) }
}

async fn an_unknown_preimage_is_named_and_nothing_is_stored(world: World) {
    let store = world.store();
    put(&*store, b"known", 5).await;
    let (known, unknown) = (PreimageHash::of(b"known"), PreimageHash::of(b"unknown"));
    let mut new = package("s");
    new.package.preimage_hashes = Some(vec![known]);
    new.package.items[0].preimage_hashes = Some(vec![unknown]);
    assert_eq!(
        submit(&*store, new).await.unwrap_err(),
        SubmitError::UnknownPreimage { hash: unknown, field: "items[0].preimage_hashes".into() }
    );
    assert_eq!(store.pending().await.unwrap(), 0);
    assert_eq!(store.preimage(known).await.unwrap().unwrap().refcount, 0);
    assert_eq!(store.root(&service("s")).await.unwrap(), None);
}

async fn a_refcount_is_the_number_of_packages_that_refer(world: World) {
    let (one, two) = (PreimageHash::of(b"one"), PreimageHash::of(b"two"));
    put(&*world.store(), b"one", 3).await;
    put(&*world.store(), b"two", 3).await;
    let news = (0..24).map(|n| {
        let mut new = package("s");
        new.package.preimage_hashes = Some(if n % 2 == 0 { vec![one, two, one] } else { vec![two, one] });
        let second = item(new.package.id);
        new.package.items.push(second);
        new.package.items[0].preimage_hashes = Some(vec![two]);
        new.package.items[1].preimage_hashes = (n % 3 == 0).then(|| vec![one]);
        new
    });
    assert!(submit_at_once(&world, news.collect()).await.iter().all(Result::is_ok));
    let count = async |hash| world.store().preimage(hash).await.unwrap().unwrap().refcount;
    assert_eq!((count(one).await, count(two).await), (24, 24));
}

async fn what_was_submitted_is_read_back_exactly(world: World) {
    let store = world.store();
    put(&*store, b"x", 1).await;
    let mut new = package("svc.1:a_B-c");
    let WorkPackage { id, items, nonce, expiry, signature, preimage_hashes, .. } = &mut new.package;
    *nonce = "quote \" slash \\ nul \0 line \n ünïcode \u{1f980}".into();
    *expiry = Some("2999-12-31T23:59:59.999999Z".parse().unwrap());
    *signature = Some("c2lnbmF0dXJl".into());
    *preimage_hashes = Some(vec![]);
    let mut second = item(*id);
    second.max_fee = Some(u64::MAX);
    second.memo = Some("\0".into());
    second.preimage_hashes = Some(vec![PreimageHash::of(b"x"), PreimageHash::of(b"x")]);
    items.push(second);
    let stored = submit(&*store, signed(new.clone())).await.unwrap();
    assert_eq!(stored.package, new.package);
    assert_eq!(store.package(new.package.id).await.unwrap(), Some(new.package));
    assert_eq!(store.package(PackageId::new()).await.unwrap(), None);
}

async fn a_package_has_its_receipt_and_the_chain_of_concurrent_submissions_verifies(world: World) {
    let news: Vec<_> = (0..90).map(|n| package(["a", "b", "c"][n % 3])).collect();
    let answers: Vec<_> = submit_at_once(&world, news).await.into_iter().map(Result::unwrap).collect();
    let store = world.store();
    for name in ["a", "b", "c"] {
        assert_eq!(verified_chain(&*store, name).await.len(), 30);
    }
    let ids: Vec<PackageId> = answers.iter().map(|submitted| submitted.package.id).collect();
    let receipts: Vec<_> = answers.iter().map(|submitted| submitted.receipt.clone().unwrap()).collect();
    assert_eq!(store.package_receipts(&ids, false).await.unwrap(), receipts);
    assert_eq!(store.package_receipt(ids[4]).await.unwrap().as_ref(), Some(&receipts[4]));
    assert_eq!(receipts[4].hash, ids[4].to_string());
    assert_eq!(receipts[4].processed_at, answers[4].package.created_at);
}

async fn without_receipts_nothing_is_chained(world: World) {
    let store = world.store();
    let engine = jam_domain::refine::Engine { receipts: false, ..engine() };
    let submitted = store.submit(package("s"), &engine).await.unwrap();
    assert_eq!(submitted.receipt, None);
    let processed = store.process(1, &engine).await.unwrap();
    assert!(processed[0].applied);
    let bundle = store.report_of(submitted.package.id).await.unwrap().unwrap();
    assert_eq!((bundle.report.status, bundle.receipt), (PackageStatus::Applied, None));
    assert_eq!(store.package_receipt(submitted.package.id).await.unwrap(), None);
    assert_eq!(store.receipts(&ReceiptFilter::default(), first(5)).await.unwrap().items, []);
    assert_eq!(store.roots(&None, 10).await.unwrap(), []);
}

async fn paging_never_repeats_or_skips_while_others_submit(world: World) {
    let before: BTreeSet<PackageId> = submit_at_once(&world, (0..83).map(|n| package(["a", "b"][n % 2])).collect())
        .await
        .into_iter()
        .map(|answer| answer.unwrap().package.id)
        .collect();
    let done = Arc::new(AtomicBool::new(false));
    let noise = {
        let (store, done) = (world.replica(1), Arc::clone(&done));
        tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                submit(&*store, package("a")).await.unwrap();
                store.process(1, &engine()).await.unwrap();
            }
        })
    };
    let store = world.store();
    let filter = PackageFilter::default();
    let listed = all_pages(7, async |page| store.packages(&filter, page).await.unwrap()).await;
    done.store(true, Ordering::Relaxed);
    noise.await.unwrap();
    let places: Vec<_> = listed.iter().map(|package| (package.created_at, package.id)).collect();
    assert!(places.windows(2).all(|pair| pair[0] > pair[1]), "newest first, and none twice");
    let ids: BTreeSet<_> = listed.iter().map(|package| package.id).collect();
    assert!(before.is_subset(&ids), "none skipped");
    let by_offset = |offset| PageRequest { limit: 10, start: Start::<TimeCursor>::Offset(offset) };
    let page = |offset| store.packages(&filter, by_offset(offset));
    let (one, two) = (page(0).await.unwrap(), page(10).await.unwrap());
    assert_eq!((one.items.len(), two.items.len()), (10, 10));
    assert!(one.items[9].created_at >= two.items[0].created_at);
    assert_eq!(page(1_000_000).await.unwrap().items, []);
}

async fn filters_narrow_lists(world: World) {
    let store = world.store();
    let start = Timestamp::from_micros(1_700_000_000_000_000);
    for n in 0..12_i64 {
        let mut new = package(["a", "b", "c"][usize::try_from(n).unwrap() % 3]);
        new.package.created_at = start.plus_seconds(n);
        submit(&*store, new).await.unwrap();
    }
    store.process(5, &engine()).await.unwrap();
    let count = async |filter: PackageFilter| {
        let all = all_pages(2, async |page| store.packages(&filter, page).await.unwrap()).await;
        assert!(all.windows(2).all(|pair| pair[0].created_at > pair[1].created_at));
        all.len()
    };
    let any = PackageFilter::default;
    assert_eq!(count(any()).await, 12);
    assert_eq!(count(PackageFilter { service_id: Some(service("a")), ..any() }).await, 4);
    assert_eq!(count(PackageFilter { status: Some(PackageStatus::Applied), ..any() }).await, 5);
    let of_a = PackageFilter { service_id: Some(service("a")), status: Some(PackageStatus::Pending), ..any() };
    assert_eq!(count(of_a).await, 2);
    assert_eq!(count(PackageFilter { visible: only(&["a", "c"]), ..any() }).await, 8);
    assert_eq!(count(PackageFilter { visible: only(&[]), ..any() }).await, 0);
    let hidden = PackageFilter { service_id: Some(service("b")), visible: only(&["a"]), ..any() };
    assert_eq!(count(hidden).await, 0);
    let between = |after: Option<i64>, before: Option<i64>| PackageFilter {
        created_after: after.map(|n| start.plus_seconds(n)),
        created_before: before.map(|n| start.plus_seconds(n)),
        ..any()
    };
    assert_eq!(count(between(Some(2), Some(7))).await, 4);
    assert_eq!(count(between(Some(7), Some(2))).await, 0);
    assert_eq!(count(between(Some(11), None)).await, 0);
    let ever = between(None, None);
    let ever = PackageFilter {
        created_after: Some(Timestamp::from_micros(i64::MIN)),
        created_before: Some(Timestamp::from_micros(i64::MAX)),
        ..ever
    };
    assert_eq!(count(ever).await, 12);
}

async fn chains_are_listed_by_the_bytes_of_their_names(world: World) {
    let store = world.store();
    let names = ["a", "B", "_", "a-b", "a:b", "a.b", "A", "1", "b"];
    for name in names {
        submit(&*store, package(name)).await.unwrap();
    }
    let mut sorted = names;
    sorted.sort_unstable();
    let listed = async |visible, limit| {
        let roots = store.roots(&visible, limit).await.unwrap();
        roots.into_iter().map(|root| root.service_id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(listed(None, 200).await, sorted);
    assert_eq!(listed(None, 3).await, sorted[..3]);
    assert_eq!(listed(only(&["b", "B", "none"]), 200).await, ["B", "b"]);
}
