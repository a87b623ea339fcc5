//! What reconciles are counted, queued and told with.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, Recorder};
use tokio::time::Instant;

use super::backoff::Retries;
use super::error::Error;
use super::key::Key;
use super::metrics::Metrics;
use super::queue::Queue;
use super::reconcile::LIMIT;
use super::watch::chain;

/// A reconcile that runs for so long is stuck: its own limits should have ended it.
const STUCK: Duration = LIMIT.saturating_mul(3);
/// Bytes of a note: the API server refuses an event with more than 1024.
const NOTE: usize = 1000;

/// What reconciles are counted, queued and told with.
pub struct Instruments {
    /// Who waits for a reconcile.
    pub queue: Queue,
    /// Who failed, and how often.
    pub retries: Retries,
    /// The counters.
    pub metrics: Metrics,
    /// Writes events.
    pub recorder: Recorder,
    /// Asks pods.
    pub http: reqwest::Client,
    running: Mutex<HashMap<Key, Instant>>,
}

/// A reconcile that runs; it has ended when this is dropped.
pub struct Running<'a> {
    instruments: &'a Instruments,
    key: Key,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.instruments.lock().remove(&self.key);
    }
}

impl Instruments {
    /// Instruments around a queue.
    pub fn new(queue: Queue, recorder: Recorder, http: reqwest::Client) -> Self {
        let (retries, metrics, running) = (Retries::default(), Metrics::new(), Mutex::default());
        Self { queue, retries, metrics, recorder, http, running }
    }

    /// A reconcile begins.
    pub fn begin(&self, key: &Key) -> Running<'_> {
        self.queue.begun(key);
        self.lock().insert(key.clone(), Instant::now());
        Running { instruments: self, key: key.clone() }
    }

    /// A reconcile ended; `result` is a word from a bounded set.
    pub fn ended(&self, key: &Key, result: &Result<&'static str, &Error>, started: Instant) {
        match result {
            Ok(word) => {
                self.retries.forget(key);
                self.metrics.reconciled("ok", word, started.elapsed());
            }
            Err(error) => self.metrics.reconciled("error", error.code(), started.elapsed()),
        }
    }

    /// Writes an event. One that is lost is not worth a retry: the status, or what is left, says it all.
    pub async fn say(&self, instance: &Key, mut event: Event, about: &ObjectReference) {
        event.note = event.note.map(cut);
        if let Err(error) = self.recorder.publish(&event, about).await {
            tracing::warn!(%instance, reason = event.reason, error = chain(&error), "event lost");
        }
    }

    /// The instance whose reconcile is stuck.
    pub fn stuck(&self) -> Option<Key> {
        self.lock().iter().find(|(_, since)| since.elapsed() > STUCK).map(|(key, _)| key.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Instant>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As much of a note as the API server takes.
fn cut(mut note: String) -> String {
    note.truncate(note.floor_char_boundary(NOTE));
    note
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_note_is_cut_to_what_the_api_server_takes_in_bytes() {
        let (short, long) = ("deleted", "ü".repeat(700));
        assert_eq!(super::cut(short.into()), short);
        let cut = super::cut(format!("x{long}"));
        assert!(cut.len() <= super::NOTE && cut.len() > super::NOTE - 4 && cut.starts_with("xü"), "{}", cut.len());
    }
}
