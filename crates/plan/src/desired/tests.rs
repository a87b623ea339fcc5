//! Laws of the builders, held for every shape of instance.

mod kinds;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::crd::JamInstance;
use crate::fixtures::{
    but, cluster_for, in_memory, instance, job, migrated_cluster_for, named, objects, on_postgres, settled_cluster_for,
    token,
};
use crate::observed::{JobState, Observed, SecretKey};

/// Instances of many shapes.
fn shapes() -> Vec<JamInstance> {
    let postgres = on_postgres();
    vec![
        in_memory(),
        instance(json!({})),
        postgres.clone(),
        but(&postgres, json!({"workers": {"replicas": 2}, "deletionPolicy": "Delete"})),
        but(&postgres, json!({"autoscaling": {"minReplicas": 2, "maxReplicas": 5}})),
        but(&postgres, json!({"ingress": {"enabled": true, "host": "jam.example"}, "networkPolicy": {}})),
        but(
            &postgres,
            json!({"cleanup": {}, "httpRoute": {"enabled": true, "parentRefs": [{"name": "g"}]},
                "monitoring": {"serviceMonitor": true, "prometheusRule": true, "dashboard": true}}),
        ),
        but(
            &postgres,
            json!({"podTemplate": {
                "labels": {"team": "a"}, "annotations": {"a": "b"}, "env": [{"name": "RUST_LOG", "value": "debug"}],
                "resources": {"limits": {"memory": "2Gi"}}, "nodeSelector": {"disk": "ssd"},
            }}),
        ),
    ]
}

/// Every object of every shape, before and after the migration.
fn every_object() -> Vec<Desired> {
    let before = shapes().into_iter().map(|shape| objects(&shape, &cluster_for(&shape)));
    let after = shapes().into_iter().map(|shape| objects(&shape, &settled_cluster_for(&shape)));
    before.chain(after).flat_map(|objects| objects.items).collect()
}

fn pods(all: &[Desired]) -> Vec<(&Desired, &Value)> {
    let paths = ["/spec/template/spec", "/spec/jobTemplate/spec/template/spec"];
    let all = all.iter().flat_map(|item| paths.iter().map(move |path| (item, item.body.pointer(path))));
    all.filter_map(|(item, pod)| Some((item, pod?))).collect()
}

/// Kind and name of the objects that differ or are in one list only.
fn changed(one: &Objects<Desired>, other: &Objects<Desired>) -> BTreeSet<Kind> {
    let of = |objects: &Objects<Desired>| -> BTreeSet<(ObjectRef, String)> {
        objects.items.iter().map(|item| (item.object.clone(), item.hash.clone())).collect()
    };
    of(one).symmetric_difference(&of(other)).map(|(object, _)| object.kind).collect()
}

#[test]
fn every_pod_is_restricted() {
    let all = every_object();
    assert!(pods(&all).len() > 10);
    for (item, pod) in pods(&all) {
        let at = |path: &str| pod.pointer(path).cloned().unwrap_or_default();
        assert_eq!(at("/securityContext/runAsNonRoot"), true, "{}", item.object);
        assert_eq!(at("/securityContext/runAsUser"), 65_532);
        assert_eq!(at("/securityContext/seccompProfile/type"), "RuntimeDefault");
        assert_eq!(at("/automountServiceAccountToken"), false);
        assert_eq!(at("/containers/0/securityContext/readOnlyRootFilesystem"), true);
        assert_eq!(at("/containers/0/securityContext/allowPrivilegeEscalation"), false);
        assert_eq!(at("/containers/0/securityContext/capabilities"), json!({"drop": ["ALL"]}));
        assert!(at("/containers/0/resources/limits/memory").is_string());
        assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn every_object_carries_the_labels_by_which_it_is_found_and_its_own_hash() {
    for item in every_object() {
        let metadata = &item.body["metadata"];
        assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "jam-operator", "{}", item.object);
        assert_eq!(metadata["labels"]["jam.network/instance"], "main");
        assert_eq!(metadata["annotations"]["jam.network/rendered"], item.hash.as_str());
        assert_eq!(metadata["name"], item.object.name.as_str());
        assert_eq!(metadata["namespace"], "jam");
        assert_eq!(item.body["kind"], item.object.kind.as_str());
    }
}

#[test]
fn every_object_goes_with_its_instance_except_tokens_that_are_retained() {
    for shape in shapes() {
        let retains = shape.spec.deletion_policy == crate::crd::DeletionPolicy::Retain;
        for item in objects(&shape, &settled_cluster_for(&shape)).items {
            let owner = &item.body["metadata"]["ownerReferences"][0];
            if retains && item.body["metadata"]["labels"].get(names::CONSUMER).is_some() {
                assert!(owner.is_null(), "{}", item.object);
            } else {
                assert!(owner["controller"] == true && owner["uid"] == "uid-1", "{}", item.object);
            }
        }
    }
}

#[test]
fn no_null_is_applied() {
    fn nulls(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Array(items) => items.iter().any(nulls),
            Value::Object(fields) => fields.values().any(nulls),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
    }
    assert!(every_object().iter().all(|item| !nulls(&item.body)));
}

#[test]
fn a_consumers_token_is_never_written_by_apply() {
    for item in every_object().iter().filter(|item| item.body["metadata"]["labels"].get(names::CONSUMER).is_some()) {
        assert!(item.body.get("data").is_none() && item.body.get("stringData").is_none());
    }
}

#[test]
fn objects_are_applied_in_the_written_order() {
    let wanted = [
        "Secret main-token-demo",
        "Secret main-token-hashes",
        "ServiceAccount main",
        "ConfigMap main-config-",
        "ConfigMap main-revision-",
        "Service main",
        "Deployment main",
        "PodDisruptionBudget main",
    ];
    let all = named(&objects(&on_postgres(), &settled_cluster_for(&on_postgres())));
    assert_eq!(all.len(), wanted.len(), "{all:?}");
    assert!(all.iter().zip(wanted).all(|(name, wanted)| name.starts_with(wanted)), "{all:?}");
}

#[test]
fn the_same_instance_renders_the_same_objects() {
    for shape in shapes() {
        let cluster = settled_cluster_for(&shape);
        assert_eq!(objects(&shape, &cluster), objects(&shape, &cluster));
    }
}

#[test]
fn a_new_token_changes_the_hashes_alone_and_rolls_no_pod() {
    let instance = on_postgres();
    let before = settled_cluster_for(&instance);
    let after = Observed { tokens: vec![token("demo", 2)], ..before.clone() };
    assert_eq!(changed(&objects(&instance, &before), &objects(&instance, &after)), BTreeSet::from([Kind::Secret]));
    let further = but(&instance, json!({"tokens": {"consumers": [{"name": "demo"}, {"name": "other"}]}}));
    let both = Observed { tokens: vec![token("demo", 1), token("other", 3)], ..before.clone() };
    assert_eq!(changed(&objects(&instance, &before), &objects(&further, &both)), BTreeSet::from([Kind::Secret]));
}

#[test]
fn a_changed_setting_makes_another_config_map_and_rolls_the_pods() {
    let instance = on_postgres();
    let cluster = settled_cluster_for(&instance);
    let other = but(&instance, json!({"runtime": {"jam": {"enabled": false}}}));
    let changed = changed(&objects(&instance, &cluster), &objects(&other, &cluster));
    assert_eq!(changed, BTreeSet::from([Kind::ConfigMap, Kind::Deployment]));
}

#[test]
fn a_setting_written_out_as_its_default_changes_nothing() {
    let instance = on_postgres();
    let cluster = settled_cluster_for(&instance);
    let explicit = but(&instance, json!({"runtime": {"jam": {"rateLimitPerMinute": 60, "retentionDays": 30}}}));
    assert_eq!(objects(&instance, &cluster), objects(&explicit, &cluster));
}

#[test]
fn a_changed_dsn_rolls_the_pods_once_it_is_migrated() {
    let instance = on_postgres();
    let before = settled_cluster_for(&instance);
    let moved = Observed {
        dsn: Some(SecretKey::Present { hash: "dsn-hash-2".into() }),
        migration_jobs: Vec::new(),
        ..before.clone()
    };
    let waiting = objects(&instance, &moved);
    assert_eq!(waiting.keep, [ObjectRef { kind: Kind::Deployment, name: "main".into() }]);
    let done = Observed { migration_jobs: vec![job(&instance, &moved, JobState::Complete)], ..moved };
    let changed = changed(&objects(&instance, &before), &objects(&instance, &done));
    assert_eq!(changed, BTreeSet::from([Kind::ConfigMap, Kind::Deployment]));
}

#[test]
fn the_deployment_waits_for_the_migration_and_is_kept_meanwhile() {
    let instance = but(&on_postgres(), json!({"workers": {"replicas": 1}}));
    let waiting = objects(&instance, &cluster_for(&instance));
    assert!(waiting.items.iter().all(|item| item.object.kind != Kind::Deployment));
    assert_eq!(waiting.keep.len(), 2);
    let after = objects(&instance, &migrated_cluster_for(&instance));
    assert_eq!(after.items.iter().filter(|item| item.object.kind == Kind::Deployment).count(), 2);
    assert!(after.items.iter().all(|item| item.object.kind != Kind::Job));
}

#[test]
fn a_rollout_never_has_a_pod_too_few() {
    let all = every_object();
    for item in all.iter().filter(|item| item.object.kind == Kind::Deployment) {
        let rolling = &item.body["spec"]["strategy"]["rollingUpdate"];
        assert_eq!(rolling, &json!({"maxSurge": 1, "maxUnavailable": 0}), "{}", item.object.name);
    }
    for item in all.iter().filter(|item| item.object.name == "main" && item.object.kind == Kind::Deployment) {
        let container = &item.body["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz");
        assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/healthz");
        let asleep = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_i64().unwrap();
        let grace = item.body["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap();
        assert!(grace >= asleep + 30, "30 s to finish what is in flight come after the sleep");
    }
}

#[test]
fn volumes_are_mounted_as_whole_directories() {
    let all = every_object();
    for (_, pod) in pods(&all) {
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        assert!(mounts.iter().all(|mount| mount.get("subPath").is_none()));
    }
}

#[test]
fn the_dsn_is_a_reference_and_never_a_value() {
    let all = objects(&on_postgres(), &settled_cluster_for(&on_postgres()));
    let text = serde_json::to_string(&all.items.iter().map(|item| &item.body).collect::<Vec<_>>()).unwrap();
    assert!(text.contains(r#""secretKeyRef":{"key":"dsn","name":"jam-db","optional":false}"#));
    assert!(!text.contains("postgres://"));
}

#[test]
fn a_budget_is_made_only_where_there_is_more_than_one_pod() {
    let budget = |change: Value| {
        let instance = but(&on_postgres(), change);
        named(&objects(&instance, &settled_cluster_for(&instance))).contains(&"PodDisruptionBudget main".to_owned())
    };
    assert!(budget(json!({"replicas": 2})) && budget(json!({"replicas": 1, "autoscaling": {"maxReplicas": 4}})));
    assert!(!budget(json!({"replicas": 1})) && !budget(json!({"replicas": 0})));
}

#[test]
fn replicas_are_the_autoscalers_once_it_has_written_them() {
    let instance = but(&on_postgres(), json!({"autoscaling": {"minReplicas": 2, "maxReplicas": 5}}));
    let mut cluster = settled_cluster_for(&instance);
    let replicas = |cluster: &Observed| {
        let all = objects(&instance, cluster);
        let api = all.items.iter().find(|item| item.object.kind == Kind::Deployment).unwrap().clone();
        api.body["spec"].get("replicas").and_then(Value::as_i64)
    };
    cluster.api.as_mut().unwrap().wanted = 4;
    assert_eq!(replicas(&cluster), Some(4), "letting go now would fall back to 1");
    cluster.api.as_mut().unwrap().replicas_taken_over = true;
    assert_eq!(replicas(&cluster), None);
    cluster.api = None;
    assert_eq!(replicas(&cluster), Some(2));
}

#[test]
fn overrides_are_merged_into_the_pods() {
    let template = json!({"labels": {"team": "a"}, "env": [{"name": "RUST_LOG", "value": "debug"}],
        "resources": {"limits": {"memory": "2Gi"}}, "priorityClassName": "high",
        "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]});
    let instance = but(&on_postgres(), json!({"podTemplate": template}));
    let all = objects(&instance, &settled_cluster_for(&instance)).items;
    let (item, pod) = pods(&all)[0];
    let labels = &item.body["spec"]["template"]["metadata"]["labels"];
    assert_eq!((&labels["team"], &labels["app.kubernetes.io/name"]), (&json!("a"), &json!("jam")));
    let container = &pod["containers"][0];
    assert_eq!(container["resources"]["limits"]["memory"], "2Gi");
    assert_eq!(container["resources"]["requests"]["memory"], "64Mi");
    assert_eq!(container["env"].as_array().unwrap().last().unwrap()["name"], "RUST_LOG");
    assert_eq!(pod["priorityClassName"], "high");
    assert_eq!(pod["topologySpreadConstraints"][0]["topologyKey"], "zone");
}

#[test]
fn every_key_of_the_settings_reaches_the_servers_file() {
    let instance = but(
        &in_memory(),
        json!({"runtime": {"jam": {"services": [{"id": "svc-1", "maxPendingPackages": 5}], "allowedOrigins": ["https://a.example"]}}}),
    );
    let resolved = crate::fixtures::resolved(&instance, &cluster_for(&instance));
    let file: Value = serde_saphyr::from_str(&config::file(&resolved)).unwrap();
    let block = file["runtime"]["jam"].as_object().unwrap();
    let keys = serde_json::to_value(&resolved.settings).unwrap();
    assert!(keys.as_object().unwrap().keys().all(|key| block.contains_key(key)), "{block:?}");
    assert_eq!(block["services"], json!([{"id": "svc-1", "max_pending_packages": 5}]));
}
