//! Load that counts every answer: on new connections, on kept ones, reading and writing.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, RequestBuilder};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::{Instance, PATIENT, client, eventually};

/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(20);
/// What a pod answers while it cannot do its work: come again.
pub const PUT_OFF: &str = "503 Service Unavailable";
/// A Service without a ready pod turns new connections away; no pod and no operator can help that.
pub const TURNED_AWAY: &str = "no connection";

/// An answer that was not a good one.
#[derive(Debug)]
pub struct Failed {
    /// Who got it.
    pub client: &'static str,
    /// When, since the load began.
    pub after: Duration,
    /// Its status, or what came instead of one.
    pub what: String,
}

/// What one client got.
#[derive(Default)]
struct Got {
    good: u64,
    failed: Vec<Failed>,
    longest: Duration,
}

/// What all clients got.
pub struct Answers {
    /// How many requests there were.
    pub asked: u64,
    /// How many submissions were accepted.
    pub submitted: u64,
    /// Every answer that was not a good one.
    pub failed: Vec<Failed>,
    /// The longest time that one of the clients was without a good answer.
    pub longest: Duration,
    said: String,
}

impl Answers {
    /// Insists that what failed, failed in one of these ways.
    pub fn failed_only_as(&self, ways: &[&str]) {
        let is_other = |failed: &&Failed| !ways.iter().any(|way| failed.what.starts_with(way));
        let told = |failed: &Failed| format!("{} after {:?}: {}", failed.client, failed.after, failed.what);
        let other: Vec<_> = self.failed.iter().filter(is_other).take(8).map(told).collect();
        assert!(other.is_empty(), "more than {ways:?}: {other:#?}\n{}", self.said);
    }
}

type Ask = Box<dyn Fn(&Client) -> RequestBuilder + Send>;

/// A client, how often it was answered well so far, and what it got in the end.
struct Asker {
    what: &'static str,
    good: Arc<AtomicU64>,
    task: JoinHandle<Got>,
}

/// Clients that ask without end: who is alive, the status and a submission, each on new connections or on one that is kept.
pub struct Load {
    stop: Arc<AtomicBool>,
    askers: Vec<Asker>,
}

impl Load {
    /// Begins once the instance can be reached.
    pub async fn on(instance: &Instance) -> Self {
        Self::at(&instance.endpoint(), instance.token(), PAUSE).await
    }

    /// The same, more slowly, at one of its pods: whether that one is ready or not.
    pub async fn on_a_pod_of(instance: &Instance) -> Self {
        let pod = instance.pods().into_iter().next().expect("an instance that serves has a pod");
        let address = pod["status"]["podIP"].as_str().expect("a pod that serves has an address");
        Self::at(&format!("http://{address}:8080"), instance.token(), PAUSE * 5).await
    }

    async fn at(endpoint: &str, token: String, pause: Duration) -> Self {
        let alive = routable(endpoint).await;
        let (status, packages) = (format!("{endpoint}/jam/status"), format!("{endpoint}/jam/packages"));
        let (own, other) = (token.clone(), token);
        let submit: Ask = Box::new(move |client| {
            let work = format!("{:032x}", rand::random::<u128>());
            let items = json!([{"kind": "load", "params_hash": work, "preimage_hashes": []}]);
            client.post(&packages).bearer_auth(&other).json(&json!({"service_id": "load", "items": items}))
        });
        Self::of(
            pause,
            vec![
                ("healthz, new connections", client(), Box::new(move |client| client.get(&alive))),
                ("status, a kept connection", kept(), Box::new(move |client| client.get(&status).bearer_auth(&own))),
                ("submissions, a kept connection", kept(), submit),
            ],
        )
    }

    /// The same on the paths that are served whether JAM is or not: who is alive, on new and on kept connections, and the document.
    pub async fn beside_jam(instance: &Instance) -> Self {
        let endpoint = instance.endpoint();
        let (alive, document) = (routable(&endpoint).await, format!("{endpoint}/openapi.json"));
        let ask = |url: String| -> Ask { Box::new(move |client| client.get(&url)) };
        Self::of(
            PAUSE,
            vec![
                ("healthz, new connections", client(), ask(alive.clone())),
                ("healthz, a kept connection", kept(), ask(alive)),
                ("openapi.json, a kept connection", kept(), ask(document)),
            ],
        )
    }

    fn of(pause: Duration, clients: Vec<(&'static str, Client, Ask)>) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let start = |(what, client, ask): (&'static str, Client, Ask)| {
            let good = Arc::<AtomicU64>::default();
            let asking = asking((what, client, ask), pause, Arc::clone(&good), Arc::clone(&stop));
            Asker { what, good, task: tokio::spawn(asking) }
        };
        let askers = clients.into_iter().map(start).collect();
        Self { stop, askers }
    }

    /// Waits until every client was answered well again and again from now on.
    pub async fn is_served(&self) {
        for Asker { what, good, .. } in &self.askers {
            let before = good.load(Ordering::Relaxed);
            eventually(&format!("good answers to {what}"), || async {
                (good.load(Ordering::Relaxed) > before + 10).then_some(())
            })
            .await;
        }
    }

    /// Stops and insists that every request was answered well; hands back how many submissions there were.
    pub async fn all_answered(self) -> u64 {
        let answers = self.ended().await;
        assert!(answers.failed.is_empty(), "{}", answers.said);
        answers.submitted
    }

    /// Stops; what everybody got.
    pub async fn ended(self) -> Answers {
        self.stop.store(true, Ordering::Relaxed);
        let (mut said, mut failed, mut longest) = (String::new(), Vec::new(), Duration::ZERO);
        let (mut asked, mut submitted) = (0, 0);
        for Asker { what, task, good: _ } in self.askers {
            let got = task.await.expect("a client does not panic");
            let (count, first) = (got.failed.len(), got.failed.iter().take(8).collect::<Vec<_>>());
            let _ = writeln!(said, "{what}: {} good, {:?} without, {count} bad {first:#?}", got.good, got.longest);
            assert!(got.good > 10, "too little load to say anything: {said}");
            asked += got.good + count as u64;
            longest = longest.max(got.longest);
            if what.starts_with("submissions") {
                submitted = got.good;
            }
            failed.extend(got.failed);
        }
        println!("{said}");
        Answers { asked, submitted, failed, longest, said }
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
    Client::builder().timeout(PATIENT).build().expect("a client without special settings can be built")
}

async fn asking(
    (name, client, ask): (&'static str, Client, Ask),
    pause: Duration,
    good: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Got {
    let (mut got, began, mut last) = (Got::default(), Instant::now(), Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let answer = ask(&client).send().await;
        let what = match answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(answer.status().to_string()),
            Err(error) if error.is_connect() && !error.is_timeout() => Some(format!("{TURNED_AWAY}: {error:?}")),
            Err(error) => Some(format!("{error:?}")),
        };
        got.longest = got.longest.max(last.elapsed());
        if let Some(what) = what {
            got.failed.push(Failed { client: name, after: began.elapsed(), what });
        } else {
            got.good = good.fetch_add(1, Ordering::Relaxed) + 1;
            last = Instant::now();
        }
        tokio::time::sleep(pause).await;
    }
    got
}
