//! Load on a real server, a record of what was promised under it, and the audit of what is left after a crash.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use jam_domain::PreimageHash;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::api_support::{Server, TOKEN, package};
use crate::cli_support::slctl_with;
use crate::support::postgres;

/// Chains that the load writes to.
const SERVICES: usize = 3;
/// Submitters at once; uploaders and processors come on top.
const SUBMITTERS: usize = 8;

/// What clients were told, and what they do not know.
#[derive(Default)]
pub struct Record {
    /// Key of each accepted submission, and the id that was answered.
    accepted: Mutex<BTreeMap<String, String>>,
    /// Submissions without a good answer: stored or not, nobody knows yet.
    open: Mutex<BTreeMap<String, Value>>,
    /// Bodies of uploads that were answered with 201.
    blobs: Mutex<Vec<Vec<u8>>>,
    /// How often each status was answered; 0 is no answer.
    pub statuses: Mutex<BTreeMap<u16, usize>>,
}

/// A server on a database, with room for everything.
pub async fn serve(dsn: &str) -> Server {
    let settings = [("JAM_STORE", "postgres"), ("JAM_PG_DSN", dsn), ("JAM_MAX_PENDING_PACKAGES", "0")];
    Server::with(&settings).await
}

impl Record {
    /// Submits, uploads and processes until told to stop, or until nobody answers.
    pub async fn load(&self, server: &Server, round: usize, stop: &AtomicBool) {
        let shared = [server.upload(b"shared one").await, server.upload(b"shared two").await];
        let submitters = (0..SUBMITTERS).map(|n| self.submit_on(server, format!("{round}-{n}"), &shared, stop));
        let uploaders = (0..2).map(|n| self.upload_on(server, format!("{round}-{n}"), stop));
        let processors = (0..2).map(|_| self.process_on(server, stop));
        tokio::join!(join_all(submitters), join_all(uploaders), join_all(processors));
    }

    async fn submit_on(&self, server: &Server, name: String, shared: &[String; 2], stop: &AtomicBool) {
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            let key = format!("{name}-{n}");
            let mut body = package(&format!("s{}", n % SERVICES), &key);
            body["preimage_hashes"] = json!(shared[n % 2..]);
            body["items"][0]["preimage_hashes"] = json!([shared[1]]);
            if !self.submit(server, &key, &body).await {
                return;
            }
            n += 1;
        }
    }

    /// One submission; false when nobody answered.
    pub async fn submit(&self, server: &Server, key: &str, body: &Value) -> bool {
        self.open.lock().unwrap().insert(key.to_owned(), body.clone());
        let request = server.request("POST", "/jam/packages").header("idempotency-key", key).body(body.to_string());
        let Some((status, bytes)) = self.told(request).await else { return false };
        if status == 201 || status == 200 {
            let stored: Value = serde_json::from_slice(&bytes).unwrap();
            self.open.lock().unwrap().remove(key);
            self.accepted.lock().unwrap().insert(key.to_owned(), stored["id"].as_str().unwrap().to_owned());
        }
        true
    }

    async fn upload_on(&self, server: &Server, name: String, stop: &AtomicBool) {
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            let bytes = format!("{name}-{n}-").repeat(10_000).into_bytes();
            let path = format!("/jam/preimages/{}", PreimageHash::of(&bytes));
            match self.told(server.request("PUT", &path).body(bytes.clone())).await {
                Some((201, _)) => self.blobs.lock().unwrap().push(bytes),
                Some(_) => {}
                None => return,
            }
            n += 1;
        }
    }

    async fn process_on(&self, server: &Server, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            if self.told(server.request("POST", "/jam/process?limit=7")).await.is_none() {
                return;
            }
        }
    }

    /// The answer, whole; `None` when the connection broke first. An answer that says no says so as the contract wants.
    async fn told(&self, request: RequestBuilder) -> Option<(u16, Vec<u8>)> {
        // One connection for each request: a kept one that the server closes just now would look like a cut request.
        let answered = async {
            let response = request.header("connection", "close").send().await?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            Ok::<_, reqwest::Error>((status, headers, response.bytes().await?))
        };
        let answered = answered.await;
        let status = answered.as_ref().map_or(0, |(status, ..)| *status);
        *self.statuses.lock().unwrap().entry(status).or_default() += 1;
        let (status, headers, bytes) = match answered {
            Ok(answer) => answer,
            Err(error) => {
                assert!(!error.is_timeout(), "a request hangs");
                return None;
            }
        };
        if status >= 400 {
            assert_eq!(status, 503, "{}", String::from_utf8_lossy(&bytes));
            let body: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(body["code"], "jam_store_unavailable", "{body}");
            assert!(headers.contains_key("retry-after"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some((status, bytes.to_vec()))
    }

    /// Waits until so many more submissions were accepted: by count, not by time, a busy machine is slow.
    pub async fn more(&self, count: usize) {
        let wanted = self.accepted() + count;
        let waiting = async {
            while self.accepted() < wanted {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        };
        let passed = tokio::time::timeout(Duration::from_mins(1), waiting).await;
        assert!(passed.is_ok(), "{} of {wanted} accepted: {:?}", self.accepted(), self.statuses.lock().unwrap());
    }

    /// How many submissions were answered with success so far.
    pub fn accepted(&self) -> usize {
        self.accepted.lock().unwrap().len()
    }

    /// How many submissions nobody knows the fate of.
    pub fn open(&self) -> usize {
        self.open.lock().unwrap().len()
    }

    /// Checks every promise: each 201 is there once, what was open is stored once when it is sent again, every chain is
    /// whole and fits the records, refcounts are what the packages say.
    pub async fn audit(&self, server: &Server, dsn: &str) {
        let open = self.open.lock().unwrap().clone();
        for (key, body) in &open {
            assert!(self.submit(server, key, body).await);
        }
        assert!(self.open.lock().unwrap().is_empty());
        let accepted = self.accepted.lock().unwrap().clone();
        for (key, id) in &accepted {
            let stored = server.get(&format!("/jam/packages/{id}")).await.expect(200).json();
            assert_eq!(stored["nonce"], **key);
        }
        while server.post("/jam/process?limit=100", &Value::Null).await.status != 204 {}
        let blobs = self.blobs.lock().unwrap().clone();
        for bytes in blobs {
            let path = format!("/jam/preimages/{}", PreimageHash::of(&bytes));
            assert!(server.get(&path).await.expect(200).bytes == bytes);
        }
        self.audit_tables(dsn, i64::try_from(accepted.len()).unwrap()).await;
        for service in 0..SERVICES {
            verified(server, &format!("s{service}"));
        }
    }

    async fn audit_tables(&self, dsn: &str, accepted: i64) {
        let number = async |sql| postgres::number(dsn, sql).await;
        assert_eq!(number("select count(*) from packages").await, accepted, "each once, none besides");
        assert_eq!(number("select count(distinct idempotency_key) from packages").await, accepted);
        assert_eq!(number("select count(*) from packages where status <> 'applied'").await, 0);
        assert_eq!(number("select count(distinct package_id) from reports").await, accepted);
        assert_eq!(number("select count(*) from reports").await, accepted);
        assert_eq!(number("select count(*) from attestations").await, accepted);
        assert_eq!(number("select count(*) from receipts where entry_type = 'package'").await, accepted);
        let of_reports = "select count(distinct extra->>'report_id') from receipts where entry_type = 'report'";
        assert_eq!(number(of_reports).await, accepted);
        assert_eq!(number("select count(*) from receipts").await, 2 * accepted);
        let wrong = "select count(*) from preimages i where refcount <>
            (select count(*) from packages p where p.body::text like '%' || encode(i.hash, 'hex') || '%')";
        assert_eq!(number(wrong).await, 0, "refcounts");
        let lost = "select count(*) from preimages i where size <>
            (select coalesce(sum(length(bytes)), 0) from blob_chunks c where c.blob = i.blob)";
        assert_eq!(number(lost).await, 0, "bytes of blobs");
    }
}

/// Verifies a chain with slctl.
fn verified(server: &Server, service: &str) {
    let environment = [("SERVICE_LAYER_ADDR", server.address.as_str()), ("SERVICE_LAYER_TOKEN", TOKEN)];
    let ran = slctl_with(&environment, &["jam", "verify", "--service", service]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
}
