//! Reports: listed, and attested by further workers.

use axum::http::StatusCode;
use axum::response::Response;
use hyper::body::Incoming;
use jam_domain::page::{Page, ReportFilter};
use jam_domain::word::{MAX_WORDS, attestation};
use jam_domain::{Attestation, Code, PackageId, PackageStatus, Refusal, ReportId};
use jam_store::{Attest, Dissent, ReportBundle};

use super::admit::Admitted;
use super::body::received;
use super::fault::{Fault, json_response, not_found};
use super::lists::{self, Beside};
use super::shapes;
use super::state::Api;

/// GET /jam/reports.
pub async fn all(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    let query = &admitted.query;
    let filter = ReportFilter {
        service_id: query.value("service_id")?,
        status: query.value("status")?,
        visible: admitted.caller.services.clone(),
        archived: admitted.archived()?,
    };
    let asked = query.page()?;
    let with_receipts = admitted.lists("include_receipt")?;
    let with_attestations = admitted.lists("include_attestations")?;
    filter.service_id.iter().try_for_each(|service| admitted.caller.may_touch(service))?;
    let turn = lists::turn(api, admitted).await?;
    let (page, attestations) = if with_attestations {
        let Page { items, next } = api.store.attested_reports(&filter, asked).await?;
        let (items, words) = items.into_iter().unzip();
        (Page { items, next }, Some(words))
    } else {
        (api.store.reports(&filter, asked).await?, None)
    };
    let receipts = if with_receipts {
        let packages: Vec<PackageId> = page.items.iter().map(|report| report.package_id).collect();
        Some(api.store.report_receipts(&packages, filter.archived).await?)
    } else {
        None
    };
    Ok(lists::large(admitted, &asked, &page, Beside { receipts, attestations }, turn)?)
}

/// POST /jam/reports/{id}/attestations.
pub async fn attest(api: &Api, admitted: &Admitted<'_>, body: &mut Incoming) -> Result<Response, Fault> {
    let id: ReportId = admitted.segment.parse().map_err(|_| not_found("report"))?;
    let (bytes, turn) = received(api, admitted, body).await?;
    let (said, output) = attestation(&bytes, id, admitted.now)?;
    drop((bytes, turn));
    let worker = said.worker_id.clone();
    let bundle = match word(api, admitted, id, said, output.as_deref()).await? {
        Attest::Recorded(bundle) => bundle,
        Attest::Twice => {
            let message = format!("worker {worker} has attested this report already");
            return Err(Refusal::new(Code::Conflict, message).into());
        }
        Attest::Full => {
            let message = format!(
                "a report takes {MAX_WORDS} attestations at most, and as many against it: leave this one out, no threshold needs it"
            );
            return Err(Refusal::new(Code::Conflict, message).into());
        }
        Attest::NoSuchReport => return Err(not_found("report").into()),
    };
    let ReportBundle { report, attestations, receipt } = bundle;
    api.pulse.metrics.attestations.inc();
    // This word is the one that reached the threshold when it made the receipt just now.
    let made_receipt = receipt.as_ref().is_some_and(|receipt| receipt.processed_at >= admitted.now);
    api.pulse.metrics.receipts.inc_by(u64::from(made_receipt));
    tracing::info!(
        report_id = %report.id, pkg_id = %report.package_id, service_id = %report.service_id, store = api.store_name(),
        token_hash = admitted.caller.id.as_str(), applied = report.status == PackageStatus::Applied, "report attested"
    );
    let body = shapes::ReportBundle { report, attestations, receipt: Some(receipt) };
    Ok(json_response(StatusCode::CREATED, &body))
}

/// A word for the report, or for another output: that one makes the package disputed.
async fn word(
    api: &Api,
    admitted: &Admitted<'_>,
    id: ReportId,
    said: Attestation,
    output: Option<&str>,
) -> Result<Attest, Fault> {
    let services = &admitted.caller.services;
    if let Some(output) = output {
        match api.store.dissent(id, said.clone(), output, services).await? {
            Dissent::Agrees => {}
            Dissent::TooLate => {
                let message = "the report is applied already, with another refine_output_hash: it can't be disputed";
                return Err(Refusal::new(Code::Conflict, message).into());
            }
            Dissent::Recorded(attest) => {
                tracing::warn!(report_id = %id, worker = said.worker_id, output, "a worker got another output");
                return Ok(attest);
            }
        }
    }
    Ok(api.store.attest(id, said, services, &api.engine).await?)
}
