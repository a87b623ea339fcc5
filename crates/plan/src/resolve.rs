//! One proven value from a resource, what was observed and the operator's defaults, or a refusal.

mod blobs;
mod consumers;
mod egress;
mod migration;
mod own_tokens;
pub(crate) mod refuse;
mod revision;
mod revoked;
#[cfg(test)]
mod tests;
mod timetable;

use std::collections::BTreeSet;

use jam_domain::token::TokenHash;
use jam_domain::{Settings, StoreKind};

use crate::Kind;
use crate::crd::{
    Autoscaling, Cleanup, DeletionPolicy, HttpRoute, Ingress, JamInstance, Migrations, Monitoring, NetworkPolicy,
    PodTemplate, PullPolicy, ServiceSettings, Workers,
};
use crate::crd::{RevisionStatus, RolloutStatus};
use crate::desired::Revision;
use crate::observed::{DeploymentState, Observed, SecretKey};
use crate::reason::{Reason, Refusal};
use crate::rollout::Course;
use crate::rotation::Pace;

pub use blobs::{BLOB_KEYS, ResolvedBlobs, blob_secret};
pub use consumers::{Remembered, ResolvedConsumer};
pub use egress::{Egress, may_go_back, narrows, port_of_url, ports_in};
pub use migration::{MigrationPlan, MigrationStep, Preview};
pub use refuse::is_own_variable;
pub use revision::may_be_adopted;
pub use revoked::{RevokedOwn, is_to_be_proven};
pub use timetable::Timetable;

/// The revision of this crate's rendering: raised when the same spec renders other pods.
pub const RENDER_REVISION: i32 = 1;

/// What the operator fills in where the resource says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Registry and repository of the API image, without tag.
    pub repository: String,
    /// Its tag.
    pub tag: String,
    /// Its digest, which wins over the tag.
    pub digest: Option<String>,
    /// How long the hours of a rotation last.
    pub pace: Pace,
    /// The operator's own namespace, from where its pods ask API pods; `None` where it is not known.
    pub operator_namespace: Option<String>,
    /// Seconds without progress after which a rollout is given up.
    pub progress_deadline: i32,
    /// The revision of the rendering: [`RENDER_REVISION`], unless a test plays another release.
    pub render_revision: i32,
}

/// An instance as it will be: every value is there and proven, builders take only this.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Resolved {
    /// The instance's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid, for owner references.
    pub uid: String,
    /// The generation of the spec this was resolved from.
    pub generation: i64,
    /// The settings of JAM, profile applied.
    pub settings: Settings,
    /// The image of the wanted revision.
    pub image: ResolvedImage,
    /// API pods; `None` when an autoscaler has taken over their number.
    pub replicas: Option<i32>,
    /// The autoscaler.
    pub autoscaling: Option<Autoscaling>,
    /// Worker pods.
    pub workers: Workers,
    /// The database, with store postgres.
    pub database: Option<ResolvedDatabase>,
    /// Where the bytes of preimages go, when not into the database.
    pub blobs: Option<ResolvedBlobs>,
    /// The consumers with their tokens' hashes.
    pub consumers: Vec<ResolvedConsumer>,
    /// The user's own tokens: the key of each and its hash.
    pub own_tokens: Vec<(String, TokenHash)>,
    /// The tokens of administrators: the key of each and its hash.
    pub admin_tokens: Vec<(String, TokenHash)>,
    /// What is remembered of tokens that were, and of what was asked.
    pub remembered: Remembered,
    /// How the schema is moved forward.
    pub migrations: Migrations,
    /// The migration that this image and database need.
    pub migration: MigrationPlan,
    /// Whether the Deployments may be applied.
    pub rollout: Rollout,
    /// The Service.
    pub service: ServiceSettings,
    /// The Ingress, when it is enabled.
    pub ingress: Option<Ingress>,
    /// The HTTPRoute, when it is enabled.
    pub http_route: Option<HttpRoute>,
    /// The NetworkPolicy, when it is enabled.
    pub network_policy: Option<NetworkPolicy>,
    /// The ports outside that pods may go to.
    pub egress: Egress,
    /// The operator's own namespace.
    pub operator_namespace: Option<String>,
    /// What Prometheus and Grafana are given.
    pub monitoring: Monitoring,
    /// When old packages are cleaned up, with store postgres.
    pub cleanup: Option<Cleanup>,
    /// Since when.
    pub timetable: Timetable,
    /// Optional kinds that the spec asks for.
    pub optional: Vec<Kind>,
    /// Optional kinds that the API server does not serve.
    pub unserved: BTreeSet<Kind>,
    /// Overrides for the pods.
    pub pod_template: PodTemplate,
    /// What happens to token Secrets.
    pub deletion_policy: DeletionPolicy,
    /// Seconds without progress after which a rollout is given up.
    pub progress_deadline: i32,
    /// The revision of the rendering that new pods are made with.
    pub render_revision: i32,
    /// The revision in force: what is rendered now, what was pinned, or the last good one after a bad rollout.
    pub revision: Revision,
    /// The wanted revision, as status pins it.
    pub wanted: RevisionStatus,
    /// The revisions that are known by their content: the one that pods are of is mostly among them.
    pub known: Vec<Revision>,
    /// How its rollout goes.
    pub course: Course,
    /// The same, as it is stored.
    pub rollout_status: RolloutStatus,
    /// Whether the rollout was given up just now: it is stored before anything is applied.
    pub given_up: bool,
    /// ConfigMaps that are kept beside those of the revision in force.
    pub kept_maps: Vec<String>,
    /// Revisions that status refers to and that have to be read first: with them this has another outcome.
    pub lacks: Vec<String>,
}

/// An image with its pull settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// What a container names.
    pub reference: String,
    /// When it is pulled.
    pub pull_policy: PullPolicy,
    /// Secrets with registry credentials.
    pub pull_secrets: Vec<String>,
}

/// A database whose DSN is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedDatabase {
    /// The Secret.
    pub secret: String,
    /// The key in it.
    pub key: String,
    /// Hash of the DSN.
    pub dsn_hash: String,
    /// Connections that one pod may hold.
    pub max_connections: i32,
}

/// Whether the Deployments may be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rollout {
    /// Yes.
    Apply,
    /// Not before the migration is complete: what runs is left as it is, unless it is to follow the toggle.
    AfterMigration,
    /// No: what runs is good, and there is nothing left to make it from again.
    LeaveAlone,
}

impl Resolved {
    /// The revision that the API pods are of, or are being replaced by, where it is known.
    pub fn running(&self, observed: &Observed) -> Option<&Revision> {
        let name = observed.api.as_ref()?.revision.as_deref()?;
        self.known.iter().find(|revision| revision.name() == name)
    }

    /// Whether every pod is of the wanted revision and serves: that is the last good one then.
    pub(crate) fn is_served(&self, observed: &Observed) -> bool {
        let serves = |one: &DeploymentState| one.is_settled() && one.revision.as_ref() == Some(&self.wanted.name);
        observed.api.as_ref().is_some_and(|api| serves(api) && api.ready > 0)
            && (!self.revision.has_workers() || observed.worker.as_ref().is_some_and(serves))
    }

    /// The optional kinds that the spec asks for and that the API server does not serve.
    pub fn left_out(&self) -> impl Iterator<Item = Kind> {
        self.optional.iter().copied().filter(|kind| self.unserved.contains(kind))
    }

    /// Whether there are worker pods: only a database can be shared with them.
    pub fn runs_workers(&self) -> bool {
        self.workers.replicas > 0 && self.database.is_some()
    }
}

/// Proves an instance against what was observed. The operator makes missing tokens first (see [`tokens::missing`]).
pub fn resolve(instance: &JamInstance, observed: &Observed, defaults: &Defaults) -> Result<Resolved, Refusal> {
    let spec = &instance.spec;
    refuse::unnameable_or_unbuilt(instance)?;
    let settings = refuse::wrong_settings(spec)?;
    refuse::contradictions(spec, &settings)?;
    crate::rotation::refuse(spec, defaults.pace)?;
    refuse::pod_overrides(spec)?;
    refuse::foreign(observed)?;
    let database = database(instance, observed, settings.store)?;
    let blobs = blobs::blobs(instance, observed)?;
    let mut image = image(spec, defaults);
    if let Some(reference) = revision::image(instance, observed, database.as_ref(), blobs.as_ref()) {
        reference.clone_into(&mut image.reference);
    }
    let migration = migration::plan(instance, observed, &image, database.as_ref());
    let resolved = Resolved {
        name: name_of(instance),
        namespace: namespace_of(instance),
        uid: uid_of(instance),
        generation: instance.metadata.generation.unwrap_or_default(),
        replicas: replicas(spec, observed),
        autoscaling: spec.autoscaling.clone(),
        workers: spec.workers.clone(),
        consumers: consumers::consumers(instance, observed, defaults.pace)?,
        own_tokens: own_tokens::of_callers(instance, observed)?,
        admin_tokens: own_tokens::of_administrators(instance, observed)?,
        remembered: consumers::remembered(instance, observed, defaults.pace),
        migrations: spec.migrations.clone(),
        service: spec.service.clone(),
        ingress: spec.ingress.clone().filter(|ingress| ingress.enabled),
        http_route: spec.http_route.clone().filter(|route| route.enabled),
        network_policy: spec.network_policy.clone().filter(|policy| policy.enabled),
        egress: Egress::needed(spec, observed),
        operator_namespace: defaults.operator_namespace.clone(),
        monitoring: spec.monitoring.clone().unwrap_or_default(),
        timetable: timetable::of(instance, observed, spec.cleanup.as_ref().filter(|_| database.is_some())),
        cleanup: spec.cleanup.clone().filter(|_| database.is_some()),
        optional: Kind::optional().filter(|kind| asks_for(spec, *kind)).collect(),
        unserved: observed.unserved.clone(),
        pod_template: spec.pod_template.clone().unwrap_or_default(),
        deletion_policy: spec.deletion_policy,
        settings,
        image,
        database,
        blobs,
        rollout: if migration.is_complete() { Rollout::Apply } else { Rollout::AfterMigration },
        migration,
        progress_deadline: defaults.progress_deadline,
        render_revision: defaults.render_revision,
        revision: Revision::default(),
        wanted: RevisionStatus::default(),
        known: Vec::new(),
        course: Course::Forward,
        rollout_status: revision::none_yet(),
        given_up: false,
        kept_maps: Vec::new(),
        lacks: Vec::new(),
    };
    Ok(egress::opened(revision::choose(resolved, instance, observed), observed))
}

/// Whether a spec asks for a child of an optional kind.
pub fn asks_for(spec: &crate::JamInstanceSpec, kind: Kind) -> bool {
    let monitoring = spec.monitoring.as_ref();
    match kind {
        Kind::HttpRoute => spec.http_route.as_ref().is_some_and(|route| route.enabled),
        Kind::ServiceMonitor => monitoring.is_some_and(|monitoring| monitoring.service_monitor),
        Kind::PrometheusRule => monitoring.is_some_and(|monitoring| monitoring.prometheus_rule),
        Kind::ServiceAccount
        | Kind::ConfigMap
        | Kind::Secret
        | Kind::NetworkPolicy
        | Kind::Job
        | Kind::Service
        | Kind::Deployment
        | Kind::CronJob
        | Kind::PodDisruptionBudget
        | Kind::HorizontalPodAutoscaler
        | Kind::Ingress => false,
    }
}

/// The instance's name; empty before the API server has seen it.
pub(crate) fn name_of(instance: &JamInstance) -> String {
    instance.metadata.name.clone().unwrap_or_default()
}

pub(crate) fn namespace_of(instance: &JamInstance) -> String {
    instance.metadata.namespace.clone().unwrap_or_else(|| "default".into())
}

pub(crate) fn uid_of(instance: &JamInstance) -> String {
    instance.metadata.uid.clone().unwrap_or_default()
}

/// The Secret and key with the DSN that a spec refers to: what the operator is to read.
pub fn dsn_reference(instance: &JamInstance) -> Option<(String, String)> {
    let database = instance.spec.database.as_ref()?;
    match (&database.dsn_secret_ref, &database.cluster) {
        (Some(reference), _) => Some((reference.name.clone(), reference.key.clone())),
        (None, Some(cluster)) => Some((format!("{}-app", cluster.name), "uri".into())),
        (None, None) => None,
    }
}

fn database(
    instance: &JamInstance,
    observed: &Observed,
    store: StoreKind,
) -> Result<Option<ResolvedDatabase>, Refusal> {
    if store == StoreKind::Memory {
        return Ok(None);
    }
    let (Some((secret, key)), Some(database)) = (dsn_reference(instance), instance.spec.database.as_ref()) else {
        return Err(Refusal::new(Reason::InvalidSettings, refuse::NO_DATABASE));
    };
    let at = format!("Secret {secret} in namespace {}", namespace_of(instance));
    match &observed.dsn {
        None | Some(SecretKey::NoSecret) => Err(Refusal::new(
            Reason::SecretMissing,
            format!("{at} does not exist; spec.database needs its key {key} with the DSN"),
        )),
        Some(SecretKey::NoKey) => {
            Err(Refusal::new(Reason::SecretKeyMissing, format!("{at} has no key {key}; put the DSN there")))
        }
        Some(SecretKey::Empty) => {
            Err(Refusal::new(Reason::SecretKeyMissing, format!("{at} has an empty key {key}; put the DSN there")))
        }
        Some(SecretKey::Present { hash }) => Ok(Some(ResolvedDatabase {
            secret,
            key,
            dsn_hash: hash.clone(),
            max_connections: database.max_connections,
        })),
    }
}

/// The number of API pods that we write. It is handed over to the autoscaler only when that has written it once: a number
/// that its last owner lets go of falls back to 1.
fn replicas(spec: &crate::JamInstanceSpec, observed: &Observed) -> Option<i32> {
    match (&spec.autoscaling, &observed.api) {
        (None, _) => Some(spec.replicas),
        (Some(_), Some(api)) if api.replicas_taken_over => None,
        (Some(bounds), Some(api)) => Some(api.wanted.clamp(bounds.min_replicas, bounds.max_replicas)),
        (Some(bounds), None) => Some(bounds.min_replicas),
    }
}

fn image(spec: &crate::JamInstanceSpec, defaults: &Defaults) -> ResolvedImage {
    let image = spec.image.clone().unwrap_or_default();
    let repository = image.repository.unwrap_or_else(|| defaults.repository.clone());
    let reference = match (image.digest, image.tag, &defaults.digest) {
        (Some(digest), _, _) => format!("{repository}@{digest}"),
        (None, Some(tag), _) => format!("{repository}:{tag}"),
        (None, None, Some(digest)) => format!("{repository}@{digest}"),
        (None, None, None) => format!("{repository}:{}", defaults.tag),
    };
    let pull_secrets = image.pull_secrets.into_iter().map(|secret| secret.name).collect();
    ResolvedImage { reference, pull_policy: image.pull_policy, pull_secrets }
}
