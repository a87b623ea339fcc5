//! Everything that can go wrong with a request, by cause, and the answer that a client gets for it.

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use jam_domain::{Code, Refusal};
use jam_store::{PutError, StoreError, SubmitError};
use serde_json::json;

use super::shapes::Problem;

/// Seconds after which a client may ask a store again that did not answer.
pub const STORE_RETRY: u32 = 2;

/// Which codes an answer speaks in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Plane {
    /// `jam_…`
    #[default]
    Jam,
    /// `jam_admin_…`
    Admin,
}

impl Plane {
    /// The word of this code here.
    pub fn word(self, code: Code) -> &'static str {
        match self {
            Self::Jam => code.as_str(),
            Self::Admin => code.admin_str(),
        }
    }
}

/// Why a request is not answered as it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The client gets exactly this.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The method is not one of the path's.
    #[error("method not allowed")]
    Method(Vec<Method>),
    /// Code of ours panicked.
    #[error("the handler panicked")]
    Panicked,
    /// The store failed; the client learns only that.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<PutError> for Fault {
    fn from(error: PutError) -> Self {
        match error {
            PutError::Refused(refusal) => Self::Refused(refusal),
            PutError::Store(error) => Self::Store(error),
        }
    }
}

impl From<SubmitError> for Fault {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::PendingLimit { cap, service } => {
                let of = service.map_or_else(String::new, |service| format!(" of service {service}"));
                let message = format!("{cap} packages{of} are pending already: process some, then try again");
                Refusal::new(Code::PendingLimit, message).details(json!({"limit": cap})).into()
            }
            SubmitError::Conflict { what } => {
                Refusal::new(Code::Conflict, format!("this {what} was used for a different package")).into()
            }
            SubmitError::Expired(expiry) => Refusal::field("expiry", format!("{expiry} has passed")).into(),
            SubmitError::UnknownPreimage { hash, field } => {
                let details = json!({"field": field, "hash": hash});
                let problem = format!("preimage {hash} is not stored: upload it first");
                Refusal::field(&field, problem).details(details).into()
            }
            SubmitError::Store(error) => Self::Store(error),
        }
    }
}

impl Fault {
    /// The code that the client reads.
    pub fn code(&self) -> Code {
        match self {
            Self::Refused(refusal) => refusal.code,
            Self::Method(_) => Code::MethodNotAllowed,
            Self::Store(StoreError::Unavailable(_) | StoreError::Stopped(_) | StoreError::Schema { .. }) => {
                Code::StoreUnavailable
            }
            Self::Panicked | Self::Store(StoreError::Fault(_) | StoreError::Unread(..)) => Code::Internal,
        }
    }

    /// What the client is told. Nothing from inside: a failing store is named, not described.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal.clone(),
            Self::Method(allowed) => {
                let allowed: Vec<_> = allowed.iter().map(Method::as_str).collect();
                Refusal::new(Code::MethodNotAllowed, format!("this path takes {}", allowed.join(", ")))
            }
            Self::Store(StoreError::Unavailable(_) | StoreError::Stopped(_) | StoreError::Schema { .. }) => {
                Refusal::new(Code::StoreUnavailable, "the store does not answer: try again").retry_after(STORE_RETRY)
            }
            Self::Store(StoreError::Unread(_, place)) => {
                let message = "the server can't read the next item of this list; the fault is logged. Behind it the list goes on: \
                     pass the cursor of the details, or an offset that is one higher";
                Refusal::new(Code::Internal, message).details(json!({"next_cursor": place.to_string()}))
            }
            Self::Panicked | Self::Store(StoreError::Fault(_)) => {
                Refusal::new(Code::Internal, "the server failed; the fault is logged")
            }
        }
    }

    /// The answer.
    pub fn response(&self, plane: Plane) -> Response {
        let mut response = refused(&self.refusal(), plane);
        if let Self::Method(allowed) = self {
            let allowed: Vec<_> = allowed.iter().map(Method::as_str).collect();
            if let Ok(value) = HeaderValue::from_str(&allowed.join(", ")) {
                response.headers_mut().insert(ALLOW, value);
            }
        }
        response
    }
}

/// There is no such path, or nothing of that name.
pub fn not_found(what: &str) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is no such {what}"))
}

/// The answer to a refusal, in the one shape of every error.
pub fn refused(refusal: &Refusal, plane: Plane) -> Response {
    let status = StatusCode::from_u16(refusal.code.status()).expect("codes have statuses between 400 and 503");
    let mut response = json_response(status, &Problem::of(refusal, plane));
    if let Some(seconds) = refusal.retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    if refusal.code == Code::AuthMissing {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// A JSON answer.
pub fn json_response<T: serde::Serialize>(status: StatusCode, value: &T) -> Response {
    let mut response = json_answer(Body::from(encoded(value)));
    *response.status_mut() = status;
    response
}

/// A value as JSON.
pub fn encoded<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("records have string keys and finite numbers")
}

/// An answer with status 200 whose body is JSON.
pub fn json_answer(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A JSON answer with status 200.
pub fn ok<T: serde::Serialize>(value: &T) -> Response {
    json_response(StatusCode::OK, value)
}
