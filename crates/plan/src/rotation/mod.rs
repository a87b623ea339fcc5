//! Rotation of tokens as a pure state machine: what a consumer's Secret holds decides the stage, the table decides the move.
//!
//! The consumer's Secret is the only state, and every move is one write of it, refused when it changed meanwhile. The Secret
//! of hashes follows from it ([`Holding::accepted`]), status mirrors it. So a crash between any two writes resumes. The
//! order keeps everybody in: a token is handed out only after every pod was heard to accept it, and what is taken out of the
//! hashes was handed out to nobody for a whole overlap before.

mod advance;
mod ask;
mod decide;
mod distribution;
mod outlook;
mod policy;
mod secret;
mod table;

#[cfg(test)]
mod lost;
#[cfg(test)]
mod model;
#[cfg(test)]
mod model_hands;
#[cfg(test)]
mod model_world;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use jam_domain::token::TokenHash;
use jam_domain::{Timestamp, TokenId};

pub use advance::{Change, advance};
pub use ask::{Answered, Asks, is_id, without_tokens};
pub(crate) use decide::is_replaced;
pub use decide::{decide, displaced_by_loss, happened, is_revoked, stage};
pub use distribution::{Distribution, Reader, distribution};
#[cfg(test)]
pub(crate) use outlook::outlook;
pub use outlook::{Outlook, look_again, outlook_among};
pub(crate) use outlook::{again, waited};
pub use policy::{Pace, Policy, refuse};
pub(crate) use secret::is_usable;
pub use secret::{Plain, annotations, data};
pub use table::{Event, Move, Row, Stage, TABLE};

/// The tokens of a consumer's Secret: plain ones where they are written, their hashes everywhere else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Slots<T> {
    /// What the consumer uses.
    pub token: Option<T>,
    /// What it will be given when every pod accepts it.
    pub next: Option<T>,
    /// What it used before, still accepted.
    pub previous: Option<T>,
    /// What is accepted no longer, kept until every pod was seen to refuse it.
    pub retired: Vec<T>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { token: None, next: None, previous: None, retired: Vec::new() }
    }
}

/// A token that somebody threw out of its Secret, accepted until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Displaced {
    /// Its hash; nobody has the token itself any more, except the consumer.
    pub hash: TokenHash,
    /// How long it is accepted.
    pub until: Timestamp,
}

/// That retired tokens were refused by every pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proof {
    /// Their ids.
    pub ids: Vec<TokenId>,
    /// When.
    pub at: Timestamp,
    /// How many pods refused.
    pub pods: usize,
}

/// What is noted beside the tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Notes {
    /// How many tokens the consumer has been given.
    pub generation: u64,
    /// When it was given the token.
    pub issued_at: Option<Timestamp>,
    /// The id of the token that the operator wrote: another one was put there by somebody else.
    pub written: Option<TokenId>,
    /// How long the previous token is accepted.
    pub previous_until: Option<Timestamp>,
    /// Tokens that somebody threw out.
    pub displaced: Vec<Displaced>,
    /// The value of `jam.network/rotate` that was last done.
    pub rotated: Option<String>,
    /// The value of `jam.network/revoke` that was last done.
    pub revoked: Option<String>,
    /// The last proof.
    pub proof: Option<Proof>,
    /// When what pods are to accept last changed: since then they are waited for.
    pub changed_at: Option<Timestamp>,
}

/// What a consumer's Secret holds, without any token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Holding {
    /// The tokens' hashes.
    pub slots: Slots<TokenHash>,
    /// What is noted.
    pub notes: Notes,
    /// Whether the keys `id` and `authorization` belong to the token.
    pub matching: bool,
    /// The key `not-after`.
    pub not_after: Option<Timestamp>,
}

impl Holding {
    /// Of a Secret that is not there: nothing, and a generation that no earlier token had.
    ///
    /// `known` is what the Secret of hashes last noted. Since then each token in it may have been given, so that many are
    /// passed over: a generation may be skipped, never repeated.
    /// `revoked` is the revocation that was carried out last: what is asked anew counts for what the Secret held.
    pub fn lost(known: u64, hashes: &[TokenHash], revoked: Option<String>) -> Self {
        let generation = known + hashes.len() as u64;
        Self { notes: Notes { generation, revoked, ..Notes::default() }, matching: true, ..Self::default() }
    }

    /// What the API pods are to accept: this, and nothing else, goes into the Secret of hashes.
    pub fn accepted(&self) -> Vec<TokenHash> {
        let Slots { token, next, previous, retired } = &self.slots;
        let mut all: Vec<TokenHash> = Vec::new();
        let displaced = self.notes.displaced.iter().map(|displaced| displaced.hash);
        for hash in [token, next, previous].into_iter().flatten().copied().chain(displaced) {
            if !all.contains(&hash) && !retired.contains(&hash) {
                all.push(hash);
            }
        }
        all
    }
}

/// What a pod said when it was asked itself, not through the Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodAnswer {
    /// The pod.
    pub pod: String,
    /// The ids that it accepts; `None` when it did not answer.
    pub accepts: Option<BTreeSet<TokenId>>,
    /// The retired tokens that it was sent and refused.
    pub refused: BTreeSet<TokenHash>,
    /// What it was last told to read, as annotated.
    pub told: Option<String>,
}

/// What is known around a consumer's Secret when it is decided about.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// Now.
    pub at: Timestamp,
    /// The consumer's hashes in the Secret of hashes, as it is in the cluster.
    pub hashes: &'a [TokenHash],
    /// How many tokens the consumer had been given when that Secret was written.
    pub known: u64,
    /// The revocation of the consumer that had been carried out when that Secret was written.
    pub revoked: Option<&'a str>,
    /// Whether an API may be running.
    pub serving: bool,
    /// What each pod of it said.
    pub pods: &'a [PodAnswer],
    /// How often, and how long both.
    pub policy: Policy,
    /// The consumer.
    pub consumer: &'a str,
    /// What people ask for.
    pub asks: &'a Asks,
}
