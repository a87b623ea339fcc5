//! What the delegates that administrators made do to the tokens of a server (docs/adr/0038).

use std::collections::{BTreeMap, BTreeSet};

use super::{TokenBook, TokenEntry, TokenHash};
use crate::control::Delegate;

impl TokenBook {
    /// The same book with delegates. One that no entry knew when it was made is a token of its own, with the default scopes.
    /// One that an entry knew binds that token, and those that come after it under its name, and lets nobody in. A bound
    /// token may touch those services, and those that its own entry names, and no others.
    #[must_use]
    pub fn with_delegates<'a>(mut self, delegates: impl IntoIterator<Item = &'a Delegate>) -> Self {
        let own = self.entries.len();
        let mut places: BTreeMap<TokenHash, usize> = self.entries.iter().map(|e| e.sha256).zip(0..).collect();
        for Delegate { service_id, sha256, name, listed } in delegates {
            let heir = listed.as_ref().and_then(|listed| listed.name.as_deref());
            let is_bound =
                |entry: &TokenEntry| entry.sha256 == *sha256 || (heir.is_some() && entry.name.as_deref() == heir);
            let mut bound: BTreeSet<usize> = (0..own).filter(|at| is_bound(&self.entries[*at])).collect();
            if listed.is_none() {
                bound.insert(*places.entry(*sha256).or_insert_with(|| {
                    let services = Some(BTreeSet::new());
                    self.entries.push(TokenEntry { name: name.clone(), services, ..TokenEntry::of_hash(*sha256) });
                    self.entries.len() - 1
                }));
            }
            for at in bound {
                self.entries[at].services.get_or_insert_default().insert(service_id.clone());
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Known, Scope, Unaccepted};
    use super::*;
    use crate::control::Listed;
    use crate::{ServiceId, Timestamp};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn service(name: &str) -> ServiceId {
        name.parse().unwrap()
    }

    fn delegate(token: &str, name: &str) -> Delegate {
        Delegate { service_id: service(name), sha256: TokenHash::of(token), name: None, listed: None }
    }

    fn entry(token: &str, name: Option<&str>) -> TokenEntry {
        TokenEntry { name: name.map(str::to_owned), ..TokenEntry::of_plain(token) }
    }

    fn services(book: &TokenBook, token: &str) -> Option<Vec<String>> {
        let Known(entry) = book.decide(token, at(0)).unwrap();
        entry.services.as_ref().map(|all| all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_delegate_may_touch_its_service_and_what_its_own_entry_names_and_nothing_else() {
        let bound = TokenEntry { services: Some([service("own")].into()), ..entry("bound-token", None) };
        let book = TokenBook::new(vec![entry("free-token", None), bound]).unwrap();
        let given = [("stranger", "a"), ("stranger", "b"), ("bound-token", "a"), ("free-token", "a")];
        let given = given.map(|(token, name)| delegate(token, name));
        let book = book.with_delegates(&given);
        let services = |token: &str| services(&book, token).unwrap();
        assert_eq!(services("stranger"), ["a", "b"]);
        assert_eq!(services("bound-token"), ["a", "own"]);
        assert_eq!(services("free-token"), ["a"], "a delegate entry narrows");
        assert!(!book.decide("stranger", at(0)).unwrap().0.carries(Scope::Admin));
    }

    #[test]
    fn a_delegate_that_was_listed_ends_with_its_entry_and_binds_who_comes_after_it_under_its_name() {
        let of = |token: &str, name: Option<&str>| Delegate {
            listed: Some(Listed { name: name.map(str::to_owned) }),
            ..delegate(token, "a")
        };
        let given = [of("first-token", Some("demo")), of("nameless-token", None)];
        let listed = [entry("first-token", Some("demo")), entry("nameless-token", None)];
        let before = TokenBook::new(listed.to_vec()).unwrap().with_delegates(&given);
        assert_eq!(services(&before, "first-token").unwrap(), ["a"]);
        assert_eq!(services(&before, "nameless-token").unwrap(), ["a"]);
        let rotated = [("second-token", Some("demo")), ("other-token", Some("other")), ("free-token", None)];
        let rotated = rotated.map(|(token, name)| entry(token, name));
        let after = TokenBook::new(rotated.to_vec()).unwrap().with_delegates(&given);
        for retired in ["first-token", "nameless-token"] {
            assert_eq!(after.decide(retired, at(0)), Err(Unaccepted::Unknown), "{retired}");
        }
        assert_eq!(after.ids_at(at(0)).len(), 3, "what a rotation is told");
        assert_eq!(services(&after, "second-token").unwrap(), ["a"], "a rotation widens no right");
        assert_eq!((services(&after, "other-token"), services(&after, "free-token")), (None, None));
    }
}
