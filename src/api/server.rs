//! The server: connections in, requests to a service, and a stop that finishes what is in flight.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::patient::Patient;

/// Bytes that hyper reads ahead of one connection at most; also the largest head.
const READ_AHEAD: usize = 32 * 1024;
/// Connections at once; more wait in the kernel's queue. With what is read ahead of each, strangers who have shown no token
/// hold 64 MiB, or twice that in the slack of their buffers: the smallest pod survives that.
const MOST_CONNECTIONS: usize = 2000;
/// How long what is in flight may take after the stop.
const LAST_REQUESTS: Duration = Duration::from_secs(30);
/// How long to wait when no connection can be taken, e.g. for want of file descriptors.
const BREATH: Duration = Duration::from_millis(50);

/// Serves connections of the listener until the stop, then finishes the requests that are in flight. A client may take
/// `patience` for a request's head, idle so long between two requests, and leave an answer unread so long.
pub async fn run<S, F>(listener: TcpListener, service: S, patience: Duration, stop: CancellationToken)
where
    S: Fn(IpAddr, Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let open = GracefulShutdown::new();
    while let Some((stream, peer, place)) = stop.run_until_cancelled(next(&listener, &room)).await {
        let service = service.clone();
        let answer = service_fn(move |request| {
            // Boxed: a connection that reads a stream for hours does not go on holding what it took to make the answer.
            let answering = Box::pin(service(peer, request));
            async move { Ok::<_, Infallible>(answering.await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(patience)
            // A client that has sent everything and closed its side still waits for the answer.
            .half_close(true)
            .max_buf_size(READ_AHEAD)
            // The buffer grows by doubling and may hold more than it asks for: the limit of a head is a limit of its own.
            .max_header_size(READ_AHEAD)
            .serve_connection(TokioIo::new(Patient::new(stream, patience)), answer);
        let connection = open.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(LAST_REQUESTS, open.shutdown()).await.is_err() {
        tracing::warn!("requests were still in flight 30 s after the stop");
    }
}

/// The next connection, once there is room for it.
async fn next(listener: &TcpListener, room: &Arc<Semaphore>) -> (TcpStream, IpAddr, Option<OwnedSemaphorePermit>) {
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
