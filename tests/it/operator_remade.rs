//! Children that were made again by hand with what nobody may change: removed and made again, where that can be.

use futures::StreamExt;
use jam_plan::{JamInstance, Kind};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use kube::api::{DeleteParams, DynamicObject, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::operator_kinds::children;
use crate::operator_refused::{QUIET, another, at_rest, forbid, in_memory, with};
use crate::operator_support::{Account, Kubelet, apply, condition, eventually};
use crate::plan_diff::{changes, manifest, plan};
use crate::support::cluster::{ControlPlane, control_plane};

/// A namespace in which an instance served until its operator was stopped.
async fn served(plane: &ControlPlane) -> (Client, String, Account, Kubelet) {
    let (client, namespace) = plane.with_crd().await;
    let kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    at_rest(&account, &client, &namespace).await.stop().await;
    (client, namespace, account, kubelet)
}

/// A Deployment for other pods, which nobody may make of one that is there.
fn another_selector() -> Value {
    let label = json!({"theirs": "yes"});
    json!({"spec": {"selector": {"matchLabels": label}, "template": {"metadata": {"labels": label}}}})
}

/// As `kubectl replace --force` does: another object under the name, with this changed and that left out.
async fn replaced(api: &Api<DynamicObject>, name: &str, change: &Value) -> DynamicObject {
    let live = api.get(name).await.unwrap();
    let mut body = json!(live);
    json_patch::merge(&mut body, change);
    let given = ["resourceVersion", "uid", "creationTimestamp", "generation", "managedFields"];
    for field in given {
        body["metadata"].as_object_mut().unwrap().remove(field);
    }
    body.as_object_mut().unwrap().remove("status");
    api.delete(name, &DeleteParams::background()).await.unwrap();
    let theirs: DynamicObject = serde_json::from_value(body).unwrap();
    eventually(&format!("{name} is replaced"), async || api.create(&PostParams::default(), &theirs).await.ok()).await
}

#[tokio::test]
async fn a_child_with_another_immutable_field_is_removed_and_made_again() {
    let plane = control_plane();
    let (client, namespace, account, _kubelet) = served(plane).await;
    let (maps, deployments) =
        (children(&client, &namespace, Kind::ConfigMap), children(&client, &namespace, Kind::Deployment));
    let template = deployments.get("main").await.unwrap().data["spec"]["template"]["spec"]["volumes"].to_string();
    let all = maps.list(&kube::api::ListParams::default()).await.unwrap();
    let map = all.items.into_iter().find(|map| template.contains(&format!("\"{}\"", map.name_any()))).unwrap();
    let other = replaced(&maps, &map.name_any(), &json!({"data": {"config.yaml": "theirs"}})).await;
    let theirs = replaced(&deployments, "main", &another_selector()).await;
    let planned = plan(plane, &manifest(&namespace, "main", &in_memory(true)), &["--output", "json"]);
    let planned = changes(&planned);
    assert!(planned.len() == 2 && planned.iter().all(|change| change["remade"] == true), "{planned:?}");
    let planned = planned.into_iter().find(|change| change["kind"] == "Deployment").unwrap();
    assert_eq!(planned["action"], "change", "{planned}");
    assert_eq!(planned["planned"]["spec"]["selector"]["matchLabels"].get("theirs"), None, "{planned}");
    assert!(planned["restarts"].to_string().contains("removed with its pods and made again"), "{planned}");

    let operator = account.start(plane, QUIET);
    let (again, deployment) = (another(&maps, &other).await, another(&deployments, &theirs).await);
    assert_eq!(again.data["data"], map.data["data"]);
    assert_eq!(deployment.data["spec"]["selector"]["matchLabels"].get("theirs"), None);
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    let removed: Vec<_> = operator.writes().into_iter().filter(|asked| asked.verb == "delete").collect();
    let resources: Vec<_> = removed.iter().map(|asked| asked.resource.as_str()).collect();
    assert_eq!(resources, ["configmaps", "deployments"], "each once: {removed:?}");
    assert!(operator.logged().contains("removed, with its pods if it has any"), "it is said");
}

#[tokio::test]
async fn no_instance_is_ready_whose_pods_wait_for_what_is_made_again() {
    let plane = control_plane();
    let (client, namespace, account, _kubelet) = served(plane).await;
    let (maps, deployments) =
        (children(&client, &namespace, Kind::ConfigMap), children(&client, &namespace, Kind::Deployment));
    let volumes = &deployments.get("main").await.unwrap().data["spec"]["template"]["spec"]["volumes"];
    let map = volumes.as_array().unwrap().iter().find_map(|volume| volume["configMap"]["name"].as_str()).unwrap();
    replaced(&maps, map, &json!({"data": {"config.yaml": "theirs"}})).await;
    let changed = with(in_memory(true), "podTemplate", json!({"env": [{"name": "NEW", "value": "yes"}]}));
    let changed = apply(&client, &namespace, "main", changed).await;

    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let from = changed.metadata.resource_version.unwrap();
    let mut told = instances.watch(&WatchParams::default(), &from).await.unwrap().boxed();
    let _operator = account.start(plane, QUIET);
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let first = loop {
        let Some(Ok(WatchEvent::Modified(instance))) = told.next().await else { continue };
        let status = instance.status.unwrap();
        if status.observed_generation == changed.metadata.generation {
            break status.conditions.into_iter().find(|told| told.type_ == "Ready").unwrap();
        }
    };
    assert_eq!((first.status.as_str(), first.reason.as_str()), ("False", "ApplyFailed"), "{}", first.message);
    assert!(first.message.contains(map) && first.message.contains("made again"), "{}", first.message);
}

#[tokio::test]
async fn what_was_refused_as_a_change_is_made_when_it_is_gone() {
    let plane = control_plane();
    let (client, namespace, account, _kubelet) = served(plane).await;
    let deployments = children(&client, &namespace, Kind::Deployment);
    // Nothing says that it was this instance who made it, so it is not removed.
    let mut unowned = another_selector();
    unowned["metadata"] = json!({"ownerReferences": null});
    let theirs = replaced(&deployments, "main", &unowned).await;
    let operator = account.start(plane, QUIET);
    let told = condition(&client, &namespace, "main", "Stalled", "True", "InvalidObject").await;
    assert!(told.contains("Deployment main") && told.contains("field is immutable"), "{told}");
    operator.quiet().await;
    assert_eq!(deployments.get("main").await.unwrap().uid(), theirs.uid());
    deployments.delete("main", &DeleteParams::default()).await.unwrap();
    another(&deployments, &theirs).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
}

#[tokio::test]
async fn what_could_not_be_made_again_is_not_removed() {
    let plane = control_plane();
    let (client, namespace, account, _kubelet) = served(plane).await;
    let deployments = children(&client, &namespace, Kind::Deployment);
    let theirs = replaced(&deployments, "main", &another_selector()).await;
    let mut probe = theirs.clone();
    (probe.metadata.name, probe.metadata.resource_version, probe.metadata.uid) = (Some("probe".into()), None, None);
    let bindings = forbid(&client, &namespace, Kind::Deployment, &probe).await;

    let operator = account.start(plane, QUIET);
    let told = condition(&client, &namespace, "main", "Reconciling", "True", "ApplyFailed").await;
    assert!(told.contains("Deployment main") && told.contains("ask the network team"), "{told}");
    let removed = operator.writes().into_iter().filter(|asked| asked.verb == "delete").count();
    assert_eq!((removed, deployments.get("main").await.unwrap().uid()), (0, theirs.uid()), "its pods run on");
    bindings.delete(&namespace, &DeleteParams::default()).await.unwrap();
    another(&deployments, &theirs).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    Api::<ValidatingAdmissionPolicy>::all(client).delete(&namespace, &DeleteParams::default()).await.unwrap();
}
