//! What served for a moment: since when it is down, and to where a way leads back.

use super::*;
use crate::observed::Probe;

#[test]
fn a_revision_that_served_and_then_hangs_for_good_is_given_up_after_the_deadline() {
    let served = step(&Scene { at: at(1020), settled: true, ..scene(&under_way()) }).status;
    let lost = step(&Scene { at: at(1030), lost: Some(at(1030)), all_lost: Some(at(1030)), ..scene(&served) }).status;
    assert_eq!((lost.phase, lost.losses), (RolloutPhase::Progressing, 1));
    assert_eq!(lost.down_since, Some(seconds(at(1030))));
    let after = |seconds| step(&Scene { at: at(1030 + seconds), none_ready: Some("pod"), ..scene(&lost) });
    assert!(!after(DEADLINE - 1).given_up);
    assert!(after(DEADLINE).given_up);
    let crashes = Scene { at: at(1330), none_ready: Some("pod"), trouble: Some("crashes late".into()), ..scene(&lost) };
    let RolloutStatus { message, down_since, .. } = step(&crashes).status;
    assert_eq!(message.unwrap(), "it served, and no pod is ready after 300 s: crashes late");
    assert_eq!(down_since, None, "that is over");
    let one_is_ready = step(&Scene { at: at(1020 + DEADLINE), ..scene(&lost) });
    assert_eq!((one_is_ready.given_up, &one_is_ready.status), (false, &lost), "and nothing is written");
    let again = step(&Scene { at: at(1040), settled: true, ..scene(&lost) }).status;
    assert_eq!((again.phase, again.down_since), (RolloutPhase::Serving, None));
    let newer = Scene { wanted: "newer", generation: 3, ..scene(&lost) };
    assert_eq!(step(&newer).status.down_since, None, "of that one nobody knows yet");
}

#[test]
fn after_its_time_a_revision_of_which_one_pod_serves_is_not_held_to_account_for_another() {
    let lost = step(&Scene { at: at(1030), lost: Some(at(1030)), ..scene(&serving()) }).status;
    let later = step(&Scene { at: at(1030 + DEADLINE), ..scene(&lost) });
    assert_eq!((later.given_up, &later.status.down_since), (false, &None), "one pod has been ready all the while");
    let none = |seconds, before| step(&Scene { at: at(9000 + seconds), none_ready: Some("worker"), ..scene(before) });
    let first = none(0, &later.status);
    assert_eq!(
        (first.given_up, &first.status.down_since),
        (false, &Some(seconds(at(9000)))),
        "it is for a moment only"
    );
    assert!(!none(DEADLINE - 1, &first.status).given_up);
    let words = none(DEADLINE, &first.status).status.message.unwrap();
    assert_eq!(words, "it served, and no worker is ready after 300 s: no pod says why");
}

#[test]
fn a_revision_whose_pods_fall_in_turns_so_that_none_stays_ready_is_given_up_after_the_deadline() {
    let lost = step(&Scene { at: at(1030), lost: Some(at(1030)), ..scene(&serving()) }).status;
    let seen = |seconds, in_turns| Scene { at: at(1030 + seconds), in_turns, ..scene(&lost) };
    assert!(!step(&seen(DEADLINE - 1, true)).given_up);
    let words = step(&seen(DEADLINE, true)).status.message.unwrap();
    assert_eq!(words, "it served, and no pod stays ready after 300 s: no pod says why");
    let stood = step(&seen(DEADLINE, false)).status;
    assert_eq!(stood.down_since, None, "one has stood all the while");
    let later = Scene { before: Some(&stood), ..seen(2 * DEADLINE, true) };
    assert!(!step(&later).given_up, "it is not on trial any more");
    let fell_later = RolloutStatus { down_since: Some(seconds(at(9000))), ..lost.clone() };
    let stands = step(&Scene { before: Some(&fell_later), at: at(9000 + DEADLINE), ..later });
    assert_eq!((stands.given_up, stands.status.down_since), (false, None), "what falls after the trial is told");
    let now = good("new");
    let newer = |in_turns| {
        let next = Scene { wanted: "newer", generation: 3, good: Some(&now), ..seen(DEADLINE, in_turns) };
        step(&next).status.from.and_then(|from| from.revision)
    };
    assert_eq!((newer(true).as_deref(), newer(false).as_deref()), (Some("old"), Some("new")), "the way back");
    let away = Scene { database_away: true, ..seen(DEADLINE, true) };
    assert_eq!(step(&away).status, lost, "an outage is nobody's fault");
}

#[test]
fn one_pod_that_fell_on_trial_dates_no_fall_of_one_that_served_until_now() {
    let (served, now) = (serving(), good("new"));
    let late = Scene { at: at(9000), lost: Some(at(1060)), ..scene(&served) };
    let evicted = Scene { none_ready: Some("pod"), ..late.clone() };
    assert_eq!(step(&evicted).status.down_since, Some(seconds(at(9000))), "its neighbour was evicted just now");
    let all = Scene { all_lost: Some(at(1060)), ..evicted };
    assert_eq!(step(&all).status.down_since, Some(seconds(at(9000 + RECOVERY - DEADLINE))));
    let next = |scene: Scene<'_>| {
        let next = Scene { wanted: "newer", generation: 3, applied: false, good: Some(&now), ..scene };
        step(&next).status.from.and_then(|from| from.revision)
    };
    assert_eq!(next(late).as_deref(), Some("new"), "the neighbour has shown that it serves");
    assert_eq!(next(all).as_deref(), Some("old"));
}

#[test]
fn what_an_outage_or_a_refused_spec_left_in_status_hides_no_fall_of_every_pod() {
    let instance = on_postgres();
    let mut cluster = settled_cluster_for(&instance);
    let revision = cluster.api.as_ref().unwrap().revision.clone().unwrap();
    let mut told = applied_status(&instance, &cluster);
    told.ready_replicas = Some(0);
    let instance = JamInstance { status: Some(told), ..instance };
    cluster.lapsed = Some(cluster.at);
    let mut lost = |ready| {
        cluster.api.as_mut().unwrap().ready = ready;
        super::super::scene(&instance, &cluster, (&revision, "toggled", "spec"), false, 300).lost.is_some()
    };
    assert!(lost(0));
    assert!(!lost(1), "one that is back after an outage while the other is on its way");
}

#[test]
fn what_is_not_ready_yet_because_its_database_is_only_just_back_has_lost_nothing() {
    let served = serving();
    let back = Scene { at: at(1100), lost: Some(at(1050)), recovering: true, ..scene(&served) };
    assert_eq!(step(&back).status, served);
    assert_eq!(step(&Scene { recovering: false, ..back }).status.losses, 1, "its time to recover is over");
}

#[test]
fn only_a_database_that_was_away_gives_pods_time_and_not_a_first_look_at_it() {
    let first = on_postgres();
    let settled = settled_cluster_for(&first);
    let revision = settled.api.as_ref().unwrap().revision.clone().unwrap();
    // What each look said of the database, ten seconds after the one before; how long after the last of them pods still have time.
    for (looks, seconds) in [
        (&[None, Some(true)][..], None),
        (&[Some(true), None, Some(true)], None),
        (&[Some(true), Some(false), Some(true)], Some(RECOVERY)),
        (&[Some(true), Some(false), None, Some(true)], Some(RECOVERY)),
        (&[Some(true), Some(false), None, None], Some(RECOVERY - 10)),
        (&[Some(false), Some(true), None, Some(true)], Some(RECOVERY - 20)),
    ] {
        let (mut instance, mut cluster) = (first.clone(), settled.clone());
        for said in looks {
            cluster.at = cluster.at.plus_seconds(10);
            cluster.database = said.map(|reachable| Probe { reachable, message: "said".into() });
            instance.status = Some(applied_status(&instance, &cluster));
        }
        let last = cluster.at;
        let mut recovering = |after| {
            cluster.at = last.plus_seconds(after);
            super::super::scene(&instance, &cluster, (&revision, "toggled", "spec"), false, 300).recovering
        };
        let until = seconds.unwrap_or(0);
        assert!(!recovering(until), "{looks:?}");
        assert_eq!(recovering(until - 1), seconds.is_some(), "{looks:?}");
    }
}

#[test]
fn no_way_leads_back_to_what_is_on_trial_whatever_is_changed_meanwhile() {
    let (served, crashed) = (serving(), RolloutStatus { losses: 1, ..under_way() });
    // It was good for a moment.
    let now = good("new");
    let from = |scene: Scene<'_>| {
        let of_new = Scene { good: Some(&now), generation: scene.generation.max(3), ..scene };
        step(&of_new).status.from.and_then(|from| from.revision)
    };
    let to = |before, (wanted, toggled), seconds| Scene { at: at(seconds), wanted, toggled, ..scene(before) };
    let (off, newer, back) = (("new-off", "new"), ("newer", "newer-off"), ("old", "old-off"));
    let (old, new) = (Some("old".to_owned()), Some("new".to_owned()));
    for seconds in [1010, 9000] {
        let none = |to| Scene { none_ready: Some("pod"), ..to };
        assert_eq!(from(none(to(&crashed, off, seconds))), old, "the toggle is turned while it is down");
        assert_eq!(from(none(to(&crashed, newer, seconds))), old, "somebody tries another spec");
        assert_eq!(from(none(to(&crashed, back, seconds))), None, "it is gone back to by hand");
    }
    assert_eq!(from(to(&crashed, newer, 1000 + DEADLINE)), old, "one of its pods serves, so far");
    assert_eq!(from(to(&crashed, newer, 1001 + DEADLINE)), new, "one of its pods has shown that it serves");
    let waits = under_way();
    assert_eq!(from(to(&waits, newer, 9000)), old, "it never served");
    assert_eq!(from(to(&served, off, 1000 + DEADLINE)), old, "the toggle is turned on trial");
    assert_eq!(from(to(&served, off, 1001 + DEADLINE)), new, "it has shown that it serves");
    assert_eq!(from(to(&served, newer, 1010)), new, "it serves");
    for lost in [
        Scene { lost: Some(at(1010)), ..to(&served, newer, 1010) },
        Scene { none_ready: Some("worker"), ..to(&served, newer, 1010) },
    ] {
        assert_eq!(from(lost), old, "it has lost its pods by the time at which the change is seen");
    }
    let same = RolloutStatus { generation: 3, ..serving() };
    let password = |seconds| Scene { generation: 3, ..to(&same, ("new-password", "new-password-off"), seconds) };
    assert_eq!(from(password(1000 + DEADLINE)), old, "the password is changed on trial");
    assert_eq!(from(password(1001 + DEADLINE)), new, "the password is changed of what serves");
}

#[test]
fn what_an_earlier_release_did_not_date_is_counted_from_the_first_look() {
    let before = RolloutStatus { losses: 1, ..under_way() };
    let first = step(&Scene { at: at(5000), none_ready: Some("pod"), ..scene(&before) });
    assert_eq!((first.given_up, &first.status.down_since), (false, &Some(seconds(at(5000)))));
    let after =
        |seconds| step(&Scene { at: at(5000 + seconds), none_ready: Some("pod"), ..scene(&first.status) }).given_up;
    assert!(!after(DEADLINE - 1) && after(DEADLINE));
    let away = Scene { at: at(5000), none_ready: Some("pod"), database_away: true, ..scene(&before) };
    assert_eq!(step(&away).status, before, "an outage is nobody's fault");
}

#[test]
fn what_crashed_on_trial_while_nobody_looked_is_given_up_once_somebody_does() {
    let (served, now) = (serving(), good("new"));
    let seen = |lost, seconds| Scene {
        at: at(seconds),
        lost: Some(at(lost)),
        all_lost: Some(at(lost)),
        none_ready: Some("pod"),
        good: Some(&now),
        ..scene(&served)
    };
    let first = step(&seen(1200, 9000));
    assert_eq!((first.given_up, first.status.phase, first.status.losses), (false, RolloutPhase::Progressing, 1));
    let then = |seconds| Scene { at: at(9000 + seconds), none_ready: Some("pod"), ..scene(&first.status) };
    assert!(!step(&then(RECOVERY - 1)).given_up, "an outage of its database that nobody saw may be just over");
    assert!(step(&then(RECOVERY)).given_up);
    assert_eq!(phase(&Scene { settled: true, ..then(30) }), RolloutPhase::Serving);
    assert_eq!(phase(&seen(1001 + DEADLINE, 9000)), RolloutPhase::Serving, "it had shown that it serves");
    assert_eq!(step(&seen(1250, 1290)).status.down_since, Some(seconds(at(1250))));
    let changed = |lost| {
        let next = Scene { wanted: "newer", generation: 3, applied: false, ..seen(lost, 9000) };
        step(&next).status.from.and_then(|from| from.revision)
    };
    assert_eq!((changed(1200).as_deref(), changed(1001 + DEADLINE).as_deref()), (Some("old"), Some("new")));
}
