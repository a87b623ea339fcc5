//! CORS: origins of the allowlist are echoed exactly; nothing else is ever echoed.

use axum::body::Body;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use jam_domain::Settings;

const REQUEST_HEADERS: &str =
    "Authorization, Content-Type, Idempotency-Key, If-None-Match, If-Range, Last-Event-ID, Range, Traceparent";
const ANSWER_HEADERS: &str = "ETag, Location, Content-Range, Idempotency-Replayed, Retry-After, RateLimit-Limit, \
                              RateLimit-Remaining, RateLimit-Reset, X-Preimage-Hash, X-Preimage-Size, X-Preimage-Media-Type, Traceparent, X-Trace-Id, \
                              Accept-Ranges, Allow, WWW-Authenticate, X-Accel-Buffering";

/// The request's origin, when it is one of the allowlist.
fn allowed<'a>(settings: &Settings, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    settings.allowed_origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()).then_some(origin)
}

/// The answer to a browser that asks before it calls; `None` when this is no such question of an allowed origin.
pub fn preflight(settings: &Settings, method: &Method, headers: &HeaderMap, methods: &[Method]) -> Option<Response> {
    if *method != Method::OPTIONS || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    allowed(settings, headers)?;
    let methods: Vec<_> = methods.iter().map(Method::as_str).collect();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let out = response.headers_mut();
    out.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_str(&methods.join(", ")).ok()?);
    out.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_HEADERS));
    out.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    Some(response)
}

/// Tells a browser of an allowed origin that it may read the answer.
pub fn mark(settings: &Settings, request: &HeaderMap, answer: &mut HeaderMap) {
    if settings.allowed_origins.is_empty() {
        return;
    }
    answer.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = allowed(settings, request) {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(ANSWER_HEADERS));
    }
}
