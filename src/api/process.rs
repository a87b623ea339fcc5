//! Processing: a batch of pending packages, by a client's call or by the worker loop, with the same counting.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use jam_domain::page::Visible;
use jam_domain::refine::Engine;
use jam_store::{Processed, Store, StoreError};
use opentelemetry::KeyValue;
use tokio::time::Instant;

use super::admit::Admitted;
use super::fault::{Fault, ok};
use super::metrics::Metrics;
use super::shapes::Worked;
use super::spans;
use super::state::Api;

/// Packages that one call processes at most.
pub const MOST: u32 = 100;

/// What a batch came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Packages taken.
    pub count: usize,
    /// Of these, packages that ended disputed.
    pub failed: usize,
}

/// POST /jam/process.
pub async fn call(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    let limit = match admitted.query.number("limit")? {
        None | Some(0) => 1,
        Some(limit) => u32::try_from(limit).unwrap_or(MOST).min(MOST),
    };
    let batch = batch(api.store.as_ref(), &api.engine, &api.pulse.metrics, (limit, &admitted.caller.services)).await?;
    if batch.count == 0 {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    Ok(ok(&Worked { processed: true, count: batch.count, failed: batch.failed }))
}

/// Processes up to `limit` packages of the services that the caller may see, counts and logs each.
pub async fn batch(
    store: &dyn Store,
    engine: &Engine,
    metrics: &Metrics,
    (limit, visible): (u32, &Visible),
) -> Result<Batch, StoreError> {
    let started = Instant::now();
    let processed = store.process_visible(limit, visible, engine).await?;
    let took = started.elapsed();
    let workers = engine.attestors.len() as u64;
    for one in &processed {
        count(one, engine.receipts, workers, took, metrics, store);
    }
    spans::say(|| KeyValue::new(spans::PACKAGES, i64::try_from(processed.len()).unwrap_or(i64::MAX)));
    Ok(Batch { count: processed.len(), failed: processed.iter().filter(|one| one.fault.is_some()).count() })
}

fn count(one: &Processed, receipts: bool, workers: u64, took: Duration, metrics: &Metrics, store: &dyn Store) {
    let Processed { package_id, service_id, fault, applied } = one;
    metrics.package_process.inc();
    metrics.package_process_duration.observe(took.as_secs_f64());
    let store = super::state::store_name(store.kind());
    let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    if let Some(error) = fault {
        metrics.package_process_fail.inc();
        tracing::warn!(pkg_id = %package_id, service_id = %service_id, store, duration_ms, error, "package disputed");
        return;
    }
    metrics.reports.inc();
    metrics.attestations.inc_by(workers);
    metrics.receipts.inc_by(u64::from(*applied && receipts));
    tracing::info!(pkg_id = %package_id, service_id = %service_id, store, duration_ms, applied, "package processed");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clap::{Args as _, FromArgMatches as _};
    use jam_domain::WorkPackage;
    use jam_domain::refine::{RefineFault, Refined, Refiner};
    use jam_store::MemoryStore;
    use serde_json::{Value, json};
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::api::serve;
    use crate::api::settings::{Purpose, SettingsArgs, load};

    struct Stubborn;

    impl Refiner for Stubborn {
        fn refine(&self, package: &WorkPackage) -> Result<Refined, RefineFault> {
            Err(RefineFault(format!("nothing is known of {}", package.items[0].kind)))
        }
    }

    /// A server whose refiner refuses every package, and its address.
    async fn served(stop: CancellationToken) -> String {
        let flags = ["test", "--enabled", "true", "--auth-required", "false", "--rate-limit-per-minute", "0"];
        let matches = SettingsArgs::augment_args(clap::Command::new("test")).get_matches_from(flags);
        let loaded = load(&SettingsArgs::from_arg_matches(&matches).unwrap(), Purpose::Serve);
        let loaded = loaded.unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
        let store = Arc::new(MemoryStore::default());
        let mut api = Api::new(loaded.settings, &loaded.wiring, store, None).unwrap();
        api.engine.refiner = Box::new(Stubborn);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve::run(listener, Arc::new(api), stop));
        format!("http://{address}")
    }

    #[tokio::test]
    async fn a_package_that_cannot_be_refined_is_disputed_and_the_call_answers_200() {
        let log = tempfile::NamedTempFile::new().unwrap();
        // One thread runs the server and the test: what either logs goes there.
        let lines = tracing_subscriber::fmt().json().flatten_event(true).with_writer(log.reopen().unwrap()).finish();
        let _logging = tracing::subscriber::set_default(lines);
        let stop = CancellationToken::new();
        let _stopped = stop.clone().drop_guard();
        let address = served(stop).await;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let sent = json!({"service_id": "s", "items": [{"kind": "riddle", "params_hash": "p"}]});
        let package = http.post(format!("{address}/jam/packages")).json(&sent).send().await.unwrap();
        let package: Value = package.json().await.unwrap();
        let worked = http.post(format!("{address}/jam/process")).send().await.unwrap();
        assert_eq!(worked.status(), 200);
        assert_eq!(worked.json::<Value>().await.unwrap(), json!({"processed": true, "count": 1, "failed": 1}));
        let path = format!("{address}/jam/packages/{}", package["id"].as_str().unwrap());
        let disputed: Value = http.get(&path).send().await.unwrap().json().await.unwrap();
        assert_eq!(disputed["status"], "disputed");
        let report = http.get(format!("{path}/report")).send().await.unwrap();
        assert_eq!(report.status(), 404);
        let report: Value = report.json().await.unwrap();
        assert_eq!(report["details"], json!({"status": "disputed", "reason": "nothing is known of riddle"}));
        assert_eq!(http.post(format!("{address}/jam/process")).send().await.unwrap().status(), 204);
        let log = std::fs::read_to_string(log.path()).unwrap();
        let line = log.lines().find(|line| line.contains("package disputed")).unwrap_or_else(|| panic!("{log}"));
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["pkg_id"], &line["service_id"]), (&package["id"], &json!("s")));
        assert_eq!((&line["error"], &line["store"]), (&json!("nothing is known of riddle"), &json!("memory")));
        assert!(line["duration_ms"].is_u64(), "{line}");
    }
}
