//! Which consumers there are, and what the operator has to do about their tokens.

#[cfg(test)]
mod tests;

use jam_domain::token::TokenHash;

use crate::crd::{Consumer, JamInstance, JamInstanceSpec};
use crate::names;
use crate::observed::Observed;
use crate::rotation::{Around, Asks, Change, Displaced, Holding, Pace, Policy, decide, displaced_by_loss, is_revoked};

/// The consumer of an API that requires tokens while its spec names nobody.
pub const DEFAULT_CONSUMER: &str = "default";

/// A name that no consumer may have: its Secret would be the one of the hashes.
pub const RESERVED_CONSUMER: &str = "hashes";

/// One write of a consumer's Secret, to be made before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenWork {
    /// The consumer.
    pub consumer: String,
    /// Its Secret.
    pub secret: String,
    /// Whether the Secret is there.
    pub exists: bool,
    /// What it holds.
    pub before: Holding,
    /// What is to be done.
    pub change: Change,
    /// Tokens that somebody threw out of it.
    pub lost: Vec<Displaced>,
}

/// The consumers of a spec; without a `tokens` block an API that requires tokens has one named `default`.
pub fn consumers(spec: &JamInstanceSpec) -> Vec<Consumer> {
    match &spec.tokens {
        Some(tokens) => tokens.consumers.clone(),
        None if spec.runtime.jam.auth_required.unwrap_or(true) => {
            vec![Consumer { name: DEFAULT_CONSUMER.into(), scopes: Vec::new(), services: Vec::new() }]
        }
        None => Vec::new(),
    }
}

/// The Secret with the user's own tokens that a spec refers to. The allowlist counts before the global tokens, as in the API.
pub fn own_tokens(spec: &JamInstanceSpec) -> Option<(&'static str, &str)> {
    let tokens = spec.tokens.as_ref()?;
    let allowed = tokens.allowed_tokens_secret_ref.as_ref().map(|secret| ("allowedTokensSecretRef", secret));
    let global = tokens.global_tokens_secret_ref.as_ref().map(|secret| ("globalTokensSecretRef", secret));
    allowed.or(global).map(|(field, secret)| (field, secret.name.as_str()))
}

/// The Secret with the tokens of administrators that a spec refers to. They are listed in a file of their own: a token of a
/// consumer never becomes one of them, nor one of them a consumer's.
pub fn admin_tokens(spec: &JamInstanceSpec) -> Option<(&'static str, &str)> {
    let secret = spec.tokens.as_ref()?.admin_tokens_secret_ref.as_ref()?;
    Some(("adminTokensSecretRef", secret.name.as_str()))
}

/// What is known around the tokens of every consumer of an instance.
#[derive(Debug)]
pub struct Surroundings<'a> {
    observed: &'a Observed,
    asks: Asks,
    policy: Policy,
}

impl<'a> Surroundings<'a> {
    /// Of an instance.
    pub fn of(instance: &JamInstance, observed: &'a Observed, pace: Pace) -> Self {
        let asks = Asks::of(instance).remembering(observed.hashes.as_ref());
        Self { observed, asks, policy: Policy::of(&instance.spec, pace) }
    }

    /// The hashes of a consumer that are in the cluster.
    pub fn hashes(&self, consumer: &str) -> Vec<TokenHash> {
        self.observed.hashes.as_ref().map(|book| book.of_consumer(consumer)).unwrap_or_default()
    }

    /// What is known around one consumer; `hashes` are [`Self::hashes`].
    pub fn around<'b>(&'b self, consumer: &'b str, hashes: &'b [TokenHash]) -> Around<'b> {
        Around {
            at: self.observed.at,
            hashes,
            known: self.known(consumer),
            revoked: self.revoked(consumer),
            serving: self.observed.api.is_some() || self.observed.pods_remain,
            pods: &self.observed.pod_answers,
            policy: self.policy,
            consumer,
            asks: &self.asks,
        }
    }

    /// What a consumer's Secret holds; of one that is lost, what the Secret of hashes remembers.
    pub fn holding(&self, consumer: &str) -> (bool, Holding) {
        if let Some(found) = self.observed.tokens.iter().find(|token| token.consumer == consumer) {
            return (true, found.holding.clone());
        }
        let revoked = self.revoked(consumer).map(str::to_owned);
        (false, Holding::lost(self.known(consumer), &self.hashes(consumer), revoked))
    }

    /// How many tokens the Secret of hashes says that a consumer had been given.
    fn known(&self, consumer: &str) -> u64 {
        let book = self.observed.hashes.as_ref();
        book.and_then(|book| book.generations.get(consumer)).copied().unwrap_or_default()
    }

    /// Which revocation the Secret of hashes says was carried out for a consumer.
    fn revoked(&self, consumer: &str) -> Option<&'a str> {
        let book = self.observed.hashes.as_ref();
        book.and_then(|book| book.revocations.get(consumer)).map(String::as_str)
    }

    /// Who else has this token of a consumer, so that it is accepted whatever becomes of it there: another consumer, or administrators,
    /// and the Secret that it is in.
    pub fn holder(&self, instance: &JamInstance, consumer: &str, hash: TokenHash) -> Option<(Option<String>, String)> {
        let name = crate::resolve::name_of(instance);
        let others = consumers(&instance.spec).into_iter().filter(|other| other.name != consumer);
        let of_consumer = |other: &Consumer| {
            let hashes = self.hashes(&other.name);
            let (_, holding) = self.holding(&other.name);
            holding.accepted().contains(&hash) && !is_revoked(hash, &holding, &self.around(&other.name, &hashes))
        };
        if let Some(other) = others.into_iter().find(of_consumer) {
            return Some((Some(other.name.clone()), names::consumer_secret(&name, &other.name)));
        }
        let admins = self.observed.admin_tokens.as_ref()?;
        let has_it = admins.hashes.iter().any(|(_, own)| *own == hash) && !self.asks.revokes(&hash.id());
        has_it.then(|| (None, admins.secret.clone()))
    }

    /// What people ask for.
    pub fn asks(&self) -> &Asks {
        &self.asks
    }
}

/// What the operator has to do about tokens now: at most one write for each consumer.
pub fn work(instance: &JamInstance, observed: &Observed, pace: Pace) -> Vec<TokenWork> {
    let name = crate::resolve::name_of(instance);
    let surroundings = Surroundings::of(instance, observed, pace);
    let work = |consumer: Consumer| {
        let hashes = surroundings.hashes(&consumer.name);
        let around = surroundings.around(&consumer.name, &hashes);
        let (exists, before) = surroundings.holding(&consumer.name);
        let change = Change::of(decide(&before, &around)?, &before, &around);
        let lost = displaced_by_loss(&before, &around);
        let secret = names::consumer_secret(&name, &consumer.name);
        Some(TokenWork { consumer: consumer.name.clone(), secret, exists, before, change, lost })
    };
    consumers(&instance.spec).into_iter().filter_map(work).collect()
}
