//! Every kind of child: made, put right after a hand was on it, gone when it is no longer wanted.

use std::collections::BTreeSet;

use jam_plan::observed::SecretKey;
use jam_plan::render::render;
use jam_plan::{Desired, JamInstance, Kind, names};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::operator_support::{Account, Kubelet, apply, condition, eventually};
use crate::plan_snapshots::defaults;
use crate::support::cluster::control_plane;

const QUIET: &[&str] = &["--leader-election", "false"];

/// The interface to a kind of child.
pub fn children(client: &kube::Client, namespace: &str, kind: Kind) -> Api<DynamicObject> {
    let (group, version, word, plural) = kind.coordinates();
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, word), plural);
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// A Secret with a DSN, and a spec on it.
pub async fn on_postgres(client: &kube::Client, namespace: &str) -> Value {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"},
        "stringData": {"dsn": "postgres://jam@db:6432/jam"}});
    let secrets = children(client, namespace, Kind::Secret);
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    json!({
        "runtime": {"jam": {"enabled": true, "store": "postgres"}},
        "database": {"dsnSecretRef": {"name": "db", "key": "dsn"}},
        "replicas": 2,
    })
}

/// A spec that wants a child of every kind.
pub fn with_everything(mut spec: Value) -> Value {
    spec["autoscaling"] = json!({"minReplicas": 2, "maxReplicas": 4});
    spec["workers"] = json!({"replicas": 1});
    spec["cleanup"] = json!({"schedule": "0 0 29 2 *"});
    spec["ingress"] = json!({"enabled": true, "host": "jam.example"});
    spec["httpRoute"] = json!({"enabled": true, "hostnames": ["jam.example"], "parentRefs": [{"name": "g"}]});
    spec["networkPolicy"] = json!({"allowFrom": [{"podSelector": {"matchLabels": {"app": "a"}}}]});
    spec["monitoring"] = json!({"serviceMonitor": true, "prometheusRule": true, "dashboard": true});
    spec
}

/// What a hand does to a field of ours in an object of each kind.
fn edit(kind: Kind, name: &str) -> Value {
    match kind {
        Kind::ServiceAccount => json!({"automountServiceAccountToken": true}),
        // Immutable but for its metadata.
        Kind::ConfigMap => json!({"metadata": {"ownerReferences": null}}),
        Kind::Secret if name.ends_with("-hashes") => json!({"data": {"tokens.json": null}}),
        Kind::Secret => json!({"metadata": {"labels": {"jam.network/consumer": "stranger"}}}),
        Kind::NetworkPolicy => json!({"spec": {"egress": []}}),
        Kind::Job => json!({"spec": {"suspend": true}}),
        Kind::Service => json!({"spec": {"selector": {"app.kubernetes.io/instance": "stranger"},
            "publishNotReadyAddresses": true}}),
        Kind::Deployment if name.ends_with("-worker") => json!({"spec": {"replicas": 7}}),
        Kind::Deployment => json!({"spec": {"revisionHistoryLimit": 9}}),
        Kind::CronJob => json!({"spec": {"concurrencyPolicy": "Allow", "jobTemplate": {"spec": {"suspend": true}}}}),
        Kind::PodDisruptionBudget => json!({"spec": {"maxUnavailable": 2}}),
        Kind::HorizontalPodAutoscaler => json!({"spec": {"maxReplicas": 90}}),
        Kind::Ingress => json!({"spec": {"rules": [{"host": "stranger.example"}]}}),
        Kind::HttpRoute => json!({"spec": {"hostnames": ["stranger.example"]}}),
        Kind::ServiceMonitor => json!({"spec": {"endpoints": [{"port": "stranger"}]}}),
        Kind::PrometheusRule => json!({"spec": {"groups": []}}),
    }
}

/// What of an object we say: no numbers of the server, nothing that a new token or a new address changes.
pub fn ours(object: &DynamicObject) -> Value {
    let mut all = json!({"labels": object.labels(), "owners": object.owner_references(), "rest": object.data});
    all["labels"].as_object_mut().unwrap().remove("their");
    all["rest"].as_object_mut().unwrap().remove("status");
    if object.data["type"] == "Opaque" {
        let keys = object.data["data"].as_object().map(|data| data.keys().cloned().collect::<Vec<_>>());
        all["rest"]["data"] = json!(keys);
    }
    if let Some(spec) = all["rest"]["spec"].as_object_mut() {
        for given in ["clusterIP", "clusterIPs"] {
            spec.remove(given);
        }
    }
    all
}

/// Every child of the instance that is not a finished Job.
pub async fn all_of(client: &kube::Client, namespace: &str) -> Vec<(Kind, DynamicObject)> {
    let labelled = ListParams::default().labels("jam.network/instance=main");
    let mut found = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Job) {
        let list = children(client, namespace, kind).list(&labelled).await.unwrap_or_else(|e| panic!("{kind:?}: {e}"));
        found.extend(list.items.into_iter().map(|object| (kind, object)));
    }
    found
}

async fn merge(client: &kube::Client, namespace: &str, (kind, name): (Kind, &str), change: &Value) -> DynamicObject {
    let api = children(client, namespace, kind);
    let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(change)).await;
    patched.unwrap_or_else(|e| panic!("{kind:?} {name}: {e}"))
}

/// Waits until each object says again what it said before.
async fn put_right(client: &kube::Client, namespace: &str, before: &[(Kind, DynamicObject)]) {
    for (kind, right) in before {
        let (api, name) = (children(client, namespace, *kind), right.name_any());
        eventually(&format!("{kind:?} {name} says {}", ours(right)), async || {
            let now = api.get_opt(&name).await.ok()??;
            (now.metadata.deletion_timestamp.is_none() && ours(&now) == ours(right)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn every_kind_is_put_right_after_an_edit_and_a_deletion_and_goes_when_it_is_no_longer_wanted() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    plane.with_add_ons().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let spec = on_postgres(&client, &namespace).await;
    apply(&client, &namespace, "main", with_everything(spec.clone())).await;
    condition(&client, &namespace, "main", "CleanupScheduled", "True", "Scheduled").await;
    condition(&client, &namespace, "main", "OptionalKindsServed", "True", "KindsServed").await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    // As the autoscaler does: from here on the number is not ours.
    let three = json!({"spec": {"replicas": 3}});
    let deployments = children(&client, &namespace, Kind::Deployment);
    deployments.patch_subresource("scale", "main", &PatchParams::default(), &Patch::Merge(three)).await.unwrap();
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;

    let their = json!({"metadata": {"labels": {"their": "own"}}});
    for (kind, object) in all_of(&client, &namespace).await {
        merge(&client, &namespace, (kind, &object.name_any()), &their).await;
    }
    let before = all_of(&client, &namespace).await;
    let kinds: BTreeSet<Kind> = before.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds.len() + 1, Kind::ALL.len(), "a child of every kind, and the Job has a test of its own: {kinds:?}");
    for (kind, object) in &before {
        let name = object.name_any();
        let edited = merge(&client, &namespace, (*kind, &name), &edit(*kind, &name)).await;
        assert_ne!(ours(&edited), ours(object), "the hand did nothing to {kind:?} {name}");
    }
    put_right(&client, &namespace, &before).await;
    operator.quiet().await;
    let relabel =
        json!({"app.kubernetes.io/managed-by": null, "jam.network/instance": null, "app.kubernetes.io/part-of": "a"});
    for (kind, object) in &before {
        merge(&client, &namespace, (*kind, &object.name_any()), &json!({"metadata": {"labels": relabel}})).await;
    }
    put_right(&client, &namespace, &before).await;
    for (kind, object) in all_of(&client, &namespace).await {
        assert_eq!(object.labels()["their"], "own", "{kind:?} {}: what is not ours is left alone", object.name_any());
    }
    assert_eq!(deployments.get("main").await.unwrap().data["spec"]["replicas"], 3, "nor is the autoscaler's number");

    for (kind, object) in &before {
        children(&client, &namespace, *kind).delete(&object.name_any(), &DeleteParams::default()).await.unwrap();
    }
    pruned(&client, &namespace, &before, spec).await;
    operator.quiet().await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

/// Everything that was deleted is back; then a spec without all of it leaves what every instance has.
async fn pruned(client: &kube::Client, namespace: &str, before: &[(Kind, DynamicObject)], mut spec: Value) {
    for (kind, object) in before {
        let (api, name) = (children(client, namespace, *kind), object.name_any());
        eventually(&format!("{kind:?} {name} is back"), async || {
            let now = api.get_opt(&name).await.ok()??;
            (now.uid() != object.uid() && now.metadata.deletion_timestamp.is_none()).then_some(())
        })
        .await;
    }
    condition(client, namespace, "main", "Ready", "True", "Serving").await;
    spec["replicas"] = json!(1);
    apply(client, namespace, "main", spec).await;
    condition(client, namespace, "main", "CleanupScheduled", "False", "NotScheduled").await;
    let always = [Kind::ServiceAccount, Kind::ConfigMap, Kind::Secret, Kind::Service, Kind::Deployment];
    eventually("what is not wanted any more is gone", async || {
        let left = all_of(client, namespace).await;
        let extra = left.iter().filter(|(kind, object)| {
            let name = object.name_any();
            !always.contains(kind) || ["-worker", "-metrics", "-dashboard"].iter().any(|end| name.ends_with(end))
        });
        (extra.count() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_migration_job_that_was_changed_or_deleted_is_made_again_and_a_scaled_deployment_scaled_back() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let spec = on_postgres(&client, &namespace).await;
    apply(&client, &namespace, "main", spec).await;
    let jobs = children(&client, &namespace, Kind::Job);
    let made = async |before: Option<&DynamicObject>| {
        eventually("the Job is made", async || {
            let found = jobs.list(&ListParams::default()).await.ok()?.items;
            let new = found.into_iter().find(|job| job.metadata.deletion_timestamp.is_none())?;
            (Some(new.uid()) != before.map(ResourceExt::uid) && new.labels().contains_key("jam.network/migration"))
                .then_some(new)
        })
        .await
    };
    let first = made(None).await;
    let name = first.name_any();
    merge(&client, &namespace, (Kind::Job, &name), &edit(Kind::Job, &name)).await;
    let second = made(Some(&first)).await;
    let relabel =
        json!({"metadata": {"labels": {"jam.network/migration": null, "app.kubernetes.io/managed-by": null}}});
    merge(&client, &namespace, (Kind::Job, &name), &relabel).await;
    let third = made(Some(&second)).await;
    let background = DeleteParams::background();
    jobs.delete(&name, &background).await.unwrap();
    made(Some(&third)).await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    for replicas in [0, 5] {
        merge(&client, &namespace, (Kind::Deployment, "main"), &json!({"spec": {"replicas": replicas}})).await;
        let deployments = children(&client, &namespace, Kind::Deployment);
        eventually("it is scaled back", async || {
            (deployments.get("main").await.ok()?.data["spec"]["replicas"] == 2).then_some(())
        })
        .await;
    }
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn an_instance_with_every_kind_comes_to_rest_with_one_write_for_each() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let spec = on_postgres(&client, &namespace).await;
    apply(&client, &namespace, "main", with_everything(spec)).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    let counts = operator.tally();
    for resource in ["networkpolicies", "cronjobs", "horizontalpodautoscalers", "poddisruptionbudgets", "ingresses"] {
        assert_eq!(counts.get(&format!("patch {resource}")), Some(&1), "{resource}: {counts:?}");
    }
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

/// An object of somebody else's under the name that an instance wants for its child of this kind.
fn theirs(wanted: &Desired) -> DynamicObject {
    let mut body = wanted.body.clone();
    // Without a label of its own a Job would get those of its pods.
    body["metadata"] = json!({"name": wanted.object.name, "labels": {"their": "own"}});
    if wanted.object.kind == Kind::Secret {
        body["data"] = json!({"their": "b3du"});
    }
    serde_json::from_value(body).unwrap()
}

/// What an instance wants, by the plan for its manifest; the migration Job by the uid that it has here.
fn wanted(instance: &JamInstance, dsn: &Secret) -> Vec<Desired> {
    let (name, namespace, uid) = (instance.name_any(), instance.namespace().unwrap(), instance.uid().unwrap());
    let metadata = json!({"name": name, "namespace": namespace});
    let text = json!({"apiVersion": "jam.network/v1alpha1", "kind": "JamInstance", "metadata": metadata, "spec": instance.spec});
    let mut all = render(&text.to_string(), &defaults()).unwrap();
    let SecretKey::Present { hash } = SecretKey::of(Some(dsn), "dsn", &uid) else { panic!("there is a DSN") };
    let key = names::short_hash([b"localhost/jam-api:dev".as_slice(), hash.as_bytes()]);
    let job = all.iter_mut().find(|object| object.object.kind == Kind::Job).unwrap();
    job.object.name = names::migration_job(&name, &key, 0);
    all
}

#[tokio::test]
async fn a_taken_name_of_any_kind_stalls_and_is_not_touched() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    plane.with_add_ons().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let mut spec = with_everything(on_postgres(&client, &namespace).await);
    let dsn = Api::<Secret>::namespaced(client.clone(), &namespace).get("db").await.unwrap();
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let mut taken = Vec::new();
    for (number, kind) in Kind::ALL.into_iter().enumerate() {
        // Paused until the stranger is there: a Job's name has the instance's uid in it.
        spec["paused"] = json!(true);
        let instance = apply(&client, &namespace, &format!("n{number}"), spec.clone()).await;
        let wanted = wanted(&instance, &dsn);
        let wanted = wanted.iter().find(|wanted| wanted.object.kind == kind).unwrap_or_else(|| panic!("{kind:?}"));
        let api = children(&client, &namespace, kind);
        let made = api.create(&PostParams::default(), &theirs(wanted)).await;
        taken.push((instance.name_any(), wanted.object.clone(), made.unwrap_or_else(|e| panic!("{kind:?}: {e}"))));
    }
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    // All at once: each is looked at again every half minute, and one after the other on a slow machine they would leave no pause.
    for (instance, _, _) in &taken {
        let go = json!({"spec": {"paused": false}});
        instances.patch(instance, &PatchParams::default(), &Patch::Merge(go)).await.unwrap();
    }
    for (instance, object, _) in &taken {
        let told = condition(&client, &namespace, instance, "Stalled", "True", "NameTaken").await;
        assert!(told.contains(&object.to_string()), "{object}: {told}");
    }
    operator.quiet().await;
    for (_, object, before) in &taken {
        let after = children(&client, &namespace, object.kind).get(&object.name).await.unwrap();
        assert_eq!(
            (ours(&after), after.annotations().get("jam.network/rendered")),
            (ours(before), None),
            "{object} was touched"
        );
    }
    let writes = operator.writes();
    assert!(
        // A Deployment and a CronJob are wanted only after the migration: until then nothing is in the way.
        writes.iter().all(|asked| asked.resource == "jaminstances/status" || ["n6", "n7"].contains(&&asked.name[..2])),
        "a stalled instance gets no child: {writes:?}"
    );
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_sidecar_that_somebody_else_injects_is_left_alone() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    apply(&client, &namespace, "main", json!({"runtime": {"jam": {"enabled": true, "store": "memory"}}})).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let deployments = children(&client, &namespace, Kind::Deployment);
    let security = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let sidecar = json!({"spec": {"template": {"spec": {
        "containers": [{"name": "proxy", "image": "proxy:1", "securityContext": security}],
        "volumes": [{"name": "proxy", "emptyDir": {}}],
    }}}});
    deployments.patch("main", &PatchParams::default(), &Patch::Strategic(sidecar)).await.unwrap();
    operator.quiet().await;
    let writes = operator.writes().into_iter().filter(|asked| asked.resource == "deployments").count();
    assert_eq!(writes, 1, "nothing of ours was changed");
    let spec = json!({"runtime": {"jam": {"enabled": false, "store": "memory"}}});
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let now = deployments.get("main").await.unwrap();
    let containers = now.data.pointer("/spec/template/spec/containers").unwrap().to_string();
    assert!(containers.contains("proxy:1") && containers.contains("jam-api"), "{containers}");
}
