//! Names, labels and annotations: how the children of an instance are called and recognised.

use sha2::{Digest, Sha256};

/// The field manager of every write of the operator.
pub const FIELD_MANAGER: &str = "jam-operator";
/// Label and value that every child carries.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "jam-operator");
/// Label with the name of the instance that a child belongs to.
pub const INSTANCE: &str = "jam.network/instance";
/// Label of every child and pod: what part of an instance it is.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Label of a consumer's Secret: the consumer.
pub const CONSUMER: &str = "jam.network/consumer";
/// Label of a migration Job: what it migrates.
pub const MIGRATION_KEY: &str = "jam.network/migration";
/// Label of a Job that only says what a migration would apply: the same hash.
pub const MIGRATION_PREVIEW: &str = "jam.network/migration-preview";
/// Annotation of a migration Job: how many Jobs for the same key failed before it.
pub const MIGRATION_ATTEMPT: &str = "jam.network/migration-attempt";
/// Annotation of an instance that approves the migration with this key, where `spec.migrations.mode` is Manual.
pub const APPROVE_MIGRATION: &str = "jam.network/approve-migration";
/// Annotation of an instance that has the migration tried again whose Job this was, after it was found impossible.
pub const RETRY_MIGRATION: &str = "jam.network/retry-migration";
/// Annotation of every child: hash of what was rendered, so that an unchanged object is not applied again.
pub const RENDERED: &str = "jam.network/rendered";
/// Annotation of the Deployments: the ConfigMap that holds the revision which their pods are made from.
pub const REVISION: &str = "jam.network/revision";
/// Annotation of the ServiceAccount and the NetworkPolicy: the ports outside that pods may go to, as `5432,9000` (adr/0053).
pub const EGRESS: &str = "jam.network/egress";
/// Annotation of pod templates: the revision of the operator's own rendering.
pub const RENDER_REVISION: &str = "jam.network/render-revision";
/// Annotation of pod templates: hash of the DSN, so that a changed one rolls the pods once.
pub const DSN_HASH: &str = "jam.network/dsn-hash";
/// Annotation of pod templates: hash of the keys to the blob store, for the same reason.
pub const BLOB_KEYS_HASH: &str = "jam.network/blob-keys-hash";
/// Annotation of a consumer's Secret: when its token was made (RFC 3339).
pub const ISSUED_AT: &str = "jam.network/issued-at";

/// Annotation of an instance: a new value makes new tokens, for the consumers that it names or for all (adr/0019).
pub const ROTATE: &str = "jam.network/rotate";
/// Annotation of an instance: the consumers or key ids that it names end at once.
pub const REVOKE: &str = "jam.network/revoke";
/// Annotation of a consumer's Secret: the id of the token that the operator wrote.
pub const TOKEN_ID: &str = "jam.network/token-id";
/// Annotation of a consumer's Secret: how many tokens the consumer has been given.
pub const TOKEN_GENERATION: &str = "jam.network/token-generation";
/// Annotation of a consumer's Secret: until when its previous token is accepted.
pub const PREVIOUS_NOT_AFTER: &str = "jam.network/previous-not-after";
/// Annotation of a consumer's Secret: the value of [`ROTATE`] that was last done.
pub const ROTATED: &str = "jam.network/rotated";
/// The container of each of our pods.
pub const CONTAINER: &str = "jam";
/// The argument with which `jam-api cleanup` only counts.
pub const DRY_RUN: &str = "--dry-run";
/// Annotation of a consumer's Secret: the value of [`REVOKE`] that was last done.
pub const REVOKED: &str = "jam.network/revoked";
/// Annotation of a consumer's Secret: which retired tokens were last refused by every pod, when, and by how many.
pub const REFUSED: &str = "jam.network/refused";
/// Annotation of the Secret of hashes: how many tokens each consumer has been given, should its own Secret be lost.
pub const TOKEN_GENERATIONS: &str = "jam.network/token-generations";
/// On the Secret of hashes: the value of [`REVOKE`] that was carried out last for each consumer, as JSON.
pub const TOKEN_REVOCATIONS: &str = "jam.network/token-revocations";
/// Annotation of the Secret of hashes: the value of [`ROTATE`] that was looked at last, and whom it meant, as JSON.
pub const TOKEN_ROTATION: &str = "jam.network/token-rotation";
/// Annotation of the Secret of hashes: the ids that it listed last and lists no longer, as `name id,name id`.
pub const ENDED_TOKENS: &str = "jam.network/ended-tokens";
/// Annotation of a consumer's Secret: when what the API pods are to accept of it last changed.
pub const TOKENS_CHANGED_AT: &str = "jam.network/tokens-changed-at";
/// Annotation of an API pod: the hashes that it was last told to read. A change makes the kubelet bring them at once.
pub const TOKENS_TOLD: &str = "jam.network/tokens-told";

/// The key of a consumer's Secret that holds the token.
pub const TOKEN_KEY: &str = "token";
/// The key of a consumer's Secret that holds the token's id.
pub const TOKEN_ID_KEY: &str = "id";
/// The key of a consumer's Secret that holds the whole Authorization header.
pub const AUTHORIZATION_KEY: &str = "authorization";
/// The key of a consumer's Secret that says until when its token is accepted at least.
pub const NOT_AFTER_KEY: &str = "not-after";
/// The key of a consumer's Secret that holds the next token, until every pod accepts it.
pub const NEXT_KEY: &str = "next";
/// The key of a consumer's Secret that holds the token before, while it is accepted.
pub const PREVIOUS_KEY: &str = "previous";
/// The key of a consumer's Secret that holds tokens accepted no longer, until every pod was seen to refuse them.
pub const RETIRED_KEY: &str = "retired";
/// The key of a consumer's Secret that holds hashes of tokens that somebody threw out of it, and until when they count.
pub const DISPLACED_KEY: &str = "displaced";
/// The key of the Secret of hashes: the token file of the API pods.
pub const TOKENS_KEY: &str = "tokens.json";
/// The key of the Secret of hashes with the tokens of administrators.
pub const ADMIN_TOKENS_KEY: &str = "admin-tokens.json";

/// What part of an instance an object is, as written in `app.kubernetes.io/component`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// What answers requests.
    Api,
    /// What processes packages.
    Worker,
    /// What moves the schema forward.
    Migration,
    /// What lets consumers in.
    Tokens,
    /// What archives and deletes what is old.
    Cleanup,
    /// What is scraped.
    Metrics,
}

impl Component {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Component::Api => "api",
            Component::Worker => "worker",
            Component::Migration => "migration",
            Component::Tokens => "tokens",
            Component::Cleanup => "cleanup",
            Component::Metrics => "metrics",
        }
    }
}

/// Label and value by which Grafana's sidecar finds dashboards.
pub const DASHBOARD: (&str, &str) = ("grafana_dashboard", "1");
/// Label and value of the operator's own pods, by which NetworkPolicies let them ask the API pods.
pub const OPERATOR: (&str, &str) = ("jam.network/component", "operator");

/// The selector that finds every child of an instance.
pub fn child_selector(instance: &str) -> String {
    format!("{}={},{INSTANCE}={instance}", MANAGED_BY.0, MANAGED_BY.1)
}

/// The API Deployment, its Service, ServiceAccount, PodDisruptionBudget, NetworkPolicy and Ingress.
pub fn api(instance: &str) -> String {
    instance.to_owned()
}

/// The worker Deployment.
pub fn worker(instance: &str) -> String {
    format!("{instance}-worker")
}

/// The Secret of token hashes that the API pods mount.
pub fn token_hashes(instance: &str) -> String {
    format!("{instance}-token-hashes")
}

/// The Secret of one consumer's token.
pub fn consumer_secret(instance: &str, consumer: &str) -> String {
    format!("{instance}-token-{consumer}")
}

/// The ConfigMap with this content.
pub fn config(instance: &str, hash: &str) -> String {
    format!("{instance}-config-{hash}")
}

/// The ConfigMap of the dashboard.
pub fn dashboard(instance: &str) -> String {
    format!("{instance}{DASHBOARD_SUFFIX}")
}

const DASHBOARD_SUFFIX: &str = "-dashboard";

/// Whether a ConfigMap of ours is the dashboard: the names of the others end with a hash.
pub fn is_dashboard(config_map: &str) -> bool {
    config_map.ends_with(DASHBOARD_SUFFIX)
}

/// The CronJob of the cleanup.
pub fn cleanup(instance: &str) -> String {
    format!("{instance}-cleanup")
}

/// The Service whose pods are scraped.
pub fn metrics(instance: &str) -> String {
    format!("{instance}-metrics")
}

/// The ConfigMap that holds the revision with this content.
pub fn revision(instance: &str, hash: &str) -> String {
    format!("{instance}-revision-{hash}")
}

/// The ConfigMap with the evidence against a revision that was given up.
pub fn evidence(instance: &str, hash: &str) -> String {
    format!("{instance}-rollback-{hash}")
}

/// The Job that says what a migration would apply.
pub fn migration_preview(instance: &str, key: &str) -> String {
    format!("{instance}-migrate-{key}{PREVIEW_SUFFIX}")
}

const PREVIEW_SUFFIX: &str = "-dry";

/// Whether a migration Job of ours only says what would be applied: the names of the others end with a hash or a number.
pub fn is_migration_preview(job: &str) -> bool {
    job.ends_with(PREVIEW_SUFFIX)
}

/// The migration Job of one attempt.
pub fn migration_job(instance: &str, key: &str, attempt: i32) -> String {
    if attempt == 0 { format!("{instance}-migrate-{key}") } else { format!("{instance}-migrate-{key}-{attempt}") }
}

/// The first 10 hex digits of the SHA-256 of the parts, each preceded by its length: no two lists share their bytes.
pub fn short_hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hex::encode(&hasher.finalize()[..5])
}

/// The labels that every pod of an instance has in common.
pub fn pods(instance: &str) -> std::collections::BTreeMap<String, String> {
    let mut labels = selector(instance, Component::Api);
    labels.remove(COMPONENT);
    labels
}

/// The labels that select the pods of a component; they never change, because a Deployment's selector can't.
pub fn selector(instance: &str, component: Component) -> std::collections::BTreeMap<String, String> {
    [("app.kubernetes.io/name", "jam"), ("app.kubernetes.io/instance", instance), (COMPONENT, component.as_str())]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Labels as a selector is written.
pub fn written(labels: &std::collections::BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// The labels of every child of an instance.
pub fn labels(instance: &str, component: Component) -> std::collections::BTreeMap<String, String> {
    let mut labels = selector(instance, component);
    for (key, value) in [MANAGED_BY, ("app.kubernetes.io/part-of", "jam"), (INSTANCE, instance)] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}
