//! The spans of the contract: which action has one, what it says, and the steps of processing below it.
//!
//! A span says only what is written here: no log line, no body and no header finds its way into one by itself.

use std::fmt;

use axum::http::request::Parts;
use jam_domain::receipt::Chain;
use jam_domain::refine::{Accumulator, Attestor, Engine, RefineFault, Refined, Refiner};
use jam_domain::{Attestation, PackageId, PreimageHash, Receipt, StoreKind, Timestamp, WorkPackage, WorkReport};
use opentelemetry::trace::{Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;

use super::action::{self, Action, Route};

/// The span of a batch of packages.
pub const PROCESS: &str = "jam.process";
/// How many packages a batch took.
pub const PACKAGES: &str = "jam.packages";

/// Where spans are begun, when they are exported at all.
#[derive(Clone)]
pub struct Spans {
    tracer: SdkTracer,
    store: &'static str,
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans").finish_non_exhaustive()
    }
}

impl Spans {
    /// Spans of a process on this store.
    pub fn new(tracer: SdkTracer, store: StoreKind) -> Self {
        Self { tracer, store: super::state::store_name(store) }
    }

    /// Begins the span of a request, below the caller's when it sent one; `None` when its action has none.
    pub fn of_request(&self, parts: &Parts, caller: Option<&SpanContext>) -> Option<Context> {
        let Route::Found(rule, segment) = action::find(&parts.method, parts.uri.path()) else { return None };
        let name = name_of(rule.action)?;
        let mut attributes = vec![
            KeyValue::new("http.request.method", rule.method.as_str()),
            KeyValue::new("http.route", rule.path),
            KeyValue::new("jam.store", self.store),
        ];
        attributes.extend(about(rule.action, segment));
        let builder = self.tracer.span_builder(name).with_kind(SpanKind::Server).with_attributes(attributes);
        let around = caller.map_or_else(Context::new, |caller| Context::new().with_remote_span_context(caller.clone()));
        Some(around.with_span(builder.start_with_context(&self.tracer, &around)))
    }

    /// Begins the span of a batch that nobody asked for.
    pub fn of_batch(&self) -> Context {
        let attributes = [KeyValue::new("jam.store", self.store)];
        let builder = self.tracer.span_builder(PROCESS).with_kind(SpanKind::Internal).with_attributes(attributes);
        Context::new().with_span(builder.start_with_context(&self.tracer, &Context::new()))
    }

    /// The same engine, whose steps have spans of their own.
    pub fn watching(&self, engine: Engine) -> Engine {
        let Engine { refiner, attestors, accumulator, algorithm, receipts, threshold } = engine;
        let tracer = || self.tracer.clone();
        let attestors = attestors.into_iter().map(|step| Box::new(Watched { step, tracer: tracer() }) as _).collect();
        Engine {
            refiner: Box::new(Watched { step: refiner, tracer: tracer() }),
            attestors,
            accumulator: Box::new(Watched { step: accumulator, tracer: tracer() }),
            algorithm,
            receipts,
            threshold,
        }
    }
}

/// Says what was answered, and ends the span.
pub fn answered(span: &Context, status: u16) {
    let span = span.span();
    span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
    if status >= 500 {
        // What went wrong inside is in the log, under the id of this trace.
        span.set_status(Status::error(""));
    }
    span.end();
}

/// Says whether a batch that nobody asked for went well, and ends its span.
pub fn ended(span: &Context, well: bool) {
    let span = span.span();
    if !well {
        span.set_status(Status::error(""));
    }
    span.end();
}

/// Says of the span around this call what it is about; without one, nothing.
pub fn say(attribute: impl FnOnce() -> KeyValue) {
    Context::map_current(|around| {
        if around.has_active_span() {
            around.span().set_attribute(attribute());
        }
    });
}

/// What the path names, when it is an id of ours: other text of clients is not passed on.
fn about(action: Action, segment: &str) -> Option<KeyValue> {
    if action == Action::ReadPackage {
        return segment.parse::<PackageId>().ok().map(|id| KeyValue::new("jam.pkg_id", id.to_string()));
    }
    segment.parse::<PreimageHash>().ok().map(|hash| KeyValue::new("jam.hash", hash.to_string()))
}

/// The span of an action; `None`: the contract names none.
fn name_of(action: Action) -> Option<&'static str> {
    match action {
        Action::PutPreimage => Some("jam.preimage.put"),
        Action::ReadPreimage => Some("jam.preimage.get"),
        Action::HeadPreimage => Some("jam.preimage.head"),
        Action::SubmitPackage => Some("jam.package.submit"),
        Action::ListPackages => Some("jam.package.list"),
        Action::ReadPackage => Some("jam.package.get"),
        Action::Process => Some(PROCESS),
        Action::Healthz
        | Action::Readyz
        | Action::Version
        | Action::SystemStatus
        | Action::OpenApi
        | Action::Docs
        | Action::JamHealthz
        | Action::JamStatus
        | Action::PreimageMeta
        | Action::HeadPreimageMeta
        | Action::DeletePreimage
        | Action::ReadReport
        | Action::ListAttestations
        | Action::AttestReport
        | Action::ListReports
        | Action::ListReceipts
        | Action::ReadReceipt
        | Action::RestorePackage
        | Action::RunCleanup
        | Action::CleanupStatus
        | Action::Audit
        | Action::ListBuckets
        | Action::ResetBucket
        | Action::ListToggles
        | Action::SetToggle
        | Action::DeleteToggle
        | Action::ReadQuotas
        | Action::SetQuotas
        | Action::DeleteQuotas
        | Action::ListDelegates
        | Action::AddDelegate
        | Action::RemoveDelegate
        | Action::ReadDispute
        | Action::AcceptReport
        | Action::RejectReports
        | Action::FollowEvents => None,
    }
}

/// A step of the engine with a span of its own, wherever it runs below one that is recorded.
struct Watched<T: ?Sized> {
    step: Box<T>,
    tracer: SdkTracer,
}

impl<T: ?Sized> Watched<T> {
    fn within<R>(&self, name: &'static str, about: impl FnOnce() -> [KeyValue; 2], step: impl FnOnce(&T) -> R) -> R {
        let around = Context::current();
        if !around.span().is_recording() {
            return step(&self.step);
        }
        let builder = self.tracer.span_builder(name).with_attributes(about());
        let mut span = builder.start_with_context(&self.tracer, &around);
        let outcome = step(&self.step);
        span.end();
        outcome
    }
}

fn of_report(report: &WorkReport) -> [KeyValue; 2] {
    [
        KeyValue::new("jam.pkg_id", report.package_id.to_string()),
        KeyValue::new("jam.service_id", report.service_id.to_string()),
    ]
}

impl Refiner for Watched<dyn Refiner> {
    fn refine(&self, package: &WorkPackage) -> Result<Refined, RefineFault> {
        let about = || {
            [
                KeyValue::new("jam.pkg_id", package.id.to_string()),
                KeyValue::new("jam.service_id", package.service_id.to_string()),
            ]
        };
        self.within("refine", about, |step| step.refine(package))
    }
}

impl Attestor for Watched<dyn Attestor> {
    fn attest(&self, report: &WorkReport, now: Timestamp) -> Attestation {
        self.within("attest", || of_report(report), |step| step.attest(report, now))
    }
}

impl Accumulator for Watched<dyn Accumulator> {
    fn accumulate(&self, chain: &mut Chain, report: &WorkReport, now: Timestamp) -> Receipt {
        self.within("accumulate", || of_report(report), |step| step.accumulate(chain, report, now))
    }
}
