//! What administrators ask for: `/jam/admin/*`, with tokens of its own, every change in the audit.

pub mod cleanup;
pub mod delegates;
pub mod disputes;
pub mod limits;
pub mod packages;
pub mod quotas;
pub mod toggles;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use jam_domain::{Refusal, ServiceId};
use percent_encoding::percent_decode_str;

use super::admit::Admitted;
use super::fault::Fault;
use super::lists::{Beside, list};
use super::state::Api;

/// GET /jam/admin/audit.
pub async fn audit(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    admitted.caller.may_touch_all()?;
    let asked = admitted.query.page()?;
    let page = api.store.audit(asked).await?;
    Ok(list(admitted.settings.legacy_list_response, &asked, &page, Beside::default()))
}

/// The service that the path names, when the administrator may touch it.
fn service(admitted: &Admitted<'_>) -> Result<ServiceId, Refusal> {
    // A client may write the colon of a name as it likes.
    let name = percent_decode_str(admitted.segment).decode_utf8_lossy();
    let service: ServiceId = name.parse().map_err(|problem: String| Refusal::field("id", problem))?;
    admitted.caller.may_touch(&service)?;
    Ok(service)
}

/// It is done, and there is nothing to show.
fn gone() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
