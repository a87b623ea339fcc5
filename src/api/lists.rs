//! The shape of every list: an envelope with both ways of paging, or the bare array of old clients; and the room of large answers.

use std::convert::Infallible;
use std::fmt::Display;

use axum::body::Body;
use axum::http::header::CONTENT_LENGTH;
use axum::response::Response;
use bytes::Bytes;
use jam_domain::page::{PAGE_BYTES, Page, PageRequest, Start};
use jam_domain::{Attestation, Receipt, Refusal};
use serde::Serialize;
use serde_json::json;

use super::admit::Admitted;
use super::connection::HoldsRoom;
use super::fault::{encoded, json_answer, ok};
use super::room::Turn;
use super::shapes::Listed;
use super::state::Api;

/// What a connection holds anyway: for an answer up to this nobody else waits.
const SMALL: usize = 64 << 10;

/// What a page carries beside its items, where it was asked for.
#[derive(Default)]
pub struct Beside {
    /// Their receipts.
    pub receipts: Option<Vec<Receipt>>,
    /// The attestations of each report.
    pub attestations: Option<Vec<Vec<Attestation>>>,
}

/// The answer of a list whose items are small. The bare array has no place for what stands beside the items.
pub fn list<T: Serialize, C: Display>(
    legacy: bool,
    asked: &PageRequest<C>,
    page: &Page<T, C>,
    beside: Beside,
) -> Response {
    if legacy { ok(&page.items) } else { ok(&envelope(asked, page, beside)) }
}

/// Waits for room for a page of large items, before it is read.
pub async fn turn(api: &Api, admitted: &Admitted<'_>) -> Result<Turn, Refusal> {
    api.gate.lists.turn(&admitted.caller.bucket, PAGE_BYTES).await
}

/// The answer of a list whose items may be large: it keeps its room until it is sent. A bare array says nothing of what follows,
/// so that one which ends early would be taken for the last page: it is refused.
pub fn large<T: Serialize, C: Display>(
    admitted: &Admitted<'_>,
    asked: &PageRequest<C>,
    page: &Page<T, C>,
    beside: Beside,
    turn: Turn,
) -> Result<Response, Refusal> {
    if !admitted.settings.legacy_list_response {
        return Ok(sent(encoded(&envelope(asked, page, beside)), turn));
    }
    let fits = page.items.len();
    if page.next.is_some() && fits < asked.limit as usize {
        let most = PAGE_BYTES >> 20;
        let problem = format!(
            "one answer has {fits} items here ({most} MiB at most, or up to one that can't be read): ask for {fits} at most"
        );
        return Err(Refusal::field("limit", problem).details(json!({"field": "limit", "limit": fits})));
    }
    Ok(sent(encoded(&page.items), turn))
}

/// The answer for one item. A large one takes room of its own size or, where there is none, is refused: it is in memory already,
/// and waiting would hold it there. Its room is that of blobs: a list of the same caller takes all that is his of the lists'.
pub fn single<T: Serialize>(api: &Api, admitted: &Admitted<'_>, item: &T) -> Result<Response, Refusal> {
    let json = encoded(item);
    if json.len() <= SMALL {
        return Ok(json_answer(Body::from(json)));
    }
    let turn = api.gate.blobs.now(&admitted.caller.bucket, json.len() as u64)?;
    Ok(sent(json, turn))
}

fn envelope<'a, T, C: Display>(asked: &PageRequest<C>, page: &'a Page<T, C>, beside: Beside) -> Listed<'a, T> {
    let next_offset = match (&asked.start, &page.next) {
        (Start::Offset(offset), Some(_)) => Some(offset + page.items.len() as u64),
        // After a cursor nobody has counted what came before it.
        (Start::Offset(_) | Start::After(_), _) => None,
    };
    let next_cursor = page.next.as_ref().map(ToString::to_string);
    let Beside { receipts, attestations } = beside;
    Listed { items: &page.items, next_offset, next_cursor, receipts, attestations }
}

/// An answer that leaves piece by piece, and gives its room back when the last one has left, or the client has.
fn sent(json: Vec<u8>, mut turn: Turn) -> Response {
    let length = json.len();
    if length <= SMALL {
        return json_answer(Body::from(json));
    }
    turn.keep(length as u64);
    let mut left = Bytes::from(json);
    let pieces = std::iter::from_fn(move || {
        let _held = &turn;
        let piece = left.split_to(left.len().min(SMALL));
        (!piece.is_empty()).then_some(Ok::<_, Infallible>(piece))
    });
    let mut response = json_answer(Body::from_stream(futures::stream::iter(pieces)));
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response.extensions_mut().insert(HoldsRoom);
    response
}
