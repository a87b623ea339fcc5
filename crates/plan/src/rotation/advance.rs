//! What a move makes of the tokens and of what is noted beside them: the same code moves plain tokens and their hashes.

use std::collections::BTreeSet;

use jam_domain::token::TokenHash;
use jam_domain::{Timestamp, TokenId};

use super::decide::{is_carried_out, is_of_later, is_replaced, is_revoked};
use super::table::Move;
use super::{Around, Displaced, Holding, Notes, Proof, Slots};

/// A move, ready to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The move.
    pub then: Move,
    /// The ids that end at once: revoked, or in a Secret from a backup and over since.
    pub ends: Vec<TokenId>,
}

impl Change {
    /// The change that a move means for this Secret.
    pub fn of(then: Move, holding: &Holding, around: &Around<'_>) -> Self {
        let Slots { token, next, previous, retired: _ } = &holding.slots;
        let ended = |hash: &&TokenHash| is_revoked(**hash, holding, around);
        let ends = match then {
            // Whoever has read the Secret for its token has read the next one as well.
            Move::Revoke if token.as_ref().is_some_and(|token| ended(&token)) => {
                let others = previous.iter().filter(ended);
                token.iter().chain(next).chain(others).map(TokenHash::id).collect()
            }
            Move::Revoke => [token, next, previous].into_iter().flatten().filter(ended).map(TokenHash::id).collect(),
            // What the cluster does not know is no longer accepted, or nobody has it yet.
            Move::Adopt if is_replaced(holding, around) && !around.hashes.is_empty() => {
                let over = [next, previous].into_iter().flatten().filter(|hash| !around.hashes.contains(hash));
                over.map(TokenHash::id).collect()
            }
            Move::Create
            | Move::Issue
            | Move::Promote
            | Move::Retire
            | Move::Finish
            | Move::Adopt
            | Move::Forget
            | Move::Complete => Vec::new(),
        };
        Self { then, ends }
    }

    /// Whether it needs a new token.
    pub fn needs_fresh(&self, holding: &Holding) -> bool {
        match self.then {
            Move::Create | Move::Issue => true,
            Move::Revoke => holding.slots.token.is_some_and(|token| self.ends.contains(&token.id())),
            Move::Promote | Move::Retire | Move::Finish | Move::Adopt | Move::Forget | Move::Complete => false,
        }
    }

    /// The tokens after it. `fresh` is there when [`Change::needs_fresh`] says so.
    pub fn slots<T: Clone>(&self, before: &Slots<T>, fresh: Option<T>, id: impl Fn(&T) -> TokenId) -> Slots<T> {
        let Slots { token, next, previous, retired } = before.clone();
        match self.then {
            Move::Create => Slots { token: fresh, next: None, previous, retired },
            Move::Issue => Slots { token, next: fresh, previous, retired },
            // Where the token was lost, what was before it stays where it is.
            Move::Promote => Slots { previous: token.or(previous), token: next, next: None, retired },
            Move::Retire => Slots { token, next, previous: None, retired: joined(retired, previous) },
            Move::Finish => Slots { token, next, previous, retired: Vec::new() },
            Move::Revoke | Move::Adopt => {
                let ends = |slot: &Option<T>| slot.as_ref().is_some_and(|token| self.ends.contains(&id(token)));
                let mut retired = retired;
                let mut end = |slot: Option<T>| {
                    let dead = ends(&slot);
                    retired.extend(slot.clone().filter(|_| dead));
                    slot.filter(|_| !dead)
                };
                let (token, next, previous) = (end(token).or(fresh), end(next), end(previous));
                Slots { token, next, previous, retired }
            }
            Move::Forget | Move::Complete => Slots { token, next, previous, retired },
        }
    }
}

fn joined<T>(mut all: Vec<T>, one: Option<T>) -> Vec<T> {
    all.extend(one);
    all
}

/// Kubernetes keeps whole seconds, so does what is noted.
fn second(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.as_micros().div_euclid(1_000_000) * 1_000_000)
}

/// The Secret after a change. `lost` are the tokens that somebody threw out of it.
pub fn advance(
    before: &Holding,
    change: &Change,
    fresh: Option<TokenHash>,
    around: &Around<'_>,
    lost: &[Displaced],
) -> Holding {
    let slots = change.slots(&before.slots, fresh, TokenHash::id);
    let notes = notes(before, change, &slots, around, lost);
    let not_after =
        notes.issued_at.and_then(|issued| around.policy.not_after(issued)).filter(|_| slots.token.is_some());
    let mut after = Holding { slots, notes, matching: true, not_after };
    let accepted = |holding: &Holding| holding.accepted().into_iter().collect::<BTreeSet<_>>();
    if accepted(&after) != accepted(before) {
        after.notes.changed_at = Some(second(around.at));
    }
    after
}

/// Takes no time from a clock that was ahead: whatever is accepted for a while is so for an overlap from now at most. Before every
/// move, since each notes times of its own and then nothing tells any more that the others are wrong.
fn put_right(mut notes: Notes, at: Timestamp, overlap: i64) -> Notes {
    if !is_of_later(&notes, at) {
        return notes;
    }
    let now = second(at);
    let fully = now.plus_seconds(overlap);
    for noted in [&mut notes.issued_at, &mut notes.changed_at] {
        *noted = noted.map(|noted| noted.min(now));
    }
    notes.previous_until = notes.previous_until.map(|until| until.min(fully));
    notes.displaced.iter_mut().for_each(|displaced| displaced.until = displaced.until.min(fully));
    notes
}

fn notes(
    before: &Holding,
    change: &Change,
    slots: &Slots<TokenHash>,
    around: &Around<'_>,
    lost: &[Displaced],
) -> Notes {
    let mut notes = put_right(before.notes.clone(), around.at, around.policy.overlap);
    let now = second(around.at);
    // A Secret that was replaced does not know how many there were.
    notes.generation = notes.generation.max(around.known);
    let given = slots.token.is_some() && slots.token != before.slots.token;
    if given {
        notes.generation += 1;
        notes.issued_at = Some(now);
    }
    notes.written = slots.token.map(|token| token.id());
    match change.then {
        Move::Create | Move::Issue => {
            notes.rotated.clone_from(&around.asks.rotate);
            // A Secret made again owes nothing to what was asked before it was there.
            if before.slots.token.is_none() {
                notes.revoked.clone_from(&around.asks.revoke);
            }
            notes.displaced.extend(lost);
        }
        Move::Promote => {
            let until = before.slots.token.map(|_| now.plus_seconds(around.policy.overlap));
            notes.previous_until = until.or(notes.previous_until);
        }
        Move::Retire => notes.previous_until = None,
        Move::Finish => {
            let ids = before.slots.retired.iter().map(TokenHash::id).collect();
            notes.proof = Some(Proof { ids, at: now, pods: around.pods.len() });
        }
        Move::Revoke => {
            // Where the token is lost, what the hashes still list of it is yet to end: the next move looks at them.
            if before.slots.token.is_some() {
                notes.revoked.clone_from(&around.asks.revoke);
            }
            let all = around.asks.revokes_all_of(around.consumer);
            notes.displaced.retain(|displaced| !all && !around.asks.revokes(&displaced.hash.id()));
            notes.previous_until = notes.previous_until.filter(|_| slots.previous.is_some());
        }
        Move::Adopt => {
            notes.issued_at = Some(now);
            notes.generation += 1;
            notes.displaced.extend(lost);
            // It was given after the revocation; what the cluster does not know may be what leaked.
            if is_carried_out(around) && slots.token.is_some_and(|token| around.hashes.contains(&token)) {
                notes.revoked.clone_from(&around.asks.revoke);
            }
        }
        Move::Forget => notes.displaced.retain(|displaced| displaced.until > around.at),
        Move::Complete => {
            (notes.issued_at, notes.generation) = (notes.issued_at.or(Some(now)), notes.generation.max(1));
        }
    }
    notes
}
