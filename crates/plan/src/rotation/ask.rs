//! What people ask for by annotation: a new token now (`jam.network/rotate`), the end of a leaked one (`jam.network/revoke`).

use std::collections::BTreeSet;

use jam_domain::TokenId;
use jam_domain::token::TokenHash;
use serde::{Deserialize, Serialize};

use crate::crd::JamInstance;
use crate::names;
use crate::observed::HashBook;

/// The annotations of an instance that ask something of its tokens, without any token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Asks {
    /// The value of `jam.network/rotate`.
    pub rotate: Option<String>,
    /// The value of `jam.network/revoke`.
    pub revoke: Option<String>,
    /// The consumers there are.
    pub consumers: BTreeSet<String>,
    /// Names of consumers that there were: a value that names one of them never means the others.
    pub former: BTreeSet<String>,
    /// The value of `jam.network/rotate` that was looked at last, and whom it meant then.
    pub answered: Option<Answered>,
}

/// A value of `jam.network/rotate` that was looked at. It goes on meaning whom it meant, whoever comes, goes or is renamed (adr/0046).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Answered {
    /// The value.
    pub value: String,
    /// The consumers that it meant.
    pub meant: BTreeSet<String>,
}

/// The words of a value: names, ids, and whatever makes it new.
fn words(value: &str) -> impl Iterator<Item = &str> {
    value.split([',', ' ', '\t', '\n']).filter(|word| !word.is_empty())
}

/// Whether it only makes a value new: a time, as `date +%s` or `date -Is` writes it. Eight digits may be a key id.
fn is_time(word: &str) -> bool {
    let is_count = (9..=20).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit());
    is_count || word.parse::<jiff::Timestamp>().is_ok()
}

/// A value with the key id of each token of ours that somebody wrote into it: the value is noted and told, a token never.
pub fn without_tokens(value: &str) -> String {
    let ends = |letter: char| !letter.is_ascii_hexdigit();
    let told = |piece: &str| {
        let (word, rest) = piece.split_at(piece.trim_end_matches(ends).len());
        if word.len() == 64 { format!("{}{rest}", TokenHash::of(word).id()) } else { piece.to_owned() }
    };
    value.split_inclusive(ends).map(told).collect()
}

/// A word as it may be told: what is long may be a secret.
fn shown(word: &str) -> String {
    if word.chars().count() > 16 { format!("{}…", word.chars().take(4).collect::<String>()) } else { word.to_owned() }
}

/// Whether a word has the form of a key id, as a consumer's name seldom has.
pub fn is_id(word: &str) -> bool {
    word.len() == 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Asks {
    /// What an instance asks.
    pub fn of(instance: &JamInstance) -> Self {
        let note = |key: &str| {
            let notes = instance.metadata.annotations.as_ref()?;
            notes.get(key).filter(|value| !value.trim().is_empty()).map(|value| without_tokens(value))
        };
        let consumers = crate::tokens::consumers(&instance.spec).into_iter().map(|consumer| consumer.name).collect();
        Self { rotate: note(names::ROTATE), revoke: note(names::REVOKE), consumers, ..Self::default() }
    }

    #[cfg(test)]
    pub(super) fn asking(rotate: Option<&str>, revoke: Option<&str>) -> Self {
        Self { rotate: rotate.map(str::to_owned), revoke: revoke.map(str::to_owned), ..Self::default() }
    }

    /// The same with what the Secret of hashes remembers.
    #[must_use]
    pub fn remembering(mut self, book: Option<&HashBook>) -> Self {
        self.answered = book.and_then(|book| book.answered.clone());
        self.former = book.map(HashBook::names).unwrap_or_default();
        self
    }

    /// Whether a new token is asked for this consumer.
    pub fn rotates(&self, consumer: &str) -> bool {
        self.rotate.is_some() && self.answer().is_some_and(|answer| answer.meant.contains(consumer))
    }

    /// Whom the value means, looked at once: those that it names, or all where it names nobody who is or was a consumer.
    pub fn answer(&self) -> Option<Answered> {
        let Some(value) = &self.rotate else { return self.answered.clone() };
        if let Some(answered) = self.answered.as_ref().filter(|answered| answered.value == *value) {
            return Some(answered.clone());
        }
        let is_name = |word: &&str| self.consumers.contains(*word) || self.former.contains(*word);
        let named: BTreeSet<String> = words(value).filter(is_name).map(str::to_owned).collect();
        let meant = if named.is_empty() { self.consumers.clone() } else { named };
        Some(Answered { value: value.clone(), meant })
    }

    /// Whether every token of this consumer is to end.
    pub fn revokes_all_of(&self, consumer: &str) -> bool {
        self.revoke.as_deref().is_some_and(|value| words(value).any(|word| word == consumer))
    }

    /// Whether the token with this id is to end.
    pub fn revokes(&self, id: &TokenId) -> bool {
        self.revoke.as_deref().is_some_and(|value| words(value).any(|word| word == id.as_str()))
    }

    /// Ids of a revocation that none of these has: the token that leaked may be another one, or somebody else's.
    pub fn unmatched(&self, known: &BTreeSet<TokenId>) -> Vec<String> {
        let ids = words(self.revoke.as_deref().unwrap_or_default()).filter(|word| is_id(word));
        let unmatched =
            ids.filter(|word| !self.consumers.contains(*word) && known.iter().all(|id| id.as_str() != *word));
        unmatched.map(str::to_owned).collect()
    }

    /// Words of a revocation that look like neither a consumer nor a key id, nor only make it new: somebody mistyped, and
    /// believes a token dead.
    pub fn strangers(&self) -> Vec<String> {
        let value = self.revoke.as_deref().unwrap_or_default();
        words(value)
            .filter(|word| !self.consumers.contains(*word) && !is_id(word) && !is_time(word))
            .map(shown)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::fixtures::in_memory;
    use crate::rotation::Holding;

    fn asks(rotate: &str, revoke: &str) -> Asks {
        let consumers = ["demo", "other"].map(str::to_owned).into();
        Asks { rotate: Some(rotate.into()), revoke: Some(revoke.into()), consumers, ..Asks::default() }
    }

    #[test]
    fn a_value_is_looked_at_once_and_means_nobody_else_when_consumers_go_come_or_are_renamed() {
        let first = asks("demo,1732190000", "");
        let answered = first.answer();
        let renamed = |answered| Asks {
            consumers: ["renamed", "other"].map(str::to_owned).into(),
            answered,
            ..asks("demo,1732190000", "")
        };
        assert!(first.rotates("demo") && !first.rotates("other"));
        let later = renamed(answered.clone());
        assert_eq!(["renamed", "other"].map(|consumer| later.rotates(consumer)), [false, false]);
        let unseen = Asks { former: ["demo".to_owned()].into(), ..renamed(None) };
        assert_eq!(
            ["renamed", "other"].map(|consumer| unseen.rotates(consumer)),
            [false, false],
            "it was renamed first"
        );
        let everybody =
            Asks { answered: asks("*", "").answer(), consumers: ["late".to_owned()].into(), ..asks("*", "") };
        assert!(!everybody.rotates("late"), "all that there were");
        let again = Asks { rotate: Some("*,2".into()), ..everybody };
        assert!(again.rotates("late"), "another value is looked at anew");
        assert_eq!(Asks { rotate: None, ..later }.answer(), answered, "what was answered stays answered");
    }

    #[test]
    fn a_rotation_is_for_the_consumers_it_names_or_for_all() {
        let of = |value: &str| ["demo", "other"].map(|consumer| asks(value, "").rotates(consumer));
        assert_eq!(of("demo"), [true, false]);
        assert_eq!(of("demo, 2026-11-21T12:00:00Z"), [true, false], "the rest only makes the value new");
        assert_eq!(of("demo,other"), [true, true]);
        for everybody in ["*", "1732190000", "2026-11-21"] {
            assert_eq!(of(everybody), [true, true], "{everybody}");
        }
        assert!(!Asks { rotate: None, ..asks("", "") }.rotates("demo"));
    }

    #[test]
    fn a_revocation_is_for_what_it_names_and_never_for_all() {
        let id: TokenId = "0a1b2c3d".parse().unwrap();
        assert!(asks("", "demo").revokes_all_of("demo") && !asks("", "demo").revokes_all_of("other"));
        assert!(asks("", "0a1b2c3d").revokes(&id) && !asks("", "demo").revokes(&id));
        assert!(!asks("", "*").revokes_all_of("demo"));
        assert_eq!(asks("", "demo,0a1b2c3d,dmeo,*").strangers(), ["dmeo", "*"]);
        let again = ["demo,1795285367", "demo 2026-11-21T12:00:00Z", "demo,2026-11-21T12:00:00+01:00"];
        for value in again.map(|value| asks("", value)) {
            assert!(value.revokes_all_of("demo") && !value.revokes_all_of("other"));
            assert!(value.strangers().is_empty(), "{value:?}: a time only makes it new");
        }
        assert_eq!(
            asks("", "some-long-secret-of-a-user").strangers(),
            ["some…"],
            "nothing that may be a secret is told"
        );
    }

    #[test]
    fn a_token_that_somebody_wrote_is_its_key_id_wherever_it_stands_and_is_repeated_nowhere() {
        let token = "0123456789abcdef".repeat(4);
        let id = TokenHash::of(&token).id();
        let of = |value: &str| {
            let mut instance = in_memory();
            let notes = instance.metadata.annotations.get_or_insert_default();
            notes.extend([names::REVOKE, names::ROTATE].map(|key| (key.to_owned(), value.to_owned())));
            Asks::of(&instance)
        };
        for value in
            [token.clone(), format!("demo,{token}"), format!("{token}\n1732190000 other"), format!("\"{token}\"")]
        {
            let asked = of(&value);
            let told = format!("{asked:?} {:?} {:?}", asked.answer(), asked.strangers());
            assert!(!told.contains(&token) && told.contains(id.as_str()), "{told}");
        }
        assert!(of(&format!("demo,{token}")).revokes(&id) && of(&token).strangers().is_empty());
        assert_eq!(of(&token).unmatched(&BTreeSet::new()), [id.to_string()], "perhaps it is somebody else's");
        for other in ["demo, 0a1b2c3d\n1732190000", &token[1..], &format!("{token}0")] {
            assert_eq!(without_tokens(other), other);
        }
    }

    #[test]
    fn what_an_earlier_operator_noted_with_a_token_in_it_is_the_same_ask() {
        let raw = format!("demo,{}", "0123456789abcdef".repeat(4));
        let notes = [
            (names::REVOKED, raw.clone()),
            (names::ROTATED, raw.clone()),
            (names::TOKEN_REVOCATIONS, json!({"demo": raw}).to_string()),
            (names::TOKEN_ROTATION, json!({"value": raw, "meant": ["demo"]}).to_string()),
        ];
        let notes: BTreeMap<_, _> = notes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let secret = serde_json::from_value(json!({"metadata": {"annotations": notes}})).unwrap();
        let (held, book, asked) = (Holding::of(&secret).notes, HashBook::of(&secret), without_tokens(&raw));
        assert_eq!([held.revoked, held.rotated], [Some(asked.clone()), Some(asked.clone())]);
        assert_eq!((&book.revocations["demo"], &book.answered.unwrap().value), (&asked, &asked));
    }
}
