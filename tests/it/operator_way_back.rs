//! The way back after a bad rollout leads to just what was: the same pods on the same database, and a cleanup of what serves.

use jam_plan::JamInstance;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::kubelet::FATE;
use crate::operator_support::{Account, Kubelet, apply, condition, eventually};
use crate::plan_diff::{manifest, plan, said};
use crate::support::cluster::control_plane;

const HASTY: &[&str] = &["--leader-election", "false", "--progress-deadline", "5"];

async fn secret(client: &Client, namespace: &str, name: &str, values: Value) {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = json!({"metadata": {"name": name}, "stringData": values});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
}

/// An instance with workers and a cleanup, on a database and a bucket that have Secrets of their own.
async fn on_database_and_bucket(client: &Client, namespace: &str) -> Value {
    for name in ["db", "db2"] {
        secret(client, namespace, name, json!({"dsn": format!("postgres://jam@{name}/jam")})).await;
    }
    for name in ["keys", "keys2"] {
        secret(client, namespace, name, json!({"AWS_ACCESS_KEY_ID": name, "AWS_SECRET_ACCESS_KEY": name})).await;
    }
    json!({
        "runtime": {"jam": {"enabled": true, "store": "postgres"}},
        "database": {"dsnSecretRef": {"name": "db", "key": "dsn"}},
        "blobStore": {"url": "s3://bucket", "endpoint": "http://s3:9000", "credentialsSecretRef": {"name": "keys"}},
        "workers": {"replicas": 1},
        "cleanup": {"schedule": "0 0 29 2 *"},
        // Kubernetes writes it in another way.
        "podTemplate": {"resources": {"requests": {"cpu": "0.5"}}},
    })
}

/// The pod templates of servers, workers and cleanup.
async fn templates(client: &Client, namespace: &str) -> [Value; 3] {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let of = async |name: &str| json!(deployments.get(name).await.unwrap().spec.unwrap().template);
    let cron_jobs: Api<CronJob> = Api::namespaced(client.clone(), namespace);
    let cleanup = cron_jobs.get("main-cleanup").await.unwrap().spec.unwrap().job_template.spec.unwrap().template;
    [of("main").await, of("main-worker").await, json!(cleanup)]
}

/// Every set of pods there was of the instance.
async fn sets(client: &Client, namespace: &str) -> Vec<String> {
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
    sets.list(&ListParams::default()).await.unwrap().items.iter().map(ResourceExt::name_any).collect()
}

#[tokio::test]
async fn after_a_bad_rollout_to_another_database_and_bucket_no_good_pod_restarts_and_what_serves_is_cleaned() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, HASTY);
    let mut spec = on_database_and_bucket(&client, &namespace).await;
    apply(&client, &namespace, "main", spec.clone()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    let good = templates(&client, &namespace).await;
    let before = sets(&client, &namespace).await;

    spec["database"]["dsnSecretRef"]["name"] = "db2".into();
    spec["blobStore"] =
        json!({"url": "s3://other", "endpoint": "https://s3:9443", "credentialsSecretRef": {"name": "keys2"}});
    spec["podTemplate"] = json!({"env": [{"name": FATE, "value": "crash"}], "nodeSelector": {"no": "node"}});
    apply(&client, &namespace, "main", spec.clone()).await;
    condition(&client, &namespace, "main", "Ready", "False", "RolledBack").await;
    eventually("every pod and the cleanup is as before", async || {
        (templates(&client, &namespace).await == good).then_some(())
    })
    .await;
    operator.quiet().await;
    assert_eq!(templates(&client, &namespace).await, good, "and there it stays");
    let tried = sets(&client, &namespace).await.len() - before.len();
    assert_eq!(tried, 2, "the bad servers and workers; the good pods are those of before");
    let planned = plan(plane, &manifest(&namespace, "main", &spec), &["--progress-deadline", "5"]);
    assert!(planned.status.success() && said(&planned).contains("nothing would change"), "{}", said(&planned));
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

/// The ConfigMap with the revision that is gone back to.
async fn good_revision(client: &Client, namespace: &str) -> String {
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    let status = instances.get("main").await.unwrap().status.unwrap();
    let (from, last) = (status.rollout.unwrap().from.unwrap().revision, status.last_good.unwrap().revision);
    assert_eq!(from, last);
    last.unwrap()
}

#[tokio::test]
async fn a_good_revision_whose_config_map_is_deleted_is_recorded_again_from_what_runs_and_told_where_nothing_is_left() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, HASTY);
    // Kubernetes writes the number in another way: what runs is not word for word what was applied.
    let resources = json!({"requests": {"cpu": "0.5"}});
    let mut spec =
        json!({"runtime": {"jam": {"enabled": true, "store": "memory"}}, "podTemplate": {"resources": resources}});
    apply(&client, &namespace, "main", spec.clone()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let template = async || Some(deployments.get_opt("main").await.unwrap()?.spec.unwrap().template);
    let good = template().await;
    spec["podTemplate"]["env"] = json!([{"name": FATE, "value": "crash"}]);
    apply(&client, &namespace, "main", spec.clone()).await;
    condition(&client, &namespace, "main", "Ready", "False", "RolledBack").await;
    eventually("the last good template is back", async || (template().await == good).then_some(())).await;
    operator.quiet().await;

    let (maps, tried): (Api<ConfigMap>, _) =
        (Api::namespaced(client.clone(), &namespace), sets(&client, &namespace).await);
    let first = good_revision(&client, &namespace).await;
    maps.delete(&first, &DeleteParams::default()).await.unwrap();
    eventually("there is a record again", async || {
        maps.get_opt(&good_revision(&client, &namespace).await).await.unwrap().map(drop)
    })
    .await;
    operator.quiet().await;
    assert_eq!((template().await, sets(&client, &namespace).await), (good.clone(), tried), "no pod restarts");
    deployments.delete("main", &DeleteParams::default()).await.unwrap();
    eventually("the good pods are made again", async || (template().await == good).then_some(())).await;
    condition(&client, &namespace, "main", "Stalled", "True", "RolledBack").await;
    operator.quiet().await;
    operator.stop().await;

    let last = good_revision(&client, &namespace).await;
    maps.delete(&last, &DeleteParams::default()).await.unwrap();
    deployments.delete("main", &DeleteParams::default()).await.unwrap();
    let operator = account.start(plane, HASTY);
    let told = condition(&client, &namespace, "main", "Stalled", "True", "RollbackRefused").await;
    assert!(told.contains(&last) && told.contains("until the spec changes"), "{told}");
    spec["podTemplate"]["env"][0]["value"] = "fine".into();
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}
