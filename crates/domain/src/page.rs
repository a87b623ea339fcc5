//! Lists: filters, page requests and cursors. Newest first, ties by id, so that paging never repeats or skips.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use uuid::Uuid;

use crate::names::ServiceId;
use crate::record::PackageStatus;
use crate::time::Timestamp;

/// Items a page has when the client does not say.
pub const DEFAULT_LIMIT: u32 = 50;
/// Items a page has at most.
pub const MAX_LIMIT: u32 = 200;
/// Bytes of bodies, as JSON, that a page has at most; an item that is larger has a page of its own.
pub const PAGE_BYTES: u64 = 4 << 20;

/// Services that a caller may see: `None` is all of them.
pub type Visible = Option<BTreeSet<ServiceId>>;

/// Which packages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackageFilter {
    /// Of this service.
    pub service_id: Option<ServiceId>,
    /// With this status.
    pub status: Option<PackageStatus>,
    /// Created strictly after.
    pub created_after: Option<Timestamp>,
    /// Created strictly before.
    pub created_before: Option<Timestamp>,
    /// Of the services that the caller may see.
    pub visible: Visible,
    /// Archived ones, and only those.
    pub archived: bool,
}

/// Which reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportFilter {
    /// Of this service.
    pub service_id: Option<ServiceId>,
    /// With this status.
    pub status: Option<PackageStatus>,
    /// Of the services that the caller may see.
    pub visible: Visible,
    /// Those of archived packages, and only those.
    pub archived: bool,
}

/// Which receipts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReceiptFilter {
    /// Of this service; its receipts come by seq.
    pub service_id: Option<ServiceId>,
    /// With this hash.
    pub hash: Option<String>,
    /// By seq, lowest first; only with `service_id`.
    pub ascending: bool,
    /// Of the services that the caller may see.
    pub visible: Visible,
}

/// Where a page starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start<C> {
    /// Skip so many items.
    Offset(u64),
    /// Go on after this item.
    After(C),
}

/// One page of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest<C> {
    /// Items at most, 1 to 200.
    pub limit: u32,
    /// Where it starts.
    pub start: Start<C>,
}

/// The answer to a [`PageRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T, C> {
    /// The items.
    pub items: Vec<T>,
    /// The last item's place when more follow.
    pub next: Option<C>,
}

/// A place in a list of packages or reports: creation time and id of the last item seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeCursor {
    /// Creation time of the last item.
    pub created_at: Timestamp,
    /// Its id.
    pub id: Uuid,
}

/// A place in a list of receipts: time, service and seq of the last one seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReceiptCursor {
    /// `processed_at` of the last receipt.
    pub processed_at: Timestamp,
    /// Its service.
    pub service_id: ServiceId,
    /// Its seq.
    pub seq: u64,
}

/// A place in the audit: the number of the last line seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditCursor(pub u64);

/// How many of these items, by their bytes, a page has: the first in any case, then as many as fit.
pub fn fitting(bytes: impl IntoIterator<Item = u64>) -> u32 {
    let (mut count, mut sum) = (0, 0_u64);
    for bytes in bytes {
        sum = sum.saturating_add(bytes);
        if count > 0 && sum > PAGE_BYTES {
            break;
        }
        count += 1;
    }
    count
}

/// A cursor that this server did not make.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one that this server gave out")]
pub struct BadCursor;

impl fmt::Display for TimeCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(format!("t:{}:{}", self.created_at.as_micros(), self.id)))
    }
}

impl FromStr for TimeCursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let plain = decode(text)?;
        let (micros, id) = plain.strip_prefix("t:").and_then(|rest| rest.split_once(':')).ok_or(BadCursor)?;
        Ok(Self {
            created_at: Timestamp::from_micros(micros.parse().map_err(|_| BadCursor)?),
            id: id.parse().map_err(|_| BadCursor)?,
        })
    }
}

impl fmt::Display for AuditCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(format!("a:{}", self.0)))
    }
}

impl FromStr for AuditCursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let plain = decode(text)?;
        let number = plain.strip_prefix("a:").ok_or(BadCursor)?;
        Ok(Self(stored(number)?))
    }
}

impl fmt::Display for ReceiptCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(format!("r:{}:{}:{}", self.processed_at.as_micros(), self.seq, self.service_id)))
    }
}

impl FromStr for ReceiptCursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let plain = decode(text)?;
        let mut parts = plain.strip_prefix("r:").ok_or(BadCursor)?.splitn(3, ':');
        let mut part = || parts.next().ok_or(BadCursor);
        Ok(Self {
            processed_at: Timestamp::from_micros(part()?.parse().map_err(|_| BadCursor)?),
            seq: stored(part()?)?,
            service_id: part()?.parse().map_err(|_| BadCursor)?,
        })
    }
}

/// A number that the database has: one beyond what it can hold was never given out.
fn stored(number: &str) -> Result<u64, BadCursor> {
    number.parse().ok().filter(|number| i64::try_from(*number).is_ok()).ok_or(BadCursor)
}

fn decode(text: &str) -> Result<String, BadCursor> {
    String::from_utf8(BASE64.decode(text).map_err(|_| BadCursor)?).map_err(|_| BadCursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_its_first_item_and_as_many_more_as_fit() {
        assert_eq!(fitting([]), 0);
        assert_eq!(fitting([PAGE_BYTES + 1, 1]), 1);
        assert_eq!(fitting([PAGE_BYTES - 1, 1, 1]), 2);
        assert_eq!(fitting([PAGE_BYTES, 0, 1, 0]), 2);
        assert_eq!(fitting([1, u64::MAX, 1]), 1);
        assert_eq!(fitting([1; 7]), 7);
    }

    #[test]
    fn a_cursor_survives_its_text_and_a_made_up_one_is_refused() {
        let at = TimeCursor { created_at: Timestamp::from_micros(12), id: Uuid::nil() };
        assert_eq!(at.to_string().parse(), Ok(at));
        let service_id: ServiceId = "a:b".parse().unwrap();
        let receipt = ReceiptCursor { processed_at: Timestamp::from_micros(-3), service_id, seq: 9 };
        assert_eq!(receipt.to_string().parse(), Ok(receipt));
        for wrong in ["", "abc", "%%%", &BASE64.encode("t:x:y")] {
            assert!(wrong.parse::<TimeCursor>().is_err());
        }
        let beyond = BASE64.encode(format!("r:0:{}:s", 1_u64 << 63));
        assert!(beyond.parse::<ReceiptCursor>().is_err(), "no database has given it out");
    }
}
