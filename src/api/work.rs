//! `jam-api work`: processes pending packages continuously, and rests while there are none.

use std::sync::Arc;
use std::time::Duration;

use jam_domain::StoreKind;
use jam_domain::refine::Engine;
use jam_store::{Store, StoreError};
use opentelemetry::context::FutureExt as _;
use opentelemetry::trace::TraceContextExt as _;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::metrics::Metrics;
use super::otlp::Export;
use super::process::{Batch, batch};
use super::program::Ending;
use super::serve::bind;
use super::settings::Loaded;
use super::spans::{self, Spans};
use super::{metrics_server, server, store};
use crate::shutdown;

/// The longest pause after failures in a row.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Works until SIGTERM; a batch that has begun is finished.
pub async fn work(loaded: Loaded, interval: Duration, size: u32) -> Result<(), Ending> {
    let Loaded { settings, wiring, sources: _ } = loaded;
    if settings.store == StoreKind::Memory {
        let line = "store is memory, which is another process's: a worker can't reach it; use postgres";
        return Err(Ending::Refused(vec![line.into()]));
    }
    let stop = shutdown::on_signal().map_err(|e| Ending::Failed(format!("no signals: {e}")))?;
    let store = store::open(&settings, &wiring).await?;
    let metrics = Arc::new(Metrics::new(settings.store));
    let engine =
        Engine::hash_refiner(settings.accumulator_hash, settings.attestation_threshold, settings.accumulators_enabled);
    let export = Export::open(&wiring).map_err(|line| Ending::Refused(vec![line]))?;
    let spans = export.as_ref().map(|export| export.spans(settings.store));
    let engine = if let Some(spans) = &spans { spans.watching(engine) } else { engine };
    if let Some(address) = &wiring.metrics_listen {
        let listener = bind("metrics_listen", address).await?;
        tokio::spawn(serve_metrics(listener, store.clone(), metrics.clone(), stop.clone()));
    }
    tracing::info!(interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX), batch = size, "working");
    let work = async || one(store.as_ref(), &engine, &metrics, size, spans.as_ref()).await;
    run(work, interval, &stop).await;
    if let Some(export) = export {
        export.close().await;
    }
    tracing::info!("stopped");
    Ok(())
}

/// The loop: full batches follow each other at once, an empty queue is looked at again after the interval, a store that
/// fails after twice the pause before.
async fn run(work: impl AsyncFn() -> Result<Batch, StoreError>, interval: Duration, stop: &CancellationToken) {
    let mut failures: u32 = 0;
    while !stop.is_cancelled() {
        let pause = match work().await {
            Ok(Batch { count: 0, failed: _ }) => interval,
            Ok(Batch { .. }) => Duration::ZERO,
            Err(error) => {
                failures = failures.saturating_add(1);
                log_failure(&error, failures);
                interval.max(Duration::from_millis(200)).saturating_mul(1 << failures.min(8)).min(LONGEST_PAUSE)
            }
        };
        if pause == interval || pause.is_zero() {
            failures = 0;
        }
        stop.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
}

/// One batch, with a span of its own when spans are kept; its lines carry the trace, too.
async fn one(
    store: &dyn Store,
    engine: &Engine,
    metrics: &Metrics,
    size: u32,
    spans: Option<&Spans>,
) -> Result<Batch, StoreError> {
    let done = batch(store, engine, metrics, (size, &None));
    let Some(spans) = spans else { return done.await };
    let span = spans.of_batch();
    let lines = tracing::info_span!("batch", trace_id = %span.span().span_context().trace_id());
    let done = done.instrument(lines).with_context(span.clone()).await;
    spans::ended(&span, done.is_ok());
    done
}

/// Every failure is logged when it is new, then at every doubling.
fn log_failure(error: &StoreError, failures: u32) {
    if failures.is_power_of_two() {
        tracing::error!(%error, failures, "processing failed; trying again");
    }
}

async fn serve_metrics(
    listener: tokio::net::TcpListener,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let service = move |_, request: axum::http::Request<hyper::body::Incoming>| {
        let (store, metrics) = (store.clone(), metrics.clone());
        async move { metrics_server::answer(request.method(), request.uri().path(), store.as_ref(), &metrics).await }
    };
    server::run(listener, service, metrics_server::CLIENT_PATIENCE, stop).await;
}
