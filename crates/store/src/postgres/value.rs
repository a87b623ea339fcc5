//! How the words of the domain stand in columns, and back: what does not fit is a corrupt row, never a guess.

use std::fmt::Display;
use std::str::FromStr;

use jam_domain::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef, Postgres};
use sqlx::{Decode, Encode, Type};

use super::error::Failure;

/// Microseconds from the Unix epoch to 2000-01-01, where PostgreSQL starts to count.
const EPOCH: i64 = 946_684_800_000_000;
/// The first instant that a `timestamptz` can hold: 4714-11-24 BC.
const FIRST: i64 = -211_813_488_000_000_000;

/// An instant as PostgreSQL counts it; the ends of `i64` are its `-infinity` and `infinity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At(i64);

impl At {
    /// Before every instant.
    pub(super) const PAST: Self = Self(i64::MIN);
    /// After every instant.
    pub(super) const FUTURE: Self = Self(i64::MAX);

    /// The instant in the domain's words.
    pub(super) fn timestamp(self) -> Timestamp {
        Timestamp::from_micros(self.0.saturating_add(EPOCH))
    }
}

impl From<Timestamp> for At {
    fn from(at: Timestamp) -> Self {
        let micros = at.as_micros().saturating_sub(EPOCH);
        if micros < FIRST { Self::PAST } else { Self(micros) }
    }
}

// By number, not by name: a name is looked up in the catalogue on every new connection.
impl Type<Postgres> for At {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1184))
    }
}

impl PgHasArrayType for At {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1185))
    }
}

impl Encode<'_, Postgres> for At {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode(self.0, buffer)
    }
}

impl Decode<'_, Postgres> for At {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        // Every statement here is prepared, and prepared statements answer in binary: an i64 of microseconds.
        Ok(Self(<i64 as Decode<Postgres>>::decode(value)?))
    }
}

/// Reads a word that was checked when it was written.
pub(super) fn word<T>(text: &str) -> Result<T, Failure>
where
    T: FromStr,
    T::Err: Display,
{
    text.parse().map_err(|problem| Failure::Corrupt(format!("stored text: {problem}")))
}

/// Reads a number that is never negative.
pub(super) fn count(number: i64) -> Result<u64, Failure> {
    u64::try_from(number).map_err(|_| Failure::Corrupt(format!("stored number {number} is negative")))
}

/// Writes a number that is far from the end of the range.
pub(super) fn number(count: u64) -> Result<i64, Failure> {
    i64::try_from(count).map_err(|_| Failure::Corrupt(format!("{count} does not fit into a bigint")))
}

/// A hash of 32 bytes, or "" for none, as bytes. Only the one spelling that comes back is taken.
pub(super) fn root_bytes(text: &str) -> Result<Vec<u8>, Failure> {
    hex::decode(text)
        .ok()
        .filter(|bytes| hex::encode(bytes) == text)
        .ok_or_else(|| Failure::Corrupt(format!("{text:?} is not lower-case hex")))
}

/// JSON text of a record's body.
pub(super) fn body<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|problem| Failure::Corrupt(format!("a body can't be written: {problem}")))
}

/// A record's body from JSON text.
pub(super) fn unbody<T: DeserializeOwned>(text: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|problem| Failure::Corrupt(format!("a stored body can't be read: {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_survives_the_column_and_what_the_column_cannot_hold_is_before_everything() {
        let at = Timestamp::from_micros(1_700_000_000_123_456);
        assert_eq!(At::from(at).timestamp(), at);
        assert_eq!(At::from(Timestamp::from_micros(i64::MIN)), At::PAST);
    }
}
