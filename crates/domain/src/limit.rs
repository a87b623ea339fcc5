//! The rate limit: GCRA, a smooth leaky bucket, as a pure function of the bucket's state and the time.

mod lease;

use crate::time::Timestamp;

pub use lease::{Ask, Grant, Lease};

const MINUTE_MICROS: i64 = 60_000_000;

/// A rate: so many requests a minute, at most that many at once, never a second burst at a window's edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_minute: u32,
}

/// A bucket's state: when it will be empty again (GCRA's theoretical arrival time). A bucket whose time has passed is
/// the same as no bucket, which is what keeps the state bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket(i64);

/// The answer to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The bucket after it; unchanged when the request is refused.
    pub bucket: Bucket,
    /// Requests a minute.
    pub limit: u32,
    /// Requests that would pass right now.
    pub remaining: u32,
    /// Whole seconds until the bucket is empty.
    pub reset: u32,
    /// When refused: whole seconds after which a request passes, at least 1.
    pub retry_after: Option<u32>,
}

impl Bucket {
    /// Whether the bucket is empty, so that it need not be kept.
    pub fn is_idle(self, now: Timestamp) -> bool {
        self.0 <= now.as_micros()
    }

    /// The bucket that is empty at this time.
    pub fn until(empty: Timestamp) -> Self {
        Self(empty.as_micros())
    }
}

impl Rate {
    /// A rate; 0 is no limit at all.
    pub fn per_minute(per_minute: u32) -> Option<Self> {
        (per_minute > 0).then_some(Self { per_minute })
    }

    /// Decides about one request. `bucket` is the key's state, `None` when it has none.
    pub fn decide(self, bucket: Option<Bucket>, now: Timestamp) -> Verdict {
        let now = now.as_micros();
        // A clock that was set back must not lock a key out for longer than one full bucket takes.
        let filled_until = bucket.map_or(now, |b| b.0.clamp(now, now + self.burst()));
        let after = filled_until + self.interval();
        if after - now <= self.burst() { self.verdict(after, now, None) } else { self.refusal(filled_until, now) }
    }

    /// How a bucket is, without a request.
    pub fn look(self, bucket: Bucket, now: Timestamp) -> Verdict {
        self.verdict(bucket.0.max(now.as_micros()), now.as_micros(), None)
    }

    /// Microseconds that one request fills.
    fn interval(self) -> i64 {
        (MINUTE_MICROS / i64::from(self.per_minute)).max(1)
    }

    /// Microseconds that a full bucket holds.
    fn burst(self) -> i64 {
        self.interval() * i64::from(self.per_minute)
    }

    /// The refusal of a request that would fill a bucket which is filled until then.
    fn refusal(self, filled_until: i64, now: i64) -> Verdict {
        let after = filled_until + self.interval();
        self.verdict(filled_until, now, Some(seconds_up(after - now - self.burst()).max(1)))
    }

    fn verdict(self, filled_until: i64, now: i64, retry_after: Option<u32>) -> Verdict {
        let room = (self.burst() - (filled_until - now)) / self.interval();
        Verdict {
            bucket: Bucket(filled_until),
            limit: self.per_minute,
            remaining: u32::try_from(room.max(0)).unwrap_or(u32::MAX),
            reset: seconds_up(filled_until - now),
            retry_after,
        }
    }
}

fn seconds_up(micros: i64) -> u32 {
    u32::try_from((micros.max(0) + 999_999) / 1_000_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(1_000_000_000_000_000 + micros)
    }

    #[test]
    fn a_burst_of_the_limit_passes_and_the_next_waits_one_interval() {
        let rate = Rate::per_minute(3).unwrap();
        let mut bucket = None;
        for remaining in [2, 1, 0] {
            let verdict = rate.decide(bucket, at(0));
            assert_eq!((verdict.remaining, verdict.retry_after), (remaining, None));
            bucket = Some(verdict.bucket);
        }
        let refused = rate.decide(bucket, at(0));
        assert_eq!((refused.retry_after, refused.reset, refused.limit), (Some(20), 60, 3));
        assert_eq!(refused.bucket, bucket.unwrap());
        assert_eq!(rate.decide(bucket, at(19_999_999)).retry_after, Some(1));
        assert_eq!(rate.decide(bucket, at(20_000_000)).retry_after, None);
    }

    #[test]
    fn no_rate_is_no_limit() {
        assert_eq!(Rate::per_minute(0), None);
    }

    #[test]
    fn a_bucket_is_idle_once_it_is_empty() {
        let bucket = Rate::per_minute(60).unwrap().decide(None, at(0)).bucket;
        assert!(!bucket.is_idle(at(999_999)) && bucket.is_idle(at(1_000_000)));
    }

    #[test]
    fn a_clock_set_back_locks_nobody_out_for_longer_than_a_minute() {
        let rate = Rate::per_minute(60).unwrap();
        let bucket = rate.decide(None, at(3_600_000_000)).bucket;
        assert!(rate.decide(Some(bucket), at(0)).retry_after.is_none_or(|s| s <= 60));
    }

    proptest! {
        #[test]
        fn in_any_minute_no_more_than_a_burst_and_a_minutes_refill_passes(
            limit in 1_u32..200,
            gaps in prop::collection::vec(0_i64..2_000_000, 1..600),
        ) {
            let rate = Rate::per_minute(limit).unwrap();
            let (mut bucket, mut now, mut passed) = (None, 0, Vec::new());
            for gap in gaps {
                now += gap;
                let verdict = rate.decide(bucket, at(now));
                if verdict.retry_after.is_none() { passed.push(now); }
                bucket = Some(verdict.bucket);
            }
            let interval = 60_000_000 / i64::from(limit);
            for (n, first) in passed.iter().enumerate() {
                for (m, last) in passed.iter().enumerate().skip(n) {
                    let allowed = i64::from(limit) + (last - first) / interval + 1;
                    prop_assert!(i64::try_from(m - n + 1).unwrap() <= allowed);
                }
            }
        }
    }
}
