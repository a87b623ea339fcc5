//! Health, version and status: what probes, people and dashboards ask.

use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::Response;
use jam_domain::{Code, Settings, Timestamp};
use serde::Serialize;
use serde_json::Value;

use super::admit::Admitted;
use super::fault::{Fault, STORE_RETRY, json_response, ok};
use super::health::{checked, shown};
use super::shapes::{Alive, Build, JamHealth, JamStatus, Readiness, SystemHealth, SystemJam, SystemStatus};
use super::state::Api;
use super::{build, cleanup};

/// Roots that a status shows at most.
const MOST_ROOTS: u32 = 200;

/// GET /healthz: the process is alive; touches nothing.
pub fn healthz() -> Response {
    ok(&Alive { status: "ok" })
}

/// GET /readyz.
pub async fn readyz(api: &Api) -> Response {
    let draining = api.pulse.health.is_draining();
    let checks = api.pulse.health.checks().await;
    let ready = checks.good() && !draining;
    let reason = if draining { "stopping" } else { "the store can't be used, see checks" };
    let body = Readiness {
        status: if ready { "ok" } else { "unavailable" },
        checks: shown(&checks, draining),
        key_ids: api.gate.tokens.book().ids_at(Timestamp::now()),
        overrides: api.controls.in_force().plainly(),
        error: (!ready).then(|| format!("not ready: {reason}")),
        code: (!ready).then_some(Code::StoreUnavailable.as_str()),
    };
    verdict(ready, &body)
}

/// GET /system/version.
pub fn version() -> Response {
    ok(&Build {
        version: build::VERSION,
        commit: build::COMMIT,
        built_at: build::BUILT_AT,
        rust_version: build::RUST_VERSION,
    })
}

/// GET /system/status: answers also while JAM is disabled or the store is away.
pub async fn system(api: &Api, admitted: &Admitted<'_>) -> Response {
    let checks = api.pulse.health.checks().await;
    let roots =
        if checks.good() { api.store.roots(&admitted.caller.services, MOST_ROOTS).await } else { Ok(Vec::new()) };
    let retained = &checks.retained;
    let health =
        SystemHealth { store_ok: checks.good(), cleanup_ok: retained.problem.is_none(), last_cleanup: retained.last() };
    let jam = SystemJam {
        status: JamStatus {
            accumulator_roots: Some(roots.unwrap_or_default()),
            ..settings_of(api, &admitted.settings)
        },
        cleanup_enabled: cleanup::enabled(&admitted.settings, Timestamp::now()),
        cleanup: retained.shown(),
        health,
    };
    ok(&SystemStatus { status: if checks.good() { "ok" } else { "degraded" }, version: build::VERSION, jam })
}

/// GET /jam/healthz.
pub async fn jam_healthz(api: &Api) -> Response {
    let checks = api.pulse.health.checks().await;
    let mut details = shown(&checks, false);
    if let Value::Object(fields) = &mut details {
        fields.remove("draining");
        fields.insert("cleanup".into(), checked(checks.retained.overdue));
    }
    let problem = if checks.good() { checks.retained.overdue } else { Some("the store can't be used") };
    let body = JamHealth {
        status: if problem.is_none() { "ok" } else { "unavailable" },
        details,
        error: problem,
        code: problem.map(|_| Code::StoreUnavailable.as_str()),
    };
    verdict(problem.is_none(), &body)
}

/// 200, or 503 with the time after which it makes sense to ask again.
fn verdict<T: Serialize>(well: bool, body: &T) -> Response {
    if well {
        return ok(body);
    }
    let mut response = json_response(StatusCode::SERVICE_UNAVAILABLE, body);
    response.headers_mut().insert(RETRY_AFTER, STORE_RETRY.into());
    response
}

/// GET /jam/status: the settings, and the root of one chain or of all.
pub async fn jam(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    let mut status = settings_of(api, &admitted.settings);
    if let Some(service) = admitted.query.value("service_id")? {
        admitted.caller.may_touch(&service)?;
        status.accumulator_root = Some(api.store.root(&service).await?);
    } else {
        let roots = api.store.roots(&admitted.caller.services, MOST_ROOTS).await?;
        status.accumulator_roots = Some(roots);
    }
    Ok(ok(&status))
}

fn settings_of(api: &Api, settings: &Settings) -> JamStatus {
    let Settings {
        enabled,
        store,
        auth_required,
        rate_limit_per_minute,
        max_preimage_bytes,
        max_pending_packages,
        allowed_media_types: _,
        retention_days: _,
        archive_days: _,
        services: _,
        legacy_list_response,
        accumulators_enabled,
        accumulator_hash,
        attestation_threshold,
        allowed_origins: _,
        health_public: _,
        profile: _,
    } = settings;
    JamStatus {
        enabled: *enabled,
        store: *store,
        rate_limit_per_minute: *rate_limit_per_minute,
        rate_limit_per_min: *rate_limit_per_minute,
        max_preimage_bytes: *max_preimage_bytes,
        max_pending_packages: *max_pending_packages,
        auth_required: *auth_required,
        legacy_list_response: *legacy_list_response,
        accumulators_enabled: *accumulators_enabled,
        accumulator_hash: *accumulator_hash,
        attestation_threshold: *attestation_threshold,
        overrides: api.controls.in_force().shown(),
        accumulator_root: None,
        accumulator_roots: None,
    }
}
