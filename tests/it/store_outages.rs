//! Laws of a database that crashes, is away, or does not answer.

use std::time::{Duration, Instant};

use jam_store::{Administration as _, PostgresConfig, PostgresStore, Store, StoreError, SubmitError};
use sqlx::{Connection as _, Executor as _};

use crate::api_support::until;
use crate::store_fixture::{by, engine, frozen, package, put, signed, verified_chain};
use crate::support::postgres::{self, Server};

/// As soon as the database takes connections again, its callers get through.
async fn back(store: &PostgresStore) {
    until("the database is back", async || store.ping().await.ok()).await;
}

async fn store_on(dsn: &str) -> PostgresStore {
    PostgresStore::connect(PostgresConfig::new(dsn)).await.unwrap()
}

fn unavailable<T>(answer: &Result<T, StoreError>) -> bool {
    matches!(answer, Err(StoreError::Unavailable(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_accepted_survives_a_crash_of_the_database() {
    let server = Server::private();
    let dsn = server.migrated_database().await;
    let store = store_on(&dsn).await;
    let blob = vec![7; 1_500_000];
    put(&store, &blob, 100_000).await;
    let submitters = (0..16).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut accepted = Vec::new();
            // Until the database is gone: what was answered with success must be there afterwards.
            while let Ok(submitted) = store.submit(package("s"), &engine()).await {
                accepted.push(submitted.package.id);
            }
            accepted
        })
    });
    let submitters: Vec<_> = submitters.collect();
    tokio::time::sleep(Duration::from_millis(400)).await;
    server.crash();
    let mut accepted = Vec::new();
    for submitter in submitters {
        accepted.extend(submitter.await.unwrap());
    }
    assert!(accepted.len() > 16, "the crash comes under load");
    server.start();
    back(&store).await;
    for id in &accepted {
        assert!(store.package(*id).await.unwrap().is_some(), "{id} was accepted");
    }
    assert!(verified_chain(&store, "s").await.len() >= accepted.len());
    let hash = jam_domain::PreimageHash::of(&blob);
    assert!(crate::store_fixture::bytes_of(&store, hash, 0..u64::MAX).await == blob);
    while !store.process(100, &engine()).await.unwrap().is_empty() {}
    verified_chain(&store, "s").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lost_database_is_unavailable_within_seconds_and_heals_by_itself() {
    let server = Server::private();
    let dsn = server.migrated_database().await;
    let store = store_on(&dsn).await;
    store.submit(package("s"), &engine()).await.unwrap();
    server.stop();
    let start = Instant::now();
    let engine = engine();
    let (submitting, processing) = (store.submit(package("s"), &engine), store.process(1, &engine));
    let (ping, schema, submitted, processed) = tokio::join!(store.ping(), store.schema(), submitting, processing);
    assert!(unavailable(&ping) && unavailable(&schema) && unavailable(&processed));
    assert!(matches!(submitted, Err(SubmitError::Store(StoreError::Unavailable(_)))));
    assert!(start.elapsed() < Duration::from_secs(20), "no timing, only: not a hang");
    server.start();
    back(&store).await;
    store.submit(package("s"), &engine).await.unwrap();
    assert_eq!(store.process(10, &engine).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_the_first_failure_nobody_waits_for_a_database_that_is_away() {
    let server = Server::private();
    let dsn = server.migrated_database().await;
    let config = PostgresConfig { acquire_timeout: Duration::from_secs(2), ..PostgresConfig::new(&dsn) };
    let (store, engine) = (PostgresStore::connect(config).await.unwrap(), engine());
    for _ in 0..2 {
        store.submit(package("s"), &engine).await.unwrap();
        server.stop();
        assert!(unavailable(&store.ping().await));
        // Each of these would wait for two seconds: four minutes in all.
        let refused = async {
            for _ in 0..40 {
                assert!(unavailable(&store.ping().await) && unavailable(&store.process(1, &engine).await));
                assert!(store.submit(package("s"), &engine).await.is_err());
            }
        };
        tokio::time::timeout(Duration::from_mins(1), refused).await.expect("not a hang each");
        server.start();
        // Nothing but the callers themselves asks whether it is back.
        back(&store).await;
    }
    store.submit(package("s"), &engine).await.unwrap();
}

/// A way to the database that takes one connection and lets all others wait for ever.
async fn way_for_one(dsn: &str) -> String {
    let (front, rest) = dsn.split_once('@').unwrap();
    let (database, name) = rest.split_once('/').unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let way = format!("{front}@{}/{name}", listener.local_addr().unwrap());
    let database = database.to_owned();
    tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut behind = tokio::net::TcpStream::connect(database).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut first, &mut behind).await;
        });
        let mut held = Vec::new();
        while let Ok(connection) = listener.accept().await {
            held.push(connection);
        }
    });
    way
}

/// What is said by two pings while a batch is under way that holds the only connection there is, of so many at most; and
/// whether the batch is written afterwards.
async fn said_beside_a_batch(max_connections: u32) -> [String; 2] {
    let dsn = postgres::migrated_database().await;
    store_on(&dsn).await.submit(package("s"), &engine()).await.unwrap();
    let acquire_timeout = Duration::from_secs(2);
    let config = PostgresConfig { max_connections, acquire_timeout, ..PostgresConfig::new(way_for_one(&dsn).await) };
    let store = PostgresStore::connect(config).await.unwrap();
    let (frozen, heard, go) = frozen();
    let batch = {
        let store = store.clone();
        tokio::spawn(async move { store.process(1, &frozen).await })
    };
    until("the batch", async || heard.try_recv().ok()).await;
    let said = [store.ping().await.unwrap_err().to_string(), store.ping().await.unwrap_err().to_string()];
    drop(go);
    assert_eq!(batch.await.unwrap().expect("its own connection is sound").len(), 1);
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_busy_pool_is_not_taken_for_an_outage() {
    for said in said_beside_a_batch(1).await {
        assert!(said.contains("every connection is in use"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_has_begun_goes_on_while_others_are_told_that_the_database_is_away() {
    let [first, second] = said_beside_a_batch(2).await;
    assert!(first.contains("does not answer") && second.contains("is away"), "{first}; {second}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_died_in_the_pool_are_replaced_unnoticed() {
    let dsn = postgres::migrated_database().await;
    let store = store_on(&dsn).await;
    for _ in 0..3 {
        // Several connections lie in the pool.
        let pings: Vec<_> = (0..8).map(|_| store.ping()).collect();
        assert!(futures::future::join_all(pings).await.iter().all(Result::is_ok));
        postgres::terminate_connections(&dsn).await;
        store.submit(package("s"), &engine()).await.unwrap();
        postgres::terminate_connections(&dsn).await;
        assert_eq!(store.process(1, &engine()).await.unwrap().len(), 1);
        postgres::terminate_connections(&dsn).await;
        store.ping().await.unwrap();
    }
    verified_chain(&store, "s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_connections_and_never_answers_is_unavailable() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let mute = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok(connection) = silent.accept().await {
            held.push(connection);
        }
    });
    let config = PostgresConfig {
        acquire_timeout: Duration::from_millis(300),
        statement_timeout: Duration::from_millis(300),
        ..PostgresConfig::new(format!("postgres://jam:s3cr%20et@{address}/jam"))
    };
    let store = PostgresStore::connect(config).await.unwrap();
    assert!(unavailable(&store.ping().await));
    assert!(store.submit(package("s"), &engine()).await.is_err());
    mute.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_error_shows_the_password() {
    let refused = PostgresConfig {
        acquire_timeout: Duration::from_millis(300),
        ..PostgresConfig::new("postgres://jam:s3cr%20et@127.0.0.1:1/jam")
    };
    let shown = format!("{refused:?}");
    let store = PostgresStore::connect(refused).await.unwrap();
    let unreachable = store.ping().await.unwrap_err().to_string();
    let unreadable = PostgresStore::connect(PostgresConfig::new("postgres://jam:s3cr%20et@host:port/jam")).await.err();
    let unreadable = unreadable.expect("the port is not a number").to_string();
    for text in [shown, unreachable, unreadable] {
        assert!(!text.contains("s3cr"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_the_schema_is_named_so_and_not_a_fault() {
    let dsn = postgres::fresh_database().await;
    let store = store_on(&dsn).await;
    assert_eq!(store.schema().await.unwrap().found, None);
    assert!(matches!(store.pending().await, Err(StoreError::Schema { found: None, .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_is_unavailable_and_heals() {
    let dsn = postgres::migrated_database().await;
    let limit = "alter role postgres connection limit -1; create role few login connection limit 1;
        grant select, insert, update, delete on all tables in schema public to few";
    postgres::execute(&dsn, limit).await;
    let few = dsn.replace("postgres@", "few@");
    let held = postgres::connect(&few).await;
    let config = PostgresConfig { acquire_timeout: Duration::from_millis(500), ..PostgresConfig::new(&few) };
    let store = PostgresStore::connect(config).await.unwrap();
    assert!(unavailable(&store.ping().await));
    drop(held);
    let healed = async { while store.ping().await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(10), healed).await.unwrap();
}

/// A store with one connection, and another connection that holds this lock.
async fn one_connection_and_a_lock(lock: &'static str) -> (PostgresStore, sqlx::PgConnection) {
    let dsn = postgres::migrated_database().await;
    let statement_timeout = Duration::from_secs(2);
    let config = PostgresConfig { max_connections: 1, statement_timeout, ..PostgresConfig::new(&dsn) };
    let mut other = sqlx::PgConnection::connect(&dsn).await.unwrap();
    other.execute(lock).await.unwrap();
    (PostgresStore::connect(config).await.unwrap(), other)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_whose_beginning_nobody_waits_for_is_left_to_nobody() {
    let (store, mut other) = one_connection_and_a_lock("select pg_advisory_lock(5425451, 4)").await;
    let engine = engine();
    for _ in 0..3 {
        let by = by(jam_domain::Timestamp::now());
        let resolved = store.resolve(jam_domain::PackageId::new(), None, &by, &engine);
        tokio::time::timeout(Duration::from_millis(100), resolved).await.expect_err("it waits for the lock");
        other.execute("select pg_advisory_unlock_all()").await.unwrap();
        store.pending().await.expect("the only connection can be used");
        let free: Result<bool, _> =
            sqlx::query_scalar("select pg_try_advisory_lock(5425451, 4)").fetch_one(&mut other).await;
        assert!(free.unwrap(), "a transaction that was given up while it began holds nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_whose_beginning_fails_is_left_to_nobody() {
    // Somebody else holds what submissions wait for.
    let (store, mut other) = one_connection_and_a_lock("select pg_advisory_lock(5425451, 1)").await;
    for _ in 0..3 {
        assert!(store.submit(package("s"), &engine()).await.is_err());
        store.pending().await.expect("the only connection is in no transaction");
    }
    other.execute("select pg_advisory_unlock_all()").await.unwrap();
    let kept = store.submit(package("s"), &engine()).await.unwrap().package.id;
    other
        .execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'jam-api' and datname = current_database()")
        .await
        .unwrap();
    assert!(store.package(kept).await.unwrap().is_some(), "what was accepted is committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_waits_behind_submissions_that_do_not_get_through_is_told_as_soon_as_those_before() {
    let dsn = postgres::migrated_database().await;
    let (acquire_timeout, statement_timeout) = (Duration::from_secs(1), Duration::from_secs(1));
    let config = PostgresConfig { acquire_timeout, statement_timeout, ..PostgresConfig::new(&dsn) };
    let store = PostgresStore::connect(config).await.unwrap();
    store.submit(package("s"), &engine()).await.unwrap();
    // As a replica does that stands still in the middle of its batch.
    let mut frozen = sqlx::PgConnection::connect(&dsn).await.unwrap();
    frozen.execute("begin; select pg_advisory_xact_lock(5425451, 1)").await.unwrap();
    let calls = (0..32).map(|_| {
        let (store, mut large) = (store.clone(), package("s"));
        large.package.nonce = "n".repeat(1_000_000);
        tokio::spawn(async move { store.submit(signed(large), &engine()).await.unwrap_err().to_string() })
    });
    let said: Vec<String> = futures::future::join_all(calls).await.into_iter().map(Result::unwrap).collect();
    let late = said.iter().filter(|said| said.contains("the submissions before this one took too long")).count();
    assert!(late >= 8, "{late} of 32, a second for each four of them and two in all: {said:?}");
    frozen.execute("rollback").await.unwrap();
    store.submit(package("s"), &engine()).await.unwrap();
    assert_eq!(store.pending().await.unwrap(), 2, "nothing of what was refused was stored");
}
