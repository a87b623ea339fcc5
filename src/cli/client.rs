//! The HTTP client: one call, its retries and the refusal or outage it ends in.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Body, Method, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use crate::cli::fault::{Fault, Refused};
use crate::cli::outage::{Class, class_of, detail_of};
use crate::cli::progress::Meter;

/// What a client keeps between calls.
pub struct Client {
    http: reqwest::Client,
    base: Url,
    bearer: Option<HeaderValue>,
    tenant: Option<HeaderValue>,
    trace: Option<HeaderValue>,
    timeout: Duration,
}

/// When a call may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It shows the state of the server as it is now.
    Never,
    /// Only when it was turned away before anything was done (429).
    WhenTurnedAway,
    /// Doing it twice is the same as doing it once.
    Always,
}

/// One call.
pub struct Call {
    /// The method.
    pub method: Method,
    /// The path below the address, in parts; each is escaped.
    pub path: Vec<String>,
    /// The query; what is `None` is left out.
    pub query: Vec<(&'static str, Option<String>)>,
    /// Further headers.
    pub headers: HeaderMap,
    /// What is sent.
    pub payload: Payload,
    /// When it may be made again.
    pub repeat: Repeat,
}

/// What a call sends.
pub enum Payload {
    /// Nothing.
    Empty,
    /// JSON.
    Json(Bytes),
    /// So many bytes of a file, streamed.
    File {
        /// The file; opened anew for each attempt.
        path: PathBuf,
        /// Its length when it was hashed.
        size: u64,
        /// Counts what was sent.
        meter: Arc<Meter>,
    },
}

/// An answer that is not a refusal, read to its end.
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    call: String,
}

impl Call {
    /// A GET, which may be repeated.
    pub fn get(path: &[&str]) -> Self {
        Self::new(Method::GET, path, Repeat::Always)
    }

    /// A call without a body.
    pub fn new(method: Method, path: &[&str], repeat: Repeat) -> Self {
        let path = path.iter().map(|part| (*part).to_owned()).collect();
        Self { method, path, query: Vec::new(), headers: HeaderMap::new(), payload: Payload::Empty, repeat }
    }

    /// The same call with one more query parameter, unless it is `None`.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: Option<impl ToString>) -> Self {
        self.query.push((key, value.map(|value| value.to_string())));
        self
    }

    /// The same call, asking for the receipt when it is wanted.
    #[must_use]
    pub fn include_receipt(self, wanted: bool) -> Self {
        self.with("include_receipt", wanted.then_some("true"))
    }

    fn name(&self) -> String {
        format!("{} /{}", self.method, self.path.join("/"))
    }
}

impl Reply {
    /// The body as JSON of this type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        serde_json::from_slice(&self.body)
            .map_err(|why| Fault::Answer { call: self.call.clone(), problem: format!("the answer is not ours: {why}") })
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Client {
    /// A client of the server at this address.
    pub fn new(
        base: Url,
        bearer: Option<HeaderValue>,
        tenant: Option<HeaderValue>,
        timeout: Duration,
    ) -> Result<Self, Fault> {
        // Fails only when a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("slctl/", env!("CARGO_PKG_VERSION")))
            // A redirect would carry the token to wherever it points.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(timeout);
        if base.scheme() == "http" {
            // Plain HTTP must not need the machine's CA certificates, which small images lack.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| Fault::Unreachable {
            class: Class::Tls,
            addr: base.to_string(),
            detail: detail_of(&error),
        })?;
        Ok(Self { http, base, bearer, tenant, trace: None, timeout })
    }

    /// The same client, whose calls are made in this span.
    #[must_use]
    pub fn in_trace(self, trace: Option<HeaderValue>) -> Self {
        Self { trace, ..self }
    }

    /// The same client with another token.
    pub fn with_bearer(&self, bearer: HeaderValue) -> Self {
        Self {
            http: self.http.clone(),
            base: self.base.clone(),
            bearer: Some(bearer),
            tenant: self.tenant.clone(),
            trace: self.trace.clone(),
            timeout: self.timeout,
        }
    }

    /// The address, for messages.
    pub fn addr(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Whether TLS is spoken.
    pub fn is_tls(&self) -> bool {
        self.base.scheme() == "https"
    }

    /// Makes the call and reads the answer to its end.
    pub async fn send(&self, call: Call) -> Result<Reply, Fault> {
        let response = self.open(&call).await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = self.within(response.bytes()).await?;
        Ok(Reply { status, headers, body, call: call.name() })
    }

    /// Makes the call, again when that is allowed and helps; the answer's body is still to be read.
    ///
    /// Waits as long as the server's Retry-After says, unless that would go beyond the timeout. When that comes during a further
    /// attempt, the server's last refusal says more than that.
    pub async fn open(&self, call: &Call) -> Result<Response, Fault> {
        let started = Instant::now();
        let mut backoff = Duration::from_millis(100);
        let mut refused = None;
        loop {
            let fault = match (self.attempt(call, started).await, refused.take()) {
                (Ok(response), _) => return Ok(response),
                (Err(Fault::Unreachable { class: Class::Timeout, .. }), Some(refused)) => {
                    return Err(Fault::Refused(self.to_the_end(refused)));
                }
                (Err(fault), _) => fault,
            };
            let Some(pause) = pause_before_retry(call.repeat, &fault, backoff) else { return Err(fault) };
            if started.elapsed() + pause >= self.timeout {
                return Err(fault);
            }
            if let Fault::Refused(refusal) = fault {
                refused = Some(refusal);
            }
            tokio::time::sleep(pause).await;
            backoff *= 2;
        }
    }

    fn to_the_end(&self, refused: Refused) -> Refused {
        let message = format!("tried again until the timeout of {:?}: {}", self.timeout, refused.message);
        Refused { message, ..refused }
    }

    /// What a read of an answer gives, or the timeout.
    pub async fn within<T>(&self, read: impl Future<Output = reqwest::Result<T>>) -> Result<T, Fault> {
        match tokio::time::timeout(self.timeout, read).await {
            Ok(done) => done.map_err(|error| self.outage(&error)),
            Err(_) => Err(self.timed_out()),
        }
    }

    async fn attempt(&self, call: &Call, started: Instant) -> Result<Response, Fault> {
        let request = self.request(call).await?;
        let response = match &call.payload {
            Payload::File { meter, .. } => self.while_moving(request.send(), meter).await?,
            Payload::Empty | Payload::Json(_) => {
                let left = self.timeout.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
                match tokio::time::timeout(left, request.send()).await {
                    Ok(sent) => sent.map_err(|error| self.outage(&error))?,
                    Err(_) => return Err(self.timed_out()),
                }
            }
        };
        self.refusal_of(call, response).await
    }

    /// An upload may take as long as it likes, but not stand still for longer than the timeout.
    async fn while_moving(
        &self,
        send: impl Future<Output = reqwest::Result<Response>>,
        meter: &Meter,
    ) -> Result<Response, Fault> {
        tokio::pin!(send);
        loop {
            let before = meter.moved();
            match tokio::time::timeout(self.timeout, &mut send).await {
                Ok(done) => return done.map_err(|error| self.outage(&error)),
                Err(_) if meter.moved() > before => {}
                Err(_) => return Err(self.timed_out()),
            }
        }
    }

    async fn refusal_of(&self, call: &Call, response: Response) -> Result<Response, Fault> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let header = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        if let (true, Some(to)) = (status.is_redirection(), header(LOCATION)) {
            let problem = format!("the server redirects to {to}");
            return Err(Fault::Answer { call: call.name(), problem });
        }
        let retry_after = header(RETRY_AFTER).and_then(|seconds| seconds.parse().ok());
        let body = self.within(response.bytes()).await.unwrap_or_default();
        let refused = Refused::of(status, retry_after, &body, &call.name());
        // Every 404 of ours names its code, but for HEAD, whose answers have no body.
        if status == StatusCode::NOT_FOUND && refused.is_foreign() && call.method != Method::HEAD {
            return Err(Fault::Answer { call: call.name(), problem: format!("the server answered {status}") });
        }
        Err(Fault::Refused(refused))
    }

    async fn request(&self, call: &Call) -> Result<reqwest::RequestBuilder, Fault> {
        let mut url = self.base.clone();
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().extend(&call.path);
        }
        for (key, value) in &call.query {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(key, value);
            }
        }
        let mut request = self.http.request(call.method.clone(), url).headers(call.headers.clone());
        if let Some(bearer) = &self.bearer {
            request = request.header(AUTHORIZATION, bearer.clone());
        }
        if let Some(trace) = &self.trace {
            request = request.header("traceparent", trace.clone());
        }
        if let Some(tenant) = &self.tenant {
            request = request.header("X-Tenant-ID", tenant.clone());
        }
        match &call.payload {
            Payload::Empty => Ok(request),
            Payload::Json(body) => Ok(request.header(CONTENT_TYPE, "application/json").body(body.clone())),
            Payload::File { path, size, meter } => {
                let file = tokio::fs::File::open(path).await.map_err(|cause| Fault::reading(path, cause))?;
                meter.restart();
                let meter = Arc::clone(meter);
                let chunks = ReaderStream::with_capacity(file.take(*size), 64 * 1024).inspect(move |chunk| {
                    if let Ok(chunk) = chunk {
                        meter.add(chunk.len() as u64);
                    }
                });
                Ok(request.header(CONTENT_LENGTH, *size).body(Body::wrap_stream(chunks)))
            }
        }
    }

    /// The fault that an error of the network is.
    pub fn outage(&self, error: &reqwest::Error) -> Fault {
        let (class, detail) = (class_of(error), detail_of(error));
        match class {
            Class::Timeout => self.timed_out(),
            Class::DnsResolution
            | Class::NetworkUnreachable
            | Class::Tls
            | Class::Unauthorized
            | Class::ProviderUnavailable => Fault::Unreachable { class, addr: self.addr().into(), detail },
        }
    }

    /// The fault of a call that took too long.
    pub fn timed_out(&self) -> Fault {
        let detail = format!("nothing within {:?}", self.timeout);
        Fault::Unreachable { class: Class::Timeout, addr: self.addr().into(), detail }
    }
}

/// How long to wait before the call is made again; `None` when that is not allowed or would not help.
fn pause_before_retry(repeat: Repeat, fault: &Fault, backoff: Duration) -> Option<Duration> {
    let helps = match fault {
        Fault::Refused(refused) => match (repeat, refused.status) {
            (Repeat::Always, 429 | 502 | 503 | 504) | (Repeat::WhenTurnedAway, 429) => true,
            (Repeat::Always | Repeat::WhenTurnedAway | Repeat::Never, _) => false,
        },
        // The connection broke, as it does when a replica goes. A refused connection is told at once instead.
        Fault::Unreachable { class: Class::ProviderUnavailable, .. } => repeat == Repeat::Always,
        Fault::Unreachable { .. }
        | Fault::Usage(_)
        | Fault::File { .. }
        | Fault::Answer { .. }
        | Fault::Corrupt(_)
        | Fault::Chain { .. }
        | Fault::Unwell { .. }
        | Fault::Output(_) => false,
    };
    let asked = match fault {
        Fault::Refused(Refused { retry_after: Some(seconds), .. }) => Some(Duration::from_secs(*seconds)),
        _ => None,
    };
    helps.then_some(asked.unwrap_or(backoff))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, retry_after: Option<u64>) -> Fault {
        Fault::Refused(Refused { status, code: String::new(), message: String::new(), retry_after, details: None })
    }

    #[test]
    fn only_what_may_be_done_twice_is_done_twice() {
        let backoff = Duration::from_millis(100);
        let pause = |repeat, fault: &Fault| pause_before_retry(repeat, fault, backoff);
        assert_eq!(pause(Repeat::Always, &refused(503, None)), Some(backoff));
        assert_eq!(pause(Repeat::Always, &refused(429, Some(2))), Some(Duration::from_secs(2)));
        assert_eq!(pause(Repeat::WhenTurnedAway, &refused(429, Some(2))), Some(Duration::from_secs(2)));
        assert_eq!(pause(Repeat::WhenTurnedAway, &refused(503, Some(2))), None);
        assert_eq!(pause(Repeat::Never, &refused(429, Some(2))), None);
        assert_eq!(pause(Repeat::Always, &refused(409, None)), None);
        assert_eq!(pause(Repeat::Always, &Fault::Usage(String::new())), None);
    }
}
