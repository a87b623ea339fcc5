//! Instances and clusters for tests, written as sentences.

use jam_domain::Timestamp;
use serde_json::{Value, json};

use crate::crd::{JamInstance, JamInstanceStatus};
use crate::desired::{Desired, Objects, desired};
use crate::observed::{DeploymentState, JobState, MigrationJob, Observed, PodSchema, Probe, SecretKey, TokenSecret};
use crate::resolve::{Defaults, MigrationStep, Resolved, resolve};
use crate::rotation::{Holding, Notes, Pace, Slots};
use crate::{Verdict, status, tokens};

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

pub(crate) fn defaults() -> Defaults {
    Defaults {
        repository: "registry.example/jam-api".into(),
        tag: "1.0.0".into(),
        digest: None,
        pace: Pace::default(),
        operator_namespace: Some("jam-system".into()),
        progress_deadline: 300,
        render_revision: 1,
    }
}

#[allow(clippy::needless_pass_by_value)] // json!() at the call sites makes values
/// An instance of this spec, named `main` in namespace `jam`.
pub(crate) fn instance(spec: Value) -> JamInstance {
    serde_json::from_value(json!({
        "apiVersion": "jam.network/v1alpha1",
        "kind": "JamInstance",
        "metadata": {"name": "main", "namespace": "jam", "uid": "uid-1", "generation": 1},
        "spec": spec,
    }))
    .unwrap()
}

pub(crate) fn in_memory() -> JamInstance {
    instance(json!({"runtime": {"jam": {"enabled": true}}, "tokens": {"consumers": [{"name": "demo"}]}}))
}

pub(crate) fn on_postgres() -> JamInstance {
    instance(json!({
        "replicas": 2,
        "runtime": {"jam": {"enabled": true, "store": "postgres"}},
        "database": {"dsnSecretRef": {"name": "jam-db"}},
        "tokens": {"consumers": [{"name": "demo"}]},
    }))
}

/// The instance with `changes` merged into its spec; a null removes. One that has a status gets another generation.
pub(crate) fn but(instance: &JamInstance, changes: Value) -> JamInstance {
    let mut document = serde_json::to_value(instance).unwrap();
    if instance.status.is_some() {
        document["metadata"]["generation"] = instance.metadata.generation.map(|generation| generation + 1).into();
    }
    merge(&mut document["spec"], changes);
    serde_json::from_value(document).unwrap()
}

fn merge(into: &mut Value, changes: Value) {
    match changes {
        Value::Object(fields) if into.is_object() => {
            for (key, change) in fields {
                match change {
                    Value::Null => drop(into.as_object_mut().unwrap().remove(&key)),
                    change => merge(&mut into[key], change),
                }
            }
        }
        change => *into = change,
    }
}

/// A cluster with what the instance refers to and its tokens, and nothing else of it.
pub(crate) fn cluster_for(instance: &JamInstance) -> Observed {
    Observed {
        dsn: Some(SecretKey::Present { hash: "dsn-hash-1".into() }),
        tokens: tokens::consumers(&instance.spec).iter().map(|consumer| token(&consumer.name, 1)).collect(),
        ..Observed::nothing(at(1000))
    }
}

/// The n-th token of a consumer.
pub(crate) fn token(consumer: &str, n: u8) -> TokenSecret {
    let hash: jam_domain::token::TokenHash = hex::encode([n; 32]).parse().unwrap();
    let notes = Notes { generation: 1, issued_at: Some(at(900)), written: Some(hash.id()), ..Notes::default() };
    let slots = Slots { token: Some(hash), ..Slots::default() };
    TokenSecret { consumer: consumer.into(), holding: Holding { slots, notes, matching: true, not_after: None } }
}

/// The migration Job that the instance wants in this cluster, in this state.
pub(crate) fn job(instance: &JamInstance, cluster: &Observed, state: JobState) -> MigrationJob {
    let resolved = resolve(instance, cluster, &defaults()).unwrap();
    let (MigrationStep::Run { job }, Some(told)) = (&resolved.migration.step, &resolved.migration.status) else {
        panic!("no migration is wanted: {:?}", resolved.migration)
    };
    let finished_at = (state != JobState::Running).then(|| at(1000));
    MigrationJob {
        name: job.clone(),
        key: told.key.clone(),
        attempt: told.attempt,
        state,
        suspended: false,
        finished_at,
        has_pod: true,
    }
}

/// The cluster after the instance's migration.
pub(crate) fn migrated_cluster_for(instance: &JamInstance) -> Observed {
    let cluster = cluster_for(instance);
    let pod_schema = Some(PodSchema { found: Some(3), wanted: 3 });
    Observed { migration_jobs: vec![job(instance, &cluster, JobState::Complete)], pod_schema, ..cluster }
}

/// The cluster when everything of the instance runs.
pub(crate) fn settled_cluster_for(instance: &JamInstance) -> Observed {
    let postgres = instance.spec.database.is_some();
    let cluster = if postgres { migrated_cluster_for(instance) } else { cluster_for(instance) };
    let replicas = instance.spec.replicas;
    let revision = Some(resolved(instance, &cluster).wanted.name);
    Observed {
        api: Some(DeploymentState {
            generation: 1,
            observed_generation: 1,
            wanted: replicas,
            replicas,
            updated: replicas,
            ready: replicas,
            available: replicas,
            rolled_out: true,
            revision,
            image: Some("registry.example/jam-api:1.0.0".into()),
            ..DeploymentState::default()
        }),
        database: postgres.then(|| Probe { reachable: true, message: "ok".into() }),
        ..cluster
    }
}

pub(crate) fn resolved(instance: &JamInstance, cluster: &Observed) -> Resolved {
    resolve(instance, cluster, &defaults()).unwrap()
}

pub(crate) fn objects(instance: &JamInstance, cluster: &Observed) -> Objects<Desired> {
    desired(&resolved(instance, cluster))
}

/// The status after everything of the instance was applied.
pub(crate) fn applied_status(instance: &JamInstance, cluster: &Observed) -> JamInstanceStatus {
    status(instance, Verdict::Applied(&resolved(instance, cluster)), cluster, cluster.at)
}

/// The objects as `Kind name`.
pub(crate) fn named(objects: &Objects<Desired>) -> Vec<String> {
    objects.items.iter().map(|item| item.object.to_string()).collect()
}
