//! The Deployments: API pods, replaced one at a time with none missing, and workers.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, ContainerPort, HTTPGetAction, Lifecycle, LifecycleHandler, PodSpec,
    PodTemplateSpec, Probe, SecretVolumeSource, SleepAction, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use serde_json::Value;

use super::{Desired, Kind, Write, cleanup, config, identity, pod};
use crate::names::{self, Component};
use crate::resolve::Resolved;

/// Seconds that a pod keeps serving after its end was decided, until every proxy has heard of it.
const UNHEARD: i64 = 5;
/// Seconds that a pod has in all: unheard, 30 to finish what is in flight, and a margin.
const GRACE: i64 = 45;

/// After how many seconds without a cleanup a server says so.
const STALE_AFTER: &str = "JAM_CLEANUP_STALE_AFTER";
/// Where spans go.
const SPANS: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// Variables of servers that say nothing to other programs.
pub(super) const OWN_VARIABLES: [&str; 2] = [STALE_AFTER, SPANS];

/// Seconds that a worker runs before it counts: nobody calls it, so it says nothing of itself but that it did not crash.
const PROVEN: i32 = 15;

/// The API Deployment, with the pods of the revision in force.
pub(super) fn api(resolved: &Resolved) -> Desired {
    let name = names::api(&resolved.name);
    deployment(resolved, name, Component::Api, resolved.replicas, resolved.revision.api(), None)
}

/// The worker Deployment, when there are workers.
pub(super) fn worker(resolved: &Resolved) -> Option<Desired> {
    let template = resolved.revision.worker()?;
    let name = names::worker(&resolved.name);
    // The API server wants the deadline to be the longer one.
    let proven = PROVEN.min(resolved.progress_deadline - 1).max(0);
    Some(deployment(resolved, name, Component::Worker, Some(resolved.workers.replicas), template, Some(proven)))
}

/// The API pods as this release makes them, with this settings file.
pub(super) fn api_template(resolved: &Resolved, file: &str) -> Value {
    let mut container = serving(resolved, vec!["serve".into(), "--config".into(), pod::CONFIG_FILE.into()]);
    container.ports.get_or_insert_default().insert(0, port("http", pod::HTTP_PORT));
    if resolved.database.is_some() {
        let stale = cleanup::stale_after(resolved).unwrap_or_default().to_string();
        container.env.get_or_insert_default().insert(0, pod::variable(STALE_AFTER, &stale));
    }
    container.startup_probe = Some(Probe { period_seconds: Some(1), failure_threshold: Some(60), ..probe("/healthz") });
    container.liveness_probe =
        Some(Probe { period_seconds: Some(10), failure_threshold: Some(3), ..probe("/healthz") });
    container.readiness_probe = Some(Probe { period_seconds: Some(3), failure_threshold: Some(2), ..probe("/readyz") });
    template(resolved, Component::Api, container, file)
}

/// The worker pods as this release makes them, with this settings file.
pub(super) fn worker_template(resolved: &Resolved, file: &str) -> Value {
    let interval = resolved.workers.interval_seconds.to_string();
    let arguments = ["work", "--config", pod::CONFIG_FILE, "--interval", &interval].map(str::to_owned).to_vec();
    template(resolved, Component::Worker, serving(resolved, arguments), file)
}

/// The container of a pod that runs until it is told to stop.
fn serving(resolved: &Resolved, arguments: Vec<String>) -> Container {
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    let mut container = pod::container(resolved);
    container.args = Some(arguments);
    if let Some(endpoint) = &resolved.monitoring.otlp_endpoint {
        container.env.get_or_insert_default().push(pod::variable(SPANS, endpoint));
    }
    container.ports = Some(vec![port("metrics", pod::METRICS_PORT)]);
    // The last log lines of a container that crashed become its termination message, which says why without a right to logs.
    container.termination_message_policy = Some("FallbackToLogsOnError".into());
    // Whole directories, never subPath: only those follow a change of the Secret without a restart.
    container
        .volume_mounts
        .get_or_insert_default()
        .extend([mount("config", pod::CONFIG_DIR), mount("tokens", pod::TOKENS_DIR)]);
    container.lifecycle = Some(Lifecycle {
        pre_stop: Some(LifecycleHandler {
            sleep: Some(SleepAction { seconds: UNHEARD }),
            ..LifecycleHandler::default()
        }),
        ..Lifecycle::default()
    });
    container
}

fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: number,
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String("http".into()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}

fn deployment(
    resolved: &Resolved,
    name: String,
    component: Component,
    replicas: Option<i32>,
    template: &Value,
    min_ready_seconds: Option<i32>,
) -> Desired {
    // What works goes only when something else works: a bad release costs neither an API pod nor a worker.
    let rolling =
        RollingUpdateDeployment { max_unavailable: Some(IntOrString::Int(0)), max_surge: Some(IntOrString::Int(1)) };
    let selector = names::selector(&resolved.name, component);
    let mut metadata = identity::metadata(resolved, &name, component);
    metadata.annotations = Some(identity::annotation(names::REVISION, resolved.revision.name()));
    let deployment = Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            replicas,
            // Who has paused it by hand would keep every change from its pods, without a word and without a deadline.
            paused: Some(false),
            min_ready_seconds,
            selector: LabelSelector { match_labels: Some(selector), match_expressions: None },
            strategy: Some(DeploymentStrategy { type_: Some("RollingUpdate".into()), rolling_update: Some(rolling) }),
            progress_deadline_seconds: Some(resolved.progress_deadline),
            revision_history_limit: Some(3),
            template: PodTemplateSpec::default(),
        }),
        status: None,
    };
    let mut body = serde_json::to_value(deployment).expect("a Kubernetes object is JSON");
    // As it was rendered, not as this release reads it: nothing of an older revision gets lost on the way.
    body["spec"]["template"] = template.clone();
    Desired::new(resolved, Kind::Deployment, name, Write::Apply, &body)
}

fn template(resolved: &Resolved, component: Component, container: Container, file: &str) -> Value {
    let selector = names::selector(&resolved.name, component);
    let mut annotations = pod::annotations(resolved).unwrap_or_default();
    annotations.insert(names::RENDER_REVISION.into(), resolved.render_revision.to_string());
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(pod::labels(resolved, component)),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(pod_spec(resolved, container, selector, config::name(&resolved.name, file))),
    };
    serde_json::to_value(template).expect("a Kubernetes object is JSON")
}

fn pod_spec(
    resolved: &Resolved,
    container: Container,
    selector: std::collections::BTreeMap<String, String>,
    config: String,
) -> PodSpec {
    let template = &resolved.pod_template;
    let config = Volume {
        name: "config".into(),
        config_map: Some(ConfigMapVolumeSource { name: config, ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    };
    let tokens = Volume {
        name: "tokens".into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(names::token_hashes(&resolved.name)),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let spread = if template.topology_spread_constraints.is_empty() {
        vec![over_nodes(selector)]
    } else {
        template.topology_spread_constraints.clone()
    };
    let mut spec = PodSpec {
        containers: vec![container],
        volumes: Some(vec![config, tokens, pod::scratch()]),
        termination_grace_period_seconds: Some(template.termination_grace_period_seconds.unwrap_or(GRACE)),
        topology_spread_constraints: Some(spread),
        ..pod::base(resolved)
    };
    pod::schedule(&mut spec, template);
    spec
}

/// Pods of one revision on different nodes as far as possible: a node that fails takes one.
fn over_nodes(selector: std::collections::BTreeMap<String, String>) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".into(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        label_selector: Some(LabelSelector { match_labels: Some(selector), match_expressions: None }),
        match_label_keys: Some(vec!["pod-template-hash".into()]),
        ..TopologySpreadConstraint::default()
    }
}
