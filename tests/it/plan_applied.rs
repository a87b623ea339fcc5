//! The plan against the rules of server-side apply on a real API server: what is applied twice changes nothing, and what
//! others own is left to them.

use jam_plan::desired::Desired;
use jam_plan::observed::{DeploymentState, JobState, MigrationJob, SecretKey, TokenSecret};
use jam_plan::resolve::MigrationStep;
use jam_plan::{JamInstance, Kind, Objects, Observed, Resolved, names, tokens};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::plan_snapshots::defaults;
use crate::support::cluster::control_plane;

/// A stored instance, so that its children have an owner.
async fn stored(client: &Client, namespace: &str, spec: Value) -> JamInstance {
    let document = json!({
        "apiVersion": "jam.network/v1alpha1", "kind": "JamInstance", "metadata": {"name": "main"}, "spec": spec,
    });
    let api: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    api.create(&PostParams::default(), &serde_json::from_value(document).unwrap()).await.unwrap()
}

/// A cluster in which the instance's Secrets are there and its migration is complete.
fn migrated(instance: &JamInstance) -> Observed {
    let mut observed = Observed::nothing(jam_domain::Timestamp::now());
    observed.dsn = Some(SecretKey::Present { hash: "0123456789".into() });
    let secret = |consumer: &str| TokenSecret::of(consumer, &token_secret("unused"));
    observed.tokens = tokens::consumers(&instance.spec).iter().map(|consumer| secret(&consumer.name)).collect();
    let waiting = resolved(instance, &observed);
    if let (MigrationStep::Run { job }, Some(told)) = (waiting.migration.step, waiting.migration.status) {
        let (name, key) = (job, told.key);
        let finished_at = Some(observed.at);
        observed.migration_jobs = vec![MigrationJob {
            name,
            key,
            attempt: 0,
            state: JobState::Complete,
            suspended: false,
            finished_at,
            has_pod: true,
        }];
    }
    observed
}

fn resolved(instance: &JamInstance, observed: &Observed) -> Resolved {
    jam_plan::resolve(instance, observed, &defaults()).unwrap()
}

fn objects(instance: &JamInstance, observed: &Observed) -> Objects<Desired> {
    jam_plan::desired(&resolved(instance, observed))
}

async fn apply(client: &Client, desired: &Desired) -> DynamicObject {
    let (group, version, kind, plural) = desired.object.kind.coordinates();
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &desired.namespace, &resource);
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    api.patch(&desired.object.name, &params, &Patch::Apply(&desired.body)).await.unwrap()
}

fn deployment(objects: &Objects<Desired>) -> &Desired {
    objects.items.iter().find(|item| item.object.kind == Kind::Deployment).unwrap()
}

fn token_secret(name: &str) -> Secret {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "stringData": {},
        "data": {"token": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="},
    }))
    .unwrap()
}

fn on_postgres(change: &Value) -> Value {
    let mut spec = json!({"profile": "staging", "replicas": 2, "database": {"dsnSecretRef": {"name": "jam-db"}}});
    spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    spec
}

#[tokio::test]
async fn an_object_applied_twice_is_written_once() {
    let (client, namespace) = control_plane().with_crd().await;
    let exposed =
        json!({"ingress": {"enabled": true, "host": "a.example"}, "networkPolicy": {}, "workers": {"replicas": 1}});
    let instance = stored(&client, &namespace, on_postgres(&exposed)).await;
    for desired in objects(&instance, &migrated(&instance)).items {
        let first = apply(&client, &desired).await;
        let second = apply(&client, &desired).await;
        // A controller may have written its status between the two; spec and metadata of ours have not moved.
        assert_eq!(first.metadata.generation, second.metadata.generation, "{}", desired.object);
        assert_eq!(first.data.get("spec"), second.data.get("spec"), "{}", desired.object);
        if first.metadata.generation.is_none() {
            assert_eq!(first.resource_version(), second.resource_version(), "{}", desired.object);
        }
    }
}

#[tokio::test]
async fn the_token_in_a_consumers_secret_survives_every_apply() {
    let (client, namespace) = control_plane().with_crd().await;
    let instance = stored(&client, &namespace, json!({"tokens": {"consumers": [{"name": "demo"}]}})).await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let create = PostParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PostParams::default() };
    secrets.create(&create, &token_secret("main-token-demo")).await.unwrap();
    for _ in 0..2 {
        for desired in objects(&instance, &migrated(&instance)).items {
            apply(&client, &desired).await;
        }
        let kept = secrets.get("main-token-demo").await.unwrap();
        assert!(kept.data.unwrap().contains_key("token"));
        assert_eq!(kept.metadata.labels.unwrap()[names::CONSUMER], "demo");
    }
}

#[tokio::test]
async fn replicas_pass_to_an_autoscaler_without_a_moment_at_one() {
    let (client, namespace) = control_plane().with_crd().await;
    let mut instance = stored(&client, &namespace, on_postgres(&json!({"replicas": 4}))).await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let mut observed = migrated(&instance);
    apply(&client, deployment(&objects(&instance, &observed))).await;
    let replicas = async || deployments.get("main").await.unwrap().spec.unwrap().replicas;
    assert_eq!(replicas().await, Some(4));
    // The user turns autoscaling on: nobody else has written the number yet, so it stays ours.
    instance.spec.autoscaling = Some(serde_json::from_value(json!({"minReplicas": 2, "maxReplicas": 10})).unwrap());
    observed.api = Some(DeploymentState::of(&deployments.get("main").await.unwrap()));
    apply(&client, deployment(&objects(&instance, &observed))).await;
    assert_eq!(replicas().await, Some(4));
    // The autoscaler writes it, and we let go.
    let scale = json!({"spec": {"replicas": 7}});
    let autoscaler = PatchParams { field_manager: Some("kube-controller-manager".into()), ..PatchParams::default() };
    deployments.patch_scale("main", &autoscaler, &Patch::Merge(&scale)).await.unwrap();
    observed.api = Some(DeploymentState::of(&deployments.get("main").await.unwrap()));
    let released = objects(&instance, &observed);
    assert!(deployment(&released).body["spec"].get("replicas").is_none());
    apply(&client, deployment(&released)).await;
    assert_eq!(replicas().await, Some(7));
    // And back: without autoscaling the number is the spec's again.
    instance.spec.autoscaling = None;
    apply(&client, deployment(&objects(&instance, &observed))).await;
    assert_eq!(replicas().await, Some(4));
}

#[tokio::test]
async fn labels_and_annotations_of_others_are_left_alone() {
    let (client, namespace) = control_plane().with_crd().await;
    let instance = stored(&client, &namespace, on_postgres(&json!({}))).await;
    let all = objects(&instance, &migrated(&instance));
    let desired = deployment(&all);
    apply(&client, desired).await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let note = json!({"metadata": {"labels": {"team": "a"}, "annotations": {"note": "b", names::RENDERED: "forged"}}});
    deployments.patch("main", &PatchParams::default(), &Patch::Merge(&note)).await.unwrap();
    let after = apply(&client, desired).await;
    assert_eq!(after.labels()["team"], "a");
    assert_eq!(after.annotations()["note"], "b");
    assert_eq!(after.annotations()[names::RENDERED], desired.hash, "ours is put right");
}
