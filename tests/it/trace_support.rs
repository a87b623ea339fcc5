//! A collector of spans in this process: what a real `jam-api` exports to it, decoded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::net::TcpListener;

/// How a collector answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It takes what it gets.
    Willing,
    /// It refuses everything.
    Failing,
    /// It reads and never answers.
    Stalled,
}

/// What it got so far.
#[derive(Default)]
struct Heard {
    bodies: Vec<Bytes>,
    places: Vec<(String, String)>,
}

/// A collector; it ends with the runtime of its test.
pub struct Collector {
    pub endpoint: String,
    heard: Arc<Mutex<Heard>>,
}

type Shared = (Mood, Arc<Mutex<Heard>>);

impl Collector {
    pub async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let heard = Arc::new(Mutex::new(Heard::default()));
        let app = Router::new().fallback(take).with_state((mood, heard.clone()));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { endpoint, heard }
    }

    /// Every span that was exported.
    pub fn spans(&self) -> Vec<Seen> {
        let requests = self.requests();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|one| &one.scope_spans).flat_map(|scope| &scope.spans).map(Seen::of).collect()
    }

    /// What the exports say of who sends them.
    pub fn resource(&self) -> BTreeMap<String, String> {
        let requests = self.requests();
        words(&requests[0].resource_spans[0].resource.as_ref().unwrap().attributes)
    }

    /// Everything that came, as it came.
    pub fn bytes(&self) -> Vec<u8> {
        self.heard.lock().unwrap().bodies.concat()
    }

    /// Path and content type of each export.
    pub fn places(&self) -> Vec<(String, String)> {
        self.heard.lock().unwrap().places.clone()
    }

    fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        let bodies = self.heard.lock().unwrap().bodies.clone();
        bodies.into_iter().map(|body| ExportTraceServiceRequest::decode(body).unwrap()).collect()
    }
}

async fn take(State((mood, heard)): State<Shared>, uri: Uri, headers: HeaderMap, body: Bytes) -> StatusCode {
    let kind = headers.get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
    {
        let mut heard = heard.lock().unwrap();
        heard.bodies.push(body);
        heard.places.push((uri.path().to_owned(), kind));
    }
    match mood {
        Mood::Willing => StatusCode::OK,
        Mood::Failing => StatusCode::NOT_FOUND,
        Mood::Stalled => {
            tokio::time::sleep(Duration::from_mins(10)).await;
            StatusCode::OK
        }
    }
}

/// A span, its ids as hex digits.
#[derive(Debug, Clone)]
pub struct Seen {
    pub name: String,
    pub trace: String,
    pub id: String,
    /// Empty at the root of a trace.
    pub parent: String,
    /// 1 internal, 2 server.
    pub kind: i32,
    /// 2 is an error.
    pub status: i32,
    pub attributes: BTreeMap<String, String>,
}

impl Seen {
    fn of(span: &Span) -> Self {
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.events.is_empty(), "{span:?}");
        Self {
            name: span.name.clone(),
            trace: hex::encode(&span.trace_id),
            id: hex::encode(&span.span_id),
            parent: hex::encode(&span.parent_span_id),
            kind: span.kind,
            status: span.status.as_ref().map_or(0, |status| status.code),
            attributes: words(&span.attributes),
        }
    }
}

fn words(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    attributes.iter().map(|one| (one.key.clone(), word(one.value.as_ref()))).collect()
}

fn word(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("an attribute of another type: {other:?}"),
    }
}
