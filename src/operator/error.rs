//! Why a reconcile did not reach its end, by cause. A refused resource is no error: it is an ending.

use std::time::Duration;

use super::client::NotLeading;

/// Why a reconcile did not reach its end. It is tried again, each instance at its own pace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be read.
    #[error("{what} cannot be read")]
    Read {
        /// Kind and name.
        what: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// Something could not be written.
    #[error("{what} cannot be written")]
    Write {
        /// Kind and name.
        what: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// Objects of wanted names are on their way out; everything else was done.
    #[error("still being deleted, to be made again after that: {what}")]
    Leaving {
        /// Each object and what it waits for.
        what: String,
    },
    /// Secrets of consumers could not be written; everything else was done.
    #[error("{what}")]
    Held {
        /// Each consumer and what the API server said.
        what: String,
    },
    /// The whole took too long.
    #[error("it took longer than {0:?}")]
    Slow(Duration),
    /// The operating system gave no random numbers.
    #[error("no random numbers: {0}")]
    NoRandom(String),
}

impl Error {
    /// A read that failed.
    pub fn read(what: impl ToString) -> impl FnOnce(kube::Error) -> Self {
        move |source| Error::Read { what: what.to_string(), source }
    }

    /// A write that failed.
    pub fn write(what: impl ToString) -> impl FnOnce(kube::Error) -> Self {
        move |source| Error::Write { what: what.to_string(), source }
    }

    /// The cause as a word, for metrics and logs: a bounded set.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Read { source, .. } | Error::Write { source, .. } => code_of(source),
            Error::Leaving { .. } => "leaving",
            Error::Held { .. } => "held",
            Error::Slow(_) => "slow",
            Error::NoRandom(_) => "no_random",
        }
    }

    /// What the API server has against the very object that was to be written.
    pub fn objection(&self) -> Option<String> {
        match self {
            Error::Write { source, .. } => objection(source),
            Error::Read { .. } | Error::Leaving { .. } | Error::Held { .. } | Error::Slow(_) | Error::NoRandom(_) => {
                None
            }
        }
    }

    /// When it is tried again.
    pub fn retry(&self) -> Retry {
        match self {
            Error::Read { source, .. } | Error::Write { source, .. } if status_of(source) == Some(409) => Retry::Soon,
            // Its end is reported by the watch; the pause is for what never ends, such as a finalizer that nobody serves.
            Error::Leaving { .. }
            | Error::Held { .. }
            | Error::Read { .. }
            | Error::Write { .. }
            | Error::Slow(_)
            | Error::NoRandom(_) => Retry::Backoff,
        }
    }

    /// Whether the instance itself is no longer there: there is nobody to tell.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Write { source, .. } | Error::Read { source, .. } if status_of(source) == Some(404))
    }
}

/// What the API server has against this very object, where it is not the server or the time that is wrong: a quota, an admission.
pub fn objection(error: &kube::Error) -> Option<String> {
    match error {
        kube::Error::Api(status)
            if matches!(status.code, 400 | 403 | 422) || (status.code == 500 && status.message.contains("webhook")) =>
        {
            Some(status.message.clone())
        }
        _ => None,
    }
}

/// When something that failed is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// In a second or two: somebody else was faster.
    Soon,
    /// After a pause that grows with each failure.
    Backoff,
}

fn status_of(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

fn code_of(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) => match status.code {
            403 => "api_forbidden",
            404 => "api_not_found",
            409 => "api_conflict",
            429 => "api_throttled",
            400..=499 => "api_refused",
            _ => "api_failed",
        },
        kube::Error::Service(cause) if cause.is::<NotLeading>() => "not_leading",
        kube::Error::Service(cause) if cause.is::<tower::timeout::error::Elapsed>() => "api_timeout",
        kube::Error::SerdeError(_) => "api_unreadable",
        _ => "api_unreachable",
    }
}
