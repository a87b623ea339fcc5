//! Health, version and status: what probes, people and dashboards ask.

use axum::http::StatusCode;
use axum::response::Response;
use jam_domain::{Code, Settings, Timestamp};
use serde_json::{Map, Value, json};

use super::admit::Admitted;
use super::fault::{Fault, json_response, ok};
use super::health::{Checks, checked, shown};
use super::state::Api;
use super::{build, cleanup};

/// Roots that a status shows at most.
const MOST_ROOTS: u32 = 200;

/// GET /healthz: the process is alive; touches nothing.
pub fn healthz() -> Response {
    ok(&json!({"status": "ok"}))
}

/// GET /readyz.
pub async fn readyz(api: &Api) -> Response {
    let draining = api.pulse.health.is_draining();
    let checks = api.pulse.health.checks().await;
    let ready = checks.good() && !draining;
    let mut body = json!({
        "status": if ready { "ok" } else { "unavailable" },
        "checks": shown(&checks, draining),
        // Ids are public; a rotation asks every replica whether it knows the new token already.
        "key_ids": api.gate.tokens.book().ids_at(Timestamp::now()),
    });
    if ready {
        return ok(&body);
    }
    if let Value::Object(fields) = &mut body {
        let reason = if draining { "stopping" } else { "the store can't be used, see checks" };
        fields.insert("error".into(), format!("not ready: {reason}").into());
        fields.insert("code".into(), Code::StoreUnavailable.as_str().into());
    }
    json_response(StatusCode::SERVICE_UNAVAILABLE, &body)
}

/// GET /system/version.
pub fn version() -> Response {
    ok(&json!({
        "version": build::VERSION,
        "commit": build::COMMIT,
        "built_at": build::BUILT_AT,
        "rust_version": build::RUST_VERSION,
    }))
}

/// GET /system/status: answers also while JAM is disabled or the store is away.
pub async fn system(api: &Api, admitted: &Admitted<'_>) -> Response {
    let checks = api.pulse.health.checks().await;
    let mut jam = settings_of(api);
    let roots =
        if checks.good() { api.store.roots(&admitted.caller.services, MOST_ROOTS).await } else { Ok(Vec::new()) };
    jam.insert("accumulator_roots".into(), json!(roots.unwrap_or_default()));
    let Checks { store: _, schema: _, retained } = &checks;
    jam.insert("cleanup_enabled".into(), cleanup::enabled(&api.settings, Timestamp::now()).into());
    jam.insert("cleanup".into(), retained.shown());
    let (cleanup_ok, last) = (retained.problem.is_none(), retained.last());
    let health = json!({"store_ok": checks.good(), "cleanup_ok": cleanup_ok, "last_cleanup": last});
    jam.insert("health".into(), health);
    let status = if checks.good() { "ok" } else { "degraded" };
    ok(&json!({"status": status, "version": build::VERSION, "jam": jam}))
}

/// GET /jam/healthz.
pub async fn jam_healthz(api: &Api) -> Response {
    let checks = api.pulse.health.checks().await;
    let mut details = shown(&checks, false);
    if let Value::Object(fields) = &mut details {
        fields.remove("draining");
        fields.insert("cleanup".into(), checked(checks.retained.problem));
    }
    let problem = if checks.good() { checks.retained.problem } else { Some("the store can't be used") };
    let Some(problem) = problem else {
        return ok(&json!({"status": "ok", "details": details}));
    };
    let body = json!({
        "status": "unavailable",
        "details": details,
        "error": problem,
        "code": Code::StoreUnavailable.as_str(),
    });
    json_response(StatusCode::SERVICE_UNAVAILABLE, &body)
}

/// GET /jam/status: the settings, and the root of one chain or of all.
pub async fn jam(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    let mut status = settings_of(api);
    if let Some(service) = admitted.query.value("service_id")? {
        admitted.caller.may_touch(&service)?;
        status.insert("accumulator_root".into(), json!(api.store.root(&service).await?));
    } else {
        let roots = api.store.roots(&admitted.caller.services, MOST_ROOTS).await?;
        status.insert("accumulator_roots".into(), json!(roots));
    }
    Ok(ok(&status))
}

fn settings_of(api: &Api) -> Map<String, Value> {
    let Settings {
        enabled,
        store: _,
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
    } = &api.settings;
    let shown = json!({
        "enabled": enabled,
        "store": api.store_name(),
        "rate_limit_per_minute": rate_limit_per_minute,
        "rate_limit_per_min": rate_limit_per_minute,
        "max_preimage_bytes": max_preimage_bytes,
        "max_pending_packages": max_pending_packages,
        "auth_required": auth_required,
        "legacy_list_response": legacy_list_response,
        "accumulators_enabled": accumulators_enabled,
        "accumulator_hash": accumulator_hash,
        "attestation_threshold": attestation_threshold,
    });
    match shown {
        Value::Object(fields) => fields,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}
