//! The server: connections in, requests to a service, and a stop that finishes what is in flight.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection;

/// Connections at once; more wait in the kernel's queue. With what is read ahead of each, strangers who have shown no token
/// hold 64 MiB, or twice that in the slack of their buffers: the smallest pod survives that.
const MOST_CONNECTIONS: usize = 2000;
/// How long what is in flight may take after the stop.
const LAST_REQUESTS: Duration = Duration::from_secs(30);
/// How long to wait when no connection can be taken, e.g. for want of file descriptors.
const BREATH: Duration = Duration::from_millis(50);
/// How long connections that the kernel made before the stop are taken after it, and how long without one is the last.
const LAST_CONNECTIONS: Duration = Duration::from_secs(1);

/// Serves connections of the listener until the stop, then finishes the requests that were sent before. A client may take
/// `patience` for a request's head, idle so long between two requests, and leave an answer unread so long, or a list a third of it.
pub async fn run<S, F>(listener: TcpListener, service: S, patience: Duration, stop: CancellationToken)
where
    S: Fn(IpAddr, Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let open = TaskTracker::new();
    let begin = |(stream, peer, place): Arrived| {
        let serving = connection::serve(stream, peer, service.clone(), patience, stop.clone());
        open.spawn(async move {
            serving.await;
            drop(place);
        });
    };
    while let Some(arrived) = stop.run_until_cancelled(next(&listener, &room)).await {
        begin(arrived);
    }
    // Whoever is in the kernel's queue has been told that it is connected: closing the listener would cut it off.
    let end = Instant::now() + LAST_CONNECTIONS;
    while Instant::now() < end
        && let Ok(arrived) = timeout(BREATH, next(&listener, &room)).await
    {
        begin(arrived);
    }
    drop(listener);
    open.close();
    if timeout(LAST_REQUESTS, open.wait()).await.is_err() {
        tracing::warn!("requests were still in flight 30 s after the stop");
    }
}

/// A connection, who is at its other end, and its place among those that are served at once.
type Arrived = (TcpStream, IpAddr, Option<OwnedSemaphorePermit>);

/// The next connection, once there is room for it.
async fn next(listener: &TcpListener, room: &Arc<Semaphore>) -> Arrived {
    let place = room.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Answers are written in few pieces; waiting to fill a packet would only delay the last one.
                let _ = stream.set_nodelay(true);
                return (stream, peer.ip(), place);
            }
            Err(error) => {
                tracing::warn!(%error, "no connection could be taken");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}
