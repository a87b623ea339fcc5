//! The shapes of answers that are no record of `domain` themselves; handlers serialise them, the OpenAPI document describes them.

pub mod admin;

use jam_domain::control::Toggle;
use jam_domain::{
    AccumulatorRoot, Attestation, Code, HashAlgorithm, Receipt, Refusal, StoreKind, Timestamp, TokenId, WorkPackage,
    WorkReport,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::Value;

use self::admin::Overridden;
use super::fault::Plane;

/// What every refusal and every failure answers.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub struct Problem<'a> {
    /// For people: what is wrong and what to do next.
    #[schemars(length(min = 1))]
    pub error: &'a str,
    /// For programs.
    #[schemars(schema_with = "code")]
    pub code: &'static str,
    /// Whole seconds after which a retry makes sense, at least 1; also in the header Retry-After.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u32>,
    /// For programs, e.g. `{"field": "items[0].kind"}`.
    #[schemars(schema_with = "details")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<&'a Value>,
}

impl<'a> Problem<'a> {
    /// The body of a refusal.
    pub fn of(refusal: &'a Refusal, plane: Plane) -> Self {
        let Refusal { code, message, retry_after, details } = refusal;
        Self { error: message, code: plane.word(*code), retry_after: *retry_after, details: details.as_ref() }
    }
}

fn code(_: &mut SchemaGenerator) -> Schema {
    let words = Code::ALL.map(Code::as_str).into_iter().chain(Code::ALL.map(Code::admin_str));
    json_schema!({"type": "string", "enum": words.collect::<Vec<_>>()})
}

fn details(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object"})
}

/// The process is alive.
#[derive(Serialize, JsonSchema)]
pub struct Alive {
    /// Always `ok`.
    pub status: &'static str,
}

/// Whether requests can be served.
#[derive(Serialize, JsonSchema)]
pub struct Readiness {
    /// `ok` or `unavailable`.
    pub status: &'static str,
    /// One verdict for each check.
    #[schemars(with = "Checked")]
    pub checks: Value,
    /// Ids of the tokens that are accepted now: a rotation asks every replica whether it knows the new token already.
    pub key_ids: Vec<TokenId>,
    /// What administrators have put in front of the settings: the operator tells of it in the instance's status.
    pub overrides: Vec<Override>,
    /// For people, when it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// `jam_store_unavailable` when it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
}

/// A setting with another value in front of it.
#[derive(Serialize, JsonSchema)]
pub struct Override {
    /// The setting.
    pub key: Toggle,
    /// The value in force.
    pub value: Value,
    /// The setting's own value.
    pub overrode: Value,
}

/// The checks of readiness.
#[derive(Serialize, JsonSchema)]
pub struct Checked {
    /// The store answers within 2 seconds.
    pub store: Verdict,
    /// The schema is exactly the one that this build needs; carries `found` and `wanted` when it could be read.
    pub schema: Verdict,
    /// The process is not about to stop.
    pub draining: Verdict,
    /// The blob store serves preimages; only where there is one. It says why not, and the process is ready all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blob_store: Option<Verdict>,
}

/// The checks of JAM's health.
#[derive(Serialize, JsonSchema)]
pub struct JamChecked {
    /// The store answers within 2 seconds.
    pub store: Verdict,
    /// The schema is exactly the one that this build needs.
    pub schema: Verdict,
    /// No cleanup is overdue.
    pub cleanup: Verdict,
}

/// One check.
#[derive(Serialize, JsonSchema)]
pub struct Verdict {
    /// Whether it is well.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The version of the schema that is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<i64>,
    /// The version of the schema that this build needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<i64>,
}

/// Whether JAM can serve.
#[derive(Serialize, JsonSchema)]
pub struct JamHealth {
    /// `ok` or `unavailable`.
    pub status: &'static str,
    /// One verdict for each check.
    #[schemars(with = "JamChecked")]
    pub details: Value,
    /// For people, when it is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    /// `jam_store_unavailable` when it is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
}

/// The build that runs.
#[derive(Serialize, JsonSchema)]
pub struct Build {
    /// The release.
    pub version: &'static str,
    /// The commit that it was built from, or `unknown`.
    pub commit: &'static str,
    /// When it was built, or `unknown`.
    pub built_at: &'static str,
    /// The compiler.
    pub rust_version: &'static str,
}

/// The settings in force, and the heads of the chains that the token may see.
#[derive(Serialize, JsonSchema)]
pub struct JamStatus {
    /// Whether `/jam/*` is served.
    pub enabled: bool,
    /// Where the state is.
    pub store: StoreKind,
    /// Requests a minute for one token; 0 = no limit.
    pub rate_limit_per_minute: u32,
    /// The same, under the name that the prior client reads.
    pub rate_limit_per_min: u32,
    /// Bytes of the largest preimage; 0 = no cap.
    pub max_preimage_bytes: u64,
    /// Packages pending at once; 0 = no cap.
    pub max_pending_packages: u32,
    /// Whether a bearer token is required.
    pub auth_required: bool,
    /// Whether lists answer a bare array.
    pub legacy_list_response: bool,
    /// Whether receipts and roots are kept.
    pub accumulators_enabled: bool,
    /// The hash of receipts and roots.
    pub accumulator_hash: HashAlgorithm,
    /// Sum of weights that accumulates a report.
    pub attestation_threshold: u32,
    /// Settings that administrators have overridden at run time; the values above are those in force.
    pub overrides: Vec<Overridden>,
    /// With `service_id`: the head of its chain, null before its first receipt.
    #[allow(clippy::option_option, reason = "whether it was asked for, and whether there is one")]
    #[schemars(with = "Option<AccumulatorRoot>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accumulator_root: Option<Option<AccumulatorRoot>>,
    /// Without `service_id`: the heads of the first 200 chains, sorted by service_id.
    #[schemars(length(max = 200))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accumulator_roots: Option<Vec<AccumulatorRoot>>,
}

/// How the process is, with the JAM block.
#[derive(Serialize, JsonSchema)]
pub struct SystemStatus {
    /// `ok` or `degraded`.
    pub status: &'static str,
    /// The release.
    pub version: &'static str,
    /// The JAM block.
    pub jam: SystemJam,
}

/// The JAM block of the system's status.
#[derive(Serialize, JsonSchema)]
pub struct SystemJam {
    /// What `/jam/status` says.
    #[serde(flatten)]
    pub status: JamStatus,
    /// Whether finished packages are ever cleaned up.
    pub cleanup_enabled: bool,
    /// The last cleanup; null before the first.
    pub cleanup: Option<LastCleanup>,
    /// How JAM is.
    pub health: SystemHealth,
}

/// The last cleanup that ended.
#[derive(Serialize, JsonSchema)]
pub struct LastCleanup {
    /// `ok` or `failed`; why it failed stands in the log only.
    pub result: &'static str,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Milliseconds between the two.
    pub duration_ms: u64,
    /// What was older than this was archived; null when all is kept for ever.
    pub cutoff: Option<Timestamp>,
    /// What it archived.
    pub archived: CleanupCounts,
    /// What it deleted.
    pub deleted: CleanupCounts,
    /// When the last cleanup that went well ended; null when none did.
    pub succeeded_at: Option<Timestamp>,
}

/// What a cleanup moved or removed.
#[derive(Serialize, JsonSchema)]
pub struct CleanupCounts {
    /// Packages.
    pub packages: u64,
    /// Their reports.
    pub reports: u64,
    /// Preimages: these are deleted only, never archived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preimages: Option<u64>,
}

/// JAM's health in the system's status.
#[derive(Serialize, JsonSchema)]
pub struct SystemHealth {
    /// The store answers with the right schema.
    pub store_ok: bool,
    /// The last cleanup went well and is not overdue.
    pub cleanup_ok: bool,
    /// When the last cleanup ended; null when none did.
    pub last_cleanup: Option<Timestamp>,
}

/// One page of a list.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "{T}List")]
pub struct Listed<'a, T> {
    /// The items of this page; at most `limit`, and fewer where they or their attestations are large: go on while `next_cursor` is set.
    pub items: &'a [T],
    /// The `offset` of the next page; null at the end, and after a `cursor`.
    pub next_offset: Option<u64>,
    /// The `cursor` of the next page; null at the end.
    pub next_cursor: Option<String>,
    /// Receipts of what stands on this page: lists of packages and of reports, with `include_receipt=true` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipts: Option<Vec<Receipt>>,
    /// For each report of this page every worker's word, oldest first: lists of reports, with `include_attestations=true` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attestations: Option<Vec<Vec<Attestation>>>,
}

/// A package with its receipt.
#[derive(Serialize, JsonSchema)]
pub struct PackageWithReceipt {
    /// The package.
    pub package: WorkPackage,
    /// The receipt of its submission; null when receipts are not kept.
    pub receipt: Option<Receipt>,
}

/// A report with everything that was said about it.
#[derive(Serialize, JsonSchema)]
pub struct ReportBundle {
    /// The report.
    pub report: WorkReport,
    /// Every worker's word, oldest first.
    pub attestations: Vec<Attestation>,
    /// The report's receipt: with `include_receipt=true`, and after an attestation; null until it is accumulated.
    #[allow(clippy::option_option, reason = "whether it was asked for, and whether there is one")]
    #[schemars(with = "Option<Receipt>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Option<Receipt>>,
}

/// The attestations of a package.
#[derive(Serialize, JsonSchema)]
pub struct Attestations {
    /// Every worker's word, oldest first; empty until the package is refined.
    pub items: Vec<Attestation>,
}

/// What a call of processing did.
#[derive(Serialize, JsonSchema)]
pub struct Worked {
    /// Always true: when nothing was pending the answer is 204.
    pub processed: bool,
    /// Packages taken.
    #[schemars(range(min = 1))]
    pub count: usize,
    /// Of these, packages that ended disputed.
    pub failed: usize,
}
