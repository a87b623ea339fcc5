//! The server's settings file in a ConfigMap that is named by its content: pods of the old revision keep the old one.

use std::collections::BTreeMap;

use jam_domain::settings::ServiceLimits;
use jam_domain::{HashAlgorithm, Profile, ServiceId, Settings, StoreKind};
use k8s_openapi::api::core::v1::ConfigMap;
use serde::Serialize;

use super::{Desired, Kind, Write, identity, pod};
use crate::names::{self, Component};
use crate::resolve::Resolved;

/// The file's name in the ConfigMap.
pub(super) const FILE: &str = "config.yaml";

#[derive(Serialize)]
struct ServerFile {
    runtime: Runtime,
}

#[derive(Serialize)]
struct Runtime {
    jam: Block,
}

/// The `runtime.jam` block as the server's file has it: in `snake_case`, every key written, so that a server of another
/// release does not fall back to other defaults. Its order is fixed here, and with it the name of the ConfigMap.
#[derive(Serialize)]
struct Block {
    profile: Profile,
    enabled: bool,
    store: StoreKind,
    auth_required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_tokens_file: Option<String>,
    rate_limit_per_minute: u32,
    max_preimage_bytes: u64,
    max_pending_packages: u32,
    allowed_media_types: Vec<String>,
    retention_days: u32,
    archive_days: u32,
    services: Vec<Service>,
    legacy_list_response: bool,
    accumulators_enabled: bool,
    accumulator_hash: HashAlgorithm,
    attestation_threshold: u32,
    allowed_origins: Vec<String>,
    health_public: bool,
    listen: String,
    metrics_listen: String,
}

#[derive(Serialize)]
struct Service {
    id: ServiceId,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_packages_per_minute: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_pending_packages: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_preimage_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention_days: Option<u32>,
}

/// The text of the server's file.
pub(super) fn file(resolved: &Resolved) -> String {
    let has_tokens = !resolved.consumers.is_empty() || !resolved.own_tokens.is_empty();
    let mut jam = block(resolved.settings.clone(), has_tokens);
    jam.admin_tokens_file = (!resolved.admin_tokens.is_empty()).then(|| pod::ADMIN_TOKENS_FILE.to_owned());
    serde_saphyr::to_string(&ServerFile { runtime: Runtime { jam } }).expect("settings are YAML")
}

fn block(settings: Settings, has_tokens: bool) -> Block {
    let Settings {
        enabled,
        store,
        auth_required,
        rate_limit_per_minute,
        max_preimage_bytes,
        max_pending_packages,
        allowed_media_types,
        retention_days,
        archive_days,
        services,
        legacy_list_response,
        accumulators_enabled,
        accumulator_hash,
        attestation_threshold,
        allowed_origins,
        health_public,
        profile,
    } = settings;
    Block {
        profile,
        enabled,
        store,
        auth_required,
        tokens_file: has_tokens.then(|| pod::TOKENS_FILE.to_owned()),
        admin_tokens_file: None,
        rate_limit_per_minute,
        max_preimage_bytes,
        max_pending_packages,
        allowed_media_types,
        retention_days,
        archive_days,
        services: services.into_values().map(service).collect(),
        legacy_list_response,
        accumulators_enabled,
        accumulator_hash,
        attestation_threshold,
        allowed_origins,
        health_public,
        listen: format!("0.0.0.0:{}", pod::HTTP_PORT),
        metrics_listen: format!("0.0.0.0:{}", pod::METRICS_PORT),
    }
}

fn service(limits: ServiceLimits) -> Service {
    let ServiceLimits { id, max_packages_per_minute, max_pending_packages, max_preimage_bytes, retention_days } =
        limits;
    Service { id, max_packages_per_minute, max_pending_packages, max_preimage_bytes, retention_days }
}

/// The words for the toggle in a server's file, of which it has just one line.
const TOGGLE: [(bool, &str); 2] = [(true, "enabled: true"), (false, "enabled: false")];

/// What a server's file says of `enabled`.
pub(super) fn enabled(file: &str) -> Option<bool> {
    file.lines().find_map(|line| TOGGLE.iter().find(|(_, words)| line.trim() == *words)).map(|(enabled, _)| *enabled)
}

/// The same file with this toggle: every other byte of it stays.
pub(super) fn with_enabled(file: &str, enabled: bool) -> String {
    let turned = |line: &str| {
        let (now, other) = (TOGGLE.iter().find(|(on, _)| *on == enabled), TOGGLE.iter().find(|(on, _)| *on != enabled));
        match (now, other) {
            (Some((_, now)), Some((_, other))) if line.trim() == *other => line.replace(other, now),
            (Some(_) | None, _) => line.to_owned(),
        }
    };
    file.split_inclusive('\n').map(turned).collect()
}

/// The name of the ConfigMap with this file.
pub(super) fn name(instance: &str, file: &str) -> String {
    names::config(instance, &names::short_hash([file.as_bytes()]))
}

/// The ConfigMap of the revision in force: immutable, because what it is named by never changes.
pub(super) fn config_map(resolved: &Resolved) -> Desired {
    let file = resolved.revision.config();
    let name = name(&resolved.name, file);
    let map = ConfigMap {
        metadata: identity::metadata(resolved, &name, Component::Api),
        immutable: Some(true),
        data: Some(BTreeMap::from([(FILE.to_owned(), file.to_owned())])),
        ..ConfigMap::default()
    };
    Desired::new(resolved, Kind::ConfigMap, name, Write::Apply, &map)
}
