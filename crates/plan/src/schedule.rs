//! How far two runs of a schedule can lie apart: enough to call one overdue, without a calendar.

/// An hour.
const HOUR: i64 = 3600;
/// A day.
const DAY: i64 = 24 * HOUR;

/// Seconds that lie between two runs at most, a change of the clock included; never too few.
pub fn longest_pause(schedule: &str) -> i64 {
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    let free = |field: &str| matches!(field, "*" | "?");
    let pause = match fields.as_slice() {
        ["@hourly"] => HOUR,
        ["@daily" | "@midnight"] => DAY,
        ["@weekly"] => 7 * DAY,
        ["@monthly"] => 31 * DAY,
        [_minute, hour, day, month, weekday] => match (free(month), free(day), free(weekday), free(hour)) {
            (false, _, _, _) => 366 * DAY,
            // The 31st is in every second month at least; with both given, either is enough.
            (true, false, true, _) => 62 * DAY,
            (true, _, false, _) => 7 * DAY,
            (true, true, true, false) => DAY,
            (true, true, true, true) => HOUR,
        },
        // @yearly, @annually, and what the schema would not let through.
        _ => 366 * DAY,
    };
    pause + HOUR
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
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_overdue_only_after_the_longest_pause_it_can_have() {
        for (schedule, pause) in [
            ("17 3 * * *", DAY),
            ("*/5 * * * *", HOUR),
            ("0 3 * * 0", 7 * DAY),
            ("0 3 1,15 * 0", 7 * DAY),
            ("0 3 31 * *", 62 * DAY),
            ("0 3 29 feb *", 366 * DAY),
            ("@hourly", HOUR),
            ("@daily", DAY),
            ("@yearly", 366 * DAY),
        ] {
            assert_eq!(longest_pause(schedule), pause + HOUR, "{schedule}");
        }
    }

    #[test]
    fn a_range_that_runs_backwards_is_found_in_numbers_and_in_names() {
        for (schedule, range) in [
            ("50-10 3 * * *", Some("50-10")),
            ("0 1,22-06/2 * * *", Some("22-06/2")),
            ("0 3 * Feb-JAN *", Some("Feb-JAN")),
            ("0 3 * * 0,fri-1", Some("fri-1")),
            ("10-50 3-3 1-31 jan-12 0-sat", None),
            ("@daily", None),
        ] {
            assert_eq!(backwards(schedule), range, "{schedule}");
        }
    }
}
