//! Migration Jobs that somebody else suspends: a queue for Jobs at their creation, or a hand or controller again and again.

use std::time::{Duration, Instant};

use jam_plan::JamInstance;
use jam_plan::crd::{MigrationState, MigrationStatus};
use jam_plan::names::FIELD_MANAGER;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::operator_kinds::on_postgres;
use crate::operator_support::{Account, Kubelet, apply, condition, eventually};
use crate::support::cluster::control_plane;

const QUIET: &[&str] = &["--leader-election", "false"];

async fn told(client: &Client, namespace: &str) -> Option<MigrationStatus> {
    Api::<JamInstance>::namespaced(client.clone(), namespace).get("main").await.unwrap().status?.migration
}

/// Whether the status says that the Job is suspended, and that it was so again.
async fn is_told(client: &Client, namespace: &str) -> bool {
    let instance = Api::<JamInstance>::namespaced(client.clone(), namespace).get("main").await.unwrap();
    let conditions = instance.status.map(|status| status.conditions).unwrap_or_default();
    let says = |kind: &str, words: &str| conditions.iter().any(|c| c.type_ == kind && c.message.contains(words));
    says("Migrated", "is suspended") && says("Reconciling", "was changed again, and is removed after a pause")
}

/// The one Job that is there and stays.
async fn job(jobs: &Api<Job>) -> Option<Job> {
    let found = jobs.list(&ListParams::default()).await.ok()?.items;
    found.into_iter().find(|job| job.metadata.deletion_timestamp.is_none())
}

async fn suspend(jobs: &Api<Job>, job: &Job, suspend: bool) {
    let change = Patch::Merge(json!({"metadata": {"uid": job.uid()}, "spec": {"suspend": suspend}}));
    // It may be gone by now.
    let _ = jobs.patch(&job.name_any(), &PatchParams::default(), &change).await;
}

/// The Job as an admission that suspends it lets the operator create it.
fn queued(job: &Job) -> Job {
    let metadata = json!({"name": job.name_any(), "labels": job.labels(), "annotations": job.annotations(),
        "ownerReferences": job.owner_references()});
    let mut spec = json!(job.spec);
    spec["suspend"] = true.into();
    spec.as_object_mut().unwrap().remove("selector");
    let labels = spec["template"]["metadata"]["labels"].as_object_mut().unwrap();
    labels.retain(|label, _| !label.contains("controller-uid") && !label.contains("job-name"));
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

#[tokio::test]
async fn a_migration_job_that_an_admission_queues_is_left_alone_and_told_and_runs_in_its_turn() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    apply(&client, &namespace, "main", on_postgres(&client, &namespace).await).await;
    let jobs: Api<Job> = Api::namespaced(client.clone(), &namespace);
    let made = eventually("the Job is made", async || job(&jobs).await).await;
    operator.stop().await;
    jobs.delete(&made.name_any(), &DeleteParams::background()).await.unwrap();
    eventually("it is gone", async || job(&jobs).await.is_none().then_some(())).await;
    let ours = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    let queued = jobs.create(&ours, &queued(&made)).await.unwrap();

    let operator = account.start(plane, QUIET);
    let words = "is suspended: it runs when its spec.suspend is false";
    eventually("it is told", async || {
        let told = told(&client, &namespace).await?;
        (told.state == MigrationState::Pending && told.message.is_some_and(|why| why.contains(words))).then_some(())
    })
    .await;
    let why = condition(&client, &namespace, "main", "Migrated", "False", "Migrating").await;
    assert!(why.contains(words), "{why}");
    operator.quiet().await;
    assert_eq!(job(&jobs).await.unwrap().uid(), queued.uid(), "its place in the queue is not lost");
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    suspend(&jobs, &queued, false).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let told = told(&client, &namespace).await.unwrap();
    assert_eq!((told.state, told.message), (MigrationState::Complete, None));
    assert_eq!(job(&jobs).await.unwrap().uid(), queued.uid());
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_migration_job_that_is_suspended_again_and_again_is_made_again_ever_less_often_and_told() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    apply(&client, &namespace, "main", on_postgres(&client, &namespace).await).await;
    let jobs: Api<Job> = Api::namespaced(client.clone(), &namespace);
    let begun = Instant::now();
    let (mut uids, mut since): (Vec<Option<String>>, _) = (Vec::new(), begun);
    // Until one stays that is suspended, which in a loop without a pause none does, and is told.
    while uids.len() < 3 || since.elapsed() < Duration::from_secs(3) || !is_told(&client, &namespace).await {
        assert!(begun.elapsed() < Duration::from_mins(2), "it is a loop without pauses, or not told: {uids:?}");
        if let Some(there) = job(&jobs).await {
            if uids.last() != Some(&there.uid()) {
                uids.push(there.uid());
                since = Instant::now();
            }
            suspend(&jobs, &there, true).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}
