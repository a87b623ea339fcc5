//! What happened, in memory: steps in the order in which they were made under the lock.

use std::collections::VecDeque;

use jam_domain::Timestamp;
use jam_domain::event::{Happening, Reach, Step};

/// Steps that are read at once.
const PAGE: usize = 500;

/// Every step that is kept.
#[derive(Default)]
pub(super) struct Story {
    steps: VecDeque<Step>,
    forgotten: u64,
}

impl Story {
    /// A story whose numbers begin at this instant.
    pub(super) fn from(begin: Timestamp) -> Self {
        Self { steps: VecDeque::new(), forgotten: u64::try_from(begin.as_micros()).unwrap_or(0) }
    }

    /// Adds a step.
    pub(super) fn tell(&mut self, at: Timestamp, happened: Vec<Happening>) {
        if !happened.is_empty() {
            let number = self.reach().last + 1;
            self.steps.push_back(Step { number, at, happened });
        }
    }

    pub(super) fn reach(&self) -> Reach {
        let last = self.steps.back().map_or(self.forgotten, |step| step.number);
        Reach { forgotten: self.forgotten, last }
    }

    /// The next steps after this one.
    pub(super) fn after(&self, number: u64) -> Vec<Step> {
        let from = self.steps.partition_point(|step| step.number <= number);
        self.steps.iter().skip(from).take(PAGE).cloned().collect()
    }

    /// Drops the steps from before the cutoff, but never the last one, at which readers stand.
    pub(super) fn forget(&mut self, cutoff: Timestamp) {
        while self.steps.len() > 1 && self.steps.front().is_some_and(|step| step.at < cutoff) {
            self.forgotten = self.steps.pop_front().map_or(self.forgotten, |step| step.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happening() -> Vec<Happening> {
        vec![Happening::Disputed("s".parse().unwrap(), jam_domain::PackageId::new())]
    }

    #[test]
    fn what_is_old_is_dropped_but_for_the_last_step() {
        let mut story = Story::from(Timestamp::from_micros(100));
        assert_eq!(story.reach(), Reach { forgotten: 100, last: 100 });
        for at in [1, 2, 3] {
            story.tell(Timestamp::from_micros(at), happening());
        }
        story.tell(Timestamp::from_micros(9), Vec::new());
        assert_eq!(story.reach(), Reach { forgotten: 100, last: 103 });
        story.forget(Timestamp::from_micros(2));
        assert_eq!(story.after(0).iter().map(|step| step.number).collect::<Vec<_>>(), [102, 103]);
        story.forget(Timestamp::from_micros(1000));
        assert_eq!((story.reach(), story.after(102).len()), (Reach { forgotten: 102, last: 103 }, 1));
    }
}
