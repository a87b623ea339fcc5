//! How many packages are pending, for the log: asked for at most once a second, whatever the number of submissions.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use jam_store::Store;
use tokio::time::Instant;

/// How long a count is good enough for a log line; counting costs the store more the longer its queue is.
const FRESH: Duration = Duration::from_secs(1);

/// The last count.
#[derive(Default)]
pub struct Pending {
    last: Mutex<Option<(Instant, u64)>>,
}

impl Pending {
    /// The pending packages, counted no longer than a second ago by whoever asked first.
    pub async fn about(&self, store: &dyn Store) -> Option<u64> {
        if let Some(count) = self.claim() {
            return Some(count);
        }
        let count = store.pending().await.ok()?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), count));
        Some(count)
    }

    /// The count when it is fresh. When it is not, this caller counts again and the others go on with the old one.
    fn claim(&self) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *last {
            Some((at, count)) if at.elapsed() < FRESH => Some(*count),
            Some((at, _)) => {
                *at = Instant::now();
                None
            }
            None => None,
        }
    }
}
