//! The rate limiter of this process: a bounded table of GCRA buckets.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use jam_domain::limit::{Bucket, Rate, Verdict};
use jam_domain::{ServiceId, Timestamp, TokenId};
use jam_store::Stored;

/// Buckets at most; beyond, strangers share one bucket rather than push out those who are counted.
const MOST: usize = 100_000;
/// Buckets below which nothing is swept.
const FEW: usize = 1_024;

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// A token's.
    Token(TokenId),
    /// A client's without a token.
    Address(IpAddr),
    /// Submissions for a service.
    Service(ServiceId),
    /// Everyone's for whom the table has no room.
    Crowd,
}

/// The table.
#[derive(Default)]
pub struct Limiter {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    buckets: HashMap<Key, Bucket>,
    sweep_size: usize,
    sweep_time: Option<Timestamp>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(id) => write!(f, "token:{id}"),
            Self::Address(address) => write!(f, "address:{address}"),
            Self::Service(id) => write!(f, "service:{id}"),
            Self::Crowd => f.write_str("crowd"),
        }
    }
}

/// A bucket that is not empty, for administrators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// Whose: `token:…`, `address:…`, `service:…` or `crowd`.
    pub key: String,
    /// Its state: [`Rate::look`] says what is left of the key's rate.
    pub bucket: Bucket,
}

impl Limiter {
    /// Buckets that are not empty, by key, at most so many.
    #[allow(clippy::unused_async)] // a limiter that is shared asks its store
    pub async fn buckets(&self, most: u32, now: Timestamp) -> Stored<Vec<InUse>> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let used = table.buckets.iter().filter(|(_, bucket)| !bucket.is_idle(now));
        let mut used: Vec<_> = used.map(|(key, bucket)| InUse { key: key.to_string(), bucket: *bucket }).collect();
        used.sort_by(|a, b| a.key.cmp(&b.key));
        used.truncate(most as usize);
        Ok(used)
    }

    /// Empties a bucket; says whether there was one.
    #[allow(clippy::unused_async)] // a limiter that is shared tells its store
    pub async fn reset(&self, key: &str) -> Stored<bool> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let known = table.buckets.len();
        table.buckets.retain(|known, _| known.to_string() != key);
        Ok(table.buckets.len() < known)
    }

    /// Counts one request of the key and decides about it.
    pub fn count(&self, key: Key, rate: Rate, now: Timestamp) -> Verdict {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let key = table.room_for(key, now);
        let verdict = rate.decide(table.buckets.get(&key).copied(), now);
        table.buckets.insert(key, verdict.bucket);
        verdict
    }
}

impl Table {
    /// The key, or the crowd's when it is new and there is no room for it.
    fn room_for(&mut self, key: Key, now: Timestamp) -> Key {
        if self.buckets.len() < self.sweep_size.max(FEW) || self.buckets.contains_key(&key) {
            return key;
        }
        // A sweep looks at every bucket: at most one a second, and the next one waits until the table has doubled.
        if self.sweep_time.is_none_or(|time| time <= now) {
            self.buckets.retain(|_, bucket| !bucket.is_idle(now));
            self.sweep_size = (self.buckets.len() * 2).min(MOST);
            self.sweep_time = Some(now.plus_seconds(1));
        }
        if self.buckets.len() < MOST { key } else { Key::Crowd }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Key {
        Key::Address(IpAddr::from(n.to_be_bytes()))
    }

    #[test]
    fn idle_keys_are_dropped_and_the_table_is_bounded() {
        let (limiter, rate) = (Limiter::default(), Rate::per_minute(60).unwrap());
        let now = Timestamp::from_micros(1_000_000_000);
        for n in 0..50_000 {
            limiter.count(key(n), rate, now);
        }
        assert_eq!(limiter.table.lock().unwrap().buckets.len(), 50_000);
        let later = now.plus_seconds(60);
        for n in 0..120_000 {
            limiter.count(key(1_000_000 + n), rate, later);
        }
        assert!(limiter.table.lock().unwrap().buckets.len() <= MOST + 1);
        limiter.count(key(7), rate, later.plus_seconds(60));
        assert!(limiter.table.lock().unwrap().buckets.len() < 10);
    }

    #[test]
    fn keys_do_not_count_for_each_other() {
        let (limiter, rate) = (Limiter::default(), Rate::per_minute(1).unwrap());
        let now = Timestamp::from_micros(0);
        assert!(limiter.count(key(1), rate, now).retry_after.is_none());
        assert!(limiter.count(key(1), rate, now).retry_after.is_some());
        assert!(limiter.count(key(2), rate, now).retry_after.is_none());
    }
}
