//! What served for a moment: since when it is down, and to where a way leads back.

use super::*;

#[test]
fn a_revision_that_served_and_then_hangs_for_good_is_given_up_after_the_deadline() {
    let served = step(&Scene { at: at(1020), settled: true, ..scene(&under_way()) }).status;
    let lost = step(&Scene { at: at(1030), lost: true, ..scene(&served) }).status;
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
    let lost = step(&Scene { at: at(1030), lost: true, ..scene(&serving()) }).status;
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
fn no_way_leads_back_to_what_is_on_trial_whatever_is_changed_meanwhile() {
    let (served, crashed) = (serving(), RolloutStatus { losses: 1, ..under_way() });
    let from = |before: &RolloutStatus, wanted: &str, toggled: &str, seconds: i64| {
        // It was good for a moment.
        let now = good("new");
        let scene = Scene { at: at(seconds), good: Some(&now), generation: 3, wanted, toggled, ..scene(before) };
        step(&scene).status.from.and_then(|from| from.revision)
    };
    let old = Some("old".to_owned());
    for seconds in [1010, 9000] {
        assert_eq!(from(&crashed, "new-off", "new", seconds), old, "the toggle is turned while it is down");
        assert_eq!(from(&crashed, "newer", "newer-off", seconds), old, "somebody tries another spec");
        assert_eq!(from(&crashed, "old", "old-off", seconds), None, "it is gone back to by hand");
    }
    assert_eq!(from(&served, "new-off", "new", 1000 + DEADLINE), old, "the toggle is turned on trial");
    assert_eq!(from(&served, "new-off", "new", 1001 + DEADLINE).as_deref(), Some("new"), "it has shown that it serves");
    assert_eq!(from(&served, "newer", "newer-off", 1010).as_deref(), Some("new"), "it serves");
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
