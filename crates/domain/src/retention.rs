//! Retention: what a cleanup archives and deletes, decided from the settings and the time alone.

use std::collections::BTreeMap;

use crate::names::ServiceId;
use crate::record::PackageStatus;
use crate::settings::Settings;
use crate::time::Timestamp;

const DAY: i64 = 86_400;

/// The rule of one cleanup at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    now: Timestamp,
    /// Days that finished packages are kept; 0 = for ever.
    days: u32,
    /// Days between archiving and deletion.
    days_archived: u32,
    /// Services that keep their packages for other times.
    services: BTreeMap<ServiceId, u32>,
}

impl Settings {
    /// What a cleanup at this moment archives and deletes.
    pub fn retention(&self, now: Timestamp) -> Retention {
        let own = self.services.iter().filter_map(|(id, limits)| Some((id.clone(), limits.retention_days?)));
        Retention { now, days: self.retention_days, days_archived: self.archive_days, services: own.collect() }
    }
}

impl Retention {
    /// The statuses that end a package's life.
    pub const FINISHED: [PackageStatus; 2] = [PackageStatus::Applied, PackageStatus::Disputed];

    /// The moment of the cleanup.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// What is older is archived, and preimages that nothing refers to are deleted; `None`: all is kept for ever.
    pub fn cutoff(&self) -> Option<Timestamp> {
        self.before(self.days)
    }

    /// The services that keep their packages for other times, with their cutoffs.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceId, Option<Timestamp>)> {
        self.services.iter().map(|(service, days)| (service, self.before(*days)))
    }

    /// Whether the service keeps its packages for another time than the instance.
    pub fn has_own(&self, service: &ServiceId) -> bool {
        self.services.contains_key(service)
    }

    /// The cutoff of one service.
    pub fn cutoff_of(&self, service: &ServiceId) -> Option<Timestamp> {
        self.before(self.services.get(service).copied().unwrap_or(self.days))
    }

    /// What was archived at this moment or before is deleted, unless its service keeps its packages for ever.
    pub fn deletes_archived_until(&self) -> Timestamp {
        self.now.plus_seconds(-DAY * i64::from(self.days_archived))
    }

    /// Whether anything is ever archived.
    pub fn is_on(&self) -> bool {
        self.days > 0 || self.services.values().any(|days| *days > 0)
    }

    /// Whether a finished package of the service is archived. A restored package counts from its restoration.
    pub fn archives(&self, service: &ServiceId, created_at: Timestamp, restored_at: Option<Timestamp>) -> bool {
        let since = restored_at.map_or(created_at, |restored_at| restored_at.max(created_at));
        self.cutoff_of(service).is_some_and(|cutoff| since < cutoff)
    }

    /// Whether an archived package of the service is deleted.
    pub fn deletes(&self, service: &ServiceId, archived_at: Timestamp) -> bool {
        self.cutoff_of(service).is_some() && archived_at <= self.deletes_archived_until()
    }

    fn before(&self, days: u32) -> Option<Timestamp> {
        (days > 0).then(|| self.now.plus_seconds(-DAY * i64::from(days)))
    }
}

/// What a cleanup did, or, of a dry run, would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Packages archived.
    pub archived_packages: u64,
    /// Their reports.
    pub archived_reports: u64,
    /// Archived packages deleted.
    pub deleted_packages: u64,
    /// Their reports.
    pub deleted_reports: u64,
    /// Preimages deleted.
    pub deleted_preimages: u64,
}

/// One cleanup that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanupRun {
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// The instance's cutoff; `None`: all is kept for ever.
    pub cutoff: Option<Timestamp>,
    /// What it did, also before it failed.
    pub cleaned: Cleaned,
    /// Why it failed.
    pub error: Option<String>,
}

/// What is remembered of cleanups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanupRecord {
    /// The last one.
    pub last: CleanupRun,
    /// When the last one that went well ended.
    pub succeeded_at: Option<Timestamp>,
    /// How many went well, ever.
    pub runs_succeeded: u64,
    /// How many failed, ever.
    pub runs_failed: u64,
    /// What all of them deleted; what they archived is not summed.
    pub all: Cleaned,
}

impl CleanupRecord {
    /// The record with one more run, the first or a further one.
    pub fn with(before: Option<&Self>, last: CleanupRun) -> Self {
        let sum = |of: fn(&Cleaned) -> u64| before.map_or(0, |record| of(&record.all)) + of(&last.cleaned);
        let all = Cleaned {
            archived_packages: 0,
            archived_reports: 0,
            deleted_packages: sum(|cleaned| cleaned.deleted_packages),
            deleted_reports: sum(|cleaned| cleaned.deleted_reports),
            deleted_preimages: sum(|cleaned| cleaned.deleted_preimages),
        };
        let well = last.error.is_none();
        Self {
            succeeded_at: if well { Some(last.finished_at) } else { before.and_then(|record| record.succeeded_at) },
            runs_succeeded: before.map_or(0, |record| record.runs_succeeded) + u64::from(well),
            runs_failed: before.map_or(0, |record| record.runs_failed) + u64::from(!well),
            all,
            last,
        }
    }

    /// Why retention is not in order: the last run failed, or a good one is overdue.
    pub fn problem(&self, now: Timestamp, stale_seconds: Option<i64>) -> Option<&'static str> {
        if self.last.error.is_some() {
            return Some("the last cleanup failed: look at its log");
        }
        self.overdue(now, stale_seconds)
    }

    /// Whether the last good run is too long ago. One that failed is tried again; before the first good one, its age is
    /// that of the last try, as nothing older is remembered.
    pub fn overdue(&self, now: Timestamp, stale_seconds: Option<i64>) -> Option<&'static str> {
        let oldest = now.plus_seconds(-stale_seconds?);
        let stale = self.succeeded_at.unwrap_or(self.last.finished_at) < oldest;
        stale.then_some("the last cleanup is too long ago: run `jam-api cleanup`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::ServiceLimits;
    use crate::{JamSettings, Profile};

    fn service(name: &str) -> ServiceId {
        name.parse().unwrap()
    }

    fn at(days: i64) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000).plus_seconds(days * DAY)
    }

    fn retention(retention_days: u32, archive_days: u32, services: &[(&str, Option<u32>)]) -> Retention {
        let limits = |(name, days): &(&str, Option<u32>)| ServiceLimits {
            id: service(name),
            max_packages_per_minute: None,
            max_pending_packages: None,
            max_preimage_bytes: None,
            retention_days: *days,
        };
        let block = JamSettings {
            retention_days: Some(retention_days),
            archive_days: Some(archive_days),
            services: Some(services.iter().map(limits).collect()),
            ..JamSettings::default()
        };
        block.resolve(Profile::Local).unwrap().retention(at(0))
    }

    #[test]
    fn a_package_is_kept_for_its_services_days_else_the_instances_and_0_is_for_ever() {
        let rule = retention(30, 7, &[("short", Some(1)), ("ever", Some(0)), ("like", None)]);
        let archives = |name: &str, days: i64| rule.archives(&service(name), at(-days), None);
        assert_eq!([archives("like", 30), archives("like", 31), archives("other", 31)], [false, true, true]);
        assert_eq!([archives("short", 1), archives("short", 2), archives("ever", 9999)], [false, true, false]);
        let none = retention(0, 7, &[]);
        assert_eq!((none.cutoff(), none.is_on(), retention(0, 0, &[("a", Some(1))]).is_on()), (None, false, true));
        assert!(!none.archives(&service("a"), at(-9999), None));
    }

    #[test]
    fn what_is_archived_is_deleted_after_the_days_of_the_archive_0_at_once() {
        let name = service("a");
        let rule = retention(30, 7, &[("ever", Some(0))]);
        assert!(rule.deletes(&name, at(-7)) && !rule.deletes(&name, at(-7).plus_seconds(1)));
        assert!(!rule.deletes(&service("ever"), at(-9999)), "for ever also after it was archived");
        assert!(retention(30, 0, &[]).deletes(&name, at(0)));
    }

    #[test]
    fn a_restored_package_is_kept_for_another_retention_period() {
        let rule = retention(30, 7, &[]);
        assert!(!rule.archives(&service("a"), at(-90), Some(at(-30))));
        assert!(rule.archives(&service("a"), at(-90), Some(at(-31))));
    }

    #[test]
    fn a_failed_run_and_an_old_one_are_problems_until_the_next_good_one() {
        let run = |days, error: Option<&str>| CleanupRun {
            started_at: at(days),
            finished_at: at(days),
            cutoff: None,
            cleaned: Cleaned { deleted_packages: 2, ..Cleaned::default() },
            error: error.map(str::to_owned),
        };
        let good = CleanupRecord::with(None, run(0, None));
        assert_eq!(good.problem(at(1), Some(2 * DAY)), None);
        assert!(good.problem(at(3), Some(2 * DAY)).unwrap().contains("too long ago"));
        assert_eq!(good.problem(at(300), None), None);
        let bad = CleanupRecord::with(Some(&good), run(1, Some("disk full")));
        assert!(bad.problem(at(1), None).unwrap().contains("failed"));
        assert_eq!(bad.overdue(at(1), Some(2 * DAY)), None, "it is tried again");
        assert!(bad.overdue(at(3), Some(2 * DAY)).unwrap().contains("too long ago"));
        let never = CleanupRecord::with(None, run(1, Some("disk full")));
        assert!(never.overdue(at(2), Some(2 * DAY)).is_none() && never.overdue(at(4), Some(2 * DAY)).is_some());
        assert_eq!((bad.succeeded_at, bad.runs_succeeded, bad.runs_failed), (Some(at(0)), 1, 1));
        let again = CleanupRecord::with(Some(&bad), run(2, None));
        assert_eq!((again.problem(at(2), Some(DAY)), again.all.deleted_packages), (None, 6));
    }
}
