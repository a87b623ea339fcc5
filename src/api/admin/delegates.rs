//! Tokens that may act for one service, by their hashes.

use axum::http::StatusCode;
use axum::response::Response;
use hyper::body::Incoming;
use jam_domain::control::{Change, ControlKey, Delegate, Listed, delegate, named};
use jam_domain::token::TokenHash;
use jam_domain::{Code, Refusal};

use super::{gone, service};
use crate::api::admit::Admitted;
use crate::api::body::received;
use crate::api::controls;
use crate::api::fault::{Fault, json_response, not_found, ok};
use crate::api::shapes::admin::{Delegated, Items};
use crate::api::state::Api;

/// Delegates of all services together: each is compared with every token that comes.
const MOST: usize = 1000;

/// GET /jam/admin/services/{id}/delegates.
pub async fn all(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    let service = service(admitted)?;
    controls::refresh(api).await?;
    let in_force = api.controls.in_force();
    let own = in_force.delegates.iter().filter(|(delegate, _)| delegate.service_id == service);
    let items = own.map(|(delegate, control)| Delegated::new(delegate, control.set_at, control.set_by.clone()));
    Ok(ok(&Items { items: items.collect::<Vec<_>>() }))
}

/// POST /jam/admin/services/{id}/delegates.
pub async fn add(api: &Api, admitted: &Admitted<'_>, body: &mut Incoming) -> Result<Response, Fault> {
    let service = service(admitted)?;
    let mut delegate = delegate(service, &received(api, admitted, body).await?.0)?;
    controls::refresh(api).await?;
    delegate.listed = listed(api, &delegate);
    if api.controls.in_force().delegates.len() >= MOST {
        let message = format!("there are {MOST} delegates already: take one away first");
        return Err(Refusal::new(Code::Conflict, message).into());
    }
    let by = admitted.by();
    let before = controls::change(api, &delegate.key(), Change::Set(delegate.stored()), &by).await?;
    tracing::info!(
        service_id = %delegate.service_id, delegate = %delegate.sha256.id(), token_hash = by.token_id.as_str(), "delegate added"
    );
    let status = if before.is_none() { StatusCode::CREATED } else { StatusCode::OK };
    Ok(json_response(status, &Delegated::new(&delegate, by.at, by.token_id)))
}

/// How the server's own tokens list a delegate's token, or listed it when it became a delegate: one that was taken out of them
/// since is not let in by being added again.
fn listed(api: &Api, delegate: &Delegate) -> Option<Listed> {
    let in_force = api.controls.in_force();
    let mut before =
        in_force.delegates.iter().map(|(before, _)| before).filter(|before| before.sha256 == delegate.sha256);
    api.gate.tokens.listed(delegate.sha256).or_else(|| before.find_map(|before| before.listed.clone()))
}

/// DELETE /jam/admin/services/{id}/delegates.
pub async fn remove(api: &Api, admitted: &Admitted<'_>, body: &mut Incoming) -> Result<Response, Fault> {
    let service = service(admitted)?;
    let hash: TokenHash = named("sha256", &received(api, admitted, body).await?.0)?;
    let key = ControlKey::Delegate(service.clone(), hash);
    let before = controls::change(api, &key, Change::Remove, &admitted.by()).await?;
    before.ok_or_else(|| not_found("delegate"))?;
    tracing::info!(
        service_id = %service, delegate = %hash.id(), token_hash = admitted.caller.id.as_str(), "delegate taken away"
    );
    Ok(gone())
}
