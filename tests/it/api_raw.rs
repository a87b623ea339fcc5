//! What no HTTP client would send, byte by byte, and a database that fails every statement.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::api_support::PATIENCE;
use crate::support::postgres;

/// The words of a database that no client may ever read.
pub const INSIDE: &str = "hush-from-inside-the-database";

/// An answer as it came over the wire.
#[derive(Debug)]
#[allow(dead_code, reason = "`head` is for the message of a test that fails")]
pub struct RawAnswer {
    /// 0 when the connection was closed without an answer.
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl RawAnswer {
    pub fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn of(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }
}

/// A connection to a server.
pub async fn connect(address: &str) -> TcpStream {
    TcpStream::connect(address.trim_start_matches("http://")).await.unwrap()
}

/// Reads until the server closes the connection, which it has to do in time.
pub async fn read_to_end(stream: &mut TcpStream) -> RawAnswer {
    let mut bytes = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the server closes in time");
    // A reset after the answer is an end, too.
    let _ = ended;
    RawAnswer::of(&bytes)
}

/// Reads one answer with a length, and leaves the connection open.
pub async fn read_answer(stream: &mut TcpStream) -> RawAnswer {
    let mut bytes = Vec::new();
    loop {
        let count = timeout(PATIENCE, stream.read_buf(&mut bytes)).await.expect("an answer in time").unwrap();
        let answer = RawAnswer::of(&bytes);
        let length = answer.head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let whole = length.is_some_and(|length| length.trim().parse() == Ok(answer.body.len()));
        if count == 0 || whole {
            return answer;
        }
    }
}

/// Sends these bytes, asks for the connection to end, and reads the answer.
pub async fn raw(address: &str, bytes: &[u8]) -> RawAnswer {
    let mut stream = connect(address).await;
    // The server may refuse before everything is sent.
    let _ = timeout(Duration::from_secs(10), stream.write_all(bytes)).await;
    read_to_end(&mut stream).await
}

/// A figure of a process's memory in KiB: `VmRSS` is what it holds, `VmHWM` the most that it ever held.
pub fn memory(pid: &str, figure: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{figure}:"))).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// How many files and sockets a process has open.
pub fn descriptors(pid: &str) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// The head of a request that ends the connection.
pub fn head(method: &str, path: &str, token: &str, headers: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n{headers}\r\n"
    )
}

/// A body in chunks, of which the second has no size.
pub async fn broken_chunk(address: &str, method: &str, path: &str, token: &str) -> RawAnswer {
    let head = head(method, path, token, "content-type: text/plain\r\ntransfer-encoding: chunked\r\n");
    raw(address, format!("{head}2\r\nbl\r\nzz\r\n\r\n").as_bytes()).await
}

/// From now on every statement on the tables of this database fails with words from inside.
pub async fn sabotage(dsn: &str) {
    let sql = format!(
        "create function fail() returns boolean language plpgsql volatile as $$ begin raise exception '{INSIDE}'; end $$;
         create function fail_row() returns trigger language plpgsql as $$ begin raise exception '{INSIDE}'; end $$;
         do $$ declare t text; begin
           for t in select tablename from pg_tables where schemaname = 'public' and tablename <> '_sqlx_migrations' loop
             execute format('create trigger fail before insert or update or delete on %I execute function fail_row()', t);
             execute format('alter table %I rename to %I', t, t || '_behind');
             execute format('create view %I as select * from %I where (select fail())', t, t || '_behind');
           end loop;
         end $$;"
    );
    postgres::execute(dsn, &sql).await;
}
