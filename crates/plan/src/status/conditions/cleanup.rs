//! What is said about the cleanup: scheduled, or why not; suspended, failed, overdue.

use jam_domain::StoreKind;

use super::super::cleaned;
use super::{Said, no, stored, unknown, yes};
use crate::crd::{Cleanup, ConditionType, JamInstance};
use crate::names;
use crate::observed::Observed;
use crate::reason::Reason;
use crate::resolve::Resolved;
use crate::schedule;

pub(super) fn cleanup(instance: &JamInstance, resolved: Option<&Resolved>, observed: &Observed) -> Said {
    let kind = ConditionType::CleanupScheduled;
    let Some(resolved) = resolved else {
        return stored(instance, kind).unwrap_or_else(|| unknown(kind, Reason::NotAsked, "nothing was scheduled yet"));
    };
    if resolved.settings.store == StoreKind::Memory {
        return no(kind, Reason::NotScheduled, "the memory store has no CronJob: its own process cleans up");
    }
    let Some(Cleanup { schedule, time_zone, suspend, dry_run }) = &resolved.cleanup else {
        return no(kind, Reason::NotScheduled, "spec.cleanup is not set: nothing is archived or deleted");
    };
    let name = names::cleanup(&resolved.name);
    // What is there counts: the change of it may be refused, or not made yet.
    let is_suspended = observed.cleanup.as_ref().map(|state| state.suspended);
    match (*suspend, is_suspended) {
        (true, None | Some(true)) => {
            return no(kind, Reason::CleanupSuspended, "spec.cleanup.suspend is true: no run starts");
        }
        (true, Some(false)) => {
            let why = format!("spec.cleanup.suspend is true, but CronJob {name} is not suspended yet: runs start");
            return yes(kind, Reason::Scheduled, why);
        }
        (false, Some(true)) => {
            let why = format!("spec.cleanup.suspend is false, but CronJob {name} is still suspended: no run starts");
            return no(kind, Reason::CleanupSuspended, why);
        }
        (false, None | Some(false)) => {}
    }
    let Some(state) = &observed.cleanup else {
        return no(kind, Reason::NotScheduled, format!("CronJob {name} is made after the migration"));
    };
    let before = instance.status.clone().unwrap_or_default();
    if let Some(failure) = cleaned::failure(observed, &before, *dry_run) {
        return no(kind, Reason::CleanupFailed, failure);
    }
    // It may have been stored before it was refused at apply, or hide in a range.
    if schedule::never_comes(schedule) {
        return no(kind, Reason::NotScheduled, format!("spec.cleanup.schedule {}", schedule::NEVER_COMES));
    }
    // A pause that somebody wanted, or that an earlier schedule has, is held against no run.
    let since = state.since.max(resolved.timetable.since);
    let overdue = since.is_some_and(|at| observed.at > at.plus_seconds(schedule::overdue_after(schedule, time_zone)));
    if overdue && !state.running {
        let since = since.map(|at| super::whole_seconds(at).to_string()).unwrap_or_default();
        return no(kind, Reason::CleanupOverdue, format!("CronJob {name} has started no run since {since}"));
    }
    let counted = if *dry_run { "; dry run: what is old is only counted" } else { "" };
    yes(kind, Reason::Scheduled, format!("CronJob {name}: {schedule} in {time_zone}{counted}"))
}
