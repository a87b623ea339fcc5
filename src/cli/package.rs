//! `jam package` and `jam packages`: submit work, list what was submitted.

use std::io::Read as _;
use std::path::Path;

use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cli::answer::Answer;
use crate::cli::args::{ListArgs, PackageArgs};
use crate::cli::client::{Call, Client, Payload, Repeat};
use crate::cli::fault::Fault;
use crate::cli::lists::{self, Query};
use crate::table::Table;

const COLUMNS: [(&str, &str); 6] = [
    ("ID", "id"),
    ("SERVICE", "service_id"),
    ("STATUS", "status"),
    ("ITEMS", "items"),
    ("CREATED", "created_at"),
    ("BY", "created_by"),
];

/// `jam package`.
pub async fn submit(client: &Client, args: PackageArgs) -> Result<Answer, Fault> {
    let PackageArgs { service, kind, params_hash, preimages, file, include_receipt, idempotency_key } = args;
    let package: String = if let Some(path) = file {
        read_package(&path)?
    } else {
        let mut item = json!({"kind": kind, "params_hash": params_hash});
        if !preimages.is_empty() {
            item["preimage_hashes"] = json!(preimages);
        }
        json!({"service_id": service, "items": [item]}).to_string()
    };
    // A key of our own makes it safe to send the package again when the connection breaks.
    let key = idempotency_key.unwrap_or_else(|| Uuid::now_v7().to_string());
    let key = HeaderValue::from_str(&key)
        .map_err(|_| Fault::Usage("--idempotency-key has characters that a header can't carry".into()))?;
    let mut call = Call::new(Method::POST, &["jam", "packages"], Repeat::Always).include_receipt(include_receipt);
    call.headers.insert("idempotency-key", key);
    call.payload = Payload::Json(package.into());
    let reply = client.send(call).await?;
    let stored: Value = reply.json()?;
    let names = package_of(&stored).get("id").and_then(Value::as_str).map(str::to_owned).into_iter().collect();
    let table = Table::of_records(&COLUMNS, &[package_of(&stored).clone()]);
    let answer = Answer::json(stored).with_names(names).with_table(table);
    match reply.header("idempotency-replayed") {
        Some("true") => Ok(answer.with_note("this package was submitted before: the stored one is shown")),
        _ => Ok(answer),
    }
}

/// The package alone, or in `{package, receipt}`.
fn package_of(answer: &Value) -> &Value {
    answer.get("package").unwrap_or(answer)
}

/// The file's own text: the server is to see what it would refuse, such as a key that comes twice.
fn read_package(path: &Path) -> Result<String, Fault> {
    let failed = |cause| Fault::reading(path, cause);
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map_err(failed)?;
    } else {
        text = std::fs::read_to_string(path).map_err(failed)?;
    }
    let package: Value = serde_json::from_str(&text)
        .map_err(|why| Fault::Usage(format!("{} is not a package in JSON: {why}", path.display())))?;
    if package.is_object() {
        Ok(text)
    } else {
        Err(Fault::Usage(format!("{}: a package is one JSON object with service_id and items", path.display())))
    }
}

/// `jam packages`.
pub async fn list(client: &Client, args: ListArgs) -> Result<Answer, Fault> {
    list_as(client, "packages", &COLUMNS, args).await
}

/// A list of packages or reports with its columns; receipts add a column.
pub async fn list_as(
    client: &Client,
    name: &'static str,
    columns: &[(&'static str, &str)],
    args: ListArgs,
) -> Result<Answer, Fault> {
    let ListArgs { status, service, include_receipt, paging } = args;
    let filters = vec![
        ("status", status),
        ("service_id", service.map(|service| service.to_string())),
        ("include_receipt", include_receipt.then(|| "true".into())),
    ];
    let list = lists::fetch(client, Query { name, filters }, &paging).await?;
    let table = match &list.receipts {
        Some(receipts) => {
            let rows: Vec<Value> = list.items.iter().map(|item| with_seq(item, receipts)).collect();
            Table::of_records(&[columns, &[("RECEIPT", "receipt")]].concat(), &rows)
        }
        None => Table::of_records(columns, &list.items),
    };
    let answer = Answer::json(list.json()).with_names(list.names("id")).with_table(table).prefer_table(paging.table);
    Ok(lists::noted(answer, &list, &paging))
}

/// The entry with the seq of its receipt: a package's receipt has the package's id, a report's its output hash. Reports with
/// the same output are told apart by the id in `extra`.
fn with_seq(item: &Value, receipts: &[Value]) -> Value {
    let id = item.get("id");
    let hash = item.get("refine_output_hash").or(id);
    let is_its = |receipt: &&Value| {
        let named = receipt.pointer("/extra/report_id");
        receipt.get("hash") == hash
            && receipt.get("service_id") == item.get("service_id")
            && (named.is_none() || named == id)
    };
    let seq = receipts.iter().find(is_its).and_then(|receipt| receipt.get("seq"));
    let mut item = item.clone();
    item["receipt"] = seq.cloned().unwrap_or(Value::Null);
    item
}
