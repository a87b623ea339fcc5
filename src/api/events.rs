//! GET /jam/events: server-sent events, from wherever a reader stopped, for as long as it reads.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;
use jam_domain::event::{Event, EventId, EventType};
use jam_domain::page::Visible;
use jam_domain::token::TokenEntry;
use jam_domain::{Code, Refusal, ServiceId, Timestamp};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, sleep_until};

use super::admit::Admitted;
use super::controls::Current;
use super::fault::Fault;
use super::feed::{Held, Seat};
use super::query::Query;
use super::state::Api;
use super::tokens::Tokens;

/// Milliseconds after which a reader comes back when its stream broke.
const RETRY: u32 = 2000;
/// How long a stream is silent at most: proxies take a longer silence for the end.
const BEAT: Duration = Duration::from_secs(15);
/// How long a reader waits before it asks a store again that did not answer.
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes of text after which what is there is sent.
const CHUNK: usize = 32 * 1024;

/// GET /jam/events.
pub async fn follow(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    let wanted = Wanted::of(admitted)?;
    let after = position(admitted)?;
    let seat = api.pulse.feed.join().await?;
    let from = match after {
        Some(after) if !seat.reach.resumes(after) => return Err(gone(after).into()),
        Some(after) => after,
        None => EventId::end_of(seat.reach.last),
    };
    let books = std::iter::once(&api.gate.tokens).chain(&api.gate.admins).cloned().collect();
    let leave = Leave { current: api.controls.current(), books, entry: admitted.caller.entry.clone() };
    let greeting = Some(format!("retry: {RETRY}\nid: {from}\n\n"));
    let beat = Instant::now() + BEAT;
    let reader = Reader { seat, wanted, leave, after: from, greeting, held: None, is_live: false, beat };
    let stream = futures::stream::unfold(reader, |mut reader| async move {
        let text = reader.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(text)), reader))
    });
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Where to go on. A browser that comes back sends the header, and the query as it was at first.
fn position(admitted: &Admitted<'_>) -> Result<Option<EventId>, Refusal> {
    let header = admitted.headers.get("last-event-id").filter(|value| !value.is_empty());
    let Some(header) = header else { return admitted.query.value("after") };
    let text = header.to_str().unwrap_or_default();
    text.parse().map(Some).map_err(|problem| Refusal::field("Last-Event-ID", problem))
}

fn gone(after: EventId) -> Refusal {
    let message = format!(
        "events after {after} are not kept any more, or the id is of another store: read the lists, then follow without \
         after, or with after=0 from the oldest event that is kept"
    );
    Refusal::new(Code::EventsGone, message)
}

/// Which events a reader gets.
struct Wanted {
    types: Option<BTreeSet<EventType>>,
    services: Visible,
}

impl Wanted {
    fn of(admitted: &Admitted<'_>) -> Result<Self, Refusal> {
        let service: Option<ServiceId> = admitted.query.value("service_id")?;
        service.iter().try_for_each(|service| admitted.caller.may_touch(service))?;
        let services = service.map_or_else(|| admitted.caller.services.clone(), |service| Some([service].into()));
        Ok(Self { types: types_of(&admitted.query)?, services })
    }

    fn takes(&self, event: &Event) -> bool {
        self.types.as_ref().is_none_or(|types| types.contains(&event.kind))
            && self.services.as_ref().is_none_or(|services| services.contains(&event.service_id))
    }
}

fn types_of(query: &Query) -> Result<Option<BTreeSet<EventType>>, Refusal> {
    let names = query.text("types").map(|text| text.split(',').map(str::trim).filter(|name| !name.is_empty()));
    let parsed = names.map(|names| names.map(str::parse).collect::<Result<BTreeSet<EventType>, String>>());
    parsed.transpose().map_err(|problem| Refusal::field("types", problem))
}

/// A reader's leave to go on reading: a token that is retired or changed, and JAM switched off, take effect on open streams, too.
struct Leave {
    current: Current,
    books: Vec<Arc<Tokens>>,
    entry: Option<TokenEntry>,
}

impl Leave {
    fn holds(&self) -> bool {
        if !self.current.in_force().settings.enabled {
            return false;
        }
        let Some(entry) = &self.entry else { return true };
        let now = Timestamp::now();
        self.books.iter().any(|tokens| tokens.book().holds(entry, now))
    }
}

/// One open stream.
struct Reader {
    seat: Seat,
    wanted: Wanted,
    leave: Leave,
    /// The last event that the reader got or did not want.
    after: EventId,
    /// What it is told first: with an id, so that a stream that breaks before the first event resumes here.
    greeting: Option<String>,
    /// A page that is being sent, and the step of it that is next.
    held: Option<(Held, usize)>,
    /// Everything up to now was sent, and what comes is heard.
    is_live: bool,
    beat: Instant,
}

impl Reader {
    /// What is sent next; `None` ends the stream.
    async fn next(&mut self) -> Option<String> {
        let end = self.seat.end.clone();
        let text = end.run_until_cancelled(self.text()).await??;
        self.beat = Instant::now() + BEAT;
        self.leave.holds().then_some(text)
    }

    async fn text(&mut self) -> Option<String> {
        if let Some(greeting) = self.greeting.take() {
            return Some(greeting);
        }
        loop {
            let text = self.events();
            if !text.is_empty() {
                return Some(text);
            }
            if self.beat <= Instant::now() {
                return Some(format!(":\nid: {}\n\n", self.after));
            }
            if self.is_live {
                self.hear().await?;
            } else {
                self.fetch().await;
            }
        }
    }

    /// Waits for the next page; `None` when there will be none.
    async fn hear(&mut self) -> Option<()> {
        let heard = tokio::select! {
            heard = self.seat.live.recv() => heard,
            () = sleep_until(self.beat) => return Some(()),
        };
        match heard {
            Ok(page) => self.held = Some((Held::heard(page), 0)),
            // Too far behind what is held for everybody: what is missing is in the store.
            Err(RecvError::Lagged(_)) => self.is_live = false,
            Err(RecvError::Closed) => return None,
        }
        Some(())
    }

    /// Reads the next page from the store; an empty one means that nothing is left but what is to be heard.
    async fn fetch(&mut self) {
        // The step in which the reader stopped may have more for it.
        let is_whole = self.after == EventId::end_of(self.after.step);
        let step = if is_whole { self.after.step } else { self.after.step.saturating_sub(1) };
        match self.seat.fetch(step).await {
            Ok(held) if held.page.is_empty() => self.is_live = true,
            Ok(held) => self.held = Some((held, 0)),
            // Logged where the feed asks; a stream lives through an outage.
            Err(_) => sleep(PAUSE).await,
        }
    }

    /// The text of the next events of the page in hand; empty when there are no more.
    fn events(&mut self) -> String {
        let mut text = String::new();
        let Some((held, from)) = self.held.take() else { return text };
        let page = held.page.clone();
        for (at, step) in page.iter().enumerate().skip(from) {
            let seen = self.after;
            for (id, event) in step.events().filter(|(id, _)| *id > seen) {
                if text.len() >= CHUNK {
                    self.held = Some((held, at));
                    return text;
                }
                if self.wanted.takes(&event) {
                    write_event(&mut text, id, &event);
                }
                self.after = id;
            }
            self.after = self.after.max(EventId::end_of(step.number));
        }
        text
    }
}

fn write_event(text: &mut String, id: EventId, event: &Event) {
    let data = serde_json::to_string(event).expect("an event has string keys and whole numbers");
    // Writing to a string can't fail.
    let _ = write!(text, "id: {id}\nevent: {}\ndata: {data}\n\n", event.kind.as_str());
}
