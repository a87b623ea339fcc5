//! What the operator says about revisions: which one is wanted, which one was good, and how the rollout between them goes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the pods are made from, pinned: it changes with the spec or the DSN, never with the operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
    /// The ConfigMap that holds it.
    #[schemars(length(max = 253))]
    pub name: String,
    /// The generation of the spec it was made from.
    pub generation: i64,
    /// Hash of what it was made from beside the spec: the DSN.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub inputs: String,
    /// Its image.
    #[schemars(length(max = 512))]
    pub image: String,
}

/// The last revision that was ready.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastGood {
    /// The ConfigMap that holds it: what a bad rollout goes back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub revision: Option<String>,
    /// Its image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub image: Option<String>,
    /// The ConfigMap with its settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub config: Option<String>,
    /// The version of the database schema that it served with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<i64>,
    /// The generation of the spec it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

/// How the rollout of the wanted revision goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// The revision that is rolled out, or was.
    #[schemars(length(max = 253))]
    pub revision: String,
    /// The generation of the spec that asked for it.
    pub generation: i64,
    /// Where it stands.
    pub phase: RolloutPhase,
    /// When it began; from the moment it first served on, since when it serves.
    pub since: Time,
    /// How often readiness was lost again since it first served; three times within the deadline is a bad rollout.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub losses: i32,
    /// Since when pods that had all been rolled out are not all ready, while that may still be the end of the rollout: once none is
    /// after the deadline, it is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_since: Option<Time>,
    /// The good revision before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<LastGood>,
    /// Why it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// The ConfigMap with the evidence of the last rollout that was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub evidence: Option<String>,
    /// Hash of the spec that was given up, without its toggle: while it is the same, nothing of it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub spec: Option<String>,
}

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RolloutPhase {
    /// Its pods are not all ready yet, or not again.
    Progressing,
    /// Its pods serve.
    Serving,
    /// It was given up: the good revision before it is back, and it is not tried again until the spec changes in more
    /// than its toggle.
    RolledBack,
}
