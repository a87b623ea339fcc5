//! The database's part: its Secret, the migration before the pods, and what is said while something is missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jam_plan::JamInstance;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::kubelet::{FATE, by_hand, say};
use crate::operator_support::{Account, Kubelet, apply, condition, eventually};
use crate::support::cluster::control_plane;

const QUIET: &[&str] = &["--leader-election", "false"];

fn on_postgres() -> Value {
    json!({
        "runtime": {"jam": {"enabled": true, "store": "postgres"}},
        "database": {"dsnSecretRef": {"name": "db", "key": "dsn"}},
        "replicas": 2,
    })
}

async fn dsn(client: &kube::Client, namespace: &str, data: Value) {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "stringData": data});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_missing_secret_is_named_and_its_coming_is_enough() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    apply(&client, &namespace, "main", on_postgres()).await;
    let told = condition(&client, &namespace, "main", "Stalled", "True", "SecretMissing").await;
    assert!(told.contains("Secret db"), "{told}");
    condition(&client, &namespace, "main", "DatabaseReachable", "False", "SecretMissing").await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    assert!(deployments.get_opt("main").await.unwrap().is_none(), "no pod crash-loops for it");

    dsn(&client, &namespace, json!({"other": "x"})).await;
    condition(&client, &namespace, "main", "Stalled", "True", "SecretKeyMissing").await;
    let started = std::time::Instant::now();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let password = "postgres://jam:s3cr3t-of-the-test@db:5432/jam";
    let filled = json!({"stringData": {"dsn": password}});
    secrets.patch("db", &PatchParams::default(), &Patch::Merge(filled)).await.unwrap();
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    condition(&client, &namespace, "main", "Migrated", "True", "MigrationComplete").await;
    condition(&client, &namespace, "main", "DatabaseReachable", "True", "Reachable").await;
    assert!(started.elapsed().as_secs() < 25, "it is called, it does not wait for its next look");
    let log = operator.logged();
    assert!(!log.contains("s3cr3t-of-the-test"), "the DSN is in the log");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn missing_keys_to_the_blob_store_are_named_their_coming_is_enough_and_others_make_other_pods() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    dsn(&client, &namespace, json!({"dsn": "postgres://jam@db/jam"})).await;
    let mut spec = on_postgres();
    spec["blobStore"] = json!({"url": "s3://bucket/p", "credentialsSecretRef": {"name": "blobs"}});
    apply(&client, &namespace, "main", spec).await;
    let told = condition(&client, &namespace, "main", "Stalled", "True", "SecretMissing").await;
    assert!(told.contains("Secret blobs") && told.contains("AWS_ACCESS_KEY_ID"), "{told}");

    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let keys = |key: &str| json!({"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": key});
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "blobs"}, "stringData": keys("hush-one")});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let hash = async || {
        let template = deployments.get("main").await.unwrap().spec.unwrap().template;
        template.metadata.unwrap().annotations.unwrap()["jam.network/blob-keys-hash"].clone()
    };
    let before = hash().await;
    let filled = json!({"stringData": keys("hush-two")});
    secrets.patch("blobs", &PatchParams::default(), &Patch::Merge(filled)).await.unwrap();
    eventually("other pods", async || (hash().await != before).then_some(())).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let log = operator.logged();
    assert!(!log.contains("hush-"), "a key is in the log");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn the_migration_comes_before_the_pods_and_its_refusal_is_final() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let words = "error: schema 9 is newer than this build";
    let kubelet = Kubelet::play(&client, &namespace, 3, words);
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    dsn(&client, &namespace, json!({"dsn": "postgres://jam@db/jam"})).await;
    apply(&client, &namespace, "main", on_postgres()).await;
    let told = condition(&client, &namespace, "main", "Migrated", "False", "MigrationImpossible").await;
    assert!(told.contains(words) && told.contains("main-migrate-"), "{told}");
    operator.quiet().await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    assert!(deployments.get_opt("main").await.unwrap().is_none(), "no pod before its schema");
    let jobs: Api<Job> = Api::namespaced(client.clone(), &namespace);
    assert_eq!(jobs.list(&ListParams::default()).await.unwrap().items.len(), 1, "exit 3 is not tried again");

    drop(kubelet);
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let image = json!({"spec": {"image": {"tag": "next"}}});
    instances.patch("main", &PatchParams::default(), &Patch::Merge(image)).await.unwrap();
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let deployment = deployments.get("main").await.unwrap();
    let pod = deployment.spec.unwrap().template.spec.unwrap();
    assert_eq!(pod.containers[0].image.as_deref(), Some("localhost/jam-api:next"));
    eventually("a budget for two replicas", async || {
        let budgets: Api<k8s_openapi::api::policy::v1::PodDisruptionBudget> =
            Api::namespaced(client.clone(), &namespace);
        budgets.get_opt("main").await.ok()?
    })
    .await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

/// Answers for the pods at an address of this machine, as the API server's /readyz does.
pub async fn answer_for_pods(address: &str, healthy: Arc<AtomicBool>) {
    let listener = tokio::net::TcpListener::bind((address, 8080)).await.unwrap();
    let readyz = axum::routing::get(move || {
        let healthy = Arc::clone(&healthy);
        async move {
            let healthy = healthy.load(Ordering::SeqCst);
            let code = if healthy { 200 } else { 503 };
            let store = if healthy { json!({"ok": true}) } else { json!({"ok": false, "reason": "the store is away"}) };
            let schema = json!({"ok": true, "found": 3, "wanted": 3});
            let code = axum::http::StatusCode::from_u16(code).unwrap();
            (code, axum::Json(json!({"checks": {"store": store, "schema": schema}})))
        }
    });
    let router = axum::Router::new().route("/readyz", readyz);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
}

#[tokio::test]
async fn a_database_that_goes_away_is_told_by_the_pods_and_comes_back_by_itself() {
    // Any address of the loopback network is this machine's; this one is nobody else's in this process.
    const ADDRESS: &str = "127.61.4.8";
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let healthy = Arc::new(AtomicBool::new(true));
    answer_for_pods(ADDRESS, Arc::clone(&healthy)).await;
    let pods = Some((ADDRESS, Arc::clone(&healthy)));
    let _kubelet = Kubelet::play_at(&client, &namespace, (0, ""), pods);
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    dsn(&client, &namespace, json!({"dsn": "postgres://jam@db/jam"})).await;
    apply(&client, &namespace, "main", on_postgres()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    eventually("the schema is read back", async || {
        let version = instances.get("main").await.ok()?.status?.version?;
        (version.schema == Some(3)).then_some(())
    })
    .await;

    healthy.store(false, Ordering::SeqCst);
    let told = condition(&client, &namespace, "main", "DatabaseReachable", "False", "DatabaseUnreachable").await;
    assert!(told.contains("the store is away"), "{told}");
    condition(&client, &namespace, "main", "Ready", "False", "DatabaseUnreachable").await;
    operator.quiet().await;
    let children = |writes: Vec<crate::operator_support::Asked>| {
        writes.into_iter().filter(|asked| asked.resource != "jaminstances/status").count()
    };
    let before = children(operator.writes());
    healthy.store(true, Ordering::SeqCst);
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    assert_eq!(children(operator.writes()), before, "an outage changes nothing but what is said");
}

#[tokio::test]
async fn a_database_is_reachable_while_any_pod_is_ready_however_many_newer_ones_are_not() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    dsn(&client, &namespace, json!({"dsn": "postgres://jam@db/jam"})).await;
    let mut spec = on_postgres();
    spec["podTemplate"] = json!({"env": [{"name": FATE, "value": "by-hand"}]});
    apply(&client, &namespace, "main", spec.clone()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let old = by_hand(&client, &namespace).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    spec["replicas"] = json!(8);
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let since = jiff::Timestamp::now();
    for pod in by_hand(&client, &namespace).await.iter().filter(|pod| !old.contains(pod)) {
        say(&client, &namespace, pod, false, since).await;
    }
    condition(&client, &namespace, "main", "Ready", "False", "PodsNotReady").await;
    operator.quiet().await;
    condition(&client, &namespace, "main", "DatabaseReachable", "True", "Reachable").await;
}
