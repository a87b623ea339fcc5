//! The shape of every list: an envelope with both ways of paging, or the bare array of old clients.

use axum::response::Response;
use jam_domain::page::{Page, PageRequest, Start};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fmt::Display;

use super::fault::ok;

/// The answer of a list. `beside` is what the envelope carries beside the items.
pub fn list<T: Serialize, C: Display>(
    legacy: bool,
    asked: &PageRequest<C>,
    page: &Page<T, C>,
    beside: Option<(&str, Value)>,
) -> Response {
    if legacy {
        return ok(&page.items);
    }
    let next_offset = match (&asked.start, &page.next) {
        (Start::Offset(offset), Some(_)) => Some(offset + page.items.len() as u64),
        // After a cursor nobody has counted what came before it.
        (Start::Offset(_) | Start::After(_), _) => None,
    };
    let mut envelope = Map::new();
    envelope.insert("items".into(), json!(page.items));
    envelope.insert("next_offset".into(), json!(next_offset));
    envelope.insert("next_cursor".into(), json!(page.next.as_ref().map(ToString::to_string)));
    envelope.extend(beside.map(|(name, value)| (name.to_owned(), value)));
    ok(&envelope)
}
