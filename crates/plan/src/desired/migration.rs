//! The migration Job: one pod at a time, given up after its deadline, never retried when it ends with exit code 3.

#[cfg(test)]
mod tests;

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{EnvVar, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Desired, Kind, Write, identity, pod};
use crate::names::{self, Component};
use crate::resolve::{MigrationStep, Preview, Resolved};

/// The exit code of `jam-api migrate` that says: never.
const NEVER: i32 = 3;
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
            pod_failure_policy: Some(PodFailurePolicy { rules: vec![never()] }),
            ttl_seconds_after_finished: Some(KEPT),
            template: template(resolved, vec![pod::variable("JAM_STORE", "postgres")], &["migrate"]),
            ..JobSpec::default()
        }),
        status: None,
    };
    Some(Desired::new(resolved, Kind::Job, name.clone(), Write::CreateOnce, &job))
}

/// The Job that says what would be applied, while the migration waits for approval. It changes nothing.
pub(super) fn preview(resolved: &Resolved) -> Option<Desired> {
    let name = match &resolved.migration.step {
        MigrationStep::AwaitApproval { key: _, preview: Preview::Asks { job } | Preview::Failed { job, why: _ } } => {
            job
        }
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
    let variables = [("JAM_STORE", "postgres"), ("JAM_MIGRATE_RESULT_FILE", "/dev/termination-log")];
    let variables = variables.map(|(name, value)| pod::variable(name, value)).to_vec();
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

fn never() -> PodFailurePolicyRule {
    PodFailurePolicyRule {
        action: "FailJob".into(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: Some(names::CONTAINER.into()),
            operator: "In".into(),
            values: vec![NEVER],
        }),
        on_pod_conditions: None,
    }
}

fn template(resolved: &Resolved, mut variables: Vec<EnvVar>, arguments: &[&str]) -> PodTemplateSpec {
    let mut container = pod::container(resolved);
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
