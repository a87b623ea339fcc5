//! The resource as its users write it: `JamInstance`, `jam.network/v1alpha1`, spec and status.

pub mod database;
pub mod exposure;
pub mod operations;
pub mod pods;
pub mod rollout;
pub mod status;
pub mod tokens;

mod rules;
mod schema;

use jam_domain::{JamSettings, Profile};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use database::{BlobStore, ClusterRef, Database, SecretKeyRef, SecretRef};
pub use exposure::{
    HttpRoute, Ingress, Monitoring, NetworkPeer, NetworkPolicy, ParentRef, ServiceSettings, ServiceType,
};
pub use operations::{Cleanup, DeletionPolicy, MigrationMode, Migrations};
pub use pods::{Autoscaling, Image, PodTemplate, PullPolicy, Workers};
pub use rollout::{LastGood, RevisionStatus, RolloutPhase, RolloutStatus};
pub use schema::{crd, crd_yaml};
pub use status::{
    CleanupStatus, ConditionType, JamInstanceStatus, MigrationState, MigrationStatus, RealCleanup, RefusedOwn,
    RefusedTokens, RotationStatus, SharedToken, TokenStatus, VersionStatus,
};
pub use tokens::{Consumer, Rotation, Scope, Tokens};

/// The API group.
pub const GROUP: &str = "jam.network";
/// The version that is served and stored.
pub const VERSION: &str = "v1alpha1";
/// The kind.
pub const KIND: &str = "JamInstance";

#[allow(clippy::duplicated_attributes)] // every printer column has a type
/// One JAM API: its settings, its pods, its database and its tokens.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "jam.network",
    version = "v1alpha1",
    kind = "JamInstance",
    plural = "jaminstances",
    singular = "jaminstance",
    shortname = "jam",
    category = "jam",
    namespaced,
    status = "JamInstanceStatus",
    derive = "PartialEq",
    doc = "A JAM API that the operator keeps running, migrated, authorised and observable.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    selectable = ".spec.profile",
    selectable = ".spec.paused",
    selectable = ".spec.runtime.jam.store",
    selectable = ".spec.runtime.jam.enabled",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the API serves as the spec says."
    ),
    printcolumn(
        name = "Enabled",
        type_ = "boolean",
        json_path = ".status.enabled",
        description = "Whether /jam/* is served."
    ),
    printcolumn(name = "Store", type_ = "string", json_path = ".status.store", description = "Where state is kept."),
    printcolumn(
        name = "Replicas",
        type_ = "integer",
        json_path = ".status.readyReplicas",
        description = "API pods that are ready."
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.version.image",
        description = "The image that serves."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "Why it is ready, or what it waits for."
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JamInstanceSpec {
    /// What the API server runs with.
    #[serde(default)]
    pub runtime: Runtime,
    /// Baseline for the settings that are left out: local (memory store, JAM off), staging and production (PostgreSQL, JAM on). Production refuses the memory store, `authRequired: false` and `http:` origins.
    #[serde(default)]
    pub profile: Profile,
    /// The image of the API pods. Default: the operator's own release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// API pods. With the memory store at most 1, because each pod would have its own state. Not used while `autoscaling` is set.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,
    /// Let a HorizontalPodAutoscaler choose the number of API pods; `replicas` is then left to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// Pods that process packages continuously.
    #[serde(default)]
    pub workers: Workers,
    /// The PostgreSQL database; needed with store postgres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<Database>,
    /// Keep the bytes of preimages in object storage instead of the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob_store: Option<BlobStore>,
    /// Who may call. Left out: one consumer named `default` is made when the API requires tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
    /// How the database schema is moved forward.
    #[serde(default)]
    pub migrations: Migrations,
    /// When old packages are archived and deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup: Option<Cleanup>,
    /// The Service in front of the API pods.
    #[serde(default)]
    pub service: ServiceSettings,
    /// An Ingress for the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Ingress>,
    /// An HTTPRoute for the Service, where the Gateway API is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_route: Option<HttpRoute>,
    /// Which pods may reach the API pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicy>,
    /// What Prometheus and Grafana are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<Monitoring>,
    /// Overrides for the pods: resources, scheduling, environment, labels and annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
    /// What happens to the token Secrets when the instance is deleted: Retain leaves them, Delete removes them with it.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Leave everything as it is: nothing is written while this is true, except the Paused condition.
    #[serde(default)]
    pub paused: bool,
}

/// What the API server runs with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Runtime {
    /// The settings of JAM: the `runtime.jam` block of the server's own file, in camelCase.
    #[serde(default)]
    pub jam: JamSettings,
}

fn one() -> i32 {
    1
}
