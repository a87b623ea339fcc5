//! `cleanup`: a Job made from the CronJob, as `kubectl create job --from` makes it, unless one runs.

use std::fmt::Write as _;
use std::time::Duration;

use jam_plan::names::{self, CONTAINER, DRY_RUN};
use k8s_openapi::api::batch::v1::{CronJob, Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use tokio::time::Instant;

use super::args::{CleanupArgs, WaitArgs};
use super::cluster::{Cluster, Instance, place, spec, told};
use super::fault::Fault;

/// How often the Job is asked.
const PACE: Duration = Duration::from_millis(500);

/// Starts a run.
pub async fn start(cluster: &Cluster, args: &CleanupArgs) -> Result<String, Fault> {
    let CleanupArgs { name, dry_run, wait: waiting } = args;
    let instance = cluster.instance(name).await?;
    let cron_job_name = names::cleanup(name);
    let cron_jobs: Api<CronJob> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let found = cron_jobs.get_opt(&cron_job_name).await;
    let cron_job = found.map_err(|error| Fault::of(&format!("read CronJob {cron_job_name}"), error))?;
    let Some(cron_job) = cron_job else { return Err(Fault::Refused(without(&instance))) };
    let jobs: Api<Job> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    if let Some(running) = running(&jobs, name).await? {
        return Err(Fault::Refused(format!(
            "{}: Job {running} is cleaning up now, never two at once; follow it with: kubectl logs -f job/{running} -n {}",
            place(&instance),
            cluster.namespace
        )));
    }
    let job = jobs.create(&PostParams::default(), &run_of(&cron_job, *dry_run)).await;
    let job = job.map_err(|error| Fault::of(&format!("create a Job from CronJob {cron_job_name}"), error))?.name_any();
    let doing = if *dry_run { "counts what would be archived and deleted" } else { "cleans up" };
    let mut text = format!("{}: Job {job} {doing}\n", place(&instance));
    if waiting.wait {
        let words = ended(cluster, &jobs, &job, *waiting).await?;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {}", words.trim());
    } else {
        let _ = writeln!(text, "  follow it with: kubectl logs -f job/{job} -n {}", cluster.namespace);
    }
    Ok(text)
}

/// Why there is no CronJob, and what to do instead.
fn without(instance: &Instance) -> String {
    let at = place(instance);
    let store = told(instance).store.map(|store| serde_json::json!(store));
    if store.is_some_and(|store| store == "memory") {
        return format!(
            "{at}: the memory store is cleaned up in its own process and has no CronJob; \
             an administrator runs it there now: slctl jam admin cleanup --run"
        );
    }
    if spec(instance, "/cleanup").is_none() {
        let name = instance.name_any();
        let namespace = instance.namespace().unwrap_or_default();
        return format!(
            "{at}: no cleanup is set; give it the defaults: \
             kubectl patch jam {name} -n {namespace} --type merge -p '{{\"spec\":{{\"cleanup\":{{}}}}}}'"
        );
    }
    format!("{at}: its CronJob is not there yet; kubectl jam explain {} says why", instance.name_any())
}

/// A run that is under way, whoever started it.
async fn running(jobs: &Api<Job>, instance: &str) -> Result<Option<String>, Fault> {
    let labels = names::written(&names::selector(instance, names::Component::Cleanup));
    let list = jobs.list(&ListParams::default().labels(&labels)).await;
    let list = list.map_err(|error| Fault::of("list the Jobs of the cleanup", error))?;
    let goes_on = |job: &&Job| outcome(job).is_none();
    Ok(list.items.iter().find(goes_on).map(ResourceExt::name_any))
}

/// Whether a Job succeeded, once it has ended.
fn outcome(job: &Job) -> Option<bool> {
    let conditions = job.status.as_ref()?.conditions.as_deref()?;
    let ended = conditions
        .iter()
        .find(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True")?;
    Some(ended.type_ == "Complete")
}

/// What `kubectl create job --from=cronjob/…` makes.
fn run_of(cron_job: &CronJob, dry_run: bool) -> Job {
    let template = cron_job.spec.as_ref().map(|spec| spec.job_template.clone()).unwrap_or_default();
    let metadata = template.metadata.unwrap_or_default();
    let owner = OwnerReference {
        api_version: "batch/v1".into(),
        kind: "CronJob".into(),
        name: cron_job.name_any(),
        uid: cron_job.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.insert("cronjob.kubernetes.io/instantiate".into(), "manual".into());
    Job {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-manual-", cron_job.name_any())),
            labels: metadata.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.map(|spec| counting(spec, dry_run)),
        status: None,
    }
}

/// The run with exactly the wish of this command: what the schedule does is not asked.
fn counting(mut spec: JobSpec, dry_run: bool) -> JobSpec {
    for container in spec.template.spec.iter_mut().flat_map(|pod| &mut pod.containers) {
        if container.name == CONTAINER {
            let arguments = container.args.get_or_insert_default();
            arguments.retain(|argument| argument != DRY_RUN);
            arguments.extend(dry_run.then(|| DRY_RUN.to_owned()));
        }
    }
    spec
}

/// Waits for the end of a Job and returns its last words.
async fn ended(cluster: &Cluster, jobs: &Api<Job>, name: &str, args: WaitArgs) -> Result<String, Fault> {
    let deadline = Instant::now() + args.timeout;
    loop {
        let job = jobs.get(name).await.map_err(|error| Fault::of(&format!("read Job {name}"), error))?;
        match outcome(&job) {
            Some(true) => return Ok(last_words(cluster, name).await),
            Some(false) => {
                let words = last_words(cluster, name).await;
                return Err(Fault::Ended(format!(
                    "Job {name} failed: {words}; the whole of it: kubectl logs job/{name} -n {}",
                    cluster.namespace
                )));
            }
            None if Instant::now() >= deadline => {
                let seconds = args.timeout.as_secs();
                return Err(Fault::Timeout(format!(
                    "Job {name} has not ended after {seconds} s and goes on: kubectl logs -f job/{name} -n {}",
                    cluster.namespace
                )));
            }
            None => tokio::time::sleep(PACE).await,
        }
    }
}

/// What the newest pod of a Job said when it ended.
async fn last_words(cluster: &Cluster, job: &str) -> String {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let list = pods.list(&ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"))).await;
    let mut pods = list.map(|list| list.items).unwrap_or_default();
    pods.sort_by_key(|pod| pod.creation_timestamp().map(|at| at.0));
    let words = pods.into_iter().rev().find_map(|pod| {
        let containers = pod.status?.container_statuses?;
        let own = containers.into_iter().find(|container| container.name == CONTAINER)?;
        own.state?.terminated?.message
    });
    words.unwrap_or_else(|| "it left no last words".into())
}
