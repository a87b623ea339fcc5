//! What a NetworkPolicy lets out while the database moves to another port, on the real API server and its controllers.

use jam_plan::{JamInstance, Kind, names};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::operator_kinds::{children, on_postgres};
use crate::operator_support::{Account, Kubelet, Operator, apply, condition, eventually};
use crate::support::cluster::control_plane;

/// The ports that the policy lets through beside those of DNS; none while there is no policy.
async fn open(client: &Client, namespace: &str) -> Option<Value> {
    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), namespace);
    let policy = json!(policies.get_opt("main").await.unwrap()?);
    let ports = policy.pointer("/spec/egress/1/ports").and_then(Value::as_array).unwrap();
    Some(ports.iter().map(|port| port["port"].clone()).collect())
}

async fn opens(client: &Client, namespace: &str, ports: &[u16]) {
    let what = format!("the policy lets {ports:?} through");
    eventually(&what, async || (open(client, namespace).await == Some(json!(ports))).then_some(())).await;
}

async fn patch(client: &Client, namespace: &str, change: Value) {
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    instances.patch("main", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
}

/// What the account of the pods says that they reach, and the generation of their Deployment.
async fn told(client: &Client, namespace: &str) -> (String, Option<i64>) {
    let account = Api::<ServiceAccount>::namespaced(client.clone(), namespace).get("main").await.unwrap();
    let deployment = Api::<Deployment>::namespaced(client.clone(), namespace).get("main").await.unwrap();
    (account.annotations()[names::EGRESS].clone(), deployment.metadata.generation)
}

/// A pod of the Deployment that does not end before somebody lets it.
async fn hold(client: &Client, namespace: &str) -> String {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let of_the_api = ListParams::default().labels("app.kubernetes.io/component=api");
    let pod = pods.list(&of_the_api).await.unwrap().items.remove(0).name_any();
    let finalizer = json!({"metadata": {"finalizers": ["jam.test/in-flight"]}});
    pods.patch(&pod, &PatchParams::default(), &Patch::Merge(finalizer)).await.unwrap();
    pod
}

fn of_policies(operator: &Operator) -> usize {
    operator.writes().iter().filter(|write| write.resource == "networkpolicies").count()
}

#[tokio::test]
async fn a_database_on_another_port_is_reached_beside_the_one_before_until_the_last_pod_of_before_has_ended() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "would apply: 4 admin\n");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false", "--progress-deadline", "5"]);
    let mut spec = on_postgres(&client, &namespace).await;
    spec["networkPolicy"] = json!({});
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    opens(&client, &namespace, &[6432]).await;
    patch(&client, &namespace, json!({"spec": {"migrations": {"mode": "Manual"}}})).await;
    operator.quiet().await;
    let (writes, pod) = (of_policies(&operator), hold(&client, &namespace).await);

    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let moved = json!({"stringData": {"dsn": "postgres://jam@db:7432/jam"}});
    secrets.patch("db", &PatchParams::default(), &Patch::Merge(moved)).await.unwrap();
    condition(&client, &namespace, "main", "Migrated", "False", "ApprovalNeeded").await;
    opens(&client, &namespace, &[6432, 7432]).await;
    operator.quiet().await;
    children(&client, &namespace, Kind::NetworkPolicy).delete("main", &DeleteParams::default()).await.unwrap();
    opens(&client, &namespace, &[6432, 7432]).await;

    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let key = instances.get("main").await.unwrap().status.unwrap().migration.unwrap().key;
    patch(&client, &namespace, json!({"metadata": {"annotations": {names::APPROVE_MIGRATION: key}}})).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    assert_eq!(open(&client, &namespace).await, Some(json!([6432, 7432])), "pod {pod} finishes what it has begun");
    let (open, generation) = told(&client, &namespace).await;
    assert_eq!(open, "6432,7432");

    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let free = json!({"metadata": {"finalizers": null}});
    pods.patch(&pod, &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    opens(&client, &namespace, &[7432]).await;
    operator.quiet().await;
    assert_eq!(told(&client, &namespace).await, ("7432".into(), generation), "the Deployment is not written for it");
    assert_eq!(of_policies(&operator), writes + 3, "opened, made again, closed");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}
