//! What administrators set at run time is in the instance's status: told by a real server, from the first override to the last.

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use reqwest::Method;
use serde_json::json;

use crate::kubectl_support::{done, says};
use crate::operator_support::{Account, apply, condition};
use crate::rotation_support::{Node, annotate, database, spec};
use crate::support::cluster::{control_plane, instances};

const ADMIN: &str = "an-administrators-token";

async fn toggle(address: &str, method: Method, path: &str, body: &str) -> u16 {
    let url = format!("http://{address}:8080/jam/admin/toggles{path}");
    let request = reqwest::Client::new().request(method, url).bearer_auth(ADMIN).body(body.to_owned());
    request.send().await.unwrap().status().as_u16()
}

/// How often each of the two reasons was told as an event.
async fn told(client: &Client, namespace: &str) -> (usize, usize) {
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let all = events.list(&ListParams::default()).await.unwrap().items;
    let of = |reason: &str| all.iter().filter(|event| event.reason.as_deref() == Some(reason)).count();
    (of("OverrideActive"), of("NotOverridden"))
}

#[tokio::test]
async fn an_override_is_a_condition_until_it_ends_and_is_asked_for_where_there_are_administrators() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    database(&client, &namespace).await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let admins =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "admins"}, "stringData": {"a": ADMIN}});
    secrets.patch("admins", &PatchParams::apply("somebody"), &Patch::Apply(admins)).await.unwrap();
    let node = Node::running(&client, &namespace, "main");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false"]);
    let mut wanted = spec(&json!([{"name": "demo"}]));
    wanted["replicas"] = json!(1);
    wanted["tokens"] = json!({"consumers": [{"name": "demo"}], "adminTokensSecretRef": {"name": "admins"}});
    apply(&client, &namespace, "main", wanted).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let status = instances(&client, &namespace).get("main").await.unwrap().data["status"].to_string();
    assert!(status.contains("Serving") && !status.contains("Overridden"), "nobody has ever set one: {status}");

    let address = node.addresses().into_values().next().unwrap();
    let set = toggle(&address, Method::POST, "", r#"{"key": "max_pending_packages", "value": 5}"#).await;
    assert_eq!(set, 200);
    // No watch reports it: the operator asks by itself.
    let message = condition(&client, &namespace, "main", "Overridden", "True", "OverrideActive").await;
    assert!(message.starts_with("max_pending_packages is 5 instead of 100; "), "{message}");
    let page = done(plane, &namespace, &["status", "main"]).await;
    let ends = "slctl jam admin toggles --delete max_pending_packages, or change it in the spec\n";
    says(&page, &["next: to end the override of max_pending_packages", ends, "since when: slctl jam admin toggles\n"]);
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    let writes = operator.writes().len();
    annotate(&client, &namespace, "somebody", "looks").await;
    operator.quiet().await;
    assert_eq!(operator.writes().len(), writes, "nothing new is no write");
    assert_eq!(told(&client, &namespace).await, (1, 0));

    assert_eq!(toggle(&address, Method::DELETE, "/max_pending_packages", "").await, 204);
    annotate(&client, &namespace, "somebody", "looks again").await;
    condition(&client, &namespace, "main", "Overridden", "False", "NotOverridden").await;
    operator.quiet().await;
    assert_eq!(told(&client, &namespace).await, (1, 1));
    assert!(operator.forbidden().is_empty() && !operator.logged().contains(ADMIN));
}
