//! What the kubelet and Prometheus ask: /livez, /readyz, /metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use jam_plan::crd::{ConditionType, JamInstanceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::runtime::reflector::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::children::Children;
use super::client::Ledger;
use super::instruments::Instruments;
use super::lease::Leadership;
use super::metrics::{Ages, Moment};
use super::reconcile::Guarded;
use super::resource;
use super::watch::Pulse;
use super::watches::INSTANCES;

/// A watch is reopened every five minutes; one that was not even tried for so long is dead.
const SILENCE: Duration = Duration::from_mins(12);

/// What is known about the program's health; filled in as it starts.
pub struct Health {
    ledger: Arc<Ledger>,
    leadership: Leadership,
    stage: RwLock<Stage>,
}

/// How far the program has come.
#[derive(Clone)]
enum Stage {
    /// It cannot begin; this is what it waits for.
    Waiting(String),
    /// Another replica leads; this one is ready to take over.
    StandingBy,
    /// It runs.
    Running(Arc<Engine>),
    /// It ends.
    Stopping,
}

/// What runs.
pub struct Engine {
    /// One for each watch.
    pub pulses: Vec<Arc<Pulse>>,
    /// Queue, retries, metrics.
    pub instruments: Arc<Instruments>,
    /// The instances.
    pub instances: Store<Guarded>,
    /// Their children.
    pub children: Arc<Children>,
}

impl Health {
    /// Of a program that has just begun.
    pub fn new(ledger: Arc<Ledger>, leadership: Leadership) -> Arc<Self> {
        let stage = RwLock::new(Stage::Waiting("starting".into()));
        Arc::new(Self { ledger, leadership, stage })
    }

    /// It waits for something that it names.
    pub fn waiting(&self, what: impl Into<String>) {
        self.set(Stage::Waiting(what.into()));
    }

    /// Another replica leads.
    pub fn standing_by(&self) {
        self.set(Stage::StandingBy);
    }

    /// It runs.
    pub fn running(&self, engine: Arc<Engine>) {
        self.set(Stage::Running(engine));
    }

    /// It ends.
    pub fn stopping(&self) {
        self.set(Stage::Stopping);
    }

    fn set(&self, stage: Stage) {
        *self.stage.write().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    fn stage(&self) -> Stage {
        self.stage.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the program can do its work; else what is in the way.
    fn is_ready(&self) -> Result<&'static str, String> {
        match self.stage() {
            Stage::Waiting(what) => Err(what),
            Stage::StandingBy => Ok("standing by"),
            Stage::Stopping => Err("stopping".into()),
            Stage::Running(engine) => {
                if engine.pulses.iter().any(|pulse| pulse.kind() == INSTANCES && pulse.is_unserved()) {
                    return Err(resource::missing());
                }
                let missing: Vec<_> =
                    engine.pulses.iter().filter(|pulse| !pulse.has_listed()).map(|pulse| pulse.whole_name()).collect();
                if missing.is_empty() { Ok("leading") } else { Err(format!("not listed yet: {}", missing.join(", "))) }
            }
        }
    }

    /// Whether the program is alive; else what is dead in it.
    fn is_alive(&self) -> Result<&'static str, String> {
        let Stage::Running(engine) = self.stage() else { return Ok("ok") };
        if let Some(key) = engine.instruments.stuck() {
            return Err(format!("the reconcile of {key} is stuck"));
        }
        let rests = |plural: &str| {
            let mut of = engine.pulses.iter().filter(|pulse| pulse.kind() == plural).peekable();
            of.peek().is_some() && of.all(|pulse| pulse.is_resting())
        };
        let mut signs = self.ledger.watches().into_iter();
        match signs.find(|(plural, signs)| signs.tried.elapsed() > SILENCE && !rests(plural)) {
            Some((resource, _)) => Err(format!("the watch of {resource} is silent")),
            None => Ok("ok"),
        }
    }

    fn moment(&self) -> (Option<Arc<Engine>>, Moment) {
        let leads = self.leadership.is_held();
        let none =
            Moment { instances: BTreeMap::new(), queue: 0, failing: 0, children: 0, leads, ages: Ages::default() };
        let Stage::Running(engine) = self.stage() else { return (None, none) };
        let moment = Moment {
            instances: by_condition(&engine.instances),
            queue: engine.instruments.queue.depth(),
            failing: engine.instruments.retries.failing(),
            children: engine.children.count(),
            leads,
            ages: ages(&engine.instances, jiff::Timestamp::now()),
        };
        (Some(engine), moment)
    }
}

/// Instances by condition and its status. The types are ours: a bounded set.
fn by_condition(instances: &Store<Guarded>) -> BTreeMap<(String, String), i64> {
    let mut counts = BTreeMap::new();
    for instance in instances.state() {
        let Ok(instance) = &instance.0 else {
            *counts.entry(("Readable".into(), "False".into())).or_default() += 1;
            continue;
        };
        let said = instance.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        for kind in ConditionType::ALL {
            if let Some(condition) = said.iter().find(|condition| condition.type_ == kind.as_str()) {
                *counts.entry((kind.as_str().into(), condition.status.clone())).or_default() += 1;
            }
        }
    }
    counts
}

/// For how long what is under way has been, as the instances' status says: it is the same after a restart.
fn ages(instances: &Store<Guarded>, now: jiff::Timestamp) -> Ages {
    let mut ages = Ages::default();
    for instance in instances.state() {
        let Some(status) = instance.0.as_ref().ok().and_then(|instance| instance.status.as_ref()) else { continue };
        let one = ages_of(status, now);
        ages.rotation = ages.rotation.max(one.rotation);
        ages.migration = ages.migration.max(one.migration);
    }
    ages
}

fn ages_of(status: &JamInstanceStatus, now: jiff::Timestamp) -> Ages {
    let since = |at: &Time| (now.as_second() - at.0.as_second()).max(0);
    let rotation = status.rotation.as_ref().and_then(|rotation| rotation.started_at.as_ref());
    let unfinished =
        |condition: &&Condition| condition.type_ == ConditionType::Migrated.as_str() && condition.status == "False";
    let migration = status.conditions.iter().find(unfinished);
    Ages {
        rotation: rotation.map_or(0, since),
        migration: migration.map_or(0, |condition| since(&condition.last_transition_time)),
    }
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, health: Arc<Health>, stop: CancellationToken) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|State(health): State<Arc<Health>>| async move { answer(health.is_alive()) }))
        .route("/readyz", get(|State(health): State<Arc<Health>>| async move { answer(health.is_ready()) }))
        .route("/metrics", get(metrics))
        .with_state(health);
    axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await }).await
}

fn answer(state: Result<&'static str, String>) -> impl IntoResponse {
    match state {
        Ok(word) => (StatusCode::OK, format!("{word}\n")),
        Err(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("{what}\n")),
    }
}

async fn metrics(State(health): State<Arc<Health>>) -> impl IntoResponse {
    let (engine, moment) = health.moment();
    let text = match engine {
        Some(engine) => engine.instruments.metrics.text(&health.ledger, &engine.pulses, &moment),
        // A standby has counted nothing yet but still says that it does not lead.
        None => super::metrics::Metrics::new().text(&health.ledger, &[], &moment),
    };
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_under_way_is_as_old_as_the_status_says_and_what_is_not_has_no_age() {
        let status = |migrated: &str, began: Option<&str>| -> JamInstanceStatus {
            let conditions = json!([
                {"type": "Migrated", "status": migrated, "reason": "Migrating", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "Ready", "status": "False", "reason": "PodsNotReady", "message": "", "lastTransitionTime": "2025-01-01T00:00:00Z"},
            ]);
            serde_json::from_value(json!({"conditions": conditions, "rotation": {"startedAt": began}})).unwrap()
        };
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        assert_eq!(ages_of(&status("False", Some("2026-01-01T00:09:00Z")), now), Ages { rotation: 60, migration: 600 });
        assert_eq!(ages_of(&status("True", None), now), Ages::default());
        // A clock behind the one that wrote the status.
        assert_eq!(ages_of(&status("Unknown", Some("2026-01-01T00:11:00Z")), now), Ages::default());
    }
}
