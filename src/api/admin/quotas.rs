//! Quotas of single services, set at run time.

use axum::response::Response;
use hyper::body::Incoming;
use jam_domain::ServiceId;
use jam_domain::control::{Change, ControlKey};
use jam_domain::quota::Quota;

use super::{gone, service};
use crate::api::admit::Admitted;
use crate::api::body::received;
use crate::api::controls;
use crate::api::fault::{Fault, not_found, ok};
use crate::api::shapes::admin::ServiceLimitsView;
use crate::api::state::Api;

/// GET /jam/admin/services/{id}/quotas.
pub async fn read(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    let service = service(admitted)?;
    controls::refresh(api).await?;
    Ok(ok(&shown(api, service)))
}

/// PUT /jam/admin/services/{id}/quotas: the whole of them; what is left out is the settings' again.
pub async fn set(api: &Api, admitted: &Admitted<'_>, body: &mut Incoming) -> Result<Response, Fault> {
    let service = service(admitted)?;
    let quota = Quota::parse(&received(api, admitted, body).await?.0)?;
    let value = serde_json::to_value(quota).unwrap_or_default();
    let (key, by) = (ControlKey::Quota(service.clone()), admitted.by());
    controls::change(api, &key, Change::Set(value), &by).await?;
    tracing::info!(service_id = %service, token_hash = by.token_id.as_str(), ?quota, "quotas set");
    Ok(ok(&shown(api, service)))
}

/// DELETE /jam/admin/services/{id}/quotas.
pub async fn delete(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    let service = service(admitted)?;
    let (key, by) = (ControlKey::Quota(service.clone()), admitted.by());
    controls::change(api, &key, Change::Remove, &by).await?.ok_or_else(|| not_found("quota"))?;
    tracing::info!(service_id = %service, token_hash = by.token_id.as_str(), "quotas taken back");
    Ok(gone())
}

fn shown(api: &Api, service_id: ServiceId) -> ServiceLimitsView {
    let in_force = api.controls.in_force();
    let limits = Quota::default().over(&service_id, in_force.settings.services.get(&service_id));
    ServiceLimitsView {
        quotas: in_force.quotas.get(&service_id).copied().unwrap_or_default(),
        in_force: limits.into(),
        service_id,
    }
}
