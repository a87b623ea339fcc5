//! One watch: its own backoff, errors that end here, and relists turned into differences.
//!
//! Errors never reach the queue. A shared backoff over all watches is what lets an operator idle for ever after an outage:
//! while one stream's pause sleeps, the connects of the others time out, each adding its own pause.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use kube::Resource;
use kube::core::Status;
use kube::runtime::watcher::{self, Event};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::backoff::{Jitter, WATCH};
use super::key::Key;

/// What a watch says.
#[derive(Debug)]
pub enum Change<K> {
    /// The object is there, new or changed.
    Seen(K),
    /// The object is gone, also when it went while the watch was cut.
    Gone(Key),
}

/// What is known about one watch: whether it has listed, and its errors.
#[derive(Debug)]
pub struct Pulse {
    kind: &'static str,
    /// The namespace, where not all are watched.
    place: Option<String>,
    listed: AtomicBool,
    listing: Notify,
    errors: AtomicU64,
    /// When it last told of something.
    told: Mutex<Option<Instant>>,
    /// Nothing is followed: the kind is not served.
    resting: AtomicBool,
    /// The API server has said last that it knows no such kind.
    unserved: AtomicBool,
}

impl Pulse {
    /// Of a watch that has not begun, of one namespace or of all.
    pub fn new(kind: &'static str, place: Option<&str>) -> Arc<Self> {
        Arc::new(Self {
            kind,
            place: place.map(str::to_owned),
            listed: AtomicBool::new(false),
            listing: Notify::new(),
            errors: AtomicU64::new(0),
            told: Mutex::default(),
            resting: AtomicBool::new(false),
            unserved: AtomicBool::new(false),
        })
    }

    /// The plural of what is watched.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The same with the namespace, where not all are watched.
    pub fn whole_name(&self) -> String {
        self.place.as_ref().map_or_else(|| self.kind.to_owned(), |place| format!("{} of namespace {place}", self.kind))
    }

    /// Whether the first list is complete.
    pub fn has_listed(&self) -> bool {
        self.listed.load(Ordering::Acquire)
    }

    /// Errors so far.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// When the watch last told of something, a list or a change.
    pub fn last_event(&self) -> Option<Instant> {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end of the first list.
    pub async fn listed(&self) {
        loop {
            let listing = self.listing.notified();
            if self.has_listed() {
                return;
            }
            listing.await;
        }
    }

    /// Whether nothing is followed, because the kind is not served: its silence is no sign.
    pub fn is_resting(&self) -> bool {
        self.resting.load(Ordering::Acquire)
    }

    /// Whether the API server has said last that it knows no such kind: its definition is gone.
    pub fn is_unserved(&self) -> bool {
        self.unserved.load(Ordering::Acquire)
    }

    /// The kind is not served: there is nothing to list, and nobody need wait for it.
    pub fn rest(&self) {
        self.resting.store(true, Ordering::Release);
        self.complete();
    }

    /// The kind is served and followed.
    pub fn wake(&self) {
        self.resting.store(false, Ordering::Release);
    }

    fn complete(&self) {
        self.unserved.store(false, Ordering::Release);
        self.listed.store(true, Ordering::Release);
        self.listing.notify_waiters();
    }
}

/// Whether the API server knows no such kind.
fn is_unknown(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

/// Follows a watch for as long as it is polled; ends only when the stream does, which the watcher's never does.
pub async fn follow<K: Resource>(
    stream: impl Stream<Item = watcher::Result<Event<K>>>,
    pulse: &Pulse,
    mut on: impl FnMut(Change<K>),
) {
    let mut stream = std::pin::pin!(stream);
    let mut backoff = Jitter::new(WATCH);
    let mut known: HashSet<Key> = HashSet::new();
    let mut listed: HashSet<Key> = HashSet::new();
    while let Some(event) = stream.next().await {
        if event.is_ok() {
            *pulse.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        match event {
            Err(error) => {
                pulse.errors.fetch_add(1, Ordering::Relaxed);
                pulse.unserved.store(is_unknown(&error), Ordering::Release);
                let pause = backoff.pause();
                tracing::warn!(kind = pulse.kind, ?pause, error = chain(&error), "watch failed");
                tokio::time::sleep(pause).await;
            }
            Ok(Event::Init) => listed = HashSet::new(),
            Ok(Event::InitApply(object)) => {
                listed.insert(Key::of(&object));
                on(Change::Seen(object));
            }
            Ok(Event::InitDone) => {
                // What was there before the watch was cut and is not there now went unseen.
                known.difference(&listed).cloned().for_each(|key| on(Change::Gone(key)));
                known = std::mem::take(&mut listed);
                backoff.reset();
                pulse.complete();
            }
            Ok(Event::Apply(object)) => {
                known.insert(Key::of(&object));
                backoff.reset();
                on(Change::Seen(object));
            }
            Ok(Event::Delete(object)) => {
                let key = Key::of(&object);
                known.remove(&key);
                backoff.reset();
                on(Change::Gone(key));
            }
        }
    }
}

/// An error with its causes in one line. What the API server said stands there in its own words alone: the client's error
/// would show its whole answer as a Rust value.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(status) = answer(error) {
        return match (status.message.as_str(), status.reason.as_str()) {
            ("", "") => format!("the API server answered {}", status.code),
            ("", reason) => format!("the API server answered {} {reason}", status.code),
            (message, _) => message.to_owned(),
        };
    }
    let mut text = error.to_string();
    if let Some(cause) = error.source() {
        let (shown, said) = (cause.to_string(), chain(cause));
        if text.contains(&shown) {
            text = text.replace(&shown, &said);
        } else if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
    }
    text
}

/// What the API server answered, where the error is that and nothing else.
fn answer<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Status> {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => Some(status),
        _ => error.downcast_ref::<Status>().or_else(|| error.downcast_ref::<Box<Status>>().map(|status| &**status)),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn map(name: &str) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(name.into());
        map.metadata.namespace = Some("jam".into());
        map
    }

    async fn told(events: Vec<watcher::Result<Event<ConfigMap>>>) -> (Vec<String>, u64) {
        let (pulse, heard) = (Pulse::new("configmaps", None), RefCell::new(Vec::new()));
        follow(futures::stream::iter(events), &pulse, |change| {
            heard.borrow_mut().push(match change {
                Change::Seen(object) => format!("+{}", Key::of(&object).name),
                Change::Gone(key) => format!("-{}", key.name),
            });
        })
        .await;
        (heard.into_inner(), pulse.errors())
    }

    #[tokio::test(start_paused = true)]
    async fn what_went_while_the_watch_was_cut_is_gone_after_the_relist() {
        let (heard, errors) = told(vec![
            Ok(Event::Init),
            Ok(Event::InitApply(map("a"))),
            Ok(Event::InitApply(map("b"))),
            Ok(Event::InitDone),
            Ok(Event::Apply(map("c"))),
            Err(watcher::Error::NoResourceVersion),
            Ok(Event::Init),
            Ok(Event::InitApply(map("b"))),
            Ok(Event::InitDone),
        ])
        .await;
        assert_eq!(heard[..4], ["+a", "+b", "+c", "+b"]);
        let mut gone = heard[4..].to_vec();
        gone.sort();
        assert_eq!(gone, ["-a", "-c"]);
        assert_eq!(errors, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_cut_short_takes_nothing_away() {
        let (heard, _) = told(vec![
            Ok(Event::Init),
            Ok(Event::InitApply(map("a"))),
            Ok(Event::InitDone),
            Ok(Event::Init),
            Err(watcher::Error::NoResourceVersion),
            Ok(Event::Init),
            Ok(Event::InitApply(map("a"))),
            Ok(Event::InitDone),
        ])
        .await;
        assert_eq!(heard, ["+a", "+a"]);
    }

    #[test]
    fn what_the_api_server_said_is_told_in_its_own_words_alone() {
        let status = || Status::failure("secrets \"a\" is forbidden: no", "Forbidden").with_code(403).boxed();
        let api = || kube::Error::Api(status());
        let wanted = "secrets \"a\" is forbidden: no";
        assert_eq!(chain(&api()), wanted);
        assert_eq!(
            chain(&super::super::error::Error::write("Secret a")(api())),
            format!("Secret a cannot be written: {wanted}")
        );
        for (error, beginning) in [
            (watcher::Error::InitialListFailed(api()), "failed to perform initial object list: "),
            (watcher::Error::WatchError(status()), "error returned by apiserver during watch: "),
        ] {
            assert_eq!(chain(&error), format!("{beginning}{wanted}"));
        }
        let silent = Status { code: 503, ..Status::default() };
        assert_eq!(chain(&kube::Error::Api(silent.boxed())), "the API server answered 503");
    }
}
