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
