//! Whatever changes what pods accept is told to each of them at once, and is not called done before they say so.

use std::collections::BTreeMap;

use jam_domain::token::TokenHash;
use jam_plan::JamInstance;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::operator_support::{Account, apply, condition, eventually};
use crate::rotation_support::{Node, SECONDS, Stage, annotate, answer, at_stage, database, key, process, spec};
use crate::support::cluster::control_plane;

async fn put(client: &Client, namespace: &str, name: &str, tokens: Value) {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": tokens});
    let known = secrets.get_opt(name).await.unwrap().is_some();
    if known {
        secrets.patch(name, &PatchParams::default(), &Patch::Merge(body)).await.unwrap();
    } else {
        secrets.create(&kube::api::PostParams::default(), &serde_json::from_value(body).unwrap()).await.unwrap();
    }
}

/// Each pod with its resourceVersion.
async fn versions(client: &Client, namespace: &str) -> BTreeMap<String, Option<String>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let listed = pods.list(&ListParams::default()).await.unwrap();
    listed.items.into_iter().map(|pod| (pod.name_any(), pod.resource_version())).collect()
}

async fn everywhere(node: &Node, token: &str, wanted: u16) {
    for address in node.addresses().into_values() {
        let what = format!("{address} answers {wanted}");
        eventually(&what, async || (answer(&address, token).await == wanted).then_some(())).await;
    }
}

/// A spec with these consumers, whose old tokens are accepted for long.
fn wanted(consumers: &Value) -> Value {
    let mut wanted = spec(consumers);
    wanted["tokens"]["rotation"]["overlapHours"] = json!(600);
    wanted
}

/// A kubelet that looks after a pod's files only when the pod changes: what reaches the pods here was told to them.
#[tokio::test]
async fn whatever_changes_what_pods_accept_is_told_to_each_of_them_and_is_done_when_they_say_so() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    database(&client, &namespace).await;
    let node = Node::sluggish(&client, &namespace, "main");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, SECONDS);
    apply(&client, &namespace, "main", wanted(&json!([{"name": "demo"}, {"name": "other"}]))).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    condition(&client, &namespace, "main", "TokensReady", "True", "TokensIssued").await;
    let (leaked, other) = (
        key(&client, &namespace, "demo", "token").await.unwrap(),
        key(&client, &namespace, "other", "token").await.unwrap(),
    );

    // Typed over, then revoked by its id: nobody has it any more to prove that it is refused, so the pods' own words count.
    let typed = "typed-by-hand-0123456789abcdef";
    put(&client, &namespace, "main-token-demo", json!({"token": typed})).await;
    everywhere(&node, typed, 200).await;
    everywhere(&node, &leaked, 200).await;
    let id = TokenHash::of(&leaked).id().to_string();
    annotate(&client, &namespace, "jam.network/revoke", &id).await;
    everywhere(&node, &leaked, 401).await;
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    eventually("the revocation is told as done", async || {
        let rotation = instances.get("main").await.ok()?.status?.rotation?;
        let told = rotation.refused.into_iter().find(|told| told.consumer == "demo")?;
        (told.key_ids.contains(&id) && told.pods == 2).then_some(())
    })
    .await;
    everywhere(&node, typed, 200).await;

    // Fewer scopes have the same ids, and a consumer that is gone is in no book of its own.
    apply(&client, &namespace, "main", wanted(&json!([{"name": "demo", "scopes": ["read"]}]))).await;
    everywhere(&node, &other, 401).await;
    for address in node.addresses().into_values() {
        eventually("the scope counts", async || (process(&address, typed).await == 403).then_some(())).await;
    }
    condition(&client, &namespace, "main", "TokensReady", "True", "TokensIssued").await;

    // At rest nothing is written to any pod.
    operator.quiet().await;
    let before = versions(&client, &namespace).await;
    annotate(&client, &namespace, "example.org/look", "again").await;
    operator.quiet().await;
    assert_eq!(versions(&client, &namespace).await, before);

    // A pod that nobody brings its file is named, and nothing is called done.
    let deaf = node.addresses().into_keys().next().unwrap();
    node.leave_alone(&deaf);
    let mut own = wanted(&json!([]));
    own["tokens"] = json!({"allowedTokensSecretRef": {"name": "mine"}});
    put(&client, &namespace, "mine", json!({"a": "a-token-of-my-own-1", "b": "a-token-of-my-own-2"})).await;
    apply(&client, &namespace, "main", own).await;
    let told = condition(&client, &namespace, "main", "TokensReady", "False", "RotationHeld").await;
    assert!(told.contains(&deaf) && !told.contains("are accepted;"), "{told}");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn hashes_that_an_admission_policy_refuses_are_named_and_written_when_it_is_gone() {
    let Stage { client, namespace, node, operator: _operator } = Stage::serving().await;
    condition(&client, &namespace, "main", "TokensReady", "True", "TokensIssued").await;
    let leaked = key(&client, &namespace, "demo", "token").await.unwrap();
    let (policies, bindings): (Api<ValidatingAdmissionPolicy>, Api<ValidatingAdmissionPolicyBinding>) =
        (Api::all(client.clone()), Api::all(client.clone()));
    let policy = json!({"metadata": {"name": namespace}, "spec": {
        "matchConstraints": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["secrets"]}],
        },
        "validations": [{"expression": "object.metadata.name != 'main-token-hashes'", "message": "not these"}],
    }});
    let binding =
        json!({"metadata": {"name": namespace}, "spec": {"policyName": namespace, "validationActions": ["Deny"]}});
    let params = kube::api::PostParams::default();
    policies.create(&params, &serde_json::from_value(policy).unwrap()).await.unwrap();
    bindings.create(&params, &serde_json::from_value(binding).unwrap()).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    eventually("the policy is in force", async || {
        let tried = PatchParams { dry_run: true, ..PatchParams::default() };
        let body = json!({"metadata": {"annotations": {"example.org/tried": "1"}}});
        secrets.patch("main-token-hashes", &tried, &Patch::Merge(body)).await.is_err().then_some(())
    })
    .await;
    annotate(&client, &namespace, "jam.network/revoke", "demo").await;
    let told = condition(&client, &namespace, "main", "TokensReady", "False", "RotationHeld").await;
    assert!(told.contains("Secret main-token-hashes is not written yet"), "{told}");
    let fresh = async || key(&client, &namespace, "demo", "token").await.filter(|now| *now != leaked);
    let fresh = eventually("its consumer has another", fresh).await;
    bindings.delete(&namespace, &DeleteParams::default()).await.unwrap();
    policies.delete(&namespace, &DeleteParams::default()).await.unwrap();
    everywhere(&node, &leaked, 401).await;
    everywhere(&node, &fresh, 200).await;
    condition(&client, &namespace, "main", "TokensReady", "True", "TokensIssued").await;
}

#[tokio::test]
async fn pods_whose_deployment_is_gone_are_asked_before_a_lost_token_is_handed_out_also_while_another_rotation_waits() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    database(&client, &namespace).await;
    let node = Node::running(&client, &namespace, "main");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, SECONDS);
    apply(&client, &namespace, "main", spec(&json!([{"name": "demo"}, {"name": "other"}]))).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    condition(&client, &namespace, "main", "TokensReady", "True", "TokensIssued").await;
    let deaf = node.addresses().into_keys().next().unwrap();
    node.leave_alone(&deaf);
    annotate(&client, &namespace, "jam.network/rotate", "demo").await;
    at_stage(&client, &namespace, "Verify").await;
    operator.kill();

    // All of it is seen at the first look: pods run on that nothing counts, one of them never takes in a token.
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    deployments.delete("main", &DeleteParams::orphan()).await.unwrap();
    eventually("its pods are left", async || deployments.get_opt("main").await.ok()?.is_none().then_some(())).await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    secrets.delete("main-token-other", &DeleteParams::default()).await.unwrap();
    let _operator = account.start(plane, SECONDS);
    let again = async || secrets.get_opt("main-token-other").await.ok().flatten()?.data;
    let held = eventually("the Secret is made again", again).await;
    assert!(held.contains_key("next") && !held.contains_key("token"), "a pod may refuse it: {:?}", held.keys());
}
