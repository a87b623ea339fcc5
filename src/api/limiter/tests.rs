//! Tests of the limiter: counted alone, and with a store that shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use jam_domain::limit::{Ask, Grant, Lease};
use jam_store::{Limits, MemoryStore, Reset, SharedBucket, StoreError};

use super::table::MOST;
use super::*;

fn key(n: u32) -> Key {
    Key::Address(IpAddr::from(n.to_be_bytes()))
}

fn own() -> Limiter {
    Limiter::of(&MemoryStore::new())
}

fn held(limiter: &Limiter) -> usize {
    match limiter {
        Limiter::Own(table) => locked(table).buckets.len(),
        Limiter::Shared(shared) => shared.len(),
    }
}

/// A store whose every bucket is empty, or that does not answer.
#[derive(Default)]
struct Empty {
    asked: AtomicUsize,
    given_back: AtomicUsize,
    is_away: AtomicBool,
}

#[async_trait]
impl Limits for Empty {
    async fn lease(&self, _: &str, ask: Ask) -> Stored<Grant> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("away".into()));
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(ask.grant(None, Timestamp::now().as_micros()))
    }

    async fn give_back(&self, unspent: &[(String, Lease)]) -> Stored<()> {
        self.given_back.fetch_add(unspent.len(), Ordering::Relaxed);
        Ok(())
    }

    async fn buckets(&self, _: u32) -> Stored<Vec<SharedBucket>> {
        Ok(Vec::new())
    }

    async fn reset(&self, _: &str) -> Stored<bool> {
        Ok(true)
    }

    async fn resets(&self) -> Stored<Vec<Reset>> {
        Ok(Vec::new())
    }

    async fn forget_idle(&self) -> Stored<u64> {
        Ok(0)
    }
}

fn shared() -> (Limiter, Arc<Empty>) {
    let store = Arc::new(Empty::default());
    (Limiter::Shared(Shared::on(store.clone())), store)
}

#[tokio::test]
async fn idle_keys_are_dropped_and_the_table_is_bounded() {
    let (limiter, rate) = (own(), Rate::per_minute(60).unwrap());
    let now = Timestamp::from_micros(1_000_000_000);
    for n in 0..50_000 {
        limiter.count(key(n), rate, now).await;
    }
    assert_eq!(held(&limiter), 50_000);
    let later = now.plus_seconds(60);
    for n in 0..120_000 {
        limiter.count(key(1_000_000 + n), rate, later).await;
    }
    assert!(held(&limiter) <= MOST + 1);
    limiter.count(key(7), rate, later.plus_seconds(60)).await;
    assert!(held(&limiter) < 10);
}

#[tokio::test]
async fn a_million_keys_of_a_shared_limit_take_no_more_than_the_table_and_strangers_share_one_bucket() {
    let ((limiter, store), rate) = (shared(), Rate::per_minute(10).unwrap());
    let now = Timestamp::now();
    for n in 0..1_000_000 {
        limiter.count(key(n), rate, now).await;
    }
    assert_eq!(held(&limiter), MOST + 1);
    // The strangers' one bucket refuses without asking.
    let asked = store.asked.load(Ordering::Relaxed);
    assert!(asked < MOST + 1000, "{asked}");
    assert!(limiter.count(key(1_000_001), rate, now).await.retry_after.is_some());
    assert!(limiter.count(key(1), rate, now).await.retry_after.is_none(), "those who are counted are not pushed out");
}

#[tokio::test]
async fn keys_do_not_count_for_each_other() {
    let (limiter, rate) = (own(), Rate::per_minute(1).unwrap());
    let now = Timestamp::from_micros(0);
    assert!(limiter.count(key(1), rate, now).await.retry_after.is_none());
    assert!(limiter.count(key(1), rate, now).await.retry_after.is_some());
    assert!(limiter.count(key(2), rate, now).await.retry_after.is_none());
}

#[tokio::test]
async fn a_bucket_is_listed_until_it_is_emptied() {
    let (limiter, rate, now) = (own(), Rate::per_minute(1).unwrap(), Timestamp::now());
    limiter.count(key(1), rate, now).await;
    let used = limiter.buckets(9, now).await.unwrap();
    assert_eq!(used.iter().map(|used| used.key.as_str()).collect::<Vec<_>>(), ["address:0.0.0.1"]);
    assert_eq!(rate.look(used[0].bucket, now).remaining, 0);
    assert!(limiter.reset("address:0.0.0.1").await.unwrap() && !limiter.reset("address:0.0.0.1").await.unwrap());
    assert!(limiter.count(key(1), rate, now).await.retry_after.is_none());
    assert_eq!(limiter.buckets(9, now.plus_seconds(61)).await.unwrap(), []);
}

#[tokio::test]
async fn while_the_store_is_away_the_process_keeps_the_limit_alone_and_forgets_nothing_of_it() {
    let ((limiter, store), rate) = (shared(), Rate::per_minute(10).unwrap());
    let passed = async |limiter: &Limiter| {
        let mut passed = 0;
        for _ in 0..20 {
            passed += usize::from(limiter.count(key(1), rate, Timestamp::now()).await.retry_after.is_none());
        }
        passed
    };
    for _ in 0..4 {
        assert!(limiter.count(key(1), rate, Timestamp::now()).await.retry_after.is_none());
    }
    store.is_away.store(true, Ordering::Relaxed);
    assert_eq!(passed(&limiter).await, 6, "what was admitted before counts");
    // Its buckets are empty when it comes back, as after a crash.
    store.is_away.store(false, Ordering::Relaxed);
    assert_eq!(passed(&limiter).await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_lies_unspent_is_given_back_at_the_stop() {
    let ((limiter, store), rate) = (shared(), Rate::per_minute(600).unwrap());
    limiter.count(key(1), rate, Timestamp::now()).await;
    let stop = CancellationToken::new();
    stop.cancel();
    limiter.keep(stop).await;
    assert_eq!(store.given_back.load(Ordering::Relaxed), 1);
}
