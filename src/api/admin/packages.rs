//! Archived packages, brought back.

use axum::response::Response;
use jam_domain::{Code, PackageId, Refusal};
use jam_store::Restored;

use crate::api::admit::Admitted;
use crate::api::fault::{Fault, not_found, ok};
use crate::api::state::Api;

/// POST /jam/admin/packages/{id}/restore.
pub async fn restore(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    let id: PackageId = admitted.segment.parse().map_err(|_| not_found("archived package"))?;
    let archived = api.store.archived(id).await?.ok_or_else(|| not_found("archived package"))?;
    admitted.caller.may_touch(&archived.package.service_id)?;
    match api.store.restore(id, &admitted.by()).await? {
        Restored::Back(package) => {
            tracing::info!(
                pkg_id = %id, service_id = %package.service_id, store = api.store_name(),
                token_hash = admitted.caller.id.as_str(), "package restored"
            );
            Ok(ok(&package))
        }
        Restored::Taken => {
            let message = "another package has its id or its Idempotency-Key now: it can't come back beside that one";
            Err(Refusal::new(Code::Conflict, message).into())
        }
        Restored::NotArchived => Err(not_found("archived package").into()),
    }
}
