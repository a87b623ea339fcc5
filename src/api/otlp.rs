//! Where spans go: to a collector over OTLP (HTTP, protobuf), from a bounded queue, by a thread that no request waits for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jam_domain::StoreKind;
use opentelemetry::trace::{SpanKind, TracerProvider as _};
use opentelemetry::{Key, Value};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::settings::Wiring;
use super::spans::{PACKAGES, PROCESS, Spans};

/// How long one attempt to hand spans over may take.
const ATTEMPT: Duration = Duration::from_secs(10);
/// How long the last spans have at the stop: with the 30 s of the last requests, well within a pod's 45.
const LAST_SPANS: Duration = Duration::from_secs(3);
/// Bytes of a collector's answer that are read.
const MOST_ANSWER: usize = 64 << 10;

/// The way to the collector. What is not handed over when it is closed is lost.
pub struct Export {
    provider: SdkTracerProvider,
}

impl Export {
    /// Opens the way, when the settings name an endpoint. Connects to nothing yet: a collector may come later than we do.
    pub fn open(wiring: &Wiring) -> Result<Option<Self>, String> {
        let Some(endpoint) = &wiring.otlp_endpoint else { return Ok(None) };
        let wrong = |problem: String| format!("otlp_endpoint {problem}");
        let http = http_client(endpoint).map_err(|e| wrong(format!("can't be used: {e}")))?;
        let exporter = Otlp::builder()
            .with_http()
            .with_http_client(Collector { http, runtime: Handle::current() })
            .with_endpoint(traces_of(endpoint))
            .build()
            .map_err(|e| wrong(format!("can't be used: {e}")))?;
        let exporter = Patient { exporter, endpoint: endpoint.clone(), failures: AtomicU64::new(0) };
        let provider = SdkTracerProvider::builder().with_resource(resource()).with_batch_exporter(exporter).build();
        Ok(Some(Self { provider }))
    }

    /// The spans that take this way.
    pub fn spans(&self, store: StoreKind) -> Spans {
        Spans::new(self.provider.tracer("jam-api"), store)
    }

    /// Hands over what is still in the queue, for as long as that may take.
    pub async fn close(self) {
        let flush = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(LAST_SPANS));
        match timeout(LAST_SPANS * 2, flush).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the last spans were not exported"),
            Ok(Err(_)) | Err(_) => tracing::warn!("the last spans were not exported in time"),
        }
    }
}

/// OTLP, "Endpoint URLs for OTLP/HTTP": the signal's own path below the endpoint.
fn traces_of(endpoint: &str) -> String {
    format!("{}/v1/traces", endpoint.trim_end_matches('/'))
}

/// Who we are; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` are heeded.
fn resource() -> Resource {
    let name = Key::from_static_str("service.name");
    let own = |key: &'static str, value: String| opentelemetry::KeyValue::new(key, value);
    let named = Resource::builder()
        .with_attribute(own("service.version", super::build::VERSION.into()))
        .with_attribute(own("service.instance.id", uuid::Uuid::new_v4().to_string()));
    // The library's word for "nobody said".
    let unknown =
        Resource::builder().build().get(&name).is_none_or(|name| name.as_str().starts_with("unknown_service"));
    if unknown { named.with_service_name("jam-api").build() } else { named.build() }
}

fn http_client(endpoint: &str) -> Result<reqwest::Client, reqwest::Error> {
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .user_agent(concat!("jam-api/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ATTEMPT);
    // Plain HTTP must not need the machine's CA certificates, which small images lack.
    let plain = endpoint.starts_with("http://");
    if plain { builder.tls_certs_only([]).build() } else { builder.build() }
}

/// Carries requests of the exporter's thread to the runtime, where the HTTP client lives.
#[derive(Debug)]
struct Collector {
    http: reqwest::Client,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let http = self.http.clone();
        self.runtime.spawn(async move { sent(&http, request).await }).await?
    }
}

async fn sent(http: &reqwest::Client, request: reqwest::Request) -> Result<Response<Bytes>, HttpError> {
    let mut answer = http.execute(request).await?;
    let mut response = Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        headers.clone_from(answer.headers());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if bytes.len() + chunk.len() > MOST_ANSWER {
            break;
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(response.body(bytes.into())?)
}

/// An exporter that nobody hears complain at every batch: a collector that is away is said once, and at every doubling.
#[derive(Debug)]
struct Patient {
    exporter: Otlp,
    endpoint: String,
    failures: AtomicU64,
}

impl SpanExporter for Patient {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let batch: Vec<SpanData> = batch.into_iter().filter(|span| !is_idle(span)).collect();
        let spans = batch.len();
        if spans == 0 {
            return Ok(());
        }
        match self.exporter.export(batch).await {
            Ok(()) => {
                if self.failures.swap(0, Ordering::Relaxed) > 0 {
                    tracing::info!(endpoint = self.endpoint, "spans are exported again");
                }
            }
            Err(error) => {
                let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
                if failures.is_power_of_two() {
                    let next = "is this the OTLP/HTTP port of a collector, most often 4318?";
                    tracing::warn!(%error, endpoint = self.endpoint, spans, failures, next, "spans could not be exported and are lost");
                }
            }
        }
        // The library would say it a second time.
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// A worker's look at an empty queue: once a second for ever, and nothing to tell of.
fn is_idle(span: &SpanData) -> bool {
    let took_none = |key: &str, value: &Value| key == PACKAGES && *value == Value::I64(0);
    span.name == PROCESS
        && span.span_kind == SpanKind::Internal
        && span.attributes.iter().any(|one| took_none(one.key.as_str(), &one.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_go_to_the_signals_own_path_below_the_endpoint() {
        for (endpoint, url) in [
            ("http://otel:4318", "http://otel:4318/v1/traces"),
            ("http://otel:4318/", "http://otel:4318/v1/traces"),
            ("https://otel/a/b", "https://otel/a/b/v1/traces"),
        ] {
            assert_eq!(traces_of(endpoint), url);
        }
    }
}
