//! Which stage it is, what is the case, and so which move: the table read from top to bottom.

use jam_domain::Timestamp;
use jam_domain::token::TokenHash;

use super::table::{Event, Move, Stage, TABLE};
use super::{Around, Displaced, Holding, Notes, PodAnswer};

/// Seconds that the clocks of two operators may differ by.
const SKEW: i64 = 60;

/// Where the tokens of a consumer stand.
pub fn stage(holding: &Holding, hashes: &[TokenHash]) -> Stage {
    let slots = &holding.slots;
    match (&slots.token, &slots.next) {
        (_, Some(next)) if hashes.contains(next) => Stage::Verify,
        (_, Some(_)) => Stage::Distribute,
        (None, None) => Stage::Lost,
        (Some(_), None) if slots.retired.iter().any(|hash| hashes.contains(hash)) => Stage::Retire,
        (Some(_), None) if !slots.retired.is_empty() => Stage::Prove,
        (Some(_), None) if slots.previous.is_some() => Stage::Overlap,
        (Some(_), None) => Stage::Idle,
    }
}

/// What is to be done to the consumer's Secret now; `None`: wait.
pub fn decide(holding: &Holding, around: &Around<'_>) -> Option<Move> {
    let stage = stage(holding, around.hashes);
    let rows = TABLE.iter().filter(|row| row.from.contains(&stage));
    rows.filter(|row| happened(row.on, holding, around)).find_map(|row| row.then)
}

/// Whether something is the case.
pub fn happened(event: Event, holding: &Holding, around: &Around<'_>) -> bool {
    let Holding { slots, notes, matching, not_after } = holding;
    let issued = notes.issued_at;
    match event {
        Event::Always => true,
        Event::NobodyServes => !around.serving,
        Event::Edited => is_typed(holding) || is_replaced(holding, around),
        Event::Revoked => {
            let live = [slots.token, slots.next, slots.previous].into_iter().flatten();
            let mut live = live.chain(notes.displaced.iter().map(|displaced| displaced.hash));
            live.any(|hash| is_revoked(hash, holding, around))
        }
        Event::InHashes => slots.next.is_some_and(|next| around.hashes.contains(&next)),
        Event::EveryPodAccepts => slots.next.is_some_and(|next| around.pods.iter().all(|pod| accepts(pod, next))),
        Event::OverlapIsOver => previous_until(holding, around).is_none_or(|until| until <= around.at),
        Event::OutOfHashes => slots.retired.iter().all(|hash| !around.hashes.contains(hash)),
        Event::EveryPodRefuses => around.pods.iter().all(|pod| slots.retired.iter().all(|hash| refuses(pod, *hash))),
        Event::DisplacedIsOver => notes.displaced.iter().any(|displaced| displaced.until <= around.at),
        Event::Due => {
            let over = issued.and_then(|issued| around.policy.due(issued)).is_some_and(|due| due <= around.at);
            over || (around.asks.rotates(around.consumer) && notes.rotated != around.asks.rotate)
        }
        // A clock that ran ahead would put the next rotation off for as long as it was wrong, and keep old tokens for as long.
        Event::Incomplete if is_of_later(notes, around.at) => true,
        Event::Incomplete => {
            let wanted = issued.and_then(|issued| around.policy.not_after(issued));
            let known = notes.written.is_some() && issued.is_some();
            slots.token.is_some() && !(*matching && known && *not_after == wanted)
        }
    }
}

/// Whether what is noted was noted by a clock that was ahead: what it says of times to come is not to be believed.
pub(super) fn is_of_later(notes: &Notes, at: Timestamp) -> bool {
    [notes.issued_at, notes.changed_at].into_iter().flatten().any(|noted| noted > at.plus_seconds(SKEW))
}

/// Whether a token is to end at once, wherever it still is: by its id, or with every other of the consumer where that was not
/// carried out yet. A Secret that somebody replaced does not know what was: what the cluster accepts was given after it.
pub fn is_revoked(hash: TokenHash, holding: &Holding, around: &Around<'_>) -> bool {
    let all = around.asks.revokes_all_of(around.consumer) && holding.notes.revoked != around.asks.revoke;
    let later = is_carried_out(around) && around.hashes.contains(&hash);
    (all && !later) || around.asks.revokes(&hash.id())
}

/// Whether what is asked to be revoked was, by the Secret of hashes.
pub(super) fn is_carried_out(around: &Around<'_>) -> bool {
    around.revoked.is_some() && around.revoked == around.asks.revoke.as_deref()
}

/// Whether somebody put another token beside what the operator noted.
fn is_typed(holding: &Holding) -> bool {
    let Holding { slots, notes, .. } = holding;
    matches!((&slots.token, &notes.written), (Some(token), Some(written)) if token.id() != *written)
}

/// Whether somebody put another Secret in the place of the operator's: one without its notes, or an earlier state of it.
pub(crate) fn is_replaced(holding: &Holding, around: &Around<'_>) -> bool {
    let Holding { slots, notes, .. } = holding;
    slots.token.is_some() && (notes.written.is_none() || notes.generation < around.known)
}

/// Until when the previous token is accepted, also where somebody removed the note.
pub(super) fn previous_until(holding: &Holding, around: &Around<'_>) -> Option<Timestamp> {
    let notes = &holding.notes;
    notes.previous_until.or_else(|| notes.issued_at.map(|issued| issued.plus_seconds(around.policy.overlap)))
}

/// Whether a pod was heard to accept a token.
pub(super) fn accepts(pod: &PodAnswer, hash: TokenHash) -> bool {
    pod.accepts.as_ref().is_some_and(|ids| ids.contains(&hash.id()))
}

/// Whether a pod was heard not to know a token, and seen to refuse it.
pub(super) fn refuses(pod: &PodAnswer, hash: TokenHash) -> bool {
    pod.accepts.as_ref().is_some_and(|ids| !ids.contains(&hash.id())) && pod.refused.contains(&hash)
}

/// The tokens that somebody threw out with the Secret or overwrote in it: accepted on, so that nobody is locked out.
///
/// Only where the token is gone or another one do hashes in the cluster count as lost; a Secret as we wrote it says itself
/// what is accepted, so an old Secret of hashes that somebody brought back brings back no token. One that was replaced or restored from a backup
/// knows nothing of what came after it: there every hash in the cluster counts.
pub fn displaced_by_loss(holding: &Holding, around: &Around<'_>) -> Vec<Displaced> {
    let until = around.at.plus_seconds(around.policy.overlap);
    let (typed, replaced) = (is_typed(holding), is_replaced(holding, around));
    let known = holding.accepted();
    let is_lost = |hash: &&TokenHash| {
        let ours = match (replaced, typed) {
            (true, _) => true,
            (false, true) => holding.notes.written == Some(hash.id()),
            (false, false) => holding.slots.token.is_none(),
        };
        ours && !known.contains(hash) && !holding.slots.retired.contains(hash) && !is_revoked(**hash, holding, around)
    };
    around.hashes.iter().filter(is_lost).map(|hash| Displaced { hash: *hash, until }).collect()
}
