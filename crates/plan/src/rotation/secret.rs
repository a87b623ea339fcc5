//! A consumer's Secret, read into a [`Holding`] and written from one.

use std::collections::BTreeMap;

use jam_domain::token::TokenHash;
use jam_domain::{Timestamp, TokenId};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Map, Value, json};

use super::{Displaced, Holding, Notes, Proof, Slots, without_tokens};
use crate::names;

/// A token itself. It has no Debug and no Display: it cannot be logged by accident.
#[derive(Clone)]
pub struct Plain(String);

impl Plain {
    /// A token.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the Secret and for the request that proves it dead.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Its hash.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }
}

/// A token that fits in a header and cannot be guessed at once.
pub(crate) fn is_usable(token: &str) -> bool {
    token.len() >= 16 && token.bytes().all(|byte| byte.is_ascii_graphic())
}

fn text<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    let ByteString(bytes) = secret.data.as_ref()?.get(key)?;
    std::str::from_utf8(bytes).ok()
}

impl Slots<Plain> {
    /// The tokens in a Secret; what cannot be used as one counts as not there.
    pub fn of(secret: &Secret) -> Self {
        let one = |key: &str| text(secret, key).filter(|token| is_usable(token)).map(|token| Plain(token.to_owned()));
        let retired = text(secret, names::RETIRED_KEY).unwrap_or_default().lines();
        Self {
            token: one(names::TOKEN_KEY),
            next: one(names::NEXT_KEY),
            previous: one(names::PREVIOUS_KEY),
            retired: retired.filter(|token| is_usable(token)).map(|token| Plain(token.to_owned())).collect(),
        }
    }

    /// The same as hashes.
    pub fn hashes(&self) -> Slots<TokenHash> {
        let Self { token, next, previous, retired } = self;
        let hash = |token: &Option<Plain>| token.as_ref().map(Plain::hash);
        Slots {
            token: hash(token),
            next: hash(next),
            previous: hash(previous),
            retired: retired.iter().map(Plain::hash).collect(),
        }
    }
}

impl Holding {
    /// What a Secret says. Keeps hashes only.
    pub fn of(secret: &Secret) -> Self {
        let plain = Slots::<Plain>::of(secret);
        let slots = plain.hashes();
        let matching = match &plain.token {
            Some(token) => {
                text(secret, names::TOKEN_ID_KEY) == Some(token.hash().id().as_str())
                    && text(secret, names::AUTHORIZATION_KEY) == Some(&format!("Bearer {}", token.reveal()))
            }
            None => true,
        };
        let not_after = text(secret, names::NOT_AFTER_KEY).and_then(|at| at.parse().ok());
        Self { slots, notes: notes_of(secret), matching, not_after }
    }
}

fn notes_of(secret: &Secret) -> Notes {
    let none = BTreeMap::new();
    let noted = secret.metadata.annotations.as_ref().unwrap_or(&none);
    let time = |key: &str| noted.get(key).and_then(|at| at.parse::<Timestamp>().ok());
    let displaced = text(secret, names::DISPLACED_KEY).unwrap_or_default().lines();
    Notes {
        generation: noted.get(names::TOKEN_GENERATION).and_then(|n| n.parse().ok()).unwrap_or_default(),
        issued_at: time(names::ISSUED_AT),
        written: noted.get(names::TOKEN_ID).and_then(|id| id.parse().ok()),
        previous_until: time(names::PREVIOUS_NOT_AFTER),
        displaced: displaced.filter_map(displaced_of).collect(),
        // An earlier operator noted them as they were written.
        rotated: noted.get(names::ROTATED).map(|value| without_tokens(value)),
        revoked: noted.get(names::REVOKED).map(|value| without_tokens(value)),
        proof: noted.get(names::REFUSED).and_then(|text| proof_of(text)),
        changed_at: time(names::TOKENS_CHANGED_AT),
    }
}

fn displaced_of(line: &str) -> Option<Displaced> {
    let (hash, until) = line.split_once(' ')?;
    Some(Displaced { hash: hash.parse().ok()?, until: until.parse().ok()? })
}

/// `<id>[,<id>…] <when> <pods>`.
fn proof_of(text: &str) -> Option<Proof> {
    let mut words = text.split(' ');
    let ids = words.next()?.split(',').map(str::parse::<TokenId>).collect::<Result<_, _>>().ok()?;
    Some(Proof { ids, at: words.next()?.parse().ok()?, pods: words.next()?.parse().ok()? })
}

/// Whole seconds, as Kubernetes writes times.
pub(super) fn written(at: Timestamp) -> String {
    jiff::Timestamp::from_second(at.as_micros().div_euclid(1_000_000))
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_string()
}

/// The keys of the Secret for a merge: what is null goes.
pub fn data(plain: &Slots<Plain>, holding: &Holding) -> Map<String, Value> {
    let Slots { token, next, previous, retired } = plain;
    let bytes = |text: Option<String>| text.map_or(Value::Null, |text| json!(ByteString(text.into_bytes())));
    let reveal = |slot: &Option<Plain>| slot.as_ref().map(|token| token.reveal().to_owned());
    let lines = |lines: Vec<String>| (!lines.is_empty()).then(|| lines.join("\n"));
    let displaced = holding.notes.displaced.iter().map(|one| format!("{} {}", one.hash, written(one.until)));
    let keys = [
        (names::TOKEN_KEY, reveal(token)),
        (names::TOKEN_ID_KEY, token.as_ref().map(|token| token.hash().id().to_string())),
        (names::AUTHORIZATION_KEY, token.as_ref().map(|token| format!("Bearer {}", token.reveal()))),
        (names::NOT_AFTER_KEY, holding.not_after.map(written)),
        (names::NEXT_KEY, reveal(next)),
        (names::PREVIOUS_KEY, reveal(previous)),
        (names::RETIRED_KEY, lines(retired.iter().map(|token| token.reveal().to_owned()).collect())),
        (names::DISPLACED_KEY, lines(displaced.collect())),
    ];
    keys.into_iter().map(|(key, text)| (key.to_owned(), bytes(text))).collect()
}

/// The annotations of the Secret for a merge: what is null goes.
pub fn annotations(holding: &Holding) -> Map<String, Value> {
    let Notes { generation, issued_at, written: id, previous_until, displaced: _, rotated, revoked, proof, changed_at } =
        &holding.notes;
    let proof = proof.as_ref().map(|Proof { ids, at, pods }| {
        let ids: Vec<_> = ids.iter().map(TokenId::as_str).collect();
        format!("{} {} {pods}", ids.join(","), written(*at))
    });
    let notes = [
        (names::TOKEN_GENERATION, Some(generation.to_string())),
        (names::ISSUED_AT, issued_at.map(written)),
        (names::TOKEN_ID, id.as_ref().map(ToString::to_string)),
        (names::PREVIOUS_NOT_AFTER, previous_until.map(written)),
        (names::ROTATED, rotated.clone()),
        (names::REVOKED, revoked.clone()),
        (names::REFUSED, proof),
        (names::TOKENS_CHANGED_AT, changed_at.map(written)),
    ];
    notes.into_iter().map(|(key, text)| (key.to_owned(), json!(text))).collect()
}
