//! Processing where a package or a chain is broken: each service by itself, then each package, so that it stops no other.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jam_domain::PackageId;
use jam_domain::page::Visible;
use jam_domain::refine::Engine;
use uuid::Uuid;

use super::PostgresStore;
use super::error::Failure;
use super::pool::{Begin, begin};
use super::{packages, process};
use crate::{Processed, StoreError};

/// How long what can't be processed is left out of the claims of this process.
const REST: Duration = Duration::from_mins(1);
/// Packages that are looked at in one go.
const LOOKED_AT: u32 = 100;
/// How often more are looked for, while what was found comes to nothing.
const ROUNDS: usize = 8;
/// Packages of a service that fail one after the other, after which its newest decides whether it is the service that is broken.
const ENOUGH: usize = 3;

/// What could not be processed a moment ago, in this process.
#[derive(Default)]
pub(super) struct Aside(Mutex<HashMap<LeftOut, Instant>>);

/// A package, or everything of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum LeftOut {
    Package(Uuid),
    Service(String),
}

/// The packages and the services that a claim leaves out; usually none.
pub(super) type Exceptions = (Vec<Uuid>, Vec<String>);

impl Aside {
    /// What is left out at this moment.
    pub(super) fn at(&self, now: Instant) -> Exceptions {
        let mut left_out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        left_out.retain(|_, until| *until > now);
        let (mut packages, mut services) = (Vec::new(), Vec::new());
        for one in left_out.keys() {
            match one {
                LeftOut::Package(id) => packages.push(*id),
                LeftOut::Service(name) => services.push(name.clone()),
            }
        }
        (packages, services)
    }

    fn put(&self, one: LeftOut, now: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(one, now + REST);
    }
}

/// Pending packages of one service, oldest first.
struct Group {
    service: String,
    ids: Vec<PackageId>,
}

/// What came of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// Packages were processed.
    Done,
    /// Somebody else has them in hand, which says nothing of them.
    Nothing,
    /// It failed for a reason of their own.
    Failed,
}

/// What came of the call so far.
struct Tally {
    left: usize,
    done: Vec<Processed>,
    why: StoreError,
}

/// Processes up to `limit` of the pending packages after a claim of them failed for this reason, which is the answer when
/// nothing can be done.
pub(super) async fn process(
    store: &PostgresStore,
    limit: usize,
    visible: &Visible,
    engine: &Engine,
    why: StoreError,
) -> Result<Vec<Processed>, StoreError> {
    let mut tally = Tally { left: limit, done: Vec::new(), why };
    for _ in 0..ROUNDS {
        let except = store.aside.at(Instant::now());
        let found = store.begun(packages::oldest(&store.pool, LOOKED_AT, visible, &except)).await?;
        if found.is_empty() {
            break;
        }
        for group in groups(found) {
            match of_service(store, &group, engine, &mut tally).await {
                Err(error) if tally.done.is_empty() => return Err(error),
                // What is done is done, and said; who calls again hears of the rest.
                Err(_) => return Ok(tally.done),
                Ok(()) if tally.left == 0 => return Ok(tally.done),
                Ok(()) => {}
            }
        }
        if !tally.done.is_empty() {
            break;
        }
    }
    if tally.done.is_empty() { Err(tally.why) } else { Ok(tally.done) }
}

fn groups(found: Vec<(PackageId, String)>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (id, service) in found {
        match groups.iter_mut().find(|group| group.service == service) {
            Some(group) => group.ids.push(id),
            None => groups.push(Group { service, ids: vec![id] }),
        }
    }
    groups
}

/// The packages of one service: together, and when that fails one by one.
async fn of_service(
    store: &PostgresStore,
    group: &Group,
    engine: &Engine,
    tally: &mut Tally,
) -> Result<(), StoreError> {
    let Group { service, ids } = group;
    let together = &ids[..ids.len().min(tally.left)];
    // What others have in hand they will finish.
    if together.len() > 1 && tally.take(these(store, together, service, engine).await)? != Came::Failed {
        return Ok(());
    }
    let (mut failed, mut good) = (0, false);
    for (at, id) in ids.iter().enumerate() {
        if tally.left == 0 {
            return Ok(());
        }
        let came = tally.take(these(store, &[*id], service, engine).await)?;
        good |= came == Came::Done;
        if came != Came::Failed {
            continue;
        }
        leave_out(store, *id, service, tally);
        failed += 1;
        if failed != ENOUGH || good {
            continue;
        }
        let came = newest(store, &ids[at + 1..], service, engine, tally).await?;
        good |= came == Came::Done;
        if came == Came::Failed {
            tracing::error!(service_id = service, error = %tally.why, "no package of it can be processed: the service is left out for a minute");
            store.aside.put(LeftOut::Service(service.clone()), Instant::now());
            return Ok(());
        }
    }
    Ok(())
}

/// Tries the newest of these that nobody else has in hand.
async fn newest(
    store: &PostgresStore,
    ids: &[PackageId],
    service: &str,
    engine: &Engine,
    tally: &mut Tally,
) -> Result<Came, StoreError> {
    for id in ids.iter().rev() {
        match tally.take(these(store, &[*id], service, engine).await)? {
            Came::Nothing => {}
            told @ (Came::Done | Came::Failed) => return Ok(told),
        }
    }
    Ok(Came::Nothing)
}

fn leave_out(store: &PostgresStore, id: PackageId, service: &str, tally: &Tally) {
    tracing::error!(pkg_id = %id, service_id = service, error = %tally.why, "it can't be processed: the package is left out for a minute");
    store.aside.put(LeftOut::Package(id.0), Instant::now());
}

impl Tally {
    /// Counts what was done, and says what came of it. What fails all is an error.
    fn take(&mut self, outcome: Result<Vec<Processed>, StoreError>) -> Result<Came, StoreError> {
        match outcome {
            Ok(processed) if processed.is_empty() => Ok(Came::Nothing),
            Ok(processed) => {
                self.left = self.left.saturating_sub(processed.len());
                self.done.extend(processed);
                Ok(Came::Done)
            }
            Err(why @ (StoreError::Fault(_) | StoreError::Unread(..))) => {
                self.why = why;
                Ok(Came::Failed)
            }
            Err(error @ (StoreError::Unavailable(_) | StoreError::Stopped(_) | StoreError::Schema { .. })) => {
                Err(error)
            }
        }
    }
}

/// Claims and processes these, as far as nobody else has them in hand. One that is alone and can't be read is disputed.
async fn these(
    store: &PostgresStore,
    ids: &[PackageId],
    service: &str,
    engine: &Engine,
) -> Result<Vec<Processed>, StoreError> {
    let claim = async {
        let mut transaction = begin(&store.pool, Begin::Process(store.claim_timeout)).await?;
        let claimed = packages::claim_these(&mut transaction, ids).await;
        Ok((transaction, claimed))
    };
    let (transaction, claimed) = store.begun(claim).await?;
    match (claimed, ids) {
        (Ok(claimed), _) => process::finish(store, transaction, &claimed.packages, engine).await,
        (Err(problem @ Failure::Corrupt { .. }), [id]) => {
            let error = store.answer(&problem);
            tracing::error!(pkg_id = %id, service_id = service, %error, "a stored package can't be read: it is disputed");
            store.bounded(process::dispute_unread(store, transaction, (*id, service), engine)).await
        }
        (Err(failure), _) => store.bounded(process::back(transaction, failure)).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_processed_is_left_out_for_a_minute() {
        let (aside, now, id) = (Aside::default(), Instant::now(), Uuid::now_v7());
        assert_eq!(aside.at(now), (vec![], vec![]));
        aside.put(LeftOut::Package(id), now);
        aside.put(LeftOut::Service("s".into()), now + REST / 2);
        assert_eq!(aside.at(now + REST / 2), (vec![id], vec!["s".to_owned()]));
        assert_eq!(aside.at(now + REST), (vec![], vec!["s".to_owned()]));
        assert_eq!(aside.at(now + 2 * REST), (vec![], vec![]));
    }

    #[test]
    fn packages_stand_together_by_service_in_the_order_of_their_age() {
        let found: Vec<_> = ["b", "a", "b"].map(|name| (PackageId::new(), name.to_owned())).into();
        let groups = groups(found.clone());
        assert_eq!(groups.iter().map(|group| group.service.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(groups[0].ids, [found[0].0, found[2].0]);
    }
}
