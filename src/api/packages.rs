//! Packages: submitted, listed, read.

use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use hyper::body::Incoming;
use jam_domain::page::PackageFilter;
use jam_domain::submission::{Stamped, Submission, idempotency_key};
use jam_domain::{Code, PackageId, PackageStatus, Refusal, WorkPackage};
use jam_store::{NewPackage, Place, SubmitError, Submitted};
use opentelemetry::KeyValue;
use serde_json::json;

use super::admit::Admitted;
use super::body::received;
use super::fault::{Fault, json_response, not_found};
use super::lists::{self, Beside};
use super::shapes::{Attestations, PackageWithReceipt, ReportBundle};
use super::spans;
use super::state::Api;

/// POST /jam/packages.
pub async fn submit(api: &Api, admitted: &Admitted<'_>, body: &mut Incoming) -> Result<Response, Fault> {
    let include_receipt = admitted.query.flag("include_receipt")?;
    let key = key_of(admitted)?;
    let (bytes, mut turn) = received(api, admitted, body).await?;
    let submission = Submission::parse(&bytes)?;
    // Until it is stored: where the database is slow, packages that wait for it are what fills the memory.
    turn.keep(bytes.len() as u64);
    drop(bytes);
    admitted.caller.may_touch(submission.service_id())?;
    let metrics = &api.pulse.metrics;
    let service = submission.service_id().clone();
    api.gate.service_within(&admitted.settings, metrics, &admitted.caller, &service, admitted.now).await?;
    let Stamped { package, fingerprint, id_from_client } = submission.stamp(admitted.caller.id.clone(), admitted.now);
    let new = NewPackage {
        package,
        fingerprint,
        id_from_client,
        idempotency_key: key,
        pending_cap: admitted.settings.max_pending_packages,
        service_pending_cap: admitted.settings.service_pending_cap(&service),
    };
    let submitted = api.store.submit(new, &api.engine).await.inspect_err(|error| capped(api, admitted, error))?;
    drop(turn);
    log(api, admitted, &submitted).await;
    Ok(accepted(submitted, include_receipt))
}

fn key_of(admitted: &Admitted<'_>) -> Result<Option<String>, Refusal> {
    let mut values = admitted.headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::field("Idempotency-Key", "must be sent once"));
    }
    // A key that is not text is as wrong as one that is too long, and refused by the same rule.
    idempotency_key(value.to_str().unwrap_or_default()).map(Some)
}

fn capped(api: &Api, admitted: &Admitted<'_>, error: &SubmitError) {
    if let SubmitError::PendingLimit { cap, service: _ } = error {
        api.pulse.metrics.pending_cap_hits.inc();
        tracing::info!(
            token_hash = admitted.caller.id.as_str(),
            reason = "pending_limit",
            limit = cap,
            "package refused"
        );
    }
}

async fn log(api: &Api, admitted: &Admitted<'_>, submitted: &Submitted) {
    let Submitted { package, receipt, replayed } = submitted;
    spans::say(|| KeyValue::new("jam.pkg_id", package.id.to_string()));
    if !replayed {
        api.pulse.metrics.package_submit.inc();
        api.pulse.metrics.receipts.inc_by(u64::from(receipt.is_some()));
    }
    if tracing::enabled!(tracing::Level::INFO) {
        let pending_count = api.pulse.pending.about(api.store.as_ref()).await;
        tracing::info!(
            pkg_id = %package.id, service_id = %package.service_id, store = api.store_name(),
            token_hash = admitted.caller.id.as_str(), pending_count, replayed, "package submitted"
        );
    }
}

fn accepted(submitted: Submitted, include_receipt: bool) -> Response {
    let Submitted { package, receipt, replayed } = submitted;
    let status = if replayed { StatusCode::OK } else { StatusCode::CREATED };
    let location = format!("/jam/packages/{}", package.id);
    let mut response = if include_receipt {
        json_response(status, &PackageWithReceipt { package, receipt })
    } else {
        json_response(status, &package)
    };
    let headers = response.headers_mut();
    if replayed {
        headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    if let Ok(location) = HeaderValue::from_str(&location) {
        headers.insert(LOCATION, location);
    }
    response
}

/// GET /jam/packages.
pub async fn all(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    let query = &admitted.query;
    let filter = PackageFilter {
        service_id: query.value("service_id")?,
        status: query.value("status")?,
        created_after: query.value("created_after")?,
        created_before: query.value("created_before")?,
        visible: admitted.caller.services.clone(),
        archived: admitted.archived()?,
    };
    let asked = query.page()?;
    let with_receipts = admitted.lists("include_receipt")?;
    filter.service_id.iter().try_for_each(|service| admitted.caller.may_touch(service))?;
    let turn = lists::turn(api, admitted).await?;
    let page = api.store.packages(&filter, asked).await?;
    let receipts = if with_receipts {
        let ids: Vec<PackageId> = page.items.iter().map(|package| package.id).collect();
        Some(api.store.package_receipts(&ids, filter.archived).await?)
    } else {
        None
    };
    Ok(lists::large(admitted, &asked, &page, Beside { receipts, attestations: None }, turn)?)
}

/// GET /jam/packages/{id}.
pub async fn read(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    let include_receipt = admitted.query.flag("include_receipt")?;
    let (package, archived) = find(api, admitted).await?;
    if !include_receipt {
        return Ok(lists::single(api, admitted, &package)?);
    }
    let receipt = api.store.package_receipts(&[package.id], archived).await?.into_iter().next();
    Ok(lists::single(api, admitted, &PackageWithReceipt { package, receipt })?)
}

/// GET /jam/packages/{id}/report.
pub async fn report(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    let include_receipt = admitted.query.flag("include_receipt")?;
    let (Place { id, status, .. }, archived) = place(api, admitted).await?;
    let Some(bundle) = report_of(api, id, archived).await? else {
        return Err(unrefined(api, id, status).await?.into());
    };
    let jam_store::ReportBundle { report, attestations, receipt } = bundle;
    let body = ReportBundle { report, attestations, receipt: include_receipt.then_some(receipt) };
    Ok(lists::single(api, admitted, &body)?)
}

/// Why there is no report: not refined yet, or disputed for a reason that the client should hear.
async fn unrefined(api: &Api, id: PackageId, status: PackageStatus) -> Result<Refusal, Fault> {
    let details = match api.store.dispute_of(id).await? {
        Some(reason) => json!({"status": status.as_str(), "reason": reason}),
        None => json!({"status": status.as_str()}),
    };
    Ok(Refusal::new(Code::NotFound, format!("the package is {status}: it has no report")).details(details))
}

/// GET /jam/packages/{id}/attestations.
pub async fn attestations(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    let (Place { id, .. }, archived) = place(api, admitted).await?;
    let bundle = report_of(api, id, archived).await?;
    let items = bundle.map(|bundle| bundle.attestations).unwrap_or_default();
    Ok(lists::single(api, admitted, &Attestations { items })?)
}

/// The package that the path names, and whether it is archived: then only administrators see it, when they ask for it.
async fn find(api: &Api, admitted: &Admitted<'_>) -> Result<(WorkPackage, bool), Fault> {
    let (id, also_archived) = sought(admitted)?;
    let (package, archived) = match api.store.package(id).await? {
        Some(package) => (package, false),
        None if also_archived => {
            let archived = api.store.archived(id).await?;
            (archived.ok_or_else(|| not_found("package"))?.package, true)
        }
        None => return Err(not_found("package").into()),
    };
    admitted.caller.may_touch(&package.service_id)?;
    Ok((package, archived))
}

/// The same without its body: that may be large, and who waits for more of the store would hold it, or one that can't be read.
async fn place(api: &Api, admitted: &Admitted<'_>) -> Result<(Place, bool), Fault> {
    let (id, also_archived) = sought(admitted)?;
    let mut found = api.store.place(id, false).await?.map(|place| (place, false));
    if found.is_none() && also_archived {
        found = api.store.place(id, true).await?.map(|place| (place, true));
    }
    let (place, archived) = found.ok_or_else(|| not_found("package"))?;
    admitted.caller.may_touch(&place.service_id)?;
    Ok((place, archived))
}

/// The id in the path, and whether an archived package counts. A malformed id names none.
fn sought(admitted: &Admitted<'_>) -> Result<(PackageId, bool), Refusal> {
    let also_archived = admitted.archived()?;
    Ok((admitted.segment.parse().map_err(|_| not_found("package"))?, also_archived))
}

async fn report_of(api: &Api, id: PackageId, archived: bool) -> Result<Option<jam_store::ReportBundle>, Fault> {
    let bundle = if archived { api.store.archived_report(id).await } else { api.store.report_of(id).await };
    Ok(bundle?)
}
