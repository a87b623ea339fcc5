//! What the Secrets with tokens say: hashes, never tokens.

use std::collections::{BTreeMap, BTreeSet};

use jam_domain::token::TokenHash;
use jam_domain::{Timestamp, TokenId};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::noted;
use crate::names;
use crate::rotation::{Answered, Holding, is_usable, without_tokens};

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
    /// A word for what its files hold, in whatever order: what pods are told to read.
    pub word: String,
    /// The ids that it listed last and lists no longer, each with its name, the latest at the end.
    pub ended: Vec<(String, TokenId)>,
    /// The forced rotation that was looked at last, and whom it meant.
    pub answered: Option<Answered>,
    /// When the operator wrote it last.
    pub written_at: Option<Timestamp>,
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
        let revocations: Option<BTreeMap<String, String>> =
            read(names::TOKEN_REVOCATIONS).and_then(|text| serde_json::from_str(&text).ok());
        let revocations =
            revocations.into_iter().flatten().map(|(name, value)| (name, without_tokens(&value))).collect();
        let answered: Option<Answered> = read(names::TOKEN_ROTATION).and_then(|text| serde_json::from_str(&text).ok());
        let file = |key| secret.data.as_ref().and_then(|data| data.get(key)).map_or(&[][..], |ByteString(bytes)| bytes);
        let ended = read(names::ENDED_TOKENS);
        Self {
            entries: listed.iter().filter_map(entry).collect(),
            generations: generations.unwrap_or_default(),
            revocations,
            word: Self::word_of([file(names::TOKENS_KEY), file(names::ADMIN_TOKENS_KEY)]),
            ended: ended.unwrap_or_default().split(',').filter_map(ended_of).collect(),
            answered: answered.map(|told| Answered { value: without_tokens(&told.value), ..told }),
            written_at: written_at(secret),
        }
    }

    /// The word for these two files. Lines that only change places say the same as before, and no pod is told of them.
    pub(crate) fn word_of(files: [&[u8]; 2]) -> String {
        let lines = |file: &[u8]| -> Vec<String> {
            let listed: Option<Vec<serde_json::Value>> = serde_json::from_slice(file).ok();
            let mut lines: Vec<_> = listed.unwrap_or_default().iter().map(ToString::to_string).collect();
            lines.sort_unstable();
            lines
        };
        let files = files.map(|file| lines(file).join("\n"));
        names::short_hash(files.iter().map(String::as_bytes))
    }

    /// The consumers that it knows of, also those that are gone.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.known().map(|(name, _)| name).chain(self.generations.keys().cloned()).collect()
    }

    /// Those of the ids that it lists no longer which are meant.
    pub(crate) fn ended_of(&self, is_meant: impl Fn(&TokenId) -> bool) -> Vec<(String, TokenId)> {
        self.ended.iter().filter(|(_, id)| is_meant(id)).cloned().collect()
    }

    /// Everything that was ever listed in it, as far as it remembers.
    pub(crate) fn known(&self) -> impl Iterator<Item = (String, TokenId)> {
        let listed = self.entries.iter().map(|(name, hash)| (name.clone(), hash.id()));
        self.ended.iter().cloned().chain(listed)
    }

    /// The hashes of one consumer.
    pub fn of_consumer(&self, consumer: &str) -> Vec<TokenHash> {
        self.entries.iter().filter(|(name, _)| name == consumer).map(|(_, hash)| *hash).collect()
    }
}

/// `name id`.
fn ended_of(words: &str) -> Option<(String, TokenId)> {
    let (name, id) = words.split_once(' ')?;
    Some((name.to_owned(), id.parse().ok()?))
}

/// When the operator's own fields were written last. Without that it is unknown, and then no pod counts as begun after it.
fn written_at(secret: &Secret) -> Option<Timestamp> {
    let ours = secret.metadata.managed_fields.iter().flatten();
    let ours = ours.filter(|entry| entry.manager.as_deref() == Some(names::FIELD_MANAGER));
    ours.filter_map(|entry| super::instant(entry.time.as_ref())).max()
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
