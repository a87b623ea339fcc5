//! Consumers come, go and change while pods serve; and the page that tells an SRE how to rotate and revoke is tried as it stands.

use std::path::Path;
use std::process::Command;

use jam_plan::JamInstance;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

use crate::operator_support::{Account, apply, condition, eventually};
use crate::rotation_support::{Node, SECONDS, annotate, answer, at_stage, database, key, spec};
use crate::support::cluster::control_plane;

/// What a pod answers to a request that needs the scope `process`.
async fn process(address: &str, token: &str) -> u16 {
    let request = reqwest::Client::new().post(format!("http://{address}:8080/jam/process")).bearer_auth(token);
    request.send().await.map_or(0, |answer| answer.status().as_u16())
}

#[tokio::test]
async fn consumers_are_added_rescoped_renamed_and_removed_while_pods_serve() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    database(&client, &namespace).await;
    let node = Node::running(&client, &namespace, "main");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, SECONDS);
    apply(&client, &namespace, "main", spec(&json!([{"name": "demo"}]))).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let demo = key(&client, &namespace, "demo", "token").await.unwrap();

    apply(&client, &namespace, "main", spec(&json!([{"name": "demo"}, {"name": "late"}]))).await;
    let late = eventually("the new one has its token", async || key(&client, &namespace, "late", "token").await).await;
    for address in node.addresses().into_values() {
        assert_eq!(answer(&address, &late).await, 200, "it is handed out after every pod accepts it");
    }
    let narrowed = json!([{"name": "demo", "scopes": ["read"]}, {"name": "renamed"}]);
    apply(&client, &namespace, "main", spec(&narrowed)).await;
    let renamed = eventually("the renamed one", async || key(&client, &namespace, "renamed", "token").await).await;
    assert_ne!(renamed, late);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    eventually("the old name's Secret goes", async || {
        secrets.get_opt("main-token-late").await.ok()?.is_none().then_some(())
    })
    .await;
    for address in node.addresses().into_values() {
        eventually("its token goes", async || (answer(&address, &late).await == 401).then_some(())).await;
        eventually("the scope counts", async || (process(&address, &demo).await == 403).then_some(())).await;
        assert_eq!(answer(&address, &demo).await, 200, "the token stays");
        assert!([200, 204].contains(&process(&address, &renamed).await));
    }
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn an_instance_made_again_takes_its_tokens_over_in_the_middle_of_a_rotation() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    database(&client, &namespace).await;
    let node = Node::running(&client, &namespace, "main");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let _operator = account.start(plane, SECONDS);
    apply(&client, &namespace, "main", spec(&json!([{"name": "demo"}]))).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let first = key(&client, &namespace, "demo", "token").await.unwrap();
    annotate(&client, &namespace, "jam.network/rotate", "now").await;
    eventually("the overlap", async || key(&client, &namespace, "demo", "previous").await).await;
    let second = key(&client, &namespace, "demo", "token").await.unwrap();
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    instances.delete("main", &DeleteParams::default()).await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    eventually("the pods go", async || deployments.get_opt("main").await.ok()?.is_none().then_some(())).await;

    apply(&client, &namespace, "main", spec(&json!([{"name": "demo"}]))).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    assert_eq!(key(&client, &namespace, "demo", "token").await.unwrap(), second, "the consumer keeps its token");
    eventually("the rotation ends", async || {
        (key(&client, &namespace, "demo", "retired").await.is_none()
            && key(&client, &namespace, "demo", "previous").await.is_none())
        .then_some(())
    })
    .await;
    at_stage(&client, &namespace, "Idle").await;
    for address in node.addresses().into_values() {
        assert_eq!((answer(&address, &second).await, answer(&address, &first).await), (200, 401));
    }
}

/// The commands of a section of docs/OPERATIONS.md: the blocks marked `sh`.
fn commands(section: &str) -> String {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATIONS.md")).unwrap();
    let from = page.find(section).unwrap_or_else(|| panic!("docs/OPERATIONS.md has no {section}"));
    let rest = &page[from + section.len()..];
    let text = &rest[..rest.find("\n## ").unwrap_or(rest.len())];
    let blocks = text.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
    let commands: String = blocks.collect();
    assert!(commands.contains("kubectl"), "{section} has no command");
    commands
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_walks_of_the_operations_page_work_as_they_are_written() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    database(&client, &namespace).await;
    let _node = Node::running(&client, &namespace, "main");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let _operator = account.start(plane, SECONDS);
    apply(&client, &namespace, "main", spec(&json!([{"name": "demo"}]))).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/cluster/build");
    let bin = Command::new(build).args(["--print-path", "kube"]).output().unwrap().stdout;
    let kubectl = format!("export PATH={}:$PATH\n", String::from_utf8(bin).unwrap().trim());
    for section in ["## Rotate tokens", "## Revoke a leaked token"] {
        let before = key(&client, &namespace, "demo", "token").await;
        let script = kubectl.clone() + &commands(section).replace("-n jam ", &format!("-n {namespace} "));
        let mut shell = tokio::process::Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &script]).env("KUBECONFIG", &plane.kubeconfig);
        let ended = shell.output().await.unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        assert!(ended.status.success(), "{section}:\n{script}\n{said}");
        assert_ne!(key(&client, &namespace, "demo", "token").await, before, "{section}: {said}");
    }
}
