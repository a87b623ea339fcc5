//! What is told of pods: what keeps a dry run from its beginning; nothing that they said with a password that is known no more.

use jam_plan::JamInstance;
use jam_plan::crd::MigrationState;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::kubelet::FATE;
use crate::operator_cleanup::run_of;
use crate::operator_kinds::on_postgres;
use crate::operator_migrations::unfinished;
use crate::operator_support::{Account, Kubelet, Operator, apply, condition, eventually};
use crate::support::cluster::control_plane;

async fn rotate(client: &Client, namespace: &str, password: &str) {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let filled = json!({"stringData": {"dsn": format!("postgres://jam:{password}@db:5432/jam")}});
    secrets.patch("db", &PatchParams::default(), &Patch::Merge(filled)).await.unwrap();
}

/// Whatever the operator has written for people: status, events, evidence and its log.
async fn written(client: &Client, namespace: &str, operator: &Operator) -> String {
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let all = ListParams::default();
    let (events, maps) = (events.list(&all).await.unwrap().items, maps.list(&all).await.unwrap().items);
    let data: Vec<_> = maps.into_iter().map(|map| map.data).collect();
    json!([instances.get("main").await.unwrap().status, events, data]).to_string() + &operator.logged()
}

#[tokio::test]
async fn a_pod_that_crashes_with_a_former_password_is_told_without_its_words() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false", "--progress-deadline", "20"]);
    let mut spec = on_postgres(&client, &namespace).await;
    // A word of what the pods say last.
    rotate(&client, &namespace, "purpose").await;
    spec["podTemplate"] = json!({"env": [{"name": FATE, "value": "crash-first"}]});
    apply(&client, &namespace, "main", spec).await;
    let says = async |words: &str| {
        eventually(words, async || {
            let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
            let status = instances.get("main").await.unwrap().status?;
            status.conditions.iter().any(|told| told.message.contains(words)).then_some(())
        })
        .await;
    };
    says("CrashLoopBackOff: broken on (redacted)").await;
    rotate(&client, &namespace, "another").await;
    says("CrashLoopBackOff: exit code 1; what it said is left out: what it was given as the DSN").await;
    condition(&client, &namespace, "main", "Stalled", "True", "RolloutStuck").await;
    operator.quiet().await;
    let all = written(&client, &namespace, &operator).await;
    assert!(!all.contains("purpose"), "{all}");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_cleanup_that_failed_with_a_former_password_is_told_without_its_words() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false"]);
    let mut spec = on_postgres(&client, &namespace).await;
    rotate(&client, &namespace, "purpose").await;
    spec["cleanup"] = json!({"schedule": "0 0 29 2 *"});
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "CleanupScheduled", "True", "Scheduled").await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    drop(kubelet);
    let kubelet = Kubelet::play(&client, &namespace, 1, "nobody here by the password purpose");
    let cron_job = Api::<CronJob>::namespaced(client.clone(), &namespace).get("main-cleanup").await.unwrap();
    let jobs: Api<Job> = Api::namespaced(client.clone(), &namespace);
    jobs.create(&PostParams::default(), &run_of(&cron_job, "first")).await.unwrap();
    let told = condition(&client, &namespace, "main", "CleanupScheduled", "False", "CleanupFailed").await;
    assert!(told.contains("Job first failed: nobody here by the password"), "{told}");
    // The pod stays as it is; the migration of the other DSN does not end.
    drop(kubelet);
    rotate(&client, &namespace, "another").await;
    eventually("its words are left out", async || {
        let told = condition(&client, &namespace, "main", "CleanupScheduled", "False", "CleanupFailed").await;
        told.contains("Job first failed: exit code 1; what it said is left out: what it was given as the DSN")
            .then_some(())
    })
    .await;
    operator.quiet().await;
    let all = written(&client, &namespace, &operator).await;
    assert!(!all.contains("purpose"), "{all}");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_dry_run_that_cannot_begin_says_why_while_its_migration_waits_for_approval() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false"]);
    let mut spec = on_postgres(&client, &namespace).await;
    spec["migrations"] = json!({"mode": "Manual"});
    apply(&client, &namespace, "main", spec).await;
    let pod = eventually("a pod", async || unfinished(&client, &namespace).await.pop()).await.0;
    let waiting = json!({"reason": "ErrImagePull", "message": "jam-api:nowhere: not found"});
    let container = json!({"name": "jam", "image": "x", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": waiting}});
    let status = json!({"status": {"phase": "Pending", "containerStatuses": [container]}});
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    pods.patch_status(&pod, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let why = format!("finds out what it would apply: pod {pod}: ErrImagePull: jam-api:nowhere: not found)");
    for kind in ["Ready", "Migrated"] {
        eventually("it is told why nobody finds out", async || {
            let told = condition(&client, &namespace, "main", kind, "False", "ApprovalNeeded").await;
            told.contains(&why).then_some(())
        })
        .await;
    }
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_second_pod_that_the_deadline_of_its_job_cuts_short_is_told_of_with_the_time_that_it_had() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let kubelet = Kubelet::play(&client, &namespace, 137, "applying 4 admin");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false"]);
    let mut spec = on_postgres(&client, &namespace).await;
    spec["migrations"] = json!({"timeoutSeconds": 40, "backoffLimit": 3});
    apply(&client, &namespace, "main", spec).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    eventually("the first pod is lost", async || {
        let all = pods.list(&ListParams::default()).await.ok()?.items;
        let ended = |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Failed"));
        all.iter().any(ended).then_some(())
    })
    .await;
    // The Job makes a second one ten seconds later, of which nobody hears again.
    drop(kubelet);
    let told = condition(&client, &namespace, "main", "Migrated", "False", "MigrationFailed").await;
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let migration = instances.get("main").await.unwrap().status.unwrap().migration.unwrap();
    assert!(told.contains(&migration.job) && told.contains("deadline of 40 s; its last pod had "), "{told}");
    assert!(told.ends_with("s of that and left no words; a pod before it said: applying 4 admin"), "{told}");
    assert_eq!(migration.state, MigrationState::Failed, "the next Job has the whole time");
    assert!(migration.retry_at > migration.finished_at, "and begins by itself");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}
