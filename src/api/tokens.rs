//! The tokens in force: from the settings and the token file, which is watched and read again without a restart.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jam_domain::control::{Delegate, Listed};
use jam_domain::token::{TokenBook, TokenEntry, TokenHash};
use tokio_util::sync::CancellationToken;

use super::settings::Wiring;

/// How often the file is looked at: well within the 2 s that the contract gives.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The tokens in force.
pub struct Tokens {
    fixed: Vec<TokenEntry>,
    left_out: Vec<TokenHash>,
    file: Option<PathBuf>,
    /// The setting that names the file.
    key: &'static str,
    parts: Mutex<Parts>,
    current: RwLock<Arc<TokenBook>>,
}

/// What changes while the program runs.
#[derive(Default)]
struct Parts {
    /// The file as it was when its entries came into force.
    text: Option<String>,
    /// The entries of the file.
    listed: Vec<TokenEntry>,
    /// The delegates that administrators made.
    delegates: Vec<Delegate>,
}

impl Tokens {
    /// Reads the wiring and its token file; refuses with a sentence.
    pub fn open(wiring: &Wiring) -> Result<Self, String> {
        let hashes = |secrets: &[super::settings::Secret]| -> Vec<TokenEntry> {
            let mut entries: Vec<TokenEntry> = secrets.iter().map(|s| TokenEntry::of_plain(s.reveal())).collect();
            entries.sort_by_key(|entry| entry.sha256);
            entries.dedup_by_key(|entry| entry.sha256);
            entries
        };
        let (allowed, global) = (hashes(&wiring.allowed_tokens), hashes(&wiring.api_tokens));
        // The global tokens count only where no allowlist says which of them may come in.
        let (fixed, left_out) = if allowed.is_empty() {
            (global, Vec::new())
        } else {
            let left_out = global.iter().map(|e| e.sha256).filter(|hash| !allowed.iter().any(|e| e.sha256 == *hash));
            let left_out = left_out.collect();
            (allowed, left_out)
        };
        Self::of(fixed, left_out, wiring.tokens_file.clone(), "tokens_file")
    }

    /// The tokens of administrators; `None` when no file names any.
    pub fn open_admin(wiring: &Wiring) -> Result<Option<Self>, String> {
        let file = wiring.admin_tokens_file.clone();
        file.map(|file| Self::of(Vec::new(), Vec::new(), Some(file), "admin_tokens_file")).transpose()
    }

    fn of(
        fixed: Vec<TokenEntry>,
        left_out: Vec<TokenHash>,
        file: Option<PathBuf>,
        key: &'static str,
    ) -> Result<Self, String> {
        let tokens = Self { fixed, left_out, file, key, parts: Mutex::default(), current: RwLock::default() };
        let text = tokens.file.as_deref().map(read).transpose().map_err(|problem| format!("{key}: {problem}"))?;
        tokens.replace(text.as_deref().unwrap_or_default()).map_err(|problem| format!("{key}: {problem}"))?;
        Ok(tokens)
    }

    /// The tokens in force now.
    pub fn book(&self) -> Arc<TokenBook> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts the entries of this file into force; keeps the ones before when they can't be used.
    fn replace(&self, text: &str) -> Result<usize, String> {
        let listed = entries_of(text)?.unwrap_or_default();
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let book = self.book_of(&listed, &parts.delegates)?;
        (parts.listed, parts.text) = (listed, Some(text.to_owned()));
        Ok(self.enforce(book))
    }

    /// The same with what the file says by now. One that says nothing is no list of nobody, which is `[]`: somebody writes it in
    /// place, and would lock everybody out until the next look.
    fn reload(&self, text: &str) -> Result<usize, String> {
        let is_in_force = self.parts.lock().unwrap_or_else(PoisonError::into_inner).text.as_deref() == Some(text);
        if entries_of(text)?.is_none() && !is_in_force {
            return Err(
                "it says nothing, like a file that is being written; write [] where no token is to be accepted".into(),
            );
        }
        self.replace(text)
    }

    /// Puts these delegates into force.
    pub fn delegate(&self, delegates: Vec<Delegate>) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if parts.delegates == delegates {
            return;
        }
        match self.book_of(&parts.listed, &delegates) {
            Ok(book) => {
                self.enforce(book);
                parts.delegates = delegates;
            }
            // The entries are those that are in force: they agreed with each other before.
            Err(error) => tracing::error!(error, "the delegates can't be put into force"),
        }
    }

    /// How a token is listed: in the settings or in the file, also one that has ended or not begun.
    pub fn listed(&self, hash: TokenHash) -> Option<Listed> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = parts.listed.iter().chain(&self.fixed);
        all.find(|entry| entry.sha256 == hash).map(|entry| Listed { name: entry.name.clone() })
    }

    fn book_of(&self, listed: &[TokenEntry], delegates: &[Delegate]) -> Result<TokenBook, String> {
        let mut entries = self.fixed.clone();
        entries.retain(|fixed| !listed.iter().any(|entry| entry.sha256 == fixed.sha256));
        entries.extend_from_slice(listed);
        let book = TokenBook::new(entries).map_err(|e| e.to_string())?;
        Ok(book.leaving_out(self.left_out.clone()).with_delegates(delegates))
    }

    fn enforce(&self, book: TokenBook) -> usize {
        let count = book.len();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(book);
        count
    }

    /// Looks at the file until the program stops. A file that can't be read keeps the last good one in force.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let Some(file) = self.file.clone() else { return };
        // From what is in force, not from what is there by now: the file may have changed since the start.
        let text = self.parts.lock().unwrap_or_else(PoisonError::into_inner).text.clone();
        let (mut seen, mut complaint) = (text, None);
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            // Compared by content: Kubernetes projects a Secret by swapping a link, which keeps times and inodes as it likes.
            let text = match read_quietly(&file).await {
                Ok(text) if seen.as_ref() == Some(&text) && complaint.is_none() => continue,
                Ok(text) => text,
                Err(problem) => {
                    complain(self.key, &mut complaint, problem);
                    continue;
                }
            };
            match self.reload(&text) {
                Ok(count) if seen.as_ref() != Some(&text) => {
                    tracing::info!(file = self.key, tokens = count, "token file read again");
                }
                Ok(_) => {}
                Err(problem) => {
                    complain(self.key, &mut complaint, problem);
                    continue;
                }
            }
            (seen, complaint) = (Some(text), None);
        }
    }
}

/// Logs a problem once, not at every look.
fn complain(file: &str, last: &mut Option<String>, problem: String) {
    if last.as_ref() != Some(&problem) {
        tracing::error!(file, error = problem, "the token file can't be used; the last good one stays in force");
        *last = Some(problem);
    }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("can't read {}: {e}", path.display()))
}

async fn read_quietly(path: &Path) -> Result<String, String> {
    tokio::fs::read_to_string(path).await.map_err(|e| format!("can't read {}: {e}", path.display()))
}

/// The entries of a file; none where it says nothing at all. A server that starts takes that for an empty list.
fn entries_of(text: &str) -> Result<Option<Vec<TokenEntry>>, String> {
    // JSON is YAML, so one reader does for both.
    super::settings::yaml(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(token: &str) -> String {
        let hash = TokenHash::of(token);
        serde_json::json!([{"id": hash.id(), "sha256": hash}]).to_string()
    }

    #[test]
    fn a_file_that_says_nothing_keeps_the_last_good_list_and_an_empty_list_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens.json");
        std::fs::write(&file, "").unwrap();
        let tokens = Tokens::of(Vec::new(), Vec::new(), Some(file), "tokens_file").unwrap();
        assert_eq!(tokens.reload(""), Ok(0), "it began with it, which is an empty list");
        let is_in = || tokens.listed(TokenHash::of("the-first")).is_some();
        for blank in ["", " \n\t\n", "# being written\n", "---\n"] {
            assert_eq!(tokens.reload(&lists("the-first")), Ok(1));
            let complaint = tokens.reload(blank).unwrap_err();
            assert!(complaint.contains("write []") && is_in(), "{blank:?}: {complaint}");
        }
        assert_eq!((tokens.reload("[]"), is_in()), (Ok(0), false));
    }

    #[tokio::test]
    async fn a_file_that_changes_between_the_start_and_the_first_look_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens.json");
        std::fs::write(&file, lists("the-first")).unwrap();
        let tokens = Arc::new(Tokens::of(Vec::new(), Vec::new(), Some(file.clone()), "tokens_file").unwrap());
        std::fs::write(&file, lists("the-second")).unwrap();
        let stop = CancellationToken::new();
        let watch = tokio::spawn(tokens.clone().watch(stop.clone()));
        let told = async {
            while tokens.listed(TokenHash::of("the-second")).is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), told).await.expect("it is read");
        assert_eq!(tokens.listed(TokenHash::of("the-first")), None);
        stop.cancel();
        watch.await.unwrap();
    }
}
