//! Every kind of child that the API server always knows: made, put right after a hand was on it, gone when it is no longer wanted.

use jam_plan::Kind;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::operator_support::{Account, Kubelet, apply, condition, eventually};
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

fn with_everything(mut spec: Value) -> Value {
    spec["autoscaling"] = json!({"minReplicas": 2, "maxReplicas": 4});
    spec["workers"] = json!({"replicas": 1});
    spec["cleanup"] = json!({"schedule": "0 0 29 2 *"});
    spec["ingress"] = json!({"enabled": true, "host": "jam.example"});
    spec["networkPolicy"] = json!({"allowFrom": [{"podSelector": {"matchLabels": {"app": "a"}}}]});
    spec["monitoring"] = json!({"dashboard": true});
    spec
}

/// What a hand does to each kind: a field that is ours, as a merge, and where it is looked for.
fn hands() -> Vec<(Kind, &'static str, Value, &'static str)> {
    vec![
        (Kind::NetworkPolicy, "main", json!({"spec": {"egress": []}}), "/spec/egress/1/ports/0/port"),
        (
            Kind::ConfigMap,
            "main-dashboard",
            json!({"data": {"x": "y"}, "metadata": {"labels": {"grafana_dashboard": "0"}}}),
            "/metadata/labels/grafana_dashboard",
        ),
        (Kind::CronJob, "main-cleanup", json!({"spec": {"concurrencyPolicy": "Allow"}}), "/spec/concurrencyPolicy"),
        (Kind::HorizontalPodAutoscaler, "main", json!({"spec": {"maxReplicas": 90}}), "/spec/maxReplicas"),
        (Kind::PodDisruptionBudget, "main", json!({"spec": {"maxUnavailable": 2}}), "/spec/maxUnavailable"),
        (Kind::Ingress, "main", json!({"spec": {"rules": [{"host": "stranger.example"}]}}), "/spec/rules/0/host"),
        (Kind::Deployment, "main-worker", json!({"spec": {"replicas": 7}}), "/spec/replicas"),
    ]
}

#[tokio::test]
async fn every_kind_is_put_right_after_an_edit_and_a_deletion_and_goes_when_it_is_no_longer_wanted() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let spec = on_postgres(&client, &namespace).await;
    apply(&client, &namespace, "main", with_everything(spec.clone())).await;
    condition(&client, &namespace, "main", "CleanupScheduled", "True", "Scheduled").await;
    let mut wanted = Vec::new();
    for (kind, name, _, path) in hands() {
        let api = children(&client, &namespace, kind);
        let made = eventually(&format!("{kind:?} {name}"), async || api.get_opt(name).await.ok()?).await;
        wanted
            .push(serde_json::to_value(made).unwrap().pointer(path).unwrap_or_else(|| panic!("{name} {path}")).clone());
    }
    operator.quiet().await;
    for ((kind, name, edit, path), right) in hands().into_iter().zip(&wanted) {
        let api = children(&client, &namespace, kind);
        let edited = api.patch(name, &PatchParams::default(), &Patch::Merge(edit)).await.unwrap();
        let found = serde_json::to_value(edited).unwrap().pointer(path).cloned();
        assert_ne!(found.as_ref(), Some(right), "the hand did nothing to {kind:?}");
    }
    for ((kind, name, _, path), right) in hands().into_iter().zip(&wanted) {
        let api = children(&client, &namespace, kind);
        eventually(&format!("{kind:?} {name} is put right"), async || {
            let now = serde_json::to_value(api.get(name).await.ok()?).unwrap();
            (now.pointer(path) == Some(right)).then_some(())
        })
        .await;
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }
    for (kind, name, _, _) in hands() {
        let api = children(&client, &namespace, kind);
        eventually(&format!("{kind:?} {name} is back"), async || {
            let there = api.get_opt(name).await.ok()??;
            there.metadata.deletion_timestamp.is_none().then_some(())
        })
        .await;
    }
    let mut bare = spec;
    bare["replicas"] = json!(1);
    apply(&client, &namespace, "main", bare).await;
    for (kind, name, _, _) in hands() {
        let api = children(&client, &namespace, kind);
        eventually(&format!("{kind:?} {name} is gone"), async || api.get_opt(name).await.ok()?.is_none().then_some(()))
            .await;
    }
    condition(&client, &namespace, "main", "CleanupScheduled", "False", "NotScheduled").await;
    operator.quiet().await;
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

#[tokio::test]
async fn a_taken_name_of_any_kind_stalls_and_is_not_touched() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let spec = on_postgres(&client, &namespace).await;
    let pods = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "a"}]}});
    let theirs = [
        (Kind::CronJob, "cron-cleanup", json!({"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": pods}}})),
        (Kind::NetworkPolicy, "fence", json!({"podSelector": {"matchLabels": {"a": "b"}}})),
        (Kind::Ingress, "door", json!({"defaultBackend": {"service": {"name": "a", "port": {"number": 1}}}})),
    ];
    let mut before = Vec::new();
    for (kind, name, body) in &theirs {
        let object =
            json!({"apiVersion": kind.api_version(), "kind": kind.as_str(), "metadata": {"name": name}, "spec": body});
        let api = children(&client, &namespace, *kind);
        before.push(api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap());
    }
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    for (instance, named) in
        [("cron", "CronJob cron-cleanup"), ("fence", "NetworkPolicy fence"), ("door", "Ingress door")]
    {
        apply(&client, &namespace, instance, with_everything(spec.clone())).await;
        let told = condition(&client, &namespace, instance, "Stalled", "True", "NameTaken").await;
        assert!(told.contains(named), "{told}");
    }
    operator.quiet().await;
    for ((kind, name, _), before) in theirs.iter().zip(&before) {
        let after = children(&client, &namespace, *kind).get(name).await.unwrap();
        assert_eq!(after.metadata.resource_version, before.metadata.resource_version, "{name} was touched");
    }
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
