//! The parts of a bundle: children, pods with the ends of their logs, events, and the operator's own pods.

use std::fmt::Write as _;

use jam_plan::{Kind, names};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DynamicObject, ListParams, LogParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::Bundle;
use crate::kubectl::cluster::Cluster;
use crate::kubectl::fault::Fault;

/// Pods of which there is more than a name.
const PODS: usize = 20;
/// The end of a log is bounded in bytes too.
const LOG_BYTES: i64 = 1 << 20;
/// Events of the namespace that are looked through.
const EVENTS: u32 = 2000;

/// Every kind of child. Of Secrets only metadata: their values never travel.
pub async fn children(cluster: &Cluster, instance: &str, bundle: &mut Bundle) {
    let params = ListParams::default().labels(&names::child_selector(instance));
    for kind in Kind::ALL {
        let (group, version, word, plural) = kind.coordinates();
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, word), plural);
        let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource);
        let found = match kind {
            Kind::Secret => {
                api.list_metadata(&params).await.map(|list| list.items.iter().map(|object| json!(object)).collect())
            }
            Kind::ServiceAccount
            | Kind::ConfigMap
            | Kind::NetworkPolicy
            | Kind::Job
            | Kind::Service
            | Kind::Deployment
            | Kind::CronJob
            | Kind::PodDisruptionBudget
            | Kind::HorizontalPodAutoscaler
            | Kind::Ingress
            | Kind::HttpRoute
            | Kind::ServiceMonitor
            | Kind::PrometheusRule => {
                api.list(&params).await.map(|list| list.items.iter().map(|object| json!(object)).collect())
            }
        };
        let found: Vec<serde_json::Value> = match found {
            Ok(found) => found,
            // A kind of an add-on that is not installed.
            Err(kube::Error::Api(status)) if status.code == 404 => continue,
            Err(error) => {
                bundle.lacks(&Fault::of(&format!("list {plural}"), error));
                continue;
            }
        };
        for object in found {
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            bundle.object(&format!("children/{word}-{name}.yaml"), object);
        }
    }
}

/// The pods of an instance, of its workers, migrations and cleanups.
pub async fn pods(cluster: &Cluster, instance: &str, tail: i64, bundle: &mut Bundle) {
    let labels = names::written(&names::pods(instance));
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let list = api.list(&ListParams::default().labels(&labels)).await;
    match list {
        Ok(list) => of_pods(&api, "pods", list.items, tail, bundle).await,
        Err(error) => bundle.lacks(&Fault::of("list the pods", error)),
    }
}

/// The pods of the operator, wherever it is.
pub async fn operator(cluster: &Cluster, tail: i64, bundle: &mut Bundle) {
    let (label, value) = names::OPERATOR;
    let everywhere: Api<Pod> = Api::all(cluster.client.clone());
    let found = match everywhere.list(&ListParams::default().labels(&format!("{label}={value}"))).await {
        Ok(list) => list.items,
        Err(error) => return bundle.lacks(&Fault::of("find the operator's pods", error)),
    };
    if found.is_empty() {
        bundle.lacks(&Fault::NotFound(format!("no pod of the operator is in this cluster (label {label}={value})")));
    }
    let mut namespaces: Vec<String> = found.iter().filter_map(ResourceExt::namespace).collect();
    namespaces.sort();
    namespaces.dedup();
    for namespace in namespaces {
        let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &namespace);
        let here = found.iter().filter(|pod| pod.namespace().as_ref() == Some(&namespace)).cloned().collect();
        of_pods(&api, "operator", here, tail, bundle).await;
    }
}

async fn of_pods(api: &Api<Pod>, folder: &str, mut pods: Vec<Pod>, tail: i64, bundle: &mut Bundle) {
    // The newest first.
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.creation_timestamp().map(|at| at.0)));
    if pods.len() > PODS {
        bundle.lacks(&Fault::Refused(format!("{} of {} pods, all but the newest", pods.len() - PODS, pods.len())));
        pods.truncate(PODS);
    }
    for pod in pods {
        let name = pod.name_any();
        bundle.object(&format!("{folder}/{name}.yaml"), json!(pod));
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone()).unwrap_or_default();
        for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
            let restarted = statuses.iter().any(|status| status.name == container.name && status.restart_count > 0);
            for previous in [false, true].into_iter().filter(|previous| restarted || !previous) {
                let params = LogParams {
                    container: Some(container.name.clone()),
                    tail_lines: Some(tail),
                    limit_bytes: Some(LOG_BYTES),
                    timestamps: true,
                    previous,
                    ..LogParams::default()
                };
                let which = if previous { ".previous" } else { "" };
                match api.logs(&name, &params).await {
                    Ok(log) => bundle.text(&format!("{folder}/{name}.{}{which}.log", container.name), &log),
                    Err(error) => bundle.lacks(&Fault::of(&format!("read the log of pod {name}"), error)),
                }
            }
        }
    }
}

/// The events about an instance and its children, oldest first.
pub async fn events(cluster: &Cluster, instance: &str, bundle: &mut Bundle) {
    let api: Api<Event> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let list = match api.list(&ListParams::default().limit(EVENTS)).await {
        Ok(list) => list,
        Err(error) => return bundle.lacks(&Fault::of("list events", error)),
    };
    let child = format!("{instance}-");
    let mut found: Vec<(String, String)> = list
        .items
        .into_iter()
        .filter(|event| {
            let about = event.involved_object.name.as_deref().unwrap_or_default();
            about == instance || about.starts_with(&child)
        })
        .map(|event| {
            let made = event.metadata.creation_timestamp.as_ref().map(|at| at.0.to_string());
            let seen = event.last_timestamp.as_ref().map(|at| at.0.to_string());
            let at = seen.or(made).unwrap_or_default();
            let about = event.involved_object;
            let mut line = format!("{at} {} {}", event.type_.unwrap_or_default(), event.reason.unwrap_or_default());
            // Writing to a String cannot fail.
            let _ = write!(line, " {} {}", about.kind.unwrap_or_default(), about.name.unwrap_or_default());
            let _ = writeln!(line, " x{}: {}", event.count.unwrap_or(1), event.message.unwrap_or_default());
            (at, line)
        })
        .collect();
    found.sort();
    let text: String = found.into_iter().map(|(_, line)| line).collect();
    bundle.text("events.txt", &text);
}
