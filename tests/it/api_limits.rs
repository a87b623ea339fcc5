//! The rate limit of several servers on one database: never more in sum, at few statements, through crashes and resets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use jam_domain::limit::{Ask, Grant, Rate};
use jam_domain::token::TokenHash;
use jam_store::{Limits, PostgresConfig, PostgresStore, Store};
use tokio::task::spawn_blocking;

use crate::api_support::{Server, TOKEN, World, answer, file, package, until};
use crate::support::postgres::{self, execute, number};

/// What a crowd of clients was told.
struct Told {
    passed: usize,
    asked: usize,
    took: Duration,
}

impl Told {
    /// The limit was reached, and nobody was let in beyond it and what the time refilled.
    fn keeps(&self, limit: usize) {
        let refilled = usize::try_from(self.took.as_micros()).unwrap() * limit / 60_000_000 + 1;
        let Self { passed, asked, took } = self;
        assert!((limit..=limit + refilled).contains(passed), "{passed} of {asked} passed in {took:?}");
    }
}

/// Eight clients at each server, until so many requests were answered.
async fn storm<F: Future<Output = u16>>(servers: &[Server], requests: usize, ask: impl Fn(usize) -> F) -> Told {
    let (asked, passed, began) = (AtomicUsize::new(0), AtomicUsize::new(0), Instant::now());
    let client = async |server: usize| {
        while asked.fetch_add(1, Ordering::Relaxed) < requests {
            match ask(server).await {
                200 | 201 => drop(passed.fetch_add(1, Ordering::Relaxed)),
                status => assert_eq!(status, 429),
            }
        }
    };
    join_all((0..servers.len() * 8).map(|n| client(n % servers.len()))).await;
    Told { passed: passed.into_inner(), asked: requests, took: began.elapsed() }
}

async fn three(dsn: &str, settings: &[(&str, &str)]) -> Vec<Server> {
    let world = World::on(dsn);
    vec![world.with(settings).await, world.with(settings).await, world.with(settings).await]
}

async fn limits(dsn: &str) -> Arc<dyn Limits> {
    PostgresStore::connect(PostgresConfig::new(dsn)).await.unwrap().limits().unwrap()
}

/// What passes between a server's count and ours: less than a second burst by far.
const SLACK: Duration = Duration::from_secs(3);

fn bucket() -> String {
    format!("token:{}", TokenHash::of(TOKEN).id())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_under_load_never_admit_more_than_the_limit_and_rarely_ask_the_database() {
    let database = postgres::Server::tuned("-c shared_preload_libraries=pg_stat_statements");
    let dsn = database.migrated_database().await;
    execute(&dsn, "create extension pg_stat_statements").await;
    let servers = three(&dsn, &[("JAM_RATE_LIMIT_PER_MINUTE", "600")]).await;
    let told = storm(&servers, 3000, async |n| servers[n].get("/jam/status").await.status).await;
    told.keeps(600);
    let asked = number(&dsn, "select sum(calls)::bigint from pg_stat_statements where query like '%into rate_limits%'");
    let (asked, k) = (asked.await, i64::from(Rate::per_minute(600).unwrap().lease_size()));
    assert!(asked > 0 && asked * k <= 3000, "{asked} leases of {k} for 3000 requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_accept_no_more_packages_of_a_service_than_its_own_limit() {
    let dsn = postgres::migrated_database().await;
    let (_dir, path) = file("services.json", r#"[{"id": "few", "max_packages_per_minute": 40}]"#);
    let servers =
        three(&dsn, &[("JAM_SERVICES_FILE", path.to_str().unwrap()), ("JAM_MAX_PENDING_PACKAGES", "0")]).await;
    let submit = async |n: usize| servers[n].post("/jam/packages", &package("few", "")).await.status;
    let told = storm(&servers, 300, submit).await;
    told.keeps(40);
    assert_eq!(number(&dsn, "select count(*) from packages").await, i64::try_from(told.passed).unwrap());
    servers[0].submit("other", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_unspent_in_one_server_is_given_back_and_the_other_gets_the_whole_limit() {
    let dsn = postgres::migrated_database().await;
    let servers = three(&dsn, &[("JAM_RATE_LIMIT_PER_MINUTE", "60")]).await;
    servers[0].get("/jam/status").await.expect(200);
    let unspent = "select count(*) from rate_limits
        where filled_until > (extract(epoch from now()) * 1000000)::bigint + 1000000";
    until("the return of the lease", async || (number(&dsn, unspent).await == 0).then_some(())).await;
    let mut passed = 0;
    while servers[1].get("/jam/status").await.status == 200 {
        passed += 1;
    }
    assert!(passed >= 59, "{passed} passed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_seen_and_emptied_for_every_server() {
    let dsn = postgres::migrated_database().await;
    let limits = limits(&dsn).await;
    let servers = three(&dsn, &[("JAM_RATE_LIMIT_PER_MINUTE", "6")]).await;
    let told = storm(&servers, 200, async |n| servers[n].get("/jam/status").await.status).await;
    told.keeps(6);
    let used = limits.buckets(9).await.unwrap();
    assert_eq!(used.iter().map(|used| &used.key).collect::<Vec<_>>(), [&bucket()]);
    assert!(used[0].filled > 0);
    assert!(limits.reset(&bucket()).await.unwrap() && !limits.reset("token:nobody").await.unwrap());
    for server in &servers {
        until("the reset", async || (server.get("/jam/status").await.status == 200).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_killed_gives_nobody_a_second_burst_and_its_outage_refuses_nobody_within_the_limit() {
    let database = Arc::new(postgres::Server::private());
    let dsn = database.migrated_database().await;
    let server = World::on(&dsn).with(&[("JAM_RATE_LIMIT_PER_MINUTE", "20")]).await;
    let began = Instant::now();
    for _ in 0..10 {
        server.get("/jam/status").await.expect(200);
    }
    database.kill().await;
    // What needs no store goes on being answered, and counted.
    let mut passed = 10;
    for answered in join_all((0..40).map(|_| server.get("/system/status"))).await {
        if answered.status != 429 {
            assert_eq!(answered.expect(200).json()["jam"]["health"]["store_ok"], false);
            passed += 1;
        }
    }
    Told { passed, asked: passed, took: began.elapsed() + SLACK }.keeps(20);
    let killed = Arc::clone(&database);
    spawn_blocking(move || killed.start()).await.unwrap();
    assert_eq!(number(&dsn, "select count(*) from rate_limits").await, 0, "the crash took the buckets");
    for _ in 0..20 {
        passed += usize::from(server.get("/jam/status").await.status == 200);
    }
    Told { passed, asked: passed, took: began.elapsed() + SLACK }.keeps(20);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_leases_by_the_rule_of_the_domain() {
    let limits = limits(&postgres::migrated_database().await).await;
    for (per_minute, floor) in [(60, 0), (1, 0), (1000, 0), (7, i64::MAX / 4), (600, 1)] {
        let rate = Rate::per_minute(per_minute).unwrap();
        let ask = Ask { floor, ..rate.ask(0) };
        let mut bucket = None;
        for n in 0..30 {
            let grant = limits.lease(&format!("key {per_minute}"), ask).await.unwrap();
            assert_eq!(grant, ask.grant(bucket, grant.now), "{per_minute} {n}");
            let Grant { lease, now: _ } = grant;
            bucket = Some(lease.end);
            if n % 4 == 3 {
                let unspent = jam_domain::limit::Lease { next: lease.next.midpoint(lease.end), ..lease };
                limits.give_back(&[(format!("key {per_minute}"), unspent)]).await.unwrap();
                bucket = Some(unspent.next);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_idle_buckets_are_removed_and_those_in_use_stay() {
    let dsn = postgres::migrated_database().await;
    let limits = limits(&dsn).await;
    let rows = "insert into rate_limits select 'address:' || n, n, 1 from generate_series(1, 1000000) n";
    execute(&dsn, rows).await;
    // In use for longer than the removal takes anywhere.
    let ask = Ask { floor: 0, length: 3_600_000_000, horizon: 7_200_000_000 };
    for key in ["token:a", "address:5"] {
        limits.lease(key, ask).await.unwrap();
    }
    while limits.forget_idle().await.unwrap() > 0 {}
    assert_eq!(number(&dsn, "select count(*) from rate_limits").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_gives_back_what_it_did_not_spend() {
    let dsn = postgres::migrated_database().await;
    let mut server = World::on(&dsn).with(&[("JAM_RATE_LIMIT_PER_MINUTE", "10000")]).await;
    answer(server.request("GET", "/jam/status")).await.expect(200);
    server.signal("TERM").await;
    assert!(server.ended().await.success());
    let left = "select count(*) from rate_limits
        where filled_until > (extract(epoch from now()) * 1000000)::bigint + 1000000";
    assert_eq!(number(&dsn, left).await, 0);
}
