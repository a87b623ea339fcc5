//! The instances that are to be reconciled: each at most once in the queue, however many reasons there are.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use futures::Stream;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};

use super::key::Key;

/// The way in. It holds no more entries than there are instances.
#[derive(Debug)]
pub struct Queue {
    waiting: Mutex<HashSet<Key>>,
    way_in: UnboundedSender<Key>,
}

impl Queue {
    /// A queue and its other end.
    pub fn new() -> (Self, UnboundedReceiver<Key>) {
        let (way_in, out) = unbounded();
        (Self { waiting: Mutex::default(), way_in }, out)
    }

    /// Asks for a reconcile; does nothing when one is waiting already.
    pub fn ask(&self, key: Key) {
        if self.lock().insert(key.clone()) {
            // It fails only when the other end is dropped: the program is going down.
            let _ = self.way_in.unbounded_send(key);
        }
    }

    /// A reconcile begins: what happens from now on asks again.
    pub fn begun(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// How many instances wait.
    pub fn depth(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Key>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The other end of the queue, as a stream that cannot fail.
pub fn requests<T>(
    out: UnboundedReceiver<Key>,
    into: impl Fn(Key) -> T,
) -> impl Stream<Item = Result<T, std::convert::Infallible>> {
    futures::StreamExt::map(out, move |key| Ok(into(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_waits_once_and_again_after_its_reconcile_began() {
        let (queue, mut out) = Queue::new();
        let key = Key::new("jam", "main");
        queue.ask(key.clone());
        queue.ask(key.clone());
        assert_eq!(queue.depth(), 1);
        assert_eq!(out.try_recv().unwrap(), key);
        assert!(out.try_recv().is_err());
        queue.begun(&key);
        queue.ask(key.clone());
        assert_eq!(out.try_recv().unwrap(), key);
    }
}
