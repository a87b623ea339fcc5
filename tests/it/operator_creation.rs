//! A new child is created or not at all: a stranger who takes its name between the look and the write keeps it as it is.

use jam::operator::creation::create;
use jam_plan::names::FIELD_MANAGER;
use jam_plan::render::render;
use jam_plan::{Desired, Kind};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::operator_kinds::{children, with_everything};
use crate::plan_snapshots::defaults;
use crate::support::cluster::control_plane;

/// One object of every kind that an instance wants.
fn wanted(namespace: &str) -> Vec<Desired> {
    let spec = with_everything(json!({
        "runtime": {"jam": {"enabled": true, "store": "postgres"}},
        "database": {"dsnSecretRef": {"name": "db", "key": "dsn"}},
    }));
    let text = json!({"apiVersion": "jam.network/v1alpha1", "kind": "JamInstance",
        "metadata": {"name": "main", "namespace": namespace}, "spec": spec});
    let mut all = render(&text.to_string(), &defaults()).unwrap();
    all.sort_by_key(|desired| desired.object.kind.as_str());
    all.dedup_by_key(|desired| desired.object.kind.as_str());
    assert_eq!(all.len(), Kind::ALL.len());
    all
}

/// Nothing of it has a field in common with ours but what it must have: an apply would conflict with nothing.
fn stranger(wanted: &Desired) -> Value {
    let mut body = wanted.body.clone();
    body["metadata"] = json!({"name": wanted.object.name});
    body
}

#[tokio::test]
async fn a_stranger_who_was_faster_keeps_an_object_of_any_kind_as_it_is() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    plane.with_add_ons().await;
    for desired in wanted(&namespace) {
        let api = children(&client, &namespace, desired.object.kind);
        let theirs = serde_json::from_value(stranger(&desired)).unwrap();
        let before =
            api.create(&PostParams::default(), &theirs).await.unwrap_or_else(|e| panic!("{}: {e}", desired.object));
        let refused = create(&api, &desired.object.name, &desired.body).await.expect_err(&desired.object.to_string());
        assert!(matches!(&refused, kube::Error::Api(status) if status.code == 409), "{}: {refused}", desired.object);
        let after = api.get(&desired.object.name).await.unwrap();
        let managers: Vec<_> = after.managed_fields().iter().filter(|entry| entry.subresource.is_none()).collect();
        assert_eq!((after.labels(), after.owner_references()), (before.labels(), before.owner_references()));
        assert!(managers.iter().all(|entry| entry.manager.as_deref() != Some(FIELD_MANAGER)), "{}", desired.object);
    }
}

#[tokio::test]
async fn what_is_not_there_is_created_and_a_later_apply_may_take_fields_out_again() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    plane.with_add_ons().await;
    for desired in wanted(&namespace) {
        let api = children(&client, &namespace, desired.object.kind);
        let mut body = desired.body.clone();
        body["metadata"]["annotations"] = json!({"jam.network/for-now": "true"});
        // No instance owns it here: the garbage collector would have it.
        body["metadata"].as_object_mut().unwrap().remove("ownerReferences");
        let made =
            create(&api, &desired.object.name, &body).await.unwrap_or_else(|e| panic!("{}: {e}", desired.object));
        let entry = made.managed_fields().iter().find(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER)).unwrap();
        assert_eq!(entry.operation.as_deref(), Some("Apply"), "{}", desired.object);
        body["metadata"].as_object_mut().unwrap().remove("annotations");
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let now = api.patch(&desired.object.name, &params, &Patch::Apply(&body)).await.unwrap();
        assert_eq!(now.annotations().get("jam.network/for-now"), None, "{}", desired.object);
    }
}
