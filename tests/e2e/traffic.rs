//! Load that counts every answer: on new connections, on kept ones, reading and writing.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, RequestBuilder};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::{Instance, client, eventually};

/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(20);

/// What one client got.
#[derive(Default)]
struct Got {
    good: u64,
    bad: Vec<String>,
}

/// Clients that ask without end: who is alive, the status and a submission, each on new connections or on one that is kept.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<(&'static str, JoinHandle<Got>)>,
}

impl Load {
    /// Begins once the instance can be reached.
    pub async fn on(instance: &Instance) -> Self {
        let (endpoint, token) = (instance.endpoint(), instance.token());
        let alive = routable(&endpoint).await;
        let (status, packages) = (format!("{endpoint}/jam/status"), format!("{endpoint}/jam/packages"));
        let stop = Arc::<AtomicBool>::default();
        let start = |what, client: Client, ask: Box<dyn Fn(&Client) -> RequestBuilder + Send>| {
            (what, tokio::spawn(asking(client, ask, Arc::clone(&stop))))
        };
        let (own, other) = (token.clone(), token);
        let clients = vec![
            start("healthz, new connections", client(), Box::new(move |client| client.get(&alive))),
            start("status, a kept connection", kept(), Box::new(move |client| client.get(&status).bearer_auth(&own))),
            start(
                "submissions, a kept connection",
                kept(),
                Box::new(move |client| {
                    let work = format!("{:032x}", rand::random::<u128>());
                    let items = json!([{"kind": "load", "params_hash": work, "preimage_hashes": []}]);
                    client.post(&packages).bearer_auth(&other).json(&json!({"service_id": "load", "items": items}))
                }),
            ),
        ];
        Self { stop, clients }
    }

    /// The same on the paths that are served whether JAM is or not: who is alive, on new and on kept connections, and the document.
    pub async fn beside_jam(instance: &Instance) -> Self {
        let endpoint = instance.endpoint();
        let (alive, document) = (routable(&endpoint).await, format!("{endpoint}/openapi.json"));
        let stop = Arc::<AtomicBool>::default();
        let start = |what, client: Client, url: String| {
            let ask: Box<dyn Fn(&Client) -> RequestBuilder + Send> = Box::new(move |client| client.get(&url));
            (what, tokio::spawn(asking(client, ask, Arc::clone(&stop))))
        };
        let clients = vec![
            start("healthz, new connections", client(), alive.clone()),
            start("healthz, a kept connection", kept(), alive),
            start("openapi.json, a kept connection", kept(), document),
        ];
        Self { stop, clients }
    }

    /// Stops and insists that every request was answered well; hands back how many submissions there were.
    pub async fn all_answered(self) -> u64 {
        let (said, failed, submitted) = self.ended().await;
        assert!(failed.is_empty(), "{said}");
        submitted
    }

    /// Stops; every answer that was not a good one, and when it came.
    pub async fn failed(self) -> Vec<String> {
        self.ended().await.1
    }

    async fn ended(self) -> (String, Vec<String>, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut said, mut failed, mut submitted) = (String::new(), Vec::new(), 0);
        for (what, task) in self.clients {
            let Got { good, bad } = task.await.expect("a client does not panic");
            let _ =
                writeln!(said, "{what}: {good} good, {} bad {:#?}", bad.len(), bad.iter().take(8).collect::<Vec<_>>());
            assert!(good > 10, "too little load to say anything: {said}");
            failed.extend(bad);
            submitted = good;
        }
        println!("{said}");
        (said, failed, submitted)
    }
}

/// Waits until the Service of an instance reaches a pod, and returns the path that said so.
async fn routable(endpoint: &str) -> String {
    let alive = format!("{endpoint}/healthz");
    eventually("the Service to be routable", || async {
        let answer = client().get(&alive).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    alive
}

/// A client that keeps its connection as long as the server does.
fn kept() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().timeout(Duration::from_secs(10)).build().expect("a client without special settings can be built")
}

async fn asking(client: Client, ask: Box<dyn Fn(&Client) -> RequestBuilder + Send>, stop: Arc<AtomicBool>) -> Got {
    let (mut got, began) = (Got::default(), Instant::now());
    while !stop.load(Ordering::Relaxed) {
        match ask(&client).send().await {
            Ok(answer) if answer.status().is_success() => got.good += 1,
            Ok(answer) => got.bad.push(format!("after {:?}: {}", began.elapsed(), answer.status())),
            Err(error) => got.bad.push(format!("after {:?}: {error:?}", began.elapsed())),
        }
        tokio::time::sleep(PAUSE).await;
    }
    got
}
