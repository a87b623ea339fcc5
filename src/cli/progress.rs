//! How far a transfer is: a count, and a bar when stderr is a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Redrawing more often than this only costs.
const REDRAW: Duration = Duration::from_millis(100);
const WIDTH: u64 = 30;

/// Counts the bytes of one transfer.
#[derive(Debug)]
pub struct Meter {
    moved: AtomicU64,
    total: u64,
    /// When the bar was last drawn; `None` when there is none.
    bar: Option<Mutex<Instant>>,
}

impl Meter {
    /// A meter for so many bytes.
    pub fn new(total: u64) -> Self {
        let bar = io::stderr().is_terminal().then(|| Mutex::new(Instant::now()));
        Self { moved: AtomicU64::new(0), total, bar }
    }

    /// Bytes so far.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Begins again, for another attempt.
    pub fn restart(&self) {
        self.moved.store(0, Ordering::Relaxed);
    }

    /// Counts further bytes and redraws the bar now and then.
    pub fn add(&self, bytes: u64) {
        let moved = self.moved.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let Some(Ok(mut drawn)) = self.bar.as_ref().map(Mutex::lock) else { return };
        if drawn.elapsed() >= REDRAW {
            *drawn = Instant::now();
            // A bar that can't be drawn is no reason to stop.
            let _ = write!(io::stderr(), "\r{}", bar(moved, self.total));
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.bar.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn bar(moved: u64, total: u64) -> String {
    let share = |parts: u64| (moved.min(total) * parts).checked_div(total).unwrap_or(parts);
    let done = usize::try_from(share(WIDTH)).unwrap_or_default();
    let rest = usize::try_from(WIDTH).unwrap_or_default() - done;
    format!("[{}{}] {:>3}% of {}", "#".repeat(done), " ".repeat(rest), share(100), size(total))
}

/// A size for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut tenths, mut unit) = (bytes.saturating_mul(10), "bytes");
    for larger in UNITS {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = larger;
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{}.{} {unit}", tenths / 10, tenths % 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_grows_with_what_was_moved() {
        assert_eq!(bar(0, 2048), format!("[{}]   0% of 2.0 KiB", " ".repeat(30)));
        assert_eq!(bar(1024, 2048), format!("[{}{}]  50% of 2.0 KiB", "#".repeat(15), " ".repeat(15)));
        assert_eq!(bar(0, 0), format!("[{}] 100% of 0 bytes", "#".repeat(30)));
    }

    #[test]
    fn a_size_is_written_for_people() {
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size(10_485_760), "10.0 MiB");
    }
}
