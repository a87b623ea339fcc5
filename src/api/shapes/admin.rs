//! The shapes of what administrators are answered.

use jam_domain::control::{Control, Delegate, Override, Toggle};
use jam_domain::dispute::Resolution;
use jam_domain::quota::Quota;
use jam_domain::settings::ServiceLimits;
use jam_domain::{PreimageHash, ServiceId, Timestamp, TokenId, WorkPackage};
use jam_store::Dispute;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{CleanupCounts, LastCleanup, ReportBundle};

/// What a cleanup by hand did.
#[derive(Serialize, JsonSchema)]
pub struct CleanupRan {
    /// Nothing was changed: the counts say what a run at this moment would do.
    pub dry_run: bool,
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
}

/// How cleaning up stands.
#[derive(Serialize, JsonSchema)]
pub struct CleanupStands {
    /// Whether finished packages are ever cleaned up.
    pub enabled: bool,
    /// Whether the last run went well and none is overdue.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<&'static str>,
    /// The last run; null before the first.
    pub last: Option<LastCleanup>,
}

/// A short list, whole.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "{T}Items")]
pub struct Items<T> {
    /// The items.
    pub items: Vec<T>,
}

/// A setting that is overridden at run time.
#[derive(Serialize, JsonSchema)]
pub struct Overridden {
    /// The setting.
    pub key: Toggle,
    /// The value in force.
    pub value: Value,
    /// The setting's own value, in front of which it stands: when that one changes, the override ends.
    pub overrode: Value,
    /// When it was set.
    pub set_at: Timestamp,
    /// By which token.
    pub set_by: TokenId,
}

impl Overridden {
    /// An override that was set by this token at this time.
    pub fn new(set: Override, set_at: Timestamp, set_by: TokenId) -> Self {
        let Override { value, overrode } = set;
        Self { key: value.toggle(), value: value.json(), overrode: overrode.json(), set_at, set_by }
    }

    /// An override as it is stored.
    pub fn of(set: Override, control: &Control) -> Self {
        Self::new(set, control.set_at, control.set_by.clone())
    }
}

/// What a service may use.
#[derive(Serialize, JsonSchema)]
pub struct ServiceLimitsView {
    /// The service.
    pub service_id: ServiceId,
    /// What is set for it at run time; what is left out is the settings' value.
    pub quotas: Quota,
    /// Its own limits that are in force, from here or from `services` of the settings; what is left out is the instance's.
    pub in_force: ServiceQuota,
}

/// The limits of a service that differ from the instance's own.
#[derive(Serialize, JsonSchema)]
pub struct ServiceQuota(Quota);

impl From<ServiceLimits> for ServiceQuota {
    fn from(limits: ServiceLimits) -> Self {
        let ServiceLimits { id: _, max_packages_per_minute, max_pending_packages, max_preimage_bytes, retention_days } =
            limits;
        Self(Quota { max_packages_per_minute, max_pending_packages, max_preimage_bytes, retention_days })
    }
}

/// A token that may act for a service.
#[derive(Serialize, JsonSchema)]
pub struct Delegated {
    /// The token's id: the first 8 digits of its hash.
    pub id: TokenId,
    /// The SHA-256 of the token.
    #[schemars(with = "PreimageHash")]
    pub sha256: String,
    /// For people.
    pub name: Option<String>,
    /// When it was added.
    pub set_at: Timestamp,
    /// By which token.
    pub set_by: TokenId,
}

impl Delegated {
    /// A delegate that was added by this token at this time.
    pub fn new(delegate: &Delegate, set_at: Timestamp, set_by: TokenId) -> Self {
        let Delegate { service_id: _, sha256, name, listed: _ } = delegate;
        Self { id: sha256.id(), sha256: sha256.to_string(), name: name.clone(), set_at, set_by }
    }
}

/// A bucket of the rate limit that is not empty.
#[derive(Serialize, JsonSchema)]
pub struct BucketInUse {
    /// Whose: `token:…`, `address:…`, `service:…` or `crowd`.
    pub key: String,
    /// Requests a minute.
    pub limit: u32,
    /// Requests that would pass right now.
    pub remaining: u32,
    /// Seconds until it is empty.
    pub reset: u32,
}

/// A package that is or was disputed.
#[derive(Serialize, JsonSchema)]
pub struct Disputed {
    /// The package; null when its stored body can't be read.
    pub package: Option<WorkPackage>,
    /// Why: what the refiner said, or which worker got another output.
    pub reason: String,
    /// Its report, when it could be refined, then those that contradict it, oldest first; each with every worker's word.
    pub reports: Vec<ReportBundle>,
    /// How it was ended; null while it is open.
    pub resolution: Option<Resolution>,
}

impl From<Dispute> for Disputed {
    fn from(dispute: Dispute) -> Self {
        let Dispute { place: _, package, reason, reports, resolution } = dispute;
        let shown = |bundle| {
            let jam_store::ReportBundle { report, attestations, receipt } = bundle;
            ReportBundle { report, attestations, receipt: Some(receipt) }
        };
        Self { package, reason, reports: reports.into_iter().map(shown).collect(), resolution }
    }
}
