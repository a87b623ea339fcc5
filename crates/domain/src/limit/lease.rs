//! Leases: a stretch of a shared bucket's time that one process takes at once and spends alone, so that several processes
//! keep one limit without asking about every request.
//!
//! A GCRA bucket gives each request a slot of one interval. The request is admitted when its slot ends at most one burst from
//! now, and a slot that begins before now is gone. A lease is a row of slots that nobody else gets; whoever holds it keeps both
//! rules. So in any stretch of time the requests of all processes have slots of their own within that time and one burst
//! more: as many as one process with one bucket would admit, however the leases are spread, spent late, or lost.

use super::{Rate, Verdict};

/// Requests that a lease covers at most, unless a second's worth is more: one that is over before the next request comes would be
/// asked for with each of them.
const MOST: u32 = 1000;

/// A row of slots: from `next` up to `end`, in microseconds of the clock that all processes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Where the next slot begins.
    pub next: i64,
    /// Where the last one ends.
    pub end: i64,
}

/// What a process asks the shared bucket for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Until when the process itself knows the bucket to be filled: what it spent survives a bucket that was lost.
    pub floor: i64,
    /// Microseconds that it wants.
    pub length: i64,
    /// How far from now a lease may reach, in microseconds. Slots beyond the burst wait for their time in the hands of their
    /// holder: that is what makes a process under more load than the limit ask no more often than one below it.
    pub horizon: i64,
}

/// What the shared bucket answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The slots; none when the bucket is leased as far as leases may reach.
    pub lease: Lease,
    /// The time of the shared clock.
    pub now: i64,
}

impl Rate {
    /// Requests that one lease covers: a tenth of the limit, so that what lies unspent in one process is missed little in
    /// the others.
    pub fn lease_size(self) -> u32 {
        (self.per_minute / 10).clamp(1, MOST.max(self.per_minute / 60))
    }

    /// The ask of a process that has spent everything up to `floor`.
    pub fn ask(self, floor: i64) -> Ask {
        Ask { floor, length: self.interval() * i64::from(self.lease_size()), horizon: 2 * self.burst() }
    }
}

impl Ask {
    /// The rule that the store follows: `filled_until` is the shared bucket, which afterwards is filled until the end of the
    /// lease.
    pub fn grant(self, filled_until: Option<i64>, now: i64) -> Grant {
        let Self { floor, length, horizon } = self;
        // Of a clock that was set back nobody has to wait for longer than the horizon.
        let next = filled_until.unwrap_or(now).max(now).max(floor).min(now + horizon);
        let end = if next + length <= now + horizon { next + length } else { next };
        Grant { lease: Lease { next, end }, now }
    }

    /// When a bucket that is filled until then may grant this again.
    pub fn worth_at(self, filled_until: i64) -> i64 {
        filled_until + self.length - self.horizon
    }
}

impl Lease {
    /// A lease without a slot.
    pub fn spent(until: i64) -> Self {
        Self { next: until, end: until }
    }

    /// Decides about one request at this time of the shared clock; `None` when every slot is spent or gone.
    pub fn spend(&mut self, rate: Rate, now: i64) -> Option<Verdict> {
        let next = self.next.max(now);
        let after = next + rate.interval();
        if after > self.end {
            return None;
        }
        if after - now > rate.burst() {
            return Some(rate.refusal(next, now));
        }
        self.next = after;
        Some(rate.verdict(after, now, None))
    }

    /// The refusal of a request for which there is no slot.
    pub fn refuse(self, rate: Rate, now: i64) -> Verdict {
        rate.refusal(self.next.max(now), now)
    }

    /// Both leases as one when the other begins where this one ends, else the other: what is left over is less than a slot.
    #[must_use]
    pub fn joined(self, later: Self) -> Self {
        if later.next == self.end { Self { next: self.next, end: later.end } } else { later }
    }

    /// What has not been spent, nor lost to time.
    pub fn unspent(self, now: i64) -> Option<Self> {
        let next = self.next.max(now);
        (next < self.end).then_some(Self { next, end: self.end })
    }
}

#[cfg(test)]
mod tests;
