//! How a pod ended, and what it said last, where that may be repeated.

use jam_domain::Timestamp;

/// How the container of a pod ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastWords {
    /// Its exit code.
    pub exit_code: Option<i32>,
    /// Its termination message.
    pub text: Option<String>,
    /// Why that is not to be repeated, where it is not.
    pub silence: Option<String>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

impl LastWords {
    /// What may be told: the words, or why they are left out.
    pub fn told(&self) -> Option<String> {
        match &self.silence {
            Some(why) => Some(left_out(self.exit_code, why)),
            None => self.text.clone(),
        }
    }
}

/// Letters of last words that status keeps.
const KEPT: usize = 2048;

/// As much of last words as status keeps: the end says what went wrong, the beginning what was tried.
pub(crate) fn end_of(words: &str) -> String {
    words.chars().skip(words.chars().count().saturating_sub(KEPT)).collect()
}

/// What is told instead of the words of a pod.
pub fn left_out(exit_code: Option<i32>, why: &str) -> String {
    let ended = exit_code.map(|code| format!("exit code {code}; ")).unwrap_or_default();
    format!("{ended}what it said is left out: {why}")
}
