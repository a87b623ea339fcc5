//! The receipt chain: how a root is computed, how a link is made, and how anyone checks a chain from stored values alone.

use serde_json::Value;

use crate::canonical;
use crate::digest::HashAlgorithm;
use crate::names::ServiceId;
use crate::record::{AccumulatorRoot, EntryType, PackageStatus, Receipt, WorkPackage, WorkReport};
use crate::time::Timestamp;

/// The first field of every root: names the layout and keeps its hashes apart from all others.
pub const DOMAIN: &str = "jam-receipt-v1";

/// What is about to get a receipt: everything of the link that does not depend on its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is for.
    pub entry_type: EntryType,
    /// The package id or the refine_output_hash.
    pub hash: String,
    /// Hex hash of the canonical JSON.
    pub metadata_hash: String,
    /// Status of the entry now.
    pub status: PackageStatus,
    /// Further names.
    pub extra: Option<Value>,
}

impl Entry {
    /// The entry of a package that is being accepted.
    pub fn of_package(algorithm: HashAlgorithm, package: &WorkPackage) -> Self {
        Self {
            entry_type: EntryType::Package,
            hash: package.id.to_string(),
            metadata_hash: hex::encode(algorithm.hash(&canonical::bytes(package))),
            status: package.status,
            extra: None,
        }
    }

    /// The entry of a report that is being accumulated.
    pub fn of_report(algorithm: HashAlgorithm, report: &WorkReport) -> Self {
        Self {
            entry_type: EntryType::Report,
            hash: report.refine_output_hash.clone(),
            metadata_hash: hex::encode(algorithm.hash(&canonical::bytes(report))),
            status: report.status,
            extra: Some(serde_json::json!({"package_id": report.package_id, "report_id": report.id})),
        }
    }
}

/// The head of one service's chain: the next link hangs on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    service_id: ServiceId,
    seq: u64,
    root: String,
}

impl Chain {
    /// A chain without links.
    pub fn empty(service_id: ServiceId) -> Self {
        Self { service_id, seq: 0, root: String::new() }
    }

    /// The chain whose last link has this seq and root.
    pub fn at(service_id: ServiceId, seq: u64, root: String) -> Self {
        Self { service_id, seq, root }
    }

    /// The seq of the last link, 0 when there is none.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The root of the last link in hex, "" when there is none.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Hangs the entry on the chain and returns its receipt.
    pub fn append(&mut self, algorithm: HashAlgorithm, entry: Entry, processed_at: Timestamp) -> Receipt {
        let Entry { entry_type, hash, metadata_hash, status, extra } = entry;
        let mut receipt = Receipt {
            hash,
            service_id: self.service_id.clone(),
            entry_type,
            seq: self.seq + 1,
            prev_root: std::mem::take(&mut self.root),
            new_root: String::new(),
            status,
            processed_at,
            metadata_hash,
            extra,
        };
        receipt.new_root = root_of(algorithm, &receipt);
        self.seq = receipt.seq;
        self.root.clone_from(&receipt.new_root);
        receipt
    }

    /// The head as the API shows it.
    pub fn head(&self, updated_at: Timestamp) -> AccumulatorRoot {
        AccumulatorRoot { service_id: self.service_id.clone(), seq: self.seq, root: self.root.clone(), updated_at }
    }
}

/// Where and how a chain breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    /// A link is missing, doubled or out of order.
    #[error("seq {found} where {expected} belongs")]
    Seq {
        /// The seq that belongs here.
        expected: u64,
        /// The seq that is here.
        found: u64,
    },
    /// A link does not hang on the one before.
    #[error("seq {seq}: prev_root is not the new_root of seq {}", seq - 1)]
    Fork {
        /// The link.
        seq: u64,
    },
    /// A stored field of the link was changed.
    #[error("seq {seq}: new_root does not follow from the stored fields: one of them was changed")]
    Root {
        /// The link.
        seq: u64,
    },
    /// A link of another service.
    #[error("seq {seq}: belongs to service {found}")]
    Service {
        /// The link.
        seq: u64,
        /// Its service.
        found: ServiceId,
    },
}

/// Checks one link against the chain so far and moves the chain on: feed links in order of seq, page by page.
pub fn verify_next(algorithm: HashAlgorithm, chain: &mut Chain, receipt: &Receipt) -> Result<(), Break> {
    if receipt.service_id != chain.service_id {
        return Err(Break::Service { seq: receipt.seq, found: receipt.service_id.clone() });
    }
    if receipt.seq != chain.seq + 1 {
        return Err(Break::Seq { expected: chain.seq + 1, found: receipt.seq });
    }
    if receipt.prev_root != chain.root {
        return Err(Break::Fork { seq: receipt.seq });
    }
    if receipt.new_root != root_of(algorithm, receipt) {
        return Err(Break::Root { seq: receipt.seq });
    }
    chain.seq = receipt.seq;
    chain.root.clone_from(&receipt.new_root);
    Ok(())
}

/// The root after a link: hex of H over the eight fields, each preceded by its length in bytes as a 4-byte big-endian number.
///
/// Every field is hashed as the UTF-8 text that the JSON shows (`seq` in decimal), so the stored values alone are enough.
pub fn root_of(algorithm: HashAlgorithm, receipt: &Receipt) -> String {
    let seq = receipt.seq.to_string();
    let processed_at = receipt.processed_at.to_string();
    let fields = [
        DOMAIN,
        &receipt.prev_root,
        receipt.entry_type.as_str(),
        &receipt.hash,
        &receipt.metadata_hash,
        receipt.status.as_str(),
        &seq,
        &processed_at,
    ];
    hex::encode(algorithm.hash(&parts(&fields)))
}

/// Texts one after the other, each preceded by its length: no two different lists of texts have the same bytes.
pub(crate) fn parts(fields: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(384);
    for field in fields {
        let length = u32::try_from(field.len()).expect("what is hashed is shorter than 4 GiB");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(field.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(hash: &str) -> Entry {
        Entry {
            entry_type: EntryType::Report,
            hash: hash.into(),
            metadata_hash: "00".into(),
            status: PackageStatus::Applied,
            extra: None,
        }
    }

    fn chain_of(count: u64) -> Vec<Receipt> {
        let mut chain = Chain::empty("s".parse().unwrap());
        (0..count)
            .map(|n| chain.append(HashAlgorithm::Sha256, entry(&n.to_string()), Timestamp::from_micros(1)))
            .collect()
    }

    fn verify(receipts: &[Receipt]) -> Result<(), Break> {
        let mut chain = Chain::empty("s".parse().unwrap());
        receipts.iter().try_for_each(|receipt| verify_next(HashAlgorithm::Sha256, &mut chain, receipt))
    }

    #[test]
    fn a_chain_verifies_from_its_stored_values_alone() {
        let text = serde_json::to_string(&chain_of(5)).unwrap();
        assert_eq!(verify(&serde_json::from_str::<Vec<Receipt>>(&text).unwrap()), Ok(()));
    }

    #[test]
    fn a_change_of_any_hashed_field_is_found_at_its_link() {
        let changes: [fn(&mut Receipt); 6] = [
            |r| r.hash.push('x'),
            |r| r.metadata_hash.push('x'),
            |r| r.entry_type = EntryType::Package,
            |r| r.status = PackageStatus::Disputed,
            |r| r.processed_at = Timestamp::from_micros(2),
            |r| r.new_root.push('x'),
        ];
        for change in changes {
            let mut receipts = chain_of(5);
            change(&mut receipts[2]);
            assert_eq!(verify(&receipts), Err(Break::Root { seq: 3 }));
        }
        let mut forked = chain_of(5);
        forked[2].prev_root.push('x');
        assert_eq!(verify(&forked), Err(Break::Fork { seq: 3 }));
        let mut gap = chain_of(5);
        gap.remove(2);
        assert_eq!(verify(&gap), Err(Break::Seq { expected: 3, found: 4 }));
    }

    #[test]
    fn moving_a_byte_from_one_field_to_the_next_changes_the_root() {
        let mut receipt = chain_of(1).remove(0);
        let root = root_of(HashAlgorithm::Sha256, &receipt);
        receipt.hash.push('0');
        receipt.metadata_hash.remove(0);
        assert_ne!(root_of(HashAlgorithm::Sha256, &receipt), root);
    }
}
