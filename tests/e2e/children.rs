//! Claim 4: a child that is changed or deleted by hand is put right.

use serde_json::json;

use crate::path::memory_spec;
use crate::support::{Instance, eventually, kubectl_ok, object};

#[tokio::test]
async fn a_deleted_child_comes_back_and_an_edited_one_is_put_right() {
    let instance = Instance::applied("children", &memory_spec());
    instance.wait_ready().await;
    let (namespace, name) = (instance.namespace.as_str(), instance.name);

    for kind in ["service", "deployment", "serviceaccount"] {
        let before = object(namespace, kind, name).unwrap_or_else(|| panic!("{kind} {name}\n{}", instance.describe()));
        kubectl_ok(&["-n", namespace, "delete", kind, name, "--wait=true"]);
        eventually(&format!("a new {kind}"), || async {
            object(namespace, kind, name).filter(|now| now["metadata"]["uid"] != before["metadata"]["uid"])
        })
        .await;
    }

    let wrong = json!({"spec": {"replicas": 0}}).to_string();
    kubectl_ok(&["-n", namespace, "patch", "deployment", name, "--type", "merge", "-p", &wrong]);
    let wrong = json!({"spec": {"selector": {"app.kubernetes.io/instance": "elsewhere"}}}).to_string();
    kubectl_ok(&["-n", namespace, "patch", "service", name, "--type", "merge", "-p", &wrong]);
    eventually("the Deployment's replicas", || async {
        object(namespace, "deployment", name).filter(|now| now["spec"]["replicas"] == 1)
    })
    .await;
    eventually("the Service's selector", || async {
        object(namespace, "service", name).filter(|now| now["spec"]["selector"]["app.kubernetes.io/instance"] == name)
    })
    .await;
    instance.wait_ready().await;
}
