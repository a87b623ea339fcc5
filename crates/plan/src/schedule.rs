//! How far two runs of a schedule can lie apart, and whether one ever comes: enough to call one overdue, without a calendar.

use std::collections::BTreeSet;

/// What is said of a schedule for which [`never_comes`] holds.
pub const NEVER_COMES: &str = "never comes: no month that it names has such a day";

/// An hour.
const HOUR: i64 = 3600;
/// A day.
const DAY: i64 = 24 * HOUR;
/// A year.
const YEAR: i64 = 366 * DAY;
/// The days that each month has at most.
const LENGTHS: [u8; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
/// Hours that a change of the clock leaves out somewhere: most zones do it at two, others at midnight or one before it.
const LEFT_OUT: [u8; 5] = [0, 1, 2, 3, 23];

/// What the fields of a schedule allow, but for the minute.
struct Fields {
    hours: BTreeSet<u8>,
    days: BTreeSet<u8>,
    months: BTreeSet<u8>,
    /// Whether any day of the week will do by a star: then the day of the month decides alone.
    any_weekday: bool,
}

impl Fields {
    /// Of a schedule that the schema lets through; `None`: it is none.
    fn of(schedule: &str) -> Option<Self> {
        let words: Vec<&str> = schedule.split_whitespace().collect();
        let [_minute, hour, day, month, weekday] = match words.as_slice() {
            ["@hourly"] => ["0", "*", "*", "*", "*"],
            ["@daily" | "@midnight"] => ["0", "0", "*", "*", "*"],
            ["@weekly"] => ["0", "0", "*", "*", "0"],
            ["@monthly"] => ["0", "0", "1", "*", "*"],
            ["@yearly" | "@annually"] => ["0", "0", "1", "1", "*"],
            five => <[&str; 5]>::try_from(five).ok()?,
        };
        Some(Self {
            hours: numbers(hour, 0, 23, &[])?,
            days: numbers(day, 1, 31, &[])?,
            months: numbers(month, 1, 12, &MONTHS)?,
            any_weekday: has_star(weekday),
        })
    }

    /// The months and days on which it runs, where the day of the week does not decide.
    fn dates(&self) -> impl Iterator<Item = (u8, u8)> {
        let longest = |month: u8| LENGTHS.get(usize::from(month) - 1).copied().unwrap_or_default();
        self.months.iter().flat_map(move |month| {
            self.days.iter().filter(move |day| **day <= longest(*month)).map(move |day| (*month, *day))
        })
    }

    /// Whether all its times of a day may fall into the hour that a change of the clock leaves out. Somewhere it is two.
    fn may_be_left_out(&self) -> bool {
        self.hours.len() <= 2 && self.hours.iter().all(|hour| LEFT_OUT.contains(hour))
    }

    fn longest_pause(&self) -> i64 {
        let every_month = self.months.len() == LENGTHS.len();
        let every_day = self.any_weekday && self.days.len() == 31;
        match (every_month, every_day) {
            (true, true) if self.hours.len() == 24 => HOUR,
            (true, true) => DAY,
            // With both given, either is enough.
            (true, false) if !self.any_weekday => 7 * DAY,
            // The 31st is in every second month at least.
            (true, false) => 62 * DAY,
            // The turn of most centuries has no leap day.
            (false, _) if self.any_weekday && self.dates().all(|date| date == (2, 29)) => 8 * YEAR,
            (false, _) => YEAR,
        }
    }
}

/// Whether a list has a star in it, which a step takes away, as Kubernetes reads it.
fn has_star(field: &str) -> bool {
    field.split(',').any(|item| match item.split_once('/') {
        Some((all, step)) => matches!(all, "*" | "?") && step.parse() == Ok(1),
        None => matches!(item, "*" | "?"),
    })
}

/// The numbers that a field allows.
fn numbers(field: &str, least: u8, most: u8, words: &[&str]) -> Option<BTreeSet<u8>> {
    let number = |text: &str| -> Option<u8> {
        let named = words.iter().position(|word| word.eq_ignore_ascii_case(text));
        named.and_then(|at| u8::try_from(at).ok()).map(|at| at + least).or_else(|| text.parse().ok())
    };
    let mut all = BTreeSet::new();
    for item in field.split(',') {
        let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
        let (from, to) = match range.split_once('-') {
            _ if matches!(range, "*" | "?") => (least, most),
            Some((from, to)) => (number(from)?, number(to)?),
            None if step.is_some() => (number(range)?, most),
            None => (number(range)?, number(range)?),
        };
        let step = step.map_or(Ok(1), str::parse::<u8>).ok().filter(|step| *step > 0)?;
        all.extend((from.max(least)..=to.min(most)).step_by(step.into()));
    }
    Some(all)
}

/// Whether no day that a schedule asks for is in any calendar, such as the 30th of February.
pub fn never_comes(schedule: &str) -> bool {
    Fields::of(schedule).is_some_and(|fields| fields.any_weekday && fields.dates().next().is_none())
}

/// Seconds that lie between two runs at most where no clock is changed at that time; never too few.
fn longest_pause(schedule: &str) -> i64 {
    Fields::of(schedule).map_or(8 * YEAR, |fields| fields.longest_pause()) + HOUR
}

/// Seconds after a run by which the next one must have begun. One whose time is left out when the clocks change does not come at all
/// that day, as Kubernetes does it: the next one is waited for.
pub fn overdue_after(schedule: &str, zone: &str) -> i64 {
    let changes = !(zone == "UTC" || zone.starts_with("Etc/"));
    let left_out = changes && Fields::of(schedule).is_none_or(|fields| fields.may_be_left_out());
    longest_pause(schedule) * if left_out { 2 } else { 1 }
}

/// The months as a schedule may name them, from 1 on.
pub const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
/// The days of the week, from 0 on.
pub const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// The first range of a schedule that runs backwards: a CronJob would refuse it.
pub fn backwards(schedule: &str) -> Option<&str> {
    let number = |field: usize, text: &str| {
        let named = match field {
            3 => MONTHS.iter().position(|month| month.eq_ignore_ascii_case(text)).map(|at| at + 1),
            4 => DAYS.iter().position(|day| day.eq_ignore_ascii_case(text)),
            _ => None,
        };
        named.or_else(|| text.parse().ok())
    };
    let items = schedule.split_whitespace().enumerate();
    let mut items = items.flat_map(|(field, text)| text.split(',').map(move |item| (field, item)));
    items.find_map(|(field, item)| {
        let (from, to) = item.split('/').next()?.split_once('-')?;
        (number(field, from)? > number(field, to)?).then_some(item)
    })
}

/// Seconds after the last good run of a schedule from which the next one is overdue: one run may fail without waking anybody.
pub fn stale_after(schedule: &str) -> i64 {
    2 * longest_pause(schedule)
}

#[cfg(test)]
mod tests;
