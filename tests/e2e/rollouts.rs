//! Nobody who calls notices that pods are replaced: by another image and other settings, or because their node is emptied.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::database::Postgres;
use crate::path::postgres_spec;
use crate::support::{Instance, apply, eventually, kubectl_ok, object};
use crate::traffic::Load;

/// As one would run it: two replicas with their budget, a worker and a NetworkPolicy.
fn production() -> Value {
    let mut spec = postgres_spec();
    spec["workers"] = json!({"replicas": 1});
    spec["networkPolicy"] = json!({"enabled": true});
    spec
}

async fn serving(instance: &Instance) {
    let database = Postgres::started(&instance.namespace).await;
    apply(&database.secret());
    instance.apply(&production());
    instance.wait_ready();
}

fn uids(instance: &Instance) -> BTreeSet<String> {
    instance.pods().iter().map(|pod| pod["metadata"]["uid"].to_string()).collect()
}

/// Waits until two pods that were not there before serve, and nothing of the old ones is left.
async fn replaced(instance: &Instance, before: &BTreeSet<String>, image: &str) {
    eventually(&format!("both pods to be new and of {image}"), || async {
        let pods = instance.pods();
        let of_image =
            |pod: &Value| pod["spec"]["containers"][0]["image"].as_str().is_some_and(|name| name.ends_with(image));
        (pods.len() == 2 && pods.iter().all(of_image) && uids(instance).is_disjoint(before)).then_some(())
    })
    .await;
    instance.wait_ready();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_image_and_other_settings_replace_every_pod_without_a_failed_request() {
    let instance = Instance::in_new_namespace("image");
    serving(&instance).await;
    let load = Load::on(&instance).await;

    let first = uids(&instance);
    instance.patch(&json!({"spec": {"image": {"tag": "next"}}}));
    replaced(&instance, &first, ":next").await;
    let second = uids(&instance);
    instance.patch(&json!({"spec": {"image": {"tag": Value::Null}, "runtime": {"jam": {"retentionDays": 31}}}}));
    replaced(&instance, &second, ":dev").await;

    let submitted = load.all_answered().await;
    assert_eq!(count(&instance), submitted, "what was accepted is there, once");
}

/// How many packages the store has.
fn count(instance: &Instance) -> u64 {
    let lines = instance.slctl_ok(&["--output", "name", "jam", "packages", "--service", "load", "--all"]);
    lines.lines().filter(|line| !line.trim().is_empty()).count().try_into().expect("a count of lines")
}

/// Where the API pods run.
fn nodes(instance: &Instance) -> Vec<String> {
    let mut nodes: Vec<String> =
        instance.pods().iter().filter_map(|pod| pod["spec"]["nodeName"].as_str().map(str::to_owned)).collect();
    nodes.sort();
    nodes
}

/// Lets pods onto the node again, also when the test fails in between.
struct Drained(&'static str);

impl Drained {
    /// `kubectl drain`, for the pods of this instance alone: others do their own tests on the node.
    fn of(instance: &Instance, node: &'static str) -> Self {
        let drained = Self(node);
        let selector = format!("--pod-selector=app.kubernetes.io/instance={}", instance.name);
        kubectl_ok(&["drain", node, &selector, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s"]);
        drained
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        crate::support::kubectl(&["uncordon", self.0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_loses_its_pods_without_a_failed_request_also_when_both_were_there() {
    // A name of its own: a drain selects pods of every namespace.
    let instance = Instance::named("drained", "drain");
    serving(&instance).await;
    assert_eq!(nodes(&instance), ["node1", "node2"], "pods are spread over the nodes");
    let budget = object(&instance.namespace, "pdb", instance.name).unwrap_or_default();
    assert_eq!(budget["spec"]["maxUnavailable"], 1, "{budget}");
    let load = Load::on(&instance).await;

    let second = Drained::of(&instance, "node2");
    settled(&instance, "node1").await;
    drop(second);
    // Both pods are on one node now: the budget lets them go one after the other.
    let first = Drained::of(&instance, "node1");
    settled(&instance, "node2").await;
    drop(first);
    load.all_answered().await;
}

async fn settled(instance: &Instance, node: &str) {
    eventually(&format!("both pods to be on {node}"), || async { (nodes(instance) == [node, node]).then_some(()) })
        .await;
    instance.wait_ready();
}
