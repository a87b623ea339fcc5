//! `jam-api work`: processes pending packages continuously, and rests while there are none.

use std::sync::Arc;
use std::time::Duration;

use jam_domain::StoreKind;
use jam_domain::refine::Engine;
use jam_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use super::process::{Batch, batch};
use super::program::Ending;
use super::serve::bind;
use super::settings::Loaded;
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
    if let Some(address) = &wiring.metrics_listen {
        let listener = bind("metrics_listen", address).await?;
        tokio::spawn(serve_metrics(listener, store.clone(), metrics.clone(), stop.clone()));
    }
    tracing::info!(interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX), batch = size, "working");
    run(store.as_ref(), &engine, &metrics, (interval, size), &stop).await;
    tracing::info!("stopped");
    Ok(())
}

/// The loop: full batches follow each other at once, an empty queue is looked at again after the interval, a store that
/// fails after twice the pause before.
async fn run(
    store: &dyn Store,
    engine: &Engine,
    metrics: &Metrics,
    (interval, size): (Duration, u32),
    stop: &CancellationToken,
) {
    let mut failures: u32 = 0;
    while !stop.is_cancelled() {
        let pause = match batch(store, engine, metrics, (size, &None)).await {
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
