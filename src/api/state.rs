//! What every request needs, built once by one function that refuses bad settings.

use std::sync::Arc;
use std::time::Duration;

use jam_domain::refine::Engine;
use jam_domain::{Settings, StoreKind};
use jam_store::Store;

use super::admit::Gate;
use super::controls::Controls;
use super::feed::Feed;
use super::health::Health;
use super::limiter::Limiter;
use super::metrics::Metrics;
use super::pending::Pending;
use super::room::{Rooms, rooms};
use super::settings::Wiring;
use super::spans::Spans;
use super::tokens::Tokens;

/// The API of one process.
pub struct Api {
    /// The settings that it was started with, and what administrators set beside them.
    pub controls: Controls,
    /// The memory.
    pub store: Arc<dyn Store>,
    /// Refine, attest, accumulate.
    pub engine: Engine,
    /// Who may come in, how often, and how much at once.
    pub gate: Gate,
    /// Health and metrics.
    pub pulse: Pulse,
}

/// How the process is and what it has done.
pub struct Pulse {
    /// Whether it can serve.
    pub health: Health,
    /// What it has done.
    pub metrics: Metrics,
    /// How many packages are pending, about.
    pub pending: Pending,
    /// What happens, for those who follow it.
    pub feed: Feed,
    /// Spans of what it does, when they are exported.
    pub spans: Option<Spans>,
}

impl Api {
    /// Puts the parts together. Refuses a token file that can't be read.
    /// A last good cleanup longer ago than `stale_after` is overdue.
    pub fn new(
        settings: Settings,
        wiring: &Wiring,
        store: Arc<dyn Store>,
        stale_after: Option<Duration>,
    ) -> Result<Self, String> {
        let tokens = Arc::new(Tokens::open(wiring)?);
        let Rooms { blobs, json, lists } = rooms(wiring.max_bytes_in_flight);
        let gate = Gate {
            tokens,
            admins: Tokens::open_admin(wiring)?.map(Arc::new),
            limiter: Limiter::of(store.as_ref()),
            trusted_proxies: wiring.trusted_proxies.clone(),
            blobs,
            json,
            lists,
            patience: Duration::from_secs(wiring.client_timeout_seconds.into()),
        };
        let engine = Engine::hash_refiner(
            settings.accumulator_hash,
            settings.attestation_threshold,
            settings.accumulators_enabled,
        );
        let pulse = Pulse {
            health: Health::new(store.clone(), stale_after),
            metrics: Metrics::new(store.kind()),
            pending: Pending::default(),
            feed: Feed::of(store.clone()),
            spans: None,
        };
        let controls = Controls::of(settings);
        Ok(Self { controls, store, engine, gate, pulse })
    }

    /// The same API, which tells these spans of what it does.
    #[must_use]
    pub fn told_by(mut self, spans: Option<Spans>) -> Self {
        if let Some(spans) = &spans {
            self.engine = spans.watching(self.engine);
        }
        self.pulse.spans = spans;
        self
    }

    /// The settings in force now. One request takes them once.
    pub fn settings(&self) -> Arc<Settings> {
        self.controls.in_force().settings.clone()
    }

    /// The store's name in logs and statuses.
    pub fn store_name(&self) -> &'static str {
        store_name(self.controls.own().store)
    }
}

/// A store's name in logs, labels and statuses.
pub fn store_name(kind: StoreKind) -> &'static str {
    match kind {
        StoreKind::Memory => "memory",
        StoreKind::Postgres => "postgres",
    }
}
