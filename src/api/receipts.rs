//! Receipts: pages of a chain that anyone can verify, and the latest one of a hash.

use axum::response::Response;
use jam_domain::names::is_plain_name;
use jam_domain::page::{PageRequest, ReceiptFilter, Start};
use jam_domain::{Code, Refusal};

use super::admit::Admitted;
use super::fault::{Fault, not_found, ok};
use super::lists::{Beside, list};
use super::state::Api;

/// GET /jam/receipts.
pub async fn all(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    kept(admitted)?;
    let query = &admitted.query;
    let service_id = query.value("service_id")?;
    let ascending = match (query.text("order"), &service_id) {
        (None | Some("desc"), _) => false,
        (Some("asc"), Some(_)) => true,
        (Some("asc"), None) => {
            return Err(Refusal::field("order", "asc needs service_id: seq counts per service").into());
        }
        (Some(other), _) => return Err(Refusal::field("order", format!("{other:?} is neither asc nor desc")).into()),
    };
    service_id.iter().try_for_each(|service| admitted.caller.may_touch(service))?;
    let hash = query.text("hash").map(str::to_owned);
    if hash.as_deref().is_some_and(|hash| !is_plain_name(hash)) {
        return Err(Refusal::field("hash", "is neither a package id nor a refine_output_hash").into());
    }
    let filter = ReceiptFilter { service_id, hash, ascending, visible: admitted.caller.services.clone() };
    let asked = query.page()?;
    let page = api.store.receipts(&filter, asked.clone()).await?;
    Ok(list(admitted.settings.legacy_list_response, &asked, &page, Beside::default()))
}

/// GET /jam/receipts/{hash}.
pub async fn read(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    kept(admitted)?;
    let filter = ReceiptFilter {
        service_id: None,
        hash: Some(admitted.segment.to_owned()),
        ascending: false,
        visible: admitted.caller.services.clone(),
    };
    let latest = api.store.receipts(&filter, PageRequest { limit: 1, start: Start::Offset(0) }).await?;
    let receipt = latest.items.into_iter().next().ok_or_else(|| not_found("receipt"))?;
    Ok(ok(&receipt))
}

fn kept(admitted: &Admitted<'_>) -> Result<(), Refusal> {
    if admitted.settings.accumulators_enabled {
        Ok(())
    } else {
        Err(Refusal::new(Code::NotFound, "receipts are not kept here: accumulators_enabled is false"))
    }
}
