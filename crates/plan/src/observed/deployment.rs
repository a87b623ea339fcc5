//! A Deployment, as far as it decides anything.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::noted;
use crate::names;

/// A Deployment, as far as it decides anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeploymentState {
    /// Generation of its spec.
    pub generation: i64,
    /// Generation that its controller has seen.
    pub observed_generation: i64,
    /// Pods that its spec asks for.
    pub wanted: i32,
    /// Whether somebody else (an autoscaler) has written that number.
    pub replicas_taken_over: bool,
    /// Pods there are, old ones included.
    pub replicas: i32,
    /// Pods of the current template.
    pub updated: i32,
    /// Ready pods.
    pub ready: i32,
    /// Pods ready for long enough.
    pub available: i32,
    /// Pods missing or not available.
    pub unavailable: i32,
    /// The message of a rollout that went past its deadline.
    pub deadline_exceeded: Option<String>,
    /// Why pods cannot even be made, in the words of who refused them: admission, a quota.
    pub create_failure: Option<String>,
    /// Whether the rollout of this revision once came to its end: what is unready since then was ready before.
    pub rolled_out: bool,
    /// The image of the first container.
    pub image: Option<String>,
    /// Hash of the DSN that its pods were given, as annotated.
    pub dsn_hash: Option<String>,
    /// The revision that its pods are made from, as annotated.
    pub revision: Option<String>,
    /// The ConfigMap that its pods mount.
    pub config: Option<String>,
    /// Hash of what was rendered, as annotated.
    pub rendered: Option<String>,
}

impl DeploymentState {
    /// What a Deployment says.
    pub fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let status = deployment.status.clone().unwrap_or_default();
        let pod = spec.and_then(|spec| spec.template.spec.as_ref());
        let deadline_exceeded = status
            .conditions
            .as_deref()
            .unwrap_or_default()
            .iter()
            .find(|c| c.type_ == "Progressing" && c.reason.as_deref() == Some("ProgressDeadlineExceeded"))
            .map(|c| c.message.clone().unwrap_or_default());
        let create_failure = status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "ReplicaFailure" && c.status == "True")
            .and_then(|c| c.message.clone());
        let rolled_out = status
            .conditions
            .iter()
            .flatten()
            .any(|c| c.type_ == "Progressing" && c.reason.as_deref() == Some("NewReplicaSetAvailable"));
        Self {
            rolled_out,
            create_failure,
            generation: deployment.metadata.generation.unwrap_or_default(),
            observed_generation: status.observed_generation.unwrap_or_default(),
            wanted: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            replicas_taken_over: is_scaled_by_others(&deployment.metadata),
            replicas: status.replicas.unwrap_or_default(),
            updated: status.updated_replicas.unwrap_or_default(),
            ready: status.ready_replicas.unwrap_or_default(),
            available: status.available_replicas.unwrap_or_default(),
            unavailable: status.unavailable_replicas.unwrap_or_default(),
            deadline_exceeded,
            image: pod.and_then(|pod| pod.containers.first()).and_then(|container| container.image.clone()),
            dsn_hash: noted(
                spec.and_then(|spec| spec.template.metadata.as_ref()?.annotations.as_ref()),
                names::DSN_HASH,
            ),
            config: pod
                .and_then(|pod| pod.volumes.as_ref())
                .and_then(|volumes| volumes.iter().find_map(|volume| volume.config_map.as_ref()))
                .map(|source| source.name.clone()),
            revision: noted(deployment.metadata.annotations.as_ref(), names::REVISION),
            rendered: noted(deployment.metadata.annotations.as_ref(), names::RENDERED),
        }
    }

    /// Why the rollout of the present template makes no progress, when it went past its deadline.
    pub fn stuck(&self) -> Option<&str> {
        self.deadline_exceeded.as_deref().filter(|_| self.is_seen())
    }

    /// Whether its controller has taken up what it is now.
    pub fn is_seen(&self) -> bool {
        self.observed_generation >= self.generation
    }

    /// Whether fewer pods are ready than were told before, although as many are wanted and none is being replaced.
    pub fn has_lost_readiness(&self, told: i32) -> bool {
        self.is_seen() && self.updated == self.wanted && self.ready < told.min(self.wanted)
    }

    /// Whether every wanted pod is of the current template, available, and no other is left.
    pub fn is_settled(&self) -> bool {
        self.is_seen() && self.updated == self.wanted && self.replicas == self.wanted && self.available == self.wanted
    }
}

/// Whether another field manager owns `spec.replicas`.
pub(super) fn is_scaled_by_others(metadata: &ObjectMeta) -> bool {
    metadata.managed_fields.as_deref().unwrap_or_default().iter().any(|entry| {
        let owns = entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some());
        owns && (entry.manager.as_deref() != Some(names::FIELD_MANAGER) || entry.subresource.is_some())
    })
}
