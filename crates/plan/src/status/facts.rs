//! What is known beside the conditions: endpoint, version, numbers, tokens.

use super::{cleaned, rotation};
use crate::crd::{JamInstanceStatus, LastGood, MigrationState, MigrationStatus, VersionStatus};
use crate::names::{self, Component};
use crate::observed::{Observed, SUSPENDED};
use crate::resolve::Resolved;
use crate::rollout::Course;

/// The facts about a resolved instance.
pub(super) fn of(resolved: &Resolved, observed: &Observed, before: &JamInstanceStatus) -> JamInstanceStatus {
    let kept = kept(observed, before);
    let seen = observed.pod_schema.and_then(|schema| schema.found);
    let migrated = resolved.migration.status.as_ref().is_some_and(|told| told.state == MigrationState::Complete);
    let version = kept.version.map(|version| VersionStatus {
        schema: if migrated { seen.or(version.schema) } else { version.schema },
        ..version
    });
    let current = good(resolved, observed, version.as_ref().and_then(|version| version.schema));
    let last_good = match &resolved.course {
        // What was given up is not good any more, whatever it was for a moment.
        Course::Back(good) => Some(good.clone()),
        Course::Forward | Course::NoWayBack(_) => current.or_else(|| returned(resolved, before)).or(kept.last_good),
    };
    JamInstanceStatus {
        endpoint: Some(endpoint(resolved)),
        enabled: enabled(resolved, observed).or(kept.enabled),
        store: Some(resolved.settings.store),
        selector: Some(names::written(&names::selector(&resolved.name, Component::Api))),
        tokens: rotation::tokens(resolved),
        rotation: rotation::standing(resolved, observed, before.rotation.as_ref()),
        last_good,
        revision: Some(resolved.wanted.clone()),
        rollout: Some(resolved.rollout_status.clone()),
        render_revision: resolved.revision.render_revision(),
        migration: migration(resolved, observed),
        cleanup: cleaned::told(resolved, observed, before),
        version,
        ..kept
    }
}

/// What is said of the migration, whose Job may have been made in this very walk.
fn migration(resolved: &Resolved, observed: &Observed) -> Option<MigrationStatus> {
    let told = resolved.migration.status.clone()?;
    let is_made = observed.migration_jobs.iter().any(|there| there.name == told.job && !there.suspended);
    let state = if told.state == MigrationState::Pending && is_made { MigrationState::Running } else { told.state };
    Some(MigrationStatus { state, ..told })
}

/// Whether `/jam/*` is served, by what every API pod is made from: the spec may be waiting for a migration, or be given up.
fn enabled(resolved: &Resolved, observed: &Observed) -> Option<bool> {
    observed.api.as_ref().filter(|api| api.is_settled())?;
    resolved.running(observed)?.enabled()
}

/// The wanted revision, once every pod is of it and serves.
fn good(resolved: &Resolved, observed: &Observed, schema: Option<i64>) -> Option<LastGood> {
    let api = observed.api.as_ref().filter(|_| resolved.is_served(observed))?;
    Some(LastGood {
        revision: Some(resolved.wanted.name.clone()),
        image: Some(resolved.wanted.image.clone()),
        config: api.config.clone(),
        schema,
        generation: Some(resolved.generation),
    })
}

/// What somebody goes back to by hand while a rollout away from it is under way. It was good, and what came after it, perhaps for a
/// moment, is not known to be.
fn returned(resolved: &Resolved, before: &JamInstanceStatus) -> Option<LastGood> {
    let left = before.rollout.as_ref()?.from.as_ref().filter(|_| resolved.rollout_status.from.is_none())?;
    (left.revision.as_ref() == Some(&resolved.wanted.name)).then(|| left.clone())
}

/// The facts that hold without a resolved instance: what was said before, with the numbers of pods brought up to date.
pub(super) fn kept(observed: &Observed, before: &JamInstanceStatus) -> JamInstanceStatus {
    let earlier = before.version.clone().unwrap_or_default();
    let api = observed.api.as_ref();
    JamInstanceStatus {
        version: Some(VersionStatus {
            image: api.filter(|api| api.is_settled()).and_then(|api| api.image.clone()).or(earlier.image),
            schema: earlier.schema,
        }),
        replicas: Some(api.map_or(0, |api| api.replicas)),
        ready_replicas: Some(api.map_or(0, |api| api.ready)),
        ..before.clone()
    }
}

/// Where the API is reached inside the cluster.
fn endpoint(resolved: &Resolved) -> String {
    format!("http://{}.{}.svc:{}", names::api(&resolved.name), resolved.namespace, resolved.service.port)
}

/// That a migration runs, and what keeps its pod from its end: nobody waits ten minutes to learn of a wrong image. A Job that could
/// not be made does not run.
pub(super) fn migrating(job: &str, observed: &Observed) -> String {
    match observed.migration_jobs.iter().find(|there| there.name == job) {
        None => return format!("migration Job {job} is not made yet"),
        Some(there) if there.suspended => return format!("migration Job {job} {SUSPENDED}"),
        Some(_) => (),
    }
    let why = observed.migration_trouble.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    format!("migration Job {job} runs{why}")
}
