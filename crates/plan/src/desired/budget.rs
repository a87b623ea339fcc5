//! How many API pods there are at least and at most: PodDisruptionBudget and HorizontalPodAutoscaler.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget,
    ResourceMetricSource,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Desired, Kind, Write, identity};
use crate::crd::Autoscaling;
use crate::names::{self, Component};
use crate::resolve::Resolved;

/// Drains take one API pod at a time. With a single one a budget would only stand in the way of every drain.
pub(super) fn disruption_budget(resolved: &Resolved) -> Option<Desired> {
    let several = resolved.autoscaling.is_some() || resolved.replicas.is_some_and(|replicas| replicas > 1);
    if !several {
        return None;
    }
    let name = names::api(&resolved.name);
    let budget = PodDisruptionBudget {
        metadata: identity::metadata(resolved, &name, Component::Api),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(names::selector(&resolved.name, Component::Api)),
                match_expressions: None,
            }),
            // A pod that waits for its database must not block the drain of its node.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    };
    Some(Desired::new(resolved, Kind::PodDisruptionBudget, name, Write::Apply, &budget))
}

/// The autoscaler of the API Deployment, when the spec has one.
pub(super) fn autoscaler(resolved: &Resolved) -> Option<Desired> {
    let Autoscaling { min_replicas, max_replicas, target_cpu_utilization } = resolved.autoscaling.as_ref()?;
    let name = names::api(&resolved.name);
    let autoscaler = HorizontalPodAutoscaler {
        metadata: identity::metadata(resolved, &name, Component::Api),
        spec: Some(HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".into()),
                kind: "Deployment".into(),
                name: name.clone(),
            },
            min_replicas: Some(*min_replicas),
            max_replicas: *max_replicas,
            metrics: Some(vec![MetricSpec {
                type_: "Resource".into(),
                resource: Some(ResourceMetricSource {
                    name: "cpu".into(),
                    target: MetricTarget {
                        type_: "Utilization".into(),
                        average_utilization: Some(*target_cpu_utilization),
                        ..MetricTarget::default()
                    },
                }),
                ..MetricSpec::default()
            }]),
            behavior: None,
        }),
        status: None,
    };
    Some(Desired::new(resolved, Kind::HorizontalPodAutoscaler, name, Write::Apply, &autoscaler))
}
