//! What is known beside the conditions: endpoint, version, numbers, tokens.

use super::rotation;
use crate::crd::{JamInstanceStatus, LastGood, MigrationState, VersionStatus};
use crate::names::{self, Component};
use crate::observed::Observed;
use crate::resolve::{RENDER_REVISION, Resolved};

/// The facts about a resolved instance.
pub(super) fn of(resolved: &Resolved, observed: &Observed, before: &JamInstanceStatus) -> JamInstanceStatus {
    let kept = kept(observed, before);
    let settled = observed.api.as_ref().is_some_and(|api| {
        api.is_settled() && api.image.as_deref() == Some(resolved.image.reference.as_str()) && api.ready > 0
    });
    let last_good = if settled {
        let api = observed.api.as_ref();
        Some(LastGood {
            image: Some(resolved.image.reference.clone()),
            config: api.and_then(|api| api.config.clone()),
            generation: Some(resolved.generation),
        })
    } else {
        kept.last_good
    };
    let seen = observed.schema.or(observed.pod_schema.and_then(|schema| schema.found));
    let migrated = resolved.migration.status.as_ref().is_some_and(|told| told.state == MigrationState::Complete);
    JamInstanceStatus {
        endpoint: Some(endpoint(resolved)),
        enabled: Some(resolved.settings.enabled),
        store: Some(resolved.settings.store),
        selector: Some(selector(&resolved.name)),
        tokens: rotation::tokens(resolved),
        rotation: rotation::standing(resolved),
        last_good,
        render_revision: Some(RENDER_REVISION),
        migration: resolved.migration.status.clone(),
        version: kept.version.map(|version| VersionStatus {
            schema: if migrated { seen.or(version.schema) } else { version.schema },
            ..version
        }),
        ..kept
    }
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

/// The selector of the API pods, as text.
fn selector(instance: &str) -> String {
    let labels = names::selector(instance, Component::Api);
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
