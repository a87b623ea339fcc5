//! Nobody who calls notices that pods are replaced by others with another image and other settings.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::database::Postgres;
use crate::path::postgres_spec;
use crate::support::{Instance, apply, eventually};
use crate::traffic::Load;

/// As one would run it: two replicas with their budget, a worker and a NetworkPolicy.
fn production() -> Value {
    let mut spec = postgres_spec();
    spec["workers"] = json!({"replicas": 1});
    spec["networkPolicy"] = json!({"enabled": true});
    spec
}

/// Applies it with a database of its own and waits until it serves.
pub async fn serving(instance: &Instance) {
    let database = Postgres::started(&instance.namespace).await;
    apply(&database.secret());
    instance.apply(&production());
    instance.wait_ready().await;
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
    instance.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_image_and_other_settings_replace_every_pod_without_a_failed_request() {
    let instance = Instance::in_new_namespace("image");
    serving(&instance).await;
    let load = Load::on(&instance).await;

    let first = uids(&instance);
    instance.patch(&json!({"spec": {"image": {"tag": "next"}}}));
    instance.is_told("InProgress").await;
    replaced(&instance, &first, ":next").await;
    let second = uids(&instance);
    instance.patch(&json!({"spec": {"image": {"tag": Value::Null}, "runtime": {"jam": {"retentionDays": 31}}}}));
    instance.is_told("InProgress").await;
    replaced(&instance, &second, ":dev").await;

    let submitted = load.all_answered().await;
    assert_eq!(packages(&instance), submitted, "what was accepted is there, once");
}

/// How many packages of the load the store has.
pub fn packages(instance: &Instance) -> u64 {
    let lines = instance.slctl_ok(&["--output", "name", "jam", "packages", "--service", "load", "--all"]);
    lines.lines().filter(|line| !line.trim().is_empty()).count().try_into().expect("a count of lines")
}
