//! Readers of events while servers and database are killed and started again: each event once, in order, for each reader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::api_support::{Server, TOKEN, package};
use crate::crash_support::serve;
use crate::events_support::{Message, Stream, client};
use crate::support::postgres;

const READERS: usize = 10;
/// Events of one package: submitted, its receipt, refined, its receipt, applied.
const EACH: usize = 5;
/// A break or a refusal while something is dead.
const PAUSE: Duration = Duration::from_millis(50);
/// How long all of it may take: it depends on the machine, and a reader that waits for ever must fail.
const WITHIN: Duration = Duration::from_mins(15);

/// Two servers that change their addresses as they die, and what is known meanwhile.
struct World {
    addresses: Mutex<Vec<String>>,
    submitted: AtomicUsize,
    read: AtomicUsize,
    breaks: AtomicUsize,
    done: AtomicBool,
    packages: usize,
}

/// What one reader was told. One keeps all of it; of a million messages the others keep what tells whether theirs were the same.
#[derive(Default)]
struct Story {
    ids: Vec<String>,
    words: Sha256,
    whole: Vec<Message>,
}

impl Story {
    fn goes_on(&mut self, message: Message, keeps: bool) {
        self.words.update(format!("{} {} {}\n", message.id, message.event, message.data));
        self.ids.push(message.id.clone());
        self.whole.extend(keeps.then_some(message));
    }
}

impl World {
    fn address(&self, n: usize) -> String {
        self.addresses.lock().unwrap()[n % 2].clone()
    }

    /// Submits packages until there are enough, each by a key, so that one that was cut is not stored twice.
    async fn submit(&self, submitter: usize) {
        let client = client();
        loop {
            let n = self.submitted.fetch_add(1, Ordering::Relaxed);
            if n >= self.packages {
                return;
            }
            let body = package(&format!("s{}", n % 7), &n.to_string()).to_string();
            for tried in submitter.. {
                let post = client.post(format!("{}/jam/packages", self.address(tried))).bearer_auth(TOKEN);
                let post = post.header("idempotency-key", n.to_string()).body(body.clone());
                match timeout(Duration::from_secs(10), post.send()).await {
                    Ok(Ok(answer)) if answer.status().is_success() => break,
                    _ => sleep(PAUSE).await,
                }
            }
        }
    }

    async fn process(&self, n: usize) {
        let client = client();
        while !self.done.load(Ordering::Relaxed) {
            let post = client.post(format!("{}/jam/process?limit=17", self.address(n))).bearer_auth(TOKEN);
            match timeout(Duration::from_secs(10), post.send()).await {
                Ok(Ok(answer)) if answer.status() == 200 => {}
                _ => sleep(PAUSE).await,
            }
        }
    }

    /// Follows from the first event to the last, at one server and the other, from wherever the stream broke.
    async fn follow(&self, reader: usize) -> Story {
        let (client, mut story, mut last) = (client(), Story::default(), "0".to_owned());
        for attempt in reader.. {
            let url = format!("{}/jam/events", self.address(attempt));
            let get = client.get(url).bearer_auth(TOKEN).header("last-event-id", &last);
            match timeout(Duration::from_secs(10), get.send()).await {
                Ok(Ok(response)) if response.status() == 200 => {
                    let mut stream = Stream::reading(response);
                    while let Some(message) = stream.message().await {
                        last.clone_from(&message.id);
                        if !message.event.is_empty() {
                            story.goes_on(message, reader == 0);
                            self.read.fetch_max(story.ids.len(), Ordering::Relaxed);
                        }
                        if story.ids.len() >= self.packages * EACH {
                            return story;
                        }
                    }
                    self.breaks.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Ok(response)) => assert_eq!(response.status(), 503),
                Ok(Err(_)) | Err(_) => {}
            }
            sleep(PAUSE).await;
        }
        story
    }

    /// Waits until a part of the events was read.
    async fn has_read(&self, part: usize, of: usize) {
        while self.read.load(Ordering::Relaxed) < self.packages * EACH * part / of {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Kills everything there is, in turn, while events go by.
    async fn havoc(&self, database: Arc<postgres::Server>, dsn: &str, mut servers: Vec<Server>) -> Vec<Server> {
        for blow in 1..=6 {
            self.has_read(blow, 8).await;
            if blow % 3 == 0 {
                database.kill().await;
                sleep(Duration::from_millis(200)).await;
                let killed = Arc::clone(&database);
                spawn_blocking(move || killed.start()).await.unwrap();
                continue;
            }
            let victim = blow % 2;
            if blow < 4 {
                // SIGKILL goes with the value.
                drop(std::mem::replace(&mut servers[victim], serve(dsn).await));
            } else {
                let mut stopped = std::mem::replace(&mut servers[victim], serve(dsn).await);
                stopped.signal("TERM").await;
                assert!(stopped.ended().await.success());
            }
            self.addresses.lock().unwrap()[victim].clone_from(&servers[victim].address);
        }
        servers
    }
}

/// The one true story: every package with its five events in their order, every receipt once.
fn audit(events: &[Message], packages: usize) {
    assert!(events.windows(2).all(|pair| pair[0].id < pair[1].id), "ids rise");
    let of = |kind: &str| events.iter().filter(|told| told.event == kind).collect::<Vec<_>>();
    for kind in ["package.submitted", "package.refined", "package.applied"] {
        let ids: BTreeSet<_> = of(kind).iter().map(|told| told.data["package_id"].to_string()).collect();
        assert_eq!((of(kind).len(), ids.len()), (packages, packages), "{kind}");
    }
    let mut of_package: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for told in events {
        of_package.entry(told.data["package_id"].to_string()).or_default().push(&told.event);
    }
    let whole =
        ["package.submitted", "receipt.appended", "package.refined", "receipt.appended", "package.applied"].to_vec();
    assert!(of_package.values().all(|story| *story == whole), "what happened to a package is told in its order");
    let link = |told: &&Message| (told.data["service_id"].to_string(), told.data["receipt"]["seq"].as_u64());
    let links: BTreeSet<_> = of("receipt.appended").iter().map(link).collect();
    assert_eq!(links.len(), 2 * packages, "each link once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn ten_readers_see_each_event_once_in_order_while_servers_and_database_die() {
    // As many as the contract says; JAM_EVENTS_TEST for fewer or more.
    let events = std::env::var_os("JAM_EVENTS_TEST").map_or(100_000, |n| n.to_str().unwrap().parse().unwrap());
    let packages = events / EACH;
    let database = Arc::new(postgres::Server::private());
    let dsn = database.migrated_database().await;
    let servers = vec![serve(&dsn).await, serve(&dsn).await];
    let world = World {
        addresses: Mutex::new(servers.iter().map(|server| server.address.clone()).collect()),
        submitted: AtomicUsize::new(0),
        read: AtomicUsize::new(0),
        breaks: AtomicUsize::new(0),
        done: AtomicBool::new(false),
        packages,
    };
    let all = async {
        let following = async {
            let stories = join_all((0..READERS).map(|reader| world.follow(reader))).await;
            world.done.store(true, Ordering::Relaxed);
            stories
        };
        tokio::join!(
            following,
            world.havoc(Arc::clone(&database), &dsn, servers),
            join_all((0..16).map(|n| world.submit(n))),
            join_all((0..3).map(|n| world.process(n))),
        )
    };
    let (stories, servers, ..) = timeout(WITHIN, all).await.expect("every reader gets to the end");
    audit(&stories[0].whole, packages);
    for story in &stories[1..] {
        let other = story.ids.iter().zip(&stories[0].ids).find(|(one, other)| one != other);
        assert_eq!((other, story.ids.len()), (None, stories[0].ids.len()), "every reader was told of the same");
        assert_eq!(story.words.clone().finalize(), stories[0].words.clone().finalize(), "in the same words");
    }
    assert!(world.breaks.load(Ordering::Relaxed) >= READERS, "every stream broke");
    // Nothing more comes: what is left is silence.
    let last = stories[0].ids.last().unwrap();
    let mut rest = Stream::of(&servers[0], TOKEN, "", Some(last)).await;
    assert_eq!(servers[1].post("/jam/process", &Value::Null).await.status, 204);
    servers[1].submit("s0", "the last one").await;
    assert_eq!(rest.event().await.unwrap().data["service_id"], "s0");
}
