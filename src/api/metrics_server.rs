//! The metrics listener: `/metrics` for Prometheus and `/healthz` for probes, never behind a token.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method};
use axum::response::Response;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use jam_store::Store;

use super::fault::{Fault, Plane, not_found};
use super::metrics::Metrics;
use super::state::Api;
use super::{server, status};

/// How long a scrape waits for the store's own numbers.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a scraper may take for its request and for reading the answer.
pub const CLIENT_PATIENCE: Duration = Duration::from_secs(30);

/// Serves the metrics of the API until the stop.
pub async fn run(listener: TcpListener, api: Arc<Api>, stop: CancellationToken) {
    let service = move |_, request: axum::http::Request<hyper::body::Incoming>| {
        let api = api.clone();
        async move { answer(request.method(), request.uri().path(), api.store.as_ref(), &api.pulse.metrics).await }
    };
    server::run(listener, service, CLIENT_PATIENCE, stop).await;
}

/// Answers one request.
pub async fn answer(method: &Method, path: &str, store: &dyn Store, metrics: &Metrics) -> Response {
    let reads = [Method::GET, Method::HEAD];
    match path {
        _ if !["/metrics", "/healthz"].contains(&path) => Fault::Refused(not_found("path")).response(Plane::Jam),
        _ if !reads.contains(method) => Fault::Method(reads.into()).response(Plane::Jam),
        "/metrics" => scrape(store, metrics).await,
        _ => status::healthz(),
    }
}

async fn scrape(store: &dyn Store, metrics: &Metrics) -> Response {
    // While the store is away the last known numbers stand: a scrape must not fail when it is needed most.
    if let Ok((Ok(pending), Ok(schema))) =
        timeout(PATIENCE, async { (store.pending().await, store.schema().await) }).await
    {
        metrics.package_pending.set(i64::try_from(pending).unwrap_or(i64::MAX));
        metrics.schema_version.set(schema.found.unwrap_or(0));
    }
    if let Ok(Ok(Some(record))) = timeout(PATIENCE, store.cleanups()).await {
        metrics.cleanups.show(&record);
    }
    metrics.connected(store.connections());
    let mut response = Response::new(Body::from(metrics.text()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}
