//! Which replica writes: a Lease, timed only by what this replica observed, never by the holder's clock.
//!
//! A holder's `renewTime` may come from a clock that is minutes off; a Lease is taken over when its resourceVersion has not
//! changed for its duration on our own clock. The holder stops writing well before that moment on its own.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::watch::chain;

/// How long a Lease that nobody renews stays with its holder.
pub const DURATION: Duration = Duration::from_secs(15);
/// How long a holder goes on writing without a renewal; the rest of the duration is the margin of two writers.
pub const HOLD: Duration = Duration::from_secs(10);
/// The pause between two looks at the Lease, and how long one look may take.
pub const PACE: Duration = Duration::from_secs(2);

/// Whether this replica may write now.
#[derive(Debug, Clone)]
pub struct Leadership(Arc<RwLock<Until>>);

#[derive(Debug, Clone, Copy)]
enum Until {
    Never,
    At(Instant),
    Ever,
}

impl Leadership {
    /// Not held.
    pub fn none() -> Self {
        Self(Arc::new(RwLock::new(Until::Never)))
    }

    /// Held for ever: there is only one replica, and no election.
    pub fn sole() -> Self {
        Self(Arc::new(RwLock::new(Until::Ever)))
    }

    /// Whether a write may leave now.
    pub fn is_held(&self) -> bool {
        match *self.0.read().unwrap_or_else(PoisonError::into_inner) {
            Until::Never => false,
            Until::At(end) => Instant::now() < end,
            Until::Ever => true,
        }
    }

    fn set(&self, until: Until) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// One replica's part in the election.
pub struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: String,
    leadership: Leadership,
    seen: Option<Seen>,
}

/// The Lease as last seen to change.
struct Seen {
    version: Option<String>,
    since: Instant,
}

/// What came of one look at the Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    /// It is ours until `HOLD` after this instant.
    Held(Instant),
    /// Somebody else has it.
    Theirs(String),
}

impl Candidate {
    /// A candidate for the Lease of this name; `client` must not be fenced by the same leadership.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, leadership: Leadership) -> Self {
        let leases = Api::namespaced(client, namespace);
        Self { leases, name: name.into(), identity: identity.into(), leadership, seen: None }
    }

    /// Waits until this replica leads; `false` when the program is to stop before that.
    pub async fn win(&mut self, stop: &CancellationToken) -> bool {
        let mut last = String::new();
        loop {
            match self.look().await {
                Ok(Look::Held(from)) => {
                    self.leadership.set(Until::At(from + HOLD));
                    tracing::info!(lease = self.name, identity = self.identity, "leading");
                    return true;
                }
                Ok(Look::Theirs(holder)) if holder != last => {
                    tracing::info!(lease = self.name, holder, "standing by");
                    last = holder;
                }
                Ok(Look::Theirs(_)) => {}
                Err(error) => tracing::warn!(lease = self.name, error, "the lease cannot be read or written"),
            }
            tokio::select! {
                () = tokio::time::sleep(PACE) => {}
                () = stop.cancelled() => return false,
            }
        }
    }

    /// Keeps the Lease; returns when it is lost. The caller ends the program then: a new one starts from nothing.
    pub async fn keep(&mut self) {
        loop {
            tokio::time::sleep(PACE).await;
            match self.look().await {
                Ok(Look::Held(from)) => self.leadership.set(Until::At(from + HOLD)),
                Ok(Look::Theirs(holder)) => {
                    tracing::error!(lease = self.name, holder, "the lease was taken over");
                    break;
                }
                Err(error) => tracing::warn!(lease = self.name, error, "the lease could not be renewed"),
            }
            if !self.leadership.is_held() {
                tracing::error!(lease = self.name, "the lease was not renewed in time");
                break;
            }
        }
        self.leadership.set(Until::Never);
    }

    /// Gives the Lease back, so that another replica leads at its next look. Nothing is written after this.
    pub async fn release(&mut self) {
        let held = self.leadership.is_held();
        self.leadership.set(Until::Never);
        if !held {
            return;
        }
        let release = async {
            let mut lease = self.leases.get(&self.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&self.identity) {
                spec.holder_identity = Some(String::new());
                self.leases.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(PACE, release).await {
            Ok(Ok(())) => tracing::info!(lease = self.name, "released"),
            Ok(Err(error)) => tracing::warn!(lease = self.name, error = chain(&error), "the lease was not released"),
            Err(_) => tracing::warn!(lease = self.name, "the lease was not released in time"),
        }
    }

    async fn look(&mut self) -> Result<Look, String> {
        match tokio::time::timeout(PACE, self.step()).await {
            Ok(outcome) => outcome.map_err(|error| chain(&error)),
            Err(_) => Err("no answer in time".into()),
        }
    }

    async fn step(&mut self) -> Result<Look, kube::Error> {
        // Counted from before the request: the server may have written at any moment since.
        let from = Instant::now();
        let Some(mut lease) = self.leases.get_opt(&self.name).await? else {
            let lease = self.lease_of_ours(Lease::default());
            return self.settled(self.leases.create(&PostParams::default(), &lease).await, from);
        };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        if self.seen.as_ref().is_none_or(|seen| seen.version != lease.metadata.resource_version) {
            self.seen = Some(Seen { version: lease.metadata.resource_version.clone(), since: from });
        }
        let duration = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
        let duration = Duration::from_secs(u64::try_from(duration).unwrap_or_default()).max(DURATION);
        let unrenewed = self.seen.as_ref().map_or(Duration::ZERO, |seen| from - seen.since);
        if holder != self.identity && !holder.is_empty() && unrenewed < duration {
            return Ok(Look::Theirs(holder));
        }
        lease = self.lease_of_ours(lease);
        // The resourceVersion in it makes the server refuse the slower of two.
        self.settled(self.leases.replace(&self.name, &PostParams::default(), &lease).await, from)
    }

    fn settled(&mut self, answer: Result<Lease, kube::Error>, from: Instant) -> Result<Look, kube::Error> {
        match answer {
            Ok(lease) => {
                self.seen = Some(Seen { version: lease.metadata.resource_version, since: from });
                Ok(Look::Held(from))
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Look::Theirs("another replica".into())),
            Err(error) => Err(error),
        }
    }

    fn lease_of_ours(&self, mut lease: Lease) -> Lease {
        let now = MicroTime(jiff::Timestamp::now());
        lease.metadata.name = Some(self.name.clone());
        let spec: &mut LeaseSpec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default() + 1);
        }
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        spec.renew_time = Some(now);
        lease
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::client::Ledger;
    use super::super::fake::{Mode, Server};
    use super::*;

    fn candidate(server: &Server, identity: &str) -> (Candidate, Leadership) {
        let (ledger, leadership) = (Arc::new(Ledger::default()), Leadership::none());
        let client = server.client(&ledger, None);
        (Candidate::new(client, "jam", "lease", identity, leadership.clone()), leadership)
    }

    #[tokio::test(start_paused = true)]
    async fn never_two_hold_the_lease_and_the_second_takes_over_when_the_first_is_cut_off() {
        let server = Server::up();
        let stop = CancellationToken::new();
        let (mut first, held_by_first) = candidate(&server, "first");
        let (mut second, held_by_second) = candidate(&server, "second");
        assert!(first.win(&stop).await);
        let waiting = tokio::spawn(async move {
            let won = second.win(&CancellationToken::new()).await;
            (second, won)
        });
        // Renewed, the lease stays where it is for as long as it takes.
        let renewing = tokio::time::timeout(Duration::from_mins(10), first.keep()).await;
        assert!(renewing.is_err() && held_by_first.is_held() && !held_by_second.is_held());
        // Not renewed any more: the first one has stopped writing before the second begins.
        let silent = Instant::now();
        while !held_by_second.is_held() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(!(held_by_first.is_held() && held_by_second.is_held()), "two writers");
        }
        assert!(!held_by_first.is_held());
        assert!(silent.elapsed() <= DURATION + PACE * 2, "{:?}", silent.elapsed());
        assert!(waiting.await.unwrap().1);
        assert_eq!(server.holder(), "second");
        // The first one comes back and finds that it has lost.
        first.keep().await;
        assert!(!held_by_first.is_held());
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_cannot_renew_stops_writing_before_its_time_is_over() {
        let server = Server::up();
        let (mut only, held) = candidate(&server, "only");
        assert!(only.win(&CancellationToken::new()).await);
        server.becomes(Mode::Hanging);
        let cut = Instant::now();
        only.keep().await;
        assert!(!held.is_held());
        assert!(cut.elapsed() < DURATION, "{:?}", cut.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_given_back_is_taken_at_the_next_look() {
        let server = Server::up();
        let (mut first, _) = candidate(&server, "first");
        let (mut second, held) = candidate(&server, "second");
        assert!(first.win(&CancellationToken::new()).await);
        let mut waiting = tokio::spawn(async move { second.win(&CancellationToken::new()).await });
        assert!(tokio::time::timeout(PACE * 2, &mut waiting).await.is_err());
        first.release().await;
        assert_eq!(server.holder(), "");
        let goodbye = Instant::now();
        assert!(waiting.await.unwrap() && held.is_held());
        assert!(goodbye.elapsed() <= PACE, "{:?}", goodbye.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_stops_when_told_to() {
        let server = Server::up();
        let (mut first, _) = candidate(&server, "first");
        let (mut second, _) = candidate(&server, "second");
        let stop = CancellationToken::new();
        assert!(first.win(&stop).await);
        stop.cancel();
        assert!(!second.win(&stop).await);
    }
}
