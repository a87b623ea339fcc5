//! Instances that are stalled, each for another reason: told once, written never again, waiting in no queue until they change.

use std::collections::BTreeMap;
use std::time::Duration;

use jam_plan::{JamInstance, Kind};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::kubelet::FATE;
use crate::operator_kinds::{children, on_postgres};
use crate::operator_support::{Account, Kubelet, Operator, apply, condition, kstatus};
use crate::support::cluster::control_plane;

const HASTY: &[&str] = &["--leader-election", "false", "--progress-deadline", "5"];
/// Longer than the pause after which something outside is looked at again.
const LONG: Duration = Duration::from_secs(35);

fn in_memory() -> Value {
    json!({"runtime": {"jam": {"enabled": true, "store": "memory"}}})
}

fn with(mut spec: Value, key: &str, value: Value) -> Value {
    spec[key] = value;
    spec
}

/// An instance for each reason to be stalled, by its name: its spec, the reason, and whether something outside may heal it.
async fn stalled(client: &Client, namespace: &str) -> Vec<(&'static str, Value, &'static str, bool)> {
    let services = children(client, namespace, Kind::Service);
    let theirs =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken"}, "spec": {"ports": [{"port": 1}]}});
    services.create(&PostParams::default(), &serde_json::from_value(theirs).unwrap()).await.unwrap();
    let postgres = on_postgres(client, namespace).await;
    let secret =
        |name: &str, key: &str| with(postgres.clone(), "database", json!({"dsnSecretRef": {"name": name, "key": key}}));
    let toleration = json!([{"key": "a", "operator": "Exists", "value": "b"}]);
    vec![
        ("taken", in_memory(), "NameTaken", true),
        ("secretless", secret("nowhere", "dsn"), "SecretMissing", true),
        ("keyless", secret("db", "other"), "SecretKeyMissing", true),
        ("later", with(in_memory(), "blobStore", json!({"url": "s3://bucket/prefix"})), "InvalidSettings", false),
        ("refused", with(in_memory(), "podTemplate", json!({"tolerations": toleration})), "InvalidObject", false),
        ("waiting", with(postgres.clone(), "migrations", json!({"mode": "Manual"})), "ApprovalNeeded", false),
        ("impossible", postgres, "MigrationImpossible", false),
        ("bad", in_memory(), "RolledBack", false),
    ]
}

/// The events about each instance by reason, with how often each was told.
async fn told(client: &Client, namespace: &str) -> BTreeMap<(String, String), i32> {
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let mut found = BTreeMap::new();
    for event in events.list(&ListParams::default()).await.unwrap().items {
        let Some(about) = event.regarding.filter(|about| about.kind.as_deref() == Some("JamInstance")) else {
            continue;
        };
        let often = event.series.map_or(1, |series| series.count);
        *found.entry((about.name.unwrap(), event.reason.unwrap())).or_default() += often;
    }
    found
}

fn children_of(operator: &Operator, from: usize) -> Vec<crate::operator_support::Asked> {
    operator.asked().split_off(from).into_iter().filter(|asked| asked.resource != "leases").collect()
}

#[tokio::test]
async fn a_stalled_instance_is_told_once_and_costs_no_write_no_retry_and_no_place_in_the_queue_until_it_changes() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 3, "error: schema 9 is newer than this build");
    let table = stalled(&client, &namespace).await;
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, HASTY);
    apply(&client, &namespace, "bad", in_memory()).await;
    condition(&client, &namespace, "bad", "Ready", "True", "Serving").await;
    let crash = json!({"env": [{"name": FATE, "value": "crash"}]});
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    for (name, spec, reason, _) in &table {
        let spec =
            if *reason == "RolledBack" { with(spec.clone(), "podTemplate", crash.clone()) } else { spec.clone() };
        apply(&client, &namespace, name, spec).await;
    }
    for (name, _, reason, _) in &table {
        condition(&client, &namespace, name, "Stalled", "True", reason).await;
        assert_eq!(kstatus(&instances.get(name).await.unwrap()), "Failed", "{name}");
    }
    operator.quiet().await;
    let before = told(&client, &namespace).await;
    for (name, _, reason, _) in &table {
        assert_eq!(before.get(&((*name).into(), (*reason).into())), Some(&1), "{name}: {before:?}");
    }

    let from = operator.asked().len();
    tokio::time::sleep(LONG).await;
    let since = children_of(&operator, from);
    assert!(since.iter().all(|asked| !asked.is_write() && asked.resource != "events"), "{since:?}");
    for (name, _, reason, outside) in &table {
        let read = since.iter().any(|asked| asked.name.starts_with(name) && asked.verb == "get");
        assert!(*outside || !read, "{name}: {reason} heals by a change alone, so nobody looks: {since:?}");
    }
    let metrics = operator.answer("/metrics").await.1;
    assert!(metrics.contains("jam_operator_queue_depth 0"), "nobody waits in the queue");
    assert!(!metrics.contains("result=\"error\""), "nothing is retried: {metrics}");

    // Called for no reason, and read anew by another process: it is the same, so it is not told again.
    for (name, _, _, _) in &table {
        let note = json!({"metadata": {"annotations": {"note": "hello"}}});
        instances.patch(name, &PatchParams::default(), &Patch::Merge(note)).await.unwrap();
    }
    operator.quiet().await;
    operator.stop().await;
    let again = account.start(plane, HASTY);
    again.ready().await;
    again.quiet().await;
    // A new process asks once more for what the API server refuses, and changes nothing by it.
    let written = children_of(&again, from).into_iter().filter(|asked| asked.is_write() && asked.code != 422);
    assert_eq!(written.map(|asked| asked.resource).collect::<Vec<_>>(), Vec::<String>::new());
    assert_eq!(told(&client, &namespace).await, before, "an event on each transition, none on a repetition");
    apply(&client, &namespace, "later", in_memory()).await;
    condition(&client, &namespace, "later", "Ready", "True", "Serving").await;
    assert!(again.forbidden().is_empty(), "{:?}", again.forbidden());
}
