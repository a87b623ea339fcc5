//! With an autoscaler the number of pods is its own: the operator neither sets it nor puts it right.

use std::time::Duration;

use serde_json::{Value, json};

use crate::database::Postgres;
use crate::path::postgres_spec;
use crate::support::{Instance, apply, eventually, kubectl_ok, object, objects};

fn replicas(instance: &Instance) -> u64 {
    let deployment = object(&instance.namespace, "deployment", instance.name).unwrap_or_default();
    deployment["spec"]["replicas"].as_u64().unwrap_or_default()
}

#[tokio::test]
async fn the_autoscaler_owns_replicas_and_the_operator_leaves_them_alone() {
    let instance = Instance::in_new_namespace("scaled");
    let database = Postgres::started(&instance.namespace).await;
    apply(&database.secret());
    let mut spec = postgres_spec();
    spec["replicas"] = json!(1);
    instance.apply(&spec);
    instance.wait_ready().await;

    // Until the autoscaler has spoken the operator keeps within its bounds.
    instance.patch(&json!({"spec": {"replicas": null, "autoscaling": {"minReplicas": 2, "maxReplicas": 4}}}));
    eventually("two pods", || async { (replicas(&instance) == 2).then_some(()) }).await;
    instance.patch(&json!({"spec": {"autoscaling": {"minReplicas": 3}}}));
    eventually("three pods", || async { (replicas(&instance) == 3).then_some(()) }).await;
    instance.wait_ready().await;
    // As an autoscaler speaks that has metrics, by the scale of the Deployment; this cluster has none.
    kubectl_ok(&["-n", &instance.namespace, "scale", "deployment", instance.name, "--replicas=4"]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    instance.patch(&json!({"spec": {"runtime": {"jam": {"retentionDays": 31}}}}));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(replicas(&instance), 4, "neither time nor a changed spec is a reason to touch them");
    eventually("four pods to serve", || async { (instance.pods().len() == 4).then_some(()) }).await;
    instance.wait_ready().await;
    // Here the cluster's own autoscaler speaks: without metrics it keeps the number within its bounds all the same.
    instance.patch(&json!({"spec": {"autoscaling": {"minReplicas": 1, "maxReplicas": 2}}}));
    eventually("two pods", || async { (replicas(&instance) == 2).then_some(()) }).await;
    let scaled = |event: &&Value| {
        event["source"]["component"] == "horizontal-pod-autoscaler"
            || event["reportingComponent"] == "horizontal-pod-autoscaler"
    };
    eventually("its word that it was nobody else", || async {
        let events = objects(&instance.namespace, "events", "");
        let mut words = events.iter().filter(scaled).map(|event| event["message"].to_string());
        words.any(|words| words.contains("New size: 2")).then_some(())
    })
    .await;
    eventually("two pods to be left", || async { (instance.pods().len() == 2).then_some(()) }).await;
    instance.wait_ready().await;
    let owners = kubectl_ok(&[
        "-n",
        &instance.namespace,
        "get",
        "deployment",
        instance.name,
        "--show-managed-fields",
        "-o",
        "jsonpath={.metadata.managedFields[?(@.manager==\"jam-operator\")].fieldsV1.f:spec}",
    ]);
    assert!(owners.contains("f:template") && !owners.contains("f:replicas"), "{owners}");
}
