//! Who may call an instance: consumers with tokens made by the operator, or the user's own tokens.

use jam_domain::ServiceId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::database::SecretRef;

/// Who may call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tokens {
    /// One token is made for each consumer, in the Secret `<instance>-token-<consumer>` for the consumer to mount.
    #[serde(default)]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub consumers: Vec<Consumer>,
    /// Replace the consumers' tokens from time to time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// Instead of consumers: a Secret with the user's own tokens, one per key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_tokens_secret_ref: Option<SecretRef>,
    /// A Secret with tokens that are shared by several servers, one per key; used when no other token is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_tokens_secret_ref: Option<SecretRef>,
    /// A Secret with the tokens of administrators, one per key; `/jam/admin/*` is served only when this is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_tokens_secret_ref: Option<SecretRef>,
}

/// A program that calls the API, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Consumer {
    /// The consumer's name, part of the name of its Secret.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// What its token may do. Default: read, submit and process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "set"))]
    pub scopes: Vec<Scope>,
    /// The services that its token is bound to; none means every service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "set"))]
    pub services: Vec<ServiceId>,
}

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Read packages, reports, preimages and receipts.
    Read,
    /// Upload preimages and submit packages.
    Submit,
    /// Process and attest packages.
    Process,
    /// Administer.
    Admin,
}

/// When tokens are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rotation {
    /// Days between two tokens of a consumer.
    #[serde(default = "thirty")]
    #[schemars(range(min = 1, max = 3650))]
    pub interval_days: i32,
    /// Hours for which the old token is accepted beside the new one.
    #[serde(default = "twenty_four")]
    #[schemars(range(min = 1, max = 8760))]
    pub overlap_hours: i32,
}

fn thirty() -> i32 {
    30
}

fn twenty_four() -> i32 {
    24
}
