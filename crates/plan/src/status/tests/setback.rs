//! What a child that a rule is in the way of takes out of the status, and what it does not.

use serde_json::json;

use super::{applied, condition, pair, short, with};
use crate::crd::{JamInstance, JamInstanceStatus, LastGood, MigrationState, RolloutPhase};
use crate::fixtures::{at, but, cluster_for, job, on_postgres, resolved, settled_cluster_for};
use crate::observed::{JobState, MigrationJob, Observed};
use crate::reason::{Reason, Refusal};
use crate::resolve::Resolved;
use crate::rollout::Course;
use crate::status::{Verdict, status};

#[test]
fn a_denied_child_is_tried_again_and_what_is_said_of_the_pods_holds() {
    let instance = on_postgres();
    let settled = settled_cluster_for(&instance);
    let mut unready = settled.clone();
    unready.api.as_mut().unwrap().available = 0;
    let denied = |instance: &JamInstance, cluster: &Observed| {
        let resolved = resolved(instance, cluster);
        status(instance, Verdict::Denied(&resolved, "Service main: exceeded quota"), cluster, at(2000))
    };
    let well = applied(&instance, &settled, 2000);
    let new = denied(&instance, &settled);
    assert_eq!(short(&new, "Ready"), pair("False", Reason::ApplyFailed), "not all of this spec is there");
    assert_eq!(JamInstanceStatus { conditions: well.conditions.clone(), ..new }, well);
    let served = with(&instance, well);
    assert_eq!(
        short(&denied(&served, &settled), "Ready"),
        pair("True", Reason::Serving),
        "it was, as this spec wants it"
    );
    for instance in [&instance, &served] {
        let told = denied(instance, &unready);
        assert_eq!(condition(&told, "Ready").status, "False");
        assert!(!condition(&told, "Ready").message.contains("quota"), "what is told of the pods");
        assert_eq!(short(&told, "Reconciling"), pair("True", Reason::ApplyFailed));
    }
    let resolved = resolved(&instance, &settled);
    let course = Course::Back(LastGood { generation: Some(1), ..LastGood::default() });
    let resolved = crate::Resolved { course, ..resolved };
    let told = status(&instance, Verdict::Denied(&resolved, "exceeded quota"), &settled, at(2000));
    assert_eq!(short(&told, "Stalled"), pair("True", Reason::RolledBack), "the graver word");
    assert!(condition(&told, "Ready").message.ends_with("ApplyFailed: exceeded quota"));
}

#[test]
fn a_denial_is_told_no_longer_than_it_lasts() {
    let instance = on_postgres();
    let settled = settled_cluster_for(&instance);
    let resolved = resolved(&instance, &settled);
    let told = |before: &JamInstance, verdict: Verdict<'_>| status(before, verdict, &settled, at(2000));
    let denied = with(&instance, told(&instance, Verdict::Denied(&resolved, "Service main: exceeded quota")));
    let next = told(&denied, Verdict::Interrupted(Some(&resolved), "still being deleted: Ingress main"));
    for kind in ["Ready", "Reconciling"] {
        assert_eq!(short(&next, kind).1, Reason::ApplyFailed.as_str());
        assert_eq!(condition(&next, kind).message, "still being deleted: Ingress main");
    }
    assert_eq!(
        short(&told(&with(&instance, next), Verdict::Applied(&resolved)), "Ready"),
        pair("True", Reason::Serving)
    );
}

#[test]
fn a_migration_whose_job_is_denied_does_not_run() {
    let instance = on_postgres();
    let mut cluster = cluster_for(&instance);
    let state = |told: &JamInstanceStatus| told.migration.as_ref().map(|told| (told.attempt, told.state));
    let message = |cluster: &Observed| {
        let resolved = resolved(&instance, cluster);
        let told = status(&instance, Verdict::Denied(&resolved, "Job main-migrate: exceeded quota"), cluster, at(2000));
        assert_eq!(short(&told, "Migrated"), pair("False", Reason::Migrating));
        assert_eq!(condition(&told, "Ready").message, condition(&told, "Migrated").message);
        (condition(&told, "Migrated").message.clone(), state(&told))
    };
    let (words, told) = message(&cluster);
    assert!(words.ends_with(" is not made yet") && told == Some((0, MigrationState::Pending)), "{words} {told:?}");
    cluster.migration_jobs = vec![job(&instance, &cluster, JobState::Running)];
    let (words, told) = message(&cluster);
    assert!(words.ends_with(" runs") && told == Some((0, MigrationState::Running)), "{words} {told:?}");

    let failed = JobState::Failed { exit_code: Some(1), message: "no route".into() };
    let first = cluster.migration_jobs[0].clone();
    cluster.migration_jobs = vec![MigrationJob { state: failed, finished_at: Some(at(2000)), ..first }];
    let failed = with(&instance, applied(&instance, &cluster, 2000));
    // The time of the next one has come, and what was left of the first is gone by now.
    let later = Observed { at: at(9000), migration_jobs: Vec::new(), ..cluster };
    let denied = |instance: &JamInstance| {
        with(instance, status(instance, Verdict::Denied(&resolved(instance, &later), "a quota"), &later, later.at))
    };
    let waits = denied(&denied(&failed));
    assert_eq!(state(waits.status.as_ref().unwrap()), Some((1, MigrationState::Pending)), "it does not run");
    let made = Observed { migration_jobs: vec![job(&waits, &later, JobState::Running)], ..later.clone() };
    let resolved = resolved(&waits, &later);
    let told = status(&waits, Verdict::Applied(&resolved), &made, made.at);
    assert_eq!(state(&told), Some((1, MigrationState::Running)), "it was made in this walk");
}

#[test]
fn what_is_wrong_with_the_pods_is_told_beside_a_refused_child() {
    let instance = on_postgres();
    let refusal = Refusal::new(Reason::InvalidObject, "Ingress main: bad key");
    let told = |change: &dyn Fn(&mut Observed), refusal: &Refusal| {
        let mut cluster = settled_cluster_for(&instance);
        change(&mut cluster);
        let resolved = resolved(&instance, &cluster);
        let told = status(&instance, Verdict::Objected(&resolved, refusal), &cluster, at(2000));
        assert_eq!(short(&told, "Ready"), pair("False", Reason::InvalidObject));
        condition(&told, "Ready").message.clone()
    };
    let dead = |cluster: &mut Observed| {
        let api = cluster.api.as_mut().unwrap();
        (api.ready, api.available) = (0, 0);
        cluster.trouble = Some("pod main-1: CrashLoopBackOff: broken".into());
    };
    let both = |cluster: &mut Observed| {
        dead(cluster);
        cluster.worker_trouble = Some("pod main-worker-1: Error: late".into());
    };
    let rolling = |cluster: &mut Observed| {
        dead(cluster);
        cluster.api.as_mut().unwrap().updated = 1;
    };
    let late = |cluster: &mut Observed| {
        rolling(cluster);
        cluster.api.as_mut().unwrap().deadline_exceeded = Some("it has timed out progressing".into());
        cluster.trouble = None;
    };
    let starting = |cluster: &mut Observed| {
        rolling(cluster);
        cluster.trouble = None;
    };
    for (change, words) in [
        (
            &dead as &dyn Fn(&mut Observed),
            "; PodsNotReady: Deployment main: 2 of 2 replicas are updated, 0 available: pod main-1: CrashLoopBackOff: broken",
        ),
        (
            &both,
            "; PodsNotReady: Deployment main: 2 of 2 replicas are updated, 0 available: pod main-1: CrashLoopBackOff: broken; \
             pod main-worker-1: Error: late",
        ),
        (&rolling, "; RollingOut: pod main-1: CrashLoopBackOff: broken"),
        (&late, "; RolloutStuck: Deployment main makes no progress: it has timed out progressing"),
        (&starting, ""),
    ] {
        assert_eq!(told(change, &refusal), format!("Ingress main: bad key{words}"));
    }
    let lengthy = Refusal::new(Reason::InvalidObject, "long ".repeat(400));
    assert!(told(&dead, &lengthy).ends_with("CrashLoopBackOff: broken"), "both are told");
}

#[test]
fn pods_that_served_and_crash_are_given_up_beside_whatever_cannot_be_written() {
    let old = on_postgres();
    let good = with(&old, applied(&old, &settled_cluster_for(&old), 1000));
    let instance = but(&good, json!({"runtime": {"jam": {"rateLimitPerMinute": 7}}}));
    let refusal = Refusal::new(Reason::InvalidObject, "Ingress main: bad key");
    let verdicts: [for<'a> fn(&'a Resolved, &'a Refusal) -> Verdict<'a>; 4] = [
        |resolved, _| Verdict::Applied(resolved),
        |resolved, refusal| Verdict::Objected(resolved, refusal),
        |resolved, _| Verdict::Denied(resolved, "Service main: exceeded quota"),
        |resolved, _| Verdict::Held(resolved, "Secret x cannot be written"),
    ];
    let mut serving = settled_cluster_for(&old);
    serving.revisions = vec![resolved(&old, &serving).revision];
    serving.api.as_mut().unwrap().revision = Some(resolved(&instance, &serving).wanted.name);
    for verdict in verdicts {
        let walk = |instance: &JamInstance, ready: i32, seconds: i64| {
            let mut cluster = Observed { at: at(seconds), ..serving.clone() };
            let api = cluster.api.as_mut().unwrap();
            (api.ready, api.available) = (ready, ready);
            cluster.lapsed = (ready < 2).then(|| at(seconds));
            let resolved = resolved(instance, &cluster);
            let told = status(instance, verdict(&resolved, &refusal), &cluster, at(seconds));
            (with(instance, told), resolved.given_up)
        };
        let (begun, _) = walk(&instance, 2, 2000);
        let rollout = |instance: &JamInstance| instance.status.clone().unwrap().rollout.unwrap();
        assert_eq!(rollout(&begun).phase, RolloutPhase::Serving);
        let (lost, _) = walk(&begun, 0, 2100);
        let (late, given_up) = walk(&lost, 0, 2399);
        assert_eq!((given_up, rollout(&late)), (false, rollout(&lost)));
        let (back, given_up) = walk(&late, 0, 2400);
        assert!(given_up);
        assert_eq!(rollout(&back).phase, RolloutPhase::RolledBack);
    }
}

#[test]
fn what_crashes_in_turns_after_its_trial_is_told_and_stays_because_nothing_says_that_what_was_before_it_would_not() {
    let old = on_postgres();
    let good = with(&old, applied(&old, &settled_cluster_for(&old), 1000));
    let instance = but(&good, json!({"runtime": {"jam": {"rateLimitPerMinute": 7}}}));
    let mut serving = settled_cluster_for(&old);
    serving.revisions = vec![resolved(&old, &serving).revision];
    let wanted = resolved(&instance, &serving).wanted.name;
    serving.api.as_mut().unwrap().revision = Some(wanted.clone());
    let walk = |instance: &JamInstance, ready: i32, seconds: i64| {
        let mut cluster = Observed { at: at(seconds), ..serving.clone() };
        let api = cluster.api.as_mut().unwrap();
        (api.ready, api.available) = (ready, ready);
        cluster.lapsed = (ready < 2).then(|| at(seconds));
        cluster.trouble = cluster.lapsed.map(|_| "pod main-1: CrashLoopBackOff: out of memory".into());
        with(instance, applied(instance, &cluster, seconds))
    };
    let mut now = walk(&instance, 2, 2000);
    for (step, seconds) in (2400..9000).step_by(60).enumerate() {
        let both = step % 4 == 0;
        now = walk(&now, if both { 2 } else { 1 }, seconds);
        let status = now.status.as_ref().unwrap();
        assert_eq!(status.rollout.as_ref().unwrap().phase, RolloutPhase::Serving);
        assert_eq!(status.last_good.as_ref().unwrap().revision.as_ref(), Some(&wanted));
        let told = if both { pair("True", Reason::Serving) } else { pair("False", Reason::PodsNotReady) };
        assert_eq!(short(status, "Ready"), told);
        assert_eq!(condition(status, "Ready").message.contains("out of memory"), !both);
    }
}

#[test]
fn a_revision_whose_workers_are_not_made_yet_is_not_the_last_good_one() {
    let old = on_postgres();
    let good = with(&old, applied(&old, &settled_cluster_for(&old), 1000));
    let instance = but(&good, json!({"workers": {"replicas": 1}}));
    let mut cluster = settled_cluster_for(&old);
    cluster.revisions = vec![resolved(&old, &cluster).revision];
    let wanted = resolved(&instance, &cluster).wanted.name;
    cluster.api.as_mut().unwrap().revision = Some(wanted.clone());
    let is_good = |cluster: &Observed| {
        let status = applied(&instance, &Observed { at: at(2000), ..cluster.clone() }, 2000);
        status.last_good.unwrap().revision.as_ref() == Some(&wanted)
    };
    assert!(!is_good(&cluster), "a quota may be in the way of the worker");
    cluster.worker.clone_from(&cluster.api);
    assert!(is_good(&cluster));
}
