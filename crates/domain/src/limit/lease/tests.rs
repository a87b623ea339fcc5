//! Tests of leases: many processes, one bucket, and never more than one process would admit.

use proptest::prelude::*;

use super::super::{Bucket, Rate};
use super::*;
use crate::time::Timestamp;

const START: i64 = 1_000_000_000_000_000;
const MINUTE: i64 = 60_000_000;

fn rate(per_minute: u32) -> Rate {
    Rate::per_minute(per_minute).unwrap()
}

/// Processes that share one bucket, and the times of what they admitted.
struct World {
    rate: Rate,
    bucket: Option<i64>,
    leases: Vec<Lease>,
    admitted: Vec<i64>,
    asked: usize,
}

impl World {
    fn new(per_minute: u32, processes: usize) -> Self {
        let leases = vec![Lease::spent(0); processes];
        Self { rate: rate(per_minute), bucket: None, leases, admitted: Vec::new(), asked: 0 }
    }

    /// One request at a process; says whether it was admitted.
    fn request(&mut self, process: usize, now: i64) -> Verdict {
        let lease = &mut self.leases[process];
        let verdict = lease.spend(self.rate, now).unwrap_or_else(|| {
            let ask = self.rate.ask(lease.next);
            if now >= ask.worth_at(lease.next) {
                self.asked += 1;
                let grant = ask.grant(self.bucket, now);
                self.bucket = Some(grant.lease.end);
                *lease = lease.joined(grant.lease);
            }
            lease.spend(self.rate, now).unwrap_or_else(|| lease.refuse(self.rate, now))
        });
        if verdict.retry_after.is_none() {
            self.admitted.push(now);
        }
        verdict
    }

    /// The process gives back what it has not spent.
    fn give_back(&mut self, process: usize, now: i64) {
        let lease = &mut self.leases[process];
        if let Some(unspent) = lease.unspent(now) {
            if self.bucket == Some(unspent.end) {
                self.bucket = Some(unspent.next);
            }
            *lease = Lease::spent(unspent.next);
        }
    }

    /// In no stretch of time more than a burst and what the time refills.
    fn is_within(&self) -> bool {
        let limit = i64::from(self.rate.per_minute);
        self.admitted.iter().enumerate().all(|(n, first)| {
            self.admitted[n..]
                .iter()
                .enumerate()
                .all(|(more, last)| i64::try_from(more).unwrap() < limit + (last - first) / self.rate.interval() + 1)
        })
    }
}

#[test]
fn under_a_high_limit_a_slow_client_does_not_ask_with_each_request() {
    // Ten million a minute is a slot of six microseconds: a thousand of them are over in the time of one upload.
    let mut world = World::new(10_000_000, 1);
    for request in 0..100 {
        world.request(0, START + request * 20_000);
    }
    assert_eq!((world.admitted.len(), world.asked), (100, 2), "one for each of the two seconds");
}

#[test]
fn a_lone_process_decides_as_if_the_bucket_were_its_own() {
    for per_minute in [1, 3, 9, 10, 37, 60, 1000] {
        let (mut world, mut own, mut now) = (World::new(per_minute, 1), None, START);
        for step in 0..6 * i64::from(per_minute) {
            // Twice the rate, then below it.
            now += MINUTE / i64::from(per_minute) * if step % 40 < 30 { 1 } else { 3 } / 2;
            let alone = world.rate.decide(own, Timestamp::from_micros(now));
            own = Some(alone.bucket);
            let shared = world.request(0, now);
            assert_eq!(
                (shared.retry_after, shared.remaining),
                (alone.retry_after, alone.remaining),
                "{per_minute} {step}"
            );
            assert_eq!((shared.reset, shared.limit), (alone.reset, alone.limit));
        }
    }
}

#[test]
fn a_process_asks_once_for_each_lease_also_when_it_is_asked_for_more_than_the_limit() {
    let mut world = World::new(600, 3);
    for step in 0..60_000 {
        world.request(step % 3, START + i64::try_from(step).unwrap() * 1000);
    }
    // A minute of a thousand requests a second: the burst and what the minute refills.
    assert!((1190..=1201).contains(&world.admitted.len()), "{}", world.admitted.len());
    assert!(world.asked <= 1201 / 60 + 3 + 3, "{} asks", world.asked);
}

#[test]
fn what_one_process_gives_back_the_other_gets_at_once() {
    let mut world = World::new(60, 2);
    assert_eq!(world.request(0, START).retry_after, None);
    world.give_back(0, START);
    let passed = (0..70).filter(|_| world.request(1, START).retry_after.is_none()).count();
    assert_eq!(passed, 59, "the limit but for the one that the other process admitted");
}

#[test]
fn a_lease_that_is_never_spent_is_gone_after_a_burst() {
    let mut world = World::new(60, 2);
    for _ in 0..55 {
        world.request(0, START);
    }
    // The first process dies with five unspent slots; a minute later the second has the whole limit.
    let later = START + MINUTE;
    let passed = (0..70).filter(|_| world.request(1, later).retry_after.is_none()).count();
    assert_eq!(passed, 60);
}

#[test]
fn a_bucket_that_was_lost_is_filled_again_by_whoever_spent_last() {
    let mut world = World::new(60, 1);
    for _ in 0..60 {
        assert_eq!(world.request(0, START).retry_after, None);
    }
    world.bucket = None;
    assert_eq!(world.request(0, START).retry_after, Some(1));
}

#[test]
fn a_clock_set_back_locks_nobody_out_for_longer_than_two_minutes() {
    let mut world = World::new(60, 1);
    world.request(0, START + 3_600_000_000);
    world.leases[0] = Lease::spent(0);
    assert!(world.request(0, START).retry_after.is_some_and(|seconds| seconds <= 61));
    assert_eq!(world.request(0, START + 2 * MINUTE).retry_after, None);
}

#[test]
fn how_a_bucket_is_can_be_seen_without_a_request() {
    let now = Timestamp::from_micros(START);
    let verdict = rate(60).look(Bucket::until(now.plus_seconds(10)), now);
    assert_eq!((verdict.remaining, verdict.reset, verdict.retry_after), (50, 10, None));
}

proptest! {
    #[test]
    fn however_many_processes_ask_give_back_and_die_they_admit_no_more_than_one_would(
        per_minute in 1_u32..100,
        steps in prop::collection::vec(
            (0_usize..4, prop_oneof![0_i64..500_000, 0_i64..90_000_000], 0_u8..20, 1_usize..40),
            1..60,
        ),
    ) {
        let mut world = World::new(per_minute, 4);
        let mut now = START;
        for (process, pause, deed, requests) in steps {
            now += if deed % 3 == 0 { pause } else { 0 };
            match deed {
                0 => world.give_back(process, now),
                1 => world.leases[process] = Lease::spent(0),
                _ => {
                    for _ in 0..requests {
                        world.request(process, now);
                    }
                }
            }
        }
        prop_assert!(world.is_within());
    }
}
