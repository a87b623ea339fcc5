//! `jam-api serve`: open the store, take the sockets, serve until the stop, finish what is in flight.

use std::sync::Arc;
use std::time::Duration;

use jam_domain::{StoreKind, Timestamp};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::otlp::Export;
use super::program::Ending;
use super::settings::{Loaded, Wiring};
use super::state::Api;
use super::{cleanup, controls, metrics_server, router, server, store};
use crate::shutdown;

/// How often this process cleans up, and when it takes a cleanup for overdue; `None` is never.
#[derive(Debug, Clone, Copy)]
pub struct Pauses {
    /// Between cleanups of a store that lives in this process.
    pub cleanup: Option<Duration>,
    /// Since the last good cleanup of any store.
    pub stale: Option<Duration>,
}

/// Serves until SIGTERM.
pub async fn serve(loaded: Loaded, pauses: Pauses) -> Result<(), Ending> {
    let signal = shutdown::on_signal().map_err(|e| Ending::Failed(format!("no signals: {e}")))?;
    let Loaded { settings, wiring, sources: _ } = loaded;
    let store = store::open(&settings, &wiring).await?;
    if settings.store == StoreKind::Memory {
        tracing::warn!(store = "memory", "the memory store is ephemeral: everything is gone when this process ends");
    }
    if !settings.auth_required {
        tracing::warn!("auth_required is false: everyone who reaches this port may read, submit and process");
    }
    let refused = |line| Ending::Refused(vec![line]);
    let export = Export::open(&wiring).map_err(refused)?;
    let spans = export.as_ref().map(|export| export.spans(settings.store));
    let api = Arc::new(Api::new(settings, &wiring, store, pauses.stale).map_err(refused)?.told_by(spans));
    controls::begin(&api).await;
    tokio::spawn(controls::watch(api.clone(), signal.clone()));
    let listener = bind("listen", &wiring.listen).await?;
    let metrics_listener = match &wiring.metrics_listen {
        Some(address) => Some(bind("metrics_listen", address).await?),
        None => None,
    };
    announce(&listener, metrics_listener.as_ref());
    for tokens in [Some(&api.gate.tokens), api.gate.admins.as_ref()].into_iter().flatten() {
        tokio::spawn(tokens.clone().watch(signal.clone()));
    }
    // Any other store outlives this process, and is cleaned up by whoever is scheduled to do it.
    if let (StoreKind::Memory, Some(interval)) = (api.store.kind(), pauses.cleanup) {
        tokio::spawn(keep_clean(api.clone(), interval, signal.clone()));
    }
    let stop = CancellationToken::new();
    tokio::spawn(stop_after(signal, api.clone(), delay(&wiring), stop.clone()));
    let feed = api.pulse.feed.run();
    let limits = api.gate.limiter.keep(stop.clone());
    let metrics = async {
        if let Some(listener) = metrics_listener {
            metrics_server::run(listener, api.clone(), stop.clone()).await;
        }
    };
    tokio::join!(run(listener, api.clone(), stop.clone()), metrics, limits, feed);
    if let Some(export) = export {
        export.close().await;
    }
    tracing::info!("stopped");
    Ok(())
}

/// Cleans up a store that lives in this process, again and again until the stop, by the settings of the moment.
async fn keep_clean(api: Arc<Api>, interval: Duration, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
        // Logged where it happens; the next one tries again.
        let _ = cleanup::run(api.store.as_ref(), &api.settings(), (Timestamp::now, false), None, &stop).await;
    }
}

/// Serves the API on this listener until the stop.
pub(super) async fn run(listener: TcpListener, api: Arc<Api>, stop: CancellationToken) {
    let patience = api.gate.patience;
    server::run(listener, move |peer, request| router::answer(api.clone(), peer, request), patience, stop).await;
}

/// At the signal `/readyz` says no at once; accepting ends after the delay, in which load balancers take note.
async fn stop_after(signal: CancellationToken, api: Arc<Api>, delay: Duration, stop: CancellationToken) {
    signal.cancelled().await;
    api.pulse.health.drain();
    tokio::time::sleep(delay).await;
    stop.cancel();
    // A stream has no end of its own that could be waited for.
    api.pulse.feed.end();
}

fn delay(wiring: &Wiring) -> Duration {
    Duration::from_secs(wiring.shutdown_delay_seconds.into())
}

pub(super) async fn bind(key: &str, address: &str) -> Result<TcpListener, Ending> {
    TcpListener::bind(address).await.map_err(|e| Ending::Failed(format!("{key} {address}: {e}")))
}

/// Says on stdout where it listens: with port 0 nobody else could know.
fn announce(api: &TcpListener, metrics: Option<&TcpListener>) {
    let address = |listener: &TcpListener| listener.local_addr().map_or_else(|e| e.to_string(), |a| a.to_string());
    println!("listening on {}", address(api));
    if let Some(metrics) = metrics {
        println!("metrics on {}", address(metrics));
    }
    tracing::info!(listen = address(api), metrics = metrics.map(address), version = super::build::VERSION, "serving");
}
