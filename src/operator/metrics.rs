//! The operator's own numbers, with labels from bounded sets only: never an instance's name, never an error's text.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use tokio::time::Instant;

use super::client::Ledger;
use super::watch::Pulse;

/// The counters and gauges of one process.
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    duration: HistogramVec,
    instances: IntGaugeVec,
    requests: IntCounterVec,
    watch_age: IntGaugeVec,
    event_age: IntGaugeVec,
    watch_errors: IntCounterVec,
    queue: IntGauge,
    failing: IntGauge,
    children: IntGauge,
    leader: IntGauge,
    rotation_age: IntGauge,
    migration_age: IntGauge,
}

/// What is true at the moment of a scrape.
pub struct Moment {
    /// Instances by condition type and status.
    pub instances: BTreeMap<(String, String), i64>,
    /// Instances in the queue.
    pub queue: usize,
    /// Instances whose last reconcile failed.
    pub failing: usize,
    /// Children that are watched.
    pub children: usize,
    /// Whether this replica leads.
    pub leads: bool,
    /// How long the oldest rotation and the oldest migration have been under way.
    pub ages: Ages,
}

/// For how many seconds what is under way has been; 0 where nothing is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ages {
    /// The oldest rotation of tokens.
    pub rotation: i64,
    /// The oldest migration.
    pub migration: i64,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).expect("a constant name and constant labels")
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels).expect("a constant name and constant labels")
        };
        let gauge = |name: &str, help: &str| IntGauge::new(name, help).expect("a constant name");
        let buckets = vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 90.0];
        let duration = HistogramOpts::new("jam_operator_reconcile_duration_seconds", "Time of a reconcile.");
        let build = gauges("jam_operator_build_info", "Always 1; the version is a label.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self {
            registry: Registry::new(),
            reconciles: counter(
                "jam_operator_reconciles_total",
                "Reconciles by result (ok, error) and reason.",
                &["result", "reason"],
            ),
            duration: HistogramVec::new(duration.buckets(buckets), &["result"]).expect("a constant name"),
            instances: gauges(
                "jam_operator_instances",
                "Instances by condition and its status.",
                &["condition", "status"],
            ),
            requests: counter(
                "jam_operator_api_requests_total",
                "Requests to the Kubernetes API by verb, resource and outcome.",
                &["verb", "resource", "outcome"],
            ),
            watch_age: gauges(
                "jam_operator_watch_last_open_age_seconds",
                "Seconds since the API server last accepted this watch; it is reopened every five minutes.",
                &["resource"],
            ),
            event_age: gauges(
                "jam_operator_watch_last_event_age_seconds",
                "Seconds since this watch last told of a list or a change; where nothing changes it grows without a fault.",
                &["resource"],
            ),
            watch_errors: counter("jam_operator_watch_errors_total", "Failures of a watch.", &["resource"]),
            queue: gauge("jam_operator_queue_depth", "Instances that wait for a reconcile."),
            failing: gauge("jam_operator_failing_instances", "Instances whose last reconcile failed."),
            children: gauge("jam_operator_children", "Objects that belong to instances."),
            leader: gauge("jam_operator_leader", "1 while this replica leads."),
            rotation_age: gauge(
                "jam_operator_rotation_age_seconds",
                "Seconds since the oldest rotation of tokens that is under way began, its overlap included; 0 while none is.",
            ),
            migration_age: gauge(
                "jam_operator_migration_age_seconds",
                "Seconds since the oldest migration that has not come to its end began to be needed; 0 while none is.",
            ),
        };
        metrics.register(build);
        metrics
    }

    fn register(&self, build: IntGaugeVec) {
        let all: [Box<dyn prometheus::core::Collector>; 14] = [
            Box::new(build),
            Box::new(self.reconciles.clone()),
            Box::new(self.duration.clone()),
            Box::new(self.instances.clone()),
            Box::new(self.requests.clone()),
            Box::new(self.watch_age.clone()),
            Box::new(self.event_age.clone()),
            Box::new(self.watch_errors.clone()),
            Box::new(self.queue.clone()),
            Box::new(self.failing.clone()),
            Box::new(self.children.clone()),
            Box::new(self.leader.clone()),
            Box::new(self.rotation_age.clone()),
            Box::new(self.migration_age.clone()),
        ];
        for collector in all {
            self.registry.register(collector).expect("every name is registered once");
        }
    }

    /// A reconcile ended.
    pub fn reconciled(&self, result: &'static str, reason: &'static str, took: Duration) {
        self.reconciles.with_label_values(&[result, reason]).inc();
        self.duration.with_label_values(&[result]).observe(took.as_secs_f64());
    }

    /// The text that Prometheus reads.
    pub fn text(&self, ledger: &Ledger, pulses: &[std::sync::Arc<Pulse>], moment: &Moment) -> String {
        let Moment { instances, queue, failing, children, leads, ages: Ages { rotation, migration } } = moment;
        self.instances.reset();
        for ((condition, status), count) in instances {
            self.instances.with_label_values(&[condition, status]).set(*count);
        }
        for ((verb, resource, outcome), count) in ledger.requests() {
            raise(&self.requests, &[verb, &resource, &outcome], count);
        }
        self.watch_age.reset();
        let resting: Vec<&str> = pulses.iter().filter(|pulse| pulse.is_resting()).map(|pulse| pulse.kind()).collect();
        for (resource, signs) in ledger.watches().into_iter().filter(|(resource, _)| !resting.contains(&&**resource)) {
            let since = signs.opened.unwrap_or(signs.tried);
            self.watch_age.with_label_values(&[&resource]).set(whole(Instant::now().duration_since(since).as_secs()));
        }
        self.event_age.reset();
        let mut told: BTreeMap<&str, Instant> = BTreeMap::new();
        for (kind, at) in
            pulses.iter().filter(|pulse| !pulse.is_resting()).filter_map(|p| Some((p.kind(), p.last_event()?)))
        {
            told.entry(kind).and_modify(|last| *last = at.max(*last)).or_insert(at);
        }
        for (resource, at) in told {
            self.event_age.with_label_values(&[resource]).set(whole(at.elapsed().as_secs()));
        }
        let mut errors: BTreeMap<&str, u64> = BTreeMap::new();
        for pulse in pulses {
            *errors.entry(pulse.kind()).or_default() += pulse.errors();
        }
        for (resource, count) in errors {
            raise(&self.watch_errors, &[resource], count);
        }
        self.queue.set(whole(*queue));
        self.failing.set(whole(*failing));
        self.children.set(whole(*children));
        self.leader.set(i64::from(*leads));
        self.rotation_age.set(*rotation);
        self.migration_age.set(*migration);
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::warn!(%error, "the metrics cannot be written");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn whole<T: TryInto<i64>>(count: T) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// Raises a counter to what was counted elsewhere.
fn raise(counter: &IntCounterVec, labels: &[&str], to: u64) {
    let counter = counter.with_label_values(labels);
    counter.inc_by(to.saturating_sub(counter.get()));
}
