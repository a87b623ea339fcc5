//! What is known beside the conditions: endpoint, version, numbers, tokens.

use jam_domain::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::crd::{CleanupStatus, JamInstanceStatus, LastGood, MigrationState, TokenStatus, VersionStatus};
use crate::names::{self, Component};
use crate::observed::{Observed, TokenState};
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
        tokens: tokens(resolved, observed, &before.tokens),
        last_good,
        render_revision: Some(RENDER_REVISION),
        migration: resolved.migration.status.clone(),
        cleanup: cleanup(observed, before),
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

/// The newest cleanup that ended; what it said earlier when its Job is gone by now.
fn cleanup(observed: &Observed, before: &JamInstanceStatus) -> Option<CleanupStatus> {
    let Some(run) = observed.cleanup.as_ref().and_then(|state| state.last.as_ref()) else {
        return before.cleanup.clone();
    };
    let last_run = run.began_at.or(run.ended_at).map(|at| Time(super::whole_seconds(at)));
    let same = before.cleanup.clone().filter(|told| told.last_run == last_run).unwrap_or_default();
    let (last_result, deleted) = match (&run.failure, &run.outcome) {
        (Some(_), _) => (Some("Failed".into()), same.deleted),
        (None, Some(outcome)) => {
            (Some(if outcome.dry_run { "DryRun" } else { "Succeeded" }.into()), outcome.deleted.clone())
        }
        // Nobody was asked again, because it is told already.
        (None, None) => (same.last_result.or(Some("Succeeded".into())), same.deleted),
    };
    Some(CleanupStatus { last_run, last_result, deleted })
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

fn tokens(resolved: &Resolved, observed: &Observed, before: &[TokenStatus]) -> Vec<TokenStatus> {
    let one = |consumer: &crate::resolve::ResolvedConsumer| {
        let earlier = before.iter().find(|told| told.consumer == consumer.name && told.key_id == consumer.key_id);
        let held = observed.tokens.iter().find(|token| token.consumer == consumer.name).map(|token| &token.state);
        let issued: Option<Timestamp> = match held {
            Some(TokenState::Held { issued_at, .. }) => *issued_at,
            Some(TokenState::Empty) | None => None,
        };
        TokenStatus {
            consumer: consumer.name.clone(),
            key_id: consumer.key_id.clone(),
            issued_at: issued
                .map(|at| Time(super::whole_seconds(at)))
                .or_else(|| earlier.and_then(|told| told.issued_at.clone())),
            rotates_at: None,
            previous_key_id: None,
            previous_expires_at: None,
        }
    };
    resolved.consumers.iter().map(one).collect()
}
