//! A bad rollout under traffic: the old pod serves all the while, the last good revision comes back, with evidence.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::{Value, json};

use crate::bad_rollouts::{DEADLINE, evidence, tried};
use crate::path::memory_spec;
use crate::rollouts::{packages, serving};
use crate::support::{Instance, eventually, object, objects};
use crate::traffic::Load;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_fails_at_once_is_rolled_back_without_a_failed_request() {
    let instance = Instance::applied("rollback", &memory_spec());
    instance.wait_ready().await;
    let (namespace, name) = (instance.namespace.as_str(), instance.name);
    let good = instance.pods()[0]["metadata"]["uid"].clone();
    let load = Load::on(&instance).await;

    // The image of dev/images/build that says a word and ends.
    instance.patch(&json!({"spec": {"image": {"tag": "broken"}}}));
    eventually("Ready=False reason=RolledBack", || async {
        (instance.condition("Ready") == ("False".into(), "RolledBack".into())).then_some(())
    })
    .await;
    assert_eq!(instance.condition("Stalled").0, "True");
    instance.is_told("Failed").await;
    eventually("the bad pod to be gone", || async {
        let pods = instance.pods();
        (pods.len() == 1 && pods[0]["metadata"]["uid"] == good).then_some(())
    })
    .await;

    let status = object(namespace, "jam", name).unwrap_or_default()["status"]["rollout"].clone();
    let map = object(namespace, "configmap", status["evidence"].as_str().unwrap_or_default()).unwrap_or_default();
    let said: Vec<&str> = map["data"].as_object().into_iter().flatten().filter_map(|(_, text)| text.as_str()).collect();
    assert!(said.iter().any(|text| text.contains("broken on purpose")), "{said:?}");

    instance.patch(&json!({"spec": {"image": {"tag": Value::Null}}}));
    instance.wait_ready().await;
    assert_eq!(instance.pods()[0]["metadata"]["uid"], good, "the same revision restarts nothing");
    load.all_answered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_migrates_and_does_not_serve_is_rolled_back_with_its_worker_and_no_pod_that_serves_goes() {
    let instance = Instance::in_new_namespace("unserving");
    serving(&instance).await;
    let of_the_worker = || {
        let selector = format!("app.kubernetes.io/instance={},app.kubernetes.io/component=worker", instance.name);
        objects(&instance.namespace, "pods", &selector)
    };
    let uids = |pods: Vec<Value>| pods.iter().map(|pod| pod["metadata"]["uid"].to_string()).collect::<BTreeSet<_>>();
    let good = uids(instance.pods());
    let load = Load::on(&instance).await;

    instance.patch(&json!({"spec": {"image": {"tag": "unserving"}}}));
    eventually("Ready=False reason=RolledBack", || async {
        (instance.condition("Ready") == ("False".into(), "RolledBack".into())).then_some(())
    })
    .await;
    instance.is_told("Failed").await;
    eventually("the pods of before and a worker that works", || async {
        let worker = of_the_worker();
        let works = worker.len() == 1 && worker[0]["status"]["containerStatuses"][0]["ready"] == true;
        (works && uids(instance.pods()) == good).then_some(())
    })
    .await;
    let (since, sets) = (Instant::now(), tried(&instance));
    assert!(evidence(&instance).contains("does not serve, on purpose"), "{}", evidence(&instance));
    tokio::time::sleep(DEADLINE.saturating_sub(since.elapsed())).await;
    assert_eq!(tried(&instance), sets, "nothing is tried again until the spec changes: {}", instance.describe());
    instance.is_told("Failed").await;

    instance.patch(&json!({"spec": {"image": {"tag": Value::Null}}}));
    instance.wait_ready().await;
    assert_eq!(uids(instance.pods()), good, "the same revision restarts nothing");
    let submitted = load.all_answered().await;
    assert_eq!(packages(&instance), submitted, "what was accepted is there, once");
}
