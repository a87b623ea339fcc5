//! Laws of retention: archive, restore, delete, and what stays.

use futures::future::join_all;
use jam_domain::page::{PackageFilter, ReportFilter};
use jam_domain::refine::RefineFault;
use jam_domain::retention::{Cleaned, CleanupRun, Retention};
use jam_domain::settings::ServiceLimits;
use jam_domain::{JamSettings, PackageId, PackageStatus, PreimageHash, Profile, Timestamp};
use jam_store::{Attest, CleanupError, NewPackage, Restored, Store, SubmitError, Upload};

use crate::store_fixture::{
    World, all_pages, by, engine, engine_that, first, laws, package, put, sent_again, service, signed, upload,
    verified_chain, word_of,
};

laws!(
    what_is_finished_and_old_is_archived_with_its_report_and_nothing_else_is,
    what_is_archived_is_in_no_list_and_no_count_and_404_by_id,
    what_was_archived_long_enough_is_deleted_with_its_references,
    old_preimages_that_nobody_refers_to_are_deleted_and_the_others_stay,
    a_service_keeps_its_packages_for_its_own_time_and_0_is_for_ever,
    a_restored_package_is_whole_and_stays_for_another_retention_period,
    an_archived_package_answers_for_its_id_and_key_and_a_deleted_one_frees_them,
    receipts_and_roots_stay,
    of_cleanups_at_once_each_package_is_taken_once,
    submitters_go_on_during_a_cleanup_and_caps_stay_exact,
    runs_are_remembered_and_summed,
);

const DAY: i64 = 86_400;

/// The moment of these tests; ages are days before it.
pub fn at(days: i64) -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000).plus_seconds(days * DAY)
}

/// Keep for 30 days, then 7 in the archive, seen so many days from the moment of these tests.
pub fn rule(days: i64) -> Retention {
    rule_of(30, 7, &[], days)
}

pub fn rule_of(retention_days: u32, archive_days: u32, services: &[(&str, u32)], days: i64) -> Retention {
    rule_at(retention_days, archive_days, services, at(days))
}

pub fn rule_at(retention_days: u32, archive_days: u32, services: &[(&str, u32)], now: Timestamp) -> Retention {
    let limits = |(name, days): &(&str, u32)| ServiceLimits {
        id: service(name),
        max_packages_per_minute: None,
        max_pending_packages: None,
        max_preimage_bytes: None,
        retention_days: Some(*days),
    };
    let block = JamSettings {
        retention_days: Some(retention_days),
        archive_days: Some(archive_days),
        services: Some(services.iter().map(limits).collect()),
        ..JamSettings::default()
    };
    block.resolve(Profile::Local).unwrap().retention(now)
}

/// A package that is so many days old.
pub fn aged(name: &str, days: i64) -> NewPackage {
    let mut new = package(name);
    new.package.created_at = at(-days);
    new
}

async fn submit(store: &dyn Store, new: NewPackage) -> PackageId {
    store.submit(new, &engine()).await.unwrap().package.id
}

async fn applied(store: &dyn Store, name: &str, days: i64) -> PackageId {
    let id = submit(store, aged(name, days)).await;
    assert!(store.process(1, &engine()).await.unwrap()[0].applied);
    id
}

/// Stores a blob that is so many days old.
pub async fn blob(store: &dyn Store, bytes: &'static [u8], days: i64) -> PreimageHash {
    let body = futures::stream::iter([Ok(bytes::Bytes::from_static(bytes))]);
    store.put_preimage(Upload { now: at(-days), ..upload(bytes) }, Box::pin(body)).await.unwrap();
    PreimageHash::of(bytes)
}

/// Runs it dry first: both have to count the same.
pub async fn cleanup(store: &dyn Store, rule: &Retention) -> Cleaned {
    let foretold = store.cleanup(rule, true).await.unwrap();
    let cleaned = store.cleanup(rule, false).await.unwrap();
    assert_eq!(foretold, cleaned, "a dry run counts what a real one does");
    assert_eq!(store.cleanup(rule, true).await.unwrap(), Cleaned::default(), "nothing is left to do");
    cleaned
}

fn archived(packages: u64, reports: u64) -> Cleaned {
    Cleaned { archived_packages: packages, archived_reports: reports, ..Cleaned::default() }
}

async fn what_is_finished_and_old_is_archived_with_its_report_and_nothing_else_is(world: World) {
    let store = world.store();
    let old = applied(&*store, "s", 31).await;
    let just = applied(&*store, "s", 30).await;
    let failing = engine_that(|_| Err(RefineFault("no".into())));
    let disputed = submit(&*store, aged("s", 90)).await;
    store.process(1, &failing).await.unwrap();
    let waiting = submit(&*store, aged("s", 91)).await;
    let patient = jam_domain::refine::Engine { threshold: 2, ..engine() };
    store.process(1, &patient).await.unwrap();
    let pending = submit(&*store, aged("s", 92)).await;
    assert_eq!(cleanup(&*store, &rule(0)).await, archived(2, 1));
    for (id, gone) in [(old, true), (disputed, true), (just, false), (waiting, false), (pending, false)] {
        assert_eq!(store.package(id).await.unwrap().is_none(), gone);
        assert_eq!(store.archived(id).await.unwrap().is_some(), gone);
    }
    assert_eq!(store.archived(old).await.unwrap().unwrap().archived_at, at(0));
    assert_eq!(cleanup(&*store, &rule_of(0, 0, &[], 9000)).await, Cleaned::default(), "0 days is for ever");
}

async fn what_is_archived_is_in_no_list_and_no_count_and_404_by_id(world: World) {
    let store = world.store();
    let mut ids = Vec::new();
    for days in 31..36 {
        ids.push(applied(&*store, ["a", "b"][usize::try_from(days).unwrap() % 2], days).await);
    }
    let kept = applied(&*store, "a", 1).await;
    let report = store.report_of(ids[0]).await.unwrap().unwrap().report.id;
    cleanup(&*store, &rule(0)).await;
    let listed = async |filter: PackageFilter| {
        let packages = all_pages(2, async |page| store.packages(&filter, page).await.unwrap()).await;
        packages.into_iter().map(|package| package.id).collect::<Vec<_>>()
    };
    let (any, of_a) =
        (PackageFilter::default(), PackageFilter { service_id: Some(service("a")), ..Default::default() });
    let done = PackageFilter { status: Some(PackageStatus::Applied), ..PackageFilter::default() };
    for filter in [&any, &of_a, &done] {
        assert_eq!(listed(filter.clone()).await, [kept]);
    }
    assert_eq!(store.reports(&ReportFilter::default(), first(9)).await.unwrap().items.len(), 1);
    assert_eq!(listed(PackageFilter { archived: true, ..any }).await, ids);
    assert_eq!(listed(PackageFilter { archived: true, ..of_a }).await, [ids[1], ids[3]]);
    assert_eq!(store.package(ids[0]).await.unwrap(), None);
    assert_eq!(store.report_of(ids[0]).await.unwrap(), None);
    assert_eq!(store.package_receipt(ids[0]).await.unwrap(), None);
    let late = store.attest(report, word_of("late", report, 1), &None, &engine()).await.unwrap();
    assert_eq!(late, Attest::NoSuchReport);
}

async fn what_was_archived_long_enough_is_deleted_with_its_references(world: World) {
    let store = world.store();
    let (one, two) = (blob(&*store, b"one", 100).await, blob(&*store, b"two", 100).await);
    let mut new = aged("s", 31);
    new.package.preimage_hashes = Some(vec![one, two, one]);
    new.package.items[0].preimage_hashes = Some(vec![one]);
    let old = submit(&*store, new).await;
    let mut new = aged("s", 3);
    new.package.preimage_hashes = Some(vec![two]);
    submit(&*store, new).await;
    store.process(2, &engine()).await.unwrap();
    assert_eq!(cleanup(&*store, &rule(0)).await, archived(1, 1));
    let refcounts = async || {
        let count = async |hash| store.preimage(hash).await.unwrap().map(|preimage| preimage.refcount);
        [count(one).await, count(two).await]
    };
    assert_eq!(refcounts().await, [Some(1), Some(2)], "an archived package still refers");
    assert_eq!(cleanup(&*store, &rule(6)).await, Cleaned::default());
    let deleted = Cleaned { deleted_packages: 1, deleted_reports: 1, deleted_preimages: 1, ..Cleaned::default() };
    assert_eq!(cleanup(&*store, &rule(7)).await, deleted);
    assert_eq!(refcounts().await, [None, Some(1)]);
    assert_eq!(store.archived(old).await.unwrap(), None);
    assert_eq!(store.restore(old, &by(at(7))).await.unwrap(), Restored::NotArchived);
    if let Some(dsn) = &world.dsn {
        let rows = "select (select count(*) from attestations) + (select count(*) from archived_reports)
            + (select count(*) from disputes) + (select count(*) from uploads) + (select count(*) from blob_chunks)";
        assert_eq!(crate::support::postgres::number(dsn, rows).await, 2, "the other package's word, the other blob");
    }
    // With 0 days in the archive both steps are one run.
    let at_once = Cleaned { archived_packages: 1, archived_reports: 1, ..deleted };
    assert_eq!(cleanup(&*store, &rule_of(30, 0, &[], 60)).await, at_once);
}

async fn old_preimages_that_nobody_refers_to_are_deleted_and_the_others_stay(world: World) {
    let store = world.store();
    let (old, young) = (blob(&*store, b"old", 31).await, blob(&*store, b"young", 30).await);
    let used = blob(&*store, b"used", 400).await;
    let mut new = aged("s", 1);
    new.package.preimage_hashes = Some(vec![used]);
    submit(&*store, new).await;
    assert_eq!(cleanup(&*store, &rule(0)).await, Cleaned { deleted_preimages: 1, ..Cleaned::default() });
    for (hash, there) in [(old, false), (young, true), (used, true)] {
        assert_eq!(store.preimage(hash).await.unwrap().is_some(), there);
    }
    put(&*store, b"old", 1).await;
    assert_eq!(cleanup(&*store, &rule_of(0, 0, &[("s", 1)], 900)).await.deleted_preimages, 0, "0 days is for ever");
}

async fn a_service_keeps_its_packages_for_its_own_time_and_0_is_for_ever(world: World) {
    let store = world.store();
    let mut kept = Vec::new();
    for name in ["like", "short", "long", "ever"] {
        for days in [2, 31, 100] {
            kept.push((applied(&*store, name, days).await, name, days));
        }
    }
    let own = [("short", 1), ("long", 90), ("ever", 0)];
    assert_eq!(cleanup(&*store, &rule_of(30, 7, &own, 0)).await, archived(6, 6));
    let stays = |name: &str, days| {
        days <= [("like", 30), ("short", 1), ("long", 90)].iter().find(|o| o.0 == name).map_or(999, |o| o.1)
    };
    for (id, name, days) in &kept {
        assert_eq!(store.package(*id).await.unwrap().is_some(), stays(name, *days), "{name} {days}");
    }
    // For ever also holds for what was archived under an earlier setting.
    let own = [("short", 0), ("long", 90), ("ever", 0)];
    assert_eq!(cleanup(&*store, &rule_of(30, 0, &own, 0)).await.deleted_packages, 3);
    assert_eq!(cleanup(&*store, &rule_of(0, 0, &[], 900)).await, Cleaned::default());
}

async fn a_restored_package_is_whole_and_stays_for_another_retention_period(world: World) {
    let store = world.store();
    let hash = blob(&*store, b"blob", 50).await;
    let mut new = aged("s", 40);
    new.package.preimage_hashes = Some(vec![hash]);
    new.idempotency_key = Some("k".into());
    let id = submit(&*store, new.clone()).await;
    store.process(1, &engine()).await.unwrap();
    let (package, bundle) = (store.package(id).await.unwrap(), store.report_of(id).await.unwrap());
    cleanup(&*store, &rule(0)).await;
    assert_eq!(store.restore(id, &by(at(1))).await.unwrap(), Restored::Back(package.clone().unwrap()));
    assert_eq!(store.restore(id, &by(at(1))).await.unwrap(), Restored::NotArchived);
    assert_eq!((store.package(id).await.unwrap(), store.report_of(id).await.unwrap()), (package, bundle));
    assert_eq!(store.preimage(hash).await.unwrap().unwrap().refcount, 1);
    assert!(store.submit(sent_again(&new), &engine()).await.unwrap().replayed);
    assert_eq!(store.packages(&PackageFilter::default(), first(5)).await.unwrap().items.len(), 1);
    assert_eq!(store.reports(&ReportFilter::default(), first(5)).await.unwrap().items.len(), 1);
    assert_eq!(cleanup(&*store, &rule(31)).await, Cleaned::default());
    assert_eq!(cleanup(&*store, &rule(32)).await, archived(1, 1));
}

async fn an_archived_package_answers_for_its_id_and_key_and_a_deleted_one_frees_them(world: World) {
    let store = world.store();
    let by_key = signed(NewPackage { idempotency_key: Some("k".into()), ..aged("s", 40) });
    let by_id = signed(NewPackage { id_from_client: true, ..aged("s", 40) });
    for new in [&by_key, &by_id] {
        submit(&*store, new.clone()).await;
    }
    store.process(2, &engine()).await.unwrap();
    cleanup(&*store, &rule(0)).await;
    let answer = async |new: &NewPackage| store.submit(sent_again(new), &engine()).await;
    for new in [&by_key, &by_id] {
        let replay = answer(new).await.unwrap();
        assert!(replay.replayed && replay.receipt.is_some());
        assert_eq!((replay.package.id, replay.package.status), (new.package.id, PackageStatus::Applied));
        let mut other = new.clone();
        other.package.nonce = "other".into();
        assert!(matches!(answer(&signed(other)).await, Err(SubmitError::Conflict { .. })));
    }
    assert_eq!(store.pending().await.unwrap(), 0);
    cleanup(&*store, &rule(7)).await;
    for new in [&by_key, &by_id] {
        assert!(!answer(new).await.unwrap().replayed);
    }
    verified_chain(&*store, "s").await;
}

async fn receipts_and_roots_stay(world: World) {
    let store = world.store();
    let id = applied(&*store, "s", 400).await;
    let (chain, root) = (verified_chain(&*store, "s").await, store.root(&service("s")).await.unwrap());
    assert_eq!(cleanup(&*store, &rule_of(30, 0, &[], 0)).await.deleted_packages, 1);
    assert_eq!((verified_chain(&*store, "s").await, store.root(&service("s")).await.unwrap()), (chain.clone(), root));
    assert_eq!(chain[0].hash, id.to_string());
    applied(&*store, "s", 0).await;
    assert_eq!(verified_chain(&*store, "s").await.len(), 4);
}

async fn of_cleanups_at_once_each_package_is_taken_once(world: World) {
    let store = world.store();
    join_all((0..1200).map(|n| store.submit(aged("s", 40 + n % 9), &ENGINE))).await;
    while !store.process(300, &engine()).await.unwrap().is_empty() {}
    let runs = (0..6).map(|n| {
        let store = world.replica(n);
        tokio::spawn(async move { store.cleanup(&rule_of(30, 0, &[], 0), false).await })
    });
    let (mut total, mut ended) = (0, 0);
    for run in join_all(runs).await {
        match run.unwrap() {
            Ok(cleaned) => {
                ended += 1;
                assert_eq!(cleaned.archived_packages, cleaned.deleted_packages);
                total += cleaned.deleted_packages;
            }
            Err(error) => assert_eq!(error, CleanupError::Busy),
        }
    }
    assert!(ended >= 1 && total == 1200, "{ended} runs, {total} packages");
}

static ENGINE: std::sync::LazyLock<jam_domain::refine::Engine> = std::sync::LazyLock::new(engine);

async fn submitters_go_on_during_a_cleanup_and_caps_stay_exact(world: World) {
    let store = world.store();
    let hash = blob(&*store, b"shared", 100).await;
    let referring = |days| {
        let mut new = aged("s", days);
        new.package.preimage_hashes = Some(vec![hash]);
        new
    };
    join_all((0..1500).map(|_| store.submit(referring(40), &ENGINE))).await;
    while !store.process(500, &engine()).await.unwrap().is_empty() {}
    let cleaning = {
        let store = world.replica(1);
        tokio::spawn(async move { store.cleanup(&rule_of(30, 0, &[], 0), false).await.unwrap() })
    };
    let submitters = (0..8).map(|n| {
        let (store, new) = (world.replica(n), NewPackage { pending_cap: 60, ..referring(1) });
        tokio::spawn(async move {
            let mut accepted = 0;
            for _ in 0..20 {
                accepted += usize::from(store.submit(sent_again(&new), &ENGINE).await.is_ok());
            }
            accepted
        })
    });
    let accepted: usize = join_all(submitters).await.into_iter().map(Result::unwrap).sum();
    assert_eq!((accepted, store.pending().await.unwrap()), (60, 60));
    assert_eq!(cleaning.await.unwrap().deleted_packages, 1500);
    assert_eq!(store.preimage(hash).await.unwrap().unwrap().refcount, 60);
    assert_eq!(verified_chain(&*store, "s").await.len(), 3060);
}

async fn runs_are_remembered_and_summed(world: World) {
    let store = world.store();
    assert_eq!(store.cleanups().await.unwrap(), None);
    let run = |days, error: Option<&str>| CleanupRun {
        started_at: at(days),
        finished_at: at(days).plus_seconds(9),
        cutoff: Some(at(days - 30)),
        cleaned: Cleaned { deleted_packages: 3, deleted_reports: 2, deleted_preimages: 1, ..archived(5, 4) },
        error: error.map(str::to_owned),
    };
    store.record_cleanup(run(0, None), None).await.unwrap();
    store.record_cleanup(run(1, Some("the disk is full")), None).await.unwrap();
    let record = world.replica(2).cleanups().await.unwrap().unwrap();
    assert_eq!(record.last, run(1, Some("the disk is full")));
    assert_eq!(record.succeeded_at, Some(at(0).plus_seconds(9)));
    assert_eq!((record.runs_succeeded, record.runs_failed), (1, 1));
    let all = (record.all.deleted_packages, record.all.deleted_reports, record.all.deleted_preimages);
    assert_eq!(all, (6, 4, 2));
}
