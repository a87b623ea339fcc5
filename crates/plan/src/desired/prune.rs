//! Which children are no longer wanted, and may go now.

#[cfg(test)]
mod tests;

use super::{Desired, Kind, Objects};
use crate::names;
use crate::observed::{Child, DeploymentState, JobState, Observed, PreviewSaid};

/// The children that are no longer wanted and may go now.
///
/// Finished Jobs are left to their time to live, for their logs. ConfigMaps of earlier content stay until every pod runs
/// with the current one, those of the cleanup included: a pod of the old revision that is rescheduled still mounts the old map. Token Secrets are
/// removed only with their consumer. What has no matching controller is left, unless it is a token Secret of ours.
pub fn prunable<'a>(instance: &str, objects: &Objects<Desired>, observed: &'a Observed, uid: &str) -> Vec<&'a Child> {
    let wanted = |child: &Child| {
        objects.items.iter().any(|item| item.object == child.object) || objects.keep.contains(&child.object)
    };
    let waiting = objects.keep.iter().any(|kept| kept.kind == Kind::Deployment);
    let rolled = !waiting
        && observed.worker.as_ref().is_none_or(DeploymentState::is_settled)
        && observed.api.as_ref().is_some_and(|api| {
            api.is_settled()
                && objects.items.iter().any(|item| {
                    item.object.kind == Kind::Deployment && Some(item.hash.as_str()) == api.rendered.as_deref()
                })
        });
    let cleaning = |map: &str| observed.cleanup.as_ref().is_some_and(|cleanup| cleanup.mounts.contains(map));
    let running = |child: &Child| {
        let job = observed.migration_jobs.iter().find(|job| job.name == child.object.name);
        let preview = observed.migration_previews.iter().find(|preview| preview.job == child.object.name);
        job.is_none_or(|job| job.state == JobState::Running)
            && preview.is_none_or(|preview| preview.said == PreviewSaid::Nothing)
    };
    observed
        .children
        .iter()
        .filter(|child| !child.deleting && !wanted(child))
        .filter(|child| match child.object.kind {
            Kind::ConfigMap => (rolled && !cleaning(&child.object.name)) || names::is_dashboard(&child.object.name),
            Kind::Job => running(child),
            Kind::Secret => {
                is_consumers(instance, child) && child.controller.as_deref().is_none_or(|owner| owner == uid)
            }
            // Every instance has just the one of its name: there is never another, and no right to remove it.
            Kind::ServiceAccount => false,
            Kind::NetworkPolicy
            | Kind::Service
            | Kind::Deployment
            | Kind::CronJob
            | Kind::PodDisruptionBudget
            | Kind::HorizontalPodAutoscaler
            | Kind::Ingress
            | Kind::HttpRoute
            | Kind::ServiceMonitor
            | Kind::PrometheusRule => true,
        })
        .filter(|child| child.object.kind == Kind::Secret || child.controller.as_deref() == Some(uid))
        .collect()
}

/// Whether nothing comes in the place of such a child, so that it goes also where not all of the others could be written. Left, it would
/// go on: an autoscaler against the spec's number of pods, a CronJob with its deletions.
pub fn nothing_replaces(kind: Kind) -> bool {
    match kind {
        Kind::NetworkPolicy
        | Kind::Deployment
        | Kind::Job
        | Kind::CronJob
        | Kind::PodDisruptionBudget
        | Kind::HorizontalPodAutoscaler => true,
        Kind::ServiceAccount
        | Kind::ConfigMap
        | Kind::Secret
        | Kind::Service
        | Kind::Ingress
        | Kind::HttpRoute
        | Kind::ServiceMonitor
        | Kind::PrometheusRule => false,
    }
}

/// Whether a Secret is one that we have made for a consumer. A copy of it has its labels, its annotations and perhaps its
/// owner, but another name: it is whoever copied it that knows what for.
fn is_consumers(instance: &str, child: &Child) -> bool {
    let name = child.consumer.as_ref().map(|consumer| names::consumer_secret(instance, consumer));
    name.as_ref() == Some(&child.object.name) && child.rendered.is_some()
}
