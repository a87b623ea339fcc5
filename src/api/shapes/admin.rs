//! The shapes of what administrators are answered.

use jam_domain::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::{CleanupCounts, LastCleanup};

/// What a cleanup by hand did.
#[derive(Serialize, JsonSchema)]
pub struct CleanupRan {
    /// Nothing was changed: the counts say what a run at this moment would do.
    pub dry_run: bool,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Milliseconds between the two.
    pub duration_ms: u64,
    /// What was older than this was archived; null when all is kept for ever.
    pub cutoff: Option<Timestamp>,
    /// What it archived.
    pub archived: CleanupCounts,
    /// What it deleted.
    pub deleted: CleanupCounts,
}

/// How cleaning up stands.
#[derive(Serialize, JsonSchema)]
pub struct CleanupStands {
    /// Whether finished packages are ever cleaned up.
    pub enabled: bool,
    /// Whether the last run went well and none is overdue.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<&'static str>,
    /// The last run; null before the first.
    pub last: Option<LastCleanup>,
}
