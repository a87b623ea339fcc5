//! Laws of claims: they outlive neither a processor that is silent for too long nor a node that is gone, and honest work keeps them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use futures::future::join_all;
use jam_domain::refine::Engine;
use jam_store::{PostgresConfig, PostgresStore, Store, StoreError};

use crate::api_support::until;
use crate::store_fixture::{engine, engine_that, frozen, package, signed, verified_chain};
use crate::support::postgres;

async fn patient_for(dsn: &str, seconds: u64) -> PostgresStore {
    let config = PostgresConfig { claim_timeout: Duration::from_secs(seconds), ..PostgresConfig::new(dsn) };
    PostgresStore::connect(config).await.unwrap()
}

async fn submit(store: &PostgresStore, count: usize) {
    let engine = engine();
    let submitted = join_all((0..count).map(|_| store.submit(package("s"), &engine))).await;
    assert!(submitted.iter().all(Result::is_ok), "{submitted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_claim_of_a_silent_processor_is_taken_back_and_nothing_is_done_twice() {
    let dsn = postgres::migrated_database().await;
    let (silent, other) = (patient_for(&dsn, 4).await, patient_for(&dsn, 60).await);
    submit(&other, 3).await;
    let (frozen, heard, go) = frozen();
    let batch = {
        let silent = silent.clone();
        tokio::spawn(async move { silent.process(3, &frozen).await })
    };
    until("the batch", async || heard.try_recv().ok()).await;
    assert!(other.process(3, &engine()).await.unwrap().is_empty(), "it holds its claim for a while");
    let taken = async || Some(other.process(3, &engine()).await.unwrap().len()).filter(|count| *count > 0);
    assert_eq!(until("the end of the claim", taken).await, 3);
    drop(go);
    let late = batch.await.unwrap();
    assert!(matches!(late, Err(StoreError::Unavailable(_))), "{late:?}");
    assert_eq!(postgres::number(&dsn, "select count(*) from reports").await, 3);
    assert_eq!(postgres::number(&dsn, "select count(*) from attestations").await, 3);
    assert_eq!(verified_chain(&other, "s").await.len(), 6);
    // It goes on as if nothing had been.
    submit(&silent, 1).await;
    assert_eq!(silent.process(3, &engine()).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_long_batch_keeps_its_claim_by_signs_of_life() {
    let dsn = postgres::migrated_database().await;
    let (steady, other) = (patient_for(&dsn, 4).await, patient_for(&dsn, 60).await);
    submit(&other, 5).await;
    // More than the four seconds in all, far less for each.
    let (begun, heard) = mpsc::channel();
    let slow = engine_that(move |_| {
        let _ = begun.send(());
        #[allow(clippy::disallowed_methods)] // the refiner is synchronous, and being slow is what it is for
        std::thread::sleep(Duration::from_millis(1_200));
        Ok(())
    });
    let batch = tokio::spawn(async move { steady.process(5, &slow).await });
    until("the batch", async || heard.try_recv().ok()).await;
    while !batch.is_finished() {
        assert_eq!(other.process(1, &engine()).await.unwrap(), []);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(batch.await.unwrap().unwrap().len(), 5);
    assert_eq!(verified_chain(&other, "s").await.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_a_batch_is_refined_its_chain_is_free_for_others() {
    let dsn = postgres::migrated_database().await;
    let (slow, other) = (patient_for(&dsn, 60).await, patient_for(&dsn, 60).await);
    submit(&other, 3).await;
    let (frozen, heard, go) = frozen();
    let batch = tokio::spawn(async move { slow.process(3, &frozen).await });
    until("the batch", async || heard.try_recv().ok()).await;
    // Packages of the same service are submitted, and processed by others, while it holds its claim.
    submit(&other, 2).await;
    assert_eq!(other.process(100, &engine()).await.unwrap().len(), 2);
    assert_eq!(verified_chain(&other, "s").await.len(), 7);
    drop(go);
    assert_eq!(batch.await.unwrap().unwrap().len(), 3);
    assert_eq!(verified_chain(&other, "s").await.len(), 10);
}

/// The kernel's timer of the server's end of a connection, as `/proc/net/tcp` shows it: which, and in how many hundredths of a
/// second.
fn timer(server: i64, client: i64) -> Option<(u8, u64)> {
    let port = |address: &str| i64::from_str_radix(address.rsplit(':').next()?, 16).ok();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| (port(row[1]), port(row[2])) == (Some(server), Some(client)))?;
    let (kind, left) = row[5].split_once(':')?;
    Some((kind.parse().ok()?, u64::from_str_radix(left, 16).ok()?))
}

/// The timer of the kernel that asks a silent peer.
const KEEPALIVE: u8 = 2;

#[tokio::test(flavor = "multi_thread")]
async fn the_database_asks_a_silent_client_within_seconds_whether_it_is_still_there() {
    let dsn = postgres::migrated_database().await;
    let store = patient_for(&dsn, 60).await;
    store.ping().await.unwrap();
    let of_the_store = "select client_port::bigint from pg_stat_activity
        where datname = current_database() and application_name = 'jam-api'";
    let (client, server) =
        (postgres::number(&dsn, of_the_store).await, postgres::number(&dsn, "select inet_server_port()::bigint").await);
    let asks = async || timer(server, client).filter(|(kind, _)| *kind == KEEPALIVE);
    let (_, hundredths) = until("the timer", asks).await;
    assert!(hundredths <= 2_000, "the first question comes in {hundredths} hundredths of a second");
}

/// How many callers have begun, and who waits for that.
type Begun = Arc<(Mutex<usize>, Condvar)>;

/// An engine that holds its batch until so many have begun, or for as long as nobody would wait.
fn together(begun: Begun, callers: usize) -> Engine {
    let counted = AtomicBool::new(false);
    engine_that(move |_| {
        if !counted.swap(true, Ordering::SeqCst) {
            tokio::task::block_in_place(|| {
                let mut count = begun.0.lock().unwrap();
                *count += 1;
                begun.1.notify_all();
                let waited = begun.1.wait_timeout_while(count, Duration::from_secs(20), |count| *count < callers);
                drop(waited.unwrap());
            });
        }
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_large_packages_each_of_those_who_call_at_once_gets_some() {
    let dsn = postgres::migrated_database().await;
    let store = patient_for(&dsn, 60).await;
    for _ in 0..12 {
        let mut large = package("s");
        large.package.nonce = "n".repeat(1_000_000);
        store.submit(signed(large), &engine()).await.unwrap();
    }
    let begun = Begun::default();
    let calls = (0..3).map(|_| {
        let (dsn, engine) = (dsn.clone(), together(Arc::clone(&begun), 3));
        tokio::spawn(async move { patient_for(&dsn, 60).await.process(12, &engine).await.unwrap().len() })
    });
    let counts: Vec<usize> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(*begun.0.lock().unwrap(), 3, "each has some in hand while the others have theirs: {counts:?}");
    assert_eq!(counts.iter().sum::<usize>(), 12);
    assert_eq!(verified_chain(&store, "s").await.len(), 24);
}
