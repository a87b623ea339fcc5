//! Laws of status: nothing contradicts, nothing changes without a cause, every transition is told once.

mod cleanup;
mod optional;
mod own;
mod setback;
mod shared;

use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::crd::{JamInstance, LastGood};
use crate::fixtures::{at, but, cluster_for, in_memory, job, on_postgres, resolved, settled_cluster_for};
use crate::observed::{DeploymentState, JobState, Probe, SecretKey};
use crate::reason::ReasonKind;
use crate::rollout::Course;

pub(super) fn applied(instance: &JamInstance, cluster: &Observed, seconds: i64) -> JamInstanceStatus {
    status(instance, Verdict::Applied(&resolved(instance, cluster)), cluster, at(seconds))
}

pub(super) fn with(instance: &JamInstance, status: JamInstanceStatus) -> JamInstance {
    JamInstance { status: Some(status), ..instance.clone() }
}

fn condition<'a>(status: &'a JamInstanceStatus, kind: &str) -> &'a Condition {
    status.conditions.iter().find(|condition| condition.type_ == kind).unwrap()
}

fn short(status: &JamInstanceStatus, kind: &str) -> (String, String) {
    let condition = condition(status, kind);
    (condition.status.clone(), condition.reason.clone())
}

fn pair(status: &str, reason: Reason) -> (String, String) {
    (status.into(), reason.to_string())
}

/// Many ways in which a reconcile ends.
pub(super) fn endings() -> Vec<JamInstanceStatus> {
    let postgres = on_postgres();
    let settled = settled_cluster_for(&postgres);
    let fresh = cluster_for(&postgres);
    let mut rolling = settled.clone();
    rolling.api.as_mut().unwrap().updated = 1;
    let mut unready = settled.clone();
    unready.api.as_mut().unwrap().available = 0;
    let failed = |exit_code| JobState::Failed { exit_code, message: "words".into() };
    let with_job = |state| Observed { migration_jobs: vec![job(&postgres, &fresh, state)], ..fresh.clone() };
    let refusal = |reason| Refusal::new(reason, "because");
    let of = |verdict: Verdict<'_>| status(&postgres, verdict, &settled, at(2000));
    vec![
        applied(&postgres, &settled, 2000),
        applied(&postgres, &fresh, 2000),
        applied(&postgres, &rolling, 2000),
        applied(&postgres, &unready, 2000),
        applied(&postgres, &with_job(failed(Some(1))), 2000),
        applied(&postgres, &with_job(failed(Some(3))), 2000),
        applied(&in_memory(), &settled_cluster_for(&in_memory()), 2000),
        of(Verdict::Refused(&refusal(Reason::NotImplemented))),
        of(Verdict::Refused(&refusal(Reason::SecretMissing))),
        of(Verdict::Refused(&refusal(Reason::TokensPending))),
        of(Verdict::Objected(&resolved(&postgres, &settled), &refusal(Reason::InvalidObject))),
        of(Verdict::Interrupted(None, "the API server did not answer")),
        status(&but(&postgres, json!({"paused": true})), Verdict::Paused, &settled, at(2000)),
    ]
}

#[test]
fn a_consumer_that_is_held_makes_nothing_ready_or_unready_that_is_not() {
    let postgres = on_postgres();
    let settled = settled_cluster_for(&postgres);
    let mut unready = settled.clone();
    unready.api.as_mut().unwrap().available = 0;
    for (cluster, wanted) in [(&settled, ["True", "True", "False"]), (&unready, ["False", "True", "False"])] {
        let resolved = resolved(&postgres, cluster);
        let told = status(&postgres, Verdict::Held(&resolved, "Secret x cannot be written"), cluster, at(2000));
        assert_eq!(["Ready", "Reconciling", "Stalled"].map(|kind| condition(&told, kind).status.clone()), wanted);
        let ready = &condition(&told, "Ready").message;
        assert!(!ready.contains("cannot be written"), "what is told of the pods: {ready}");
    }
}

#[test]
fn a_refused_child_takes_no_other_word_out_of_the_status() {
    let instance = on_postgres();
    let settled = settled_cluster_for(&instance);
    let (well, proven) = (applied(&instance, &settled, 2000), resolved(&instance, &settled));
    let refusal = Refusal::new(Reason::InvalidObject, "Ingress main: bad key");
    let told = status(&instance, Verdict::Objected(&proven, &refusal), &settled, at(2000));
    for (kind, said) in [("Ready", "False"), ("Reconciling", "False"), ("Stalled", "True")] {
        assert_eq!(condition(&told, kind).status, said);
    }
    assert_eq!(condition(&told, "Stalled").message, refusal.message);
    assert_eq!(told.conditions[3..], well.conditions[3..]);
    assert_eq!(JamInstanceStatus { conditions: well.conditions.clone(), ..told }, well);
    // A rollout that was given up beside it is the graver word.
    let course = Course::Back(LastGood { generation: Some(1), ..LastGood::default() });
    let proven = crate::Resolved { course, ..proven };
    let told = status(&instance, Verdict::Objected(&proven, &refusal), &settled, at(2000));
    assert_eq!(short(&told, "Stalled"), pair("True", Reason::RolledBack));
    let message = &condition(&told, "Ready").message;
    assert!(message.contains("rolled back") && message.ends_with("InvalidObject: Ingress main: bad key"), "{message}");
}

#[test]
fn every_status_has_every_condition_once_and_speaks_of_its_generation() {
    for status in endings() {
        let kinds: Vec<_> = status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
        let all =
            crate::crd::ConditionType::ALL.into_iter().filter(|kind| *kind != crate::crd::ConditionType::Overridden);
        assert_eq!(kinds, all.map(crate::crd::ConditionType::as_str).collect::<Vec<_>>());
        assert_eq!(status.observed_generation, Some(1));
        for condition in &status.conditions {
            assert_eq!(condition.observed_generation, Some(1));
            assert!(!condition.message.is_empty() && !condition.reason.is_empty());
        }
    }
}

#[test]
fn ready_reconciling_and_stalled_never_contradict_each_other() {
    for status in endings() {
        let is = |kind: &str| condition(&status, kind).status == "True";
        assert!(!(is("Reconciling") && is("Stalled")), "{status:?}");
        assert!(!(is("Ready") && is("Reconciling")), "{status:?}");
        assert!(!(is("Ready") && is("Stalled")), "{status:?}");
        let paused = is("Paused");
        assert!(paused || is("Ready") || is("Reconciling") || is("Stalled"), "kstatus would wait for ever: {status:?}");
    }
}

#[test]
fn a_steady_state_gives_the_same_status_however_late_it_is() {
    for instance in [in_memory(), on_postgres()] {
        let cluster = settled_cluster_for(&instance);
        let first = applied(&instance, &cluster, 2000);
        let later = Observed { at: at(900_000), ..cluster };
        assert_eq!(applied(&with(&instance, first.clone()), &later, 900_000), first);
        let read_back: JamInstanceStatus = serde_json::from_value(serde_json::to_value(&first).unwrap()).unwrap();
        assert_eq!(read_back, first, "what the API server stores is what was written");
    }
}

#[test]
fn a_condition_keeps_its_date_until_its_status_changes() {
    let instance = on_postgres();
    let settled = settled_cluster_for(&instance);
    let first = applied(&instance, &settled, 2000);
    let mut unready = settled.clone();
    unready.api.as_mut().unwrap().available = 1;
    let second = applied(&with(&instance, first.clone()), &unready, 3000);
    assert_eq!(condition(&second, "Ready").last_transition_time.0.as_second(), 3000);
    assert_eq!(condition(&second, "Migrated").last_transition_time, condition(&first, "Migrated").last_transition_time);
}

#[test]
fn a_settled_instance_is_ready_and_tells_where_it_is() {
    let instance = on_postgres();
    let status = applied(&instance, &settled_cluster_for(&instance), 2000);
    assert_eq!(short(&status, "Ready"), pair("True", Reason::Serving));
    assert_eq!(short(&status, "DatabaseReachable"), pair("True", Reason::Reachable));
    assert_eq!(short(&status, "Migrated"), pair("True", Reason::MigrationComplete));
    assert_eq!(status.endpoint.as_deref(), Some("http://main.jam.svc:80"));
    assert_eq!((status.replicas, status.ready_replicas), (Some(2), Some(2)));
    let version = status.version.unwrap();
    assert_eq!((version.image.as_deref(), version.schema), (Some("registry.example/jam-api:1.0.0"), Some(3)));
    assert_eq!(status.tokens[0].key_id, "01010101");
    assert_eq!(status.selector.unwrap().split(',').count(), 3);
}

#[test]
fn a_disabled_instance_is_ready_and_says_that_it_is_disabled() {
    let instance = but(&in_memory(), json!({"runtime": {"jam": {"enabled": false}}}));
    let status = applied(&instance, &settled_cluster_for(&instance), 2000);
    assert_eq!(status.enabled, Some(false));
    assert_eq!(condition(&status, "Ready").message, "1 replica is ready; JAM is disabled, /jam/* answers 404");
}

#[test]
fn a_database_that_does_not_answer_is_told_apart_from_pods_that_are_not_ready() {
    let instance = on_postgres();
    let mut cluster = settled_cluster_for(&instance);
    let api = cluster.api.as_mut().unwrap();
    (api.ready, api.available, api.unavailable) = (0, 0, 2);
    api.deadline_exceeded = Some("progress deadline".into());
    cluster.database = Some(Probe { reachable: false, message: "connection refused".into() });
    let status = applied(&instance, &cluster, 2000);
    assert_eq!(short(&status, "Ready"), pair("False", Reason::DatabaseUnreachable));
    assert_eq!(short(&status, "DatabaseReachable"), pair("False", Reason::DatabaseUnreachable));
    assert_eq!(short(&status, "Stalled"), pair("False", Reason::Settled), "it heals by itself");
    cluster.database = Some(Probe { reachable: true, message: "ok".into() });
    cluster.trouble = Some("ImagePullBackOff: no such image".into());
    let status = applied(&instance, &cluster, 2000);
    assert_eq!(short(&status, "Stalled"), pair("True", Reason::RolloutStuck));
    assert!(condition(&status, "Ready").message.contains("no such image"));
}

#[test]
fn a_migration_whose_pod_cannot_begin_says_why() {
    let instance = on_postgres();
    let fresh = cluster_for(&instance);
    let running = job(&instance, &fresh, JobState::Running);
    let message = format!("migration Job {} runs: pod a: ImagePullBackOff: not found", running.name);
    let trouble = Some("pod a: ImagePullBackOff: not found".into());
    let seen = Observed { migration_jobs: vec![running], migration_trouble: trouble, ..fresh };
    let status = applied(&instance, &seen, 2000);
    assert_eq!([&condition(&status, "Ready").message, &condition(&status, "Migrated").message], [&message, &message]);
}

#[test]
fn a_failed_migration_names_its_job_and_its_last_words() {
    let instance = on_postgres();
    let fresh = cluster_for(&instance);
    for (exit_code, reason, stalled) in
        [(Some(1), Reason::MigrationFailed, "False"), (Some(3), Reason::MigrationImpossible, "True")]
    {
        let failed = job(&instance, &fresh, JobState::Failed { exit_code, message: "relation exists".into() });
        let name = failed.name.clone();
        let status = applied(&instance, &Observed { migration_jobs: vec![failed], ..fresh.clone() }, 2000);
        assert_eq!(short(&status, "Migrated"), pair("False", reason));
        let message = &condition(&status, "Migrated").message;
        assert!(message.contains(&name) && message.contains("relation exists"), "{message}");
        assert_eq!(condition(&status, "Stalled").status, stalled);
        let database =
            if exit_code == Some(1) { ("False", Reason::DatabaseUnreachable) } else { ("Unknown", Reason::NotAsked) };
        assert_eq!(short(&status, "DatabaseReachable"), pair(database.0, database.1));
    }
}

#[test]
fn replicas_that_an_autoscaler_adds_or_takes_make_nothing_unready_and_a_lost_one_does() {
    let instance = but(&on_postgres(), json!({"autoscaling": {"minReplicas": 2, "maxReplicas": 6}}));
    let mut cluster = settled_cluster_for(&instance);
    cluster.api.as_mut().unwrap().replicas_taken_over = true;
    let said = |instance: &JamInstance, (wanted, replicas, ready): (i32, i32, i32), change: &dyn Fn(&mut Observed)| {
        let mut cluster = cluster.clone();
        let api = cluster.api.as_mut().unwrap();
        (api.wanted, api.replicas, api.updated) = (wanted, replicas, replicas);
        (api.ready, api.available) = (ready, ready);
        change(&mut cluster);
        with(instance, applied(instance, &cluster, 3000))
    };
    let ready = |instance: &JamInstance| short(instance.status.as_ref().unwrap(), "Ready");
    let begun = said(&instance, (2, 2, 2), &|_| ());
    let serving = said(&begun, (2, 2, 2), &|_| ());
    assert_eq!(ready(&serving), pair("True", Reason::Serving));
    for counts in [(6, 2, 2), (6, 6, 2), (6, 6, 5), (2, 6, 2)] {
        let scaling = said(&serving, counts, &|_| ());
        assert_eq!(ready(&scaling), pair("True", Reason::Serving), "{counts:?}");
        assert_eq!(short(scaling.status.as_ref().unwrap(), "Reconciling"), pair("True", Reason::RollingOut));
        let events = transitions(serving.status.as_ref().unwrap(), scaling.status.as_ref().unwrap());
        assert!(events.iter().all(|event| event.kind != EventType::Warning), "{events:?}");
        assert_eq!(ready(&said(&scaling, (6, 6, 6), &|_| ())), pair("True", Reason::Serving));
    }
    let lost = said(&serving, (6, 6, 1), &|_| ());
    assert_eq!(ready(&lost), pair("False", Reason::PodsNotReady));
    assert_eq!(ready(&said(&lost, (6, 6, 4), &|_| ())), pair("False", Reason::PodsNotReady), "until all are there");
    let no_room = |cluster: &mut Observed| cluster.trouble = Some("pod main-3: Unschedulable".into());
    assert_eq!(ready(&said(&serving, (6, 6, 2), &no_room)), pair("False", Reason::PodsNotReady));
}

#[test]
fn pods_with_the_old_dsn_say_nothing_of_the_new_one() {
    let instance = on_postgres();
    let settled = settled_cluster_for(&instance);
    let before = with(&instance, applied(&instance, &settled, 2000));
    let good = resolved(&instance, &settled).revision;
    let failed = JobState::Failed { exit_code: Some(1), message: "connection refused".into() };
    let reachable = |instance: &JamInstance, cluster: &Observed| {
        let job = job(instance, cluster, failed.clone());
        let cluster = Observed { migration_jobs: vec![job], revisions: vec![good.clone()], ..cluster.clone() };
        short(&applied(instance, &cluster, 3000), "DatabaseReachable")
    };
    let moved = Observed { dsn: Some(SecretKey::Present { hash: "dsn-hash-2".into() }), ..settled.clone() };
    assert_eq!(reachable(&before, &moved), pair("False", Reason::DatabaseUnreachable));
    let newer = but(&before, json!({"image": {"tag": "next"}}));
    assert_eq!(reachable(&newer, &settled), pair("True", Reason::Reachable), "these pods have the wanted DSN");
}

#[test]
fn last_words_of_any_length_are_bounded_and_their_end_is_told() {
    let instance = on_postgres();
    let fresh = cluster_for(&instance);
    let message = format!("{}\nerror: relation exists", "a line of the log\n".repeat(500));
    let failed = job(&instance, &fresh, JobState::Failed { exit_code: Some(1), message });
    let name = failed.name.clone();
    let status = applied(&instance, &Observed { migration_jobs: vec![failed], ..fresh }, 2000);
    let kept = status.migration.as_ref().unwrap().message.clone().unwrap();
    assert!(kept.chars().count() <= 2048 && kept.ends_with("relation exists"), "{kept}");
    for kind in ["Migrated", "Ready"] {
        let told = &condition(&status, kind).message;
        assert!(told.contains(&name) && told.ends_with("relation exists") && told.len() <= 1024, "{kind}: {told}");
        assert!(told.contains(": … a line of the log\n"), "from the beginning of a line: {told}");
    }
}

#[test]
fn a_refusal_keeps_what_was_known() {
    let instance = on_postgres();
    let cluster = settled_cluster_for(&instance);
    let good = applied(&instance, &cluster, 2000);
    let refusal = Refusal::new(Reason::SecretMissing, "Secret jam-db in namespace jam does not exist");
    let refused = status(&with(&instance, good.clone()), Verdict::Refused(&refusal), &cluster, at(3000));
    assert_eq!(short(&refused, "Stalled"), pair("True", Reason::SecretMissing));
    assert_eq!(short(&refused, "DatabaseReachable"), pair("False", Reason::SecretMissing));
    assert_eq!(short(&refused, "Migrated"), short(&good, "Migrated"));
    assert_eq!((refused.migration, refused.version), (good.migration, good.version));
}

#[test]
fn a_request_that_failed_does_not_make_a_serving_instance_unready() {
    let instance = on_postgres();
    let cluster = settled_cluster_for(&instance);
    let good = with(&instance, applied(&instance, &cluster, 2000));
    let status = |instance: &JamInstance| status(instance, Verdict::Interrupted(None, "503"), &cluster, at(3000));
    assert_eq!(short(&status(&good), "Ready"), pair("True", Reason::Serving));
    assert_eq!(short(&status(&good), "Reconciling"), pair("True", Reason::ApplyFailed));
    let mut edited = good;
    edited.metadata.generation = Some(2);
    assert_eq!(short(&status(&edited), "Ready"), pair("False", Reason::ApplyFailed), "nobody knows of the new spec");
}

#[test]
fn pausing_leaves_every_word_as_it_was_and_adds_its_own() {
    let cluster = settled_cluster_for(&on_postgres());
    let mut unready = cluster.clone();
    unready.api.as_mut().unwrap().available = 0;
    for cluster in [&cluster, &unready] {
        let before = applied(&on_postgres(), cluster, 2000);
        let mut paused = but(&with(&on_postgres(), before.clone()), json!({"paused": true}));
        paused.metadata.generation = Some(2);
        let now = status(&paused, Verdict::Paused, &Observed::nothing(at(3000)), at(3000));
        assert_eq!(short(&now, "Paused"), pair("True", Reason::PausedBySpec));
        assert_eq!((condition(&now, "Paused").observed_generation, now.observed_generation), (Some(2), Some(2)));
        let rest = |status: &JamInstanceStatus| {
            let mut rest = JamInstanceStatus { observed_generation: None, ..status.clone() };
            rest.conditions.retain(|condition| condition.type_ != "Paused");
            rest
        };
        assert_eq!(rest(&now), rest(&before), "nothing else is touched, the numbers of pods included");
        let stalled = status(&paused, Verdict::Paused, cluster, at(3000));
        assert_eq!(condition(&stalled, "Stalled").status, "False", "a pause is no failure");
    }
}

#[test]
fn every_transition_is_told_once_and_no_repetition() {
    let instance = on_postgres();
    let settled = settled_cluster_for(&instance);
    let empty = JamInstanceStatus::default();
    let good = applied(&instance, &settled, 2000);
    let reasons = |events: Vec<Event>| events.into_iter().map(|event| event.reason).collect::<Vec<_>>();
    let told = reasons(transitions(&empty, &good));
    assert_eq!(told, [Reason::Serving, Reason::Reachable, Reason::MigrationComplete, Reason::TokensIssued]);
    assert_eq!(transitions(&good, &good), []);
    let refusal = Refusal::new(Reason::SecretMissing, "gone");
    let refused = status(&with(&instance, good.clone()), Verdict::Refused(&refusal), &settled, at(3000));
    let events = transitions(&good, &refused);
    assert_eq!(events, [Event { kind: EventType::Warning, reason: Reason::SecretMissing, note: "gone".into() }]);
    let other = Refusal::new(Reason::NameTaken, "taken");
    let still = status(&with(&instance, refused.clone()), Verdict::Refused(&other), &settled, at(4000));
    assert!(reasons(transitions(&refused, &still)).contains(&Reason::NameTaken), "another reason is news too");
    assert_eq!(reasons(transitions(&refused, &good)), [Reason::Serving, Reason::Reachable]);
}

#[test]
fn every_reason_has_a_name_of_its_own_and_says_what_to_do() {
    let names: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(names.len(), Reason::ALL.len());
    for reason in Reason::ALL {
        assert!(reason.explanation().len() > 15 && reason.explanation().ends_with('.'), "{reason}");
        assert_eq!(reason.is_warning(), matches!(reason.kind(), ReasonKind::Outside | ReasonKind::Change));
    }
}

#[test]
fn zero_replicas_are_ready_when_there_are_none() {
    let instance = but(&on_postgres(), json!({"replicas": 0}));
    let mut cluster = settled_cluster_for(&instance);
    assert_eq!(short(&applied(&instance, &cluster, 1), "Ready"), pair("True", Reason::ScaledToZero));
    cluster.api = Some(DeploymentState { replicas: 1, ..cluster.api.unwrap() });
    assert_eq!(short(&applied(&instance, &cluster, 1), "Ready"), pair("False", Reason::RollingOut));
}

#[test]
fn a_revision_that_was_given_up_is_the_last_good_one_no_more() {
    let instance = in_memory();
    let cluster = settled_cluster_for(&instance);
    let good = |name: &str| LastGood { revision: Some(name.into()), ..LastGood::default() };
    let before =
        with(&instance, JamInstanceStatus { last_good: Some(good("flapped")), ..JamInstanceStatus::default() });
    let mut resolved = resolved(&before, &cluster);
    resolved.course = Course::Back(good("old"));
    let told = status(&before, Verdict::Applied(&resolved), &cluster, at(2000));
    assert_eq!(told.last_good, Some(good("old")));
}
