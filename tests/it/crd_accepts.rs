//! The manifests and the CRD against a real API server: what is right is accepted, and means the same on both sides.

use jam_plan::JamInstance;
use jam_plan::render::instances as read;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::plan_snapshots::manifests;
use crate::support::cluster::{TESTER, control_plane, instances};

fn dry_run() -> PatchParams {
    PatchParams::apply(TESTER).dry_run().validation_strict()
}

/// A manifest's JamInstances as they are written, moved to a namespace.
fn written(text: &str, namespace: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let ours = documents.into_iter().filter(|document| document["kind"] == "JamInstance");
    ours.map(|mut document| {
        document["metadata"]["namespace"] = namespace.into();
        document
    })
    .collect()
}

#[tokio::test]
async fn every_manifest_is_accepted_with_strict_validation() {
    let (client, namespace) = control_plane().with_crd().await;
    let api = instances(&client, &namespace);
    for (file, text) in manifests() {
        for document in written(&text, &namespace) {
            let name = document["metadata"]["name"].as_str().unwrap().to_owned();
            let answer = api.patch(&name, &dry_run(), &Patch::Apply(document)).await;
            answer.unwrap_or_else(|e| panic!("{file}: {e}"));
        }
    }
}

#[tokio::test]
async fn the_schema_and_the_rust_types_have_the_same_defaults() {
    let (client, namespace) = control_plane().with_crd().await;
    let api = instances(&client, &namespace);
    let everything = json!({
        "replicas": 2,
        "profile": "staging",
        "database": {"dsnSecretRef": {"name": "a"}},
        "autoscaling": {"maxReplicas": 3},
        "tokens": {"consumers": [{"name": "a"}], "rotation": {}},
        "cleanup": {}, "ingress": {}, "httpRoute": {}, "networkPolicy": {}, "monitoring": {}, "image": {},
        "podTemplate": {}, "workers": {}, "migrations": {}, "service": {},
    });
    let mut specs = vec![json!({}), everything];
    specs.extend(
        manifests().iter().flat_map(|(_, text)| written(text, &namespace)).map(|document| document["spec"].clone()),
    );
    for spec in specs {
        let document = json!({
            "apiVersion": "jam.network/v1alpha1", "kind": "JamInstance", "metadata": {"name": "main"}, "spec": spec,
        });
        let answer = api.patch("main", &dry_run(), &Patch::Apply(&document)).await.unwrap();
        let there: JamInstance = serde_json::from_value(serde_json::to_value(&answer).unwrap()).unwrap();
        let here: JamInstance = serde_json::from_value(document.clone()).unwrap();
        assert_eq!(there.spec, here.spec, "{document}");
        // What the server filled in is exactly what serde writes: no default stands in one place only.
        assert_eq!(answer.data["spec"], serde_json::to_value(&here.spec).unwrap(), "{document}");
    }
}

fn postgres(name: &str) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "jam.network/v1alpha1", "kind": "JamInstance", "metadata": {"name": name},
        "spec": {"profile": "staging", "database": {"dsnSecretRef": {"name": "jam-db"}}},
    }))
    .unwrap()
}

#[tokio::test]
async fn kubectl_scale_writes_replicas_and_reads_the_status() {
    let (client, namespace) = control_plane().with_crd().await;
    let api = instances(&client, &namespace);
    api.create(&PostParams::default(), &postgres("main")).await.unwrap();
    let status = json!({"status": {"replicas": 2, "readyReplicas": 1, "selector": "app=jam"}});
    api.patch_status("main", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    let scaled = json!({"spec": {"replicas": 4}});
    let scale = api.patch_scale("main", &PatchParams::default(), &Patch::Merge(&scaled)).await.unwrap();
    let status = scale.status.unwrap();
    assert_eq!((status.replicas, status.selector.as_deref()), (2, Some("app=jam")));
    assert_eq!(api.get("main").await.unwrap().data["spec"]["replicas"], 4);
    let too_many = json!({"spec": {"replicas": 101}});
    assert!(api.patch_scale("main", &PatchParams::default(), &Patch::Merge(&too_many)).await.is_err());
}

#[tokio::test]
async fn instances_are_found_by_field() {
    let (client, namespace) = control_plane().with_crd().await;
    let api = instances(&client, &namespace);
    api.create(&PostParams::default(), &postgres("durable")).await.unwrap();
    let mut paused = postgres("paused");
    paused.data["spec"]["paused"] = true.into();
    paused.data["spec"]["runtime"] = json!({"jam": {"store": "postgres", "enabled": false}});
    api.create(&PostParams::default(), &paused).await.unwrap();
    for (selector, wanted) in [
        ("spec.profile=staging", 2),
        ("spec.profile=local", 0),
        ("spec.paused=true", 1),
        ("spec.runtime.jam.store=postgres", 1),
        ("spec.runtime.jam.enabled=false", 1),
    ] {
        let found = api.list(&ListParams::default().fields(selector)).await.unwrap();
        assert_eq!(found.items.len(), wanted, "{selector}");
    }
}

#[tokio::test]
async fn the_store_cannot_be_changed_once_postgres_was_migrated() {
    let (client, namespace) = control_plane().with_crd().await;
    let api = instances(&client, &namespace);
    api.create(&PostParams::default(), &postgres("main")).await.unwrap();
    let to_memory = json!({"spec": {"runtime": {"jam": {"store": "memory"}}}});
    let patch = Patch::Merge(&to_memory);
    api.patch("main", &PatchParams { dry_run: true, ..PatchParams::default() }, &patch).await.unwrap();
    let migrated = json!({"status": {"version": {"schema": 3}}});
    api.patch_status("main", &PatchParams::default(), &Patch::Merge(&migrated)).await.unwrap();
    let refused = api.patch("main", &PatchParams::default(), &patch).await.unwrap_err().to_string();
    assert!(refused.contains("make a new instance instead"), "{refused}");
    let to_local = json!({"spec": {"profile": "local"}});
    assert!(api.patch("main", &PatchParams::default(), &Patch::Merge(&to_local)).await.is_err());
    let disabled = json!({"spec": {"runtime": {"jam": {"enabled": false, "store": "postgres"}}}});
    api.patch("main", &PatchParams::default(), &Patch::Merge(&disabled)).await.unwrap();
}

#[tokio::test]
async fn a_status_that_the_operator_writes_is_stored_as_it_is() {
    let (client, namespace) = control_plane().with_crd().await;
    let api: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    instances(&client, &namespace).create(&PostParams::default(), &postgres("main")).await.unwrap();
    let instance = api.get("main").await.unwrap();
    let now = jam_domain::Timestamp::now();
    let observed = jam_plan::Observed::nothing(now);
    let refusal = jam_plan::Refusal::new(jam_plan::Reason::SecretMissing, "x".repeat(5000));
    let status = jam_plan::status(&instance, jam_plan::Verdict::Refused(&refusal), &observed, now);
    let written = json!({"apiVersion": "jam.network/v1alpha1", "kind": "JamInstance", "status": status});
    let apply = PatchParams::apply(TESTER).force();
    let answer = api.patch_status("main", &apply, &Patch::Apply(&written)).await.unwrap();
    assert_eq!(answer.status, Some(status));
    let again = jam_plan::status(&answer, jam_plan::Verdict::Refused(&refusal), &observed, now.plus_seconds(60));
    assert_eq!(answer.status, Some(again), "a repetition writes nothing");
}

#[test]
fn a_manifest_is_read_as_kubectl_reads_it() {
    for (file, text) in manifests() {
        assert!(!read(&text).unwrap_or_else(|e| panic!("{file}: {e}")).is_empty());
    }
}
