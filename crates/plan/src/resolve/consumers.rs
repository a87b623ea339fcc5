//! The consumers with what the API accepts from each: also of one whose Secret cannot be written.

use jam_domain::ServiceId;
use jam_domain::token::TokenHash;

use super::name_of;
use crate::crd::{JamInstance, Scope};
use crate::observed::{Held, Observed};
use crate::reason::{Reason, Refusal};
use crate::rotation::{Outlook, Pace, is_revoked, outlook};
use crate::{names, tokens};

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
        let mut outlook = outlook(&holding, &around);
        let mut accepted = holding.accepted();
        let held = observed.held.get(&consumer.name).cloned();
        if held.as_ref().is_some_and(|held| !held.made) {
            // Nobody has the token that was prepared, and the next look prepares another one. What a lost Secret held goes on.
            accepted.retain(|hash| ![holding.slots.token, holding.slots.next].contains(&Some(*hash)));
            (outlook.generation, outlook.key_id) = (around.known, None);
        }
        if held.is_some() {
            // A token that leaked ends in the Secret of hashes, whatever its own Secret still says.
            accepted.retain(|hash| !is_revoked(*hash, &holding, &around));
        }
        Ok(ResolvedConsumer {
            secret: names::consumer_secret(&name, &consumer.name),
            accepted,
            outlook,
            name: consumer.name,
            scopes: consumer.scopes,
            services: consumer.services,
            revoked: holding.notes.revoked,
            held,
        })
    };
    tokens::consumers(&instance.spec).into_iter().map(resolved).collect()
}
