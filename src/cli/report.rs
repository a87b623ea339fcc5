//! `jam report` and `jam reports`: what refining gave, and who attests it.

use jam_domain::PackageId;
use serde_json::Value;

use crate::cli::answer::Answer;
use crate::cli::args::{ListArgs, ReportArgs};
use crate::cli::client::{Call, Client};
use crate::cli::fault::{Fault, Refused};
use crate::cli::package;
use crate::table::Table;

const COLUMNS: [(&str, &str); 6] = [
    ("ID", "id"),
    ("PACKAGE", "package_id"),
    ("SERVICE", "service_id"),
    ("STATUS", "status"),
    ("OUTPUT", "refine_output_hash"),
    ("CREATED", "created_at"),
];

/// `jam report`.
pub async fn show(client: &Client, args: ReportArgs) -> Result<Answer, Fault> {
    let ReportArgs { package, include_receipt } = args;
    let call = Call::get(&["jam", "packages", &package.to_string(), "report"]).include_receipt(include_receipt);
    let answer: Value = match client.send(call).await {
        Ok(reply) => reply.json()?,
        Err(Fault::Refused(refused)) if refused.status == 404 => return Err(explain(client, package, refused).await),
        Err(fault) => return Err(fault),
    };
    let report = answer.get("report").unwrap_or(&answer).clone();
    let names = report.get("id").and_then(Value::as_str).map(str::to_owned).into_iter().collect();
    let table = Table::of_records(&COLUMNS, &[report]);
    Ok(Answer::json(answer).with_names(names).with_table(table))
}

/// Why there is no report: no such package, or not refined yet, or never. A server that does not say is asked.
async fn explain(client: &Client, package: PackageId, refused: Refused) -> Fault {
    let said = |key: &str| refused.details.as_ref()?.get(key)?.as_str().map(str::to_owned);
    let status = match said("status") {
        Some(status) => Some(status),
        None => status_of(client, package).await,
    };
    let message = match status.as_deref() {
        Some("pending") => format!(
            "package {package} is pending: it has no report until it is processed; run `slctl jam process`, or wait for a worker"
        ),
        Some("disputed") => {
            format!("package {package} is disputed and has no report: {}", said("reason").unwrap_or(refused.message))
        }
        Some(_) | None => format!("package {package}: {}", refused.message),
    };
    Fault::not_found(message)
}

async fn status_of(client: &Client, package: PackageId) -> Option<String> {
    let reply = client.send(Call::get(&["jam", "packages", &package.to_string()])).await.ok()?;
    reply.json::<Value>().ok()?.get("status")?.as_str().map(str::to_owned)
}

/// `jam reports`.
pub async fn list(client: &Client, args: ListArgs) -> Result<Answer, Fault> {
    package::list_as(client, "reports", &COLUMNS, args).await
}
