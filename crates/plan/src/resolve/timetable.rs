//! Since when cleanups are expected as they are now: a pause that somebody wanted makes none overdue.

use jam_domain::Timestamp;

use crate::crd::{Cleanup, JamInstance};
use crate::observed::Observed;

/// When cleanups run, and since when they are to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timetable {
    /// The schedule in words, as status remembers it; `None` where none was ever asked for.
    pub words: Option<String>,
    /// When it took the place of another one; `None`: it is the first.
    pub since: Option<Timestamp>,
}

pub(super) fn of(instance: &JamInstance, observed: &Observed, cleanup: Option<&Cleanup>) -> Timetable {
    let told = instance.status.as_ref().and_then(|status| status.cleanup.as_ref());
    let words = match cleanup {
        None => "none".to_owned(),
        Some(Cleanup { schedule: _, time_zone: _, suspend: true, dry_run: _ }) => "suspended".to_owned(),
        Some(Cleanup { schedule, time_zone, suspend: false, dry_run }) => {
            format!("{schedule} {time_zone}{}", if *dry_run { " counting" } else { "" })
        }
    };
    match told.and_then(|told| told.timetable.as_ref().map(|before| (before, told.timetable_since.as_ref()))) {
        None => Timetable { words: cleanup.map(|_| words), since: None },
        Some((before, since)) if *before == words => {
            Timetable { words: Some(words), since: since.map(|at| Timestamp::from_jiff(at.0)) }
        }
        Some(_) => Timetable { words: Some(words), since: Some(observed.at) },
    }
}
