//! What is said of a consumer's tokens, and when there is a reason to look again.

use jam_domain::token::TokenHash;
use jam_domain::{Timestamp, TokenId};

use super::decide::{accepts, previous_until, refuses, stage};
use super::table::Stage;
use super::{Around, Holding, Proof};

/// Fewest seconds until the next look while pods take in what they were given.
pub(super) const SOON: i64 = 1;
/// The same while a pod does not answer at all.
pub(super) const LATER: i64 = 5;
/// Most seconds until the next look. Pods that come, go or get ready call by themselves.
const LONGEST: i64 = 300;

/// Where a consumer's tokens stand, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// The stage.
    pub stage: Stage,
    /// The id of the token that the consumer has.
    pub key_id: Option<TokenId>,
    /// How many tokens it has been given.
    pub generation: u64,
    /// When it was given this one.
    pub issued_at: Option<Timestamp>,
    /// When the next one is due.
    pub rotates_at: Option<Timestamp>,
    /// The token before, and until when it is accepted.
    pub previous: Option<(TokenId, Timestamp)>,
    /// Pods that hold the stage because they do not answer.
    pub silent: Vec<String>,
    /// Pods that hold the stage because they have not taken in what they were given.
    pub behind: Vec<String>,
    /// Whether those had more time for it than the kubelet may take.
    pub overdue: bool,
    /// Retired tokens that somebody else has as well: that pods accept them is no pod's fault.
    pub shared: Vec<TokenHash>,
    /// The last proof that retired tokens are dead.
    pub proof: Option<Proof>,
    /// When something is to be done, if nothing happens before.
    pub next: Option<Timestamp>,
}

/// What is to be said of what a Secret holds, where nobody else has a token of it.
#[cfg(test)]
pub(crate) fn outlook(holding: &Holding, around: &Around<'_>) -> Outlook {
    outlook_among(holding, around, |_| false)
}

/// What is to be said of what a Secret holds. `others` have tokens that are accepted from them, whatever is over for this consumer.
pub fn outlook_among(holding: &Holding, around: &Around<'_>, others: impl Fn(TokenHash) -> bool) -> Outlook {
    let Holding { slots, notes, matching: _, not_after: _ } = holding;
    let stage = stage(holding, around.hashes);
    let (shared, over): (Vec<TokenHash>, Vec<TokenHash>) = match stage {
        Stage::Prove => slots.retired.iter().partition(|hash| others(**hash)),
        Stage::Idle | Stage::Lost | Stage::Distribute | Stage::Verify | Stage::Overlap | Stage::Retire => {
            Default::default()
        }
    };
    let asked: Vec<_> = match stage {
        Stage::Verify => around.pods.iter().filter(|pod| !slots.next.is_some_and(|next| accepts(pod, next))).collect(),
        Stage::Prove => {
            let refuses_all = |pod| over.iter().all(|hash| refuses(pod, *hash));
            around.pods.iter().filter(|pod| !refuses_all(pod)).collect()
        }
        Stage::Idle | Stage::Lost | Stage::Distribute | Stage::Overlap | Stage::Retire => Vec::new(),
    };
    let names = |answered: bool| {
        asked.iter().filter(|pod| pod.accepts.is_some() == answered).map(|pod| pod.pod.clone()).collect::<Vec<_>>()
    };
    let (silent, behind) = (names(false), names(true));
    let rotates_at = notes.issued_at.and_then(|issued| around.policy.due(issued));
    let until = slots.previous.and_then(|_| previous_until(holding, around));
    // A Secret of an older release does not say since when.
    let waited = notes.changed_at.or(notes.issued_at).map_or(0, |since| seconds(since, around.at));
    let soon = around.at.plus_seconds(pause(waited, if silent.is_empty() { SOON } else { LATER }));
    let stage_ends = match stage {
        Stage::Idle => rotates_at,
        Stage::Overlap => until,
        Stage::Lost | Stage::Distribute | Stage::Verify | Stage::Retire | Stage::Prove => Some(soon),
    };
    let forgotten = notes.displaced.iter().map(|displaced| displaced.until).min();
    Outlook {
        stage,
        key_id: slots.token.map(|token| token.id()),
        generation: notes.generation,
        issued_at: notes.issued_at.filter(|_| slots.token.is_some()),
        rotates_at: rotates_at.filter(|_| slots.token.is_some()),
        previous: slots.previous.map(|token| token.id()).zip(until),
        overdue: !behind.is_empty() && waited >= around.policy.kubelet_sync,
        silent,
        behind,
        shared,
        proof: notes.proof.clone(),
        next: [stage_ends, forgotten].into_iter().flatten().min(),
    }
}

/// How long to wait before pods are asked again: a quarter as long as they were waited for, so that one that never agrees is asked
/// less and less. It follows from what is stored, and is the same after a restart.
pub(super) fn pause(waited: i64, least: i64) -> i64 {
    (waited / 4).clamp(least, LONGEST)
}

/// For how long what changed then is waited for.
pub(crate) fn waited(since: Option<Timestamp>, at: Timestamp) -> i64 {
    since.map_or(0, |since| seconds(since, at))
}

/// When pods are asked again about what changed then.
pub(crate) fn again(since: Option<Timestamp>, at: Timestamp) -> Timestamp {
    at.plus_seconds(pause(waited(since, at), SOON))
}

/// Whole seconds from one moment to another; none where the clock went back.
pub(super) fn seconds(since: Timestamp, at: Timestamp) -> i64 {
    (at.as_micros().saturating_sub(since.as_micros()) / 1_000_000).max(0)
}

/// When to look again at an instance for its tokens' sake.
pub fn look_again<'a>(outlooks: impl IntoIterator<Item = &'a Outlook>) -> Option<Timestamp> {
    outlooks.into_iter().filter_map(|outlook| outlook.next).min()
}
