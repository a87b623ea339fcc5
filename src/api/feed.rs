//! The feed: what happens, read from the store once for the whole process and handed to every reader.

use std::sync::Arc;
use std::time::Duration;

use jam_domain::event::{Reach, Step};
use jam_domain::{Code, Refusal};
use jam_store::Store;
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::fault::Fault;

/// Readers at once: half of the connections, so that the other requests keep theirs.
pub const MOST_READERS: usize = 1000;
/// Readers that fetch a page of their own at once; the others wait for their turn.
const MOST_FETCHING: usize = 16;
/// How often the store is asked while somebody reads.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Pages that a reader may be behind before it has to fetch for itself.
const BEHIND: usize = 16;
/// Seconds after which a reader for whom there was no place may come again.
const FULL_RETRY: u32 = 5;

/// Steps in order.
pub type Page = Arc<Vec<Step>>;

/// The feed of one process.
pub struct Feed {
    store: Arc<dyn Store>,
    live: broadcast::Sender<Page>,
    /// The last step that was handed out; `None` while nobody listens. Held while the store is asked, so that whoever joins
    /// either hears of a step or finds it in the store.
    told: Mutex<Option<u64>>,
    joined: Notify,
    places: Arc<Semaphore>,
    fetching: Arc<Semaphore>,
    end: CancellationToken,
}

/// One reader's place.
pub struct Seat {
    store: Arc<dyn Store>,
    /// What happens from now on.
    pub live: broadcast::Receiver<Page>,
    /// How far the store's events reached when the reader sat down.
    pub reach: Reach,
    /// Ends when the process is about to.
    pub end: CancellationToken,
    fetching: Arc<Semaphore>,
    _place: OwnedSemaphorePermit,
}

/// A page in the hands of a reader; one that it fetched for itself, with its turn, which ends with the page.
pub struct Held {
    /// The page.
    pub page: Page,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// A page that everybody was handed.
    pub fn heard(page: Page) -> Self {
        Self { page, _turn: None }
    }
}

impl Feed {
    /// A feed of this store; nothing runs yet.
    pub fn of(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            live: broadcast::Sender::new(BEHIND),
            told: Mutex::new(None),
            joined: Notify::new(),
            places: Arc::new(Semaphore::new(MOST_READERS)),
            fetching: Arc::new(Semaphore::new(MOST_FETCHING)),
            end: CancellationToken::new(),
        }
    }

    /// Takes a place. Every step that the store does not show at this moment will be handed out.
    pub async fn join(&self) -> Result<Seat, Fault> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| full())?;
        let mut told = self.told.lock().await;
        let reach = self.store.reach().await?;
        if told.is_none() {
            *told = Some(reach.last);
            self.joined.notify_one();
        }
        let (live, end) = (self.live.subscribe(), self.end.clone());
        Ok(Seat { store: self.store.clone(), live, reach, end, fetching: self.fetching.clone(), _place: place })
    }

    /// Hands out what happens for as long as somebody reads; asks nobody anything meanwhile.
    pub async fn run(&self) {
        let mut is_away = false;
        while let Some(more) = self.end.run_until_cancelled(self.look(&mut is_away)).await {
            if !more && self.end.run_until_cancelled(sleep(LOOK_EVERY)).await.is_none() {
                return;
            }
        }
    }

    /// Hands out the next page; says whether there was one.
    async fn look(&self, is_away: &mut bool) -> bool {
        let mut told = self.told.lock().await;
        let from = match *told {
            Some(from) if self.live.receiver_count() > 0 => from,
            Some(_) | None => {
                *told = None;
                drop(told);
                self.joined.notified().await;
                return true;
            }
        };
        let steps = match self.store.steps(from).await {
            Ok(steps) => steps,
            Err(error) => {
                if !std::mem::replace(is_away, true) {
                    tracing::warn!(%error, "events wait for the store");
                }
                return false;
            }
        };
        *is_away = false;
        let Some(last) = steps.last().map(|step| step.number) else { return false };
        *told = Some(last);
        // Whoever left just now has no use for it.
        let _ = self.live.send(Arc::new(steps));
        true
    }

    /// Ends every reader's stream: it goes on at another replica.
    pub fn end(&self) {
        self.end.cancel();
    }
}

impl Seat {
    /// The next page after this step, from the store. A reader that does not take it holds up at most the others who fetch,
    /// until its connection is given up.
    pub async fn fetch(&self, after: u64) -> Result<Held, Fault> {
        let turn = self.fetching.clone().acquire_owned().await.ok();
        let page = Arc::new(self.store.steps(after).await?);
        Ok(Held { page, _turn: turn })
    }
}

fn full() -> Refusal {
    let message =
        format!("{MOST_READERS} readers follow the events of this server already: try again, or read at another");
    Refusal::new(Code::RateLimit, message).retry_after(FULL_RETRY)
}
