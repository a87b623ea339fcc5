//! What the operator says when something is in the way, and that nobody else pays for it.

use jam_plan::JamInstance;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::operator_support::{Account, Kubelet, apply, condition, eventually, kstatus, quota};
use crate::support::cluster::control_plane;

const QUIET: &[&str] = &["--leader-election", "false"];

fn in_memory() -> Value {
    json!({"runtime": {"jam": {"enabled": true, "store": "memory"}}})
}

#[tokio::test]
async fn a_stalled_instance_and_a_taken_name_cost_the_others_nothing() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    let theirs = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken"},
        "spec": {"ports": [{"port": 1234}]}});
    services.create(&PostParams::default(), &serde_json::from_value(theirs).unwrap()).await.unwrap();
    let before = services.get("taken").await.unwrap();

    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let mut stalled = in_memory();
    stalled["blobStore"] = json!({"url": "s3://bucket/prefix"});
    apply(&client, &namespace, "stalled", stalled).await;
    apply(&client, &namespace, "taken", in_memory()).await;
    apply(&client, &namespace, "good", in_memory()).await;

    condition(&client, &namespace, "good", "Ready", "True", "Serving").await;
    let told = condition(&client, &namespace, "stalled", "Stalled", "True", "InvalidSettings").await;
    assert!(told.contains("blobStore"), "{told}");
    let told = condition(&client, &namespace, "taken", "Stalled", "True", "NameTaken").await;
    assert!(told.contains("Service taken"), "{told}");
    assert_eq!(services.get("taken").await.unwrap(), before, "what is not ours is not touched");
    operator.quiet().await;
    let (asked, writes) = (operator.asked(), operator.writes());
    let about = |name: &str| writes.iter().filter(|asked| asked.name.starts_with(name)).count();
    assert_eq!((about("stalled"), about("taken")), (1, 1), "a word each, and no child: {writes:?}");
    assert!(asked.iter().all(|asked| asked.code != 403), "{:?}", operator.forbidden());

    services.delete("taken", &DeleteParams::default()).await.unwrap();
    condition(&client, &namespace, "taken", "Ready", "True", "Serving").await;
    let events: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(client.clone(), &namespace);
    let told = events.list(&ListParams::default()).await.unwrap().items;
    let named_taken = told.iter().filter(|event| event.reason.as_deref() == Some("NameTaken")).count();
    assert_eq!(named_taken, 1, "an event on the transition, none on repetition");
}

#[tokio::test]
async fn paused_is_honoured_before_anything_else() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    apply(&client, &namespace, "main", in_memory()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let mut paused = in_memory();
    paused["paused"] = json!(true);
    paused["runtime"]["jam"]["enabled"] = json!(false);
    apply(&client, &namespace, "main", paused).await;
    condition(&client, &namespace, "main", "Paused", "True", "PausedBySpec").await;
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let now = instances.get("main").await.unwrap();
    assert_eq!(kstatus(&now), "Current", "a pause is no failure");
    let ready = now.status.unwrap().conditions.into_iter().find(|told| told.type_ == "Ready").unwrap();
    assert_eq!((ready.reason.as_str(), ready.observed_generation), ("Serving", Some(1)), "as it was said before");
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    services.delete("main", &DeleteParams::default()).await.unwrap();
    operator.quiet().await;
    let since = operator.writes().len();
    assert!(services.get_opt("main").await.unwrap().is_none(), "hands off");
    apply(&client, &namespace, "main", in_memory()).await;
    condition(&client, &namespace, "main", "Paused", "False", "NotPaused").await;
    eventually("the Service is back", async || services.get_opt("main").await.ok()?).await;
    assert!(operator.writes()[since..].iter().any(|asked| asked.resource == "services"));
}

#[tokio::test]
async fn a_write_that_fails_is_told_and_heals_by_itself() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let quotas = quota(&client, &namespace, json!({"services": "0"})).await;
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let _operator = account.start(plane, QUIET);
    apply(&client, &namespace, "main", in_memory()).await;
    let told = condition(&client, &namespace, "main", "Ready", "False", "ApplyFailed").await;
    assert!(told.contains("Service main") && told.contains("exceeded quota"), "{told}");
    quotas.delete("none", &DeleteParams::default()).await.unwrap();
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
}

#[tokio::test]
async fn a_child_that_the_server_refuses_stalls_the_instance_until_it_changes() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let mut spec = in_memory();
    spec["podTemplate"] = json!({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]});
    apply(&client, &namespace, "main", spec).await;
    let told = condition(&client, &namespace, "main", "Stalled", "True", "InvalidObject").await;
    assert!(told.contains("Deployment main") && told.contains("tolerations"), "{told}");
    operator.quiet().await;
    let tried = operator.writes().iter().filter(|asked| asked.resource == "deployments").count();
    assert_eq!(tried, 1, "what would be refused again is not tried again");
}

#[tokio::test]
async fn a_deleted_instance_is_gone_and_its_tokens_are_kept_for_the_next() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    apply(&client, &namespace, "main", in_memory()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let token = secrets.get("main-token-default").await.unwrap();
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    instances.delete("main", &DeleteParams::default()).await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    eventually("the children are collected", async || {
        let hashes = secrets.get_opt("main-token-hashes").await.ok()?;
        let deployment = deployments.get_opt("main").await.ok()?;
        (hashes.is_none() && deployment.is_none()).then_some(())
    })
    .await;
    operator.quiet().await;
    assert_eq!(secrets.get("main-token-default").await.unwrap().uid(), token.uid(), "Retain is the default");
    apply(&client, &namespace, "main", in_memory()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    assert_eq!(secrets.get("main-token-default").await.unwrap().data, token.data, "and taken over again");
}

#[tokio::test]
async fn an_annotation_alone_changes_nothing() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    apply(&client, &namespace, "main", in_memory()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    let before = operator.writes();
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let note = json!({"metadata": {"annotations": {"note": "hello"}}});
    instances.patch("main", &PatchParams::default(), &Patch::Merge(note)).await.unwrap();
    operator.quiet().await;
    assert_eq!(operator.writes(), before);
}
