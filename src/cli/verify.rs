//! `jam verify`: recomputes a service's receipt chain from what the server stores.

use jam_domain::receipt::{Chain, verify_next};
use jam_domain::{AccumulatorRoot, HashAlgorithm, Receipt, ServiceId};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::cli::answer::Answer;
use crate::cli::args::VerifyArgs;
use crate::cli::client::Client;
use crate::cli::fault::Fault;
use crate::cli::lists::{MAX_LIMIT, Pages, Query};
use crate::cli::status;

/// `jam verify`. Reads the head first: links that are added meanwhile come after it and are checked too.
pub async fn run(client: &Client, args: VerifyArgs) -> Result<Answer, Fault> {
    let service = args.service;
    let status = status::read(client, Some(service.to_string())).await?;
    if status.get("accumulators_enabled") == Some(&Value::Bool(false)) {
        return Err(Fault::not_found("the server keeps no receipts: JAM_ACCUMULATORS_ENABLED is false there"));
    }
    let algorithm: HashAlgorithm = field(&status, "accumulator_hash")?;
    let head: Option<AccumulatorRoot> = field(&status, "accumulator_root")?;
    let mut chain = Chain::empty(service.clone());
    let Some(head) = head else { return Err(Fault::not_found(format!("service {service} has no receipts"))) };
    match walk(client, algorithm, &service, &mut chain, &head).await? {
        Ok(()) => Ok(sound(&service, &chain, algorithm)),
        Err(problem) => Ok(broken(service, &chain, algorithm, problem)),
    }
}

/// Checks link after link up to the head and beyond it; the inner error says where the chain breaks.
async fn walk(
    client: &Client,
    algorithm: HashAlgorithm,
    service: &ServiceId,
    chain: &mut Chain,
    head: &AccumulatorRoot,
) -> Result<Result<(), String>, Fault> {
    let filters = vec![("service_id", Some(service.to_string())), ("order", Some("asc".into()))];
    let mut pages = Pages::new(client, Query { name: "receipts", filters }, MAX_LIMIT, 0);
    while let Some(page) = pages.next_page().await? {
        for value in page.items {
            if let Err(problem) = step(algorithm, chain, value, head) {
                return Ok(Err(problem));
            }
        }
    }
    Ok(if chain.seq() < head.seq {
        Err(format!("the receipts end at seq {}, the server's root is at seq {}", chain.seq(), head.seq))
    } else {
        Ok(())
    })
}

fn step(algorithm: HashAlgorithm, chain: &mut Chain, value: Value, head: &AccumulatorRoot) -> Result<(), String> {
    let receipt: Receipt = serde_json::from_value(value)
        .map_err(|why| format!("after seq {}: a receipt cannot be read: {why}", chain.seq()))?;
    verify_next(algorithm, chain, &receipt).map_err(|problem| problem.to_string())?;
    if chain.seq() == head.seq && chain.root() != head.root {
        let (seq, stored, computed) = (head.seq, &head.root, chain.root());
        return Err(format!("seq {seq}: the server's root is {stored}, the receipts give {computed}"));
    }
    Ok(())
}

fn sound(service: &ServiceId, chain: &Chain, algorithm: HashAlgorithm) -> Answer {
    let (count, root) = (chain.seq(), chain.root());
    let json = json!({
        "service_id": service, "verified": true, "receipts": count, "root": root, "accumulator_hash": algorithm,
    });
    let receipts = if count == 1 { "1 receipt".to_owned() } else { format!("{count} receipts") };
    Answer::json(json)
        .with_text(format!("service {service}: {receipts} verified, root {root} ({algorithm})\n"))
        .with_names(vec![root.to_owned()])
}

fn broken(service: ServiceId, chain: &Chain, algorithm: HashAlgorithm, problem: String) -> Answer {
    let json = json!({
        "service_id": service, "verified": false, "receipts": chain.seq(), "root": chain.root(),
        "accumulator_hash": algorithm, "problem": problem,
    });
    let text = format!("service {service}: {} receipts verified up to the break\n", chain.seq());
    Answer::json(json).with_text(text).with_fault(Fault::Chain { service, problem })
}

fn field<T: DeserializeOwned>(status: &Map<String, Value>, key: &str) -> Result<T, Fault> {
    serde_json::from_value(status.get(key).cloned().unwrap_or(Value::Null)).map_err(|why| Fault::Answer {
        call: "GET /jam/status".into(),
        problem: format!("{key} is not what this slctl knows: {why}"),
    })
}
