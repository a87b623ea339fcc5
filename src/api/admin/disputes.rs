//! Disputed packages: what contradicts what, and the word that ends it.

use axum::response::Response;
use hyper::body::Incoming;
use jam_domain::control::named;
use jam_domain::{Code, PackageId, Refusal, ReportId};
use jam_store::{Dispute, Resolved};

use crate::api::admit::Admitted;
use crate::api::body::received;
use crate::api::fault::{Fault, not_found, ok};
use crate::api::lists;
use crate::api::shapes::admin::Disputed;
use crate::api::state::Api;

/// GET /jam/admin/disputes/{package_id}.
pub async fn read(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    Ok(lists::single(api, admitted, &Disputed::from(find(api, admitted).await?))?)
}

/// POST /jam/admin/disputes/{package_id}/accept {report_id}.
pub async fn accept(api: &Api, admitted: &Admitted<'_>, body: &mut Incoming) -> Result<Response, Fault> {
    let report: ReportId = named("report_id", &received(api, admitted, body).await?.0)?;
    end(api, admitted, Some(report)).await
}

/// POST /jam/admin/disputes/{package_id}/reject.
pub async fn reject(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    end(api, admitted, None).await
}

async fn find(api: &Api, admitted: &Admitted<'_>) -> Result<Dispute, Fault> {
    let id: PackageId = admitted.segment.parse().map_err(|_| not_found("dispute"))?;
    let dispute = api.store.dispute(id).await?.ok_or_else(|| not_found("dispute"))?;
    admitted.caller.may_touch(&dispute.place.service_id)?;
    Ok(dispute)
}

async fn end(api: &Api, admitted: &Admitted<'_>, accepted: Option<ReportId>) -> Result<Response, Fault> {
    let package = find(api, admitted).await?.place.id;
    match api.store.resolve(package, accepted, &admitted.by(), &api.engine).await? {
        Resolved::Ended(dispute) => {
            tracing::info!(
                pkg_id = %package, service_id = %dispute.place.service_id, store = api.store_name(),
                token_hash = admitted.caller.id.as_str(), accepted = accepted.is_some(), "dispute ended"
            );
            api.pulse.metrics.receipts.inc_by(u64::from(accepted.is_some() && api.engine.receipts));
            Ok(ok(&Disputed::from(dispute)))
        }
        Resolved::Before => Err(Refusal::new(Code::Conflict, "this dispute was ended before").into()),
        Resolved::NoSuchReport => Err(Refusal::field("report_id", "is none of the reports of this package").into()),
        Resolved::NotDisputed => Err(not_found("dispute").into()),
    }
}
