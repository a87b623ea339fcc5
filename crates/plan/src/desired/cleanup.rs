//! The CronJob of the cleanup: one run at a time, given up after its deadline, never started late by more than half an hour.

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, JobSpec, JobTemplateSpec, PodFailurePolicy};
use k8s_openapi::api::core::v1::{ConfigMapVolumeSource, PodSpec, PodTemplateSpec, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::{Desired, Kind, Write, config, deployment, identity, pod};
use crate::crd::Cleanup;
use crate::names::{self, Component};
use crate::resolve::Resolved;
use crate::schedule;

/// Seconds by which a run may start late, such as after an outage of the control plane.
const LATE: i64 = 1800;
/// Seconds after which a run is given up: what it has not reached the next one does.
const DEADLINE: i64 = 6 * 3600;
/// Seconds before that at which it gives up by itself, and says what it did: who is killed leaves no words.
const SPARE: i64 = 300;
/// Ended runs of each outcome that are kept, for their logs.
const KEPT: i32 = 3;

/// What a pod of the cleanup has of the API pods' template: where it runs, and with whose leave.
const OF_POD: [&str; 5] = ["imagePullSecrets", "nodeSelector", "affinity", "tolerations", "priorityClassName"];
/// The same of its container, beside its variables, which are the database and the bucket.
const OF_CONTAINER: [&str; 3] = ["image", "imagePullPolicy", "resources"];

/// The CronJob, when the spec has a cleanup and there is a database to clean.
pub(super) fn cron_job(resolved: &Resolved) -> Option<Desired> {
    let Cleanup { schedule, time_zone, suspend, dry_run } = resolved.cleanup.as_ref()?;
    if resolved.revision.dsn_hash().is_empty() {
        // A bad rollout led back to the memory store, whose own process cleans up: a Job could only fail.
        return None;
    }
    let name = names::cleanup(&resolved.name);
    let job = CronJob {
        metadata: identity::metadata(resolved, &name, Component::Cleanup),
        spec: Some(CronJobSpec {
            schedule: schedule.clone(),
            time_zone: Some(time_zone.clone()),
            suspend: Some(*suspend),
            concurrency_policy: Some("Forbid".into()),
            starting_deadline_seconds: Some(LATE),
            successful_jobs_history_limit: Some(KEPT),
            failed_jobs_history_limit: Some(KEPT),
            job_template: JobTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(names::labels(&resolved.name, Component::Cleanup)),
                    ..ObjectMeta::default()
                }),
                spec: Some(JobSpec {
                    suspend: Some(false),
                    backoff_limit: Some(2),
                    active_deadline_seconds: Some(DEADLINE),
                    completions: Some(1),
                    parallelism: Some(1),
                    // A pod that is still on its way out counts: two never clean at once.
                    pod_replacement_policy: Some("Failed".into()),
                    pod_failure_policy: Some(PodFailurePolicy { rules: vec![pod::ends_at(pod::LATE)] }),
                    template: PodTemplateSpec::default(),
                    ..JobSpec::default()
                }),
            },
        }),
        status: None,
    };
    let mut body = serde_json::to_value(job).expect("a Kubernetes object is JSON");
    body["spec"]["jobTemplate"]["spec"]["template"] = template(resolved, *dry_run);
    Some(Desired::new(resolved, Kind::CronJob, name, Write::Apply, &body))
}

/// Seconds after the last good run from which `/jam/healthz` calls the next one overdue; `None`: nobody has planned one, or it is
/// the memory store, which cleans up by itself. Suspended or not is not asked: that would restart the servers each time, such
/// as before a restore.
pub(super) fn stale_after(resolved: &Resolved) -> Option<i64> {
    let Cleanup { schedule, time_zone: _, suspend: _, dry_run: _ } = resolved.cleanup.as_ref()?;
    Some(schedule::stale_after(schedule))
}

/// The same for the alert: nobody is woken for a cleanup that somebody has suspended or that only counts.
pub(super) fn alarm_after(resolved: &Resolved) -> Option<i64> {
    let Cleanup { schedule: _, time_zone: _, suspend, dry_run } = resolved.cleanup.as_ref()?;
    stale_after(resolved).filter(|_| !suspend && !dry_run)
}

/// The pod knows the settings and the database. It has no token and no hash of one: nobody calls it.
///
/// Whatever the spec says by now, it is the pods in force that it cleans up after: their image, settings file, database and
/// bucket, on nodes like theirs. After a bad rollout that is the good release.
fn template(resolved: &Resolved, dry_run: bool) -> Value {
    let mut container = pod::container(resolved);
    let mut arguments = vec!["cleanup".to_owned(), "--config".into(), pod::CONFIG_FILE.into()];
    arguments.extend(dry_run.then(|| names::DRY_RUN.to_owned()));
    container.args = Some(arguments);
    container.volume_mounts.get_or_insert_default().push(VolumeMount {
        name: "config".into(),
        mount_path: pod::CONFIG_DIR.into(),
        read_only: Some(true),
        ..VolumeMount::default()
    });
    // What was done becomes the termination message, where the operator finds it; after a failure it is the log's end.
    container.termination_message_policy = Some("FallbackToLogsOnError".into());
    let settings = config::name(&resolved.name, resolved.revision.config());
    let config = Volume {
        name: "config".into(),
        config_map: Some(ConfigMapVolumeSource { name: settings, ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    };
    let spec = PodSpec {
        containers: vec![container],
        restart_policy: Some("Never".into()),
        termination_grace_period_seconds: Some(30),
        volumes: Some(vec![config, pod::scratch()]),
        ..pod::base(resolved)
    };
    let template = PodTemplateSpec { metadata: Some(ObjectMeta::default()), spec: Some(spec) };
    let mut template = serde_json::to_value(template).expect("a Kubernetes object is JSON");
    inherit(&mut template, resolved);
    template
}

/// Gives the template of the cleanup what the API pods in force have.
fn inherit(template: &mut Value, resolved: &Resolved) {
    let api = resolved.revision.api();
    let (pod, container) = (&api["spec"], &api["spec"]["containers"][0]);
    take(&mut template["spec"], pod, &OF_POD);
    let mine = &mut template["spec"]["containers"][0];
    take(mine, container, &OF_CONTAINER);
    let theirs = |variable: &&Value| !deployment::OWN_VARIABLES.iter().any(|name| variable["name"] == *name);
    let own = [
        pod::variable("JAM_CLEANUP_RESULT_FILE", "/dev/termination-log"),
        pod::variable("JAM_CLEANUP_TIMEOUT", &format!("{}s", DEADLINE - SPARE)),
    ];
    let own = own.iter().map(|variable| serde_json::to_value(variable).expect("a Kubernetes object is JSON"));
    let env = container["env"].as_array().into_iter().flatten().filter(theirs).cloned();
    mine["env"] = own.chain(env).collect();
    take(&mut template["metadata"], &api["metadata"], &["labels", "annotations"]);
    for (name, value) in names::labels(&resolved.name, Component::Cleanup) {
        template["metadata"]["labels"][name] = value.into();
    }
    if let Some(annotations) = template.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(names::RENDER_REVISION);
    }
}

/// Makes these fields what they are there, or none where there are none.
fn take(mine: &mut Value, theirs: &Value, fields: &[&str]) {
    let Some(mine) = mine.as_object_mut() else { return };
    for field in fields {
        match theirs.get(field) {
            Some(value) => mine.insert((*field).to_owned(), value.clone()),
            None => mine.remove(*field),
        };
    }
}
