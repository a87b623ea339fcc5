//! How long to wait before the next try: decorrelated jitter, for each watch and each failing instance its own.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;

use super::key::Key;

/// The pauses of one watch: from half a second to half a minute.
pub const WATCH: Bounds = Bounds { least: Duration::from_millis(500), most: Duration::from_secs(30) };
/// The pauses of one instance: from half a second to five minutes.
pub const INSTANCE: Bounds = Bounds { least: Duration::from_millis(500), most: Duration::from_mins(5) };
/// An instance that has not failed for so long starts from the least pause again.
const FORGET_AFTER: Duration = Duration::from_mins(15);

/// The shortest and the longest pause.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The first pause is at least this.
    pub least: Duration,
    /// No pause is longer.
    pub most: Duration,
}

/// A row of pauses that grow and never march in step with others: each is drawn between the least and three times the last.
#[derive(Debug)]
pub struct Jitter {
    bounds: Bounds,
    last: Duration,
}

impl Jitter {
    /// A row that starts at the least pause.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, last: bounds.least }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let ceiling = (self.last * 3).min(self.bounds.most);
        self.last = if ceiling > self.bounds.least {
            rand::rng().random_range(self.bounds.least..=ceiling)
        } else {
            self.bounds.least
        };
        self.last
    }

    /// Starts again from the least pause.
    pub fn reset(&mut self) {
        self.last = self.bounds.least;
    }
}

/// The pauses of every instance that fails; those that recovered or are gone are forgotten.
#[derive(Debug, Default)]
pub struct Retries(Mutex<HashMap<Key, (Jitter, Instant)>>);

impl Retries {
    /// The pause before an instance that failed is tried again.
    pub fn pause(&self, key: &Key) -> Duration {
        let now = Instant::now();
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failing.retain(|_, (_, at)| now.duration_since(*at) < FORGET_AFTER);
        let (jitter, at) = failing.entry(key.clone()).or_insert_with(|| (Jitter::new(INSTANCE), now));
        *at = now;
        jitter.pause()
    }

    /// An instance succeeded or is gone.
    pub fn forget(&self, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// How many instances are failing.
    pub fn failing(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_within_their_bounds_and_reach_the_longest() {
        let mut jitter = Jitter::new(INSTANCE);
        let pauses: Vec<_> = (0..200).map(|_| jitter.pause()).collect();
        assert!(pauses.iter().all(|pause| (INSTANCE.least..=INSTANCE.most).contains(pause)));
        assert!(pauses[0] <= INSTANCE.least * 3, "the first pause is short");
        assert!(pauses.iter().max().unwrap() > &Duration::from_mins(1), "they grow");
    }

    #[tokio::test(start_paused = true)]
    async fn each_instance_has_its_own_pauses_and_a_success_ends_them() {
        let retries = Retries::default();
        let (one, other) = (Key::new("jam", "one"), Key::new("jam", "other"));
        for _ in 0..50 {
            retries.pause(&one);
        }
        assert!(retries.pause(&other) <= INSTANCE.least * 3, "the other starts from the least");
        retries.forget(&one);
        assert!(retries.pause(&one) <= INSTANCE.least * 3, "and so does one that recovered");
        tokio::time::advance(FORGET_AFTER).await;
        retries.pause(&other);
        assert_eq!(retries.failing(), 1, "who has not failed for long is forgotten");
    }
}
