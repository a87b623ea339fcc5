//! Refine, attest: the engine's traits and the built-in `hash-refiner`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::attestation::{LOCAL_WORKER, signature};
use crate::canonical;
use crate::digest::HashAlgorithm;
use crate::names::{PackageId, ReportId};
use crate::receipt::{Chain, Entry};
use crate::record::{Attestation, PackageStatus, Receipt, WorkPackage, WorkReport};
use crate::time::Timestamp;

/// What refining one package gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refined {
    /// Hex hash of the output.
    pub output_hash: String,
    /// The output in short form.
    pub compact: Vec<u8>,
    /// Notes for whoever reads the report.
    pub traces: Option<Vec<String>>,
}

/// Why a package can't be refined: a clause for people, kept with the disputed package.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RefineFault(pub String);

/// Turns a package into an output: stateless and deterministic, the same content gives the same output.
pub trait Refiner: Send + Sync {
    /// Refines one package.
    fn refine(&self, package: &WorkPackage) -> Result<Refined, RefineFault>;
}

/// Gives one worker's word for a report.
pub trait Attestor: Send + Sync {
    /// Attests the report.
    fn attest(&self, report: &WorkReport, now: Timestamp) -> Attestation;
}

/// Puts an attested report into the state of its service.
pub trait Accumulator: Send + Sync {
    /// Appends the report's receipt to the chain.
    fn accumulate(&self, chain: &mut Chain, report: &WorkReport, now: Timestamp) -> Receipt;
}

/// The parts that processing is made of.
pub struct Engine {
    /// Package to output.
    pub refiner: Box<dyn Refiner>,
    /// The workers in this process.
    pub attestors: Vec<Box<dyn Attestor>>,
    /// Report to receipt.
    pub accumulator: Box<dyn Accumulator>,
    /// The hash of package receipts.
    pub algorithm: HashAlgorithm,
    /// Whether receipts are kept at all.
    pub receipts: bool,
    /// Sum of weights needed before accumulate.
    pub threshold: u32,
}

/// A package on its way through the engine: refined and attested by the workers of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// The report; `applied` when the threshold is reached, else `refined`.
    pub report: WorkReport,
    /// One per worker.
    pub attestations: Vec<Attestation>,
}

impl Engine {
    /// The built-in engine: `hash-refiner` with one local attestor of weight 1.
    pub fn hash_refiner(algorithm: HashAlgorithm, threshold: u32, receipts: bool) -> Self {
        Self {
            refiner: Box::new(HashRefiner { algorithm }),
            attestors: vec![Box::new(LocalAttestor { algorithm })],
            accumulator: Box::new(ReceiptAccumulator { algorithm }),
            algorithm,
            receipts,
            threshold,
        }
    }

    /// Refines and attests one package; touches no state, so it needs no lock.
    pub fn work(&self, package: &WorkPackage, now: Timestamp) -> Result<Attested, RefineFault> {
        let Refined { output_hash, compact, traces } = self.refiner.refine(package)?;
        let mut report = WorkReport {
            id: ReportId::new(),
            package_id: package.id,
            service_id: package.service_id.clone(),
            refine_output_hash: output_hash,
            refine_output_compact: BASE64.encode(compact),
            traces,
            created_at: now,
            status: PackageStatus::Refined,
        };
        let attestations: Vec<_> = self.attestors.iter().map(|attestor| attestor.attest(&report, now)).collect();
        if reached(self.threshold, attestations.iter().map(|a| a.weight)) {
            report.status = PackageStatus::Applied;
        }
        Ok(Attested { report, attestations })
    }
}

/// Whether the weights reach the threshold.
pub fn reached(threshold: u32, weights: impl IntoIterator<Item = u32>) -> bool {
    weights.into_iter().map(u64::from).sum::<u64>() >= u64::from(threshold)
}

struct HashRefiner {
    algorithm: HashAlgorithm,
}

impl Refiner for HashRefiner {
    fn refine(&self, package: &WorkPackage) -> Result<Refined, RefineFault> {
        let hash = self.algorithm.hash(&canonical::bytes(&content_of(package)));
        Ok(Refined { output_hash: hex::encode(hash), compact: hash.to_vec(), traces: None })
    }
}

/// A package's content: what the client said, without what the server made of it.
pub fn content_of(package: &WorkPackage) -> Value {
    let items: Vec<Value> = package
        .items
        .iter()
        .map(|item| {
            let mut item = serde_json::to_value(item).expect("an item has string keys");
            if let Value::Object(fields) = &mut item {
                fields.retain(|key, _| key != "id" && key != "package_id");
            }
            item
        })
        .collect();
    json!({
        "service_id": package.service_id,
        "items": items,
        "preimage_hashes": package.preimage_hashes.clone().unwrap_or_default(),
        "nonce": package.nonce,
    })
}

struct LocalAttestor {
    algorithm: HashAlgorithm,
}

impl Attestor for LocalAttestor {
    fn attest(&self, report: &WorkReport, now: Timestamp) -> Attestation {
        let mut word = Attestation {
            report_id: report.id,
            worker_id: LOCAL_WORKER.into(),
            signature: String::new(),
            weight: 1,
            created_at: now,
            engine: "hash-refiner".into(),
            engine_version: env!("CARGO_PKG_VERSION").into(),
        };
        word.signature = signature(self.algorithm, &json!(report), &word);
        word
    }
}

struct ReceiptAccumulator {
    algorithm: HashAlgorithm,
}

impl Accumulator for ReceiptAccumulator {
    fn accumulate(&self, chain: &mut Chain, report: &WorkReport, now: Timestamp) -> Receipt {
        chain.append(self.algorithm, Entry::of_report(self.algorithm, report), now)
    }
}

/// Why a package is disputed, as its report endpoint shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispute {
    /// The package.
    pub package_id: PackageId,
    /// The refiner's clause.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::WorkItem;
    use crate::{ItemId, TokenId};

    fn package() -> WorkPackage {
        let id = PackageId::new();
        let item = WorkItem {
            id: ItemId::new(),
            package_id: id,
            kind: "k".into(),
            params_hash: "p".into(),
            preimage_hashes: None,
            max_fee: None,
            memo: None,
        };
        WorkPackage {
            id,
            service_id: "s".parse().unwrap(),
            items: vec![item],
            created_by: TokenId::anonymous(),
            nonce: "n".into(),
            expiry: None,
            signature: None,
            preimage_hashes: None,
            status: PackageStatus::Pending,
            created_at: Timestamp::now(),
        }
    }

    #[test]
    fn the_same_content_gives_the_same_output_hash_whoever_sent_it() {
        let engine = Engine::hash_refiner(HashAlgorithm::Blake3, 1, true);
        let (one, two) = (package(), package());
        let hash = |p| engine.work(p, Timestamp::now()).unwrap().report.refine_output_hash;
        assert_eq!(hash(&one), hash(&two));
        let mut other = package();
        other.nonce = "m".into();
        assert_ne!(hash(&one), hash(&other));
    }

    #[test]
    fn a_threshold_above_the_local_weight_leaves_the_report_refined() {
        let now = Timestamp::now();
        let status = |threshold| {
            Engine::hash_refiner(HashAlgorithm::Sha256, threshold, true).work(&package(), now).unwrap().report.status
        };
        assert_eq!(status(1), PackageStatus::Applied);
        assert_eq!(status(2), PackageStatus::Refined);
    }
}
