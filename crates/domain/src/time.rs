//! An instant as JAM stores and hashes it: UTC, whole microseconds, RFC 3339 with six fractional digits.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds since the Unix epoch. What is hashed is what is stored: never finer than PostgreSQL's `timestamptz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// The instant now, for the edges of the programs; rules take time as an argument instead.
    pub fn now() -> Self {
        Self::from_jiff(jiff::Timestamp::now())
    }

    /// An instant of the time library, cut to whole microseconds.
    pub fn from_jiff(at: jiff::Timestamp) -> Self {
        Self::from_micros(at.as_microsecond())
    }

    /// Microseconds since the Unix epoch, clamped to the years that RFC 3339 can write.
    pub fn from_micros(micros: i64) -> Self {
        // The library reads microseconds back only up to its last whole second.
        let (low, high) = (jiff::Timestamp::MIN.as_microsecond(), jiff::Timestamp::MAX.as_second() * 1_000_000);
        Self(jiff::Timestamp::from_microsecond(micros.clamp(low, high)).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
    }

    /// Microseconds since the Unix epoch.
    pub fn as_micros(self) -> i64 {
        self.0.as_microsecond()
    }

    /// This instant moved by a signed number of seconds.
    #[must_use]
    pub fn plus_seconds(self, seconds: i64) -> Self {
        Self::from_micros(self.as_micros().saturating_add(seconds.saturating_mul(1_000_000)))
    }

    /// The same instant for the time library.
    pub fn to_jiff(self) -> jiff::Timestamp {
        self.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", self.0)
    }
}

impl FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an RFC 3339 time such as 2026-01-31T12:00:00Z");
        // The library also reads the zones of RFC 9557, which are not part of RFC 3339.
        if text.contains('[') {
            return Err(wrong());
        }
        let read = text.parse::<jiff::Timestamp>().ok().map(Self::from_jiff);
        read.or_else(|| beyond(text)).ok_or_else(wrong)
    }
}

/// The end of the calendar for a well-formed time in its last two days, with which clients mean "never": not every instant of
/// them can be kept.
fn beyond(text: &str) -> Option<Timestamp> {
    let day = text.strip_prefix("9999-12-3").filter(|day| day.starts_with(['0', '1']))?;
    let read = format!("9999-11-2{day}").parse::<jiff::Timestamp>();
    read.ok().map(|_| Timestamp::from_micros(i64::MAX))
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "date-time"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_with_six_digits_in_utc_and_read_from_any_offset() {
        let at: Timestamp = "2026-01-31T13:00:00.123456789+01:00".parse().unwrap();
        assert_eq!(at.to_string(), "2026-01-31T12:00:00.123456Z");
        assert_eq!(at.to_string().parse::<Timestamp>().unwrap(), at);
        assert_eq!(Timestamp::from_micros(0).to_string(), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn the_last_day_of_the_calendar_is_its_end_and_what_is_no_rfc_3339_is_refused() {
        let last = Timestamp::from_micros(i64::MAX);
        for never in ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999999Z", "9999-12-31T00:00:00-23:00"] {
            assert_eq!(never.parse::<Timestamp>(), Ok(last), "{never}");
        }
        assert_eq!(last.to_string().parse::<Timestamp>(), Ok(last), "what is said is read again");
        let wrong = [
            "2026-01-31T12:00:00+01:00[Europe/Berlin]",
            "2026-01-31T12:00:00Z[UTC]",
            "9999-12-31T25:00:00Z",
            "9999-12-32T00:00:00Z",
            "9999-12-31",
            "9999-12-31T23:59:59",
            "10000-01-01T00:00:00Z",
        ];
        for text in wrong {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_instant_beyond_the_calendar_is_its_nearest_end() {
        assert!(Timestamp::from_micros(i64::MAX) > "9999-12-30T00:00:00Z".parse().unwrap());
        assert!(Timestamp::from_micros(i64::MIN) < "-009999-01-03T00:00:00Z".parse().unwrap());
    }
}
