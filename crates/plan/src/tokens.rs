//! Which consumers there are, and which of their tokens the operator has to make.

use crate::crd::{Consumer, JamInstance, JamInstanceSpec};
use crate::names;
use crate::observed::{Observed, TokenState};

/// The consumer of an API that requires tokens while its spec names nobody.
pub const DEFAULT_CONSUMER: &str = "default";

/// A name that no consumer may have: its Secret would be the one of the hashes.
pub const RESERVED_CONSUMER: &str = "hashes";

/// A token that the operator makes before anything else: random, at least 256 bits, never made again while it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenWork {
    /// The consumer.
    pub consumer: String,
    /// Its Secret.
    pub secret: String,
    /// What is to be done.
    pub task: TokenTask,
}

/// What is to be done for a consumer's Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenTask {
    /// Create the Secret with a new token.
    Create,
    /// The Secret is there without a usable token: put a new one in.
    Fill,
    /// The token is good; write its keys `id` and `authorization` again.
    Complete,
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

/// What the operator has to do about tokens before [`crate::resolve`] can succeed.
pub fn missing(instance: &JamInstance, observed: &Observed) -> Vec<TokenWork> {
    let name = crate::resolve::name_of(instance);
    let work = |consumer: &Consumer| {
        let held = observed.tokens.iter().find(|token| token.consumer == consumer.name).map(|token| &token.state);
        let task = match held {
            None => TokenTask::Create,
            Some(TokenState::Empty) => TokenTask::Fill,
            Some(TokenState::Held { complete: false, .. }) => TokenTask::Complete,
            Some(TokenState::Held { complete: true, .. }) => return None,
        };
        let secret = names::consumer_secret(&name, &consumer.name);
        Some(TokenWork { consumer: consumer.name.clone(), secret, task })
    };
    consumers(&instance.spec).iter().filter_map(work).collect()
}
