//! The trace of a request (W3C Trace Context): the caller's by `traceparent`, else a new one.

use std::str::FromStr;

use axum::http::{HeaderMap, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use rand::random;

/// What the caller sends its span in, and what an answer names ours in.
pub const TRACEPARENT: &str = "traceparent";

/// The caller's span, when it sent one that can be read. Two are as good as none: nobody could say which is meant.
pub fn caller(headers: &HeaderMap) -> Option<SpanContext> {
    let mut sent = headers.get_all(TRACEPARENT).iter();
    let (Some(only), None) = (sent.next(), sent.next()) else { return None };
    let (trace, span, flags) = parse(only.as_bytes())?;
    // Vendors' notes go on as they came, or not at all.
    let state = headers.get("tracestate").and_then(|state| TraceState::from_str(state.to_str().ok()?).ok());
    Some(SpanContext::new(trace, span, flags, true, state.unwrap_or_default()))
}

/// A request that no span is kept of: in the caller's trace, or in a new one.
pub fn unrecorded(caller: Option<&SpanContext>) -> SpanContext {
    // Never all zero: those are the ids of no trace and no span.
    let trace = caller.map_or_else(|| TraceId::from(random::<u128>().max(1)), SpanContext::trace_id);
    let span = SpanId::from(random::<u64>().max(1));
    SpanContext::new(trace, span, TraceFlags::NOT_SAMPLED, false, TraceState::NONE)
}

/// The span as a header; its last flag says whether it was recorded.
pub fn header(span: &SpanContext) -> Option<HeaderValue> {
    let recorded = u8::from(span.is_sampled());
    HeaderValue::try_from(format!("00-{}-{}-{recorded:02x}", span.trace_id(), span.span_id())).ok()
}

/// `version-traceid-parentid-flags`, the version not `ff` and neither id all zero.
fn parse(header: &[u8]) -> Option<(TraceId, SpanId, TraceFlags)> {
    let is_hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let parts: Vec<&[u8]> = header.split(|b| *b == b'-').take(5).collect();
    let [version, trace, span, flags, ..] = parts[..] else { return None };
    let lengths = (version.len(), trace.len(), span.len(), flags.len()) == (2, 32, 16, 2);
    let known = version != b"ff" && (version != b"00" || parts.len() == 4);
    if !lengths || !known || ![version, trace, span, flags].into_iter().all(is_hex) {
        return None;
    }
    let text = |part| std::str::from_utf8(part).ok();
    let trace = TraceId::from_hex(text(trace)?).ok().filter(|id| *id != TraceId::INVALID)?;
    let span = SpanId::from_hex(text(span)?).ok().filter(|id| *id != SpanId::INVALID)?;
    let flags = u8::from_str_radix(text(flags)?, 16).ok()?;
    Some((trace, span, TraceFlags::new(flags) & TraceFlags::SAMPLED))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn sent(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (TRACEPARENT.parse().unwrap(), line.parse().unwrap())).collect()
    }

    #[test]
    fn the_callers_trace_goes_on_and_a_wrong_one_is_replaced() {
        let good = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let read = caller(&sent(&[&good])).unwrap();
        assert_eq!((read.trace_id().to_string().as_str(), read.is_sampled(), read.is_remote()), (TRACE, true, true));
        assert_eq!(header(&read).unwrap(), good.as_str());
        assert!(!caller(&sent(&[&good.replace("-01", "-02")])).unwrap().is_sampled());
        let zero = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        for wrong in
            ["", "00", &good.to_uppercase(), &zero, &format!("{good}-x"), &good.replace("00-", "ff-"), &good[1..]]
        {
            assert!(caller(&sent(&[wrong])).is_none(), "{wrong}");
        }
        assert!(caller(&sent(&[&good, &good])).is_none(), "two of them");
        assert_eq!(unrecorded(Some(&read)).trace_id(), read.trace_id());
        assert_ne!(unrecorded(Some(&read)).span_id(), read.span_id());
        assert_ne!(unrecorded(None).trace_id(), unrecorded(None).trace_id());
        assert!(header(&unrecorded(Some(&read))).unwrap().to_str().unwrap().ends_with("-00"));
    }
}
