//! The beginning of a reconcile: out of the queue first, and only then a look at the instance.

use std::sync::Arc;

use kube::runtime::reflector::Store;

use super::instruments::{Instruments, Running};
use super::key::Key;
use super::reconcile::Guarded;

/// Begins a reconcile of an instance that was handed over some time ago; without an instance where it is gone by now.
///
/// What changed between the hand-over and this moment asked for nothing: the instance still stood in the queue. Only what is
/// there now has all of it.
pub fn begin<'a>(
    instruments: &'a Instruments,
    instances: &Store<Guarded>,
    handed: &Guarded,
) -> (Running<'a>, Option<Arc<Guarded>>) {
    let key = Key::of(handed);
    let running = instruments.begin(&key);
    (running, instances.get(&key.reference()))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use futures::StreamExt as _;
    use kube::runtime::controller::{Action, Config, applier};
    use kube::runtime::events::{Recorder, Reporter};
    use kube::runtime::reflector::store::Writer;
    use kube::runtime::watcher::Event;
    use kube::{Resource as _, ResourceExt as _};
    use serde_json::json;

    use super::super::client::Ledger;
    use super::super::fake::Server;
    use super::super::queue::{Queue, requests};
    use super::*;

    fn instance(name: &str, generation: i64) -> Guarded {
        let metadata = json!({"name": name, "namespace": "jam", "uid": name, "generation": generation});
        let kind =
            json!({"apiVersion": "jam.network/v1alpha1", "kind": "JamInstance", "metadata": metadata, "spec": {}});
        serde_json::from_value(kind).unwrap()
    }

    struct World {
        instruments: Instruments,
        instances: Store<Guarded>,
        watch: Mutex<Writer<Guarded>>,
        seen: Mutex<Vec<Option<i64>>>,
    }

    impl World {
        fn of(instruments: Instruments) -> Arc<Self> {
            let mut watch = Writer::<Guarded>::default();
            watch.apply_watcher_event(&Event::Init);
            watch.apply_watcher_event(&Event::InitDone);
            let instances = watch.as_reader();
            Arc::new(Self { instruments, instances, watch: Mutex::new(watch), seen: Mutex::default() })
        }

        /// What the watch does with a change.
        fn changes(&self, name: &str, generation: i64) {
            self.watch.lock().unwrap().apply_watcher_event(&Event::Apply(instance(name, generation)));
            self.instruments.queue.ask(Key::new("jam", name));
        }
    }

    fn reconcile(handed: &Guarded, world: &World) {
        let (_running, now) = begin(&world.instruments, &world.instances, handed);
        let (now, mut seen) = (now.unwrap(), world.seen.lock().unwrap());
        if seen.is_empty() {
            // The other one has been handed over as well by now, and waits for its first turn.
            world.changes(if now.name_any() == "first" { "second" } else { "first" }, 2);
        }
        seen.push(now.meta().generation);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_while_an_instance_is_handed_over_is_seen_by_its_reconcile() {
        let (queue, out) = Queue::new();
        let client = Server::up().client(&Arc::new(Ledger::default()), None);
        let recorder = Recorder::new(client, Reporter { controller: "test".into(), instance: None });
        let world = World::of(Instruments::new(queue, recorder, super::super::check::client().unwrap()));
        world.changes("first", 1);
        world.changes("second", 1);
        let runner = applier(
            |handed, world: Arc<World>| {
                Box::pin(async move {
                    reconcile(&handed, &world);
                    Ok::<_, kube::Error>(Action::await_change())
                })
            },
            |_, _, _| Action::await_change(),
            Arc::clone(&world),
            world.instances.clone(),
            requests(out, |key| key.reference::<Guarded>()),
            Config::default().concurrency(2),
        );
        let mut runner = std::pin::pin!(runner);
        while tokio::time::timeout(Duration::from_secs(5), runner.next()).await.is_ok() {}
        let seen = world.seen.lock().unwrap().clone();
        assert!(seen.contains(&Some(2)), "{seen:?}");
    }
}
