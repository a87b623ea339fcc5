//! Every child of an instance under many hands and traffic: what is edited, relabelled, scaled or deleted is right again, what is no
//! longer wanted goes, and what is somebody else's is named and never touched.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::audit::writes_of_the_operator;
use crate::database::{Postgres, names_and_restarts};
use crate::databases::MOMENT;
use crate::path::{memory_spec, postgres_spec};
use crate::support::{Instance, apply, eventually, kubectl_ok, object, objects};
use crate::traffic::{Load, TURNED_AWAY};

/// Kinds of children but Jobs: a finished one is left to its time to live.
const KINDS: &str = "sa,cm,secret,netpol,svc,deploy,cj,pdb,hpa,ing";
const OURS: &str = "app.kubernetes.io/managed-by=jam-operator,jam.network/instance=jam";

/// Token Secrets outlive their instance, so nothing but their labels says whose they are: with others they are somebody else's.
const OWNED: &str =
    "app.kubernetes.io/managed-by=jam-operator,jam.network/instance=jam,app.kubernetes.io/component!=tokens";

/// The Secrets of the consumers.
const TOKENS: [&str; 2] = ["jam-token-demo", "jam-token-other"];

/// Everything that this cluster serves.
fn everything() -> Value {
    let mut spec = postgres_spec();
    spec["workers"] = json!({"replicas": 1});
    spec["networkPolicy"] = json!({"enabled": true});
    spec["ingress"] = json!({"enabled": true, "host": "jam.example.com"});
    spec["cleanup"] = json!({"schedule": "0 3 * * *", "suspend": true});
    spec["monitoring"] = json!({"dashboard": true});
    spec["tokens"]["consumers"] = json!([{"name": "demo"}, {"name": "other"}]);
    spec
}

/// Takes away what the API server makes new in each object.
fn essence(mut child: Value) -> Value {
    for field in ["status", "apiVersion", "kind"] {
        child[field] = Value::Null;
    }
    for field in ["clusterIP", "clusterIPs"] {
        if let Some(spec) = child["spec"].as_object_mut() {
            spec.remove(field);
        }
    }
    let mut labels = child["metadata"]["labels"].clone();
    if let Some(labels) = labels.as_object_mut() {
        labels.remove("their");
    }
    let owners = child["metadata"]["ownerReferences"].clone();
    child["metadata"] = json!({"labels": labels, "ownerReferences": owners});
    child
}

/// The children by kind and name: what of each is ours to keep.
fn children(instance: &Instance) -> BTreeMap<(String, String), Value> {
    let all = objects(&instance.namespace, KINDS, OURS);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.into_iter().map(|child| ((text(&child["kind"]), text(&child["metadata"]["name"])), essence(child))).collect()
}

/// Waits until all children are as they were.
async fn right_again(instance: &Instance, what: &str, before: &BTreeMap<(String, String), Value>) {
    let wrong = |now: &BTreeMap<(String, String), Value>| {
        before
            .iter()
            .filter(|(name, was)| now.get(*name) != Some(*was))
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>()
    };
    eventually(&format!("what was {what} to be right again"), || async {
        let left = wrong(&children(instance));
        (left.is_empty()).then_some(()).or_else(|| {
            println!("{what}: {left:?}");
            None
        })
    })
    .await;
}

fn relabel(instance: &Instance, which: &str, labels: &[&str]) {
    let all = ["-n", &instance.namespace, "label", KINDS, "-l", which, "--overwrite"];
    kubectl_ok(&[all.as_slice(), labels].concat());
}

fn patch(instance: &Instance, kind: &str, name: &str, change: &Value) {
    kubectl_ok(&["-n", &instance.namespace, "patch", kind, name, "--type", "merge", "-p", &change.to_string()]);
}

/// Edits what can be edited of each kind, in a way that stops nobody who calls.
fn edit(instance: &Instance) {
    patch(instance, "sa", "jam", &json!({"automountServiceAccountToken": true}));
    patch(instance, "cm", "jam-dashboard", &json!({"data": {format!("jam-{}-jam.json", instance.namespace): "{}"}}));
    patch(instance, "netpol", "jam", &json!({"spec": {"policyTypes": ["Ingress"]}}));
    patch(instance, "cj", "jam-cleanup", &json!({"spec": {"suspend": false, "schedule": "5 5 5 5 5"}}));
    patch(instance, "pdb", "jam", &json!({"spec": {"maxUnavailable": 0}}));
    patch(instance, "ing", "jam", &json!({"spec": {"rules": [{"host": "stranger.example.com"}]}}));
    let image =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "jam", "image": "localhost/stranger:1"}]}}}});
    let strategic = ["patch", "deploy", "jam-worker", "--type", "strategic", "-p", &image.to_string()];
    kubectl_ok(&[&["-n", instance.namespace.as_str()], strategic.as_slice()].concat());
    for (name, replicas) in [("jam", "--replicas=3"), ("jam-worker", "--replicas=0")] {
        kubectl_ok(&["-n", &instance.namespace, "scale", "deploy", name, replicas]);
    }
}

/// Edits what nobody who calls can do without.
fn edit_what_is_called(instance: &Instance) {
    patch(instance, "secret", "jam-token-hashes", &json!({"data": {"tokens.json": "W10="}}));
    let stranger =
        json!({"selector": {"app": "stranger"}, "ports": [{"name": "stranger", "port": 80, "targetPort": 1}]});
    patch(instance, "svc", "jam", &json!({"spec": stranger}));
}

/// Deletes these children.
fn delete(instance: &Instance, which: impl Fn(&str, &str) -> bool) {
    let names: Vec<String> = children(instance)
        .into_keys()
        .filter(|(kind, name)| which(kind, name))
        .map(|(kind, name)| format!("{}/{name}", kind.to_lowercase()))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    kubectl_ok(&[&["-n", instance.namespace.as_str(), "delete", "--wait=true"], names.as_slice()].concat());
}

/// Without these nobody who calls gets an answer, or not with the token that they have.
fn is_called(kind: &str, name: &str) -> bool {
    ["Service", "Deployment"].contains(&kind) || TOKENS.contains(&name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_child_that_is_edited_relabelled_scaled_or_deleted_is_right_again_and_what_others_own_stays() {
    let instance = Instance::in_new_namespace("repair");
    let database = Postgres::started(&instance.namespace).await;
    apply(&database.secret());
    instance.apply(&everything());
    instance.wait_ready().await;
    let before = children(&instance);
    let kinds: Vec<_> = before.keys().map(|(kind, _)| kind.as_str()).collect();
    for kind in [
        "ServiceAccount",
        "ConfigMap",
        "Secret",
        "NetworkPolicy",
        "Service",
        "Deployment",
        "CronJob",
        "PodDisruptionBudget",
        "Ingress",
    ] {
        assert!(kinds.contains(&kind), "{kind}: {kinds:?}");
    }
    let load = Load::on(&instance).await;
    let namespace = instance.namespace.as_str();
    relabel(&instance, OURS, &["their=own", "app.kubernetes.io/part-of=stranger"]);
    right_again(&instance, "relabelled", &before).await;
    relabel(&instance, OWNED, &["jam.network/instance=elsewhere"]);
    right_again(&instance, "given to another instance", &before).await;
    relabel(&instance, OWNED, &["app.kubernetes.io/managed-by-", "jam.network/instance-"]);
    right_again(&instance, "taken out of sight", &before).await;
    let theirs = objects(namespace, KINDS, &format!("{OURS},their=own"));
    assert_eq!(theirs.len(), before.len(), "a label of theirs is left alone");
    edit(&instance);
    right_again(&instance, "edited and scaled", &before).await;
    delete(&instance, |kind, name| !is_called(kind, name));
    right_again(&instance, "deleted", &before).await;
    instance.wait_ready().await;
    // Nobody promised that hands on everything go unnoticed, but who calls has to be served on.
    let answers = load.ended().await;
    answers.failed_only_as(&[TURNED_AWAY]);
    let (asked, failed) = (answers.asked, answers.failed.len() as u64);
    assert!(failed * 20 <= asked && answers.longest < MOMENT, "{failed} of {asked}, {:?} without", answers.longest);

    edit_what_is_called(&instance);
    right_again(&instance, "edited where it was called", &before).await;
    delete(&instance, |kind, _| ["Service", "Deployment"].contains(&kind));
    right_again(&instance, "deleted where it was called", &before).await;
    kubectl_ok(&[["-n", namespace, "delete", "secret"].as_slice(), &TOKENS].concat());
    for secret in TOKENS {
        eventually("a token in its place", || async { object(namespace, "secret", secret) }).await;
    }
    instance.wait_ready().await;
    Load::on(&instance).await.is_served().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_longer_wanted_goes_without_a_failed_request_and_what_is_not_ours_stays() {
    let instance = Instance::in_new_namespace("prune");
    let database = Postgres::started(&instance.namespace).await;
    apply(&database.secret());
    let mut spec = everything();
    spec["replicas"] = Value::Null;
    spec["autoscaling"] = json!({"minReplicas": 2, "maxReplicas": 3});
    instance.apply(&spec);
    instance.wait_ready().await;
    let before = children(&instance);
    patch(&instance, "hpa", "jam", &json!({"spec": {"maxReplicas": 50}}));
    right_again(&instance, "edited", &before).await;
    delete(&instance, |kind, _| kind == "HorizontalPodAutoscaler");
    right_again(&instance, "deleted", &before).await;
    // As if it were ours, but nobody's: no owner made it.
    let labels = json!({"app.kubernetes.io/managed-by": "jam-operator", "jam.network/instance": "jam"});
    apply(&json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"a": "b"}}},
        "metadata": {"name": "stranger", "namespace": instance.namespace, "labels": labels},
    }));
    let load = Load::on(&instance).await;

    instance.patch(&json!({"spec": {
        "autoscaling": null, "replicas": 1, "workers": null, "networkPolicy": {"enabled": false}, "ingress": null, "cleanup": null,
        "monitoring": null, "tokens": {"consumers": [{"name": "demo"}]},
    }}));
    let wanted = [
        "Deployment/jam",
        "PodDisruptionBudget/stranger",
        "Secret/jam-token-demo",
        "Secret/jam-token-hashes",
        "Service/jam",
        "ServiceAccount/jam",
    ];
    eventually("nothing to be left but what is wanted", || async {
        let left: Vec<String> = children(&instance).keys().map(|(kind, name)| format!("{kind}/{name}")).collect();
        let others: Vec<&String> = left.iter().filter(|name| !name.starts_with("ConfigMap/")).collect();
        println!("{left:?}");
        (others == wanted && !left.contains(&"ConfigMap/jam-dashboard".to_owned())).then_some(())
    })
    .await;
    instance.wait_ready().await;
    load.all_answered().await;
}

/// A namespace's own object, whose name an instance wants.
fn theirs(kind: &str, version: &str, namespace: &str, spec: &Value) {
    apply(
        &json!({"apiVersion": version, "kind": kind, "metadata": {"name": "jam", "namespace": namespace}, "spec": spec}),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_taken_is_named_and_not_touched_and_free_again_it_is_all_that_was_missing() {
    let instance = Instance::in_new_namespace("taken");
    let namespace = instance.namespace.as_str();
    theirs("Service", "v1", namespace, &json!({"ports": [{"port": 1}]}));
    instance.apply(&memory_spec());
    let told = instance.says("Stalled", "True", "NameTaken").await;
    assert!(told.contains("Service jam"), "{told}");
    instance.is_told("Failed").await;
    kubectl_ok(&["-n", namespace, "delete", "service", "jam"]);
    instance.wait_ready().await;

    let (pods, load) = (names_and_restarts(&instance), Load::on(&instance).await);
    theirs(
        "NetworkPolicy",
        "networking.k8s.io/v1",
        namespace,
        &json!({"podSelector": {"matchLabels": {"app": "theirs"}}}),
    );
    let before = object(namespace, "netpol", "jam").expect("it is there");
    instance.patch(&json!({"spec": {"networkPolicy": {"enabled": true}}}));
    let told = instance.says("Stalled", "True", "NameTaken").await;
    assert!(told.contains("NetworkPolicy jam"), "{told}");
    instance.is_told("Failed").await;
    let since = jiff::Timestamp::now();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut writes = writes_of_the_operator(since);
    writes.retain(|write| write.namespace == instance.namespace);
    assert!(writes.is_empty(), "it waits for a change: {writes:?}");
    assert_eq!(object(namespace, "netpol", "jam"), Some(before), "what is theirs is as it was");
    assert_eq!(names_and_restarts(&instance), pods);
    kubectl_ok(&["-n", namespace, "delete", "netpol", "jam"]);
    instance.wait_ready().await;
    let owner = |policy: Value| (policy["metadata"]["ownerReferences"][0]["kind"] == "JamInstance").then_some(());
    eventually("a NetworkPolicy of the instance", || async { object(namespace, "netpol", "jam").and_then(owner) })
        .await;
    load.all_answered().await;
}
