//! The floor: what bare axum does for the same bytes, without token, limiter, metrics or store.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::State;
use axum::routing::{get, put};
use axum::{Json, Router};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::blobs::LARGE;

type Kept = Arc<Mutex<Vec<Bytes>>>;

/// Serves until it is killed. A runtime of its own, with a thread for each core as `jam-api` has.
pub fn serve() -> ExitCode {
    // Started from within another runtime's thread: a plain thread may begin a new one.
    let server = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be made");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            println!("listening on {}", listener.local_addr().expect("it is bound"));
            axum::serve(listener, router()).await.expect("it serves until it is killed");
        });
    });
    if server.join().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn router() -> Router {
    let blob = Bytes::from(vec![7; LARGE]);
    Router::new()
        .route("/status", get(async || Json(status())))
        .route("/hash", put(hash))
        .route("/keep", put(keep))
        .route("/blob", get(move || async move { Body::from(blob) }))
        .with_state(Kept::default())
}

/// As many bytes as `/jam/status` answers.
fn status() -> Value {
    json!({
        "enabled": true, "store": "memory", "rate_limit_per_minute": 100_000_000, "rate_limit_per_min": 100_000_000,
        "max_preimage_bytes": 10_485_760, "max_pending_packages": 10_000, "auth_required": true,
        "legacy_list_response": false, "accumulators_enabled": true, "accumulator_hash": "blake3-256",
        "attestation_threshold": 1, "accumulator_roots": [],
    })
}

/// Hashes what comes and forgets it.
async fn hash(body: Body) -> String {
    let mut hasher = Sha256::new();
    let mut stream = body.into_data_stream();
    while let Some(Ok(bytes)) = stream.next().await {
        hasher.update(&bytes);
    }
    hex::encode(hasher.finalize())
}

/// Hashes what comes and keeps it.
async fn keep(State(kept): State<Kept>, body: Body) -> String {
    let (mut hasher, mut whole) = (Sha256::new(), BytesMut::new());
    let mut stream = body.into_data_stream();
    while let Some(Ok(bytes)) = stream.next().await {
        hasher.update(&bytes);
        whole.extend_from_slice(&bytes);
    }
    kept.lock().unwrap_or_else(PoisonError::into_inner).push(whole.freeze());
    hex::encode(hasher.finalize())
}
