//! One malformed, one stalled and one failing instance among fifty with real pods: the others come as if those were not there.

use std::time::Duration;

use serde_json::{Value, json};

use super::absent::Definition;
use crate::audit::{Request, requests_of_the_operator, writes_of_the_operator};
use crate::kstatus::kstatus;
use crate::path::memory_spec;
use crate::support::{Instance, apply, client, eventually, kubectl, kubectl_ok, object, objects};
use crate::traffic::Load;

/// With one malformed, one stalled and one failing instance they are fifty.
const GOOD: usize = 47;
const IS_GOOD: &str = "e2e=good";

/// One of many: little is asked for it.
fn small() -> Value {
    let mut spec = memory_spec();
    spec["podTemplate"] =
        json!({"resources": {"requests": {"cpu": "10m", "memory": "16Mi", "ephemeral-storage": "1Mi"}}});
    spec
}

fn jam(namespace: &str, name: &str, spec: &Value) -> Value {
    let labels = if name.starts_with("good") { json!({"e2e": "good"}) } else { json!({}) };
    json!({
        "apiVersion": "jam.network/v1alpha1", "kind": "JamInstance",
        "metadata": {"name": name, "namespace": namespace, "labels": labels}, "spec": spec,
    })
}

/// What of these is about an instance or its children, but for its events.
fn about(requests: &[Request], name: &str) -> Vec<String> {
    let is_about = |request: &&Request| request.name == name || request.name.starts_with(&format!("{name}-"));
    requests
        .iter()
        .filter(is_about)
        .map(|request| request.what.clone())
        .filter(|what| !what.contains(" events "))
        .collect()
}

/// A quota that lets nobody in the namespace make an Ingress.
async fn no_ingress(namespace: &str) {
    apply(&json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": namespace},
        "spec": {"hard": {"count/ingresses.networking.k8s.io": "0"}},
    }));
    eventually("the quota to be counted", || async {
        object(namespace, "resourcequota", "none").filter(|quota| quota["status"]["used"].is_object())
    })
    .await;
}

/// An instance that no release can read, as an older definition let it in.
async fn malformed(namespace: &str, definition: &Definition) {
    definition.loosen();
    let unreadable = jam(namespace, "malformed", &json!({"replicas": "many"})).to_string();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("malformed.json");
    std::fs::write(&file, unreadable).expect("a file can be written there");
    eventually("the loose definition to be served", || async {
        kubectl(&["apply", "-f", &file.to_string_lossy()]).status.success().then_some(())
    })
    .await;
    definition.put_back();
}

/// The condition of one of them.
fn reason(namespace: &str, name: &str, kind: &str) -> Option<String> {
    let conditions = object(namespace, "jam", name)?["status"]["conditions"].as_array()?.clone();
    let told = conditions.into_iter().find(|told| told["type"] == kind && told["status"] == "True")?;
    told["reason"].as_str().map(str::to_owned)
}

async fn is_so(namespace: &str, name: &str, kind: &str, wanted: &str, is_told: &str) {
    eventually(&format!("{name}: {kind} {wanted}, {is_told}"), || async {
        let jam = object(namespace, "jam", name)?;
        (reason(namespace, name, kind).as_deref() == Some(wanted) && kstatus(&jam) == is_told).then_some(())
    })
    .await;
}

fn ready(namespace: &str, which: &[&str]) {
    let wait = ["-n", namespace, "wait", "--for=condition=Ready", "--timeout=300s", "jam"];
    let waited = kubectl(&[wait.as_slice(), which].concat());
    let seen =
        || String::from_utf8_lossy(&kubectl(&["-n", namespace, "get", "jam,pods", "-o", "wide"]).stdout).into_owned();
    assert!(waited.status.success(), "{}\n{}", String::from_utf8_lossy(&waited.stderr), seen());
}

/// The depth of the queue as each pod of the operator tells it.
async fn queues_are_empty() {
    let pods = objects("jam-system", "pods", "app.kubernetes.io/name=jam-operator");
    assert!(!pods.is_empty());
    for pod in pods {
        let url = format!("http://{}:8080/metrics", pod["status"]["podIP"].as_str().unwrap_or_default());
        eventually("nobody to wait in the queue", || async {
            let page = client().get(&url).send().await.ok()?.text().await.ok()?;
            page.contains("jam_operator_queue_depth 0").then_some(())
        })
        .await;
    }
}

/// Each good one is there at the price of one alone.
fn cost_as_one_alone(namespace: &str, since: jiff::Timestamp) {
    let writes = writes_of_the_operator(since);
    for number in 1..=GOOD {
        let (words, children): (Vec<String>, Vec<String>) =
            about(&writes, &format!("good{number}")).into_iter().partition(|what| what.contains(" jaminstances "));
        // How many words there are about it depends on how many steps of its pod were seen.
        assert!(children.len() == 7 && words.len() <= 5, "good{number} of {namespace}: {children:?} {words:?}");
    }
    assert_eq!((about(&writes, "stalled").len(), about(&writes, "malformed").len()), (1, 1), "a word each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_bad_instances_among_fifty_with_real_pods_cost_the_others_nothing() {
    let first = Instance::named("good1", "fifty");
    let namespace = first.namespace.as_str();
    let since = jiff::Timestamp::now();
    let definition = Definition::remembered();
    malformed(namespace, &definition).await;
    no_ingress(namespace).await;
    let (mut stalled, mut failing) = (small(), small());
    stalled["blobStore"] = json!({"url": "s3://bucket/prefix"});
    failing["ingress"] = json!({"enabled": true, "host": "jam.example.com"});
    apply(&jam(namespace, "stalled", &stalled));
    apply(&jam(namespace, "failing", &failing));
    apply(&jam(namespace, "good1", &small()));
    ready(namespace, &["good1"]);
    let load = Load::on(&first).await;
    let others: Vec<Value> = (2..=GOOD).map(|number| jam(namespace, &format!("good{number}"), &small())).collect();
    apply(&json!({"apiVersion": "v1", "kind": "List", "items": others}));
    ready(namespace, &["-l", IS_GOOD]);
    is_so(namespace, "malformed", "Stalled", "InvalidSettings", "Failed").await;
    is_so(namespace, "stalled", "Stalled", "InvalidSettings", "Failed").await;
    is_so(namespace, "failing", "Reconciling", "ApplyFailed", "InProgress").await;
    let told = objects(namespace, "jam", IS_GOOD);
    assert!(told.len() == GOOD && told.iter().all(|jam| kstatus(jam) == "Current"));
    cost_as_one_alone(namespace, since);

    // From here on nothing happens but the retries of the one that fails.
    let rest = jiff::Timestamp::now();
    tokio::time::sleep(Duration::from_secs(15)).await;
    let mut asked = requests_of_the_operator(rest);
    for name in ["stalled", "malformed"] {
        assert_eq!(about(&asked, name), Vec::<String>::new(), "not even a read until it changes");
    }
    asked.retain(|request| request.is_write && request.namespace == namespace && !request.name.starts_with("failing"));
    assert!(asked.is_empty(), "{asked:?}");
    queues_are_empty().await;
    load.all_answered().await;

    let mended = json!({"spec": {"blobStore": null}}).to_string();
    kubectl_ok(&["-n", namespace, "patch", "jam", "stalled", "--type", "merge", "-p", &mended]);
    kubectl_ok(&["-n", namespace, "delete", "resourcequota", "none"]);
    ready(namespace, &["stalled"]);
    ready(namespace, &["failing"]);
}
