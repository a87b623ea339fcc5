//! The table line by line, the Secret read back as it was written, and what is refused.

use jam_domain::token::TokenHash;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::*;
use crate::crd::JamInstance;
use crate::fixtures::{at, but, in_memory};
use crate::reason::Reason;

const DEMO: &str = "demo";

fn plain(n: u8) -> Plain {
    Plain::new(hex::encode([n; 32]))
}

fn hash(n: u8) -> TokenHash {
    plain(n).hash()
}

fn policy() -> Policy {
    Policy { interval: Some(100), overlap: 10, kubelet_sync: 20 }
}

/// A holding with its first token, given at 1000.
fn given() -> Holding {
    let notes = Notes { generation: 1, issued_at: Some(at(1000)), written: Some(hash(1).id()), ..Notes::default() };
    let slots = Slots { token: Some(hash(1)), ..Slots::default() };
    Holding { slots, notes, matching: true, not_after: Some(at(1110)) }
}

fn asks(rotate: Option<&str>, revoke: Option<&str>) -> Asks {
    Asks { rotate: rotate.map(str::to_owned), revoke: revoke.map(str::to_owned), consumers: [DEMO.to_owned()].into() }
}

fn pod(name: &str, accepts: Option<&[TokenHash]>, refused: &[TokenHash]) -> PodAnswer {
    PodAnswer {
        pod: name.into(),
        accepts: accepts.map(|all| all.iter().map(TokenHash::id).collect()),
        refused: refused.iter().copied().collect(),
        told: None,
    }
}

fn around<'a>(now: i64, hashes: &'a [TokenHash], pods: &'a [PodAnswer], asks: &'a Asks) -> Around<'a> {
    Around { at: at(now), hashes, known: 1, revoked: None, serving: true, pods, policy: policy(), consumer: DEMO, asks }
}

/// The Secret after what is to be done now, with the move.
fn step(holding: &Holding, around: &Around<'_>) -> Option<(Move, Holding)> {
    let then = decide(holding, around)?;
    let change = Change::of(then, holding, around);
    let fresh = change.needs_fresh(holding).then(|| hash(9));
    Some((then, advance(holding, &change, fresh, around, &displaced_by_loss(holding, around))))
}

#[test]
fn a_rotation_walks_through_every_stage_in_order() {
    let none = asks(None, None);
    let first = [hash(1)];
    assert_eq!(step(&given(), &around(1099, &first, &[], &none)), None, "not a second early");
    let (then, issued) = step(&given(), &around(1100, &first, &[], &none)).unwrap();
    assert_eq!((then, stage(&issued, &first)), (Move::Issue, Stage::Distribute));
    assert_eq!(issued.slots.token, Some(hash(1)), "nobody is given it yet");

    let both = [hash(1), hash(9)];
    assert_eq!(issued.accepted(), both);
    let behind = [pod("a", Some(&both), &[]), pod("b", Some(&first), &[])];
    let silent = [pod("a", Some(&both), &[]), pod("b", None, &[])];
    for pods in [&behind, &silent] {
        assert_eq!(step(&issued, &around(1101, &both, pods, &none)), None, "one pod holds the stage");
    }
    let every = [pod("a", Some(&both), &[]), pod("b", Some(&both), &[])];
    let (then, overlapping) = step(&issued, &around(1102, &both, &every, &none)).unwrap();
    assert_eq!((then, stage(&overlapping, &both)), (Move::Promote, Stage::Overlap));
    assert_eq!((overlapping.slots.token, overlapping.slots.previous), (Some(hash(9)), Some(hash(1))));
    assert_eq!((overlapping.notes.generation, overlapping.notes.previous_until), (2, Some(at(1112))));
    assert_eq!(overlapping.not_after, Some(at(1212)), "a whole interval and its overlap");

    assert_eq!(step(&overlapping, &around(1111, &both, &every, &none)), None, "the overlap is kept to the second");
    let (then, retired) = step(&overlapping, &around(1112, &both, &every, &none)).unwrap();
    assert_eq!((then, stage(&retired, &both)), (Move::Retire, Stage::Retire));
    assert_eq!(retired.accepted(), [hash(9)]);

    let last = [hash(9)];
    let unasked = [pod("a", Some(&last), &[hash(1)]), pod("b", Some(&last), &[])];
    assert_eq!(stage(&retired, &last), Stage::Prove);
    assert_eq!(step(&retired, &around(1113, &last, &unasked, &none)), None, "a refusal is seen, not inferred");
    let dead = [pod("a", Some(&last), &[hash(1)]), pod("b", Some(&last), &[hash(1)])];
    let (then, idle) = step(&retired, &around(1114, &last, &dead, &none)).unwrap();
    assert_eq!((then, stage(&idle, &last)), (Move::Finish, Stage::Idle));
    assert_eq!(idle.notes.proof, Some(Proof { ids: vec![hash(1).id()], at: at(1114), pods: 2 }));
    assert_eq!(step(&idle, &around(1115, &last, &dead, &none)), None, "and then there is rest");
}

#[test]
fn a_forced_rotation_happens_once_for_each_new_value() {
    let hashes = [hash(1)];
    let (now, again) = (asks(Some("now"), None), asks(Some("again"), None));
    let (then, issued) = step(&given(), &around(1001, &hashes, &[], &now)).unwrap();
    assert_eq!((then, issued.notes.rotated.as_deref()), (Move::Issue, Some("now")));
    let done = Holding { slots: given().slots, ..issued };
    assert_eq!(step(&done, &around(1002, &hashes, &[], &now)), None);
    assert_eq!(step(&done, &around(1002, &hashes, &[], &again)).unwrap().0, Move::Issue);
}

#[test]
fn a_revoked_token_ends_at_once_without_an_overlap() {
    let hashes = [hash(1), hash(2)];
    let mut holding = given();
    holding.slots.previous = Some(hash(2));
    holding.notes.previous_until = Some(at(5000));
    let by_name = asks(None, Some("demo"));
    let (then, after) = step(&holding, &around(1001, &hashes, &[], &by_name)).unwrap();
    assert_eq!((then, after.accepted()), (Move::Revoke, vec![hash(9)]));
    assert_eq!(after.slots.retired, [hash(1), hash(2)]);
    assert_eq!((after.notes.generation, after.not_after), (2, Some(at(1111))));
    assert_eq!(step(&after, &around(1002, &hashes, &[], &by_name)), None, "once");

    let id = hash(2).id().to_string();
    let by_id = asks(None, Some(&id));
    let (_, after) = step(&holding, &around(1001, &hashes, &[], &by_id)).unwrap();
    assert_eq!((after.slots.token, after.slots.retired.clone()), (Some(hash(1)), vec![hash(2)]), "the other one stays");
    assert_eq!(after.notes.generation, 1);
    assert_eq!(step(&after, &around(1002, &hashes, &[], &by_id)), None, "once");
    let unknown = asks(None, Some("ffffffff"));
    assert_eq!(step(&holding, &around(1001, &hashes, &[], &unknown)), None);
}

#[test]
fn a_leaked_secret_takes_its_next_token_with_it() {
    let mut holding = given();
    holding.slots.next = Some(hash(3));
    let id = hash(1).id().to_string();
    let by_id = asks(None, Some(&id));
    let (_, after) = step(&holding, &around(1001, &[hash(1), hash(3)], &[], &by_id)).unwrap();
    assert_eq!((after.slots.next, after.accepted()), (None, vec![hash(9)]));
}

#[test]
fn a_lost_secret_is_made_again_and_what_it_held_is_accepted_for_the_overlap() {
    let none = asks(None, None);
    let hashes = [hash(1)];
    let lost = Holding { notes: Notes { generation: 7, ..Notes::default() }, matching: true, ..Holding::default() };
    let (then, after) = step(&lost, &around(1000, &hashes, &[], &none)).unwrap();
    assert_eq!((then, after.slots.token), (Move::Issue, None), "no token is handed out before every pod accepts it");
    assert_eq!(after.accepted(), [hash(9), hash(1)]);
    let pods = [pod("a", Some(&after.accepted()), &[])];
    let (then, given) = step(&after, &around(1001, &after.accepted(), &pods, &none)).unwrap();
    assert_eq!((then, given.slots.token, given.notes.generation), (Move::Promote, Some(hash(9)), 8));
    assert_eq!(given.accepted(), [hash(9), hash(1)]);
    let (then, rest) = step(&given, &around(1010, &given.accepted(), &pods, &none)).unwrap();
    assert_eq!((then, rest.accepted()), (Move::Forget, vec![hash(9)]));

    let nobody = Around { serving: false, ..around(1000, &[], &[], &none) };
    let (then, first) = step(&Holding { matching: true, ..Holding::default() }, &nobody).unwrap();
    assert_eq!((then, first.slots.token), (Move::Create, Some(hash(9))), "where nobody serves there is nobody to ask");
}

#[test]
fn a_leaked_token_whose_secret_is_lost_ends_at_once_and_an_old_revocation_locks_nobody_out() {
    let hashes = [hash(1)];
    let leaked = asks(None, Some("demo,1"));
    let lost = |revoked: Option<&str>| Holding::lost(1, &hashes, revoked.map(str::to_owned));
    for before in [None, Some("demo,0")] {
        let (then, after) = step(&lost(before), &around(1050, &hashes, &[], &leaked)).unwrap();
        assert_eq!((then, after.accepted()), (Move::Issue, vec![hash(9)]));
        assert_eq!(after.notes.revoked.as_deref(), Some("demo,1"));
    }
    let (then, after) = step(&lost(Some("demo,1")), &around(1050, &hashes, &[], &leaked)).unwrap();
    assert_eq!((then, after.accepted()), (Move::Issue, vec![hash(9), hash(1)]));
    let of_another = asks(None, Some("other,1"));
    assert!(!is_revoked(hash(1), &given(), &around(1050, &hashes, &[], &of_another)));
    assert!(
        is_revoked(hash(1), &given(), &around(1050, &hashes, &[], &leaked)),
        "also where the Secret cannot be written"
    );
}

#[test]
fn a_token_put_there_by_hand_counts_and_locks_nobody_out() {
    let none = asks(None, None);
    let hashes = [hash(1)];
    let mut edited = given();
    edited.slots.token = Some(hash(5));
    edited.matching = false;
    let (then, after) = step(&edited, &around(1050, &hashes, &[], &none)).unwrap();
    assert_eq!((then, after.accepted()), (Move::Adopt, vec![hash(5), hash(1)]));
    assert_eq!(after.notes.displaced[0].until, at(1060));
    assert_eq!(step(&after, &around(1051, &hashes, &[], &none)), None);
    // An old Secret of hashes that somebody brought back brings back no token.
    assert_eq!(displaced_by_loss(&given(), &around(1050, &[hash(1), hash(4)], &[], &none)), []);

    let mut bare = given();
    bare.matching = false;
    assert_eq!(step(&bare, &around(1050, &hashes, &[], &none)).unwrap().0, Move::Complete);
    bare.notes.generation = 0;
    let made_by_an_older_release = Around { known: 0, ..around(1050, &hashes, &[], &none) };
    assert_eq!(step(&bare, &made_by_an_older_release).unwrap().1.notes.generation, 1);
}

#[test]
fn a_secret_replaced_or_restored_from_a_backup_cuts_nobody_off_and_brings_back_nothing_that_is_over() {
    let none = asks(None, None);
    // Since the backup the token was replaced twice; the cluster accepts the present one and the one before.
    let hashes = [hash(7), hash(6)];
    let mut backup = given();
    backup.slots = Slots { token: Some(hash(3)), next: Some(hash(4)), previous: Some(hash(2)), retired: Vec::new() };
    backup.notes.written = Some(hash(3).id());
    backup.notes.previous_until = Some(at(1020));
    let restored = Around { known: 5, ..around(2000, &hashes, &[], &none) };
    let (then, after) = step(&backup, &restored).unwrap();
    assert_eq!((then, after.accepted()), (Move::Adopt, vec![hash(3), hash(7), hash(6)]));
    assert!(after.notes.displaced.iter().all(|displaced| displaced.until == at(2010)), "for one overlap");
    assert_eq!(after.slots.retired, [hash(4), hash(2)], "what was under way then is over, and proven to be");
    assert_eq!((after.notes.generation, after.notes.issued_at), (6, Some(at(2000))), "no generation comes twice");
    let revoked = asks(None, Some(hash(7).id().as_str()));
    let (_, after) = step(&backup, &Around { asks: &revoked, ..restored }).unwrap();
    assert_eq!(after.accepted(), [hash(3), hash(6)], "a revoked one is not accepted on");

    // A tool that keeps labels and data, and no annotations.
    let bare = Holding { slots: Slots { token: Some(hash(5)), ..Slots::default() }, ..Holding::default() };
    for notes in [Notes::default(), Notes { generation: 9, ..Notes::default() }] {
        let (then, after) = step(&Holding { notes, ..bare.clone() }, &restored).unwrap();
        assert_eq!((then, after.accepted()), (Move::Adopt, vec![hash(5), hash(7), hash(6)]));
        assert!(after.notes.generation > 5);
        let hashes = after.accepted();
        let (known, at) = (after.notes.generation, at(2001));
        assert_eq!(step(&after, &Around { at, known, hashes: &hashes, ..restored }), None, "once");
    }
    let (_, after) = step(&bare, &Around { hashes: &[], known: 0, ..restored }).unwrap();
    assert_eq!((after.accepted(), after.notes.generation), (vec![hash(5)], 1), "one that nobody knew before");
}

#[test]
fn a_revocation_that_was_carried_out_is_not_done_again_to_a_secret_that_somebody_replaced() {
    let (hashes, asked) = ([hash(7)], asks(None, Some("demo,1")));
    let done = Around { known: 5, revoked: Some("demo,1"), ..around(2000, &hashes, &[], &asked) };
    let bare = |n: u8| Holding { slots: Slots { token: Some(hash(n)), ..Slots::default() }, ..Holding::default() };
    let (_, after) = step(&bare(7), &done).unwrap();
    let (kept, known) = ((after.accepted(), after.notes.revoked.as_deref()), after.notes.generation);
    assert_eq!(kept, (vec![hash(7)], Some("demo,1")), "the token was given after the revocation");
    assert_eq!(step(&after, &Around { known, at: at(2001), ..done }), None, "once");
    // A backup may hold the token that leaked; a revocation that is not noted was not carried out.
    for (n, revoked) in [(3, Some("demo,1")), (7, None), (7, Some("demo,0"))] {
        let (_, after) = step(&bare(n), &Around { revoked, ..done }).unwrap();
        let (known, followed) = (after.notes.generation, after.accepted());
        for (hashes, revoked) in [(&hashes[..], revoked), (&followed[..], None)] {
            assert_eq!(step(&after, &Around { hashes, known, revoked, ..done }).unwrap().0, Move::Revoke, "{n}");
        }
    }
}

#[test]
fn a_clock_that_ran_ahead_and_was_put_right_puts_no_rotation_off() {
    let none = asks(None, None);
    let hashes = [hash(1), hash(2)];
    let mut ahead = given();
    ahead.slots.previous = Some(hash(2));
    ahead.notes.issued_at = Some(at(900_000));
    ahead.notes.previous_until = Some(at(900_010));
    ahead.not_after = Some(at(900_110));
    let (then, after) = step(&ahead, &around(1000, &hashes, &[], &none)).unwrap();
    assert_eq!((then, after.notes.issued_at, after.not_after), (Move::Complete, Some(at(1000)), Some(at(1110))));
    assert_eq!(after.notes.previous_until, Some(at(1010)), "a whole overlap, counted from now");
    assert_eq!(step(&after, &around(1001, &hashes, &[], &none)), None);
    ahead.notes.issued_at = Some(at(1059));
    ahead.not_after = Some(at(1169));
    assert_eq!(step(&ahead, &around(1000, &hashes, &[], &none)), None, "two operators' clocks may differ");
}

#[test]
fn a_secret_reads_back_as_it_was_written_and_shows_no_token() {
    let slots = Slots {
        token: Some(plain(1)),
        next: Some(plain(2)),
        previous: Some(plain(3)),
        retired: vec![plain(4), plain(5)],
    };
    let notes = Notes {
        generation: 3,
        issued_at: Some(at(1000)),
        written: Some(hash(1).id()),
        previous_until: Some(at(1010)),
        displaced: vec![Displaced { hash: hash(6), until: at(1020) }],
        rotated: Some("demo,now".into()),
        revoked: Some("0a1b2c3d".into()),
        proof: Some(Proof { ids: vec![hash(7).id(), hash(8).id()], at: at(990), pods: 2 }),
        changed_at: Some(at(995)),
    };
    let holding = Holding { slots: slots.hashes(), notes, matching: true, not_after: Some(at(1110)) };
    let body = json!({"metadata": {"annotations": annotations(&holding)}, "data": data(&slots, &holding)});
    let secret: Secret = serde_json::from_value(body).unwrap();
    assert_eq!(Holding::of(&secret), holding);
    let shown = format!("{holding:?} {}", Value::Object(annotations(&holding)));
    assert!((1..=6).all(|n| !shown.contains(plain(n).reveal())));
    let bare = Slots { token: Some(plain(1)), ..Slots::default() };
    let nulls = data(&bare, &given()).into_iter().filter(|(_, value)| value.is_null()).count();
    assert_eq!(nulls, 4, "what is over is taken out of the Secret");
}

#[test]
fn a_consumers_secret_has_its_token_its_id_its_end_and_a_ready_made_header() {
    let slots = Slots { token: Some(plain(1)), ..Slots::default() };
    let written = data(&slots, &given());
    let secret: Secret = serde_json::from_value(json!({"data": written})).unwrap();
    let data = secret.data.unwrap();
    let text = |key: &str| String::from_utf8(data[key].0.clone()).unwrap();
    let (token, id) = (plain(1).reveal().to_owned(), hash(1).id().to_string());
    assert_eq!([text("token"), text("id")], [token.clone(), id]);
    assert_eq!([text("authorization"), text("not-after")], [format!("Bearer {token}"), "1970-01-01T00:18:30Z".into()]);
}

#[test]
fn what_cannot_be_a_token_counts_as_none() {
    let read = |token: &str| {
        let data = [("token".to_owned(), ByteString(token.as_bytes().to_vec()))].into();
        Holding::of(&Secret { data: Some(data), ..Secret::default() }).slots.token
    };
    assert!(read("0123456789abcdef").is_some());
    for unusable in ["", "short", "0123456789abcdef 0123456789abcdef", "0123456789abcdef\n"] {
        assert_eq!(read(unusable), None, "{unusable:?}");
    }
}

#[test]
fn an_overlap_that_locks_consumers_out_is_refused() {
    let with = |days: i32, hours: i32| -> JamInstance {
        but(&in_memory(), json!({"tokens": {"rotation": {"intervalDays": days, "overlapHours": hours}}}))
    };
    let refused = |days, hours, pace| {
        refuse(&with(days, hours).spec, pace).map_err(|refusal| {
            assert_eq!(refusal.reason, Reason::InvalidSettings);
            refusal.message
        })
    };
    assert_eq!(refused(30, 24, Pace::default()), Ok(()));
    let message = refused(1, 24, Pace::default()).unwrap_err();
    assert!(message.contains("must be shorter than the interval"), "{message}");
    let slow = Pace { hour: 3600, kubelet_sync: 7200 };
    let message = refused(30, 1, slow).unwrap_err();
    assert!(message.contains("the kubelet may take 7200 s"), "{message}");
    assert_eq!(refused(30, 2, slow), Ok(()));
}

#[test]
fn there_is_always_a_next_look_while_something_is_under_way_and_it_is_the_very_deadline() {
    let none = asks(None, None);
    let told = |holding: &Holding, hashes: &[TokenHash], pods: &[PodAnswer]| {
        outlook(holding, &around(1050, hashes, pods, &none))
    };
    assert_eq!(told(&given(), &[hash(1)], &[]).next, Some(at(1100)), "idle: when the next token is due");
    let mut overlapping = given();
    overlapping.slots.previous = Some(hash(2));
    overlapping.notes.previous_until = Some(at(1057));
    assert_eq!(told(&overlapping, &[hash(1), hash(2)], &[]).next, Some(at(1057)), "when the old one's time is over");
    let mut verifying = given();
    verifying.slots.next = Some(hash(3));
    let pods = [pod("a", Some(&[hash(1)]), &[]), pod("b", None, &[])];
    let told = told(&verifying, &[hash(1), hash(3)], &pods);
    assert_eq!((told.behind, told.silent), (vec!["a".to_owned()], vec!["b".to_owned()]));
    assert!(told.next.unwrap() > at(1050));
}

#[test]
fn a_pod_that_never_agrees_is_asked_less_and_less_and_is_in_the_way_after_the_kubelets_time() {
    let none = asks(None, None);
    let (_, issued) = step(&given(), &around(1100, &[hash(1)], &[], &none)).unwrap();
    assert_eq!(issued.notes.changed_at, Some(at(1100)), "what pods are to accept changed");
    let both = [hash(1), hash(9)];
    let look = |now: i64, accepts: Option<&[TokenHash]>| {
        let pods = [pod("a", Some(&both), &[]), pod("b", accepts, &[])];
        let told = outlook(&issued, &around(now, &both, &pods, &none));
        (told.next.unwrap().as_micros() / 1_000_000 - now, told.overdue)
    };
    // What a pod says that was rolled back to settings without a token file.
    let never = |now| look(now, Some(&[]));
    assert_eq!([1100, 1102, 1106, 1119].map(never), [(1, false), (1, false), (1, false), (4, false)]);
    assert_eq!([1120, 1200, 1700, 9000].map(never), [(5, true), (25, true), (150, true), (300, true)]);
    assert_eq!(never(1000), (1, false), "a clock that went back");
    let silent = |now| look(now, None);
    assert_eq!([1100, 1120, 9000].map(silent), [(5, false), (5, false), (300, false)], "it is named for its silence");

    let (_, given) = step(&issued, &around(1200, &both, &[pod("a", Some(&both), &[])], &none)).unwrap();
    assert_eq!(given.notes.changed_at, Some(at(1100)), "pods have to take in nothing new");
    let (_, retired) = step(&given, &around(1300, &both, &[], &none)).unwrap();
    assert_eq!(retired.notes.changed_at, Some(at(1300)));
}

#[test]
fn every_line_of_the_table_can_be_reached_and_each_stage_has_a_way_on() {
    for stage in Stage::ALL {
        let leaves = TABLE.iter().any(|row| row.from.contains(&stage) && !row.to.is_empty());
        assert!(leaves, "{stage:?} leads nowhere");
        let reached = stage == Stage::Lost || TABLE.iter().any(|row| row.to.contains(&stage));
        assert!(reached, "nothing leads to {stage:?}");
    }
}
