//! A socket that gives up on a client which does not take its answer: the answer holds memory that others wait for.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::connection::Turns;
use super::unspoken;

/// Bytes that have to be taken for each time that we are patient, as of a body that comes.
const PROGRESS: usize = 64 << 10;

/// Which part of the patience a client has for an answer that holds room for which others wait.
const FOR_ROOM: u32 = 3;

/// A stream whose writes fail once the peer has let us wait too long for too little.
pub struct Patient {
    stream: TcpStream,
    stall: Duration,
    deadline: Pin<Box<Sleep>>,
    /// When the wait began that is going on.
    waiting: Option<Instant>,
    /// Time waited since enough was taken last.
    waited: Duration,
    taken: usize,
    turns: Arc<Turns>,
    /// What is written instead of an answer of hyper's own, and the length of that.
    instead: Option<(Bytes, usize)>,
}

impl Patient {
    /// Gives up after waiting so long for less than 64 KiB to be taken; a third of that where others wait for the room.
    pub fn new(stream: TcpStream, stall: Duration, turns: Arc<Turns>) -> Self {
        let deadline = Box::pin(sleep(stall));
        Self { stream, stall, deadline, waiting: None, waited: Duration::ZERO, taken: 0, turns, instead: None }
    }

    fn watched(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = write(Pin::new(&mut self.stream), context) {
            if let Some(since) = self.waiting.take() {
                self.waited += since.elapsed();
            }
            self.took(*written.as_ref().unwrap_or(&0));
            return Poll::Ready(written);
        }
        if self.waiting.is_none() {
            let now = Instant::now();
            self.waiting = Some(now);
            let stall = if self.turns.is_holding_room() { self.stall / FOR_ROOM } else { self.stall };
            self.deadline.as_mut().reset(now + stall.saturating_sub(self.waited));
        }
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client stopped reading, or reads too slowly")))
    }

    fn took(&mut self, count: usize) {
        self.taken += count;
        if self.taken >= PROGRESS {
            (self.taken, self.waited) = (0, Duration::ZERO);
        }
    }

    /// Writes our words in place of hyper's, and then says that hyper's were written.
    fn speak(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        while let Some((mut left, stands_for)) = self.instead.take() {
            if left.is_empty() {
                return Poll::Ready(Ok(stands_for));
            }
            let written = self.watched(context, |stream, context| stream.poll_write(context, &left));
            if let Poll::Ready(Ok(count)) = written {
                left.advance(count);
            }
            self.instead = Some((left, stands_for));
            ready!(written)?;
        }
        Poll::Ready(Ok(0))
    }

    /// Whether these bytes are an answer of hyper's own, which has no body.
    fn is_unspoken(&mut self, bytes: &[u8]) -> bool {
        if self.instead.is_none() && !self.turns.is_streaming() {
            self.instead = unspoken::said(bytes).map(|answer| (answer, bytes.len()));
        }
        self.instead.is_some()
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_unspoken(bytes) {
            return self.speak(context);
        }
        self.watched(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(first) = parts.first()
            && self.is_unspoken(first)
        {
            return self.speak(context);
        }
        self.watched(context, |stream, context| stream.poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    async fn pair() -> (Patient, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Patient::new(listener.accept().await.unwrap().0, Duration::from_millis(200), Arc::default()), client)
    }

    #[tokio::test]
    async fn a_client_that_stops_reading_is_given_up() {
        let (mut server, _client) = pair().await;
        let error = server.write_all(&vec![0; 64 << 20]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_holds_room_for_which_others_wait_is_given_up_sooner() {
        let (mut server, _client) = pair().await;
        server.stall = Duration::from_secs(6);
        let list = server.turns.stream(true);
        let began = Instant::now();
        let error = server.write_all(&vec![0; 64 << 20]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < Duration::from_secs(5));
        drop(list);
        assert!(!server.turns.is_holding_room());
    }

    #[tokio::test]
    async fn a_client_that_takes_a_little_now_and_then_is_given_up_as_well() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        // Buffers of the kernel would pass the little on in large pieces.
        socket.set_recv_buffer_size(4096).unwrap();
        let mut client = socket.connect(listener.local_addr().unwrap()).await.unwrap();
        let accepted = listener.accept().await.unwrap().0;
        let mut server = Patient::new(accepted, Duration::from_millis(300), Arc::default());
        let reader = tokio::spawn(async move {
            let mut bytes = vec![0; 512];
            while client.read(&mut bytes).await.is_ok_and(|count| count > 0) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let error = loop {
            match server.write(&[0; 512]).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        reader.abort();
    }

    #[tokio::test]
    async fn a_client_that_reads_slowly_is_not() {
        let (mut server, mut client) = pair().await;
        let sent = tokio::spawn(async move { server.write_all(&vec![0; 16 << 20]).await });
        let (mut bytes, mut left) = (vec![0; 1 << 20], 16_usize << 20);
        while left > 0 {
            left -= client.read(&mut bytes).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(sent.await.unwrap().is_ok());
    }
}
