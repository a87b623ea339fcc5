//! Lists by time: one sorted set for each combination of service and status that a filter can name.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use jam_domain::page::{Start, TimeCursor};
use jam_domain::{PackageStatus, ServiceId, Timestamp};
use uuid::Uuid;

/// Entries by time, for every service and status and for all of them.
#[derive(Default)]
pub(super) struct TimeIndex {
    all: Lists,
    services: HashMap<ServiceId, Lists>,
}

/// The entries of one service, or of all: once by status, once whole.
#[derive(Default)]
struct Lists {
    whole: BTreeSet<TimeCursor>,
    by_status: HashMap<PackageStatus, BTreeSet<TimeCursor>>,
}

/// Which part of a list is asked for.
pub(super) struct Cut {
    pub(super) status: Option<PackageStatus>,
    pub(super) after: Option<Timestamp>,
    pub(super) before: Option<Timestamp>,
    pub(super) start: Start<TimeCursor>,
    pub(super) count: usize,
}

impl Lists {
    fn list(&self, status: Option<PackageStatus>) -> Option<&BTreeSet<TimeCursor>> {
        match status {
            None => Some(&self.whole),
            Some(status) => self.by_status.get(&status),
        }
    }

    fn insert(&mut self, status: PackageStatus, place: TimeCursor) {
        self.whole.insert(place);
        self.by_status.entry(status).or_default().insert(place);
    }

    fn remove(&mut self, status: PackageStatus, place: TimeCursor) {
        self.whole.remove(&place);
        if let Some(list) = self.by_status.get_mut(&status) {
            list.remove(&place);
        }
    }

    fn move_entry(&mut self, from: PackageStatus, to: PackageStatus, place: TimeCursor) {
        if let Some(list) = self.by_status.get_mut(&from) {
            list.remove(&place);
        }
        self.by_status.entry(to).or_default().insert(place);
    }
}

impl TimeIndex {
    /// Adds an entry.
    pub(super) fn insert(&mut self, service: &ServiceId, status: PackageStatus, place: TimeCursor) {
        self.all.insert(status, place);
        self.services.entry(service.clone()).or_default().insert(status, place);
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, service: &ServiceId, status: PackageStatus, place: TimeCursor) {
        self.all.remove(status, place);
        if let Some(lists) = self.services.get_mut(service) {
            lists.remove(status, place);
            if lists.whole.is_empty() {
                self.services.remove(service);
            }
        }
    }

    /// Moves an entry from one status to another.
    pub(super) fn move_entry(
        &mut self,
        service: &ServiceId,
        from: PackageStatus,
        to: PackageStatus,
        place: TimeCursor,
    ) {
        self.all.move_entry(from, to, place);
        if let Some(lists) = self.services.get_mut(service) {
            lists.move_entry(from, to, place);
        }
    }

    /// Entries with this status, of one service or of all.
    pub(super) fn count(&self, service: Option<&ServiceId>, status: PackageStatus) -> usize {
        let lists = match service {
            None => Some(&self.all),
            Some(service) => self.services.get(service),
        };
        lists.and_then(|lists| lists.list(Some(status))).map_or(0, BTreeSet::len)
    }

    /// Entries with this status, oldest first.
    pub(super) fn oldest(&self, status: PackageStatus) -> impl Iterator<Item = TimeCursor> + '_ {
        self.all.list(Some(status)).into_iter().flatten().copied()
    }

    /// One part of the list, newest first, of all services or of these.
    pub(super) fn cut(&self, services: Option<&[&ServiceId]>, cut: &Cut) -> Vec<TimeCursor> {
        let lists: Vec<&Lists> = match services {
            None => vec![&self.all],
            Some(names) => names.iter().filter_map(|name| self.services.get(*name)).collect(),
        };
        let Some((low, high)) = bounds(cut) else { return Vec::new() };
        let skip = match cut.start {
            Start::Offset(offset) => usize::try_from(offset).unwrap_or(usize::MAX),
            Start::After(_) => 0,
        };
        let ranges =
            lists.into_iter().filter_map(|lists| lists.list(cut.status)).map(|list| list.range((low, high)).rev());
        newest(ranges, skip, cut.count)
    }
}

/// The range of places that the cut covers; `None` when there is none (a sorted set panics on a range that ends before it starts).
fn bounds(cut: &Cut) -> Option<(Bound<TimeCursor>, Bound<TimeCursor>)> {
    let low = cut.after.map(|created_at| TimeCursor { created_at, id: Uuid::max() });
    let mut high = cut.before.map(|created_at| TimeCursor { created_at, id: Uuid::nil() });
    if let Start::After(cursor) = cut.start {
        high = Some(high.map_or(cursor, |high| high.min(cursor)));
    }
    match (low, high) {
        (Some(low), Some(high)) if low >= high => None,
        (low, high) => {
            Some((low.map_or(Bound::Unbounded, Bound::Excluded), high.map_or(Bound::Unbounded, Bound::Excluded)))
        }
    }
}

/// Merges lists that are each sorted newest first, and takes `count` after `skip`.
pub(super) fn newest<'a, T, I>(lists: impl Iterator<Item = I>, skip: usize, count: usize) -> Vec<T>
where
    T: Ord + Clone + 'a,
    I: Iterator<Item = &'a T>,
{
    let mut lists: Vec<I> = lists.collect();
    if let [list] = lists.as_mut_slice() {
        return list.skip(skip).take(count).cloned().collect();
    }
    // A sum of the first `skip + count` of each list is enough: none of them can contribute more.
    let wanted = skip.saturating_add(count);
    let mut merged: Vec<&T> = lists.into_iter().flat_map(|list| list.take(wanted)).collect();
    merged.sort_unstable_by(|a, b| b.cmp(a));
    merged.into_iter().skip(skip).take(count).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries that are read from lists of a million, each of which counts.
    fn read(lists: usize, skip: usize, count: usize) -> usize {
        let entries: Vec<u32> = (0..1_000_000).rev().collect();
        let read = std::cell::Cell::new(0);
        let lists = (0..lists).map(|_| entries.iter().inspect(|_| read.set(read.get() + 1)));
        assert_eq!(newest(lists, skip, count).len(), count);
        read.get()
    }

    #[test]
    fn a_page_reads_no_more_entries_than_it_gives_however_many_are_stored() {
        assert_eq!(read(1, 0, 51), 51);
        assert_eq!(read(3, 0, 51), 3 * 51);
    }

    #[test]
    fn the_oldest_pending_are_found_without_the_finished() {
        let (service, mut index): (ServiceId, _) = ("s".parse().unwrap(), TimeIndex::default());
        for n in 0..1000 {
            let place = TimeCursor { created_at: Timestamp::from_micros(n), id: Uuid::nil() };
            index.insert(&service, PackageStatus::Pending, place);
            if n < 990 {
                index.move_entry(&service, PackageStatus::Pending, PackageStatus::Applied, place);
            }
        }
        let pending = index.oldest(PackageStatus::Pending);
        assert_eq!(
            pending.map(|place| place.created_at.as_micros()).collect::<Vec<_>>(),
            (990..1000).collect::<Vec<_>>()
        );
        assert_eq!(index.count(Some(&service), PackageStatus::Pending), 10);
    }
}
