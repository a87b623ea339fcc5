//! What the operator says about an instance.

use std::collections::BTreeMap;

use jam_domain::StoreKind;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rollout::{LastGood, RevisionStatus, RolloutStatus};

/// What the operator last saw and did. Nothing in it changes by the passing of time alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JamInstanceStatus {
    /// The generation of the spec that this status speaks about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling, Stalled, DatabaseReachable, Migrated, TokensReady, CleanupScheduled, OptionalKindsServed, Paused;
    /// Overridden from the first override on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Where the API is reached inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub endpoint: Option<String>,
    /// Whether `/jam/*` is served, as every API pod was told; what the spec says once they all know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Where state is kept, profile applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreKind>,
    /// What is running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionStatus>,
    /// API pods there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// API pods that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Selector of the API pods, as text, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub selector: Option<String>,
    /// The tokens in force: ids, never tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["consumer"]))]
    pub tokens: Vec<TokenStatus>,
    /// Where a rotation of tokens stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationStatus>,
    /// What the pods are made from: pinned to the generation of the spec, so that a newer operator restarts no pod by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<RevisionStatus>,
    /// How the rollout of that revision goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// The last revision that was ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<LastGood>,
    /// Until when the database was known to be away; pods have a moment from then on before they are blamed for not being ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_away_until: Option<Time>,
    /// The last cleanup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup: Option<CleanupStatus>,
    /// The revision of the operator's own rendering that the pods were made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub render_revision: Option<i32>,
    /// The migration that the wanted image needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationStatus>,
}

/// What is running.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VersionStatus {
    /// The image that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub image: Option<String>,
    /// The version of the database schema, as the last migration reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<i64>,
}

/// A consumer's token.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenStatus {
    /// The consumer.
    #[schemars(length(max = 63))]
    pub consumer: String,
    /// The token's id: the first 8 hex digits of its SHA-256.
    #[schemars(length(max = 128))]
    pub key_id: String,
    /// When the token was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<Time>,
    /// When the next token is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotates_at: Option<Time>,
    /// The token before, while it is still accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub previous_key_id: Option<String>,
    /// When the token before stops being accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_expires_at: Option<Time>,
}

/// Where a rotation stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotationStatus {
    /// The step that is under way: Distribute, Verify, Overlap, Retire, Prove; Lost when a Secret is to be made again; else Idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub stage: Option<String>,
    /// The consumer whose tokens are at that step: the first of those that are not idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub consumer: Option<String>,
    /// When the rotation began that is under way, the longest of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// Pods that do not say which tokens they accept, or had their time to take in the next ones: the step waits for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(max = 253)), extend("x-kubernetes-list-type" = "atomic"))]
    pub waiting_for: Vec<String>,
    /// Retired tokens that somebody else has as well: every pod accepts them still.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub shared: Vec<SharedToken>,
    /// The retired tokens that every pod was last seen to refuse, of each consumer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["consumer"]))]
    pub refused: Vec<RefusedTokens>,
    /// Tokens of your own and of administrators that `jam.network/revoke` names and every pod refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub refused_own: Vec<RefusedOwn>,
}

/// A token of the user's own that every pod refused when it was sent to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedOwn {
    /// Its id.
    #[schemars(length(max = 128))]
    pub key_id: String,
    /// When the last pod refused it.
    pub at: Time,
    /// How many pods refused it with 401.
    #[schemars(range(min = 0))]
    pub pods: i32,
}

/// A token that is over for its consumer and not for somebody else whose Secret holds it as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SharedToken {
    /// For whom it is over.
    #[schemars(length(max = 63))]
    pub consumer: String,
    /// Its id: to revoke it by that ends it everywhere.
    #[schemars(length(max = 128))]
    pub key_id: String,
    /// The consumer who has it as well; none where administrators have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub holder: Option<String>,
    /// The Secret that holds it.
    #[schemars(length(max = 253))]
    pub secret: String,
}

impl SharedToken {
    /// Why it is accepted still.
    pub fn sentence(&self) -> String {
        let Self { consumer, key_id, holder, secret } = self;
        let whose = holder.as_ref().map_or_else(|| "administrators".to_owned(), |name| format!("consumer {name}"));
        format!(
            "{key_id} is over for consumer {consumer} and accepted still: Secret {secret} of {whose} holds it as well"
        )
    }
}

/// Retired tokens that every pod refused when it was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedTokens {
    /// Whose they were.
    #[schemars(length(max = 63))]
    pub consumer: String,
    /// Their ids.
    #[schemars(length(max = 16), inner(length(max = 128)), extend("x-kubernetes-list-type" = "atomic"))]
    pub key_ids: Vec<String>,
    /// When the last pod refused them.
    pub at: Time,
    /// How many pods refused them with 401.
    #[schemars(range(min = 0))]
    pub pods: i32,
}

/// The last cleanup.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CleanupStatus {
    /// When it ran. A run that did nothing because another one was running is not told, nor one that ended before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<Time>,
    /// When it ended: one that ends later is told next, also when it began before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ended: Option<Time>,
    /// How it ended: Succeeded, Failed, DryRun when it only counted, or Skipped where each one so far found another one running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub last_result: Option<String>,
    /// Whether it only counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Why it failed; until a run succeeds, also when its Job is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub failure: Option<String>,
    /// While the last one only counted: the last one that did more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_real: Option<RealCleanup>,
    /// What is older was archived; none where retention is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutoff: Option<Time>,
    /// How many milliseconds it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub duration_ms: Option<i64>,
    /// What it archived, or would have: number by kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub archived: BTreeMap<String, i64>,
    /// What it deleted, or would have: number by kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub deleted: BTreeMap<String, i64>,
    /// The schedule that runs are counted by: a run is overdue by this one alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub timetable: Option<String>,
    /// When it took the place of another one, of a suspension or of a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timetable_since: Option<Time>,
}

impl CleanupStatus {
    /// Whether the last run only counted, also as an operator said it that knew no `dryRun`.
    pub fn only_counted(&self) -> bool {
        self.dry_run || self.last_result.as_deref() == Some("DryRun")
    }

    /// The last run that did more.
    pub fn real(&self) -> Option<RealCleanup> {
        if self.only_counted() {
            return self.last_real.clone();
        }
        let (last_ended, failure) = (self.last_ended.clone(), self.failure.clone());
        Some(RealCleanup { last_run: self.last_run.clone()?, last_ended, failure })
    }
}

/// The last cleanup that did more than count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RealCleanup {
    /// When it ran.
    pub last_run: Time,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ended: Option<Time>,
    /// Why it failed: no dry run takes that back, unless `spec.cleanup.dryRun` asks for no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub failure: Option<String>,
}

/// The migration for one image and one database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationStatus {
    /// What is migrated: a hash of the image and the DSN.
    #[schemars(length(max = 64))]
    pub key: String,
    /// The image that runs it.
    #[schemars(length(max = 512))]
    pub image: String,
    /// How many Jobs for this key came before, all failed.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub attempt: i32,
    /// The Job.
    #[schemars(length(max = 63))]
    pub job: String,
    /// Where it stands.
    pub state: MigrationState,
    /// Its last words, when it failed; that its Job is suspended, while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub message: Option<String>,
    /// While it waits for approval: what it would apply, as the dry run of its image says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub would_apply: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// The generation of the spec for which it was found impossible: another one is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// When the next Job starts, after a failure that may pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
}

/// Where a migration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MigrationState {
    /// The Job is to be made: somebody has to approve it, another one has to end, or a rule such as a quota is in its way. Or it is
    /// suspended.
    Pending,
    /// The Job runs.
    Running,
    /// The schema is at the version of the image.
    Complete,
    /// The Job failed; another follows.
    Failed,
    /// The Job failed with exit code 3: another one would fail the same way.
    Impossible,
}

/// The conditions that an instance carries, in the order they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The API serves as the spec says.
    Ready,
    /// Something is under way (abnormal when true, as kstatus reads it).
    Reconciling,
    /// Nothing more happens until something is changed (abnormal when true).
    Stalled,
    /// The database answers.
    DatabaseReachable,
    /// The schema is at the version of the wanted image.
    Migrated,
    /// Every consumer has its token.
    TokensReady,
    /// Old packages are cleaned up.
    CleanupScheduled,
    /// The API server serves every optional kind that the spec asks for.
    OptionalKindsServed,
    /// Administrators have put other values in front of the spec's at run time; there from the first one on.
    Overridden,
    /// The operator keeps its hands off.
    Paused,
}

impl ConditionType {
    /// Every type, in the order they are written.
    pub const ALL: [ConditionType; 10] = [
        ConditionType::Ready,
        ConditionType::Reconciling,
        ConditionType::Stalled,
        ConditionType::DatabaseReachable,
        ConditionType::Migrated,
        ConditionType::TokensReady,
        ConditionType::CleanupScheduled,
        ConditionType::OptionalKindsServed,
        ConditionType::Overridden,
        ConditionType::Paused,
    ];

    /// The type as written in a condition.
    pub fn as_str(self) -> &'static str {
        match self {
            ConditionType::Ready => "Ready",
            ConditionType::Reconciling => "Reconciling",
            ConditionType::Stalled => "Stalled",
            ConditionType::DatabaseReachable => "DatabaseReachable",
            ConditionType::Migrated => "Migrated",
            ConditionType::TokensReady => "TokensReady",
            ConditionType::CleanupScheduled => "CleanupScheduled",
            ConditionType::OptionalKindsServed => "OptionalKindsServed",
            ConditionType::Overridden => "Overridden",
            ConditionType::Paused => "Paused",
        }
    }
}
