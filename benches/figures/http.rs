//! A client that costs next to nothing: requests as bytes over kept connections, answers by Content-Length.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// The token of every server here.
pub const TOKEN: &str = "a-token-of-the-figures";

/// One connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer.
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body, if the status is this one.
    pub fn expect(self, status: u16) -> Vec<u8> {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self.body
    }
}

impl Client {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("a TCP socket");
        Self { stream, buffer: Vec::with_capacity(16 * 1024) }
    }

    /// Sends head and body and reads the answer.
    pub async fn send(&mut self, head: &[u8], body: &[u8]) -> Answer {
        self.stream.write_all(head).await.expect("the server reads");
        self.stream.write_all(body).await.expect("the server reads");
        self.buffer.clear();
        loop {
            let count = self.stream.read_buf(&mut self.buffer).await.expect("the server answers");
            assert!(count > 0, "the server closed: {}", String::from_utf8_lossy(&self.buffer));
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                return self.rest(end + 4).await;
            }
        }
    }

    async fn rest(&mut self, start: usize) -> Answer {
        let head = String::from_utf8_lossy(&self.buffer[..start]).to_lowercase();
        let status = head.get(9..12).and_then(|digits| digits.parse().ok()).expect("a status line");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.map_or(0, |digits| digits.trim().parse().expect("a number"));
        while self.buffer.len() < start + length {
            let count = self.stream.read_buf(&mut self.buffer).await.expect("the server answers");
            assert!(count > 0, "the server closed in the middle of an answer");
        }
        Answer { status, body: self.buffer[start..start + length].to_vec() }
    }
}

/// The head of a request with a body of so many bytes.
pub fn head(method: &str, path: &str, length: usize) -> Vec<u8> {
    head_as(TOKEN, method, path, length)
}

/// The same with a token of its own.
pub fn head_as(token: &str, method: &str, path: &str, length: usize) -> Vec<u8> {
    let length = if length > 0 || method != "GET" { format!("content-length: {length}\r\n") } else { String::new() };
    format!("{method} {path} HTTP/1.1\r\nhost: figures\r\nauthorization: Bearer {token}\r\n{length}\r\n").into_bytes()
}

/// A small request as one piece.
pub fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let mut bytes = head(method, path, body.len());
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

/// What a load came to.
pub struct Load {
    /// How long all of it took.
    pub took: Duration,
    /// How long each request took.
    pub each: Vec<Duration>,
}

/// Sends `count` requests over so many connections at once, each the next when its answer is there; every answer must have
/// the status.
pub async fn load(
    address: SocketAddr,
    clients: usize,
    count: usize,
    status: u16,
    request: impl Fn(usize) -> Vec<u8> + 'static,
) -> Load {
    let (next, request, each) = (Rc::new(Cell::new(0)), Rc::new(request), Rc::new(RefCell::new(Vec::new())));
    let local = LocalSet::new();
    let started = Instant::now();
    let clients = (0..clients.min(count)).map(|_| {
        let (next, request, each) = (next.clone(), request.clone(), each.clone());
        local.spawn_local(async move {
            let mut client = Client::connect(address).await;
            while next.get() < count {
                let turn = next.get();
                next.set(turn + 1);
                let sent = Instant::now();
                client.send(&request(turn), &[]).await.expect(status);
                each.borrow_mut().push(sent.elapsed());
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    let all = async {
        for client in clients {
            client.await.expect("every answer has the status that was asked for");
        }
    };
    local.run_until(all).await;
    Load { took: started.elapsed(), each: each.take() }
}
