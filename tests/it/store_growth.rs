//! Nothing gets slower as packages are kept: what submitting, claiming and listing touch, in pages that no busy machine can blur.

use jam_domain::page::{PackageFilter, PageRequest, ReceiptFilter, ReportFilter, Start};
use jam_store::{PostgresConfig, PostgresStore, Store};
use sqlx::query_scalar;

use crate::store_fixture::{engine, package};
use crate::support::postgres::{Server, connect, execute};

const FILL: &str = include_str!("support/fill.sql");
/// Enough for every table to be hundreds of pages: what reads a table whole reads tens of times as much.
const STORED: [u32; 2] = [200, 20_000];
const SUBMITTED: usize = 64;

/// Pages that the store's statements read or found in memory since this was last asked.
async fn touched(dsn: &str) -> i64 {
    let mut connection = connect(dsn).await;
    let sum = "select coalesce(sum(shared_blks_hit + shared_blks_read), 0)::bigint
        from pg_stat_statements s join pg_roles r on r.oid = s.userid where r.rolname = 'counted'";
    let sum = query_scalar(sum).fetch_one(&mut connection).await.unwrap();
    sqlx::query("select pg_stat_statements_reset()").execute(&mut connection).await.unwrap();
    sum
}

/// The steps, and the pages each of them touched.
async fn steps(stored: u32) -> Vec<(&'static str, i64)> {
    let server = Server::tuned("-c shared_preload_libraries=pg_stat_statements -c autovacuum=off");
    let dsn = server.migrated_database().await;
    execute(&dsn, "create extension pg_stat_statements; create role counted superuser login").await;
    execute(&dsn, &FILL.replace("ROWS", &stored.to_string())).await;
    execute(&dsn, "vacuum analyze").await;
    let store = PostgresStore::connect(PostgresConfig::new(dsn.replace("postgres@", "counted@"))).await.unwrap();
    let engine = engine();
    // A statement's first run reads catalogues as well, and the first page of everything.
    for warm in [true, false] {
        let mut spent = Vec::new();
        touched(&dsn).await;
        let submissions = (0..SUBMITTED).map(|_| store.submit(package("s"), &engine));
        assert!(futures::future::join_all(submissions).await.iter().all(Result::is_ok));
        spent.push(("submit", touched(&dsn).await));
        assert_eq!(store.process(100, &engine).await.unwrap().len(), SUBMITTED);
        spent.push(("claim and process", touched(&dsn).await));
        assert!(store.process(100, &engine).await.unwrap().is_empty());
        spent.push(("claim nothing", touched(&dsn).await));
        spent.extend(lists(&store, &dsn).await);
        if !warm {
            return spent;
        }
    }
    unreachable!("the second turn returns")
}

async fn lists(store: &PostgresStore, dsn: &str) -> Vec<(&'static str, i64)> {
    let mut spent = Vec::new();
    let middle = store.packages(&PackageFilter::default(), PageRequest { limit: 1, start: Start::Offset(100) }).await;
    let cursor = middle.unwrap().next.expect("there are more than a hundred");
    touched(dsn).await;
    for (name, start) in [("packages", Start::Offset(0)), ("packages after a cursor", Start::After(cursor))] {
        let page = store.packages(&PackageFilter::default(), PageRequest { limit: 50, start }).await.unwrap();
        assert_eq!(page.items.len(), 50);
        spent.push((name, touched(dsn).await));
    }
    let request = || PageRequest { limit: 50, start: Start::Offset(0) };
    let one = PackageFilter { service_id: Some("stored-7".parse().unwrap()), ..PackageFilter::default() };
    assert!(!store.packages(&one, request()).await.unwrap().items.is_empty());
    spent.push(("packages of a service", touched(dsn).await));
    assert_eq!(store.reports(&ReportFilter::default(), request()).await.unwrap().items.len(), 50);
    spent.push(("reports", touched(dsn).await));
    let receipts = PageRequest { limit: 50, start: Start::Offset(0) };
    assert_eq!(store.receipts(&ReceiptFilter::default(), receipts).await.unwrap().items.len(), 50);
    spent.push(("receipts", touched(dsn).await));
    store.pending().await.unwrap();
    spent.push(("pending", touched(dsn).await));
    spent
}

#[tokio::test(flavor = "multi_thread")]
async fn submitting_claiming_and_listing_touch_no_more_pages_when_a_hundred_times_as_much_is_stored() {
    let (few, many) = (steps(STORED[0]).await, steps(STORED[1]).await);
    println!("{few:?}\n{many:?}");
    for ((step, before), (_, now)) in few.into_iter().zip(many) {
        // An index of a hundred times the entries is one level higher; a page of a list holds fifty rows wherever they lie.
        assert!(
            now <= before * 3 / 2 + 100,
            "{step}: {now} pages with {} stored, {before} with {}",
            STORED[1],
            STORED[0]
        );
    }
}
