//! What every pod has: restricted security, the image, the DSN by reference, and the user's overrides.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, LocalObjectReference, PodSecurityContext,
    PodSpec, ResourceRequirements, SeccompProfile, SecretKeySelector, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::crd::PodTemplate;
use crate::names::{self, Component};
use crate::quantity::thousandths;
use crate::resolve::{BLOB_KEYS, Resolved, ResolvedBlobs};

/// The port of the API.
pub(super) const HTTP_PORT: i32 = 8080;
/// The port of `/metrics`.
pub(super) const METRICS_PORT: i32 = 9090;
/// Where the ConfigMap is mounted.
pub(super) const CONFIG_DIR: &str = "/etc/jam/config";
/// The settings file.
pub(super) const CONFIG_FILE: &str = "/etc/jam/config/config.yaml";
/// Where the Secret of token hashes is mounted.
pub(super) const TOKENS_DIR: &str = "/etc/jam/tokens";
/// The token file.
pub(super) const TOKENS_FILE: &str = "/etc/jam/tokens/tokens.json";
/// The file of administrators' tokens.
pub(super) const ADMIN_TOKENS_FILE: &str = "/etc/jam/tokens/admin-tokens.json";
/// The exit code of `jam-api migrate` and `cleanup` that says: its time was up. The Job's is nearly, too: another pod would be cut
/// short.
pub(super) const LATE: i32 = 124;
/// The variable with the DSN.
pub(crate) const DSN: &str = "JAM_PG_DSN";
/// The user and group of every process.
const NOBODY: i64 = 65_532;

/// The labels of a pod: the user's, and the ones that select it.
pub(super) fn labels(resolved: &Resolved, component: Component) -> BTreeMap<String, String> {
    let mut labels = resolved.pod_template.labels.clone();
    labels.extend(names::labels(&resolved.name, component));
    labels
}

/// The annotations of a pod: the user's, and the hashes of the DSN and of the keys to the blob store, so that changed ones
/// roll the pods once.
pub(super) fn annotations(resolved: &Resolved) -> Option<BTreeMap<String, String>> {
    let mut annotations = resolved.pod_template.annotations.clone();
    if let Some(database) = &resolved.database {
        annotations.insert(names::DSN_HASH.into(), database.dsn_hash.clone());
    }
    if let Some(blobs) = resolved.blobs.as_ref().filter(|blobs| blobs.secret.is_some()) {
        annotations.insert(names::BLOB_KEYS_HASH.into(), blobs.hash.clone());
    }
    (!annotations.is_empty()).then_some(annotations)
}

/// A pod without its containers.
pub(super) fn base(resolved: &Resolved) -> PodSpec {
    let secrets = &resolved.image.pull_secrets;
    PodSpec {
        service_account_name: Some(names::api(&resolved.name)),
        automount_service_account_token: Some(false),
        // Variables for every Service of the namespace would change with the neighbours.
        enable_service_links: Some(false),
        image_pull_secrets: (!secrets.is_empty())
            .then(|| secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect()),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(NOBODY),
            run_as_group: Some(NOBODY),
            fs_group: Some(NOBODY),
            fs_group_change_policy: Some("OnRootMismatch".into()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        ..PodSpec::default()
    }
}

/// A container with image, security, environment and resources; arguments are the caller's.
pub(super) fn container(resolved: &Resolved) -> Container {
    Container {
        name: names::CONTAINER.into(),
        image: Some(resolved.image.reference.clone()),
        image_pull_policy: Some(resolved.image.pull_policy.as_str().into()),
        command: Some(vec!["jam-api".into()]),
        env: Some(environment(resolved)).filter(|env| !env.is_empty()),
        resources: Some(resources(resolved.pod_template.resources.as_ref())),
        volume_mounts: Some(vec![VolumeMount {
            name: "scratch".into(),
            mount_path: "/tmp".into(),
            ..VolumeMount::default()
        }]),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".into()]) }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// A plain environment variable.
pub(super) fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), value_from: None }
}

fn environment(resolved: &Resolved) -> Vec<EnvVar> {
    let mut variables = Vec::new();
    if let Some(database) = &resolved.database {
        variables.push(secret(DSN, &database.secret, &database.key, false));
        variables.push(variable("JAM_PG_MAX_CONNECTIONS", &database.max_connections.to_string()));
    }
    variables.extend(resolved.blobs.iter().flat_map(of_blob_store));
    variables.extend(resolved.pod_template.env.iter().cloned());
    variables
}

/// An environment variable with what a Secret has under a key.
fn secret(name: &str, secret: &str, key: &str, optional: bool) -> EnvVar {
    let reference = SecretKeySelector { name: secret.into(), key: key.into(), optional: Some(optional) };
    let value_from = Some(EnvVarSource { secret_key_ref: Some(reference), ..EnvVarSource::default() });
    EnvVar { name: name.into(), value: None, value_from }
}

/// Where the bytes of preimages go, in the variables that every client of S3 reads.
fn of_blob_store(blobs: &ResolvedBlobs) -> Vec<EnvVar> {
    let ResolvedBlobs { url, endpoint, region, secret: credentials, hash: _ } = blobs;
    let mut variables = vec![variable("JAM_BLOB_STORE", url)];
    variables.extend(endpoint.iter().map(|endpoint| variable("AWS_ENDPOINT_URL", endpoint)));
    variables.extend(blobs.is_plain().then(|| variable("AWS_ALLOW_HTTP", "true")));
    variables.extend(region.iter().map(|region| variable("AWS_REGION", region)));
    if let Some(credentials) = credentials {
        // A session token is there for credentials that end, and nowhere else.
        let optional = [false, false, true];
        variables.extend(BLOB_KEYS.iter().zip(optional).map(|(key, optional)| secret(key, credentials, key, optional)));
    }
    variables
}

/// The defaults, each replaced by the user's value of the same name. No CPU limit: throttling helps nobody. A default limit is
/// never below what is requested, nor a default request above the limit: nobody could have both.
fn resources(overrides: Option<&ResourceRequirements>) -> ResourceRequirements {
    let quantities = |pairs: &[(&str, &str)]| -> BTreeMap<String, Quantity> {
        pairs.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect()
    };
    let mut requests = quantities(&[("cpu", "50m"), ("memory", "64Mi"), ("ephemeral-storage", "64Mi")]);
    let mut limits = quantities(&[("memory", "512Mi"), ("ephemeral-storage", "2Gi")]);
    let overrides = overrides.cloned().unwrap_or_default();
    let given = overrides.limits.unwrap_or_default();
    for (name, request) in &mut requests {
        let below = |limit: &&Quantity| {
            thousandths(&limit.0).is_some_and(|limit| thousandths(&request.0).is_some_and(|request| limit < request))
        };
        if let Some(limit) = given.get(name).filter(below) {
            request.clone_from(limit);
        }
    }
    requests.extend(overrides.requests.unwrap_or_default());
    for (name, limit) in &mut limits {
        if let Some(request) = requests.get(name).filter(|request| thousandths(&request.0) > thousandths(&limit.0)) {
            limit.clone_from(request);
        }
    }
    limits.extend(given);
    ResourceRequirements { claims: overrides.claims, limits: Some(limits), requests: Some(requests) }
}

/// The only place that a container may write to.
pub(super) fn scratch() -> Volume {
    let limit = Some(Quantity("1Gi".into()));
    Volume {
        name: "scratch".into(),
        empty_dir: Some(EmptyDirVolumeSource { medium: None, size_limit: limit }),
        ..Volume::default()
    }
}

/// The user's wishes about where pods run.
pub(super) fn schedule(spec: &mut PodSpec, template: &PodTemplate) {
    let PodTemplate {
        labels: _,
        annotations: _,
        resources: _,
        env: _,
        node_selector,
        affinity,
        tolerations,
        topology_spread_constraints: _,
        priority_class_name,
        termination_grace_period_seconds: _,
    } = template;
    spec.node_selector = (!node_selector.is_empty()).then(|| node_selector.clone());
    spec.affinity.clone_from(affinity);
    spec.tolerations = (!tolerations.is_empty()).then(|| tolerations.clone());
    spec.priority_class_name.clone_from(priority_class_name);
}

/// No further pod after one that ended with this exit code.
pub(super) fn ends_at(code: i32) -> PodFailurePolicyRule {
    PodFailurePolicyRule {
        action: "FailJob".into(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: Some(names::CONTAINER.into()),
            operator: "In".into(),
            values: vec![code],
        }),
        on_pod_conditions: None,
    }
}
