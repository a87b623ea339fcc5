//! The migration Job: one pod at a time, given up before its deadline, never retried when it ends with exit code 3.

#[cfg(test)]
mod tests;

use k8s_openapi::api::batch::v1::{Job, JobSpec, PodFailurePolicy};
use k8s_openapi::api::core::v1::{EnvVar, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Desired, Kind, Write, identity, pod};
use crate::names::{self, Component};
use crate::resolve::{MigrationStep, Preview, Resolved};

/// The exit code of `jam-api migrate` that says: never.
const NEVER: i32 = 3;
/// Seconds before the Job's deadline at which the program gives up by itself, a tenth of the time: its node has to fetch the image
/// within them, and who is killed by the deadline leaves no last words.
const SPARE: std::ops::RangeInclusive<i64> = 5..=60;
/// Seconds that an ended Job is kept, for its logs.
const KEPT: i32 = 86_400;
/// The same for one that only says what would be applied: where it could not, the next one tries then.
const PREVIEW_KEPT: i32 = 300;

/// The Job, when the migration is to run now.
pub(super) fn job(resolved: &Resolved) -> Option<Desired> {
    let (MigrationStep::Run { job: name }, Some(told)) = (&resolved.migration.step, &resolved.migration.status) else {
        return None;
    };
    let mut metadata = identity::metadata(resolved, name, Component::Migration);
    metadata.labels.get_or_insert_default().insert(names::MIGRATION_KEY.into(), told.key.clone());
    metadata.annotations = Some(identity::annotation(names::MIGRATION_ATTEMPT, &told.attempt.to_string()));
    let job = Job {
        metadata,
        spec: Some(JobSpec {
            backoff_limit: Some(resolved.migrations.backoff_limit),
            active_deadline_seconds: Some(resolved.migrations.timeout_seconds),
            completions: Some(1),
            parallelism: Some(1),
            // A pod that is still on its way out counts: two never migrate at once.
            pod_replacement_policy: Some("Failed".into()),
            pod_failure_policy: Some(PodFailurePolicy { rules: vec![pod::ends_at(NEVER), pod::ends_at(pod::LATE)] }),
            ttl_seconds_after_finished: Some(KEPT),
            template: template(resolved, Vec::new(), &["migrate"]),
            ..JobSpec::default()
        }),
        status: None,
    };
    Some(Desired::new(resolved, Kind::Job, name.clone(), Write::CreateOnce, &job))
}

/// The Job that says what would be applied, while the migration waits for approval. It changes nothing.
pub(super) fn preview(resolved: &Resolved) -> Option<Desired> {
    let name = match &resolved.migration.step {
        MigrationStep::AwaitApproval {
            key: _,
            preview: Preview::Asks { job, trouble: _ } | Preview::Failed { job, why: _ },
        } => job,
        MigrationStep::AwaitApproval { key: _, preview: Preview::Told { .. } }
        | MigrationStep::NotNeeded
        | MigrationStep::Complete
        | MigrationStep::Run { .. }
        | MigrationStep::Wait { .. }
        | MigrationStep::Retry { .. }
        | MigrationStep::Never => return None,
    };
    let mut metadata = identity::metadata(resolved, name, Component::Migration);
    let key = resolved.migration.status.as_ref().map(|told| told.key.clone()).unwrap_or_default();
    metadata.labels.get_or_insert_default().insert(names::MIGRATION_PREVIEW.into(), key);
    // What is said becomes the termination message, where the operator finds it.
    let variables = vec![pod::variable("JAM_MIGRATE_RESULT_FILE", "/dev/termination-log")];
    let job = Job {
        metadata,
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            active_deadline_seconds: Some(resolved.migrations.timeout_seconds),
            completions: Some(1),
            parallelism: Some(1),
            pod_replacement_policy: Some("Failed".into()),
            ttl_seconds_after_finished: Some(PREVIEW_KEPT),
            template: template(resolved, variables, &["migrate", "--dry-run"]),
            ..JobSpec::default()
        }),
        status: None,
    };
    Some(Desired::new(resolved, Kind::Job, name.clone(), Write::CreateOnce, &job))
}

/// How many seconds the program gives itself, of those that its Job has.
fn limit(deadline: i64) -> i64 {
    deadline - (deadline / 10).clamp(*SPARE.start(), *SPARE.end())
}

fn template(resolved: &Resolved, further: Vec<EnvVar>, arguments: &[&str]) -> PodTemplateSpec {
    let mut container = pod::container(resolved);
    // In the environment: an earlier image does not know the flag, and says no more than that it does not read the variable.
    let limit = format!("{}s", limit(resolved.migrations.timeout_seconds));
    let mut variables = vec![pod::variable("JAM_STORE", "postgres"), pod::variable("JAM_MIGRATE_TIMEOUT", &limit)];
    variables.extend(further);
    container.args = Some(arguments.iter().map(|argument| (*argument).to_owned()).collect());
    variables.append(container.env.get_or_insert_default());
    container.env = Some(variables);
    // The pod's last log lines become its termination message: the operator reads them without a right to logs.
    container.termination_message_policy = Some("FallbackToLogsOnError".into());
    let mut spec = PodSpec {
        containers: vec![container],
        restart_policy: Some("Never".into()),
        termination_grace_period_seconds: Some(30),
        volumes: Some(vec![pod::scratch()]),
        ..pod::base(resolved)
    };
    pod::schedule(&mut spec, &resolved.pod_template);
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(pod::labels(resolved, Component::Migration)),
            annotations: pod::annotations(resolved),
            ..ObjectMeta::default()
        }),
        spec: Some(spec),
    }
}
