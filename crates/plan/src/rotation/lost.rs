//! Laws of Secrets that are gone or emptied while pods go on accepting what was in them.

use jam_domain::token::TokenHash;

use super::*;
use crate::fixtures::at;

const DEMO: &str = "demo";

fn hash(token: &str) -> TokenHash {
    TokenHash::of(token)
}

fn around<'a>(hashes: &'a [TokenHash], serving: bool, asks: &'a Asks) -> Around<'a> {
    let policy = Policy { interval: Some(100), overlap: 10, kubelet_sync: 2 };
    Around { at: at(1000), hashes, known: 1, revoked: None, serving, pods: &[], policy, consumer: DEMO, asks }
}

fn step(holding: &Holding, around: &Around<'_>) -> Option<(Move, Holding)> {
    let change = Change::of(decide(holding, around)?, holding, around);
    let fresh = change.needs_fresh(holding).then(|| hash("fresh"));
    let lost = displaced_by_loss(holding, around);
    Some((change.then, advance(holding, &change, fresh, around, &lost)))
}

#[test]
fn a_secret_that_is_lost_while_no_api_is_seen_to_serve_locks_nobody_out() {
    let (hashes, asks) = ([hash("given")], Asks::default());
    let around = around(&hashes, false, &asks);
    let (then, after) = step(&Holding::lost(1, &hashes, None), &around).unwrap();
    assert_eq!(then, Move::Create);
    assert_eq!(after.accepted(), [hash("fresh"), hash("given")], "a pod may be on its way out and serve still");
}

#[test]
fn a_revoked_token_of_an_emptied_secret_does_not_come_back_for_an_overlap() {
    let hashes = [hash("leaked"), hash("before")];
    let revoke = Some(DEMO.to_owned());
    let asks = Asks { revoke, consumers: [DEMO.to_owned()].into(), ..Asks::default() };
    let around = around(&hashes, true, &asks);
    let slots = Slots { previous: Some(hash("before")), ..Slots::default() };
    let notes = Notes { generation: 1, issued_at: Some(at(900)), ..Notes::default() };
    let emptied = Holding { slots, notes, matching: true, not_after: None };
    let (then, revoked) = step(&emptied, &around).unwrap();
    assert_eq!((then, revoked.accepted()), (Move::Revoke, Vec::new()));
    // The operator dies here: the hashes are as before.
    let (then, after) = step(&revoked, &around).unwrap();
    assert_eq!((then, after.accepted()), (Move::Issue, vec![hash("fresh")]));
    assert!(!happened(Event::Revoked, &after, &around), "what is made after it is not ended by it");
}

#[test]
fn what_was_displaced_by_a_clock_that_was_ahead_is_over_an_overlap_after_it_was_put_right_whatever_is_done_first() {
    let (hashes, asks) = ([hash("given")], Asks::default());
    let ahead = Around { at: at(900_000), ..around(&hashes, true, &asks) };
    let (then, lost) = step(&Holding::lost(1, &hashes, None), &ahead).unwrap();
    assert_eq!((then, lost.notes.displaced[0].until), (Move::Issue, at(900_010)));
    let both = [hash("given"), hash("fresh")];
    let pod = |ids: &[TokenHash]| PodAnswer {
        pod: "pod".into(),
        accepts: Some(ids.iter().map(TokenHash::id).collect()),
        refused: BTreeSet::new(),
        told: None,
    };
    // One pod accepts the next token, then the clock is put right; or the other way round.
    for (pods, first) in [([pod(&both)], Move::Promote), ([pod(&hashes)], Move::Complete)] {
        let around = Around { pods: &pods, ..around(&both, true, &asks) };
        let (then, after) = step(&lost, &around).unwrap();
        assert_eq!((then, after.notes.displaced[0].until), (first, at(1010)), "a whole overlap, counted from now");
        assert_eq!(after.notes.changed_at, Some(at(1000)));
        let then = step(&after, &Around { at: at(1009), ..around }).map(|(then, _)| then);
        assert_ne!(then, Some(Move::Forget));
        let (then, after) = step(&after, &Around { at: at(1010), ..around }).unwrap();
        assert_eq!((then, after.notes.displaced.len()), (Move::Forget, 0));
    }
    // An overlap that the spec made shorter is no clock.
    let mut longer = lost;
    longer.notes.changed_at = Some(at(1000));
    longer.notes.displaced[0].until = at(5000);
    let waits = [pod(&hashes)];
    assert_eq!(step(&longer, &Around { pods: &waits, ..around(&both, true, &asks) }), None);
}
