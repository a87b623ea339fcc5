//! Nobody who calls notices that a node is emptied, also when every pod was on it.

use crate::rollouts::serving;
use crate::support::{Instance, eventually, kubectl, kubectl_ok, object};
use crate::traffic::Load;

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
    /// `kubectl drain`, for the pods of this instance alone: its database and the cluster's DNS stay.
    fn of(instance: &Instance, node: &'static str) -> Self {
        let drained = Self(node);
        let selector = format!("--pod-selector=app.kubernetes.io/instance={}", instance.name);
        kubectl_ok(&["drain", node, &selector, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s"]);
        drained
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        kubectl(&["uncordon", self.0]);
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
    instance.wait_ready().await;
}
