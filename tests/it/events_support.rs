//! A reader of server-sent events, as far as the tests need one.

use std::time::Duration;

use reqwest::Response;
use serde_json::Value;
use tokio::time::timeout;

use crate::api_support::{PATIENCE, Server, TOKEN, until};
use crate::support::postgres;

/// One message of a stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Message {
    pub id: String,
    /// "" when there is only an id.
    pub event: String,
    pub data: Value,
}

/// Waits until every transaction of the database server that has begun to write by now has ended: readers go no further
/// than the oldest, and the tests share a server.
pub async fn settled(dsn: &str) {
    let mark = postgres::number(dsn, "select pg_current_xact_id()::text::bigint").await;
    let oldest = "select pg_snapshot_xmin(pg_current_snapshot())::text::bigint";
    until("the end of older transactions", async || (postgres::number(dsn, oldest).await > mark).then_some(())).await;
}

/// An open stream.
pub struct Stream {
    response: Response,
    text: String,
}

/// A client without a time limit for the whole answer.
pub fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().connect_timeout(Duration::from_secs(5)).build().unwrap()
}

impl Stream {
    /// Opens a stream that must be answered with 200.
    pub async fn open(server: &Server, query: &str) -> Self {
        Self::of(server, TOKEN, query, None).await
    }

    pub async fn of(server: &Server, token: &str, query: &str, last: Option<&str>) -> Self {
        let mut request = client().get(format!("{}/jam/events{query}", server.address)).bearer_auth(token);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = timeout(PATIENCE, request.send()).await.expect("an answer in time").unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Self::reading(response)
    }

    /// Reads an answer as a stream.
    pub fn reading(response: Response) -> Self {
        Self { response, text: String::new() }
    }

    /// The next message; `None` when the stream ended or broke.
    pub async fn message(&mut self) -> Option<Message> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let message = parsed(&self.text[..end]);
                self.text.drain(..end + 2);
                return Some(message);
            }
            let chunk = self.response.chunk().await.ok()??;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next event, which comes in time; `None` when the stream ended.
    pub async fn event(&mut self) -> Option<Message> {
        let next = async {
            loop {
                let message = self.message().await?;
                if !message.event.is_empty() {
                    return Some(message);
                }
            }
        };
        timeout(PATIENCE, next).await.expect("an event, or the end, in time")
    }

    /// So many events, as they come.
    pub async fn events(&mut self, count: usize) -> Vec<Message> {
        let mut events = Vec::new();
        while events.len() < count {
            events.push(self.event().await.expect("the stream goes on"));
        }
        events
    }
}

fn parsed(block: &str) -> Message {
    let mut message = Message::default();
    for line in block.lines() {
        match line.split_once(": ") {
            Some(("id", id)) => id.clone_into(&mut message.id),
            Some(("event", event)) => event.clone_into(&mut message.event),
            Some(("data", data)) => message.data = serde_json::from_str(data).unwrap(),
            Some(("retry", "2000")) => {}
            other => assert_eq!((other, line), (None, ":"), "a line of no stream"),
        }
    }
    message
}

/// The types of these events, in order.
pub fn types(events: &[Message]) -> Vec<&str> {
    events.iter().map(|message| message.event.as_str()).collect()
}
