//! How much of everything a run does.

use std::time::Duration;

/// How much is done.
#[derive(Clone, Copy)]
pub enum Amount {
    /// So little that a test can wait for it: every figure is printed and every state verified, the numbers say nothing.
    Brief,
    /// What says something.
    Usual,
    /// The same, and a million stored packages, or old ones.
    Full,
}

/// What a brief run leaves of the usual: a part of so many.
const BRIEF: usize = 100;

impl Amount {
    /// So many, or in a brief run a hundredth of it, but one at least.
    pub fn of(self, usual: usize) -> usize {
        match self {
            Self::Usual | Self::Full => usual,
            Self::Brief => usual.div_ceil(BRIEF),
        }
    }

    /// Old packages that are there for a cleanup, and how long it may take for them.
    pub fn old(self) -> (usize, Duration) {
        match self {
            Self::Brief => (200, Duration::MAX),
            Self::Usual => (20_000, Duration::MAX),
            // An hour to the end, and nobody would learn more of it than of its beginning.
            Self::Full => (1_000_000, Duration::from_mins(1)),
        }
    }

    /// Stored packages with which submitting and listing are looked at.
    pub fn levels(self) -> &'static [usize] {
        match self {
            Self::Brief => &[0, 1000, 10_000],
            Self::Usual => &[0, 100_000],
            Self::Full => &[0, 100_000, 1_000_000],
        }
    }
}
