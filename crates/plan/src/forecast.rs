//! What the operator will have done when it comes to rest: what `plan` shows, with a cluster and without.

use std::collections::BTreeSet;

use jam_domain::Timestamp;

use crate::crd::JamInstance;
use crate::desired::{Desired, Kind, desired, prunable};
use crate::observed::{Child, CleanupState, DeploymentState, JobState, MigrationJob, Observed};
use crate::reason::Refusal;
use crate::resolve::{Defaults, MigrationStep, Resolved, resolve};
use crate::{Verdict, names, status};

/// What the operator will have done when it comes to rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// Every object, in the order they are applied; the migration, where one is needed, and what follows it.
    pub objects: Vec<Desired>,
    /// The children that will be gone.
    pub removed: Vec<Child>,
    /// What the pods wait for, when they stay as they are.
    pub waits: Option<String>,
    /// The migration Job that runs before any pod is replaced.
    pub migration: Option<String>,
    /// That this very spec was tried and given up: then the pods of before are what is wanted.
    pub given_up: Option<String>,
}

/// Follows an instance through its migration and its rollout, when both go well.
pub fn forecast(instance: &JamInstance, observed: &Observed, defaults: &Defaults) -> Result<Forecast, Refusal> {
    let first = resolve(instance, observed, defaults)?.at_rest();
    let uid = instance.metadata.uid.as_deref().unwrap_or_default();
    let given_up = crate::status::given_up(&first).map(|(_, why)| why);
    let (mut objects, mut last, mut migration, mut cluster) = (desired(&first).items, first, None, observed.clone());
    if let (MigrationStep::Run { job }, Some(told)) = (&last.migration.step, &last.migration.status) {
        migration = Some(job.clone());
        let (name, key, attempt) = (job.clone(), told.key.clone(), told.attempt);
        let (state, suspended, finished_at) = (JobState::Complete, false, Some(cluster.at));
        cluster.migration_jobs.retain(|other| other.name != name);
        cluster.migration_jobs.push(MigrationJob { name, key, attempt, state, suspended, finished_at, has_pod: false });
        last = resolve(instance, &cluster, defaults)?.at_rest();
        // What good pods have in the meantime is none of what there will be.
        objects.retain(|item| item.object.kind == Kind::Job);
        objects.extend(desired(&last).items);
        objects.sort_by_key(|item| item.object.kind);
    }
    let waits = (!last.migration.is_complete()).then(|| waits_for(&last));
    let rolled = if waits.is_some() { cluster } else { settled(&last, &objects, cluster) };
    let told = status(instance, Verdict::Applied(&last), &rolled, rolled.at);
    let after = JamInstance { status: Some(told), ..instance.clone() };
    let at_rest = desired(&resolve(&after, &rolled, defaults)?);
    let removed = prunable(&last.name, &at_rest, &rolled, uid).into_iter().cloned().collect();
    Ok(Forecast { objects, removed, waits, migration, given_up })
}

fn waits_for(resolved: &Resolved) -> String {
    match &resolved.migration.step {
        MigrationStep::NotNeeded | MigrationStep::Complete => "nothing".into(),
        MigrationStep::Run { job } => format!("migration Job {job} to end"),
        MigrationStep::Wait { what } => format!("an earlier migration to end: {what}"),
        MigrationStep::Retry { at } => format!("the next attempt of the migration, at {}", at_second(*at)),
        MigrationStep::AwaitApproval { key, preview: _ } => {
            format!("the migration's approval: annotation {}={key}", names::APPROVE_MIGRATION)
        }
        MigrationStep::Never => "another image or database: the migration cannot succeed with these".into(),
    }
}

fn at_second(at: Timestamp) -> jiff::Timestamp {
    crate::status::whole_seconds(at)
}

/// The cluster when every Deployment has come to rest.
fn settled(resolved: &Resolved, objects: &[Desired], cluster: Observed) -> Observed {
    let at_rest = |name: String, before: Option<&DeploymentState>| {
        let item = objects.iter().find(|item| item.object.kind == Kind::Deployment && item.object.name == name)?;
        let asked = item.body["spec"]["replicas"].as_i64().and_then(|replicas| i32::try_from(replicas).ok());
        let before = before.cloned().unwrap_or_default();
        let wanted = asked.unwrap_or(before.wanted);
        Some(DeploymentState {
            observed_generation: before.generation,
            wanted,
            replicas: wanted,
            updated: wanted,
            ready: wanted,
            available: wanted,
            unavailable: 0,
            deadline_exceeded: None,
            rolled_out: true,
            revision: Some(resolved.revision.name().to_owned()),
            rendered: Some(item.hash.clone()),
            ..before
        })
    };
    let api = at_rest(names::api(&resolved.name), cluster.api.as_ref());
    let worker = at_rest(names::worker(&resolved.name), cluster.worker.as_ref());
    // Every run of the cleanup has ended, and the next one mounts what is wanted now.
    let cleanup = cluster.cleanup.map(|cleanup| CleanupState { mounts: BTreeSet::new(), ..cleanup });
    Observed { api, worker, cleanup, trouble: None, worker_trouble: None, lingers: false, ..cluster }
}
