//! The cleanup on the real Job controller: a run that fails is a condition with its last words, the next good one takes it back.

use jam_plan::{JamInstance, Kind};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::kubelet::ended;
use crate::operator_kinds::{children, on_postgres};
use crate::operator_support::{Account, Kubelet, Operator, apply, condition, eventually};
use crate::support::cluster::control_plane;

/// What `kubectl create job --from=cronjob/main-cleanup` makes, without a second attempt.
pub fn run_of(cron_job: &CronJob, name: &str) -> Job {
    let template = serde_json::to_value(&cron_job.spec.as_ref().unwrap().job_template).unwrap();
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": name, "labels": template["metadata"]["labels"],
            "annotations": {"cronjob.kubernetes.io/instantiate": "manual"},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": cron_job.metadata.name,
                "uid": cron_job.metadata.uid, "controller": true}],
        },
        "spec": template["spec"],
    });
    job["spec"]["backoffLimit"] = json!(0);
    serde_json::from_value(job).unwrap()
}

/// An instance whose cleanup has a schedule that is not due for years, and serves.
struct Timetable {
    client: Client,
    namespace: String,
    kubelet: Kubelet,
    account: Account,
    operator: Operator,
    spec: Value,
}

impl Timetable {
    async fn kept() -> Self {
        let plane = control_plane();
        let (client, namespace) = plane.with_crd().await;
        let kubelet = Kubelet::play(&client, &namespace, 0, "");
        let account = Account::new(plane, &client, &namespace, "operator").await;
        let operator = account.start(plane, &["--leader-election", "false"]);
        let mut spec = on_postgres(&client, &namespace).await;
        spec["cleanup"] = json!({"schedule": "0 0 29 2 *"});
        apply(&client, &namespace, "main", spec.clone()).await;
        condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
        condition(&client, &namespace, "main", "CleanupScheduled", "True", "Scheduled").await;
        Self { client, namespace, kubelet, account, operator, spec }
    }
}

/// One that only counts is told, and what failed before it stays so.
async fn a_dry_run_takes_back_no_failure(client: &Client, namespace: &str, cron_job: &CronJob) {
    let _kubelet = Kubelet::play(client, namespace, 0, r#"{"dry_run":true,"archived":{"packages":7},"deleted":{}}"#);
    let mut dry = run_of(cron_job, "dry");
    let pod = dry.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()).unwrap();
    pod.containers[0].args.get_or_insert_default().push("--dry-run".into());
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    jobs.create(&PostParams::default(), &dry).await.unwrap();
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    let counted = eventually("it is told", async || {
        let told = instances.get("main").await.ok()?.status?.cleanup?;
        Some(told).filter(|told| told.last_result.as_deref() == Some("DryRun"))
    });
    assert_eq!(counted.await.archived.get("packages"), Some(&7));
    let told = condition(client, namespace, "main", "CleanupScheduled", "False", "CleanupFailed").await;
    assert!(told.contains("Job first failed"), "it only counted: {told}");
}

#[tokio::test]
async fn what_a_stopped_cleanup_did_is_in_status_and_one_beside_another_takes_nothing_back() {
    let Timetable { client, namespace, kubelet, operator, .. } = Timetable::kept().await;
    drop(kubelet);
    let words = r#"{"dry_run":false,"error":"the cleanup was told to stop","archived":{"packages":5},"deleted":{}}"#;
    let kubelet = Kubelet::play(&client, &namespace, 124, words);
    let cron_jobs: Api<CronJob> = Api::namespaced(client.clone(), &namespace);
    let jobs: Api<Job> = Api::namespaced(client.clone(), &namespace);
    let cron_job = cron_jobs.get("main-cleanup").await.unwrap();
    let mut first = run_of(&cron_job, "first");
    // Not even where further attempts are allowed: its time is over.
    first.spec.as_mut().unwrap().backoff_limit = Some(2);
    jobs.create(&PostParams::default(), &first).await.unwrap();
    let told = condition(&client, &namespace, "main", "CleanupScheduled", "False", "CleanupFailed").await;
    assert!(told.ends_with("Job first failed: the cleanup was told to stop"), "{told}");
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let cleanup = async || instances.get("main").await.unwrap().status.unwrap().cleanup.unwrap();
    assert_eq!(
        (cleanup().await.last_result.as_deref(), cleanup().await.archived.get("packages")),
        (Some("Failed"), Some(&5))
    );
    assert_eq!(jobs.get("first").await.unwrap().status.unwrap().failed, Some(1));

    drop(kubelet);
    let words = r#"{"dry_run":false,"skipped":true,"why":"another cleanup is running","deleted":{}}"#;
    let kubelet = Kubelet::play(&client, &namespace, 0, words);
    let first = cleanup().await;
    // Ended within another second: the newest counts.
    let run = async |name: &str| {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        jobs.create(&PostParams::default(), &run_of(&cron_job, name)).await.unwrap();
        eventually("it ends", async || jobs.get(name).await.ok()?.status?.completion_time).await;
    };
    run("second").await;
    operator.quiet().await;
    condition(&client, &namespace, "main", "CleanupScheduled", "False", "CleanupFailed").await;
    assert_eq!(cleanup().await, first);
    drop(kubelet);
    a_dry_run_takes_back_no_failure(&client, &namespace, &cron_job).await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, r#"{"dry_run":false,"archived":{"packages":2},"deleted":{}}"#);
    run("third").await;
    condition(&client, &namespace, "main", "CleanupScheduled", "True", "Scheduled").await;
    let good = cleanup().await;
    assert_eq!((good.last_result.as_deref(), good.archived.get("packages")), (Some("Succeeded"), Some(&2)));
    // The one before it is not the last one again when it is gone.
    jobs.delete("third", &DeleteParams::background()).await.unwrap();
    eventually("it is gone", async || jobs.get_opt("third").await.unwrap().is_none().then_some(())).await;
    operator.quiet().await;
    condition(&client, &namespace, "main", "CleanupScheduled", "True", "Scheduled").await;
    assert_eq!(cleanup().await, good);
    operator.quiet().await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_long_suspension_of_the_cleanup_is_held_against_nobody() {
    let Timetable { client, namespace, kubelet: _kubelet, operator, mut spec, .. } = Timetable::kept().await;
    let cron_jobs: Api<CronJob> = Api::namespaced(client.clone(), &namespace);
    let cron_job = cron_jobs.get("main-cleanup").await.unwrap();
    spec["cleanup"]["suspend"] = json!(true);
    apply(&client, &namespace, "main", spec.clone()).await;
    condition(&client, &namespace, "main", "CleanupScheduled", "False", "CleanupSuspended").await;
    spec["cleanup"]["suspend"] = json!(false);
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "CleanupScheduled", "True", "Scheduled").await;
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let cleanup = instances.get("main").await.unwrap().status.unwrap().cleanup.unwrap();
    let since = cleanup.timetable_since.expect("it counts from now on");
    assert!(since >= cron_job.metadata.creation_timestamp.unwrap(), "{since:?}");
    operator.quiet().await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_cleanup_is_told_as_suspended_when_its_cron_job_is_and_not_when_the_spec_says_so() {
    let Timetable { client, namespace, kubelet: _kubelet, operator: _operator, mut spec, .. } = Timetable::kept().await;
    let cron_jobs: Api<CronJob> = Api::namespaced(client.clone(), &namespace);
    for suspend in [true, false] {
        spec["cleanup"]["suspend"] = json!(suspend);
        // The API server takes no pod like that, in a Deployment or in a CronJob.
        spec["podTemplate"] = json!({"resources": {"requests": {"cpu": "lots"}}});
        apply(&client, &namespace, "main", spec.clone()).await;
        condition(&client, &namespace, "main", "Stalled", "True", "InvalidObject").await;
        let (before, after, words) = if suspend {
            (("True", "Scheduled"), ("False", "CleanupSuspended"), "main-cleanup is not suspended yet")
        } else {
            (("False", "CleanupSuspended"), ("True", "Scheduled"), "main-cleanup is still suspended")
        };
        let told = condition(&client, &namespace, "main", "CleanupScheduled", before.0, before.1).await;
        assert!(told.contains(words), "{told}");
        spec.as_object_mut().unwrap().remove("podTemplate");
        apply(&client, &namespace, "main", spec.clone()).await;
        condition(&client, &namespace, "main", "CleanupScheduled", after.0, after.1).await;
        assert_eq!(cron_jobs.get("main-cleanup").await.unwrap().spec.unwrap().suspend, Some(suspend));
    }
}

#[tokio::test]
async fn a_failed_cleanup_is_a_condition_with_its_last_words_until_one_succeeds() {
    let Timetable { client, namespace, kubelet, operator, mut spec, .. } = Timetable::kept().await;

    drop(kubelet);
    let kubelet = Kubelet::play(&client, &namespace, 1, "error: permission denied for table packages");
    let cron_jobs: Api<CronJob> = Api::namespaced(client.clone(), &namespace);
    let jobs: Api<Job> = Api::namespaced(client.clone(), &namespace);
    let cron_job = cron_jobs.get("main-cleanup").await.unwrap();
    jobs.create(&PostParams::default(), &run_of(&cron_job, "first")).await.unwrap();
    let told = condition(&client, &namespace, "main", "CleanupScheduled", "False", "CleanupFailed").await;
    assert!(told.contains("Job first failed: error: permission denied"), "{told}");
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let result = async || instances.get("main").await.ok()?.status?.cleanup?.last_result;
    assert_eq!(result().await.as_deref(), Some("Failed"));

    drop(kubelet);
    let words = r#"{"dry_run":false,"archived":{"packages":5},"deleted":{"packages":3,"preimages":1}}"#;
    let _kubelet = Kubelet::play(&client, &namespace, 0, words);
    // Ended within another second: the newest counts.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    jobs.create(&PostParams::default(), &run_of(&cron_job, "second")).await.unwrap();
    condition(&client, &namespace, "main", "CleanupScheduled", "True", "Scheduled").await;
    eventually("the result is told", async || (result().await? == "Succeeded").then_some(())).await;
    let told = instances.get("main").await.unwrap().status.unwrap().cleanup.unwrap();
    assert_eq!((told.deleted.get("packages"), told.deleted.get("preimages")), (Some(&3), Some(&1)));

    spec["cleanup"]["suspend"] = json!(true);
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "CleanupScheduled", "False", "CleanupSuspended").await;
    let suspended = children(&client, &namespace, Kind::CronJob).get("main-cleanup").await.unwrap();
    assert_eq!(suspended.data["spec"]["suspend"], Value::Bool(true));
    operator.quiet().await;
    assert_eq!(jobs.list(&ListParams::default()).await.unwrap().items.len(), 3, "its runs are not pruned");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

/// The runs of a CronJob, begun and ended one by one.
struct Runs<'a> {
    cron_job: &'a CronJob,
    jobs: Api<Job>,
    pods: Api<Pod>,
}

impl Runs<'_> {
    /// Begins one in another second than whatever was before.
    async fn begin(&self, name: &str) -> Option<Time> {
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        self.jobs.create(&PostParams::default(), &run_of(self.cron_job, name)).await.unwrap();
        Some(eventually("it begins", async || self.jobs.get(name).await.ok()?.status?.start_time).await)
    }

    /// Ends one in another second than whatever was before.
    async fn end(&self, name: &str, exit_code: i32, words: &str) {
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        let selector = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"));
        let pod = async || self.pods.list(&selector).await.ok()?.items.pop();
        let pod = eventually("its pod is made", pod).await.name_any();
        let status = Patch::Merge(json!({"status": ended(exit_code, words)}));
        self.pods.patch_status(&pod, &PatchParams::default(), &status).await.unwrap();
        let is_over = async || {
            let conditions = self.jobs.get(name).await.ok()?.status?.conditions?;
            conditions.iter().any(|one| ["Complete", "Failed"].contains(&one.type_.as_str())).then_some(())
        };
        eventually("it ends", is_over).await;
    }
}

#[tokio::test]
async fn a_cleanup_that_ends_after_another_is_told_whichever_began_first_and_one_beside_both_hides_none() {
    let Timetable { client, namespace, kubelet, account, operator, .. } = Timetable::kept().await;
    drop(kubelet);
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let told = async || instances.get("main").await.unwrap().status.unwrap().cleanup.unwrap();
    let cron_job = Api::<CronJob>::namespaced(client.clone(), &namespace).get("main-cleanup").await.unwrap();
    let (jobs, pods) = (Api::namespaced(client.clone(), &namespace), Api::namespaced(client.clone(), &namespace));
    let runs = Runs { cron_job: &cron_job, jobs, pods };
    let did = r#"{"dry_run":false,"archived":{"packages":5},"deleted":{}}"#;

    let long = runs.begin("long").await;
    runs.begin("short").await;
    runs.end("short", 1, "error: no route to host").await;
    condition(&client, &namespace, "main", "CleanupScheduled", "False", "CleanupFailed").await;
    runs.end("long", 0, did).await;
    condition(&client, &namespace, "main", "CleanupScheduled", "True", "Scheduled").await;
    let now = told().await;
    assert_eq!((&now.last_run, now.archived.get("packages"), &now.failure), (&long, Some(&5), &None));

    // The operator is away while one fails, and while one ends that began first of all and found another one running.
    runs.begin("beside").await;
    let good = runs.begin("good").await;
    runs.end("good", 0, did).await;
    eventually("it is told", async || (told().await.last_run == good).then_some(())).await;
    operator.quiet().await;
    operator.stop().await;
    let bad = runs.begin("bad").await;
    runs.end("bad", 1, "error: permission denied").await;
    runs.end("beside", 0, r#"{"dry_run":false,"skipped":true,"deleted":{}}"#).await;
    let operator = account.start(control_plane(), &["--leader-election", "false"]);
    let words = condition(&client, &namespace, "main", "CleanupScheduled", "False", "CleanupFailed").await;
    assert!(words.ends_with("Job bad failed: error: permission denied"), "{words}");
    assert_eq!(told().await.last_run, bad);
    operator.quiet().await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}
