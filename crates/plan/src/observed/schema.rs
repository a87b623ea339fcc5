//! The database schema as pods see it.

/// The database schema as pods see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodSchema {
    /// The version that is there; `None` when there is none.
    pub found: Option<i64>,
    /// The version that their image needs.
    pub wanted: i64,
}

impl PodSchema {
    /// Whether a migration is missing.
    pub fn is_behind(self) -> bool {
        self.found.is_none_or(|found| found < self.wanted)
    }
}
