//! Laws of schedules: no run is called overdue that was not due, in any zone, and what never comes is no schedule.

use jiff::civil::{Date, DateTime, Time, Weekday, date};
use jiff::tz::{AmbiguousOffset, TimeZone};

use super::*;

#[test]
fn a_schedule_is_overdue_only_after_the_longest_pause_it_can_have() {
    for (schedule, pause) in [
        ("17 3 * * *", DAY),
        ("17 */2 * * *", DAY),
        ("*/5 * * * *", HOUR),
        ("0 3 * * 0", 7 * DAY),
        ("0 3 1,15 * 0", 7 * DAY),
        ("0 3 31 * *", 62 * DAY),
        ("0 3 1 * */1", 62 * DAY),
        ("0 3 1 * 1,*", 62 * DAY),
        ("0 3 1 feb *", YEAR),
        ("0 3 29 feb *", 8 * YEAR),
        ("0 3 29-31 2 *", 8 * YEAR),
        ("0 3 29 feb 1", YEAR),
        ("@hourly", HOUR),
        ("@daily", DAY),
        ("@weekly", 7 * DAY),
        ("@monthly", 62 * DAY),
        ("@yearly", YEAR),
    ] {
        assert_eq!(longest_pause(schedule), pause + HOUR, "{schedule}");
        assert_eq!(overdue_after(schedule, "Etc/UTC"), pause + HOUR, "no clock changes: {schedule}");
    }
    assert_eq!(overdue_after("30 2 * * *", "Europe/Berlin"), 2 * (DAY + HOUR));
    for (schedule, zone) in [("17 4 * * *", "Europe/Berlin"), ("30 2,14 * * *", "Europe/Berlin"), ("30 2 * * *", "UTC")]
    {
        assert_eq!(overdue_after(schedule, zone), DAY + HOUR, "{schedule} in {zone}");
    }
    assert_eq!(stale_after("17 3 * * *"), 50 * HOUR);
}

#[test]
fn a_schedule_whose_day_is_in_no_calendar_never_comes() {
    for schedule in ["0 0 30 2 *", "0 0 30,31 Feb ?", "0 0 31 2,4,jun,9,11 *", "0 0 30/1 2 */1", "0 0 31 2-6/2 1,*"] {
        assert!(never_comes(schedule), "{schedule}");
    }
    for schedule in ["0 0 29 2 *", "0 0 30 2 0", "0 0 30 2,3 *", "0 0 28/2 2 *", "0 0 31 * *", "@yearly", "no schedule"]
    {
        assert!(!never_comes(schedule), "{schedule}");
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

/// Zones whose clocks change at different times, by an hour, half of one, or two. Their rules of today are in their names: no database
/// of zones is needed.
const ZONES: [(&str, &str); 8] = [
    ("Etc/UTC", "UTC0"),
    ("Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3"),
    ("America/New_York", "EST5EDT,M3.2.0,M11.1.0"),
    ("Africa/Cairo", "EET-2EEST,M4.5.5/0,M10.5.4/24"),
    ("America/Santiago", "<-04>4<-03>,M9.1.6/24,M4.1.6/24"),
    ("Australia/Lord_Howe", "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0"),
    ("America/Nuuk", "<-02>2<-01>,M3.5.0/-1,M10.5.0/0"),
    ("Antarctica/Troll", "<+00>0<+02>-2,M3.5.0/1,M10.5.0/3"),
];

/// Schedules with the minute, and the hours, and the days on which each runs, told once more in another way.
type Told = (&'static str, &'static [i8], i8, fn(Date) -> bool);
const TOLD: &[Told] = &[
    ("0 0 * * *", &[0], 0, |_| true),
    ("@daily", &[0], 0, |_| true),
    ("30 1 * * *", &[1], 30, |_| true),
    ("15 2 * * *", &[2], 15, |_| true),
    ("59 23 * * *", &[23], 59, |_| true),
    ("30 1,2 * * *", &[1, 2], 30, |_| true),
    ("30 2,14 * * *", &[2, 14], 30, |_| true),
    ("17 3 * * *", &[3], 17, |_| true),
    ("30 2 * * 0", &[2], 30, |day| day.weekday() == Weekday::Sunday),
    ("30 2 13 * 5", &[2], 30, |day| day.day() == 13 || day.weekday() == Weekday::Friday),
    ("30 2 1 * */1", &[2], 30, |day| day.day() == 1),
    ("30 2 31 * *", &[2], 30, |day| day.day() == 31),
    ("30 2 31 3 *", &[2], 30, |day| day.day() == 31 && day.month() == 3),
    ("30 2 * 3 0", &[2], 30, |day| day.month() == 3 && day.weekday() == Weekday::Sunday),
    ("30 2 29 2 *", &[2], 30, |day| day.day() == 29 && day.month() == 2),
    ("0 12 29 feb,apr *", &[12], 0, |day| day.day() == 29 && [2, 4].contains(&day.month())),
];

/// When it runs. What the clocks leave out does not come; what they repeat comes the first time.
fn runs(zone: &TimeZone, (_, hours, minute, on): &Told, from: Date, to: Date) -> Vec<i64> {
    let days = from.series(jiff::Span::new().days(1)).take_while(|day| *day < to).filter(|day| on(*day));
    let times = days
        .flat_map(|day| hours.iter().map(move |hour| DateTime::from_parts(day, Time::constant(*hour, *minute, 0, 0))));
    let at = |time: DateTime| match zone.to_ambiguous_timestamp(time).offset() {
        AmbiguousOffset::Gap { .. } => None,
        AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
            offset.to_timestamp(time).ok().map(jiff::Timestamp::as_second)
        }
    };
    times.filter_map(at).collect()
}

#[test]
fn no_run_is_overdue_before_its_time_in_any_zone_and_leap_year() {
    for (name, rule) in ZONES {
        let zone = TimeZone::posix(rule).unwrap();
        let mut left_out = 0;
        for told in TOLD {
            // A sunday in March is the 31st in 2030; 2100 has no leap day.
            let (from, to) = if told.0.contains("29") {
                (date(2092, 1, 1), date(2109, 1, 1))
            } else {
                (date(2024, 1, 1), date(2036, 1, 1))
            };
            let runs = runs(&zone, told, from, to);
            assert!(runs.len() > 1, "{} runs", told.0);
            let longest = runs.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
            let allowed = overdue_after(told.0, name);
            assert!(longest <= allowed, "{} in {name}: {longest} s between two runs, overdue after {allowed}", told.0);
            left_out += usize::from(longest > longest_pause(told.0));
        }
        assert_eq!(left_out > 0, name != "Etc/UTC", "{name} leaves out what a schedule asks for");
    }
}
