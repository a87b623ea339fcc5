//! Lists: both shapes that a server answers with, one page or all of them.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::cli::answer::Answer;
use crate::cli::args::PagingArgs;
use crate::cli::client::{Call, Client};
use crate::cli::fault::{Fault, Refused};

/// Entries of a page when nothing is said.
const DEFAULT_LIMIT: u32 = 50;
/// Entries that a server gives at once at most.
pub const MAX_LIMIT: u32 = 200;

/// What is listed.
pub struct Query {
    /// The path, e.g. `packages`.
    pub name: &'static str,
    /// The filters.
    pub filters: Vec<(&'static str, Option<String>)>,
}

/// Entries of a list, from one page or several.
#[derive(Debug, Default, PartialEq)]
pub struct List {
    /// The entries.
    pub items: Vec<Value>,
    /// Receipts that came with them, when they were asked for.
    pub receipts: Option<Vec<Value>>,
    /// The attestations of each of them, when they were asked for.
    pub attestations: Option<Vec<Value>>,
    /// Whether the server answers bare arrays.
    pub bare: bool,
    /// After which entry there is one that the server could not read, for each of these.
    gaps: Vec<Option<String>>,
    /// Where the next page begins.
    next: Next,
    /// What the server wrote.
    raw: Value,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Next {
    Offset(u64),
    Cursor(String),
    #[default]
    Nowhere,
}

impl List {
    /// Reads one page that was asked for at `offset`: an envelope, or a bare array.
    fn read(raw: Value, offset: u64, name: &str) -> Result<Self, Fault> {
        let wrong = |problem: &str| Fault::Answer { call: format!("GET /jam/{name}"), problem: problem.into() };
        if let Value::Array(items) = &raw {
            let items = items.clone();
            // A bare array says nothing of what follows: only an empty one is surely the end.
            let next = if items.is_empty() { Next::Nowhere } else { Next::Offset(offset + items.len() as u64) };
            return Ok(Self { items, receipts: None, attestations: None, bare: true, gaps: Vec::new(), next, raw });
        }
        let list = |key: &str| raw.get(key).and_then(Value::as_array).cloned();
        let items = list("items").ok_or_else(|| wrong("the answer is neither a list nor has one in `items`"))?;
        let cursor = raw.get("next_cursor").and_then(Value::as_str).map(|cursor| Next::Cursor(cursor.to_owned()));
        let offset = || raw.get("next_offset").and_then(Value::as_u64).map(Next::Offset);
        let next = cursor.or_else(offset).unwrap_or_default();
        let (receipts, attestations) = (list("receipts"), list("attestations"));
        Ok(Self { items, receipts, attestations, bare: false, gaps: Vec::new(), next, raw })
    }

    /// The list as JSON, in the shape that the server uses.
    pub fn json(&self) -> Value {
        self.raw.clone()
    }

    /// Whether the server says that more follow.
    pub fn has_more(&self) -> bool {
        !self.bare && self.next != Next::Nowhere
    }

    /// This field of every entry, as text.
    pub fn names(&self, field: &str) -> Vec<String> {
        self.items.iter().filter_map(|item| item.get(field)).filter_map(Value::as_str).map(str::to_owned).collect()
    }
}

/// An entry at which the server fails.
pub struct Unread {
    /// What the entry before it is known by; none when it is the first one.
    pub after: Option<String>,
}

/// Walks a list page by page.
pub struct Pages<'c> {
    client: &'c Client,
    query: Query,
    limit: u32,
    at: Next,
    /// Whether pages may have fewer entries than were asked for, because all of them are walked.
    adapts: bool,
    last: Option<String>,
    /// The limit of a walk without faults.
    wide: u32,
    /// Whether a page of this limit came since the server failed.
    passed: bool,
}

impl<'c> Pages<'c> {
    /// A walk from the offset on, with pages of at most this many entries.
    pub fn new(client: &'c Client, query: Query, limit: u32, offset: u64) -> Self {
        Self { client, query, limit, at: Next::Offset(offset), adapts: true, last: None, wide: limit, passed: false }
    }

    /// The next page, or the entry at which the server fails: where it does, pages of half the size are asked for.
    pub async fn next_located(&mut self) -> Result<Result<Option<List>, Unread>, Fault> {
        loop {
            match self.next_page().await {
                Ok(page) => {
                    // A second one: the fault is gone, or was further on than half a page.
                    if self.passed {
                        self.limit = self.wide;
                    }
                    self.passed = self.limit < self.wide;
                    return Ok(Ok(page));
                }
                Err(fault) if fault.is_internal() && self.limit > 1 => {
                    (self.limit, self.passed) = (self.limit.div_ceil(2), false);
                }
                Err(fault) if fault.is_internal() => return Ok(Err(Unread { after: self.last.clone() })),
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Passes the entry at which the server failed, where it says what is behind it.
    fn passes(&mut self, fault: &Fault) -> bool {
        let Some(cursor) = behind(fault) else { return false };
        self.at = match self.at {
            // What goes on by offsets may be a server of bare arrays, which tells no cursor with them.
            Next::Offset(offset) => Next::Offset(offset + 1),
            Next::Cursor(_) | Next::Nowhere => Next::Cursor(cursor.to_owned()),
        };
        true
    }

    /// The next page; `None` after the last.
    pub async fn next_page(&mut self) -> Result<Option<List>, Fault> {
        let name = self.query.name;
        let (offset, cursor) = match &self.at {
            Next::Nowhere => return Ok(None),
            Next::Offset(offset) => (*offset, None),
            Next::Cursor(cursor) => (0, Some(cursor.clone())),
        };
        let page = loop {
            let mut call = Call::get(&["jam", name]).with("limit", Some(self.limit));
            call.query.extend(self.query.filters.iter().cloned());
            let call = call.with("offset", (offset > 0).then_some(offset)).with("cursor", cursor.clone());
            match self.client.send(call).await {
                Ok(reply) => break List::read(reply.json()?, offset, name)?,
                // A server of bare arrays refuses what is too large for one, and says how many entries are not.
                Err(fault) => match most(&fault).filter(|most| self.adapts && *most < self.limit) {
                    Some(most) => (self.limit, self.wide) = (most, most),
                    None => return Err(fault),
                },
            }
        };
        if page.next == self.at {
            let problem = "the list names the page it is on as the next one".into();
            return Err(Fault::Answer { call: format!("GET /jam/{name}"), problem });
        }
        self.at = page.next.clone();
        self.last = page.items.last().and_then(key).or(self.last.take());
        Ok(Some(page))
    }
}

/// The place behind an entry at which the server failed, where it says it.
fn behind(fault: &Fault) -> Option<&str> {
    let Fault::Refused(Refused { details: Some(details), .. }) = fault else { return None };
    details.get("next_cursor").filter(|_| fault.is_internal())?.as_str()
}

/// What to do about an entry at which a page would begin.
fn passable(fault: Fault, offset: u64) -> Fault {
    match fault {
        Fault::Refused(refused) if behind(&Fault::Refused(refused.clone())).is_some() => {
            let message = format!(
                "the entry at offset {offset} can't be read, the server's log names it: --offset {} begins behind it, --all leaves it out",
                offset + 1
            );
            Fault::Refused(Refused { message, ..refused })
        }
        other => other,
    }
}

/// How many entries a server says that it can give at once.
fn most(fault: &Fault) -> Option<u32> {
    let Fault::Refused(Refused { details: Some(details), .. }) = fault else { return None };
    let limit = details.get("limit").filter(|_| details.get("field").is_some_and(|field| field == "limit"))?;
    limit.as_u64().and_then(|limit| u32::try_from(limit).ok()).filter(|limit| *limit > 0)
}

/// One page, or with `--all` every page as one list.
pub async fn fetch(client: &Client, query: Query, paging: &PagingArgs) -> Result<List, Fault> {
    let PagingArgs { limit, offset, all, table: _ } = paging;
    let size = limit.filter(|limit| *limit > 0).unwrap_or(if *all { MAX_LIMIT } else { DEFAULT_LIMIT });
    let mut pages = Pages::new(client, query, size, *offset);
    pages.adapts = *all;
    if !all {
        return Ok(pages.next_page().await.map_err(|fault| passable(fault, *offset))?.unwrap_or_default());
    }
    let (mut list, mut seen, mut seen_receipts) = (List::default(), HashSet::new(), HashSet::new());
    loop {
        let page = match pages.next_page().await {
            Ok(Some(page)) => page,
            Ok(None) => break,
            Err(fault) if pages.passes(&fault) => {
                list.gaps.push(pages.last.clone());
                continue;
            }
            Err(fault) => return Err(fault),
        };
        // With offsets, an entry made meanwhile shifts the others onto the next page: they are not shown twice.
        let fresh = |item: &Value, seen: &mut HashSet<String>| key(item).is_none_or(|key| seen.insert(key));
        list.bare = page.bare;
        list.items.extend(page.items.into_iter().filter(|item| fresh(item, &mut seen)));
        if let Some(more) = page.receipts {
            let all = list.receipts.get_or_insert_default();
            all.extend(more.into_iter().filter(|receipt| fresh(receipt, &mut seen_receipts)));
        }
    }
    list.raw = joined(&list);
    Ok(list)
}

/// What an entry is known by: its id, or of a receipt the place in its chain.
fn key(item: &Value) -> Option<String> {
    match item.get("id").and_then(Value::as_str) {
        Some(id) => Some(id.to_owned()),
        None => Some(format!("{}/{}", item.get("service_id")?.as_str()?, item.get("seq")?.as_u64()?)),
    }
}

fn joined(list: &List) -> Value {
    if list.bare {
        return Value::Array(list.items.clone());
    }
    let mut envelope = json!({"items": list.items, "next_offset": null, "next_cursor": null});
    if let (Some(fields), Some(receipts)) = (envelope.as_object_mut(), &list.receipts) {
        fields.insert("receipts".into(), Value::Array(receipts.clone()));
    }
    envelope
}

/// The answer with what to say when a table shows only the first part, or when something is missing.
pub fn noted(answer: Answer, list: &List, paging: &PagingArgs) -> Answer {
    if list.has_more() {
        let shown = paging.offset + list.items.len() as u64;
        return answer.with_table_note(format!("more follow: --all shows every entry, --offset {shown} the next page"));
    }
    if list.gaps.is_empty() {
        return answer;
    }
    let unread = |gaps: &[_]| {
        let entries = if gaps.len() == 1 { "entry" } else { "entries" };
        format!("{} {entries} could not be read", gaps.len())
    };
    let lines = list.gaps.chunk_by(PartialEq::eq).map(|same| match same.first().and_then(Option::as_ref) {
        Some(id) => format!("after {id}: {}", unread(same)),
        None => format!("at the beginning: {}", unread(same)),
    });
    let note = lines.collect::<Vec<_>>().join("\n");
    let message = format!("{}: the server's log names them", unread(&list.gaps));
    answer.with_note(note).with_fault(Fault::internal(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_are_read_and_say_where_to_go_on() {
        let read = |raw: Value, offset| List::read(raw, offset, "packages").unwrap();
        let bare = read(json!([{"id": "a"}, {"id": "b"}]), 50);
        assert_eq!((bare.names("id"), bare.next.clone()), (vec!["a".into(), "b".into()], Next::Offset(52)));
        assert_eq!(read(json!([]), 50).next, Next::Nowhere);
        let envelope = read(json!({"items": [{"id": "a"}], "next_offset": 1, "next_cursor": "c"}), 0);
        assert_eq!((envelope.next.clone(), envelope.has_more()), (Next::Cursor("c".into()), true));
        assert_eq!(read(json!({"items": [], "next_offset": 7}), 0).next, Next::Offset(7));
        assert_eq!(read(json!({"items": [], "next_offset": null, "next_cursor": null}), 0).next, Next::Nowhere);
    }

    #[test]
    fn an_answer_that_is_no_list_is_refused() {
        for wrong in [json!({"item": []}), json!("x"), Value::Null] {
            assert!(List::read(wrong, 0, "packages").is_err());
        }
    }
}
