//! What the Secrets with tokens say: hashes, never tokens.

use std::collections::BTreeMap;

use jam_domain::token::TokenHash;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::noted;
use crate::names;
use crate::rotation::{Holding, is_usable};

/// A consumer's Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSecret {
    /// The consumer.
    pub consumer: String,
    /// What is in it.
    pub holding: Holding,
}

impl TokenSecret {
    /// What a Secret says about a consumer's tokens. Keeps hashes only.
    pub fn of(consumer: &str, secret: &Secret) -> Self {
        Self { consumer: consumer.to_owned(), holding: Holding::of(secret) }
    }
}

/// What the Secret of hashes says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HashBook {
    /// The consumers' hashes, each with its consumer.
    pub entries: Vec<(String, TokenHash)>,
    /// How many tokens each consumer had been given.
    pub generations: BTreeMap<String, u64>,
    /// The revocation of each consumer that was carried out last.
    pub revocations: BTreeMap<String, String>,
}

impl HashBook {
    /// What the Secret says; entries that cannot be read are left out.
    pub fn of(secret: &Secret) -> Self {
        let file = secret.data.as_ref().and_then(|data| data.get(names::TOKENS_KEY));
        let listed: Vec<serde_json::Value> =
            file.and_then(|ByteString(bytes)| serde_json::from_slice(bytes).ok()).unwrap_or_default();
        let entry = |entry: &serde_json::Value| {
            Some((entry["name"].as_str()?.to_owned(), entry["sha256"].as_str()?.parse().ok()?))
        };
        let read = |name| noted(secret.metadata.annotations.as_ref(), name);
        let generations = read(names::TOKEN_GENERATIONS).and_then(|text| serde_json::from_str(&text).ok());
        let revocations = read(names::TOKEN_REVOCATIONS).and_then(|text| serde_json::from_str(&text).ok());
        Self {
            entries: listed.iter().filter_map(entry).collect(),
            generations: generations.unwrap_or_default(),
            revocations: revocations.unwrap_or_default(),
        }
    }

    /// The hashes of one consumer.
    pub fn of_consumer(&self, consumer: &str) -> Vec<TokenHash> {
        self.entries.iter().filter(|(name, _)| name == consumer).map(|(_, hash)| *hash).collect()
    }
}

/// A Secret with the user's own tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnTokens {
    /// Its name.
    pub secret: String,
    /// Whether it is there.
    pub exists: bool,
    /// The hash of each token, with its key.
    pub hashes: Vec<(String, TokenHash)>,
    /// Keys whose values cannot be used as a token.
    pub unusable: Vec<String>,
}

impl OwnTokens {
    /// What a Secret says. Keeps hashes only.
    pub fn of(name: &str, secret: Option<&Secret>) -> Self {
        let (mut hashes, mut unusable) = (Vec::new(), Vec::new());
        for (key, ByteString(bytes)) in secret.and_then(|secret| secret.data.as_ref()).into_iter().flatten() {
            match std::str::from_utf8(bytes.trim_ascii()) {
                Ok(token) if is_usable(token) => hashes.push((key.clone(), TokenHash::of(token))),
                Ok(_) | Err(_) => unusable.push(key.clone()),
            }
        }
        Self { secret: name.to_owned(), exists: secret.is_some(), hashes, unusable }
    }
}
