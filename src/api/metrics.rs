//! The metrics of the API: names and labels are the contract's, label values are bounded.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::Method;
use jam_domain::StoreKind;
use jam_domain::retention::CleanupRecord;
use jam_store::Connections;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// Why a token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthFailure {
    /// There was none.
    Missing,
    /// It is not known.
    Unknown,
    /// It has ended, or not begun.
    Expired,
    /// It lacks the scope.
    Scope,
}

impl AuthFailure {
    const ALL: [Self; 4] = [Self::Missing, Self::Unknown, Self::Expired, Self::Scope];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Scope => "scope",
        }
    }
}

/// Why a preimage was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaReject {
    /// Larger than the cap.
    TooLarge,
    /// A media type that is not allowed.
    UnsupportedMedia,
}

impl QuotaReject {
    const ALL: [Self; 2] = [Self::TooLarge, Self::UnsupportedMedia];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::UnsupportedMedia => "unsupported_media",
        }
    }
}

/// Every metric of the API.
#[allow(missing_docs)] // the names say what they count; observability.md lists them
pub struct Metrics {
    registry: Registry,
    pub preimage_put: IntCounter,
    pub preimage_get: IntCounter,
    pub preimage_head: IntCounter,
    pub preimage_bytes: IntCounter,
    pub preimage_put_duration: Histogram,
    preimage_quota_reject: IntCounterVec,
    pub package_submit: IntCounter,
    pub package_process: IntCounter,
    pub package_process_fail: IntCounter,
    pub package_pending: IntGauge,
    pub package_process_duration: Histogram,
    pub attestations: IntCounter,
    pub reports: IntCounter,
    pub receipts: IntCounter,
    pub rate_limit_hits: IntCounter,
    pub pending_cap_hits: IntCounter,
    auth_failures: IntCounterVec,
    http_requests: IntCounterVec,
    http_request_duration: HistogramVec,
    pool_connections: IntGaugeVec,
    pub schema_version: IntGauge,
    pub cleanups: Cleanups,
}

/// What cleanups have done. They are other processes' work: the numbers are the store's own, the same in every replica.
pub struct Cleanups {
    /// Held while counters are raised, so that two scrapes at once raise them once.
    raising: Mutex<()>,
    runs: IntCounterVec,
    deleted_packages: IntCounter,
    deleted_reports: IntCounter,
    deleted_preimages: IntCounter,
    last_success: IntGauge,
}

impl Cleanups {
    fn of(made: &Made) -> Self {
        let runs = made.counters(
            "jam_cleanup_runs_total",
            "Cleanups that ended, of all processes; the same in every replica",
            &["result"],
        );
        for result in ["ok", "failed"] {
            runs.with_label_values(&[result]);
        }
        let deleted = |what: &str| {
            let help = format!("Deleted by cleanups of all processes: {what}; the same in every replica");
            made.counter(&format!("jam_cleanup_deleted_{what}_total"), &help)
        };
        Self {
            raising: Mutex::default(),
            runs,
            deleted_packages: deleted("packages"),
            deleted_reports: deleted("reports"),
            deleted_preimages: deleted("preimages"),
            last_success: made.gauge(
                "jam_cleanup_last_success_timestamp_seconds",
                "When the last good cleanup ended, in seconds since 1970; 0 before the first",
            ),
        }
    }

    /// Takes over what the store remembers.
    pub fn show(&self, record: &CleanupRecord) {
        let CleanupRecord { last: _, succeeded_at, runs_succeeded, runs_failed, all } = record;
        let _alone = self.raising.lock().unwrap_or_else(PoisonError::into_inner);
        let raise = |counter: &IntCounter, to: u64| counter.inc_by(to.saturating_sub(counter.get()));
        raise(&self.runs.with_label_values(&["ok"]), *runs_succeeded);
        raise(&self.runs.with_label_values(&["failed"]), *runs_failed);
        raise(&self.deleted_packages, all.deleted_packages);
        raise(&self.deleted_reports, all.deleted_reports);
        raise(&self.deleted_preimages, all.deleted_preimages);
        self.last_success.set(succeeded_at.map_or(0, |at| at.as_micros() / 1_000_000));
    }
}

const PROOF: &str = "names and labels are constants, each registered once";

struct Made(Registry);

impl Made {
    fn counter(&self, name: &str, help: &str) -> IntCounter {
        let counter = IntCounter::new(name, help).expect(PROOF);
        self.0.register(Box::new(counter.clone())).expect(PROOF);
        counter
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let counters = IntCounterVec::new(Opts::new(name, help), labels).expect(PROOF);
        self.0.register(Box::new(counters.clone())).expect(PROOF);
        counters
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels).expect(PROOF);
        self.0.register(Box::new(gauges.clone())).expect(PROOF);
        gauges
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        let gauge = IntGauge::new(name, help).expect(PROOF);
        self.0.register(Box::new(gauge.clone())).expect(PROOF);
        gauge
    }

    fn histogram(&self, name: &str, help: &str) -> Histogram {
        let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets())).expect(PROOF);
        self.0.register(Box::new(histogram.clone())).expect(PROOF);
        histogram
    }
}

/// From half a millisecond to half a minute.
fn buckets() -> Vec<f64> {
    vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]
}

impl Metrics {
    /// The metrics of one process on this store.
    pub fn new(store: StoreKind) -> Self {
        let labels = HashMap::from([("store".to_owned(), super::state::store_name(store).to_owned())]);
        let made = Made(Registry::new_custom(None, Some(labels)).expect(PROOF));
        build_info(&made);
        let http_opts =
            HistogramOpts::new("jam_http_request_duration_seconds", "Time from a request's head to its answer's head");
        let http_request_duration = HistogramVec::new(http_opts.buckets(buckets()), &["route", "method"]).expect(PROOF);
        made.0.register(Box::new(http_request_duration.clone())).expect(PROOF);
        let metrics = Self {
            preimage_put: made.counter("jam_preimage_put_total", "Preimages uploaded, new or known"),
            preimage_get: made.counter("jam_preimage_get_total", "Preimages read"),
            preimage_head: made.counter("jam_preimage_head_total", "Preimages asked for by HEAD"),
            preimage_bytes: made.counter("jam_preimage_bytes_total", "Bytes of preimages newly stored"),
            preimage_put_duration: made.histogram("jam_preimage_put_duration_seconds", "Time of an upload"),
            preimage_quota_reject: made.counters("jam_preimage_quota_reject_total", "Preimages refused", &["reason"]),
            package_submit: made.counter("jam_package_submit_total", "Packages accepted"),
            package_process: made.counter("jam_package_process_total", "Packages processed, failed ones included"),
            package_process_fail: made.counter("jam_package_process_fail_total", "Packages that ended disputed"),
            package_pending: made.gauge("jam_package_pending_gauge", "Packages pending now"),
            package_process_duration: made
                .histogram("jam_package_process_duration_seconds", "Time of a package's batch, per package"),
            attestations: made.counter("jam_attestations_total", "Attestations recorded"),
            reports: made.counter("jam_reports_total", "Reports written"),
            receipts: made.counter("jam_receipts_total", "Receipts appended"),
            rate_limit_hits: made.counter("jam_rate_limit_hits_total", "Requests over the rate limit"),
            pending_cap_hits: made.counter("jam_pending_cap_hits_total", "Packages over the pending cap"),
            auth_failures: made.counters("jam_auth_failures_total", "Requests refused for their token", &["reason"]),
            http_requests: made.counters(
                "jam_http_requests_total",
                "Requests answered",
                &["route", "method", "status"],
            ),
            http_request_duration,
            pool_connections: made.gauges(
                "jam_store_pool_connections",
                "Connections to the database now, at work or waiting for some",
                &["state"],
            ),
            schema_version: made.gauge("jam_schema_version", "Version of the database schema, 0 when there is none"),
            cleanups: Cleanups::of(&made),
            registry: made.0,
        };
        // Series that exist from the start can be alerted on: a counter that appears at 1 has no rate.
        for reason in AuthFailure::ALL {
            metrics.auth_failures.with_label_values(&[reason.as_str()]);
        }
        for reason in QuotaReject::ALL {
            metrics.preimage_quota_reject.with_label_values(&[reason.as_str()]);
        }
        metrics
    }

    /// Counts a refused token.
    pub fn auth_failure(&self, reason: AuthFailure) {
        self.auth_failures.with_label_values(&[reason.as_str()]).inc();
    }

    /// Counts a refused preimage.
    pub fn quota_reject(&self, reason: QuotaReject) {
        self.preimage_quota_reject.with_label_values(&[reason.as_str()]).inc();
    }

    /// Counts an answered request; `route` is a template of the table, or `unmatched`.
    pub fn answered(&self, route: &'static str, method: &Method, status: u16, took: Duration) {
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::DELETE => "DELETE",
            Method::OPTIONS => "OPTIONS",
            // Clients may invent methods; labels must stay few.
            _ => "OTHER",
        };
        let mut digits = [b'0'; 3];
        for (digit, power) in digits.iter_mut().zip([100, 10, 1]) {
            *digit = b'0' + u8::try_from(status / power % 10).unwrap_or(0);
        }
        let status = std::str::from_utf8(&digits).unwrap_or("000");
        self.http_requests.with_label_values(&[route, method, status]).inc();
        self.http_request_duration.with_label_values(&[route, method]).observe(took.as_secs_f64());
    }

    /// Takes over how many connections there are.
    pub fn connected(&self, connections: Connections) {
        let Connections { used, idle } = connections;
        for (state, count) in [("used", used), ("idle", idle)] {
            self.pool_connections.with_label_values(&[state]).set(count.into());
        }
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            tracing::error!(%error, "metrics can't be written");
        }
        out
    }
}

fn build_info(made: &Made) {
    let info = made.gauges("jam_build_info", "What runs here", &["version", "commit"]);
    info.with_label_values(&[super::build::VERSION, super::build::COMMIT]).set(1);
}
