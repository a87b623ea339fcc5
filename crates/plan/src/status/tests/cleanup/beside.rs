//! Laws of cleanups beside each other: the one that ended last is told.

use super::counted::{COUNTED, dry};
use super::*;

/// A run with an end of its own.
fn lasted(job: &str, (began, ended): (i64, i64), failure: Option<&str>) -> CleanupRun {
    CleanupRun { ended_at: Some(at(ended)), ..spoken(run(job, began, failure), &[DID]) }
}

fn seconds(told: &JamInstanceStatus) -> (i64, i64) {
    let told = told.cleanup.as_ref().unwrap();
    (told.last_run.as_ref().unwrap().0.as_second(), told.last_ended.as_ref().unwrap().0.as_second())
}

#[test]
fn of_two_cleanups_the_one_that_ended_last_is_told_whichever_began_first() {
    let one = cleaned();
    let nothing = JamInstanceStatus::default();
    let (scheduled, failed) = (pair("True", Reason::Scheduled), pair("False", Reason::CleanupFailed));
    for ((early, late), (before, after)) in [
        ((Some("x"), None), (failed.clone(), scheduled.clone())),
        ((None, Some("x")), (scheduled.clone(), failed.clone())),
    ] {
        for (short_run, long_run) in [
            // Around it, after it, and in the same seconds as far as one of the two goes.
            ((1550, 1600), (1500, 1900)),
            ((1500, 1600), (1550, 1900)),
            ((1500, 1600), (1500, 1900)),
            ((1500, 1600), (1550, 1600)),
        ] {
            let short_one = || CleanupRun { outcome: None, ..lasted("short", short_run, early) };
            let long_one = || lasted("long", long_run, late);
            let first = then(&one, &nothing, Some(short_one()));
            assert_eq!((seconds(&first), short(&first, "CleanupScheduled")), (short_run, before.clone()));
            let now = then(&one, &first, Some(long_one()));
            assert_eq!((seconds(&now), short(&now, "CleanupScheduled")), (long_run, after.clone()));
            assert_eq!(now.cleanup.as_ref().unwrap().archived["packages"], 9, "what it did is told");
            let events: Vec<_> = transitions(&first, &now).iter().map(|event| event.reason).collect();
            assert_eq!(events.contains(&Reason::CleanupFailed), late.is_some(), "{events:?}");
            // For an operator that begins after both, and when Jobs are gone.
            assert_eq!(then(&one, &nothing, Some(long_one())).cleanup, now.cleanup);
            for left in [Some(long_one()), Some(short_one()), None] {
                let again = then(&one, &now, left);
                assert_eq!((&again.cleanup, &again.conditions), (&now.cleanup, &now.conditions));
            }
        }
    }
    let first = then(&one, &nothing, Some(lasted("first", (1500, 1600), None)));
    let silent = CleanupRun { outcome: None, ..lasted("second", (1500, 1900), None) };
    let second = then(&one, &first, Some(silent)).cleanup.unwrap();
    assert!(second.archived.is_empty(), "what another one did that began in the same second is not its own");
}

#[test]
fn a_dry_run_that_is_told_hides_no_cleanup_that_ended_after_the_one_before_it() {
    let one = cleaned();
    let short_one = then(&one, &JamInstanceStatus::default(), Some(lasted("short", (1550, 1600), Some("x"))));
    let counted = CleanupRun { ended_at: Some(at(1800)), ..dry(spoken(run("dry", 1700, None), &[COUNTED])) };
    let told = then(&one, &short_one, Some(counted));
    let known = told.cleanup.as_ref().unwrap().last_real.clone().unwrap();
    assert_eq!((seconds(&told), known.last_ended.unwrap().0.as_second()), ((1700, 1800), 1600));
    for (ended, shown) in [(1750, (1700, 1800)), (1900, (1500, 1900))] {
        let now = then(&one, &told, Some(lasted("long", (1500, ended), None)));
        assert_eq!((seconds(&now), short(&now, "CleanupScheduled")), (shown, pair("True", Reason::Scheduled)));
        let real = now.cleanup.as_ref().unwrap().real().unwrap();
        assert_eq!((real.last_run.0.as_second(), real.last_ended.unwrap().0.as_second()), (1500, ended));
    }
    // Of two dry runs as well, and of one beside a real one whose Job is gone.
    for before in [&told, &short_one] {
        let long = CleanupRun { ended_at: Some(at(1900)), ..dry(spoken(run("long-dry", 1500, None), &[COUNTED])) };
        assert_eq!(seconds(&then(&one, before, Some(long))), (1500, 1900));
    }
}

#[test]
fn what_an_operator_told_that_knew_no_ends_is_judged_by_its_begin_and_gets_its_end() {
    let one = cleaned();
    let own = || lasted("own", (1550, 1600), None);
    let with_end = then(&one, &JamInstanceStatus::default(), Some(own()));
    let mut told = with_end.clone();
    told.cleanup.as_mut().unwrap().last_ended = None;
    let older = then(&one, &told, Some(lasted("older", (1500, 1590), Some("x"))));
    assert_eq!(older.cleanup, told.cleanup);
    let same = then(&one, &told, Some(CleanupRun { outcome: None, ..own() }));
    assert_eq!(same.cleanup, with_end.cleanup, "its counts stay");
    let newer = then(&one, &told, Some(lasted("newer", (1560, 1570), Some("x"))));
    assert_eq!(seconds(&newer), (1560, 1570));
}
