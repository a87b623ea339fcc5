//! The watches of one operator: instances with their content, children and Secrets by metadata only.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;
use jam_plan::{JamInstance, Kind, names, resolve, tokens};
use kube::api::PartialObjectMeta;
use kube::core::DynamicObject;
use kube::runtime::reflector::Store;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};

use super::args::Namespaces;
use super::children::Children;
use super::farewell;
use super::instruments::Instruments;
use super::key::Key;
use super::memory::Memory;
use super::observe::resource_of;
use super::reconcile::Guarded;
use super::watch::{Change, Pulse, follow};

/// A watch that runs for as long as it is polled.
pub type Watch = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The plural of instances.
pub const INSTANCES: &str = "jaminstances";

/// Where the watches put what they see.
pub struct Sight {
    /// The instances.
    instances: Mutex<Writer<Guarded>>,
    /// The same, for readers.
    pub store: Store<Guarded>,
    /// Their children.
    pub children: Arc<Children>,
    /// What is remembered of them.
    pub memory: Arc<Memory>,
    /// Who is called.
    pub instruments: Arc<Instruments>,
}

impl Sight {
    /// Nothing seen yet.
    pub fn new(children: Arc<Children>, memory: Arc<Memory>, instruments: Arc<Instruments>) -> Self {
        let mut writer = Writer::<Guarded>::default();
        // Readers need not wait on the store itself: `run` begins when every watch has listed.
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitDone);
        let store = writer.as_reader();
        Self { instances: Mutex::new(writer), store, children, memory, instruments }
    }

    fn instance(&self, change: Change<Guarded>) {
        let mut writer = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Seen(mut instance) => {
                instance.managed_fields_mut().clear();
                let key = Key::of(&instance);
                let before = self.store.get(&key.reference());
                let news = before.as_ref().is_none_or(|before| wants_a_look(before, &instance));
                writer.apply_watcher_event(&Event::Apply(instance));
                if news {
                    self.instruments.queue.ask(key);
                }
            }
            Change::Gone(key) => {
                if let Some(last) = self.store.get(&key.reference()) {
                    writer.apply_watcher_event(&Event::Delete((*last).clone()));
                    farewell::say(&self.instruments, &last, &self.children);
                }
                self.memory.forget(&key);
                self.instruments.retries.forget(&key);
                self.instruments.queue.begun(&key);
            }
        }
    }

    fn child(&self, kind: Kind, change: &Change<PartialObjectMeta<DynamicObject>>) {
        let called = match change {
            Change::Seen(object) => self.children.seen(kind, &object.metadata),
            Change::Gone(key) => self.children.gone(kind, key),
        };
        for key in called {
            self.instruments.queue.ask(key);
        }
        if kind == Kind::Secret {
            let secret = match change {
                Change::Seen(object) => Key::of(object),
                Change::Gone(key) => key.clone(),
            };
            self.secret(&secret);
        }
    }

    /// A Secret, perhaps one that instances refer to.
    fn secret(&self, secret: &Key) {
        let refers = |instance: &JamInstance| {
            let dsn = resolve::dsn_reference(instance).is_some_and(|(name, _)| name == secret.name);
            let users = [tokens::own_tokens(&instance.spec), tokens::admin_tokens(&instance.spec)];
            let blobs = resolve::blob_secret(&instance.spec).is_some_and(|name| name == secret.name);
            let own = users.into_iter().flatten().any(|(_, name)| name == secret.name);
            instance.metadata.namespace.as_ref() == Some(&secret.namespace) && (dsn || blobs || own)
        };
        let concerned = self.store.state_filter(|instance| instance.0.as_ref().is_ok_and(refers));
        for instance in concerned {
            self.instruments.queue.ask(Key::of(&*instance));
        }
    }
}

/// What a status write changes is no reason for a look; everything else about an instance is.
fn wants_a_look(before: &Guarded, now: &Guarded) -> bool {
    let (before, now) = (before.meta(), now.meta());
    before.uid != now.uid
        || before.generation != now.generation
        || before.deletion_timestamp != now.deletion_timestamp
        || before.labels != now.labels
        || before.annotations != now.annotations
}

/// Every watch for these namespaces, and its pulse: a row for each namespace, or one for all.
///
/// What is refused in one namespace holds up no other. Instances are listed once the children beside them are known, so that
/// whatever is decided about one is decided with those in sight.
pub fn all(client: &Client, namespaces: &Namespaces, sight: &Arc<Sight>) -> (Vec<Vec<Arc<Pulse>>>, Vec<Watch>) {
    let places: Vec<Option<&str>> = match namespaces {
        Namespaces::All => vec![None],
        Namespaces::These(names) => names.iter().map(|name| Some(name.as_str())).collect(),
    };
    let (mut pulses, mut watches) = (Vec::new(), vec![optional_kinds(client.clone(), Arc::clone(sight))]);
    for place in places {
        let children = Kind::ALL.into_iter().map(|kind| children(client, place, kind, Arc::clone(sight)));
        let (mut row, following): (Vec<_>, Vec<_>) = children.unzip();
        let (pulse, watch) = instances(client, place, row.clone(), Arc::clone(sight));
        row.push(pulse);
        pulses.push(row);
        watches.extend(following);
        watches.push(watch);
    }
    (pulses, watches)
}

fn instances(
    client: &Client,
    place: Option<&str>,
    children: Vec<Arc<Pulse>>,
    sight: Arc<Sight>,
) -> (Arc<Pulse>, Watch) {
    let api: Api<Guarded> = match place {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let pulse = Pulse::new(INSTANCES, place);
    let beats = Arc::clone(&pulse);
    let watch = async move {
        join_all(children.iter().map(|child| child.listed())).await;
        let stream = watcher::watcher(api, watcher::Config::default());
        follow(stream, &beats, |change| sight.instance(change)).await;
    };
    (pulse, Box::pin(watch))
}

fn children(client: &Client, place: Option<&str>, kind: Kind, sight: Arc<Sight>) -> (Arc<Pulse>, Watch) {
    let resource = resource_of(kind);
    let api: Api<PartialObjectMeta<DynamicObject>> = match place {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    // Instances refer to Secrets of others as well: their metadata passes by, their names are kept, their values never come.
    let config = match kind {
        Kind::Secret => watcher::Config::default(),
        _ => watcher::Config::default().labels(&format!("{}={}", names::MANAGED_BY.0, names::MANAGED_BY.1)),
    };
    let pulse = Pulse::new(kind.coordinates().3, place);
    let beats = Arc::clone(&pulse);
    let watch = async move {
        let stream = || watcher::watcher(api.clone(), config.clone());
        if !kind.is_optional() {
            return follow(stream(), &beats, |change| sight.child(kind, &change)).await;
        }
        let served = &sight.children.served;
        loop {
            served.comes(kind, || beats.rest()).await;
            beats.wake();
            tokio::select! {
                () = follow(stream(), &beats, |change| sight.child(kind, &change)) => {}
                () = served.goes(kind) => sight.children.forget(kind),
            }
        }
    };
    (pulse, Box::pin(watch))
}

/// Finds out which optional kinds are served, and calls the instances that want one which came or went.
fn optional_kinds(client: Client, sight: Arc<Sight>) -> Watch {
    Box::pin(async move {
        let on = |changed: &BTreeSet<Kind>| {
            let wants = |instance: &JamInstance| changed.iter().any(|kind| resolve::asks_for(&instance.spec, *kind));
            for instance in sight.store.state_filter(|instance| instance.0.as_ref().is_ok_and(wants)) {
                sight.instruments.queue.ask(Key::of(&*instance));
            }
        };
        sight.children.served.keep_asking(&client, on).await;
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kube::runtime::events::{Recorder, Reporter};
    use serde_json::json;
    use tokio::time::Instant;

    use super::super::client::Ledger;
    use super::super::fake::{Mode, Server};
    use super::super::queue::Queue;
    use super::*;

    /// How long a request that hangs is waited for, and the longest pause after it.
    const WORST: Duration = Duration::from_secs(30 + 30 + 1);

    async fn after_an_outage(mode: Mode, length: Duration) {
        let (server, ledger) = (Server::up(), Arc::new(Ledger::default()));
        let client = server.client(&ledger, None);
        let (queue, mut out) = Queue::new();
        let reporter = Reporter { controller: "test".into(), instance: None };
        let recorder = Recorder::new(client.clone(), reporter);
        let http = super::super::check::client().unwrap();
        let sight = Sight::new(Arc::default(), Arc::default(), Arc::new(Instruments::new(queue, recorder, http)));
        let (pulses, watches) = all(&client, &Namespaces::All, &Arc::new(sight));
        let mut tasks = tokio::task::JoinSet::new();
        for watch in watches {
            tasks.spawn(watch);
        }
        let pulses = pulses.concat();
        join_all(pulses.iter().map(|pulse| pulse.listed())).await;
        assert!(out.try_recv().is_err(), "there is no instance yet");

        server.becomes(mode);
        tokio::time::sleep(length).await;
        server.holds(
            "jaminstances",
            json!({"apiVersion": "jam.network/v1alpha1", "kind": "JamInstance",
            "metadata": {"name": "main", "namespace": "jam", "uid": "u", "resourceVersion": "7"}, "spec": {}}),
        );
        server.becomes(Mode::Up);
        let back = Instant::now();
        tokio::time::sleep(WORST).await;
        assert_eq!(
            server.served_since(back).len(),
            Kind::ALL.len() - Kind::optional().count() + 1,
            "every watch is back, after {length:?} of {mode:?}"
        );
        assert!(pulses.iter().all(|pulse| pulse.is_resting() || pulse.errors() > 0), "each had its own errors");
    }

    #[tokio::test(start_paused = true)]
    async fn every_watch_comes_back_after_an_outage_however_long_and_of_whatever_kind() {
        let answers = [409, 410, 429, 500, 503].map(Mode::Answering);
        for mode in [Mode::Hanging, Mode::Refusing].into_iter().chain(answers) {
            for seconds in [10, 60, 90, 600, 7200] {
                after_an_outage(mode, Duration::from_secs(seconds)).await;
            }
        }
    }
}
