//! Every transition of a rollout, as a table of scenes.

mod trial;

use super::*;
use serde_json::json;

use crate::fixtures::{applied_status, at, but, on_postgres, settled_cluster_for};

const DEADLINE: i64 = 300;

fn good(name: &str) -> LastGood {
    LastGood {
        revision: Some(name.into()),
        image: Some(format!("image-of-{name}")),
        schema: Some(3),
        generation: Some(1),
        ..LastGood::default()
    }
}

/// `new` is rolled out since second 1000, after `old` was good.
fn under_way() -> RolloutStatus {
    RolloutStatus {
        revision: "new".into(),
        generation: 2,
        phase: RolloutPhase::Progressing,
        since: seconds(at(1000)),
        losses: 0,
        down_since: None,
        from: Some(good("old")),
        message: None,
        evidence: None,
        spec: None,
    }
}

fn serving() -> RolloutStatus {
    RolloutStatus { phase: RolloutPhase::Serving, ..under_way() }
}

fn rolled_back() -> RolloutStatus {
    let (message, spec) = (Some("it crashed".into()), Some("spec".into()));
    RolloutStatus { phase: RolloutPhase::RolledBack, message, spec, evidence: Some("evidence".into()), ..under_way() }
}

/// What the machine sees of an instance with a worker whose second revision serves, after `change` in its cluster.
fn seen(change: impl FnOnce(&mut Observed)) -> (bool, Option<&'static str>, Option<String>) {
    let instance = but(&on_postgres(), json!({"workers": {"replicas": 1}}));
    let mut cluster = settled_cluster_for(&instance);
    let revision = cluster.api.as_ref().unwrap().revision.clone().unwrap();
    let one =
        DeploymentState { wanted: 1, replicas: 1, updated: 1, ready: 1, available: 1, ..cluster.api.clone().unwrap() };
    cluster.worker = Some(one);
    let told = applied_status(&instance, &cluster);
    let instance = JamInstance { status: Some(told), ..instance };
    change(&mut cluster);
    let scene = super::scene(&instance, &cluster, (&revision, "toggled", "spec"), true, 300);
    (scene.lost.is_some(), scene.none_ready, scene.stuck)
}

#[test]
fn a_worker_that_crashes_after_it_began_has_lost_readiness() {
    fn worker(cluster: &mut Observed) -> &mut DeploymentState {
        cluster.worker.as_mut().unwrap()
    }
    let unready = |cluster: &mut Observed| (worker(cluster).ready, worker(cluster).available) = (0, 0);
    let lost = |lapsed: bool, rolled_out: bool| {
        seen(|cluster| {
            unready(cluster);
            cluster.worker_lapsed = lapsed.then_some(cluster.at);
            worker(cluster).rolled_out = rolled_out;
        })
        .0
    };
    assert!(lost(true, true));
    assert!(!lost(false, true), "it was evicted");
    assert!(!lost(true, false), "its rollout is not over: that has a deadline");
    let (_, none_ready, stuck) = seen(|cluster| {
        unready(cluster);
        worker(cluster).deadline_exceeded = Some("no progress".into());
        cluster.trouble = Some("pod main-worker-1: CrashLoopBackOff".into());
    });
    assert_eq!((none_ready, stuck.as_deref()), (Some("worker"), Some("pod main-worker-1: CrashLoopBackOff")));
    let (lost, _, stuck) = seen(|cluster| {
        unready(cluster);
        (cluster.worker_lapsed, worker(cluster).rolled_out) = (Some(cluster.at), true);
        cluster.trouble = Some("pod main-worker-1: Error: crashes late".into());
    });
    assert!(
        lost && stuck.as_deref() == Some("pod main-worker-1: Error: crashes late"),
        "it says nothing itself: {stuck:?}"
    );
}

#[test]
fn no_pod_is_missed_where_none_is_wanted() {
    let none_ready = |wanted: i32| {
        let change = |cluster: &mut Observed| {
            let api = cluster.api.as_mut().unwrap();
            (api.wanted, api.ready) = (wanted, 0);
        };
        seen(change).1
    };
    assert_eq!((none_ready(2), none_ready(0)), (Some("pod"), None));
}

/// Pods of `new` are there and not ready, at second 1010.
fn scene(before: &RolloutStatus) -> Scene<'_> {
    Scene {
        at: at(1010),
        generation: 2,
        spec: "spec",
        wanted: "new",
        toggled: "new, toggled",
        applied: true,
        settled: false,
        serves: true,
        rolled_out: false,
        stuck: None,
        trouble: None,
        lost: None,
        database_away: false,
        recovering: false,
        none_ready: None,
        all_lost: None,
        in_turns: false,
        migrated: None,
        schema: Some(3),
        deadline: DEADLINE,
        good: None,
        before: Some(before),
    }
}

fn stuck() -> String {
    "CrashLoopBackOff".into()
}

fn phase(scene: &Scene<'_>) -> RolloutPhase {
    step(scene).status.phase
}

#[test]
fn a_new_revision_begins_with_the_last_good_one_behind_it() {
    let (before, last) = (serving(), good("new"));
    let next = Scene { wanted: "newer", generation: 3, applied: false, good: Some(&last), ..scene(&before) };
    let Step { status, course, given_up } = step(&next);
    assert_eq!((course, given_up, status.phase), (Course::Forward, false, RolloutPhase::Progressing));
    assert_eq!((status.from, status.generation, status.losses), (Some(good("new")), 3, 0));
    let again = Scene { wanted: "newer", good: Some(&last), before: None, ..next };
    assert_eq!(step(&again).status.from, Some(good("new")), "a status that was lost is begun anew");
    let same = Scene { wanted: "new", good: Some(&last), before: None, ..again };
    assert_eq!(step(&same).status.from, None, "there is no way back to itself");
}

#[test]
fn a_change_that_makes_no_other_pods_leaves_the_rollout_alone() {
    for before in [under_way(), serving()] {
        assert_eq!(step(&Scene { generation: 9, applied: false, ..scene(&before) }).status, before);
    }
}

#[test]
fn a_revision_serves_when_every_pod_does() {
    let before = under_way();
    let status = step(&Scene { settled: true, at: at(1040), ..scene(&before) }).status;
    assert_eq!((status.phase, &status.since), (RolloutPhase::Serving, &seconds(at(1040))));
    assert_eq!(step(&Scene { settled: true, at: at(9000), ..scene(&status) }).status, status, "and nothing is written");
    assert_eq!(phase(&Scene { settled: true, applied: false, ..scene(&before) }), RolloutPhase::Progressing);
}

#[test]
fn a_rollout_without_progress_goes_back_after_its_deadline_and_not_before() {
    let before = under_way();
    for (seconds, given_up) in [(1010, false), (1299, false), (1300, true), (5000, true)] {
        let now = step(&Scene { at: at(seconds), stuck: Some(stuck()), ..scene(&before) });
        assert_eq!(now.given_up, given_up, "at {seconds}");
        let course = if given_up { Course::Back(good("old")) } else { Course::Forward };
        assert_eq!(now.course, course, "at {seconds}");
        assert_eq!(now.status.message, given_up.then(|| "CrashLoopBackOff".into()));
    }
    let late = Scene { at: at(5000), ..scene(&before) };
    assert_eq!(step(&late).course, Course::Forward, "slow is not stuck");
    let elsewhere = Scene { applied: false, stuck: Some(stuck()), ..late };
    assert_eq!(step(&elsewhere).course, Course::Forward, "these words are about another revision");
}

#[test]
fn the_deadline_counts_from_when_the_migration_let_pods_start() {
    let before = under_way();
    let given_up = |migrated, now| {
        step(&Scene { at: at(now), migrated: Some(at(migrated)), stuck: Some(stuck()), ..scene(&before) }).given_up
    };
    assert!(!given_up(1500, 1799), "what is said of the pods before it is still there");
    assert!(given_up(1500, 1800));
    assert!(given_up(900, 1300), "an earlier migration takes nothing away");

    let instance = on_postgres();
    let cluster = settled_cluster_for(&instance);
    let mut status = applied_status(&instance, &cluster);
    let mut seen = |state| {
        let told = status.migration.as_mut().unwrap();
        (told.state, told.finished_at) = (state, Some(seconds(at(1500))));
        let instance = JamInstance { status: Some(status.clone()), ..instance.clone() };
        super::scene(&instance, &cluster, ("wanted", "toggled", "spec"), false, 300).migrated
    };
    assert_eq!(seen(MigrationState::Complete), Some(at(1500)));
    assert_eq!(seen(MigrationState::Running), None, "that was another one");
}

#[test]
fn a_database_that_is_away_is_no_fault_of_the_revision() {
    let before = under_way();
    let bad = Scene { at: at(2000), stuck: Some(stuck()), ..scene(&before) };
    assert!(!step(&Scene { database_away: true, ..bad.clone() }).given_up);
    assert!(!step(&Scene { recovering: true, ..bad.clone() }).given_up);
    assert!(step(&bad).given_up);
    let before = serving();
    let outage = step(&Scene { lost: Some(at(1010)), database_away: true, ..scene(&before) });
    assert_eq!(outage.status, before, "what an outage takes is not counted");
}

#[test]
fn readiness_that_is_lost_three_times_within_the_deadline_goes_back() {
    let mut now = serving();
    for losses in 1..=2 {
        let lost = step(&Scene { lost: Some(at(1010)), ..scene(&now) });
        assert_eq!((lost.course, lost.status.losses), (Course::Forward, losses));
        assert_eq!(
            step(&Scene { lost: Some(at(1010)), ..scene(&lost.status) }).status,
            lost.status,
            "one loss counts once"
        );
        now = step(&Scene { settled: true, at: at(1100), ..scene(&lost.status) }).status;
        assert_eq!((now.phase, &now.since), (RolloutPhase::Serving, &seconds(at(1000))));
    }
    let third = Scene { lost: Some(at(1200)), at: at(1200), trouble: Some("not ready".into()), ..scene(&now) };
    let Step { status, course, given_up } = step(&third);
    assert_eq!((course, given_up, status.phase), (Course::Back(good("old")), true, RolloutPhase::RolledBack));
    assert_eq!(status.message.unwrap(), "readiness was lost 3 times within 300 s: not ready");
    let later = Scene { at: at(1301), lost: Some(at(1301)), ..third };
    assert_eq!(step(&later).course, Course::Forward, "long after the rollout it is no fault of it");
}

#[test]
fn a_revision_that_was_given_up_is_not_tried_again_until_the_spec_changes() {
    let before = rolled_back();
    for scene in [
        Scene { settled: true, applied: false, ..scene(&before) },
        Scene { at: at(900_000), applied: false, ..scene(&before) },
        Scene { stuck: Some(stuck()), lost: Some(at(1010)), ..scene(&before) },
        Scene { database_away: true, ..scene(&before) },
        Scene { schema: Some(9), ..scene(&before) },
    ] {
        let now = step(&scene);
        assert_eq!((now.status, now.course, now.given_up), (before.clone(), Course::Back(good("old")), false));
    }
}

#[test]
fn the_toggle_alone_is_no_reason_to_try_again_what_was_given_up() {
    let (before, last) = (RolloutStatus { spec: None, ..rolled_back() }, good("old"));
    let scene = Scene { generation: 3, wanted: "off", toggled: "new", good: Some(&last), ..scene(&before) };
    let Step { status, course, given_up } = step(&scene);
    assert_eq!((course, given_up), (Course::Back(good("old")), false));
    assert_eq!(status, RolloutStatus { revision: "off".into(), generation: 3, ..rolled_back() });
    let elsewhere = Scene { toggled: "another", ..scene };
    assert_eq!(step(&elsewhere).course, Course::Forward, "whatever else changed is tried");
}

#[test]
fn a_newer_release_that_hashes_the_spec_in_another_way_does_not_try_again_what_was_given_up_when_the_toggle_is_turned()
{
    let before = RolloutStatus { spec: Some("of an earlier release".into()), ..rolled_back() };
    let upgraded = step(&scene(&before));
    assert_eq!((&upgraded.course, upgraded.status.spec.as_deref()), (&Course::Back(good("old")), Some("spec")));
    let turned = step(&Scene { generation: 3, wanted: "off", ..scene(&upgraded.status) });
    assert_eq!((turned.course, turned.given_up), (Course::Back(good("old")), false));
}

#[test]
fn what_changes_beside_the_toggle_is_tried_after_the_toggle_as_well() {
    let (before, last) = (rolled_back(), good("old"));
    let turned = Scene { generation: 3, wanted: "off", toggled: "new", good: Some(&last), ..scene(&before) };
    let now = step(&turned);
    assert_eq!((now.course, now.given_up), (Course::Back(good("old")), false));
    // The pods of the toggled spec and those of what was given up differ in the toggle only, whatever else changes.
    for before in [before.clone(), now.status] {
        for (wanted, toggled) in [("off", "new"), ("new", "off")] {
            let next =
                Scene { generation: 4, spec: "another", wanted, toggled, before: Some(&before), ..turned.clone() };
            let Step { status, course, given_up } = step(&next);
            let tried = (Course::Forward, false, RolloutPhase::Progressing, wanted);
            assert_eq!((course, given_up, status.phase, status.revision.as_str()), tried);
        }
    }
}

#[test]
fn a_changed_spec_is_tried_even_when_its_pods_are_the_same() {
    let (before, last) = (RolloutStatus { spec: None, ..rolled_back() }, good("old"));
    for wanted in ["new", "newer"] {
        let next = Scene { generation: 3, wanted, applied: false, good: Some(&last), ..scene(&before) };
        let Step { status, course, given_up } = step(&next);
        assert_eq!((course, given_up, status.phase), (Course::Forward, false, RolloutPhase::Progressing));
        assert_eq!((status.from, status.message), (Some(good("old")), None));
        assert_eq!(status.evidence.as_deref(), Some("evidence"), "what was found out is kept");
    }
    let reverted = Scene { generation: 3, wanted: "old", settled: true, good: Some(&last), ..scene(&before) };
    assert_eq!(phase(&reverted), RolloutPhase::Serving);
}

#[test]
fn a_schema_that_moved_on_bars_the_way_back() {
    let before = under_way();
    let bad = Scene { at: at(2000), stuck: Some(stuck()), ..scene(&before) };
    for (schema, barred) in [(Some(2), false), (Some(3), false), (Some(4), true)] {
        let now = step(&Scene { schema, ..bad.clone() });
        assert_eq!(now.given_up, !barred, "schema {schema:?}");
        if barred {
            let Course::NoWayBack(why) = now.course else { panic!("{:?}", now.course) };
            assert!(why.contains("CrashLoopBackOff") && why.contains("schema 3") && why.contains("at 4"), "{why}");
            assert_eq!(now.status, before, "it may still become ready");
            assert_eq!(phase(&Scene { settled: true, ..scene(&now.status) }), RolloutPhase::Serving);
        }
    }
}

#[test]
fn a_first_revision_has_nothing_to_go_back_to() {
    let before = RolloutStatus { from: None, ..under_way() };
    let now = step(&Scene { at: at(2000), stuck: Some(stuck()), ..scene(&before) });
    assert_eq!((now.course, now.given_up), (Course::NoWayBack("CrashLoopBackOff".into()), false));
    let before = RolloutStatus { from: None, ..serving() };
    assert_eq!(step(&Scene { lost: Some(at(1010)), ..scene(&before) }).status, before);
}

#[test]
fn a_revision_without_a_pod_proves_nothing_and_is_judged_once_it_has_one() {
    let before = under_way();
    let none = Scene { at: at(1100), settled: true, serves: false, rolled_out: true, ..scene(&before) };
    let still = step(&none).status;
    assert_eq!(still, before, "nobody has seen it serve");
    // At second 5000 somebody scales it up: its Deployment has been rolled out long ago, and never says again that it is late.
    let scaled = |at, before| step(&Scene { at, none_ready: Some("pod"), rolled_out: true, ..scene(before) });
    let first = scaled(at(5000), &still);
    let after = |seconds: i64| scaled(at(5000 + seconds), &first.status);
    assert!(!first.given_up);
    assert!(!after(DEADLINE - 1).given_up);
    let given_up = after(DEADLINE);
    assert_eq!((given_up.given_up, given_up.course), (true, Course::Back(good("old"))));
    assert_eq!(given_up.status.message.as_deref(), Some("no pod is ready after 300 s: no pod says why"));
    assert_eq!(phase(&Scene { settled: true, ..scene(&still) }), RolloutPhase::Serving);
    // What broke before it came is not held against it.
    let early = RolloutStatus { down_since: Some(seconds(at(1))), ..before };
    assert!(!scaled(at(1299), &early).given_up && scaled(at(1300), &early).given_up);
}

#[test]
fn what_no_pod_tells_of_the_schema_bars_the_way_back_until_one_does() {
    let before = under_way();
    let unknown = Scene { at: at(2000), stuck: Some(stuck()), schema: None, ..scene(&before) };
    let now = step(&unknown);
    assert!(!now.given_up && matches!(&now.course, Course::NoWayBack(why) if why.contains("which schema")));
    assert!(step(&Scene { schema: Some(3), ..unknown }).given_up);
}
