//! What administrators ask for: `/jam/admin/*`, with tokens of its own, every change in the audit.

pub mod cleanup;
pub mod packages;

use axum::response::Response;

use super::admit::Admitted;
use super::fault::Fault;
use super::lists::list;
use super::state::Api;

/// GET /jam/admin/audit.
pub async fn audit(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    admitted.caller.may_touch_all()?;
    let asked = admitted.query.page()?;
    let page = api.store.audit(asked).await?;
    Ok(list(api.settings.legacy_list_response, &asked, &page, None))
}
