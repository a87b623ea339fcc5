//! A database that CloudNativePG runs: its real Cluster definition, and the Secret `<name>-app` as that operator keeps it.

use jam_plan::Kind;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::operator_kinds::children;
use crate::operator_support::{Account, Kubelet, apply, condition, eventually};
use crate::support::cluster::{TESTER, control_plane, install};

/// What CloudNativePG writes for the cluster's owner; nobody runs that operator here.
fn app_secret(password: &str, host: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/basic-auth",
        "metadata": {"name": "jam-pg-app", "labels": {"cnpg.io/cluster": "jam-pg"}},
        "stringData": {
            "username": "app", "password": password, "dbname": "app", "host": host, "port": "5432",
            "uri": format!("postgresql://app:{password}@{host}:5432/app"),
        },
    })
}

#[tokio::test]
async fn a_cloudnativepg_cluster_is_waited_for_and_its_new_password_rolls_the_pods_once() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    install(&client, "clusters").await;
    let cluster = json!({"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": {"name": "jam-pg"},
        "spec": {"instances": 3, "storage": {"size": "10Gi"}}});
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("postgresql.cnpg.io", "v1", "Cluster"));
    let clusters: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &kind);
    let strict = PatchParams::apply(TESTER).validation_strict();
    clusters.patch("jam-pg", &strict, &Patch::Apply(cluster)).await.unwrap();

    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false"]);
    let spec = json!({"profile": "staging", "replicas": 2, "database": {"cluster": {"name": "jam-pg"}}});
    apply(&client, &namespace, "main", spec).await;
    let told = condition(&client, &namespace, "main", "Stalled", "True", "SecretMissing").await;
    assert!(told.contains("Secret jam-pg-app") && told.contains("uri"), "{told}");

    let secrets = children(&client, &namespace, Kind::Secret);
    let secret = app_secret("s3cr3t-of-cnpg", "jam-pg-rw");
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let deployments = children(&client, &namespace, Kind::Deployment);
    let before = deployments.get("main").await.unwrap();
    let variables = before.data.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array).unwrap();
    let dsn = &variables.iter().find(|variable| variable["name"] == "JAM_PG_DSN").unwrap()["valueFrom"]["secretKeyRef"];
    assert_eq!((&dsn["name"], &dsn["key"]), (&json!("jam-pg-app"), &json!("uri")));

    let rotated = json!({"stringData": app_secret("n3w-of-cnpg", "jam-pg-rw")["stringData"]});
    secrets.patch("jam-pg-app", &PatchParams::default(), &Patch::Merge(rotated)).await.unwrap();
    let hash = "/spec/template/metadata/annotations/jam.network~1dsn-hash";
    eventually("the pods get the new password", async || {
        let now = deployments.get("main").await.ok()?;
        (now.data.pointer(hash) != before.data.pointer(hash)).then_some(())
    })
    .await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    let rolled = deployments.get("main").await.unwrap().metadata.generation.unwrap();
    assert_eq!(rolled, before.metadata.generation.unwrap() + 1, "once");
    let log = operator.logged();
    assert!(!log.contains("s3cr3t-of-cnpg") && !log.contains("n3w-of-cnpg"), "the password is in the log");
}
