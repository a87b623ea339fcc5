//! The rate limit that several processes on one store keep together.

use async_trait::async_trait;
use jam_domain::limit::{Ask, Grant, Lease};

use crate::Stored;

/// A bucket that is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedBucket {
    /// Whose it is.
    pub key: String,
    /// Until when it is filled, in microseconds from now. What lies unspent in the leases of processes counts as filled.
    pub filled: i64,
}

/// An emptied bucket, of which every process drops what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// Which of the resets.
    pub id: i64,
    /// Whose bucket.
    pub key: String,
}

/// Buckets that are shared by leases: see [`jam_domain::limit::Lease`].
#[async_trait]
pub trait Limits: Send + Sync + 'static {
    /// Leases a stretch of the key's bucket. Gives up soon: a request waits for it.
    async fn lease(&self, key: &str, ask: Ask) -> Stored<Grant>;
    /// Gives back what was not spent of these leases, where nobody has leased after them.
    async fn give_back(&self, unspent: &[(String, Lease)]) -> Stored<()>;
    /// Buckets that are not empty, by key, at most so many.
    async fn buckets(&self, limit: u32) -> Stored<Vec<SharedBucket>>;
    /// Empties a bucket for every process; says whether there was one.
    async fn reset(&self, key: &str) -> Stored<bool>;
    /// The resets of the last seconds.
    async fn resets(&self) -> Stored<Vec<Reset>>;
    /// Removes some of the buckets that are empty, in one short step; returns how many.
    async fn forget_idle(&self) -> Stored<u64>;
}
