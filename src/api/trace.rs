//! The trace id of a request: from `traceparent` when the caller sent one, else a new one.

use std::fmt;

use axum::http::{HeaderMap, HeaderValue};
use rand::random;

/// The id that every log line of a request carries: 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 32]);

impl TraceId {
    /// Reads the caller's, or makes one.
    pub fn of(headers: &HeaderMap) -> Self {
        headers.get("traceparent").and_then(|value| parse(value.as_bytes())).unwrap_or_else(Self::new)
    }

    fn new() -> Self {
        let mut digits = [b'0'; 32];
        // Never all zero: that is the id of no trace.
        hex::encode_to_slice(random::<u128>().max(1).to_be_bytes(), &mut digits).expect("16 bytes are 32 digits");
        Self(digits)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The id as a header.
    pub fn header(&self) -> Option<HeaderValue> {
        HeaderValue::from_bytes(&self.0).ok()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `version-traceid-parentid-flags`, the version not `ff` and neither id all zero.
fn parse(header: &[u8]) -> Option<TraceId> {
    let is_hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let parts: Vec<&[u8]> = header.split(|b| *b == b'-').take(5).collect();
    let [version, trace, parent, flags, ..] = parts[..] else { return None };
    let lengths = (version.len(), trace.len(), parent.len(), flags.len()) == (2, 32, 16, 2);
    let known = version != b"ff" && (version != b"00" || parts.len() == 4);
    let real = trace.iter().any(|b| *b != b'0') && parent.iter().any(|b| *b != b'0');
    let hex = [version, trace, parent, flags].into_iter().all(is_hex);
    if lengths && known && real && hex { Some(TraceId(trace.try_into().ok()?)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_trace_goes_on_and_a_wrong_one_is_replaced() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let good = format!("00-{trace}-00f067aa0ba902b7-01");
        assert_eq!(parse(good.as_bytes()).map(|id| id.to_string()).as_deref(), Some(trace));
        let zero = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        for wrong in
            ["", "00", &good.to_uppercase(), &zero, &format!("{good}-x"), &good.replace("00-", "ff-"), &good[1..]]
        {
            assert!(parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
        assert_ne!(TraceId::new().to_string(), TraceId::new().to_string());
    }
}
