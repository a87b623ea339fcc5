//! The client of the API server: bounded waits, writes only while we lead, and a ledger of what was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{Method, Request, Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tokio::time::Instant;
use tower::timeout::TimeoutLayer;
use tower::{BoxError, Layer, Service};

use super::lease::Leadership;

/// How long the API server may take to begin its answer. A watch or a list that hangs before its headers has no other limit.
pub const TO_HEADERS: Duration = Duration::from_secs(30);

/// A write was refused here because another replica may be leading by now.
#[derive(Debug, thiserror::Error)]
#[error("this replica does not lead")]
pub struct NotLeading;

/// What was asked of the API server.
#[derive(Debug, Default)]
pub struct Ledger {
    requests: Mutex<BTreeMap<(&'static str, String, String), u64>>,
    watches: Mutex<BTreeMap<String, WatchSigns>>,
}

/// When a watch last gave a sign of life.
#[derive(Debug, Clone, Copy)]
pub struct WatchSigns {
    /// It was opened, or tried to be: the task that follows it is alive.
    pub tried: Instant,
    /// The API server answered it with success.
    pub opened: Option<Instant>,
}

impl Ledger {
    /// Requests by verb, resource and outcome.
    pub fn requests(&self) -> Vec<((&'static str, String, String), u64)> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(k, v)| (k.clone(), *v)).collect()
    }

    /// The signs of life of each watched resource.
    pub fn watches(&self) -> Vec<(String, WatchSigns)> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(k, v)| (k.clone(), *v)).collect()
    }

    fn tried(&self, resource: &str) {
        let now = Instant::now();
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.entry(resource.to_owned()).or_insert(WatchSigns { tried: now, opened: None }).tried = now;
    }

    fn answered(&self, what: &Asked, outcome: String) {
        if what.verb == "watch"
            && outcome == "200"
            && let Some(signs) = self.watches.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&what.resource)
        {
            signs.opened = Some(Instant::now());
        }
        let entry = (what.verb, what.resource.clone(), outcome);
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry(entry).or_default() += 1;
    }
}

/// A request in the words of Kubernetes: both are bounded sets.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    verb: &'static str,
    resource: String,
}

impl Asked {
    fn of(method: &Method, path: &str, query: &str) -> Self {
        let (resource, named) = resource_of(path);
        let watch = query.split('&').any(|pair| matches!(pair, "watch" | "watch=1" | "watch=true"));
        let verb = match *method {
            Method::GET if watch => "watch",
            Method::GET if named => "get",
            Method::GET => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "other",
        };
        Self { verb, resource }
    }

    fn is_write(&self) -> bool {
        !matches!(self.verb, "get" | "list" | "watch")
    }
}

/// The plural (with `/sub` when one is asked for) and whether one object is named.
fn resource_of(path: &str) -> (String, bool) {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (["api", _, rest @ ..] | ["apis", _, _, rest @ ..]) = parts.as_slice() else {
        return ("discovery".into(), false);
    };
    let rest = match rest {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    match rest {
        [] => ("discovery".into(), false),
        [plural] => ((*plural).to_owned(), false),
        [plural, _] => ((*plural).to_owned(), true),
        [plural, _, sub, ..] => (format!("{plural}/{sub}"), true),
    }
}

/// A client for the whole operator. Without `leadership` it may always write: that one is for the lease itself.
pub fn connect(config: Config, ledger: &Arc<Ledger>, leadership: Option<&Leadership>) -> Result<Client, kube::Error> {
    Ok(limited(ClientBuilder::try_from(config)?, ledger, leadership))
}

/// The same around any service.
pub fn limited<S, B>(builder: ClientBuilder<S>, ledger: &Arc<Ledger>, leadership: Option<&Leadership>) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let gate = GateLayer::new(Arc::clone(ledger), leadership.cloned());
    builder.with_layer(&TimeoutLayer::new(TO_HEADERS)).with_layer(&gate).build()
}

/// Puts a [`Gate`] before a service.
#[derive(Debug, Clone)]
pub struct GateLayer {
    ledger: Arc<Ledger>,
    leadership: Option<Leadership>,
}

impl GateLayer {
    /// A gate that writes into this ledger and lets writes through only while `leadership` is held.
    pub fn new(ledger: Arc<Ledger>, leadership: Option<Leadership>) -> Self {
        Self { ledger, leadership }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { inner, gate: self.clone() }
    }
}

/// Refuses writes while we do not lead, and keeps the ledger.
#[derive(Debug, Clone)]
pub struct Gate<S> {
    inner: S,
    gate: GateLayer,
}

impl<S, B> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let asked = Asked::of(request.method(), request.uri().path(), request.uri().query().unwrap_or_default());
        let ledger = Arc::clone(&self.gate.ledger);
        if asked.is_write() && self.gate.leadership.as_ref().is_some_and(|leadership| !leadership.is_held()) {
            ledger.answered(&asked, "fenced".into());
            return Box::pin(async { Err(NotLeading.into()) });
        }
        if asked.verb == "watch" {
            ledger.tried(&asked.resource);
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let outcome = match &answer {
                Ok(response) => response.status().as_u16().to_string(),
                Err(_) => "failed".to_owned(),
            };
            ledger.answered(&asked, outcome);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_named_by_verb_and_resource() {
        for (method, path, query, verb, resource) in [
            (Method::GET, "/api/v1/namespaces/jam/secrets/a", "", "get", "secrets"),
            (Method::GET, "/api/v1/namespaces", "", "list", "namespaces"),
            (Method::GET, "/api/v1/namespaces/jam", "", "get", "namespaces"),
            (Method::GET, "/apis/apps/v1/deployments", "limit=5&watch=true", "watch", "deployments"),
            (
                Method::PATCH,
                "/apis/jam.network/v1alpha1/namespaces/jam/jaminstances/main/status",
                "",
                "patch",
                "jaminstances/status",
            ),
            (Method::GET, "/apis", "", "list", "discovery"),
        ] {
            let asked = Asked::of(&method, path, query);
            assert_eq!((asked.verb, asked.resource.as_str()), (verb, resource), "{path}");
        }
    }

    #[tokio::test]
    async fn a_write_does_not_leave_while_another_may_lead() {
        let ledger = Arc::new(Ledger::default());
        let layer = GateLayer::new(Arc::clone(&ledger), Some(Leadership::none()));
        let mut gate = layer
            .layer(tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) }));
        let mut ask = |method: Method| {
            let request = Request::builder().method(method).uri("/api/v1/namespaces/a/secrets/b").body(Body::empty());
            gate.call(request.unwrap())
        };
        assert!(ask(Method::GET).await.is_ok(), "reads pass");
        assert!(ask(Method::PATCH).await.unwrap_err().is::<NotLeading>());
        assert_eq!(ledger.requests().len(), 2);
    }
}
