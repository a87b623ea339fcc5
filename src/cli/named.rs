//! The preimages that packages name: read whole, and compared with their hashes.

use std::collections::BTreeMap;

use jam_domain::PreimageHash;
use serde_json::Value;

use crate::cli::client::{Call, Client};
use crate::cli::fault::Fault;
use crate::cli::records::{Mismatch, text};
use crate::cli::{preimage, status};

/// Preimages, each with one of the packages that name it and the seq of that one's receipt.
#[derive(Default)]
pub struct Named(BTreeMap<PreimageHash, (String, Option<u64>)>);

impl Named {
    /// Takes down what a listed package names.
    pub fn note(&mut self, package: &Value, seq: Option<u64>) {
        let hashes = package.get("preimage_hashes").and_then(Value::as_array).into_iter().flatten();
        for hash in hashes.filter_map(Value::as_str).filter_map(|hash| hash.parse().ok()) {
            self.0.entry(hash).or_insert_with(|| (text(package, "id").to_owned(), seq));
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Reads them one after the other.
    pub async fn compare(&self, client: &Client) -> Result<Result<(), Mismatch>, Fault> {
        for (hash, (package, seq)) in &self.0 {
            if let Some(found) = wrong_with(client, *hash, package).await? {
                let problem = format!("preimage {hash}, which package {package} names, {found}");
                return Ok(Err(Mismatch { seq: *seq, problem }));
            }
        }
        Ok(Ok(()))
    }
}

async fn wrong_with(client: &Client, hash: PreimageHash, package: &str) -> Result<Option<&'static str>, Fault> {
    match preimage::compare(client, hash).await {
        Ok(()) => Ok(None),
        Err(Fault::Corrupt(_)) => Ok(Some("has other bytes")),
        Err(fault) if fault.is_internal() => Ok(Some("can't be read by the server; its log says why")),
        Err(Fault::Refused(refused)) if refused.status == 404 => {
            // The last package that named it may have gone meanwhile, and the preimage with it.
            let named = client.send(Call::get(&["jam", "packages", package])).await.is_ok();
            Ok(named.then_some("is not stored"))
        }
        // The server has fewer bytes than it announced, or is going: then it does not answer a second time either.
        Err(Fault::Unreachable { .. }) => {
            status::read(client, None).await?;
            match preimage::compare(client, hash).await {
                Ok(()) => Ok(None),
                Err(Fault::Unreachable { .. }) => Ok(Some("breaks off; the server's log says why")),
                Err(fault) => Err(fault),
            }
        }
        Err(fault) => Err(fault),
    }
}
