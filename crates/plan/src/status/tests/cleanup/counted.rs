//! Laws of runs that only count: told like others, and hiding no failure of a run that was to do more.

use super::*;

pub(super) fn dry(run: CleanupRun) -> CleanupRun {
    CleanupRun { dry_run: true, ..run }
}

pub(super) const COUNTED: &str = r#"{"dry_run":true,"archived":{"packages":7},"deleted":{}}"#;

#[test]
fn a_dry_run_is_told_and_takes_back_no_failure_of_a_real_one() {
    let one = cleaned();
    let is = |told: &JamInstanceStatus| short(told, "CleanupScheduled");
    let failed = pair("False", Reason::CleanupFailed);
    let real = || run("real", 1500, Some("x"));
    let counted = || dry(spoken(run("dry", 2500, None), &[COUNTED]));
    let bad = then(&one, &JamInstanceStatus::default(), Some(real()));
    let now = applied(&with(&one, bad.clone()), &with_runs(&one, 5000, Some(real()), Some(counted())), 5000);
    assert_eq!(
        (is(&now), &condition(&now, "CleanupScheduled").message),
        (failed.clone(), &"Job real failed: x".into())
    );
    let told = now.cleanup.clone().unwrap();
    assert_eq!(
        (told.last_result.as_deref(), told.archived["packages"]),
        (Some("DryRun"), 7),
        "what it counted is told"
    );
    assert_eq!(told.last_run.unwrap().0.as_second(), 2500);
    // Whatever Jobs are gone by now, also for an operator that begins after both.
    for (left, before) in [
        (with_runs(&one, 5000, Some(real()), None), &now),
        (with_runs(&one, 5000, None, Some(counted())), &now),
        (cluster(&one, 5000, None), &now),
        (with_runs(&one, 5000, Some(real()), Some(counted())), &now),
        (with_runs(&one, 5000, Some(real()), Some(counted())), &JamInstanceStatus::default()),
    ] {
        let again = applied(&with(&one, before.clone()), &left, 5000);
        assert_eq!((&again.cleanup, is(&again)), (&now.cleanup, failed.clone()));
    }
    let broken = then(&one, &now, Some(dry(run("dry-2", 3000, Some("y")))));
    assert_eq!(condition(&broken, "CleanupScheduled").message, "Job real failed: x");
    assert_eq!(broken.cleanup.as_ref().unwrap().failure.as_deref(), Some("Job dry-2 failed: y"));
    for before in [&now, &broken] {
        let good = then(&one, before, Some(run("real-2", 3500, None)));
        assert_eq!((is(&good), good.cleanup.unwrap().last_real), (pair("True", Reason::Scheduled), None));
    }
    // What the spec asks for counts, until it asks for more again.
    let asked = but(&one, json!({"cleanup": {"dryRun": true}}));
    let counting = applied(&with(&asked, now.clone()), &with_runs(&asked, 5000, Some(real()), Some(counted())), 5000);
    assert_eq!(is(&counting), pair("True", Reason::Scheduled));
    assert_eq!(is(&then(&asked, &counting, Some(dry(run("dry-2", 3000, Some("y")))))), failed);
    assert_eq!(is(&then(&one, &counting, None)), failed);
}

#[test]
fn a_dry_run_beside_a_real_one_hides_neither_it_nor_its_failure() {
    let one = cleaned();
    // It begins after the real one and ends before it.
    let counted = || dry(CleanupRun { ended_at: Some(at(1600)), ..spoken(run("dry", 1550, None), &[COUNTED]) });
    let first = then(&one, &JamInstanceStatus::default(), Some(counted()));
    assert_eq!(first.cleanup.as_ref().unwrap().last_result.as_deref(), Some("DryRun"));
    for (failure, reason) in
        [(Some("x"), pair("False", Reason::CleanupFailed)), (None, pair("True", Reason::Scheduled))]
    {
        let real = CleanupRun { ended_at: Some(at(1900)), ..spoken(run("real", 1500, failure), &[DID]) };
        let now = then(&one, &first, Some(real));
        let told = now.cleanup.clone().unwrap();
        assert_eq!(
            (short(&now, "CleanupScheduled"), told.archived["packages"], told.dry_run),
            (reason.clone(), 9, false)
        );
        assert_eq!(told.last_run.unwrap().0.as_second(), 1500);
        let left = then(&one, &now, Some(counted()));
        assert_eq!(short(&left, "CleanupScheduled"), reason, "the Job of the real one is gone");
    }
    // One that began before the dry run that is told, and was not heard of, is not the last one.
    let older = then(&one, &first, Some(run("older", 1000, Some("x"))));
    assert_eq!(older.cleanup.as_ref().unwrap().last_run, first.cleanup.unwrap().last_run);
    assert_eq!(short(&older, "CleanupScheduled"), pair("False", Reason::CleanupFailed));
}
