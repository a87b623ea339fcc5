//! One connection: its requests, and an end that answers what was sent before the stop.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request};
use axum::response::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::eager::eagerly;
use super::patient::Patient;

/// Bytes that hyper reads ahead of one connection at most; also the largest head.
const READ_AHEAD: usize = 32 * 1024;
/// How long a connection without a request is kept after the stop: what its client sent before still comes.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The requests of one connection.
#[derive(Default)]
pub struct Turns {
    answering: AtomicUsize,
    streaming: AtomicUsize,
    holding: AtomicUsize,
    begun: Notify,
}

/// Counts until it is dropped.
struct Count<'a>(&'a AtomicUsize);

impl<'a> Count<'a> {
    fn of(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Marks an answer that holds room for which others wait.
#[derive(Clone)]
pub struct HoldsRoom;

/// A body that is on its way out.
pub struct Stream {
    turns: Arc<Turns>,
    /// One when it holds room for which others wait.
    holding: usize,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.turns.streaming.fetch_sub(1, Ordering::Relaxed);
        self.turns.holding.fetch_sub(self.holding, Ordering::Relaxed);
    }
}

impl Turns {
    /// Whether bytes that a client chose may be on their way out.
    pub fn is_streaming(&self) -> bool {
        self.streaming.load(Ordering::Relaxed) > 0
    }

    /// Whether one of them holds room for which others wait.
    pub fn is_holding_room(&self) -> bool {
        self.holding.load(Ordering::Relaxed) > 0
    }

    /// Counts a body that begins its way out.
    pub fn stream(self: &Arc<Self>, holds_room: bool) -> Stream {
        let holding = usize::from(holds_room);
        self.streaming.fetch_add(1, Ordering::Relaxed);
        self.holding.fetch_add(holding, Ordering::Relaxed);
        Stream { turns: self.clone(), holding }
    }

    async fn answer<S, F>(self: Arc<Self>, service: S, peer: IpAddr, request: Request<Incoming>) -> Response
    where
        S: Fn(IpAddr, Request<Incoming>) -> F,
        F: Future<Output = Response>,
    {
        // Only who waits now is told: a request of long ago is no last one.
        self.begun.notify_waiters();
        let _answering = Count::of(&self.answering);
        let response = service(peer, request).await;
        if response.body().size_hint().exact().is_some() {
            return response;
        }
        let stream = self.stream(response.extensions().get::<HoldsRoom>().is_some());
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _on_its_way = &stream;
                frame
            }))
        })
    }
}

/// Serves one connection until its client ends it, or until what was sent before the stop is answered.
pub async fn serve<S, F>(stream: TcpStream, peer: IpAddr, service: S, patience: Duration, stop: CancellationToken)
where
    S: Fn(IpAddr, Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let turns = Arc::new(Turns::default());
    let (answered, stopping) = (turns.clone(), stop.clone());
    let answer = service_fn(move |request| {
        let (turns, service, stopping) = (answered.clone(), service.clone(), stopping.clone());
        async move {
            // Boxed: a connection that reads a stream for hours does not go on holding what it took to make the answer.
            let mut response = Box::pin(turns.answer(service, peer, request)).await;
            // Told, the client sends nothing more on this connection: what it sent would be lost with it.
            if stopping.is_cancelled() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        // A client that has sent everything and closed its side still waits for the answer.
        .half_close(true)
        .max_buf_size(READ_AHEAD)
        // The buffer grows by doubling and may hold more than it asks for: the limit of a head is a limit of its own.
        .max_header_size(READ_AHEAD)
        .serve_connection(TokioIo::new(Patient::new(stream, patience, turns.clone())), answer);
    let mut connection = pin!(connection);
    let stopped = async {
        stop.cancelled().await;
        let mut begun = pin!(turns.begun.notified());
        begun.as_mut().enable();
        // Hyper closes a connection on which it has read nothing yet, whatever lies in the socket: it gets one more turn.
        if turns.answering.load(Ordering::Relaxed) == 0 {
            let _ = tokio::time::timeout(LAST_WORD, begun).await;
        }
    };
    let ended = tokio::select! {
        ended = eagerly(connection.as_mut()) => ended,
        () = stopped => {
            connection.as_mut().graceful_shutdown();
            eagerly(connection).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}
