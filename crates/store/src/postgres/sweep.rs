//! The sweep: removes what servers that died have left of their uploads.

use std::sync::PoisonError;
use std::time::Instant;

use super::{PostgresStore, blobs, outside, upload};
use crate::Stored;

impl PostgresStore {
    /// Removes what servers that died have left of their uploads, untouched for so many seconds; returns how many.
    pub async fn sweep_uploads(&self, idle_seconds: u32) -> Stored<u64> {
        let mut swept = 0;
        while let Some(uploads) = self.aside(blobs::sweep(&self.pool, idle_seconds)).await? {
            swept += uploads;
        }
        Ok(swept + outside::sweep(self, idle_seconds).await?)
    }

    /// Uploads look now and then for what was left by others.
    pub(super) fn sweep_sometimes(&self) {
        {
            let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
            if swept.is_some_and(|last| last.elapsed() < upload::ABANDONED / 4) {
                return;
            }
            *swept = Some(Instant::now());
        }
        let store = self.clone();
        tokio::spawn(async move {
            let idle = u32::try_from(upload::ABANDONED.as_secs()).unwrap_or(u32::MAX);
            match store.sweep_uploads(idle).await {
                Ok(0) => {}
                Ok(swept) => tracing::info!(swept, "removed what was left of interrupted uploads"),
                Err(error) => tracing::warn!(%error, "could not look for interrupted uploads"),
            }
        });
    }
}
