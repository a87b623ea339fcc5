//! The consumers with what the API accepts from each: also of one whose Secret cannot be written.

use std::collections::BTreeSet;

use jam_domain::token::TokenHash;
use jam_domain::{ServiceId, TokenId};

use super::name_of;
use super::revoked::{self, RevokedOwn};
use crate::crd::{JamInstance, Scope, SharedToken};
use crate::observed::{Held, Observed, OwnTokens};
use crate::reason::{Reason, Refusal};
use crate::rotation::{
    Answered, Asks, Outlook, Pace, Slots, displaced_by_loss, is_replaced, is_revoked, outlook_among,
};
use crate::{names, tokens};

/// Seconds until a Secret that is refused is tried again at the earliest.
const TRIED_AGAIN: i64 = 10;

/// A consumer with the hash of its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedConsumer {
    /// Its name.
    pub name: String,
    /// Its Secret.
    pub secret: String,
    /// The hashes of the tokens that the API accepts from it.
    pub accepted: Vec<TokenHash>,
    /// Where its tokens stand.
    pub outlook: Outlook,
    /// What it may do; empty means read, submit and process.
    pub scopes: Vec<Scope>,
    /// The services it is bound to; empty means all.
    pub services: Vec<ServiceId>,
    /// The revocation that was carried out last.
    pub revoked: Option<String>,
    /// Why its Secret cannot be written, which is nobody else's trouble.
    pub held: Option<Held>,
    /// What is over for it and accepted from somebody else.
    pub shared: Vec<SharedToken>,
}

/// What the Secret of hashes remembers, and what people ask of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The tokens that it has listed so far, each by its name and id.
    pub listed: Vec<(String, TokenId)>,
    /// Those of them that were revoked by id and are listed no longer.
    pub revoked: Vec<(String, TokenId)>,
    /// The forced rotation that was looked at last, and whom it meant.
    pub answered: Option<Answered>,
    /// What `jam.network/revoke` names and nobody knows.
    pub strangers: Vec<String>,
    /// The ids that it names and no token has or had.
    pub unmatched: Vec<String>,
    /// The tokens of the user's own that it names.
    pub own: RevokedOwn,
}

pub(super) fn remembered(instance: &JamInstance, observed: &Observed, pace: Pace) -> Remembered {
    let book = observed.hashes.as_ref();
    let asks = Asks::of(instance).remembering(book);
    Remembered {
        listed: book.map(|book| book.known().collect()).unwrap_or_default(),
        revoked: book.map(|book| book.ended_of(|id| asks.revokes(id))).unwrap_or_default(),
        answered: asks.answer(),
        strangers: asks.strangers(),
        unmatched: asks.unmatched(&known_ids(observed)),
        own: revoked::of(instance, observed, pace),
    }
}

/// The ids of every token that is or was there, as far as anything remembers it.
fn known_ids(observed: &Observed) -> BTreeSet<TokenId> {
    let of_secret = |secret: &crate::observed::TokenSecret| {
        let Slots { token, next, previous, retired } = &secret.holding.slots;
        let displaced = secret.holding.notes.displaced.iter().map(|displaced| &displaced.hash);
        let hashes = [token, next, previous].into_iter().flatten().chain(retired).chain(displaced);
        let proven = secret.holding.notes.proof.iter().flat_map(|proof| &proof.ids).cloned();
        hashes.map(TokenHash::id).chain(proven).collect::<Vec<_>>()
    };
    let of_users = |own: &OwnTokens| own.hashes.iter().map(|(_, hash)| hash.id()).collect::<Vec<_>>();
    let own = [&observed.own_tokens, &observed.admin_tokens].into_iter().flatten().flat_map(of_users);
    let listed = observed.hashes.iter().flat_map(|book| book.known().map(|(_, id)| id).collect::<Vec<_>>());
    observed.tokens.iter().flat_map(of_secret).chain(own).chain(listed).collect()
}

pub(super) fn consumers(
    instance: &JamInstance,
    observed: &Observed,
    pace: Pace,
) -> Result<Vec<ResolvedConsumer>, Refusal> {
    let name = name_of(instance);
    let surroundings = tokens::Surroundings::of(instance, observed, pace);
    let resolved = |consumer: crate::crd::Consumer| {
        let (exists, holding) = surroundings.holding(&consumer.name);
        if !exists {
            let message = format!("the token of consumer {} is not made yet", consumer.name);
            return Err(Refusal::new(Reason::TokensPending, message));
        }
        let hashes = surroundings.hashes(&consumer.name);
        let around = surroundings.around(&consumer.name, &hashes);
        let holder = |hash| surroundings.holder(instance, &consumer.name, hash);
        let mut outlook = outlook_among(&holding, &around, |hash| holder(hash).is_some());
        let shared = |hash: &TokenHash| {
            let (holder, secret) = holder(*hash)?;
            Some(SharedToken { consumer: consumer.name.clone(), key_id: hash.id().to_string(), holder, secret })
        };
        let shared = outlook.shared.iter().filter_map(shared).collect();
        let mut accepted = holding.accepted();
        let mut revoked = holding.notes.revoked.clone();
        let held = observed.held.get(&consumer.name).cloned();
        if held.as_ref().is_some_and(|held| !held.made) {
            // Nobody has the token that was prepared, and the next look prepares another one. What a lost Secret held goes on.
            accepted.retain(|hash| ![holding.slots.token, holding.slots.next].contains(&Some(*hash)));
            (outlook.generation, outlook.key_id) = (around.known, None);
        }
        if held.is_some() {
            // What somebody threw out of a Secret that nobody can write cannot be noted in it, and goes on as well.
            accepted.extend(displaced_by_loss(&holding, &around).iter().map(|displaced| displaced.hash));
            // A token that leaked ends in the Secret of hashes, whatever its own Secret still says.
            accepted.retain(|hash| !is_revoked(*hash, &holding, &around));
            // Its deadline is past, or a second away, at every look.
            outlook.next = outlook.next.map(|next| next.max(observed.at.plus_seconds(TRIED_AGAIN)));
        }
        if held.is_some() && is_replaced(&holding, &around) {
            // It does not know what was, and cannot be told: the Secret of hashes goes on knowing it.
            outlook.generation = outlook.generation.max(around.known);
            revoked = around.revoked.map(str::to_owned);
        }
        Ok(ResolvedConsumer {
            secret: names::consumer_secret(&name, &consumer.name),
            accepted,
            outlook,
            name: consumer.name,
            scopes: consumer.scopes,
            services: consumer.services,
            revoked,
            held,
            shared,
        })
    };
    tokens::consumers(&instance.spec).into_iter().map(resolved).collect()
}
