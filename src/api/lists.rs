//! The shape of every list: an envelope with both ways of paging, or the bare array of old clients.

use axum::response::Response;
use jam_domain::Receipt;
use jam_domain::page::{Page, PageRequest, Start};
use serde::Serialize;
use std::fmt::Display;

use super::fault::ok;
use super::shapes::Listed;

/// The answer of a list. The envelope carries the receipts of its items where they were asked for.
pub fn list<T: Serialize, C: Display>(
    legacy: bool,
    asked: &PageRequest<C>,
    page: &Page<T, C>,
    receipts: Option<Vec<Receipt>>,
) -> Response {
    if legacy {
        return ok(&page.items);
    }
    let next_offset = match (&asked.start, &page.next) {
        (Start::Offset(offset), Some(_)) => Some(offset + page.items.len() as u64),
        // After a cursor nobody has counted what came before it.
        (Start::Offset(_) | Start::After(_), _) => None,
    };
    let next_cursor = page.next.as_ref().map(ToString::to_string);
    ok(&Listed { items: &page.items, next_offset, next_cursor, receipts })
}
