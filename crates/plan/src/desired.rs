//! From a resolved instance to its objects, in the order they are applied. Builders cannot fail.

mod budget;
mod cleanup;
mod config;
mod dashboard;
mod deployment;
mod evidence;
mod exposure;
#[cfg(test)]
mod generated;
mod identity;
mod migration;
mod monitoring;
mod network;
mod pod;
mod prune;
mod revision;
mod route;
mod secrets;
#[cfg(test)]
mod tests;

use serde::Serialize;
use serde_json::Value;

use crate::names;
use crate::resolve::{Resolved, Rollout};

pub use evidence::evidence;
pub(crate) use pod::DSN;
pub use prune::{nothing_replaces, prunable};
pub use revision::Revision;
pub(crate) use secrets::token_word;

/// The kinds of children, in the order they are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// v1
    Secret,
    /// v1
    ServiceAccount,
    /// v1
    ConfigMap,
    /// networking.k8s.io/v1
    NetworkPolicy,
    /// batch/v1
    Job,
    /// v1
    Service,
    /// apps/v1
    Deployment,
    /// batch/v1
    CronJob,
    /// policy/v1
    PodDisruptionBudget,
    /// autoscaling/v2
    HorizontalPodAutoscaler,
    /// networking.k8s.io/v1
    Ingress,
    /// gateway.networking.k8s.io/v1, where it is served
    HttpRoute,
    /// monitoring.coreos.com/v1, where it is served
    ServiceMonitor,
    /// monitoring.coreos.com/v1, where it is served
    PrometheusRule,
}

impl Kind {
    /// Every kind, in the order they are applied.
    pub const ALL: [Kind; 14] = [
        Kind::Secret,
        Kind::ServiceAccount,
        Kind::ConfigMap,
        Kind::NetworkPolicy,
        Kind::Job,
        Kind::Service,
        Kind::Deployment,
        Kind::CronJob,
        Kind::PodDisruptionBudget,
        Kind::HorizontalPodAutoscaler,
        Kind::Ingress,
        Kind::HttpRoute,
        Kind::ServiceMonitor,
        Kind::PrometheusRule,
    ];

    /// Whether an API server may do without it: its definition comes with an add-on.
    pub fn is_optional(self) -> bool {
        match self {
            Kind::HttpRoute | Kind::ServiceMonitor | Kind::PrometheusRule => true,
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

    /// The kinds that an API server may do without.
    pub fn optional() -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|kind| kind.is_optional())
    }

    /// API group and version as manifests write them.
    pub fn api_version(self) -> String {
        let (group, version, _, _) = self.coordinates();
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
    }

    /// API group (empty for the core), version, kind and plural.
    pub fn coordinates(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Kind::ServiceAccount => ("", "v1", "ServiceAccount", "serviceaccounts"),
            Kind::ConfigMap => ("", "v1", "ConfigMap", "configmaps"),
            Kind::Secret => ("", "v1", "Secret", "secrets"),
            Kind::NetworkPolicy => ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
            Kind::Job => ("batch", "v1", "Job", "jobs"),
            Kind::Service => ("", "v1", "Service", "services"),
            Kind::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Kind::CronJob => ("batch", "v1", "CronJob", "cronjobs"),
            Kind::PodDisruptionBudget => ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
            Kind::HorizontalPodAutoscaler => {
                ("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
            }
            Kind::Ingress => ("networking.k8s.io", "v1", "Ingress", "ingresses"),
            Kind::HttpRoute => ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
            Kind::ServiceMonitor => ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"),
            Kind::PrometheusRule => ("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules"),
        }
    }

    /// The kind as written in manifests.
    pub fn as_str(self) -> &'static str {
        self.coordinates().2
    }
}

/// A child by kind and name; its namespace is the instance's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// How an object is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Server-side apply, forced, when the child's `jam.network/rendered` differs from [`Desired::hash`] or its own fields
    /// were changed by others.
    Apply,
    /// Create when absent; what is there is left alone (a Job's template can't be changed).
    CreateOnce,
}

/// An object as it is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// Kind and name.
    pub object: ObjectRef,
    /// The namespace.
    pub namespace: String,
    /// How it is written.
    pub write: Write,
    /// Hash of the body, which also stands in its annotation `jam.network/rendered`.
    pub hash: String,
    /// The whole object with apiVersion and kind, without nulls: what is not written here is not ours.
    pub body: Value,
}

/// Objects at one stage (wanted, applied), with those that are wanted and left as they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Objects<T> {
    /// In the order they are applied.
    pub items: Vec<T>,
    /// Wanted, but left as they are for now: never pruned.
    pub keep: Vec<ObjectRef>,
}

/// The objects of an instance, in the order they are applied.
pub fn desired(resolved: &Resolved) -> Objects<Desired> {
    // First, because a token may have moved just now: whatever cannot be written after them, the pods learn of it.
    let mut items = secrets::all(resolved);
    items.extend([identity::service_account(resolved), config::config_map(resolved), revision::record(resolved)]);
    items.extend(dashboard::config_map(resolved));
    items.extend(network::policy(resolved));
    items.extend(migration::job(resolved));
    items.extend(migration::preview(resolved));
    items.push(exposure::service(resolved));
    items.extend(monitoring::service(resolved));
    let mut keep = kept_maps(resolved);
    let versioned = [Some(deployment::api(resolved)), deployment::worker(resolved), cleanup::cron_job(resolved)];
    let versioned = versioned.into_iter().flatten();
    match resolved.rollout {
        Rollout::Apply => items.extend(versioned),
        Rollout::AfterMigration | Rollout::LeaveAlone => keep.extend(versioned.map(|desired| desired.object)),
    }
    items.extend(budget::disruption_budget(resolved));
    items.extend(budget::autoscaler(resolved));
    items.extend(exposure::ingress(resolved));
    items.extend(route::http_route(resolved));
    items.extend(monitoring::service_monitor(resolved));
    items.extend(monitoring::prometheus_rule(resolved));
    // What the API server does not know is left out, and said; it is made when its definition comes.
    items.retain(|item| !resolved.unserved.contains(&item.object.kind));
    Objects { items, keep }
}

/// The revisions that a bad rollout may still go back to, and the evidence of the last one that did.
fn kept_maps(resolved: &Resolved) -> Vec<ObjectRef> {
    let maps = resolved.kept_maps.iter().filter(|name| *name != resolved.revision.name());
    maps.map(|name| ObjectRef { kind: Kind::ConfigMap, name: name.clone() }).collect()
}

impl Desired {
    /// Finishes an object: coordinates, hash, annotation. The typed objects write no nulls, which would become fields of ours.
    fn new<K: Serialize>(resolved: &Resolved, kind: Kind, name: String, write: Write, typed: &K) -> Self {
        let mut body = serde_json::to_value(typed).expect("a Kubernetes object is JSON");
        body["apiVersion"] = kind.api_version().into();
        body["kind"] = kind.as_str().into();
        let hash = names::short_hash([jam_domain::canonical::bytes(&body).as_slice()]);
        body["metadata"]["annotations"][names::RENDERED] = hash.clone().into();
        Self { object: ObjectRef { kind, name }, namespace: resolved.namespace.clone(), write, hash, body }
    }
}
