//! The stream of events, in words.

use jam_domain::Code;
use jam_domain::event::{EventId, EventType};
use serde_json::json;

use super::call::{Answer, Call, Content, Parameter};
use super::calls::service_id;

pub(super) fn follow() -> Call {
    let types = EventType::ALL.map(EventType::as_str);
    let id = json!({"type": "string", "pattern": "^(0|[0-9a-f]{16}-[0-9a-f]{6})$", "examples": [EventId { step: 742, place: 1 }.to_string()]});
    Call::new(
        "events",
        "Follow what happens",
        "Server-sent events that go on until either side ends them: each has an `id`, its type under `event` and JSON under `data` \
         (schema `Event`). Ids rise. After a break send the last id as `Last-Event-ID`, or as `after`, and the stream goes on behind it, at \
         any replica, without a gap or a repeat, for as long as `retention_days` keeps events. A silent stream sends a comment with \
         its id every 15 seconds. A reader that takes nothing for `client_timeout_seconds` is closed, and so is one whose token is \
         retired; a server that stops ends its streams. Only the call itself counts for the rate limit.",
    )
    .takes(service_id("Events of this service."))
    .takes(Parameter::query(
        "types",
        "Only events of these types, separated by commas.",
        json!({"type": "string", "examples": [types.join(",")]}),
    ))
    .takes(Parameter::query(
        "after",
        "Begin behind this event; 0 is the oldest that is kept. Left out: with what happens from now on.",
        id.clone(),
    ))
    .takes(Parameter::header("Last-Event-ID", "The same as `after`, and counts before it: browsers send it.", id))
    .answers(
        Answer::with(200, "The events.", Content::Events)
            .header("Cache-Control", "`no-cache`.", json!({"type": "string"}))
            .header("X-Accel-Buffering", "`no`.", json!({"type": "string"})),
    )
    .refuses(Code::ServiceDenied, "the token may not touch this service")
    .refuses(Code::EventsGone, "events behind this id are deleted, or the id is none of this store")
    .refuses(Code::RateLimit, "more than `rate_limit_per_minute` requests, or 1000 readers at this server: wait for Retry-After")
}
