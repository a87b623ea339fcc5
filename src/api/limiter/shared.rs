//! Leases in the hands of one process: spent without asking, asked for by one request at a time, given back when idle.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jam_domain::Timestamp;
use jam_domain::limit::{Ask, Bucket, Grant, Lease, Rate, Verdict};
use jam_store::{Limits, SharedBucket, Stored};
use tokio_util::sync::CancellationToken;

use super::table::{Kept, Table};
use super::{InUse, Key, locked};

/// Requests that ask at the same time; those of one key always share a turn, so that one asks and the others find its lease.
const TURNS: usize = 64;
/// A lease is given back when nobody wanted a slot of it for so long, in microseconds.
const UNWANTED: i64 = 1_000_000;
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many looks pass between two removals of empty buckets.
const LOOKS_A_SWEEP: u32 = 30;

/// The leases of this process.
pub struct Shared {
    limits: Arc<dyn Limits>,
    table: Mutex<Table<Held>>,
    turns: Vec<tokio::sync::Mutex<()>>,
    hasher: RandomState,
    /// The store does not answer, and this process counts alone.
    alone: AtomicBool,
}

/// What this process holds of one bucket.
#[derive(Debug, Clone, Copy)]
struct Held {
    lease: Lease,
    /// The shared clock less ours, in microseconds: as of the moment when the answer came, so that a slot is never taken
    /// before its time.
    ahead: i64,
    /// Of the shared clock: asking earlier is no use.
    ask_at: i64,
    /// Of our clock: when a slot was last wanted.
    wanted: i64,
}

impl Held {
    const NOTHING: Self = Self { lease: Lease { next: 0, end: 0 }, ahead: 0, ask_at: 0, wanted: 0 };

    /// Our time on the shared clock.
    fn clock(&self, now: Timestamp) -> i64 {
        now.as_micros() + self.ahead
    }

    fn spend(&mut self, rate: Rate, now: Timestamp) -> Option<Verdict> {
        self.wanted = now.as_micros();
        let clock = self.clock(now);
        let refused = clock < self.ask_at;
        self.lease.spend(rate, clock).or_else(|| refused.then(|| self.lease.refuse(rate, clock)))
    }

    /// Takes out what lies unspent and would go on being missed elsewhere.
    fn take_unwanted(&mut self, now: Timestamp) -> Option<Lease> {
        let clock = self.clock(now);
        let unspent = self.lease.unspent(clock).filter(|lease| lease.end > clock + UNWANTED)?;
        self.lease = Lease::spent(unspent.next);
        Some(unspent)
    }
}

impl Kept for Held {
    fn is_idle(&self, now: Timestamp) -> bool {
        self.lease.end <= self.clock(now)
    }
}

impl Shared {
    pub(super) fn on(limits: Arc<dyn Limits>) -> Self {
        Self {
            limits,
            table: Mutex::default(),
            turns: (0..TURNS).map(|_| tokio::sync::Mutex::default()).collect(),
            hasher: RandomState::new(),
            alone: AtomicBool::new(false),
        }
    }

    pub(super) async fn count(&self, key: Key, rate: Rate, now: Timestamp) -> Verdict {
        let key = locked(&self.table).room_for(key, now);
        if let Some(verdict) = self.spend(&key, rate, now) {
            return verdict;
        }
        let turn = usize::try_from(self.hasher.hash_one(&key) % TURNS as u64).unwrap_or(0);
        let _turn = self.turns[turn].lock().await;
        // Whoever had the turn before may have asked for all of us.
        let now = Timestamp::now();
        if let Some(verdict) = self.spend(&key, rate, now) {
            return verdict;
        }
        let held = locked(&self.table).buckets.get(&key).copied().unwrap_or(Held::NOTHING);
        let ask = rate.ask(held.lease.next);
        let grant = self.ask(&key, held, ask).await;
        let received = Timestamp::now();
        let lease = held.lease.joined(grant.lease);
        let ask_at = if grant.lease.next < grant.lease.end { 0 } else { ask.worth_at(lease.next) };
        let mut held = Held { lease, ahead: grant.now - received.as_micros(), ask_at, wanted: received.as_micros() };
        let verdict = held.spend(rate, received).unwrap_or_else(|| held.lease.refuse(rate, held.clock(received)));
        locked(&self.table).buckets.insert(key, held);
        verdict
    }

    fn spend(&self, key: &Key, rate: Rate, now: Timestamp) -> Option<Verdict> {
        locked(&self.table).buckets.get_mut(key).and_then(|held| held.spend(rate, now))
    }

    /// A lease of the store or, while it does not answer, one of our own making: then each process keeps the limit alone
    /// (docs/adr/0027).
    async fn ask(&self, key: &Key, held: Held, ask: Ask) -> Grant {
        match self.limits.lease(&key.to_string(), ask).await {
            Ok(grant) => {
                if self.alone.swap(false, Ordering::Relaxed) {
                    tracing::info!("the rate limit is shared again");
                }
                grant
            }
            Err(error) => {
                if !self.alone.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the rate limit is counted by this process alone until the store answers");
                }
                ask.grant(None, held.clock(Timestamp::now()))
            }
        }
    }

    pub(super) async fn keep(&self, stop: CancellationToken) {
        let (mut told, mut looks) = (HashSet::new(), 0_u32);
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let now = Timestamp::now();
            self.give_back(|held| held.wanted + UNWANTED <= now.as_micros()).await;
            looks = (looks + 1) % LOOKS_A_SWEEP;
            let is_empty = locked(&self.table).buckets.is_empty();
            // Whoever holds nothing has nothing to drop; what others left behind is theirs to remove, or the next one's.
            if is_empty {
                continue;
            }
            self.hear(&mut told).await;
            if looks == 0 {
                locked(&self.table).buckets.retain(|_, held| !held.is_idle(now));
                if let Err(error) = forget_idle(self.limits.as_ref()).await {
                    tracing::debug!(%error, "empty buckets of the rate limit are not removed");
                }
            }
        }
        self.give_back(|_| true).await;
    }

    async fn give_back(&self, which: impl Fn(&Held) -> bool) {
        let now = Timestamp::now();
        let mut unspent: Vec<(String, Lease)> = {
            let mut table = locked(&self.table);
            let unwanted = table.buckets.iter_mut().filter(|(_, held)| which(held));
            unwanted.filter_map(|(key, held)| held.take_unwanted(now).map(|lease| (key.to_string(), lease))).collect()
        };
        if unspent.is_empty() {
            return;
        }
        // In one order everywhere, so that no two processes wait for each other.
        unspent.sort_by(|(a, _), (b, _)| a.cmp(b));
        // Lost on the way, they are gone when their time is over.
        if let Err(error) = self.limits.give_back(&unspent).await {
            tracing::debug!(%error, leases = unspent.len(), "unspent leases of the rate limit are not given back");
        }
    }

    /// Drops what is held of buckets that were emptied.
    async fn hear(&self, told: &mut HashSet<i64>) {
        let Ok(resets) = self.limits.resets().await else { return };
        let new: HashSet<&str> = resets.iter().filter(|r| !told.contains(&r.id)).map(|r| r.key.as_str()).collect();
        if !new.is_empty() {
            locked(&self.table).buckets.retain(|key, _| !new.contains(key.to_string().as_str()));
        }
        *told = resets.iter().map(|reset| reset.id).collect();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        locked(&self.table).buckets.len()
    }

    pub(super) async fn buckets(&self, most: u32, now: Timestamp) -> Stored<Vec<InUse>> {
        let used = self.limits.buckets(most).await?.into_iter();
        Ok(used
            .map(|SharedBucket { key, filled }| InUse {
                key,
                bucket: Bucket::until(Timestamp::from_micros(now.as_micros() + filled)),
            })
            .collect())
    }

    pub(super) async fn reset(&self, key: &str) -> Stored<bool> {
        let known = self.limits.reset(key).await?;
        locked(&self.table).buckets.retain(|held, _| held.to_string() != key);
        Ok(known)
    }
}

/// Removes every empty bucket, a short step at a time.
async fn forget_idle(limits: &dyn Limits) -> Stored<()> {
    while limits.forget_idle().await? > 0 {}
    Ok(())
}
