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
}
