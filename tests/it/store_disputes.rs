//! Laws of disputes in both stores: a worker's word for another output, and the administrator's word that ends it.

use jam_domain::audit::Act;
use jam_domain::dispute::Outcome;
use jam_domain::page::ReportFilter;
use jam_domain::refine::{Engine, RefineFault};
use jam_domain::{PackageId, PackageStatus, ReportId};
use jam_store::{Attest, Dispute, Dissent, Place, ReportBundle, Resolved, Store};
use serde_json::json;

use crate::store_admin::audit;
use crate::store_fixture::{World, by, engine, engine_that, first, laws, only, package, put, verified_chain, word_of};
use crate::store_retention::{aged, at, rule};
use crate::support::postgres;

laws!(
    a_word_for_another_output_disputes_the_package_and_counts_for_a_report_of_its_own,
    a_worker_speaks_once_for_each_package_and_only_where_the_caller_may_see_it,
    what_is_applied_is_disputed_no_more,
    an_accepted_report_is_the_packages_and_is_applied_with_its_receipt,
    a_rejected_dispute_leaves_the_package_disputed_for_good,
    a_package_that_could_not_be_refined_has_a_dispute_without_reports,
    of_resolutions_at_once_one_counts,
    a_dispute_goes_into_the_archive_comes_back_whole_and_is_deleted_with_its_reports,
);

const OTHER: &str = "abababababababababababababababababababababababababababababababab";

fn three() -> Engine {
    Engine { threshold: 3, ..engine() }
}

/// A refined package that waits for attestations, and its report.
async fn waiting(store: &dyn Store) -> (PackageId, ReportId) {
    let id = store.submit(aged("s", 40), &three()).await.unwrap().package.id;
    store.process(1, &three()).await.unwrap();
    (id, store.report_of(id).await.unwrap().unwrap().report.id)
}

async fn dissent(store: &dyn Store, report: ReportId, worker: &str, output: &str) -> Dissent {
    store.dissent(report, word_of(worker, report, 1), output, &None).await.unwrap()
}

/// The rival report that the word counts for.
async fn rival(store: &dyn Store, report: ReportId, worker: &str) -> ReportBundle {
    match dissent(store, report, worker, OTHER).await {
        Dissent::Recorded(Attest::Recorded(bundle)) => bundle,
        other => panic!("{worker}: {other:?}"),
    }
}

async fn dispute(store: &dyn Store, id: PackageId) -> Dispute {
    store.dispute(id).await.unwrap().expect("it is disputed")
}

async fn a_word_for_another_output_disputes_the_package_and_counts_for_a_report_of_its_own(world: World) {
    let store = world.store();
    let (id, own) = waiting(&*store).await;
    assert_eq!(store.dispute(id).await.unwrap(), None);
    let one = rival(&*store, own, "second").await;
    assert_eq!((one.report.refine_output_hash.as_str(), one.report.status), (OTHER, PackageStatus::Disputed));
    assert_ne!(one.report.id, own);
    let two = rival(&*world.replica(1), own, "third").await;
    assert_eq!((two.report.id, two.attestations.len(), two.receipt), (one.report.id, 2, None));
    let Dispute { place, package, reason, reports, resolution } = dispute(&*store, id).await;
    assert_eq!(package.as_ref().map(Place::from), Some(place.clone()));
    assert_eq!((place.status, resolution), (PackageStatus::Disputed, None));
    assert!(reason.contains("worker second got the output") && reason.contains(OTHER), "{reason}");
    assert_eq!(store.dispute_of(id).await.unwrap(), Some(reason));
    let ids: Vec<_> = reports.iter().map(|bundle| (bundle.report.id, bundle.attestations.len())).collect();
    assert_eq!(ids, [(own, 1), (one.report.id, 2)]);
    assert_eq!(store.report_of(id).await.unwrap().unwrap().report.status, PackageStatus::Disputed);
    let listed = ReportFilter { status: Some(PackageStatus::Disputed), ..ReportFilter::default() };
    assert_eq!(store.reports(&listed, first(9)).await.unwrap().items.len(), 1, "one package has one report");
    // Words for the report itself count on, but nothing is applied without an administrator.
    for worker in ["fourth", "fifth"] {
        assert_eq!(dissent(&*store, own, worker, &reports[0].report.refine_output_hash).await, Dissent::Agrees);
        let said = store.attest(own, word_of(worker, own, 9), &None, &three()).await.unwrap();
        let Attest::Recorded(bundle) = said else { panic!("{said:?}") };
        assert_eq!(bundle.report.status, PackageStatus::Disputed);
    }
    assert_eq!(verified_chain(&*store, "s").await.len(), 1, "no report is in the chain");
}

async fn a_worker_speaks_once_for_each_package_and_only_where_the_caller_may_see_it(world: World) {
    let store = world.store();
    let (_, own) = waiting(&*store).await;
    rival(&*store, own, "second").await;
    for worker in ["local", "second"] {
        assert_eq!(dissent(&*store, own, worker, &OTHER.replace('a', "0")).await, Dissent::Recorded(Attest::Twice));
        let said = store.attest(own, word_of(worker, own, 1), &None, &three()).await.unwrap();
        assert_eq!(said, Attest::Twice, "{worker}");
    }
    for (report, visible) in [(ReportId::new(), None), (own, only(&["other"]))] {
        let said = store.dissent(report, word_of("third", report, 1), OTHER, &visible).await.unwrap();
        assert_eq!(said, Dissent::Recorded(Attest::NoSuchReport));
    }
}

async fn what_is_applied_is_disputed_no_more(world: World) {
    let store = world.store();
    let id = store.submit(package("s"), &engine()).await.unwrap().package.id;
    assert_eq!(store.resolve(id, None, &by(at(0)), &engine()).await.unwrap(), Resolved::NotDisputed);
    store.process(1, &engine()).await.unwrap();
    let own = store.report_of(id).await.unwrap().unwrap().report.id;
    assert_eq!(dissent(&*store, own, "second", OTHER).await, Dissent::TooLate);
    assert_eq!(store.dispute(id).await.unwrap(), None);
    for id in [id, PackageId::new()] {
        assert_eq!(store.resolve(id, Some(own), &by(at(0)), &engine()).await.unwrap(), Resolved::NotDisputed);
    }
    assert_eq!(audit(&*store).await, []);
}

async fn an_accepted_report_is_the_packages_and_is_applied_with_its_receipt(world: World) {
    let store = world.store();
    for takes_the_rival in [false, true] {
        let (id, own) = waiting(&*store).await;
        let other = rival(&*store, own, "second").await.report.id;
        let (chosen, left) = if takes_the_rival { (other, own) } else { (own, other) };
        let resolve = async |report| store.resolve(id, Some(report), &by(at(2)), &three()).await.unwrap();
        assert_eq!(resolve(ReportId::new()).await, Resolved::NoSuchReport);
        let Resolved::Ended(ended) = resolve(chosen).await else { panic!("it was open") };
        assert_eq!(ended, dispute(&*store, id).await);
        assert_eq!(ended.place.status, PackageStatus::Applied);
        let resolution = ended.resolution.unwrap();
        assert_eq!((resolution.outcome, resolution.report_id), (Outcome::Accepted, Some(chosen)));
        assert_eq!((resolution.at, resolution.by), (at(2), by(at(2)).token_id));
        let stands = store.report_of(id).await.unwrap().unwrap();
        assert_eq!((stands.report.id, stands.report.status), (chosen, PackageStatus::Applied));
        assert_eq!(stands.attestations.len(), 1);
        let receipt = stands.receipt.clone().unwrap();
        assert_eq!(receipt.hash, stands.report.refine_output_hash);
        assert_eq!(ended.reports[0], stands);
        assert_eq!((ended.reports[1].report.id, ended.reports[1].report.status), (left, PackageStatus::Disputed));
        assert_eq!(verified_chain(&*store, "s").await.last(), Some(&receipt));
        for worker in ["local", "second"] {
            let said = store.attest(chosen, word_of(worker, chosen, 1), &None, &three()).await.unwrap();
            assert_eq!(said, Attest::Twice, "{worker} has spoken, for this one or for the other");
        }
        let line = audit(&*store).await.remove(0);
        assert_eq!((line.action, line.target.clone()), (Act::AcceptReport, id.to_string()));
        assert_eq!((&line.before["status"], &line.after["report_id"]), (&json!("disputed"), &json!(chosen)));
        assert_eq!(resolve(left).await, Resolved::Before);
        assert_eq!(dissent(&*store, chosen, "late", &OTHER.replace('b', "0")).await, Dissent::TooLate);
    }
    assert_eq!(store.reports(&ReportFilter::default(), first(9)).await.unwrap().items.len(), 2);
}

async fn a_rejected_dispute_leaves_the_package_disputed_for_good(world: World) {
    let store = world.store();
    let (id, own) = waiting(&*store).await;
    rival(&*store, own, "second").await;
    let resolve = async |report| store.resolve(id, report, &by(at(2)), &three()).await.unwrap();
    let Resolved::Ended(ended) = resolve(None).await else { panic!("it was open") };
    assert_eq!((ended.place.status, ended.reports.len()), (PackageStatus::Disputed, 2));
    assert_eq!(ended.resolution.unwrap().outcome, Outcome::Rejected);
    assert_eq!((resolve(Some(own)).await, resolve(None).await), (Resolved::Before, Resolved::Before));
    assert_eq!(store.process(9, &three()).await.unwrap(), []);
    assert_eq!(verified_chain(&*store, "s").await.len(), 1);
    let lines = audit(&*store).await;
    assert_eq!(
        (lines.len(), lines[0].action, &lines[0].after),
        (1, Act::RejectReports, &json!({"status": "disputed"}))
    );
}

async fn a_package_that_could_not_be_refined_has_a_dispute_without_reports(world: World) {
    let store = world.store();
    let stubborn = engine_that(|_| Err(RefineFault("nothing is known of it".into())));
    let id = store.submit(package("s"), &stubborn).await.unwrap().package.id;
    store.process(1, &stubborn).await.unwrap();
    let open = dispute(&*store, id).await;
    assert_eq!((open.reason.as_str(), open.reports.len(), open.resolution), ("nothing is known of it", 0, None));
    let resolve = async |report| store.resolve(id, report, &by(at(2)), &stubborn).await.unwrap();
    assert_eq!(resolve(Some(ReportId::new())).await, Resolved::NoSuchReport);
    assert!(matches!(resolve(None).await, Resolved::Ended(_)));
}

async fn of_resolutions_at_once_one_counts(world: World) {
    let store = world.store();
    let (id, own) = waiting(&*store).await;
    let other = rival(&*store, own, "second").await.report.id;
    let all = (0..12_usize).map(|n| {
        let store = world.replica(n);
        let report = [Some(own), Some(other), None][n % 3];
        async move { store.resolve(id, report, &by(at(1)), &three()).await.unwrap() }
    });
    let told = futures::future::join_all(all).await;
    assert_eq!(told.iter().filter(|one| matches!(one, Resolved::Ended(_))).count(), 1);
    assert_eq!(told.iter().filter(|one| **one == Resolved::Before).count(), 11);
    assert_eq!(audit(&*store).await.len(), 1);
    assert!(verified_chain(&*store, "s").await.len() <= 2);
}

async fn a_dispute_goes_into_the_archive_comes_back_whole_and_is_deleted_with_its_reports(world: World) {
    let store = world.store();
    put(&*store, b"blob", 9).await;
    let (id, own) = waiting(&*store).await;
    rival(&*store, own, "second").await;
    let whole = dispute(&*store, id).await;
    let places = async || [store.place(id, false).await.unwrap(), store.place(id, true).await.unwrap()];
    assert_eq!(places().await, [Some(whole.place.clone()), None]);
    assert_eq!(store.cleanup(&rule(0), false).await.unwrap().archived_packages, 1);
    assert_eq!(places().await, [None, Some(whole.place.clone())]);
    assert_eq!(store.dispute(id).await.unwrap(), None);
    assert_eq!(store.resolve(id, Some(own), &by(at(1)), &three()).await.unwrap(), Resolved::NotDisputed);
    assert_eq!(store.archived_report(id).await.unwrap().as_ref(), Some(&whole.reports[0]));
    store.restore(id, &by(at(1))).await.unwrap();
    assert_eq!(dispute(&*store, id).await, whole);
    assert_eq!(store.cleanup(&rule(40), false).await.unwrap().archived_packages, 1);
    assert_eq!(store.cleanup(&rule(50), false).await.unwrap().deleted_packages, 1);
    if let Some(dsn) = &world.dsn {
        let left = "select (select count(*) from rival_reports) + (select count(*) from attestations)
            + (select count(*) from disputes)";
        assert_eq!(postgres::number(dsn, left).await, 0);
    }
}
