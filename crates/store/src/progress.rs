//! How far a cleanup is, for whoever started it: asked at any time, also when its future is gone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use jam_domain::retention::Cleaned;

use crate::{StoreError, Stored};

/// How far a cleanup is. Whoever started it can have it end after the batch that it is at: what is counted is what was done.
#[derive(Debug, Default)]
pub struct Progress {
    cleaned: Mutex<Cleaned>,
    ending: AtomicBool,
}

impl Progress {
    /// What is done by now.
    pub fn cleaned(&self) -> Cleaned {
        *self.cleaned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the end.
    pub fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    /// What ends a cleanup that was asked for its end.
    pub fn stopped() -> StoreError {
        StoreError::Stopped("the cleanup was told to stop".into())
    }

    pub(crate) fn add(&self, done: impl FnOnce(&mut Cleaned)) {
        done(&mut self.cleaned.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn go_on(&self) -> Stored<()> {
        if self.ending.load(Ordering::SeqCst) {
            return Err(Self::stopped());
        }
        Ok(())
    }
}
