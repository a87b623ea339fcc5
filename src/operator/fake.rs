//! A stand-in for an API server in virtual time: it can hang, refuse and come back, which a real one does only by the clock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::{Body, ClientBuilder};
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::BoxError;

use super::client::{Ledger, limited};
use super::lease::Leadership;

/// How the server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It answers.
    Up,
    /// It takes requests and never answers.
    Hanging,
    /// It closes connections at once.
    Refusing,
    /// It answers everything with this code.
    Answering(u16),
}

type Bodies = StreamBody<BoxStream<'static, Result<Frame<Bytes>, BoxError>>>;

struct State {
    mode: Mode,
    version: u64,
    lease: Option<Value>,
    /// What lists hold, by plural.
    lists: HashMap<String, Vec<Value>>,
    /// When each resource was last listed or watched with success.
    served: HashMap<String, Instant>,
    /// Ends every watch that is open when it is raised.
    cut: tokio::sync::watch::Sender<u64>,
}

/// The server.
#[derive(Clone)]
pub struct Server(Arc<Mutex<State>>);

impl Server {
    /// A server that answers and holds nothing.
    pub fn up() -> Self {
        let (cut, _) = tokio::sync::watch::channel(0);
        let (lists, served) = (HashMap::new(), HashMap::new());
        Self(Arc::new(Mutex::new(State { mode: Mode::Up, version: 1, lease: None, lists, served, cut })))
    }

    /// From now on it behaves so; watches that are open are cut.
    pub fn becomes(&self, mode: Mode) {
        let mut state = self.0.lock().unwrap();
        state.mode = mode;
        state.cut.send_modify(|count| *count += 1);
    }

    /// From now on lists of this resource hold this object as well.
    pub fn holds(&self, plural: &str, object: Value) {
        self.0.lock().unwrap().lists.entry(plural.into()).or_default().push(object);
    }

    /// Who holds the Lease.
    pub fn holder(&self) -> String {
        let state = self.0.lock().unwrap();
        let holder = state.lease.as_ref().and_then(|lease| lease["spec"]["holderIdentity"].as_str().map(str::to_owned));
        holder.unwrap_or_default()
    }

    /// The resources that were served at or after this instant.
    pub fn served_since(&self, instant: Instant) -> Vec<String> {
        let state = self.0.lock().unwrap();
        let mut served: Vec<_> =
            state.served.iter().filter(|(_, at)| **at >= instant).map(|(name, _)| name.clone()).collect();
        served.sort();
        served
    }

    /// A client of it, as the operator builds them.
    pub fn client(&self, ledger: &Arc<Ledger>, leadership: Option<&Leadership>) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| server.clone().answer(request));
        limited(ClientBuilder::new(service, "default"), ledger, leadership)
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Bodies>, BoxError> {
        let mode = self.0.lock().unwrap().mode;
        match mode {
            Mode::Up => {}
            Mode::Hanging => std::future::pending().await,
            Mode::Refusing => return Err("connection refused".into()),
            Mode::Answering(code) => return Ok(status(StatusCode::from_u16(code)?, "not now")),
        }
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let path = head.uri.path().to_owned();
        if path.contains("/leases") {
            return Ok(self.lease(&head.method, &body));
        }
        // Discovery: a server without add-ons.
        if path.starts_with("/apis/") && path.split('/').count() == 4 {
            return Ok(status(StatusCode::NOT_FOUND, "not found"));
        }
        let plural = path.rsplit('/').next().unwrap_or_default().to_owned();
        let mut state = self.0.lock().unwrap();
        state.served.insert(plural.clone(), Instant::now());
        if head.uri.query().unwrap_or_default().contains("watch=true") {
            return Ok(Response::new(StreamBody::new(silence(state.cut.subscribe()).boxed())));
        }
        let items = state.lists.get(&plural).cloned().unwrap_or_default();
        let version = state.version.to_string();
        Ok(json_answer(
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}),
        ))
    }

    fn lease(&self, method: &Method, body: &Bytes) -> Response<Bodies> {
        let mut state = self.0.lock().unwrap();
        let sent: Value = serde_json::from_slice(body).unwrap_or_default();
        let there = state.lease.as_ref().map(|lease| lease["metadata"]["resourceVersion"].clone());
        let accepted = match (method.as_str(), &there) {
            ("GET", None) => return status(StatusCode::NOT_FOUND, "not found"),
            ("GET", Some(_)) => return json_answer(state.lease.as_ref().unwrap()),
            ("POST", None) => true,
            ("PUT", Some(version)) => sent["metadata"]["resourceVersion"] == *version,
            _ => false,
        };
        if !accepted {
            return status(StatusCode::CONFLICT, "conflict");
        }
        state.version += 1;
        let mut lease = sent;
        lease["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.lease = Some(lease.clone());
        json_answer(&lease)
    }
}

/// A watch on which nothing happens until it is cut, or until its time is over.
fn silence(mut cut: tokio::sync::watch::Receiver<u64>) -> impl futures::Stream<Item = Result<Frame<Bytes>, BoxError>> {
    cut.mark_unchanged();
    futures::stream::once(async move {
        tokio::select! {
            _ = cut.changed() => Some(Err("connection reset".into())),
            () = tokio::time::sleep(Duration::from_secs(290)) => None,
        }
    })
    .filter_map(std::future::ready)
}

fn json_answer(value: &Value) -> Response<Bodies> {
    with_code(StatusCode::OK, value)
}

fn status(code: StatusCode, message: &str) -> Response<Bodies> {
    let reason = code.canonical_reason().unwrap_or_default().replace(' ', "");
    let value = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message,
        "reason": reason, "code": code.as_u16()});
    with_code(code, &value)
}

fn with_code(code: StatusCode, value: &Value) -> Response<Bodies> {
    let bytes = Bytes::from(value.to_string());
    let body = StreamBody::new(futures::stream::iter([Ok(Frame::data(bytes))]).boxed());
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response
}
