//! A bounded table of buckets: who is idle is dropped, and beyond the bound strangers share one bucket.

use std::collections::HashMap;

use jam_domain::Timestamp;
use jam_domain::limit::Bucket;

use super::Key;

/// Buckets at most; beyond, strangers share one bucket rather than push out those who are counted.
pub(super) const MOST: usize = 100_000;
/// Buckets below which nothing is swept.
const FEW: usize = 1_024;

/// What the table keeps of one key.
pub trait Kept {
    /// Whether it is as good as none.
    fn is_idle(&self, now: Timestamp) -> bool;
}

impl Kept for Bucket {
    fn is_idle(&self, now: Timestamp) -> bool {
        Bucket::is_idle(*self, now)
    }
}

/// The table.
pub struct Table<T> {
    pub(super) buckets: HashMap<Key, T>,
    sweep_size: usize,
    sweep_time: Option<Timestamp>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { buckets: HashMap::new(), sweep_size: 0, sweep_time: None }
    }
}

impl<T: Kept> Table<T> {
    /// The key, or the crowd's when it is new and there is no room for it.
    pub(super) fn room_for(&mut self, key: Key, now: Timestamp) -> Key {
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
