//! Conditional and partial reads: what `If-None-Match` and `Range` ask of a blob of a known size.

use std::ops::Range;

/// The part of a blob that a `Range` header asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All of it: no header, one that is not understood, or several ranges (which a server may answer whole).
    Whole,
    /// These bytes; never empty.
    Bytes(Range<u64>),
    /// Nothing of what was asked for exists.
    OutOfRange,
}

/// Reads a `Range` header for a blob of `size` bytes.
pub fn part(header: Option<&str>, size: u64) -> Part {
    let Some(spec) = header.and_then(|text| text.trim().strip_prefix("bytes=")) else { return Part::Whole };
    let Some((first, last)) = spec.trim().split_once('-') else { return Part::Whole };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if spec.contains(',') || !digits(first) || !digits(last) {
        return Part::Whole;
    }
    // A number that is too large for us lies beyond the end of every blob.
    let number = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX));
    match (number(first), number(last)) {
        (Some(first), last) => {
            if last.is_some_and(|last| last < first) {
                return Part::Whole;
            }
            let end = last.map_or(size, |last| size.min(last.saturating_add(1)));
            if first < end { Part::Bytes(first..end) } else { Part::OutOfRange }
        }
        (None, Some(0)) => Part::OutOfRange,
        (None, Some(tail)) if size > 0 => Part::Bytes(size - tail.min(size)..size),
        (None, Some(_)) => Part::OutOfRange,
        (None, None) => Part::Whole,
    }
}

/// Whether an `If-None-Match` header names this entity tag (without quotes), or any.
pub fn matches_etag(header: &str, etag: &str) -> bool {
    header
        .split(',')
        .map(|one| one.trim().trim_start_matches("W/"))
        .any(|one| one == "*" || one.trim_matches('"') == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_to_the_size_and_never_empty() {
        let cases = [
            ("bytes=0-4", Part::Bytes(0..5)),
            ("bytes=5-", Part::Bytes(5..10)),
            ("bytes=-3", Part::Bytes(7..10)),
            ("bytes=-30", Part::Bytes(0..10)),
            ("bytes=8-999", Part::Bytes(8..10)),
            ("bytes=0-18446744073709551615", Part::Bytes(0..10)),
            ("bytes=2-18446744073709551616", Part::Bytes(2..10)),
            ("bytes=-18446744073709551616", Part::Bytes(0..10)),
            ("bytes=18446744073709551615-", Part::OutOfRange),
            ("bytes=18446744073709551616-", Part::OutOfRange),
            ("bytes=18446744073709551616-99999999999999999999", Part::OutOfRange),
            ("bytes=10-", Part::OutOfRange),
            ("bytes=-0", Part::OutOfRange),
            ("bytes=4-2", Part::Whole),
            ("bytes=0-1,4-5", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("lines=0-1", Part::Whole),
        ];
        for (header, wanted) in cases {
            assert_eq!(part(Some(header), 10), wanted, "{header}");
        }
        assert_eq!(part(None, 10), Part::Whole);
        assert_eq!(part(Some("bytes=0-0"), 0), Part::OutOfRange);
        assert_eq!(part(Some("bytes=-1"), 0), Part::OutOfRange);
    }

    #[test]
    fn an_etag_matches_in_a_list_weakly_and_by_star() {
        assert!(matches_etag("\"x\", W/\"abc\"", "abc"));
        assert!(matches_etag("*", "abc"));
        assert!(!matches_etag("\"abcd\"", "abc"));
    }
}
