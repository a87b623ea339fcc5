//! Laws of what is said about the cleanup.

mod beside;
mod counted;

use std::collections::BTreeSet;

use serde_json::json;

use super::{applied, condition, pair, short, with};
use crate::Reason;
use crate::crd::{JamInstance, JamInstanceStatus};
use crate::fixtures::{at, but, in_memory, on_postgres, settled_cluster_for};
use crate::observed::{CleanupOutcome, CleanupRun, CleanupState, LastWords, Observed};
use crate::status::transitions;

fn cleaned() -> JamInstance {
    but(&on_postgres(), json!({"cleanup": {}}))
}

fn run(job: &str, began: i64, failure: Option<&str>) -> CleanupRun {
    CleanupRun {
        job: job.into(),
        began_at: Some(at(began)),
        ended_at: Some(at(began + 5)),
        failure: failure.map(str::to_owned),
        dry_run: false,
        cut_short: None,
        outcome: None,
    }
}

fn cluster(instance: &JamInstance, seconds: i64, last: Option<CleanupRun>) -> Observed {
    let (counted, real): (Vec<_>, Vec<_>) = last.into_iter().partition(|run| run.dry_run);
    with_runs(instance, seconds, real.into_iter().next(), counted.into_iter().next())
}

fn with_runs(instance: &JamInstance, seconds: i64, real: Option<CleanupRun>, counted: Option<CleanupRun>) -> Observed {
    let suspended = instance.spec.cleanup.as_ref().is_some_and(|cleanup| cleanup.suspend);
    let cleanup =
        CleanupState { suspended, running: false, since: Some(at(1000)), real, counted, mounts: BTreeSet::new() };
    Observed { at: at(seconds), cleanup: Some(cleanup), ..settled_cluster_for(instance) }
}

#[test]
fn a_cleanup_is_scheduled_suspended_failed_or_overdue_and_says_so() {
    let one = cleaned();
    let day = 86_400;
    let suspended = but(&one, json!({"cleanup": {"suspend": true}}));
    let failed = run("main-cleanup-7", 1500, Some("no connection"));
    let table = vec![
        (&one, cluster(&one, 2000, None), "True", Reason::Scheduled, "17 3 * * * in Etc/UTC"),
        (&one, cluster(&one, 2000, Some(run("a", 1500, None))), "True", Reason::Scheduled, "main-cleanup"),
        (
            &suspended,
            cluster(&suspended, 9 * day, None),
            "False",
            Reason::CleanupSuspended,
            "suspend is true: no run starts",
        ),
        (&suspended, settled_cluster_for(&one), "False", Reason::CleanupSuspended, "suspend is true: no run starts"),
        (&suspended, cluster(&one, 2000, None), "True", Reason::Scheduled, "main-cleanup is not suspended yet"),
        (&one, cluster(&suspended, 2000, None), "False", Reason::CleanupSuspended, "main-cleanup is still suspended"),
        (&one, cluster(&one, 2000, Some(failed)), "False", Reason::CleanupFailed, "Job main-cleanup-7 failed: no conn"),
        (&one, cluster(&one, 3 * day, None), "False", Reason::CleanupOverdue, "since 1970-01-01T00:16:40Z"),
        (&one, settled_cluster_for(&one), "False", Reason::NotScheduled, "after the migration"),
    ];
    for (instance, cluster, word, reason, words) in table {
        let said = applied(instance, &cluster, 2000);
        assert_eq!(short(&said, "CleanupScheduled"), pair(word, reason), "{words}");
        let message = &condition(&said, "CleanupScheduled").message;
        assert!(message.contains(words), "{words}: {message}");
        assert_eq!(short(&said, "Ready").0, "True", "a cleanup is no reason not to serve");
    }
}

#[test]
fn a_run_that_is_under_way_is_not_overdue() {
    let one = cleaned();
    let mut late = cluster(&one, 9 * 86_400, None);
    late.cleanup.as_mut().unwrap().running = true;
    assert_eq!(short(&applied(&one, &late, 2000), "CleanupScheduled"), pair("True", Reason::Scheduled));
}

#[test]
fn a_cleanup_is_overdue_by_its_present_schedule_and_no_pause_that_somebody_wanted_is_held_against_it() {
    let (hour, day) = (3600, 86_400);
    let weekly = but(&on_postgres(), json!({"cleanup": {"schedule": "@weekly"}}));
    let seen = |instance: &JamInstance, seconds: i64| {
        let status = applied(instance, &cluster(&weekly, seconds, None), seconds);
        (with(instance, status.clone()), status)
    };
    let (told, first) = seen(&weekly, 2000);
    assert_eq!(short(&first, "CleanupScheduled"), pair("True", Reason::Scheduled));
    for pause in [
        json!({"cleanup": {"schedule": "@weekly", "suspend": true}}),
        json!({"cleanup": {"schedule": "@weekly", "dryRun": true}}),
        json!({"cleanup": {"schedule": "@weekly"}}),
    ] {
        let (told, _) = seen(&but(&told, pause.clone()), 3000);
        let denser = but(&told, json!({"cleanup": {"schedule": "@daily", "suspend": false, "dryRun": false}}));
        let (told, now) = seen(&denser, 5 * day);
        assert_eq!(short(&now, "CleanupScheduled"), pair("True", Reason::Scheduled), "{pause}");
        assert_eq!(now.cleanup.as_ref().unwrap().timetable_since.as_ref().unwrap().0.as_second(), 5 * day);
        let (told, steady) = seen(&told, 5 * day + 24 * hour);
        assert_eq!(steady, now, "{pause}: a steady state is one status");
        let (_, late) = seen(&told, 5 * day + 26 * hour);
        assert_eq!(short(&late, "CleanupScheduled"), pair("False", Reason::CleanupOverdue), "{pause}");
        assert!(condition(&late, "CleanupScheduled").message.ends_with("since 1970-01-06T00:00:00Z"), "{pause}");
    }
}

#[test]
fn a_cleanup_that_failed_half_way_tells_what_it_did_and_one_beside_another_is_no_failure() {
    let one = cleaned();
    let said = |failed: bool, words: &str| {
        let last = run("a", 1500, failed.then_some("BackoffLimitExceeded"))
            .with_words(&[LastWords { text: Some(words.into()), ..LastWords::default() }]);
        applied(&one, &cluster(&one, 2000, Some(last)), 2000)
    };
    let words = r#"{"dry_run":false,"error":"told to stop","archived":{"packages":9},"deleted":{"packages":3}}"#;
    let half = said(true, words);
    assert_eq!(short(&half, "CleanupScheduled"), pair("False", Reason::CleanupFailed));
    assert_eq!(condition(&half, "CleanupScheduled").message, "Job a failed: told to stop");
    let told = half.cleanup.clone().unwrap();
    assert_eq!(
        (told.last_result.as_deref(), told.archived["packages"], told.deleted["packages"]),
        (Some("Failed"), 9, 3)
    );
    let gone = cluster(&one, 3000, Some(run("a", 1500, Some("BackoffLimitExceeded"))));
    let mut rest = half.cleanup.clone().unwrap();
    rest.failure = Some("Job a failed: BackoffLimitExceeded".into());
    let now = applied(&with(&one, half.clone()), &gone, 3000).cleanup;
    assert_eq!(now, Some(rest), "its pod is gone, the counts stay");
    let log = said(true, "error: no route to host");
    assert!(condition(&log, "CleanupScheduled").message.ends_with("failed: error: no route to host"));
    let beside = said(false, r#"{"dry_run":false,"skipped":true,"deleted":{}}"#);
    assert_eq!(short(&beside, "CleanupScheduled"), pair("True", Reason::Scheduled));
    assert_eq!(beside.cleanup.unwrap().last_result.as_deref(), Some("Skipped"));
}

/// The status after this run, where it is the newest whose Job is there.
fn then(one: &JamInstance, before: &JamInstanceStatus, last: Option<CleanupRun>) -> JamInstanceStatus {
    applied(&with(one, before.clone()), &cluster(one, 5000, last), 5000)
}

fn spoken(run: CleanupRun, pods: &[&str]) -> CleanupRun {
    let words = |text: &&str| LastWords { text: Some((*text).into()), ..LastWords::default() };
    run.with_words(&pods.iter().map(words).collect::<Vec<_>>())
}

const DID: &str = r#"{"dry_run":false,"cutoff":"2026-10-22T03:17:00Z","duration_ms":7,"archived":{"packages":9},"deleted":{"packages":3}}"#;
const BESIDE: &str = r#"{"dry_run":false,"skipped":true,"why":"another cleanup is running","deleted":{}}"#;

#[test]
fn a_cleanup_whose_newest_job_is_deleted_is_told_as_before_and_not_as_the_one_before_it() {
    let one = cleaned();
    let nothing = JamInstanceStatus::default();
    for (older, newer, reason) in [
        (run("a", 1500, Some("x")), spoken(run("b", 2500, None), &[DID]), pair("True", Reason::Scheduled)),
        (spoken(run("a", 1500, None), &[DID]), run("b", 2500, Some("x")), pair("False", Reason::CleanupFailed)),
    ] {
        let told = then(&one, &then(&one, &nothing, Some(older.clone())), Some(newer));
        assert_eq!(short(&told, "CleanupScheduled"), reason);
        for left in [Some(older), None] {
            let now = then(&one, &told, left);
            assert_eq!((&now.cleanup, &now.conditions), (&told.cleanup, &told.conditions));
        }
    }
}

#[test]
fn a_cleanup_beside_another_takes_back_neither_a_failure_nor_what_the_last_one_did() {
    let one = cleaned();
    let beside = || Some(spoken(run("beside", 3000, None), &[BESIDE]));
    for last in
        [run("a", 1500, Some("x")), spoken(run("a", 1500, Some("x")), &[DID]), spoken(run("a", 1500, None), &[DID])]
    {
        let told = then(&one, &JamInstanceStatus::default(), Some(last));
        let now = then(&one, &told, beside());
        assert_eq!((&now.cleanup, &now.conditions), (&told.cleanup, &told.conditions));
    }
    // The one beside which it was has begun before it, and ends after it.
    let first = then(&one, &JamInstanceStatus::default(), beside());
    assert_eq!(first.cleanup.as_ref().unwrap().last_result.as_deref(), Some("Skipped"));
    let long = then(&one, &first, Some(spoken(run("long", 2000, None), &[DID]))).cleanup.unwrap();
    assert_eq!((long.last_result.as_deref(), long.archived["packages"]), (Some("Succeeded"), 9));
    let failed = then(&one, &JamInstanceStatus::default(), Some(run("a", 1500, Some("x"))));
    let good = then(&one, &failed, Some(spoken(run("b", 2500, None), &[DID])));
    assert_eq!(
        short(&good, "CleanupScheduled"),
        pair("True", Reason::Scheduled),
        "one that does its work takes it back"
    );
    assert_eq!(good.cleanup.unwrap().failure, None);
}

#[test]
fn what_the_pods_of_one_cleanup_did_is_told_together() {
    let one = cleaned();
    let half =
        r#"{"dry_run":false,"error":"no answer","duration_ms":5,"archived":{"packages":5,"reports":1},"deleted":{}}"#;
    let told = |pods: &[&str]| {
        then(&one, &JamInstanceStatus::default(), Some(spoken(run("a", 1500, None), pods))).cleanup.unwrap()
    };
    let all = told(&[DID, "Killed", half]);
    assert_eq!((all.archived["packages"], all.archived["reports"], all.deleted["packages"]), (14, 1, 3));
    assert_eq!((all.duration_ms, all.last_result.as_deref()), (Some(12), Some("Succeeded")));
    assert_eq!(
        told(&[BESIDE, half]).archived["packages"],
        5,
        "the second pod found another run, the first one had worked"
    );
    let dry = DID.replace("\"dry_run\":false", "\"dry_run\":true");
    assert_eq!(told(&[&dry, &dry]).archived["packages"], 9, "who only counts counts the same again");
    let failed = spoken(run("a", 1500, Some("BackoffLimitExceeded")), &[half, DID]);
    assert_eq!((failed.failure.as_deref(), failed.outcome.unwrap().archived["packages"]), (Some("no answer"), 14));
}

#[test]
fn without_a_database_or_a_wish_there_is_no_cleanup_and_it_says_so() {
    for (instance, words) in
        [(but(&in_memory(), json!({"cleanup": {}})), "memory store"), (on_postgres(), "spec.cleanup is not set")]
    {
        let said = applied(&instance, &settled_cluster_for(&instance), 2000);
        assert_eq!(short(&said, "CleanupScheduled"), pair("False", Reason::NotScheduled));
        assert!(condition(&said, "CleanupScheduled").message.contains(words), "{words}");
    }
}

#[test]
fn the_result_of_the_last_run_is_kept_when_its_job_is_gone() {
    let one = cleaned();
    let first = applied(&one, &cluster(&one, 2000, Some(run("a", 1500, None))), 2000);
    let told = first.cleanup.clone().unwrap();
    assert_eq!((told.last_run.unwrap().0.as_second(), told.last_result.as_deref()), (1500, Some("Succeeded")));
    let later = applied(&with(&one, first.clone()), &cluster(&one, 3000, None), 3000);
    assert_eq!(later.cleanup, first.cleanup);
    let failed = applied(&with(&one, first), &cluster(&one, 3000, Some(run("b", 2500, Some("x")))), 3000);
    assert_eq!(failed.cleanup.unwrap().last_result.as_deref(), Some("Failed"));
}

#[test]
fn cutoff_counts_and_duration_of_a_cleanup_are_told_and_a_dry_run_is_called_so() {
    let one = cleaned();
    let said = |words: &str| {
        let outcome = CleanupOutcome::of(words);
        let dry_run = outcome.as_ref().is_some_and(|outcome| outcome.dry_run);
        let last = CleanupRun { dry_run, outcome, ..run("a", 1500, None) };
        applied(&one, &cluster(&one, 2000, Some(last)), 2000)
    };
    let words = r#"{"dry_run":false,"cutoff":"2026-10-22T03:17:00.5Z","duration_ms":1234,"archived":{"packages":9},
        "deleted":{"packages":3,"preimages":1}}"#;
    let real = said(words);
    let told = real.cleanup.clone().unwrap();
    assert_eq!((told.last_result.as_deref(), told.deleted["packages"]), (Some("Succeeded"), 3));
    assert_eq!((told.archived["packages"], told.duration_ms), (9, Some(1234)));
    assert_eq!(told.cutoff.unwrap().0.to_string(), "2026-10-22T03:17:00Z", "whole seconds, as Kubernetes keeps them");
    let not_asked_again = cluster(&one, 3000, Some(run("a", 1500, None)));
    assert_eq!(applied(&with(&one, real.clone()), &not_asked_again, 3000).cleanup, real.cleanup);
    let dry = said(r#"{"dry_run":true,"deleted":{"packages":3}}"#).cleanup.unwrap();
    assert_eq!((dry.last_result.as_deref(), dry.dry_run), (Some("DryRun"), true));
    assert_eq!(CleanupOutcome::of("cutoff 2026"), None, "another image's words");
}

#[test]
fn a_failed_cleanup_is_told_once() {
    let one = cleaned();
    let good = applied(&one, &cluster(&one, 2000, None), 2000);
    let failed = cluster(&one, 3000, Some(run("a", 2500, Some("x"))));
    let bad = applied(&with(&one, good.clone()), &failed, 3000);
    assert_eq!(transitions(&good, &bad).iter().map(|event| event.reason).collect::<Vec<_>>(), [Reason::CleanupFailed]);
    let again = applied(&with(&one, bad.clone()), &failed, 4000);
    assert_eq!(again, bad, "a repetition says nothing");
}
