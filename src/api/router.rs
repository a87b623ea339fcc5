//! The walk of a request: mounted → method → token → scope → rate → size → body → handler → answer.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::http::header::HOST;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Request, Version};
use axum::response::Response;
use futures::FutureExt;
use hyper::body::Incoming;
use jam_domain::limit::Verdict;
use jam_domain::{Code, Refusal, Settings};
use opentelemetry::context::FutureExt as _;
use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use tokio::time::Instant;
use tracing::Instrument;

use super::action::{self, Action, Route, is_admin, is_jam};
use super::admit::Admitted;
use super::body::drain;
use super::fault::{Fault, Plane, not_found};
use super::state::Api;
use super::{admin, cors, events, openapi, packages, preimages, process, receipts, reports, spans, status, trace};

/// The route label of what leads nowhere.
const UNMATCHED: &str = "unmatched";

/// What the answer needs to be finished with.
#[derive(Default)]
struct Outcome {
    route: Option<&'static str>,
    verdict: Option<Verdict>,
    plane: Plane,
}

/// Answers one request of this peer. Never fails: every fault is an answer.
pub async fn answer(api: Arc<Api>, peer: IpAddr, request: Request<Incoming>) -> Response {
    let started = Instant::now();
    let (parts, mut body) = request.into_parts();
    let caller = trace::caller(&parts.headers);
    let span = api.pulse.spans.as_ref().and_then(|spans| spans.of_request(&parts, caller.as_ref()));
    let here = span.as_ref().map(|span| span.span().span_context().clone());
    let here = here.unwrap_or_else(|| trace::unrecorded(caller.as_ref()));
    let lines = tracing::info_span!("request", trace_id = %here.trace_id());
    let (mut outcome, settings) = (Outcome::default(), api.settings());
    let answered = async {
        let walk = AssertUnwindSafe(route(&api, &settings, (peer, &parts), &mut body, &mut outcome)).catch_unwind();
        // Nothing of ours should panic; should it, then one request has failed and not the connection or the process.
        let answered = walk.await.unwrap_or_else(|_| Err(Fault::Panicked));
        answered.inspect_err(|fault| log(fault, &parts, outcome.route))
    };
    // One future for both: with two of them every connection would hold room for both as long as it is open.
    let answered = answered.instrument(lines).with_context(span.clone().unwrap_or_default()).await;
    let mut response = answered.unwrap_or_else(|fault| fault.response(outcome.plane));
    // Refused, or of no use to the call: what is left of it would be taken for the next request, or end the connection.
    drain(body, &parts.headers);
    finish(&settings, &parts, &outcome, &here, &mut response);
    let route = outcome.route.unwrap_or(UNMATCHED);
    let status = response.status().as_u16();
    api.pulse.metrics.answered(route, &parts.method, status, started.elapsed());
    if let Some(span) = span {
        spans::answered(&span, status);
    }
    response
}

async fn route(
    api: &Api,
    settings: &Arc<Settings>,
    (peer, parts): (IpAddr, &Parts),
    body: &mut Incoming,
    outcome: &mut Outcome,
) -> Result<Response, Fault> {
    one_host(parts)?;
    let path = parts.uri.path();
    if !mounted(api, settings, path) {
        return Err(not_found("path").into());
    }
    if is_admin(path) {
        outcome.plane = Plane::Admin;
    }
    let (rule, segment) = match action::find(&parts.method, path) {
        Route::Found(rule, segment) => (rule, segment),
        Route::NoSuchPath => return Err(not_found("path").into()),
        Route::WrongMethod(path, allowed) => {
            outcome.route = Some(path);
            let preflight = cors::preflight(settings, &parts.method, &parts.headers, &allowed);
            return preflight.ok_or(Fault::Method(allowed));
        }
    };
    outcome.route = Some(rule.path);
    let admitted =
        api.gate.admit(settings, &api.pulse.metrics, rule, (parts, segment, peer), &mut outcome.verdict).await?;
    handle(api, rule.action, &admitted, body).await
}

async fn handle(api: &Api, action: Action, admitted: &Admitted<'_>, body: &mut Incoming) -> Result<Response, Fault> {
    match action {
        Action::Healthz => Ok(status::healthz()),
        Action::Readyz => Ok(status::readyz(api).await),
        Action::Version => Ok(status::version()),
        Action::SystemStatus => Ok(status::system(api, admitted).await),
        Action::OpenApi => Ok(openapi::served()),
        Action::Docs => Ok(openapi::docs()),
        Action::JamHealthz => Ok(status::jam_healthz(api).await),
        Action::JamStatus => status::jam(api, admitted).await,
        Action::PutPreimage => preimages::put(api, admitted, body).await,
        Action::HeadPreimage => preimages::head(api, admitted).await,
        Action::ReadPreimage => preimages::read(api, admitted).await,
        // Hyper leaves the body of an answer to HEAD out.
        Action::PreimageMeta | Action::HeadPreimageMeta => preimages::meta(api, admitted).await,
        Action::DeletePreimage => preimages::delete(api, admitted).await,
        Action::SubmitPackage => packages::submit(api, admitted, body).await,
        Action::ListPackages => packages::all(api, admitted).await,
        Action::ReadPackage => packages::read(api, admitted).await,
        Action::ReadReport => packages::report(api, admitted).await,
        Action::ListAttestations => packages::attestations(api, admitted).await,
        Action::AttestReport => reports::attest(api, admitted, body).await,
        Action::ListReports => reports::all(api, admitted).await,
        Action::Process => process::call(api, admitted).await,
        Action::ListReceipts => receipts::all(api, admitted).await,
        Action::ReadReceipt => receipts::read(api, admitted).await,
        Action::RestorePackage => admin::packages::restore(api, admitted).await,
        Action::RunCleanup => admin::cleanup::run(api, admitted).await,
        Action::CleanupStatus => admin::cleanup::status(api, admitted).await,
        Action::Audit => admin::audit(api, admitted).await,
        Action::ListBuckets => admin::limits::all(api, admitted).await,
        Action::ResetBucket => admin::limits::reset(api, admitted, body).await,
        Action::ListToggles => admin::toggles::all(api, admitted).await,
        Action::SetToggle => admin::toggles::set(api, admitted, body).await,
        Action::DeleteToggle => admin::toggles::delete(api, admitted).await,
        Action::ReadQuotas => admin::quotas::read(api, admitted).await,
        Action::SetQuotas => admin::quotas::set(api, admitted, body).await,
        Action::DeleteQuotas => admin::quotas::delete(api, admitted).await,
        Action::ListDelegates => admin::delegates::all(api, admitted).await,
        Action::AddDelegate => admin::delegates::add(api, admitted, body).await,
        Action::RemoveDelegate => admin::delegates::remove(api, admitted, body).await,
        Action::ReadDispute => admin::disputes::read(api, admitted).await,
        Action::AcceptReport => admin::disputes::accept(api, admitted, body).await,
        Action::RejectReports => admin::disputes::reject(api, admitted).await,
        Action::FollowEvents => events::follow(api, admitted).await,
    }
}

/// RFC 9112, 3.2: a request of HTTP/1.1 names its host, once.
fn one_host(parts: &Parts) -> Result<(), Refusal> {
    let named = parts.headers.get_all(HOST).iter().count();
    if named > 1 || (named == 0 && parts.version == Version::HTTP_11) {
        return Err(Refusal::new(Code::BadRequest, "the request must have one Host header"));
    }
    Ok(())
}

/// Whether there is such a path here at all: JAM may be off, and administrators may have no tokens. An override that turns
/// JAM off leaves them a way to turn it on again; the setting itself does not.
fn mounted(api: &Api, settings: &Settings, path: &str) -> bool {
    if is_admin(path) {
        return api.controls.own().enabled && api.gate.admins.is_some();
    }
    settings.enabled || !is_jam(path)
}

/// Faults of ours are logged here, once, with everything that the client is not told. Refusals of clients are logged where
/// the contract wants them (tokens, limits, quotas).
fn log(fault: &Fault, parts: &Parts, route: Option<&str>) {
    let (method, route) = (&parts.method, route.unwrap_or(UNMATCHED));
    match fault.code() {
        Code::Internal => tracing::error!(%method, route, error = %fault, "request failed"),
        Code::StoreUnavailable => tracing::warn!(%method, route, error = %fault, "store unavailable"),
        Code::BadRequest
        | Code::Validation
        | Code::AuthMissing
        | Code::AuthForbidden
        | Code::ServiceDenied
        | Code::NotFound
        | Code::MethodNotAllowed
        | Code::PendingLimit
        | Code::Conflict
        | Code::TooLarge
        | Code::UnsupportedMediaType
        | Code::EventsGone
        | Code::RateLimit => tracing::debug!(%method, route, error = %fault, "request refused"),
    }
}

fn finish(settings: &Settings, parts: &Parts, outcome: &Outcome, here: &SpanContext, response: &mut Response) {
    let headers = response.headers_mut();
    cors::mark(settings, &parts.headers, headers);
    if let Ok(id) = HeaderValue::try_from(here.trace_id().to_string()) {
        headers.insert("x-trace-id", id);
    }
    if let Some(span) = trace::header(here) {
        headers.insert(trace::TRACEPARENT, span);
    }
    if let Some(Verdict { bucket: _, limit, remaining, reset, retry_after: _ }) = outcome.verdict {
        headers.insert("ratelimit-limit", HeaderValue::from(limit));
        headers.insert("ratelimit-remaining", HeaderValue::from(remaining));
        headers.insert("ratelimit-reset", HeaderValue::from(reset));
    }
}
