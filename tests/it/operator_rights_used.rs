//! The table of rights against a whole life: no verb in it that is never used, and nothing that it forbids.

use std::collections::BTreeSet;

use jam::operator::rbac;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::kubelet::FATE;
use crate::operator_resource::{apply_malformed, define_loosely, plane_of_its_own};
use crate::operator_support::{Account, Asked, Kubelet, apply, condition, eventually};
use crate::support::cluster::{install, instances};

fn in_memory() -> Value {
    json!({"runtime": {"jam": {"enabled": true, "store": "memory"}}, "tokens": {"consumers": [{"name": "demo"}]}})
}

fn on_postgres() -> Value {
    json!({
        "runtime": {"jam": {"enabled": true, "store": "postgres"}},
        "database": {"dsnSecretRef": {"name": "db", "key": "dsn"}},
    })
}

/// Resource and verb of what was done. Server-side apply of a new object is a patch that takes the right to create too.
fn used(asked: &[Asked]) -> BTreeSet<(String, String)> {
    let done = asked.iter().filter(|asked| asked.code != 403 && !asked.resource.is_empty());
    let verbs = done.flat_map(|Asked { verb, resource, name: _, code }| {
        let created = (verb == "patch" && *code == 201).then(|| (resource.clone(), "create".to_owned()));
        [(resource.clone(), verb.clone())].into_iter().chain(created)
    });
    verbs.collect()
}

async fn change(client: &Client, namespace: &str, name: &str, spec: Value) {
    let patch = Patch::Merge(json!({"spec": spec}));
    instances(client, namespace).patch(name, &PatchParams::default(), &patch).await.unwrap();
}

/// A database's Secret, and a Job that is made and no longer wanted before it ends.
async fn postgres_life(client: &Client, namespace: &str) {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let dsn = json!({"metadata": {"name": "db"}, "stringData": {"dsn": "postgres://jam@db/jam"}});
    secrets.create(&PostParams::default(), &serde_json::from_value(dsn).unwrap()).await.unwrap();
    let kubelet = Kubelet::play(client, namespace, 0, "");
    let mut spec = on_postgres();
    spec["workers"] = json!({"replicas": 1});
    spec["cleanup"] = json!({"schedule": "17 3 * * *"});
    spec["autoscaling"] = json!({"minReplicas": 2, "maxReplicas": 3});
    spec["cleanup"] = json!({"schedule": "0 0 29 2 *"});
    apply(client, namespace, "pg", spec).await;
    condition(client, namespace, "pg", "Ready", "True", "Serving").await;
    change(
        client,
        namespace,
        "pg",
        json!({"workers": {"replicas": 0}, "autoscaling": null, "replicas": 1, "cleanup": null}),
    )
    .await;
    condition(client, namespace, "pg", "Ready", "True", "Serving").await;
    drop(kubelet);
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    let running = async || {
        let all = jobs.list(&ListParams::default()).await.ok()?.items;
        let ended = |job: &Job| job.status.as_ref().is_some_and(|status| status.completion_time.is_some());
        Some(all.into_iter().filter(|job| !ended(job)).count())
    };
    change(client, namespace, "pg", json!({"image": {"tag": "next"}})).await;
    eventually("a migration runs", async || (running().await? == 1).then_some(())).await;
    change(client, namespace, "pg", json!({"image": null})).await;
    eventually("it is stopped", async || (running().await? == 0).then_some(())).await;
}

/// Everything optional comes and goes; a revision is bad; an instance cannot be read.
async fn memory_life(client: &Client, namespace: &str) {
    let _kubelet = Kubelet::play(client, namespace, 0, "");
    let mut spec = in_memory();
    spec["ingress"] = json!({"enabled": true, "host": "jam.example"});
    spec["networkPolicy"] = json!({"enabled": true});
    spec["httpRoute"] = json!({"enabled": true, "hostnames": ["jam.example"], "parentRefs": [{"name": "g"}]});
    spec["monitoring"] = json!({"serviceMonitor": true, "prometheusRule": true, "dashboard": true});
    spec["tokens"]["consumers"] = json!([{"name": "demo"}, {"name": "other"}]);
    apply(client, namespace, "main", spec).await;
    condition(client, namespace, "main", "Ready", "True", "Serving").await;
    apply(client, namespace, "main", in_memory()).await;
    condition(client, namespace, "main", "Ready", "True", "Serving").await;
    let crash = json!({"podTemplate": {"env": [{"name": FATE, "value": "crash"}]}});
    change(client, namespace, "main", crash).await;
    condition(client, namespace, "main", "Ready", "False", "RolledBack").await;
    change(client, namespace, "main", json!({"podTemplate": null, "runtime": {"jam": {"enabled": false}}})).await;
    condition(client, namespace, "main", "Ready", "True", "Serving").await;
}

#[tokio::test]
async fn every_right_is_used_in_a_whole_life_and_nothing_is_forbidden() {
    let plane = plane_of_its_own("rights");
    let (client, namespace) = plane.namespace().await;
    define_loosely(&client).await;
    for add_on in ["httproutes", "servicemonitors", "prometheusrules"] {
        install(&client, add_on).await;
    }
    let account = Account::new(&plane, &client, &namespace, "operator").await;
    let operator = account.start(&plane, &["--progress-deadline", "5"]);
    apply_malformed(&client, &namespace).await;
    postgres_life(&client, &namespace).await;
    memory_life(&client, &namespace).await;
    operator.quiet().await;

    let asked = operator.asked();
    let given = rbac::table().into_iter().flat_map(|right| {
        right.verbs.iter().map(move |verb| (right.resource.to_owned(), (*verb).to_owned())).collect::<Vec<_>>()
    });
    let given: BTreeSet<_> = given.collect();
    let used = used(&asked);
    // No request of its own: an admission plugin of some clusters asks for it when a child names its owner.
    let by_admission = ("jaminstances/finalizers".to_owned(), "update".to_owned());
    // Only a rotation that waits for pods uses it; the tests of the rotation live through one.
    let by_rotation = ("pods".to_owned(), "patch".to_owned());
    let unused: BTreeSet<_> = given.difference(&used).cloned().collect();
    assert_eq!(unused, BTreeSet::from([by_admission, by_rotation]), "these rights are never used");
    assert_eq!(used.difference(&given).collect::<Vec<_>>(), Vec::<&(String, String)>::new());
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}
