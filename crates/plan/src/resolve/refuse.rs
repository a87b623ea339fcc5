//! What a resource may not ask for: each refusal names the field and what to do.

use jam_domain::{Settings, StoreKind};

use crate::crd::{JamInstance, JamInstanceSpec, PodTemplate};
use crate::observed::Observed;
use crate::reason::{Reason, Refusal};

/// What is said when store postgres has no database.
pub(super) const NO_DATABASE: &str =
    "store postgres needs exactly one of spec.database.dsnSecretRef and spec.database.cluster";

/// Longest name of an instance: its children's names are longer and still have to fit in a label.
const LONGEST_NAME: usize = 40;

/// Environment variables of the server that the spec has no field for: a user may set them.
pub(crate) const FREE_VARIABLES: [&str; 8] = [
    "JAM_CLAIM_TIMEOUT",
    "JAM_CLIENT_TIMEOUT",
    "JAM_LOG",
    "JAM_LOG_FORMAT",
    "JAM_MAX_BYTES_IN_FLIGHT",
    "JAM_SHUTDOWN_DELAY",
    "JAM_TRUSTED_PROXIES",
    "JAM_WORK_BATCH",
];

/// The beginning of annotations that choose an AppArmor profile for a container, from before there was a field.
pub(crate) const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Variables without the prefix `JAM_` that the server reads all the same.
pub(crate) const OTHER_VARIABLES: [&str; 3] = ["API_TOKENS", "DATABASE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Whether a variable of this name would contradict the spec. The environment wins over the server's file: a `JAM_ENABLED`
/// would undo the toggle, a `JAM_LISTEN` take the port from the probes.
pub fn is_own_variable(name: &str) -> bool {
    (name.starts_with("JAM_") && !FREE_VARIABLES.contains(&name)) || OTHER_VARIABLES.contains(&name)
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(Reason::InvalidSettings, message)
}

/// A name that a Service could not have.
fn unnameable(instance: &JamInstance) -> Result<(), Refusal> {
    let name = super::name_of(instance);
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    if plain && starts && !name.ends_with('-') && name.len() <= LONGEST_NAME {
        return Ok(());
    }
    Err(invalid(format!(
        "metadata.name {name:?} must have at most {LONGEST_NAME} characters of a-z, 0-9 and -, the first a letter, the last not a -"
    )))
}

/// What no settings could put right: a name that no child can have, a field that nothing implements.
pub(super) fn unnameable_or_unbuilt(instance: &JamInstance) -> Result<(), Refusal> {
    unnameable(instance)?;
    not_implemented(&instance.spec)
}

/// Fields that nothing implements yet. Every field of the spec stands here: a new one does not compile until it is decided.
fn not_implemented(spec: &JamInstanceSpec) -> Result<(), Refusal> {
    let JamInstanceSpec {
        runtime: _,
        profile: _,
        image: _,
        replicas: _,
        autoscaling: _,
        workers: _,
        database: _,
        blob_store: _,
        tokens: _,
        migrations: _,
        cleanup: _,
        service: _,
        ingress: _,
        http_route: _,
        network_policy: _,
        monitoring: _,
        pod_template: _,
        deletion_policy: _,
        paused: _,
    } = spec;
    // Nothing by now. What comes without what is behind it stands here, with its name in the spec.
    let later: [(bool, &str); 0] = [];
    match later.into_iter().find(|(asked, _)| *asked) {
        Some((_, field)) => Err(Refusal::not_implemented(field)),
        None => Ok(()),
    }
}

/// The settings of JAM with the profile's baseline, proven.
pub(super) fn wrong_settings(spec: &JamInstanceSpec) -> Result<Settings, Refusal> {
    spec.runtime.jam.clone().resolve(spec.profile).map_err(|mistakes| {
        let said: Vec<_> = mistakes.iter().map(|mistake| format!("runtime.jam.{mistake}")).collect();
        invalid(said.join("; "))
    })
}

/// What single fields allow and their combination does not. The CRD's rules say the same; a resource stored before them
/// still comes through here.
pub(super) fn contradictions(spec: &JamInstanceSpec, settings: &Settings) -> Result<(), Refusal> {
    let database = spec.database.as_ref();
    let sources = database
        .map_or(0, |database| usize::from(database.dsn_secret_ref.is_some()) + usize::from(database.cluster.is_some()));
    if settings.store == StoreKind::Postgres && sources != 1 {
        return Err(invalid(NO_DATABASE));
    }
    if settings.store == StoreKind::Memory {
        if spec.replicas > 1 || spec.autoscaling.is_some() {
            return Err(invalid(
                "store memory keeps state in one process: spec.replicas must be at most 1, without autoscaling",
            ));
        }
        if spec.blob_store.is_some() {
            return Err(invalid(
                "spec.blobStore needs runtime.jam.store postgres: store memory forgets with its process which objects are whose",
            ));
        }
        if spec.workers.replicas > 0 {
            return Err(invalid("store memory keeps state in one process: spec.workers.replicas must be 0"));
        }
    }
    if let Some(autoscaling) = &spec.autoscaling
        && autoscaling.max_replicas < autoscaling.min_replicas
    {
        return Err(invalid("spec.autoscaling.maxReplicas must not be less than minReplicas"));
    }
    if spec.ingress.as_ref().is_some_and(|ingress| ingress.enabled && ingress.host.is_none()) {
        return Err(invalid("spec.ingress.host is needed when the Ingress is enabled"));
    }
    if spec.http_route.as_ref().is_some_and(|route| route.enabled && route.parent_refs.is_empty()) {
        return Err(invalid("spec.httpRoute.parentRefs needs at least one Gateway when the HTTPRoute is enabled"));
    }
    if let Some(range) = spec.cleanup.as_ref().and_then(|cleanup| crate::schedule::backwards(&cleanup.schedule)) {
        return Err(invalid(format!("spec.cleanup.schedule: the range {range} runs backwards, write two")));
    }
    if spec.cleanup.as_ref().is_some_and(|cleanup| cleanup.time_zone.eq_ignore_ascii_case("local")) {
        return Err(invalid("spec.cleanup.timeZone: Local is no name of the IANA database; use one such as Etc/UTC"));
    }
    if spec.image.as_ref().is_some_and(|image| image.tag.is_some() && image.digest.is_some()) {
        return Err(invalid("spec.image: set tag or digest, not both: the digest alone decides what is pulled"));
    }
    contradicting_tokens(spec, settings)
}

fn contradicting_tokens(spec: &JamInstanceSpec, settings: &Settings) -> Result<(), Refusal> {
    let own = crate::tokens::own_tokens(spec).is_some();
    let rotates = spec.tokens.as_ref().is_some_and(|tokens| tokens.rotation.is_some());
    if rotates && crate::tokens::consumers(spec).is_empty() {
        return Err(invalid("spec.tokens.rotation replaces the tokens of consumers: name at least one"));
    }
    if own && !crate::tokens::consumers(spec).is_empty() {
        return Err(invalid(
            "spec.tokens: use either consumers or your own tokens (allowedTokensSecretRef, globalTokensSecretRef), not both",
        ));
    }
    if settings.auth_required && !own && crate::tokens::consumers(spec).is_empty() {
        return Err(invalid(
            "runtime.jam.authRequired is true and spec.tokens lets nobody in: name a consumer or a Secret with tokens, or leave spec.tokens out",
        ));
    }
    if crate::tokens::consumers(spec).iter().any(|consumer| consumer.name == crate::tokens::RESERVED_CONSUMER) {
        return Err(invalid("spec.tokens.consumers: the name hashes is taken by the Secret of token hashes"));
    }
    Ok(())
}

/// Overrides that would take away what the pods need.
pub(super) fn pod_overrides(spec: &JamInstanceSpec) -> Result<(), Refusal> {
    let Some(PodTemplate { labels, annotations, env, .. }) = &spec.pod_template else { return Ok(()) };
    let ours = |key: &&String| key.starts_with("jam.network/") || key.starts_with("app.kubernetes.io/");
    if let Some(label) = labels.keys().find(ours) {
        return Err(invalid(format!("spec.podTemplate.labels: {label} is the operator's own")));
    }
    if let Some(annotation) = annotations.keys().find(ours) {
        return Err(invalid(format!("spec.podTemplate.annotations: {annotation} is the operator's own")));
    }
    if let Some((annotation, _)) =
        annotations.iter().find(|(key, value)| key.starts_with(APPARMOR) && *value == "unconfined")
    {
        return Err(invalid(format!(
            "spec.podTemplate.annotations: {annotation} would take AppArmor's profile off; remove it"
        )));
    }
    let of_blobs = spec.blob_store.as_ref().map(super::blobs::own_variables).unwrap_or_default();
    let is_own = |name: &str| is_own_variable(name) || of_blobs.contains(&name);
    if let Some(variable) = env.iter().find(|variable| is_own(&variable.name)) {
        return Err(invalid(format!("spec.podTemplate.env: {} is set from the spec's own fields", variable.name)));
    }
    Ok(())
}

/// A wanted name that somebody else has.
pub(super) fn foreign(observed: &Observed) -> Result<(), Refusal> {
    match observed.foreign.first() {
        None => Ok(()),
        Some(foreign) => Err(Refusal::new(
            Reason::NameTaken,
            format!("{} exists and belongs to {}; it is not touched", foreign.object, foreign.owner),
        )),
    }
}
