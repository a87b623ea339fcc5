//! The user's own tokens: those of callers and those of administrators, each in a Secret that has to be there.

use jam_domain::token::TokenHash;

use super::namespace_of;
use crate::crd::JamInstance;
use crate::observed::{Observed, OwnTokens};
use crate::reason::{Reason, Refusal};
use crate::rotation::Asks;
use crate::tokens;

/// A key of the user's Secret and the hash of the token under it.
pub(super) type Listed = Vec<(String, TokenHash)>;

/// The tokens of callers.
pub(super) fn of_callers(instance: &JamInstance, observed: &Observed) -> Result<Listed, Refusal> {
    match tokens::own_tokens(&instance.spec) {
        Some((field, secret)) => listed(instance, field, secret, observed.own_tokens.as_ref()),
        None => Ok(Vec::new()),
    }
}

/// The tokens of administrators.
pub(super) fn of_administrators(instance: &JamInstance, observed: &Observed) -> Result<Listed, Refusal> {
    match tokens::admin_tokens(&instance.spec) {
        Some((field, secret)) => listed(instance, field, secret, observed.admin_tokens.as_ref()),
        None => Ok(Vec::new()),
    }
}

fn listed(instance: &JamInstance, field: &str, secret: &str, found: Option<&OwnTokens>) -> Result<Listed, Refusal> {
    let at = format!("Secret {secret} in namespace {}", namespace_of(instance));
    let Some(own) = found.filter(|own| own.exists) else {
        let message = format!("{at} does not exist; spec.tokens.{field} needs it, with one token under each key");
        return Err(Refusal::new(Reason::SecretMissing, message));
    };
    if let Some(key) = own.unusable.first() {
        let message = format!("{at}: key {key} holds no token; a token is 16 or more visible characters");
        return Err(Refusal::new(Reason::SecretKeyMissing, message));
    }
    if own.hashes.is_empty() {
        return Err(Refusal::new(Reason::SecretKeyMissing, format!("{at} is empty; put one token under each key")));
    }
    // A token of the user's own that leaked ends at once, whatever its Secret says until somebody replaces it there.
    let asks = Asks::of(instance);
    Ok(own.hashes.iter().filter(|(_, hash)| !asks.revokes(&hash.id())).cloned().collect())
}
