//! Every way in which a version can be bad, with real pods and traffic: the good one comes back with evidence and nothing is tried again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::database::Postgres;
use crate::path::{memory_spec, postgres_spec};
use crate::support::{Instance, apply, eventually, object, objects};
use crate::traffic::Load;

/// Longer than a rollout has: dev/lib/suites.sh tells the operator 30 seconds.
pub const DEADLINE: Duration = Duration::from_secs(35);

/// A version that migrates and is then bad in this way (dev/images/unserving.c).
fn bad(fate: &str) -> Value {
    json!({"spec": {"image": {"tag": "unserving"}, "podTemplate": {"env": [{"name": "FATE", "value": fate}]}}})
}

/// As it was before it was bad.
fn good() -> Value {
    json!({"spec": {"image": {"tag": null}, "podTemplate": null}})
}

fn uids(pods: &[Value]) -> BTreeSet<String> {
    pods.iter().map(|pod| pod["metadata"]["uid"].to_string()).collect()
}

/// The pods of one part of an instance.
fn pods(instance: &Instance, component: &str) -> Vec<Value> {
    let selector = format!("app.kubernetes.io/instance={},app.kubernetes.io/component={component}", instance.name);
    objects(&instance.namespace, "pods", &selector)
}

fn is_good(pod: &Value) -> bool {
    let image = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
    image.ends_with(":dev") && pod["status"]["containerStatuses"][0]["ready"] == true
}

/// Each ReplicaSet with the generation that it was scaled to: whatever is tried again shows here.
pub fn tried(instance: &Instance) -> BTreeSet<(String, String)> {
    let sets = objects(&instance.namespace, "replicasets", &format!("app.kubernetes.io/instance={}", instance.name));
    sets.iter().map(|set| (set["metadata"]["name"].to_string(), set["metadata"]["generation"].to_string())).collect()
}

/// What was kept of the version that was given up.
pub fn evidence(instance: &Instance) -> String {
    let rollout = object(&instance.namespace, "jam", instance.name).unwrap_or_default()["status"]["rollout"].clone();
    let name = rollout["evidence"].as_str().expect("the evidence is named").to_owned();
    let map = object(&instance.namespace, "configmap", &name).expect("the evidence is kept");
    map["data"].to_string()
}

/// Waits until it was given up and only pods of the version before it are there; says when that was.
async fn goes_back(instance: &Instance, words: &str) -> Instant {
    let told = instance.says("Ready", "False", "RolledBack").await;
    assert!(told.contains(words) && told.contains("until the spec changes"), "{words}: {told}");
    eventually("the good pods, and no others", || async {
        let pods = [pods(instance, "api"), pods(instance, "worker")].concat();
        (!pods.is_empty() && pods.iter().all(is_good)).then_some(())
    })
    .await;
    assert_eq!(instance.condition("Stalled"), ("True".into(), "RolledBack".into()));
    instance.is_told("Failed").await;
    let events = eventually("an event", || async {
        let all = objects(&instance.namespace, "events", "");
        let told = all.iter().filter(|event| event["reason"] == "RolledBack");
        let told: Vec<_> = told.map(|event| event["message"].to_string()).collect();
        (!told.is_empty()).then_some(told)
    })
    .await;
    assert!(events.len() == 1 && events[0].contains(words), "one event with {words}: {events:?}");
    Instant::now()
}

/// Once the spec has changed it serves again; what was found out is still there.
async fn heals(instance: &Instance) {
    let kept = evidence(instance);
    instance.patch(&good());
    instance.wait_ready().await;
    assert_eq!(evidence(instance), kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_pulled_never_gets_ready_or_flaps_goes_back_and_is_not_tried_again_until_the_spec_changes() {
    let ways = [
        ("pull", json!({"spec": {"image": {"tag": "nowhere"}}}), "ImagePull", "nowhere"),
        ("never", bad("never"), "has timed out progressing", "ready false"),
        ("flap", bad("flap"), "readiness was lost 3 times", "container jam"),
    ];
    let spec = memory_spec();
    let instances: Vec<_> = ways.iter().map(|(way, ..)| Instance::applied(&format!("bad-{way}"), &spec)).collect();
    let mut loads = Vec::new();
    for instance in &instances {
        instance.wait_ready().await;
        loads.push(Load::on(instance).await);
    }
    let before: Vec<_> = instances.iter().map(|instance| uids(&instance.pods())).collect();
    for (instance, (_, change, ..)) in instances.iter().zip(&ways) {
        instance.patch(change);
    }
    let mut after = Vec::new();
    for (instance, (_, _, words, kept)) in instances.iter().zip(&ways) {
        let since = goes_back(instance, words).await;
        assert!(evidence(instance).contains(kept), "{kept}: {}", evidence(instance));
        after.push((since, tried(instance)));
    }
    for (instance, (since, sets)) in instances.iter().zip(&after) {
        tokio::time::sleep(DEADLINE.saturating_sub(since.elapsed())).await;
        assert_eq!(tried(instance), *sets, "nothing is tried again: {}", instance.describe());
    }
    for ((load, (way, ..)), (instance, before)) in loads.into_iter().zip(&ways).zip(instances.iter().zip(&before)) {
        // One that was ready took the place of the pod before it, and then nobody was there: no operator can help that.
        if *way != "flap" {
            assert_eq!(uids(&instance.pods()), *before, "the pod of before served all the while");
            load.all_answered().await;
        }
        heals(instance).await;
    }
}

/// The schema as a later release leaves it, which serves the builds from before as well.
const MOVES_ON: &str = "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
    values (9999, 'later', true, '', 0); insert into schema_serves (schema, oldest) values (9999, 2)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_crashes_late_goes_back_and_past_a_schema_that_moved_on_nothing_does() {
    let late = Instance::in_new_namespace("bad-late");
    let ahead = Instance::in_new_namespace("bad-ahead");
    let database = Postgres::started(&late.namespace).await;
    database.asked("postgres", "create database ahead");
    apply(&database.secret());
    let mut secret = database.secret_for("jam-db", "ahead");
    secret["metadata"]["namespace"] = json!(ahead.namespace);
    apply(&secret);
    let mut spec = postgres_spec();
    spec["replicas"] = json!(1);
    ahead.apply(&spec);
    spec["workers"] = json!({"replicas": 1});
    late.apply(&spec);
    late.wait_ready().await;
    ahead.wait_ready().await;
    let (of_late, of_ahead) = (Load::on(&late).await, Load::on(&ahead).await);
    let before = uids(&ahead.pods());

    late.patch(&bad("late"));
    ahead.patch(&json!({"spec": {"image": {"tag": "unserving"}}}));
    eventually("a pod of the next version, after its migration", || async { (ahead.pods().len() == 2).then_some(()) })
        .await;
    database.asked("ahead", MOVES_ON);
    let told = ahead.says("Ready", "False", "RollbackRefused").await;
    assert!(told.contains("does not serve, on purpose") && told.contains("the database is at 9999"), "{told}");
    ahead.is_told("Failed").await;
    goes_back(&late, "crashes late, on purpose").await;
    assert!(evidence(&late).contains("crashes late, on purpose"), "{}", evidence(&late));
    assert!(uids(&ahead.pods()).is_superset(&before), "the pod of before serves: {}", ahead.describe());
    of_late.all_answered().await;
    heals(&late).await;
    ahead.patch(&good());
    ahead.wait_ready().await;
    ahead.is_told("Current").await;
    // The pod of the version that was given up has its grace.
    let alone = || async { (uids(&ahead.pods()) == before).then_some(()) };
    eventually("the pod of before to be alone", alone).await;

    // Where a migration comes first it is that one's pod which waits for the image.
    ahead.patch(&json!({"spec": {"image": {"tag": "nowhere"}}}));
    eventually("both to say why nothing goes on", || async {
        let why = ["Ready", "Migrated"].map(|kind| ahead.message(kind));
        why.iter().all(|told| told.contains("migration Job") && told.contains("jam-api:nowhere")).then_some(())
    })
    .await;
    ahead.is_told("InProgress").await;
    assert_eq!(uids(&ahead.pods()), before);
    ahead.patch(&good());
    ahead.wait_ready().await;
    assert_eq!(uids(&ahead.pods()), before, "no pod of that version was ever made");
    of_ahead.all_answered().await;
}
