//! Tokens: the entries of the token file, and the decision whether a presented token may do something at a time.

mod delegates;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::names::{ServiceId, TokenId, text_form};
use crate::time::Timestamp;

/// The shortest token that is taken from the environment, in characters: fewer can be guessed.
pub const MIN_TOKEN: usize = 8;

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Look at everything.
    Read,
    /// Upload preimages and submit packages.
    Submit,
    /// Process packages and attest reports.
    Process,
    /// Administer.
    Admin,
}

impl Scope {
    /// The scopes of a token whose entry names none.
    pub const DEFAULT: [Self; 3] = [Self::Read, Self::Submit, Self::Process];

    /// The word in the token file and in refusals.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Process => "process",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The SHA-256 of a token: all that a server ever holds of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// The token's public id.
    pub fn id(&self) -> TokenId {
        TokenId::of_hash(&self.0)
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The id only: the hash of a weak token can be searched for.
        write!(f, "TokenHash({}…)", self.id())
    }
}

impl FromStr for TokenHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 32];
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(_) => Err("sha256 is the SHA-256 of the token as 64 hex digits".into()),
        }
    }
}

text_form!(TokenHash);

/// One entry of the token file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenEntry {
    /// The first 8 hex digits of `sha256`.
    pub id: TokenId,
    /// The hash of the token.
    pub sha256: TokenHash,
    /// For people, e.g. the consumer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it may do; left out: read, submit and process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<BTreeSet<Scope>>,
    /// The services it may touch; left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<BTreeSet<ServiceId>>,
    /// Not accepted before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Not accepted from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
}

impl TokenEntry {
    /// The entry of a token given in plain text by the settings: default scopes, every service, no end.
    pub fn of_plain(token: &str) -> Self {
        Self::of_hash(TokenHash::of(token))
    }

    fn of_hash(sha256: TokenHash) -> Self {
        Self { id: sha256.id(), sha256, name: None, scopes: None, services: None, not_before: None, not_after: None }
    }

    /// Whether it is accepted at that time.
    pub fn accepted_at(&self, now: Timestamp) -> bool {
        self.not_before.is_none_or(|from| from <= now) && self.not_after.is_none_or(|until| now < until)
    }

    /// Whether it carries the scope.
    pub fn carries(&self, scope: Scope) -> bool {
        self.scopes.as_ref().map_or_else(|| Scope::DEFAULT.contains(&scope), |scopes| scopes.contains(&scope))
    }
}

/// A token that is accepted now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known<'a>(pub &'a TokenEntry);

/// Why a presented token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unaccepted {
    /// No entry has its hash.
    Unknown,
    /// Its entry has ended, or not begun.
    Expired,
    /// It is one of the global tokens, and an allowlist leaves it out.
    NotAllowed,
}

/// Every token that a server accepts, now or at another time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenBook {
    entries: Vec<TokenEntry>,
    global: Vec<TokenHash>,
}

/// What is wrong with a list of tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenMistake {
    /// An id that does not belong to its hash.
    #[error("entry {position} has id {id}, but its sha256 begins with {wanted}")]
    WrongId {
        /// Counted from 1.
        position: usize,
        /// The id that is written.
        id: TokenId,
        /// The id that belongs there.
        wanted: TokenId,
    },
    /// One hash in two entries: which of them would count?
    #[error("token {0} is listed twice")]
    Twice(TokenId),
    /// A time range without a moment in it.
    #[error("token {0} has a not_after that is not later than its not_before")]
    NeverValid(TokenId),
}

impl TokenBook {
    /// Checks the entries against each other.
    pub fn new(entries: Vec<TokenEntry>) -> Result<Self, TokenMistake> {
        let mut seen = BTreeSet::new();
        for (n, entry) in entries.iter().enumerate() {
            let wanted = entry.sha256.id();
            if entry.id != wanted {
                return Err(TokenMistake::WrongId { position: n + 1, id: entry.id.clone(), wanted });
            }
            if !seen.insert(entry.sha256) {
                return Err(TokenMistake::Twice(wanted));
            }
            if let (Some(from), Some(until)) = (entry.not_before, entry.not_after)
                && until <= from
            {
                return Err(TokenMistake::NeverValid(wanted));
            }
        }
        Ok(Self { entries, global: Vec::new() })
    }

    /// Remembers global tokens that an allowlist leaves out, so that they are refused as forbidden and not as unknown.
    #[must_use]
    pub fn leaving_out(mut self, global: impl IntoIterator<Item = TokenHash>) -> Self {
        self.global = global.into_iter().collect();
        self
    }

    /// Finds the token.
    pub fn decide(&self, token: &str, now: Timestamp) -> Result<Known<'_>, Unaccepted> {
        let (found, global) = self.find(&TokenHash::of(token), |known, hash| known.0.ct_eq(&hash.0));
        match found {
            Some(entry) if entry.accepted_at(now) => Ok(Known(entry)),
            Some(_) => Err(Unaccepted::Expired),
            None if global => Err(Unaccepted::NotAllowed),
            None => Err(Unaccepted::Unknown),
        }
    }

    /// The entry with this hash, and whether it is a global one. Every entry is compared whatever the others said, each in
    /// constant time, and where it stands is chosen without a branch: the time taken says nothing about a match.
    fn find(&self, hash: &TokenHash, equal: impl Fn(&TokenHash, &TokenHash) -> Choice) -> (Option<&TokenEntry>, bool) {
        let (mut at, mut global) = (u64::MAX, Choice::from(0));
        for (n, entry) in (0_u64..).zip(&self.entries) {
            at.conditional_assign(&n, equal(&entry.sha256, hash));
        }
        for known in &self.global {
            global |= equal(known, hash);
        }
        (usize::try_from(at).ok().and_then(|at| self.entries.get(at)), global.into())
    }

    /// Whether exactly this entry is still in force: neither retired nor changed, and accepted at that time.
    pub fn holds(&self, entry: &TokenEntry, now: Timestamp) -> bool {
        entry.accepted_at(now) && self.entries.contains(entry)
    }

    /// Ids of the tokens accepted at that time, sorted: what a rotation asks every replica for.
    pub fn ids_at(&self, now: Timestamp) -> Vec<TokenId> {
        let ids: BTreeSet<_> =
            self.entries.iter().filter(|entry| entry.accepted_at(now)).map(|e| e.id.clone()).collect();
        ids.into_iter().collect()
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn entry(token: &str) -> TokenEntry {
        TokenEntry::of_plain(token)
    }

    #[test]
    fn a_token_is_known_by_its_hash_and_named_by_its_first_digits() {
        let book = TokenBook::new(vec![entry("alpha-token"), entry("beta-token")]).unwrap();
        let Known(found) = book.decide("beta-token", at(0)).unwrap();
        assert_eq!(found.id, TokenHash::of("beta-token").id());
        assert_eq!(book.decide("beta-toke", at(0)), Err(Unaccepted::Unknown));
        assert_eq!(book.decide("", at(0)), Err(Unaccepted::Unknown));
    }

    #[test]
    fn every_entry_is_compared_in_constant_time_whichever_matches() {
        let tokens = ["alpha-token", "beta-token", "gamma-token"];
        let book = TokenBook::new(tokens.map(entry).to_vec()).unwrap();
        let book = book.leaving_out(["global-token", "other-global"].map(TokenHash::of));
        for (token, is) in
            tokens.map(|token| (token, true)).into_iter().chain([("global-token", false), ("none", false)])
        {
            let compared = std::cell::RefCell::new(Vec::new());
            let (found, _) = book.find(&TokenHash::of(token), |known, hash| {
                compared.borrow_mut().push(*known);
                known.0.ct_eq(&hash.0)
            });
            assert_eq!(found.map(|entry| entry.sha256), is.then(|| TokenHash::of(token)));
            let all = tokens.into_iter().chain(["global-token", "other-global"]).map(TokenHash::of);
            assert_eq!(compared.into_inner(), all.collect::<Vec<_>>(), "{token}: each once, in the same order");
        }
    }

    #[test]
    fn a_token_is_accepted_from_not_before_until_before_not_after() {
        let book = TokenBook::new(vec![TokenEntry {
            not_before: Some(at(10)),
            not_after: Some(at(20)),
            ..entry("alpha-token")
        }])
        .unwrap();
        let accepted = |now| book.decide("alpha-token", at(now)).is_ok();
        assert_eq!([9, 10, 19, 20].map(accepted), [false, true, true, false]);
        assert_eq!(book.decide("alpha-token", at(20)), Err(Unaccepted::Expired));
        let held = book.decide("alpha-token", at(10)).unwrap().0.clone();
        assert!(book.holds(&held, at(19)) && !book.holds(&held, at(20)));
        assert!(!book.holds(&TokenEntry { services: Some(BTreeSet::new()), ..held }, at(19)), "a changed one");
        assert_eq!([9, 10, 20].map(|now| book.ids_at(at(now)).len()), [0, 1, 0]);
    }

    #[test]
    fn a_token_without_scopes_may_all_but_administer() {
        let plain = entry("alpha-token");
        assert_eq!(
            [Scope::Read, Scope::Submit, Scope::Process, Scope::Admin].map(|s| plain.carries(s)),
            [true, true, true, false]
        );
        let reader = TokenEntry { scopes: Some([Scope::Read].into()), ..plain };
        assert!(reader.carries(Scope::Read) && !reader.carries(Scope::Submit));
    }

    #[test]
    fn a_global_token_outside_the_allowlist_is_forbidden_not_unknown() {
        let book = TokenBook::new(vec![entry("alpha-token")]).unwrap().leaving_out([TokenHash::of("global-token")]);
        assert_eq!(book.decide("global-token", at(0)), Err(Unaccepted::NotAllowed));
    }

    #[test]
    fn a_list_that_contradicts_itself_is_refused() {
        let wrong_id = TokenEntry { id: TokenHash::of("other-token").id(), ..entry("alpha-token") };
        assert!(matches!(TokenBook::new(vec![wrong_id]), Err(TokenMistake::WrongId { position: 1, .. })));
        let twice = vec![entry("alpha-token"), entry("alpha-token")];
        assert!(matches!(TokenBook::new(twice), Err(TokenMistake::Twice(_))));
        let never = TokenEntry { not_before: Some(at(5)), not_after: Some(at(5)), ..entry("alpha-token") };
        assert!(matches!(TokenBook::new(vec![never]), Err(TokenMistake::NeverValid(_))));
    }

    #[test]
    fn neither_token_nor_hash_is_in_the_debug_form() {
        let entry = entry("alpha-token");
        let shown = format!("{entry:?}");
        assert!(!shown.contains(&entry.sha256.to_string()) && !shown.contains("alpha-token"));
    }
}
