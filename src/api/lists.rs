//! The shape of every list: an envelope with both ways of paging, or the bare array of old clients.

use axum::response::Response;
use jam_domain::page::{Page, PageRequest, Start};
use jam_domain::{Attestation, Receipt};
use serde::Serialize;
use std::fmt::Display;

use super::fault::ok;
use super::shapes::Listed;

/// What a page carries beside its items, where it was asked for.
#[derive(Default)]
pub struct Beside {
    /// Their receipts.
    pub receipts: Option<Vec<Receipt>>,
    /// The attestations of each report.
    pub attestations: Option<Vec<Vec<Attestation>>>,
}

/// The answer of a list. The bare array has no place for what stands beside the items.
pub fn list<T: Serialize, C: Display>(
    legacy: bool,
    asked: &PageRequest<C>,
    page: &Page<T, C>,
    beside: Beside,
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
    let Beside { receipts, attestations } = beside;
    ok(&Listed { items: &page.items, next_offset, next_cursor, receipts, attestations })
}
