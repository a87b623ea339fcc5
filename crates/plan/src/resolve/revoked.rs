//! Tokens of the user's own that were revoked: nobody takes them out of their Secret, so each pod is sent them until it refuses.

use jam_domain::Timestamp;
use jam_domain::token::TokenHash;

use crate::crd::JamInstance;
use crate::observed::{Observed, OwnTokens};
use crate::rotation::{Asks, Pace, again, waited};

/// Tokens of the user's own, and of administrators, that were revoked by their id and are in their Secret still.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevokedOwn {
    /// All of them.
    pub all: Vec<TokenHash>,
    /// Those that not every pod is known to refuse.
    pub unproven: Vec<TokenHash>,
    /// Whether pods had more time for it than the kubelet may take.
    pub overdue: bool,
    /// When to ask again.
    pub next: Option<Timestamp>,
}

pub(super) fn of(instance: &JamInstance, observed: &Observed, pace: Pace) -> RevokedOwn {
    let settings = instance.spec.runtime.jam.clone().resolve(instance.spec.profile);
    // Where no token is required no request tells whether an administrator's is one.
    let by_request = settings.is_ok_and(|settings| settings.auth_required);
    let administrators = observed.admin_tokens.iter().filter(|_| by_request);
    let own = observed.own_tokens.iter().chain(administrators);
    let mut all: Vec<TokenHash> = own.flat_map(|own| ended(instance, own)).collect();
    all.sort_unstable();
    all.dedup();
    let unproven: Vec<TokenHash> = all.iter().copied().filter(|hash| !is_proven(instance, *hash)).collect();
    let since = observed.hashes.as_ref().and_then(|book| book.written_at);
    RevokedOwn {
        overdue: waited(since, observed.at) >= i64::from(pace.kubelet_sync),
        next: (!unproven.is_empty()).then(|| again(since, observed.at)),
        all,
        unproven,
    }
}

/// Those of a Secret that were revoked.
fn ended(instance: &JamInstance, own: &OwnTokens) -> Vec<TokenHash> {
    let asks = Asks::of(instance);
    own.hashes.iter().map(|(_, hash)| *hash).filter(|hash| asks.revokes(&hash.id())).collect()
}

/// Whether a token of the user's own was revoked and not every pod is known to refuse it: then it is to be sent to each.
pub fn is_to_be_proven(instance: &JamInstance, hash: TokenHash) -> bool {
    Asks::of(instance).revokes(&hash.id()) && !is_proven(instance, hash)
}

fn is_proven(instance: &JamInstance, hash: TokenHash) -> bool {
    let rotation = instance.status.as_ref().and_then(|status| status.rotation.as_ref());
    rotation.is_some_and(|told| told.refused_own.iter().any(|own| own.key_id == hash.id().as_str()))
}
