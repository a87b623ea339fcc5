//! Why a command did not do what was asked: by cause, each with its code and its exit code.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use jam_domain::ServiceId;
use reqwest::StatusCode;
use serde_json::Value;

use crate::cli::outage::Class;
use crate::table::plain_line;

/// A command that failed.
#[derive(Debug)]
pub enum Fault {
    /// The command line asks for something that can't be.
    Usage(String),
    /// A local file can't be read or written.
    File {
        /// `read` or `write`.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The server said no.
    Refused(Refused),
    /// No answer came.
    Unreachable {
        /// The kind of outage.
        class: Class,
        /// Where the server should be.
        addr: String,
        /// What the network said.
        detail: String,
    },
    /// The answer is not one that a JAM API gives.
    Answer {
        /// What was asked.
        call: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// The bytes of a preimage are not the ones that its hash names.
    Corrupt(String),
    /// A receipt chain does not hold.
    Chain {
        /// Whose chain.
        service: ServiceId,
        /// Where and how it breaks.
        problem: String,
    },
    /// Some of the doctor's checks failed.
    Unwell {
        /// The class of the first one.
        class: Class,
        /// What to say.
        summary: String,
    },
    /// The result can't be printed.
    Output(io::Error),
}

/// The server's refusal, as its body says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// `jam_…`, or `http_NNN` when the body names none.
    pub code: String,
    /// For people.
    pub message: String,
    /// Seconds after which a retry makes sense.
    pub retry_after: Option<u64>,
    /// For programs.
    pub details: Option<Value>,
}

impl Fault {
    /// A local file can't be read.
    pub fn reading(path: &Path, cause: io::Error) -> Self {
        Self::File { doing: "read", path: path.to_owned(), cause }
    }

    /// A local file can't be written.
    pub fn writing(path: &Path, cause: io::Error) -> Self {
        Self::File { doing: "write", path: path.to_owned(), cause }
    }

    /// Something that the server does not have, said in our words.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::said(jam_domain::Code::NotFound, message.into())
    }

    /// Something at which the server failed, said in our words.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::said(jam_domain::Code::Internal, message.into())
    }

    fn said(code: jam_domain::Code, message: String) -> Self {
        let (status, code) = (code.status(), code.as_str().into());
        Self::Refused(Refused { status, code, message, retry_after: None, details: None })
    }

    /// Whether the server failed, as it does at a stored value that it can't read.
    pub fn is_internal(&self) -> bool {
        matches!(self, Self::Refused(refused) if refused.code == jam_domain::Code::Internal.as_str())
    }

    /// The word in parentheses.
    pub fn code(&self) -> &str {
        match self {
            Self::Usage(_) => "usage",
            Self::File { .. } => "file",
            Self::Refused(refused) => &refused.code,
            Self::Unreachable { class, .. } | Self::Unwell { class, .. } => class.as_str(),
            Self::Answer { .. } => "unexpected_answer",
            Self::Corrupt(_) => "hash_mismatch",
            Self::Chain { .. } => "chain_broken",
            Self::Output(_) => "output",
        }
    }

    /// The exit code: 1 refused, 2 usage, 3 not found, 4 unreachable.
    pub fn exit(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::File { .. } => 2,
            Self::Refused(refused) if refused.status == 404 => 3,
            Self::Unreachable { .. } => 4,
            Self::Unwell { class, .. } => class.exit(),
            Self::Refused(_) | Self::Answer { .. } | Self::Corrupt(_) | Self::Chain { .. } | Self::Output(_) => 1,
        }
    }

    /// `error (code)`, in one line whatever the server wrote.
    pub fn line(&self) -> String {
        plain_line(&format!("{self} ({})", self.code()))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(problem) | Self::Corrupt(problem) => f.write_str(problem),
            Self::File { doing, path, cause } => write!(f, "cannot {doing} {}: {cause}", path.display()),
            Self::Refused(refused) => f.write_str(&refused.advised()),
            Self::Unreachable { class, addr, detail } => {
                write!(f, "{addr} {}: {detail}; {}", class.says(), class.next())
            }
            Self::Answer { call, problem } => {
                write!(f, "{call}: {problem}; does --addr or SERVICE_LAYER_ADDR name a JAM API?")
            }
            Self::Chain { service, problem } => write!(f, "the chain of service {service} is broken: {problem}"),
            Self::Unwell { class: _, summary } => f.write_str(summary),
            Self::Output(cause) => write!(f, "cannot write the result: {cause}"),
        }
    }
}

impl Refused {
    /// The refusal in an answer. A body that is not ours (a proxy's page) is not shown, only the status.
    pub fn of(status: StatusCode, header_retry_after: Option<u64>, body: &[u8], call: &str) -> Self {
        let fields: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let text = |key: &str| fields.get(key).and_then(Value::as_str).map(str::to_owned);
        let code = text("code").unwrap_or_else(|| format!("http_{}", status.as_u16()));
        let message = text("error").unwrap_or_else(|| format!("{call}: the server answered {status}"));
        let retry_after = header_retry_after.or_else(|| fields.get("retry_after").and_then(Value::as_u64));
        let details = fields.get("details").cloned();
        Self { status: status.as_u16(), code, message, retry_after, details }
    }

    /// What the server said, and what to do when it did not say that itself.
    fn advised(&self) -> String {
        let Self { status, code, message, retry_after, details: _ } = self;
        match (status, retry_after) {
            (401, _) if code.starts_with("jam_admin_") => {
                format!("{message}; set --admin-token to a token of an administrator")
            }
            (401, _) => format!("{message}; set --token, --token-file or SERVICE_LAYER_TOKEN"),
            (429 | 503, Some(_)) if message.contains("try again in ") => message.clone(),
            (429 | 503, Some(seconds)) if message.ends_with("try again") => format!("{message} in {seconds} s"),
            (429 | 503, Some(seconds)) => format!("{message}; try again in {seconds} s"),
            _ => message.clone(),
        }
    }

    /// Whether the body named no code, as no answer of ours does.
    pub fn is_foreign(&self) -> bool {
        self.code.starts_with("http_")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_one_line_whatever_the_server_wrote() {
        let body = br#"{"error":"no\nsuch\u001b[31m thing","code":"jam_not_found"}"#;
        let fault = Fault::Refused(Refused::of(StatusCode::NOT_FOUND, None, body, "GET /x"));
        assert_eq!(fault.line(), "no such [31m thing (jam_not_found)");
        assert_eq!(fault.exit(), 3);
    }

    #[test]
    fn when_to_try_again_is_said_once() {
        let line = |said: &str| {
            let body = serde_json::json!({"error": said, "code": "c", "retry_after": 2}).to_string();
            Fault::Refused(Refused::of(StatusCode::SERVICE_UNAVAILABLE, None, body.as_bytes(), "GET /x")).to_string()
        };
        assert_eq!(line("no answer: try again"), "no answer: try again in 2 s");
        assert_eq!(line("too many: try again in 2 s"), "too many: try again in 2 s");
        assert_eq!(line("no answer"), "no answer; try again in 2 s");
    }

    #[test]
    fn a_page_of_a_proxy_is_named_by_its_status() {
        let refused = Refused::of(StatusCode::BAD_GATEWAY, Some(3), b"<html>", "GET /x");
        assert_eq!((refused.code.as_str(), refused.retry_after), ("http_502", Some(3)));
        assert_eq!(Fault::Refused(refused).line(), "GET /x: the server answered 502 Bad Gateway (http_502)");
    }
}
