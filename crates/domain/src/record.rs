//! The records of JAM as the API shows them; field names are fixed by the prior client.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::PreimageHash;
use crate::names::{ItemId, PackageId, ReportId, ServiceId, TokenId};
use crate::time::Timestamp;

/// Where a package is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PackageStatus {
    /// Accepted, not refined yet.
    Pending,
    /// Refined; its report waits for attestations.
    Refined,
    /// Refining failed, or two reports contradict each other.
    Disputed,
    /// Accumulated into the service's state.
    Applied,
}

impl PackageStatus {
    /// Every status, in the order of a package's life.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Refined, Self::Disputed, Self::Applied];

    /// The word in JSON, in queries and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Refined => "refined",
            Self::Disputed => "disputed",
            Self::Applied => "applied",
        }
    }
}

impl fmt::Display for PackageStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PackageStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not one of pending, refined, disputed, applied"))
    }
}

/// One or more items of work for one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkPackage {
    /// The package's id.
    pub id: PackageId,
    /// The service whose state it changes.
    pub service_id: ServiceId,
    /// The items, in the order they were sent.
    pub items: Vec<WorkItem>,
    /// The token that submitted it.
    pub created_by: TokenId,
    /// The client's nonce, "" when none was sent.
    pub nonce: String,
    /// After this the package is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry: Option<Timestamp>,
    /// The client's signature, base64.
    #[schemars(extend("contentEncoding" = "base64"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Preimages the whole package refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preimage_hashes: Option<Vec<PreimageHash>>,
    /// Where it is on its way.
    pub status: PackageStatus,
    /// When it was accepted.
    pub created_at: Timestamp,
}

/// One piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkItem {
    /// The item's id, made by the server.
    pub id: ItemId,
    /// The package it belongs to.
    pub package_id: PackageId,
    /// What is to be done.
    pub kind: String,
    /// Hash of the parameters.
    pub params_hash: String,
    /// Preimages that the item refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preimage_hashes: Option<Vec<PreimageHash>>,
    /// The most that the client pays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_fee: Option<u64>,
    /// The client's note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memo: Option<String>,
}

/// What refining a package gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkReport {
    /// The report's id.
    pub id: ReportId,
    /// The package that was refined.
    pub package_id: PackageId,
    /// Its service.
    pub service_id: ServiceId,
    /// Hex hash of the refined content.
    pub refine_output_hash: String,
    /// The output itself in short form, base64.
    pub refine_output_compact: String,
    /// What the refiner noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traces: Option<Vec<String>>,
    /// When it was written.
    pub created_at: Timestamp,
    /// `refined` until the threshold is reached, then `applied`.
    pub status: PackageStatus,
}

/// One worker's word for a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attestation {
    /// The report.
    pub report_id: ReportId,
    /// Who attests.
    pub worker_id: String,
    /// The worker's signature, base64.
    pub signature: String,
    /// How much the word counts.
    pub weight: u32,
    /// When it was given.
    pub created_at: Timestamp,
    /// The engine that refined.
    pub engine: String,
    /// Its version.
    pub engine_version: String,
}

/// A blob named by the SHA-256 of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Preimage {
    /// Its name.
    pub hash: PreimageHash,
    /// Bytes.
    pub size: u64,
    /// The Content-Type it was uploaded with.
    pub media_type: String,
    /// When it was first uploaded.
    pub created_at: Timestamp,
    /// The token that uploaded it.
    pub uploader: TokenId,
    /// Where the bytes are: `memory`, `database`, `file` or `s3`.
    pub storage_class: String,
    /// Packages that refer to it.
    pub refcount: u64,
}

/// What a receipt is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EntryType {
    /// A package was accepted.
    Package,
    /// A report was accumulated.
    Report,
}

impl EntryType {
    /// The word in JSON, in hashes and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Package => "package",
            Self::Report => "report",
        }
    }
}

impl FromStr for EntryType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "package" => Ok(Self::Package),
            "report" => Ok(Self::Report),
            _ => Err(format!("{text:?} is not package or report")),
        }
    }
}

/// One link of a service's hash chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Receipt {
    /// The package id, or the report's refine_output_hash.
    pub hash: String,
    /// The owner of the chain.
    pub service_id: ServiceId,
    /// What it is for.
    pub entry_type: EntryType,
    /// 1, 2, 3 … per service.
    pub seq: u64,
    /// Hex root before this link, "" for the first.
    pub prev_root: String,
    /// Hex root after this link.
    pub new_root: String,
    /// Status of the entry when the link was made.
    pub status: PackageStatus,
    /// When the link was made.
    pub processed_at: Timestamp,
    /// Hex hash of the canonical JSON of the package or report at that time.
    pub metadata_hash: String,
    /// Further names, e.g. package_id and report_id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<Value>,
}

/// The head of a service's chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccumulatorRoot {
    /// The service.
    pub service_id: ServiceId,
    /// The seq of its last receipt.
    pub seq: u64,
    /// The new_root of its last receipt.
    pub root: String,
    /// When the last receipt was made.
    pub updated_at: Timestamp,
}
