//! Laws of how many words reports have, and of how many of them a page carries.

use std::sync::{Arc, Mutex};

use futures::future::join_all;
use jam_domain::page::{PAGE_BYTES, ReportFilter};
use jam_domain::refine::Engine;
use jam_domain::word::MAX_WORDS;
use jam_domain::{ReportId, WorkReport};
use jam_store::{Attest, Dissent, Store};
use serde_json::json;

use crate::store_fixture::{ALGORITHM, World, all_pages, first, laws, noise, package, word_of};
use crate::support::postgres;

laws!(
    a_report_has_a_thousand_words_and_workers_at_once_get_no_more_in,
    the_reports_that_contradict_it_have_a_thousand_words_together,
    a_page_ends_where_bodies_and_words_reach_its_bytes,
);

/// Workers beyond those that are let in.
const MORE: usize = 9;
/// Workers that have spoken before.
const MOST: usize = 950;
/// Workers that speak at the same time.
const AT_ONCE: usize = 10;

/// The highest threshold that the settings take.
fn highest() -> Engine {
    Engine::hash_refiner(ALGORITHM, 1000, true)
}

async fn refined(store: &dyn Store) -> WorkReport {
    let id = store.submit(package("s"), &highest()).await.unwrap().package.id;
    store.process(1, &highest()).await.unwrap();
    store.report_of(id).await.unwrap().unwrap().report
}

/// What so many workers, several at once and each once, hear.
async fn answers<T: Send + 'static, F>(count: usize, say: impl Fn(usize) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
{
    let mut heard = Vec::new();
    for begin in (0..count).step_by(AT_ONCE) {
        let some = (begin..count.min(begin + AT_ONCE)).map(|n| tokio::spawn(say(n)));
        heard.extend(join_all(some).await.into_iter().map(Result::unwrap));
    }
    heard
}

/// Has most of the workers speak for a report: in a database without its store, which reads all words with each.
async fn most(world: &World, report: ReportId, say: impl AsyncFn(String)) {
    let Some(dsn) = &world.dsn else {
        for n in 0..MOST {
            say(format!("early{n}")).await;
        }
        return;
    };
    let sql = format!(
        "insert into attestations (report_id, worker_id, weight, created_at, body)
         select '{report}', 'early' || n, 1, now(), '{{\"signature\":\"c2ln\",\"engine\":\"e\",\"engine_version\":\"1\"}}'
         from generate_series(1, {MOST}) n"
    );
    postgres::execute(dsn, &sql).await;
}

async fn a_report_has_a_thousand_words_and_workers_at_once_get_no_more_in(world: World) {
    let report = refined(&*world.store()).await;
    let engine = Arc::new(highest());
    most(&world, report.id, async |worker| {
        world.store().attest(report.id, word_of(&worker, report.id, 1), &None, &engine).await.unwrap();
    })
    .await;
    // The local worker has spoken, too.
    let heard = answers(MAX_WORDS - 1 - MOST + MORE, |n| {
        let (store, engine, said) = (world.replica(n), engine.clone(), word_of(&format!("w{n}"), report.id, 1));
        async move { store.attest(report.id, said, &None, &engine).await.unwrap() == Attest::Full }
    });
    assert_eq!(heard.await.into_iter().filter(|full| *full).count(), MORE);
    let bundle = world.store().report_of(report.package_id).await.unwrap().unwrap();
    assert_eq!(bundle.attestations.len(), MAX_WORDS);
    assert!(bundle.receipt.is_some(), "the highest threshold was reached by words of weight 1");
    let again = word_of(&bundle.attestations[1].worker_id, report.id, 1);
    assert_eq!(world.store().attest(report.id, again, &None, &engine).await.unwrap(), Attest::Twice);
}

/// A word for the output of zeros, and the report that it counts for.
async fn dissent(store: &dyn Store, report: ReportId, worker: &str) -> ReportId {
    let said = word_of(worker, report, 1);
    match store.dissent(report, said, &"0".repeat(64), &None).await.unwrap() {
        Dissent::Recorded(Attest::Recorded(bundle)) => bundle.report.id,
        other => panic!("{other:?}"),
    }
}

async fn the_reports_that_contradict_it_have_a_thousand_words_together(world: World) {
    let report = refined(&*world.store()).await;
    let first = dissent(&*world.store(), report.id, "first").await;
    most(&world, first, async |worker| {
        dissent(&*world.store(), report.id, &worker).await;
    })
    .await;
    let heard = answers(MAX_WORDS - 1 - MOST + MORE, |n| {
        let (store, said) = (world.replica(n), word_of(&format!("w{n}"), report.id, 1));
        let output = format!("{:064x}", n % 3);
        async move { store.dissent(report.id, said, &output, &None).await.unwrap() == Dissent::Recorded(Attest::Full) }
    });
    assert_eq!(heard.await.into_iter().filter(|full| *full).count(), MORE);
    let dispute = world.store().dispute(report.package_id).await.unwrap().unwrap();
    let rivals = &dispute.reports[1..];
    assert_eq!((rivals.len(), rivals.iter().map(|rival| rival.attestations.len()).sum()), (3, MAX_WORDS));
}

/// Makes a report and its words so many bytes long, with one more word.
async fn fill(store: &dyn Store, report: &WorkReport, bytes: usize, random: bool) {
    let body = json!({
        "refine_output_hash": report.refine_output_hash, "refine_output_compact": report.refine_output_compact,
    });
    let id = report.package_id;
    let words = store.report_of(id).await.unwrap().unwrap().attestations;
    let mut more = word_of("w", report.id, 1);
    more.signature = String::new();
    let length = |word: &jam_domain::Attestation| {
        let body = json!({"signature": word.signature, "engine": word.engine, "engine_version": word.engine_version});
        body.to_string().len() + word.worker_id.len() + 128
    };
    let taken = body.to_string().len() + words.iter().chain([&more]).map(length).sum::<usize>();
    let left = bytes - taken;
    more.signature = if random { hex::encode(noise(left / 2 + 1, 3))[..left].to_owned() } else { "0".repeat(left) };
    assert!(matches!(store.attest(report.id, more, &None, &highest()).await.unwrap(), Attest::Recorded(_)));
}

async fn a_page_ends_where_bodies_and_words_reach_its_bytes(world: World) {
    let store = world.store();
    let page_bytes = usize::try_from(PAGE_BYTES).unwrap();
    let half = page_bytes / 2;
    // Oldest first: too large, a byte too much with the one after it, two that fill a page to the byte; packing well and badly.
    let mut ids: Vec<ReportId> = Vec::new();
    for (bytes, random) in
        [(page_bytes + 1, true), (half, false), (half + 1, true), (half, false), (half, true), (2000, false)]
    {
        let report = refined(&*store).await;
        fill(&*store, &report, bytes, random).await;
        ids.push(report.id);
    }
    ids.reverse();
    let sizes = Mutex::new(Vec::new());
    let found = all_pages(200, async |page| {
        let page = store.attested_reports(&ReportFilter::default(), page).await.unwrap();
        sizes.lock().unwrap().push(page.items.len());
        page
    });
    let found = found.await;
    assert_eq!(found.iter().map(|(report, _)| report.id).collect::<Vec<_>>(), ids);
    assert_eq!(*sizes.lock().unwrap(), [2, 1, 1, 1, 1]);
    for (report, words) in &found {
        assert_eq!(store.report_of(report.package_id).await.unwrap().unwrap().attestations, *words);
    }
    let bare = store.reports(&ReportFilter::default(), first(200)).await.unwrap();
    assert_eq!((bare.items.len(), bare.next), (6, None), "words that nobody asked for make no page shorter");
}
