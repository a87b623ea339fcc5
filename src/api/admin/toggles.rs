//! Overrides of settings at run time.

use axum::response::Response;
use hyper::body::Incoming;
use jam_domain::control::{Change, ControlKey, Override, Toggle, toggled};

use super::gone;
use crate::api::admit::Admitted;
use crate::api::body::received;
use crate::api::controls;
use crate::api::fault::{Fault, not_found, ok};
use crate::api::shapes::admin::{Items, Overridden};
use crate::api::state::Api;

/// GET /jam/admin/toggles.
pub async fn all(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    admitted.caller.may_touch_all()?;
    // What another replica has just set stands here, too.
    controls::refresh(api).await?;
    Ok(ok(&Items { items: api.controls.in_force().shown() }))
}

/// POST /jam/admin/toggles.
pub async fn set(api: &Api, admitted: &Admitted<'_>, body: &mut Incoming) -> Result<Response, Fault> {
    admitted.caller.may_touch_all()?;
    let value = toggled(&received(api, admitted, body).await?.0)?;
    let toggle = value.toggle();
    let set = Override { value, overrode: toggle.of(api.controls.own()) };
    let by = admitted.by();
    controls::change(api, &ControlKey::Override(toggle), Change::Set(set.stored()), &by).await?;
    tracing::info!(key = toggle.as_str(), value = %value.json(), token_hash = by.token_id.as_str(), "setting overridden");
    Ok(ok(&Overridden::new(set, by.at, by.token_id)))
}

/// DELETE /jam/admin/toggles/{key}.
pub async fn delete(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    admitted.caller.may_touch_all()?;
    let toggle: Toggle = admitted.segment.parse().map_err(|_| not_found("override"))?;
    let key = ControlKey::Override(toggle);
    let before = controls::change(api, &key, Change::Remove, &admitted.by()).await?;
    before.ok_or_else(|| not_found("override"))?;
    tracing::info!(key = toggle.as_str(), token_hash = admitted.caller.id.as_str(), "override taken back");
    Ok(gone())
}
