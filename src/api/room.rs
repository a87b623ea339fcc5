//! Room for the bytes of bodies that are under way: bounded for everybody together and for each caller, who has half of it, or of that
//! for lists one page.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use jam_domain::page::PAGE_BYTES;
use jam_domain::{Code, Refusal};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::action::MAX_JSON;
use super::limiter::Key;

/// How long a body waits for its turn.
const TURN: Duration = Duration::from_secs(30);

/// How many KiB may be held at once: by all, and by each caller.
pub struct Room {
    share: u32,
    left: Arc<Semaphore>,
    shares: Mutex<HashMap<Key, Weak<Semaphore>>>,
}

/// The room that one body has; given back when it is dropped.
pub struct Turn {
    of_the_share: OwnedSemaphorePermit,
    of_all: OwnedSemaphorePermit,
}

/// The rooms: a submission never waits for uploads, nor for who reads its list slowly.
pub struct Rooms {
    /// For blobs, both ways.
    pub blobs: Room,
    /// For JSON that comes.
    pub json: Room,
    /// For lists that go.
    pub lists: Room,
}

/// Rooms of so many bytes in all.
pub fn rooms(bytes: u64) -> Rooms {
    // Twice the largest body at least: a share holds one whole.
    let json = (bytes / 8).max(2 * MAX_JSON).min(bytes / 2);
    let lists = bytes / 4;
    let half = |size: u64| Room::of(kib(size), kib(size).div_ceil(2));
    // Whoever leaves a page unread waits for its end with the next one: a list is a turn like any other of his.
    let page = Room::of(kib(lists), kib(PAGE_BYTES).min(kib(lists).div_ceil(2)));
    Rooms { blobs: half(bytes - json - lists), json: half(json), lists: page }
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).max(1)
}

fn no_room(seconds: u32) -> Refusal {
    Refusal::new(Code::StoreUnavailable, "too many transfers are under way: try again").retry_after(seconds)
}

impl Turn {
    /// Gives back what is more than so many bytes: a list is known to be small once it is read.
    pub fn keep(&mut self, bytes: u64) {
        let kept = kib(bytes) as usize;
        for permit in [&mut self.of_the_share, &mut self.of_all] {
            drop(permit.split(permit.num_permits().saturating_sub(kept)));
        }
    }
}

impl Room {
    fn of(size: u32, share: u32) -> Self {
        Self { share, left: Arc::new(Semaphore::new(size as usize)), shares: Mutex::default() }
    }

    /// Waits for room for so many bytes of this caller's, first in its own share: who has used that up keeps nobody else
    /// waiting. A body that is larger than the share gets it whole.
    pub async fn turn(&self, caller: &Key, bytes: u64) -> Result<Turn, Refusal> {
        let kib = kib(bytes).min(self.share);
        let share = self.share_of(caller);
        let turn = async {
            let of_the_share = share.acquire_many_owned(kib).await?;
            let of_all = self.left.clone().acquire_many_owned(kib).await?;
            Ok::<_, AcquireError>(Turn { of_the_share, of_all })
        };
        match timeout(TURN, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(no_room(5)),
        }
    }

    /// Room for so many bytes of this caller's if there is some now, for what would hold memory while it waits. Who waits in turn
    /// goes first.
    pub fn now(&self, caller: &Key, bytes: u64) -> Result<Turn, Refusal> {
        let kib = kib(bytes).min(self.share);
        let of_the_share = self.share_of(caller).try_acquire_many_owned(kib).map_err(|_| no_room(1))?;
        let of_all = self.left.clone().try_acquire_many_owned(kib).map_err(|_| no_room(1))?;
        Ok(Turn { of_the_share, of_all })
    }

    /// The caller's share, which lives as long as somebody holds or awaits a part of it.
    fn share_of(&self, caller: &Key) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(caller).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(self.share as usize));
        shares.insert(caller.clone(), Arc::downgrade(&share));
        share
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use jam_domain::TokenId;
    use jam_domain::token::TokenHash;
    use tokio::task::unconstrained;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn of(token: &str) -> Key {
        let id: TokenId = TokenHash::of(token).id();
        Key::Token(id)
    }

    fn taken(room: &Room, caller: &Key, bytes: u64) -> Vec<Turn> {
        let mut turns = Vec::new();
        // Unconstrained: the runtime lets a task that never waits believe that nothing is ready after a while.
        while let Some(turn) = unconstrained(room.turn(caller, bytes)).now_or_never() {
            turns.push(turn.unwrap());
        }
        turns
    }

    #[tokio::test]
    async fn one_caller_holds_half_at_most_and_all_together_no_more_than_there_is() {
        let Rooms { blobs, json, lists } = rooms(64 * MIB);
        let first = taken(&blobs, &of("a"), MIB);
        assert_eq!(first.len(), 20);
        assert_eq!(taken(&blobs, &of("b"), 10 * MIB).len(), 2, "the other half is there for another");
        assert_eq!(taken(&json, &of("a"), MIB).len(), 4, "uploads take nothing from submissions");
        assert_eq!(taken(&lists, &of("a"), PAGE_BYTES).len(), 1, "nor from lists");
        let second = taken(&blobs, &of("b"), MIB);
        assert_eq!(second.len(), 20);
        assert!(taken(&blobs, &of("c"), 1).is_empty(), "what is held in all is bounded");
        drop(first);
        assert_eq!(taken(&blobs, &of("c"), MIB).len(), 20);
    }

    #[tokio::test]
    async fn of_lists_each_caller_has_one_page_and_the_others_theirs() {
        let lists = rooms(64 * MIB).lists;
        let stalled: Vec<_> =
            ["a", "b"].map(|token| taken(&lists, &of(token), PAGE_BYTES)).into_iter().flatten().collect();
        assert_eq!(stalled.len(), 2);
        assert_eq!(taken(&lists, &of("c"), PAGE_BYTES).len(), 1, "two who do not read leave half of the room");
    }

    #[tokio::test]
    async fn a_turn_keeps_what_it_needs_and_gives_the_rest_to_others() {
        let lists = rooms(64 * MIB).lists;
        let mut turns = taken(&lists, &of("a"), PAGE_BYTES);
        turns[0].keep(MIB);
        turns[0].keep(2 * MIB);
        assert_eq!(taken(&lists, &of("a"), MIB).len(), 3);
        drop(turns);
        assert_eq!(taken(&lists, &of("a"), MIB).len(), 4);
    }

    #[tokio::test]
    async fn what_cannot_wait_has_room_now_or_is_refused_at_once() {
        let lists = rooms(64 * MIB).lists;
        let mut held: Vec<_> = (0..4).map(|_| lists.now(&of("a"), MIB).unwrap()).collect();
        let refused = lists.now(&of("a"), 1).err().expect("the share is used up");
        assert_eq!((refused.code, refused.retry_after), (Code::StoreUnavailable, Some(1)));
        held.extend(["b", "c", "d"].map(|token| lists.now(&of(token), 5 * MIB).expect("it gets the share whole")));
        assert!(lists.now(&of("e"), 1).is_err(), "all of the room is used up");
        held.remove(0);
        // What was refused for want of the one has left nothing of the other taken.
        assert!(lists.now(&of("e"), MIB).is_ok());
        let waiting = lists.turn(&of("a"), 2 * MIB).now_or_never();
        assert!(waiting.is_none() && lists.now(&of("a"), MIB).is_ok(), "who has given up waiting holds nothing");
    }

    #[tokio::test]
    async fn who_holds_nothing_is_forgotten() {
        let blobs = rooms(64 * MIB).blobs;
        for caller in 0..1_000 {
            drop(taken(&blobs, &of(&caller.to_string()), 10 * MIB));
        }
        assert!(blobs.shares.lock().unwrap().len() <= 1);
    }

    #[tokio::test]
    async fn a_body_larger_than_the_share_gets_it_whole_and_every_room_lets_one_in() {
        for bytes in [0, 1, 1024, 100_000, 4 * MIB] {
            let Rooms { blobs, json, lists } = rooms(bytes);
            for room in [blobs, json, lists] {
                assert_eq!(taken(&room, &of("a"), u64::MAX).len(), 1, "{bytes}");
            }
        }
    }
}
