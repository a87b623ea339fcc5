//! Refusals: every way the API says no, with its code, its HTTP status and words that say what to do next.

use std::fmt;

use serde_json::{Map, Value};

/// The code of a refusal; each belongs to one HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request can't be understood.
    BadRequest,
    /// A field of it is wrong; `details` names the field.
    Validation,
    /// No token that is accepted: none, an unknown or a retired one.
    AuthMissing,
    /// The token is known, but may not do this: it lacks the scope, or the allowlist leaves it out.
    AuthForbidden,
    /// The token may not touch this service.
    ServiceDenied,
    /// There is no such thing.
    NotFound,
    /// The path exists, not with this method.
    MethodNotAllowed,
    /// Too many packages are pending.
    PendingLimit,
    /// It contradicts what is stored.
    Conflict,
    /// The preimage, or the request, is too large.
    TooLarge,
    /// The media type is not allowed.
    UnsupportedMediaType,
    /// Events that a reader asks for are not kept any more.
    EventsGone,
    /// Too many requests.
    RateLimit,
    /// A fault of the server.
    Internal,
    /// The store does not answer.
    StoreUnavailable,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 15] = [
        Self::BadRequest,
        Self::Validation,
        Self::AuthMissing,
        Self::AuthForbidden,
        Self::ServiceDenied,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::PendingLimit,
        Self::Conflict,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::EventsGone,
        Self::RateLimit,
        Self::Internal,
        Self::StoreUnavailable,
    ];

    /// The word in the answer's `code`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "jam_bad_request",
            Self::Validation => "jam_validation_error",
            Self::AuthMissing => "jam_auth_missing",
            Self::AuthForbidden => "jam_auth_forbidden",
            Self::ServiceDenied => "jam_authz_service_denied",
            Self::NotFound => "jam_not_found",
            Self::MethodNotAllowed => "jam_method_not_allowed",
            Self::PendingLimit => "jam_pending_limit",
            Self::Conflict => "jam_conflict",
            Self::TooLarge => "jam_preimage_too_large",
            Self::UnsupportedMediaType => "jam_unsupported_media_type",
            Self::EventsGone => "jam_events_gone",
            Self::RateLimit => "jam_rate_limit",
            Self::Internal => "jam_internal",
            Self::StoreUnavailable => "jam_store_unavailable",
        }
    }

    /// The word in answers of `/jam/admin/*`: what goes wrong there has a code of its own, so that nobody takes it for a
    /// refusal of JAM.
    pub fn admin_str(self) -> &'static str {
        match self {
            Self::BadRequest => "jam_admin_bad_request",
            Self::Validation => "jam_admin_validation_error",
            Self::AuthMissing => "jam_admin_auth_missing",
            Self::AuthForbidden => "jam_admin_forbidden",
            Self::ServiceDenied => "jam_admin_service_denied",
            Self::NotFound => "jam_admin_not_found",
            Self::MethodNotAllowed => "jam_admin_method_not_allowed",
            Self::PendingLimit => "jam_admin_pending_limit",
            Self::Conflict => "jam_admin_conflict",
            Self::TooLarge => "jam_admin_body_too_large",
            Self::UnsupportedMediaType => "jam_admin_unsupported_media_type",
            Self::EventsGone => "jam_admin_events_gone",
            Self::RateLimit => "jam_admin_rate_limit",
            Self::Internal => "jam_admin_internal",
            Self::StoreUnavailable => "jam_admin_store_unavailable",
        }
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest | Self::Validation => 400,
            Self::AuthMissing => 401,
            Self::AuthForbidden | Self::ServiceDenied => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::PendingLimit | Self::Conflict => 409,
            Self::EventsGone => 410,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::RateLimit => 429,
            Self::Internal => 500,
            Self::StoreUnavailable => 503,
        }
    }
}

/// One refusal: what is wrong, where, and the next thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code, which decides the HTTP status.
    pub code: Code,
    /// For people.
    pub message: String,
    /// Whole seconds after which a retry makes sense, at least 1.
    pub retry_after: Option<u32>,
    /// For programs, e.g. `{"field": "items[0].kind"}`.
    pub details: Option<Value>,
}

impl Refusal {
    /// A refusal without further details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None, details: None }
    }

    /// A field of the request is wrong.
    pub fn field(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        let field = field.into();
        let mut details = Map::new();
        details.insert("field".into(), Value::String(field.clone()));
        Self {
            code: Code::Validation,
            message: format!("{field}: {problem}"),
            retry_after: None,
            details: Some(Value::Object(details)),
        }
    }

    /// The same refusal, worth trying again after so many seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds.max(1));
        self
    }

    /// The same refusal with details for programs.
    #[must_use]
    pub fn details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code.as_str())
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_all_different() {
        let words: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        let admin: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.admin_str()).collect();
        assert_eq!(admin.len(), Code::ALL.len());
        assert!(admin.iter().all(|word| word.starts_with("jam_admin_")));
    }

    #[test]
    fn a_retry_is_never_promised_in_less_than_a_second() {
        assert_eq!(Refusal::new(Code::RateLimit, "slow down").retry_after(0).retry_after, Some(1));
    }
}
