//! Whether the API pods have taken in what the Secret of hashes says, whatever changed in it.

use std::collections::BTreeSet;

use jam_domain::{Timestamp, TokenId};

use super::outlook::{LATER, SOON, pause, seconds};
use crate::observed::HashBook;

/// An API pod as a reader of its token file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// The pod.
    pub pod: String,
    /// The ids that it accepts; `None` when it did not answer or was not asked.
    pub accepts: Option<BTreeSet<TokenId>>,
    /// What it was last told to read, as annotated.
    pub told: Option<String>,
    /// When it was made.
    pub begun: Option<Timestamp>,
    /// Whether a server may run in it: one that does not reads the file when it begins.
    pub runs: bool,
}

impl Reader {
    /// Whether it was told of this content, or was made after it and so has never read another.
    pub fn knows(&self, book: &HashBook) -> bool {
        let says_so = || self.accepts.as_ref().is_none_or(|ids| agrees(book, ids));
        let unasked = || self.is_younger(book) && (self.is_surely_younger(book) || says_so());
        self.told.as_ref().map_or_else(unasked, |told| *told == book.word)
    }

    /// Whether it was made in a later second than the Secret was last written: the API server's clock tells no more.
    pub fn is_surely_younger(&self, book: &HashBook) -> bool {
        matches!((self.begun, book.written_at), (Some(begun), Some(written)) if begun > written)
    }

    /// Whether it was made after the Secret was last written, as far as the API server tells.
    pub fn is_younger(&self, book: &HashBook) -> bool {
        matches!((self.begun, book.written_at), (Some(begun), Some(written)) if begun >= written)
    }
}

/// How far one content of the Secret of hashes has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distribution {
    /// The word for this content.
    pub word: String,
    /// Pods that are to be told to read it.
    pub untold: Vec<String>,
    /// Pods that do not say what they accept, and may accept what they read before.
    pub silent: Vec<String>,
    /// Pods that have not taken it in.
    pub behind: Vec<String>,
    /// Whether those had more time for it than the kubelet may take.
    pub overdue: bool,
    /// How many pods were looked at.
    pub pods: usize,
    /// When to look again; `None` when every pod has taken it in.
    pub next: Option<Timestamp>,
}

impl Distribution {
    /// Of a content that so many pods, which is all, are known to have taken in.
    pub fn settled(word: String, pods: usize) -> Self {
        Self { word, pods, ..Self::default() }
    }

    /// Whether every pod has taken it in.
    pub fn is_settled(&self) -> bool {
        self.untold.is_empty() && self.silent.is_empty() && self.behind.is_empty()
    }
}

/// How far what is in the cluster has come. A pod agrees when it was told, accepts whatever is listed and nothing that was
/// listed before: what else it accepts has another source, such as a delegate (adr/0038).
pub fn distribution(book: &HashBook, readers: &[Reader], at: Timestamp, kubelet_sync: u32) -> Distribution {
    let mut there = Distribution { word: book.word.clone(), pods: readers.len(), ..Distribution::default() };
    for reader in readers {
        let knows = reader.knows(book);
        if !knows {
            there.untold.push(reader.pod.clone());
        }
        match &reader.accepts {
            Some(ids) if !knows || !agrees(book, ids) => there.behind.push(reader.pod.clone()),
            None if reader.runs && !reader.is_younger(book) => there.silent.push(reader.pod.clone()),
            Some(_) | None => {}
        }
    }
    let waited = book.written_at.map_or(0, |since| seconds(since, at));
    there.overdue = !there.behind.is_empty() && waited >= i64::from(kubelet_sync);
    let least = if there.silent.is_empty() { SOON } else { LATER };
    there.next = (!there.is_settled()).then(|| at.plus_seconds(pause(waited, least)));
    there
}

fn agrees(book: &HashBook, ids: &BTreeSet<TokenId>) -> bool {
    let lists = |id: &TokenId| book.entries.iter().any(|(_, hash)| hash.id() == *id);
    book.entries.iter().all(|(_, hash)| ids.contains(&hash.id()))
        && book.ended.iter().all(|(_, id)| lists(id) || !ids.contains(id))
}

#[cfg(test)]
mod tests {
    use jam_domain::token::TokenHash;

    use super::*;
    use crate::fixtures::at;

    fn hash(token: &str) -> TokenHash {
        TokenHash::of(token)
    }

    fn book() -> HashBook {
        HashBook {
            entries: vec![("demo".into(), hash("new"))],
            word: "now".into(),
            ended: vec![("demo".into(), hash("old").id())],
            written_at: Some(at(100)),
            ..HashBook::default()
        }
    }

    fn reader(pod: &str, accepts: Option<&[&str]>, told: Option<&str>, begun: i64) -> Reader {
        let accepts = accepts.map(|all| all.iter().map(|token| hash(token).id()).collect());
        Reader { pod: pod.into(), accepts, told: told.map(str::to_owned), begun: Some(at(begun)), runs: true }
    }

    #[test]
    fn every_pod_that_has_read_before_is_told_once_of_each_content_whatever_it_accepts() {
        let pods = [
            reader("was-told", Some(&["new"]), Some("now"), 1),
            reader("accepts-the-same-ids", Some(&["new"]), None, 1),
            reader("was-told-of-another", Some(&["old"]), Some("then"), 1),
            reader("says-nothing", None, None, 1),
            reader("was-made-after-it", None, None, 100),
            reader("has-read-it-in-its-first-second", Some(&["new"]), None, 100),
            reader("has-read-another-in-that-second", Some(&["old"]), None, 100),
            reader("was-made-later", Some(&["old"]), None, 101),
        ];
        let there = distribution(&book(), &pods, at(101), 10);
        let another = "has-read-another-in-that-second";
        assert_eq!(there.untold, ["accepts-the-same-ids", "was-told-of-another", "says-nothing", another]);
        assert_eq!(there.behind, ["accepts-the-same-ids", "was-told-of-another", another, "was-made-later"]);
        assert_eq!(there.silent, ["says-nothing"]);
        assert_eq!(there.next, Some(at(106)), "soon");
    }

    #[test]
    fn a_pod_agrees_that_accepts_what_is_listed_and_nothing_that_ended() {
        let of = |accepts: &[&str]| {
            let there = distribution(&book(), &[reader("pod", Some(accepts), Some("now"), 1)], at(105), 10);
            assert_eq!(there.next.is_none(), there.is_settled());
            there.is_settled()
        };
        assert!(of(&["new"]) && of(&["new", "a-delegate"]), "a delegate is in no file");
        assert!(!of(&[]) && !of(&["new", "old"]) && !of(&["old"]));
        let late = distribution(&book(), &[reader("pod", Some(&["old"]), Some("now"), 1)], at(110), 10);
        assert!(late.overdue && late.untold.is_empty(), "told once, then named");
    }

    #[test]
    fn a_pod_in_which_no_server_runs_is_told_and_holds_nothing_up_when_it_was() {
        let resting = |told| Reader { runs: false, ..reader("pod", None, told, 1) };
        assert_eq!(distribution(&book(), &[resting(None)], at(101), 10).untold, ["pod"]);
        assert!(distribution(&book(), &[resting(Some("now"))], at(101), 10).is_settled());
    }
}
