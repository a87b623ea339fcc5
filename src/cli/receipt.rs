//! `jam receipt` and `jam receipts`: the links of the chains.

use serde_json::{Map, Value};

use crate::cli::answer::Answer;
use crate::cli::args::{ReceiptArgs, ReceiptsArgs};
use crate::cli::client::{Call, Client};
use crate::cli::fault::Fault;
use crate::cli::lists::{self, Query};
use crate::table::Table;

const COLUMNS: [(&str, &str); 7] = [
    ("SERVICE", "service_id"),
    ("SEQ", "seq"),
    ("TYPE", "entry_type"),
    ("STATUS", "status"),
    ("HASH", "hash"),
    ("ROOT", "new_root"),
    ("PROCESSED", "processed_at"),
];

/// `jam receipt`.
pub async fn show(client: &Client, args: ReceiptArgs) -> Result<Answer, Fault> {
    let reply = client.send(Call::get(&["jam", "receipts", &args.hash])).await.map_err(|fault| match fault {
        Fault::Refused(refused) if refused.status == 404 => {
            Fault::not_found(format!("receipt {}: {}", args.hash, refused.message))
        }
        other => other,
    })?;
    let receipt: Map<String, Value> = reply.json()?;
    let receipt = Value::Object(receipt);
    let table = Table::of_records(&COLUMNS, std::slice::from_ref(&receipt));
    Ok(Answer::json(receipt).with_names(vec![args.hash]).with_table(table))
}

/// `jam receipts`.
pub async fn list(client: &Client, args: ReceiptsArgs) -> Result<Answer, Fault> {
    let ReceiptsArgs { service, paging } = args;
    let filters = vec![("service_id", service.map(|service| service.to_string()))];
    let list = lists::fetch(client, Query { name: "receipts", filters }, &paging).await?;
    let table = Table::of_records(&COLUMNS, &list.items);
    let answer = Answer::json(list.json()).with_names(list.names("hash")).with_table(table).prefer_table(paging.table);
    Ok(lists::noted(answer, &list, &paging))
}
