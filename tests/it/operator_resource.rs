//! A cluster without the resource, with an older one, and with an instance that this release cannot read.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use jam_plan::JamInstance;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::operator_support::{Account, Kubelet, apply, condition, eventually};
use crate::support::cluster::{ControlPlane, TESTER, instances};

/// A control plane of one test alone, for definitions that are not those of the others.
pub fn plane_of_its_own(name: &str) -> ControlPlane {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/cluster/control-plane");
    let owner = std::process::id().to_string();
    let ended = Command::new(script).args(["up", dir.to_str().unwrap(), "--owner-pid", &owner]).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    ControlPlane { kubeconfig: dir.join("admin.kubeconfig"), audit_log: Some(dir.join("audit.log")) }
}

/// The definition of this build, but it lets through any form of `replicas`: so an instance gets in that cannot be read.
pub async fn define_loosely(client: &Client) {
    let mut crd = serde_json::to_value(jam_plan::crd::crd()).unwrap();
    let schema = crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema").unwrap();
    schema["properties"]["spec"] = json!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"replicas": {"x-kubernetes-preserve-unknown-fields": true}},
    });
    schema.as_object_mut().unwrap().remove("x-kubernetes-validations");
    let version = crd.pointer_mut("/spec/versions/0").unwrap();
    version.as_object_mut().unwrap().remove("selectableFields");
    version["subresources"] = json!({"status": {}});
    let force = PatchParams::apply(TESTER).force();
    definitions(client).patch("jaminstances.jam.network", &force, &Patch::Apply(crd)).await.unwrap();
}

/// Applies an instance that no release can read.
pub async fn apply_malformed(client: &Client, namespace: &str) {
    let malformed = json!({"apiVersion": "jam.network/v1alpha1", "kind": "JamInstance",
        "metadata": {"name": "malformed"}, "spec": {"replicas": "many"}});
    let (instances, force) = (instances(client, namespace), PatchParams::apply(TESTER).force());
    eventually("the definition is served", async || {
        instances.patch("malformed", &force, &Patch::Apply(&malformed)).await.ok()
    })
    .await;
}

fn definitions(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    Api::all_with(client.clone(), &ApiResource::from_gvk(&kind))
}

/// Events of a reason about an instance, each with how often it was told.
async fn events(client: &Client, namespace: &str, name: &str, reason: &str) -> Vec<Event> {
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let all = events.list(&ListParams::default()).await.unwrap().items;
    let about = |event: &Event| {
        event.regarding.as_ref().and_then(|object| object.name.as_deref()) == Some(name)
            && event.reason.as_deref() == Some(reason)
    };
    all.into_iter().filter(about).collect()
}

/// A definition from before `status.renderRevision`.
fn forgetful() -> Value {
    let mut crd = serde_json::to_value(jam_plan::crd::crd()).unwrap();
    let status = crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/status/properties").unwrap();
    status.as_object_mut().unwrap().remove("renderRevision").unwrap();
    crd
}

/// The same, older still: it does not know `paused`, and lets through any form of `replicas`.
fn older() -> Value {
    let mut crd = forgetful();
    let version = crd.pointer_mut("/spec/versions/0").unwrap();
    version["schema"]["openAPIV3Schema"]["properties"]["spec"] = json!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"replicas": {"x-kubernetes-preserve-unknown-fields": true}},
    });
    version["schema"]["openAPIV3Schema"].as_object_mut().unwrap().remove("x-kubernetes-validations");
    version.as_object_mut().unwrap().remove("selectableFields");
    version["subresources"] = json!({"status": {}});
    crd
}

#[tokio::test]
async fn a_missing_resource_is_waited_for_an_older_one_is_said_and_one_malformed_instance_stops_nobody() {
    let plane = plane_of_its_own("older");
    let (client, namespace) = plane.namespace().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(&plane, &client, &namespace, "operator").await;
    let operator = account.start(&plane, &["--leader-election", "false"]);
    eventually("it says what is missing", async || {
        let (code, text) = operator.answer("/readyz").await;
        (code == 503 && text.contains("jaminstances.jam.network")).then_some(())
    })
    .await;
    assert_eq!(operator.answer("/livez").await.0, 200, "it waits, it does not crash");

    let force = PatchParams::apply(TESTER).force();
    definitions(&client).patch("jaminstances.jam.network", &force, &Patch::Apply(older())).await.unwrap();
    operator.ready().await;
    let log = operator.logged();
    assert!(log.contains("older than this operator") && log.contains(".status.renderRevision"), "{log}");

    apply_malformed(&client, &namespace).await;
    let instances = instances(&client, &namespace);
    apply(&client, &namespace, "good", json!({"runtime": {"jam": {"enabled": true, "store": "memory"}}})).await;
    condition(&client, &namespace, "good", "Ready", "True", "Serving").await;
    let told = eventually("the malformed one is told so", async || {
        let told = instances.get("malformed").await.ok()?;
        let conditions = told.data["status"]["conditions"].as_array()?.clone();
        let stalled = conditions.into_iter().find(|c| c["type"] == "Stalled" && c["status"] == "True")?;
        Some(stalled["message"].as_str()?.to_owned())
    })
    .await;
    assert!(told.contains("many"), "{told}");
    operator.quiet().await;
    let about = operator.writes().into_iter().filter(|asked| asked.name == "malformed").count();
    assert_eq!(about, 1, "once");
    let poke = json!({"metadata": {"annotations": {"note": "hello"}}});
    instances.patch("malformed", &PatchParams::default(), &Patch::Merge(poke)).await.unwrap();
    operator.quiet().await;
    let told = events(&client, &namespace, "malformed", "InvalidSettings").await;
    assert_eq!((told.len(), told[0].type_.as_deref()), (1, Some("Warning")), "an event on the transition");
    assert!(told[0].series.is_none() && told[0].note.as_deref().unwrap().contains("cannot read"), "{told:?}");
    let metrics = operator.answer("/metrics").await.1;
    assert!(metrics.contains("jam_operator_instances{condition=\"Readable\",status=\"False\"} 1"), "{metrics}");

    let mended = json!({"spec": {"replicas": 1, "runtime": {"jam": {"enabled": true, "store": "memory"}}}});
    instances.patch("malformed", &PatchParams::default(), &Patch::Merge(mended)).await.unwrap();
    condition(&client, &namespace, "malformed", "Ready", "True", "Serving").await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn what_was_said_under_an_older_definition_goes_once_it_is_not_so_any_more() {
    let plane = plane_of_its_own("since");
    let (client, namespace) = plane.namespace().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let force = PatchParams::apply(TESTER).force();
    definitions(&client).patch("jaminstances.jam.network", &force, &Patch::Apply(forgetful())).await.unwrap();
    let account = Account::new(&plane, &client, &namespace, "operator").await;
    let operator = account.start(&plane, &["--leader-election", "false"]);
    operator.ready().await;
    let spec = |consumers: &[&str]| {
        let consumers: Vec<Value> = consumers.iter().map(|name| json!({"name": name})).collect();
        json!({"runtime": {"jam": {"enabled": true, "store": "memory"}}, "tokens": {"consumers": consumers}})
    };
    apply(&client, &namespace, "main", spec(&["one", "two"])).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;

    plane.with_crd().await;
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let probe = json!({"apiVersion": "jam.network/v1alpha1", "kind": "JamInstance",
        "metadata": {"name": "main"}, "status": {"renderRevision": 1}});
    eventually("the definition of this build is served", async || {
        instances.patch_status("main", &PatchParams::apply("probe").force().dry_run(), &Patch::Apply(&probe)).await.ok()
    })
    .await;
    apply(&client, &namespace, "main", spec(&["one"])).await;
    eventually("the consumer that is gone is not told of any more", async || {
        let instance = instances.get("main").await.unwrap();
        let status = instance.status?;
        let of: Vec<_> = status.tokens.iter().map(|token| token.consumer.as_str()).collect();
        (of == ["one"] && status.render_revision.is_some()).then_some(())
    })
    .await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    let before = operator.writes();
    let poke = json!({"metadata": {"annotations": {"note": "hello"}}});
    instances.patch("main", &PatchParams::default(), &Patch::Merge(poke)).await.unwrap();
    operator.quiet().await;
    assert_eq!(operator.writes(), before, "steady state costs no write");
}
