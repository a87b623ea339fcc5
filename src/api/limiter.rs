//! The rate limiter: buckets of this process alone, or leases of buckets that every process on one store shares.

mod shared;
mod table;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jam_domain::limit::{Bucket, Rate, Verdict};
use jam_domain::{ServiceId, Timestamp, TokenId};
use jam_store::{Store, Stored};
use tokio_util::sync::CancellationToken;

use shared::Shared;
use table::Table;

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

/// The limiter.
pub enum Limiter {
    /// Counts alone.
    Own(Mutex<Table<Bucket>>),
    /// Counts together with every process on the store.
    Shared(Shared),
}

impl Limiter {
    /// The limiter of a process on this store.
    pub fn of(store: &dyn Store) -> Self {
        match store.limits() {
            Some(limits) => Self::Shared(Shared::on(limits)),
            None => Self::Own(Mutex::default()),
        }
    }

    /// Counts one request of the key and decides about it.
    pub async fn count(&self, key: Key, rate: Rate, now: Timestamp) -> Verdict {
        match self {
            Self::Own(table) => {
                let mut table = locked(table);
                let key = table.room_for(key, now);
                let verdict = rate.decide(table.buckets.get(&key).copied(), now);
                table.buckets.insert(key, verdict.bucket);
                verdict
            }
            Self::Shared(shared) => shared.count(key, rate, now).await,
        }
    }

    /// Gives back what lies unspent, hears of resets and drops what is idle, until the stop; then gives everything back.
    pub async fn keep(&self, stop: CancellationToken) {
        match self {
            Self::Own(_) => {}
            Self::Shared(shared) => shared.keep(stop).await,
        }
    }

    /// Buckets that are not empty, by key, at most so many: of every process where they are shared.
    pub async fn buckets(&self, most: u32, now: Timestamp) -> Stored<Vec<InUse>> {
        match self {
            Self::Own(table) => {
                let table = locked(table);
                let used = table.buckets.iter().filter(|(_, bucket)| !bucket.is_idle(now));
                let mut used: Vec<_> =
                    used.map(|(key, bucket)| InUse { key: key.to_string(), bucket: *bucket }).collect();
                used.sort_by(|a, b| a.key.cmp(&b.key));
                used.truncate(most as usize);
                Ok(used)
            }
            Self::Shared(shared) => shared.buckets(most, now).await,
        }
    }

    /// Empties a bucket, in every process within two seconds; says whether there was one.
    pub async fn reset(&self, key: &str) -> Stored<bool> {
        match self {
            Self::Own(table) => {
                let mut table = locked(table);
                let known = table.buckets.len();
                table.buckets.retain(|known, _| known.to_string() != key);
                Ok(table.buckets.len() < known)
            }
            Self::Shared(shared) => shared.reset(key).await,
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
