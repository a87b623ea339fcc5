//! The NetworkPolicy of an instance with real traffic: who is named gets in, who is not is turned away, and pods go where they must.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::consumer::{Answers, Consumer};
use crate::database::Postgres;
use crate::path::{memory_spec, postgres_spec};
use crate::support::{Instance, apply, eventually, object};

const PORT: &str = "8080";
const METRICS: &str = "9090";

fn address(instance: &Instance) -> String {
    instance.pods()[0]["status"]["podIP"].as_str().expect("a pod that serves has an address").to_owned()
}

/// How many of the last requests of a caller were answered well, and how many not at all.
#[derive(Debug)]
struct Lately {
    good: u64,
    unanswered: u64,
}

/// What each caller is answered once it is known on every node: a pod's first requests may come before that.
async fn lately(callers: &BTreeMap<&str, Consumer>) -> BTreeMap<String, Lately> {
    // Longer than it takes until an address is in the pod's status and the rules of its node are made of it.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let asked = |answers: &Answers| answers.good + answers.other + answers.unanswered;
    let mut all = BTreeMap::new();
    for (name, caller) in callers {
        let more_than = async |least: u64| {
            let what = format!("{name} to have asked {least} times");
            eventually(&what, || async { caller.answers().filter(|answers| asked(answers) > least) }).await
        };
        let before = more_than(20).await;
        let now = more_than(asked(&before) + 20).await;
        let lately = Lately { good: now.good - before.good, unanswered: now.unanswered - before.unanswered };
        all.insert((*name).to_owned(), lately);
    }
    all
}

#[tokio::test]
async fn who_is_named_gets_in_who_is_not_is_turned_away_and_pods_reach_only_what_they_need() {
    let instance = Instance::in_new_namespace("network");
    let database = Postgres::started(&instance.namespace).await;
    apply(&database.secret());
    let mut spec = postgres_spec();
    spec["networkPolicy"] = json!({"allowFrom": [{"podSelector": {"matchLabels": {"jam-client": "true"}}}]});
    instance.apply(&spec);
    // Migration and pods reach DNS and the database, the kubelet and the operator reach the pods.
    instance.wait_ready().await;
    assert_eq!(instance.condition("DatabaseReachable").0, "True");
    // Which schema there is only a pod can tell, and it tells the operator alone: nobody named that one.
    eventually("the operator to be answered by a pod", || async {
        let jam = object(&instance.namespace, "jam", instance.name)?;
        jam.pointer("/status/version/schema").filter(|schema| schema.is_i64()).cloned()
    })
    .await;
    let other = Instance::applied("elsewhere", &memory_spec());
    other.wait_ready().await;

    let (ours, theirs, namespace) = (address(&instance), address(&other), instance.namespace.as_str());
    let named = json!({"jam-client": "true"});
    let of_instance = json!({
        "app.kubernetes.io/name": "jam", "app.kubernetes.io/instance": instance.name,
        "app.kubernetes.io/component": "stranger",
    });
    let start = |name, labels, what| (name, Consumer::labelled(namespace, name, labels, what));
    let callers = BTreeMap::from([
        start("named", &named, [&ours, PORT, "/healthz"]),
        start("unnamed", &json!({}), [&ours, PORT, "/healthz"]),
        start("scraper", &json!({}), [&ours, METRICS, "/metrics"]),
        start("outward", &of_instance, [&theirs, PORT, "/healthz"]),
        start("unbound", &json!({}), [&theirs, PORT, "/healthz"]),
    ]);
    let told = lately(&callers).await;
    let gets_in = |name: &str| told[name].good > 20 && told[name].unanswered == 0;
    let is_kept_out = |name: &str| told[name].good == 0 && told[name].unanswered > 20;
    assert!(gets_in("named"), "allowFrom names it: {told:#?}");
    assert!(is_kept_out("unnamed"), "nobody named it: {told:#?}");
    assert!(gets_in("scraper"), "metrics are for everybody: {told:#?}");
    assert!(is_kept_out("outward"), "a pod of the instance has no business there: {told:#?}");
    assert!(gets_in("unbound"), "others are not held to it: {told:#?}");
    instance.wait_ready().await;
}
