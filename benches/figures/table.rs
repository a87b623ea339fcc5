//! The figures as they are printed, and what the guide wants of them.

use std::process::ExitCode;

/// What the guide asks of a figure's ratio.
#[derive(Clone, Copy)]
enum Bound {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

/// One target; the source of all is guide/performance.md, section "Targets (ratios)", in the words given.
struct Target {
    figure: &'static str,
    bound: Bound,
    source: &'static str,
}

const fn target(figure: &'static str, bound: Bound, source: &'static str) -> Target {
    Target { figure, bound, source }
}

const TARGETS: [Target; 27] = [
    target("status_cpu", Bound::AtMost(1.5), "status path ≤1.5× bare axum CPU with auth, limiter and metrics on"),
    target("put_10mib_memory_cpu", Bound::AtLeast(0.85), "10 MiB PUT ≥0.85 of hash+receive CPU"),
    target("put_4x10mib_peak_rss", Bound::AtMost(1.0), "peak RSS ≤20 MB + 1.2× bytes in flight"),
    target("put_10mib_postgres_time", Bound::AtLeast(0.85), "Postgres PUT ≥0.85 of a raw INSERT at ≥1 MiB"),
    target("put_1mib_postgres_time", Bound::AtLeast(0.85), "Postgres PUT ≥0.85 of a raw INSERT at ≥1 MiB"),
    target("put_10mib_again_cpu", Bound::AtLeast(0.85), "duplicate PUT ≥0.85 of a hash-only sink"),
    target("submit_rate", Bound::AtLeast(8.0), "submit ≥8× the prior server"),
    target("submit_fsyncs", Bound::AtMost(1.0), "submit ≤0.1 fsync each at 64 clients"),
    target("submit_wrong", Bound::AtMost(0.0), "state verified"),
    target("drain_1service_1worker_rate", Bound::AtLeast(1.2), "drain ≥1.2× River"),
    target("drain_1service_4workers_rate", Bound::AtLeast(1.2), "drain ≥1.2× River"),
    target("drain_64services_1worker_rate", Bound::AtLeast(1.2), "drain ≥1.2× River"),
    target("drain_64services_4workers_rate", Bound::AtLeast(1.2), "drain ≥1.2× River"),
    target("drain_1service_1worker_fsyncs", Bound::AtMost(1.0), "≤0.03 fsync per package"),
    target("drain_1service_4workers_fsyncs", Bound::AtMost(1.0), "≤0.03 fsync per package"),
    target("drain_64services_1worker_fsyncs", Bound::AtMost(1.0), "≤0.03 fsync per package"),
    target("drain_64services_4workers_fsyncs", Bound::AtMost(1.0), "≤0.03 fsync per package"),
    target("idle_submit_applied", Bound::AtMost(1.0), "idle submit→applied ≤3 fsync + 1.5 ms"),
    target("chain_1worker_rate", Bound::AtLeast(3.0), "one chain ≥3× raw single-row commits"),
    target("chain_16workers_rate", Bound::AtLeast(0.95), "16 workers ≥0.95 of one"),
    target("drain_duplicates", Bound::AtMost(0.0), "0 duplicates"),
    target("drain_broken_links", Bound::AtMost(0.0), "0 broken links"),
    target("submit_cpu_at_100000", Bound::AtMost(1.1), "submit flat to 1M stored (≤1.1×)"),
    target("submit_cpu_at_1000000", Bound::AtMost(1.1), "submit flat to 1M stored (≤1.1×)"),
    target("cleanup_submit_p99", Bound::AtMost(1.3), "cleanup of 1M rows: submit p99 ≤1.3×"),
    target("list_deep_cpu", Bound::AtMost(1.2), "keyset page at depth 50,000 ≤1.2× page 1"),
    target("soak_submit_p50_late", Bound::AtMost(1.5), "flat latency: the last quarter of a soak against its second"),
];

/// What a figure is held against, and what comes of it.
#[derive(Clone, Copy)]
pub struct Against {
    /// The limit or the peer, in the figure's unit.
    pub limit: f64,
    /// How the figure stands to it: the guide says for each which way round.
    pub ratio: f64,
}

impl Against {
    /// A cost against what it may cost: 1 is equal, less is better.
    pub fn cost(value: f64, limit: f64) -> Self {
        Self { limit, ratio: if limit == 0.0 { value } else { value / limit } }
    }

    /// The median of pairs that were taken one after the other.
    pub fn pairs(limit: &[f64], ratios: &[f64]) -> Self {
        Self { limit: median(limit), ratio: median(ratios) }
    }
}

/// The lines printed so far, and what is short.
pub struct Table {
    short: Vec<String>,
    wrong: bool,
}

impl Table {
    /// Prints the head.
    pub fn begin() -> Self {
        println!("# {:<32} {:>12} {:<16} {:>12} {:>8}", "name", "value", "unit", "limit", "ratio");
        Self { short: Vec::new(), wrong: false }
    }

    /// Prints a figure.
    pub fn line(&mut self, name: &str, value: f64, unit: &str, against: impl Into<Option<Against>>) {
        let against = against.into();
        let (limit, ratio) =
            against.map_or(("-".into(), "-".into()), |Against { limit, ratio }| (shown(limit), format!("{ratio:.2}")));
        println!("{name:<34} {:>12} {unit:<16} {limit:>12} {ratio:>8}", shown(value));
        let Some(Against { ratio, .. }) = against else { return };
        for Target { figure, bound, source } in TARGETS.iter().filter(|target| target.figure == name) {
            let (met, wanted) = match *bound {
                Bound::AtMost(most) => (ratio <= most, format!("≤ {most}")),
                Bound::AtLeast(least) => (ratio >= least, format!("≥ {least}")),
            };
            if !met {
                self.short.push(format!("# short: {figure} {ratio:.2}, wanted {wanted} ({source})"));
            }
        }
    }

    /// Prints a count of what must not be; anything but 0 fails the run.
    pub fn must_be_none(&mut self, name: &str, count: u64, unit: &str) {
        let value = float(count);
        self.line(name, value, unit, Against::cost(value, 0.0));
        self.wrong |= count > 0;
    }

    /// Prints what is short of its target. Being short is no failure, a wrong state is.
    pub fn end(self) -> ExitCode {
        for line in &self.short {
            println!("{line}");
        }
        if self.wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

fn shown(value: f64) -> String {
    if value != 0.0 && value.abs() < 10.0 { format!("{value:.4}") } else { format!("{value:.1}") }
}

/// A count as a number to calculate with; the counts here are far below 2^53.
#[allow(clippy::cast_precision_loss)]
pub fn float(count: u64) -> f64 {
    count as f64
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
