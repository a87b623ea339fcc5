//! The `runtime.jam` block: one type for the CRD, the YAML file and the environment, and the settings that follow from it.

mod bounds;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::digest::HashAlgorithm;
use crate::names::{ServiceId, is_media_token, is_media_type};

pub(crate) use bounds::MOST_THRESHOLD;
use bounds::{MOST_BYTES, MOST_DAYS, MOST_ENTRIES, MOST_PENDING, MOST_RATE, MOST_SERVICE_RATE, MOST_SERVICES};

/// Where the API keeps its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// In the process: fast, gone at a restart.
    Memory,
    /// PostgreSQL: durable, shared by every replica.
    Postgres,
}

/// A named baseline of the settings that are left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// For a laptop: memory store, tokens required.
    #[default]
    Local,
    /// For shared test environments: JAM on, PostgreSQL.
    Staging,
    /// For production: JAM on, PostgreSQL; refuses auth off, the memory store and `http:` origins.
    Production,
}

/// Limits of one service; what is left out is the instance's own value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceLimits {
    /// The service, 1 to 128 characters of `[A-Za-z0-9._:-]`.
    pub id: ServiceId,
    /// Packages a minute that the service may submit; 0 = no limit.
    #[serde(default, alias = "max_packages_per_minute", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MOST_SERVICE_RATE))]
    pub max_packages_per_minute: Option<u32>,
    /// Packages of the service that may be pending at once; 0 = no cap.
    #[serde(default, alias = "max_pending_packages", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MOST_PENDING))]
    pub max_pending_packages: Option<u32>,
    /// Largest preimage in bytes that tokens bound to the service may upload; 0 = no cap.
    #[serde(default, alias = "max_preimage_bytes", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MOST_BYTES))]
    pub max_preimage_bytes: Option<u64>,
    /// Days that finished packages of the service are kept; 0 = for ever.
    #[serde(default, alias = "retention_days", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MOST_DAYS))]
    pub retention_days: Option<u32>,
}

/// The `runtime.jam` block as a user writes it: every key may be left out.
///
/// camelCase in the CRD; the server's YAML file and environment use the same keys in `snake_case` (an alias each).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JamSettings {
    /// Serve `/jam/*`. When false, every `/jam/*` path answers 404 as if never mounted. Default: false (local), true (staging, production).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Where state is kept. Default: memory (local), postgres (staging, production).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreKind>,
    /// Require a bearer token on `/jam/*` and `/system/status`. Default: true.
    #[serde(default, alias = "auth_required", skip_serializing_if = "Option::is_none")]
    pub auth_required: Option<bool>,
    /// Requests a minute for one token; 0 = off. Default: 60.
    #[serde(default, alias = "rate_limit_per_minute", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MOST_RATE))]
    pub rate_limit_per_minute: Option<u32>,
    /// Largest preimage in bytes; 0 = no cap. Default: 10485760.
    #[serde(default, alias = "max_preimage_bytes", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MOST_BYTES))]
    pub max_preimage_bytes: Option<u64>,
    /// Packages that may be pending at once; 0 = no cap. Default: 100.
    #[serde(default, alias = "max_pending_packages", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MOST_PENDING))]
    pub max_pending_packages: Option<u32>,
    /// Media types of preimages that are accepted; an entry may end in `/*`; empty = any. Default: [].
    #[serde(default, alias = "allowed_media_types", skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = MOST_ENTRIES),
        inner(length(min = 3, max = 255), regex(pattern = r"^[A-Za-z0-9!#$&^_.+-]+/([A-Za-z0-9!#$&^_.+-]+|\*)$"))
    )]
    pub allowed_media_types: Option<Vec<String>>,
    /// Days that finished packages are kept before they are archived; 0 = for ever. Default: 30.
    #[serde(default, alias = "retention_days", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MOST_DAYS))]
    pub retention_days: Option<u32>,
    /// Days between archiving and deletion; 0 = delete at once. Default: 7.
    #[serde(default, alias = "archive_days", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MOST_DAYS))]
    pub archive_days: Option<u32>,
    /// Limits of single services that differ from the instance's own. Default: [].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MOST_SERVICES), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"]))]
    pub services: Option<Vec<ServiceLimits>>,
    /// Lists answer a bare array instead of an envelope (for old clients). Default: false.
    #[serde(default, alias = "legacy_list_response", skip_serializing_if = "Option::is_none")]
    pub legacy_list_response: Option<bool>,
    /// Keep receipts and roots. Default: true.
    #[serde(default, alias = "accumulators_enabled", skip_serializing_if = "Option::is_none")]
    pub accumulators_enabled: Option<bool>,
    /// Hash of receipts and roots. Default: blake3-256.
    #[serde(default, alias = "accumulator_hash", skip_serializing_if = "Option::is_none")]
    pub accumulator_hash: Option<HashAlgorithm>,
    /// Sum of attestation weights needed before a report is accumulated. Default: 1.
    #[serde(default, alias = "attestation_threshold", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MOST_THRESHOLD))]
    pub attestation_threshold: Option<u32>,
    /// CORS: exact origins (scheme, host and port) that browsers may call from. Default: [].
    #[serde(default, alias = "allowed_origins", skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = MOST_ENTRIES),
        inner(length(min = 8, max = 261), regex(pattern = r"^https?://[A-Za-z0-9.\[\]:-]+$"))
    )]
    pub allowed_origins: Option<Vec<String>>,
    /// Serve `/jam/healthz` without a token. Default: true.
    #[serde(default, alias = "health_public", skip_serializing_if = "Option::is_none")]
    pub health_public: Option<bool>,
}

/// The settings in force: every key has a value, proven against the profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// Serve `/jam/*`.
    pub enabled: bool,
    /// Where state is kept.
    pub store: StoreKind,
    /// Require a bearer token.
    pub auth_required: bool,
    /// Requests a minute for one token; 0 = off.
    pub rate_limit_per_minute: u32,
    /// Largest preimage in bytes; 0 = no cap.
    pub max_preimage_bytes: u64,
    /// Packages pending at once; 0 = no cap.
    pub max_pending_packages: u32,
    /// Accepted media types; empty = any.
    pub allowed_media_types: Vec<String>,
    /// Days before finished packages are archived; 0 = never.
    pub retention_days: u32,
    /// Days between archiving and deletion.
    pub archive_days: u32,
    /// Limits of single services.
    pub services: BTreeMap<ServiceId, ServiceLimits>,
    /// Lists answer a bare array.
    pub legacy_list_response: bool,
    /// Keep receipts and roots.
    pub accumulators_enabled: bool,
    /// Hash of receipts and roots.
    pub accumulator_hash: HashAlgorithm,
    /// Sum of weights needed before accumulate.
    pub attestation_threshold: u32,
    /// CORS origins.
    pub allowed_origins: Vec<String>,
    /// `/jam/healthz` without a token.
    pub health_public: bool,
    /// The baseline these were resolved with.
    pub profile: Profile,
}

/// One mistake in the settings: the key, and what is wrong with it in a clause that follows the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} {problem}")]
pub struct SettingsMistake {
    /// The key in `snake_case`, as in the server's file.
    pub key: &'static str,
    /// What is wrong and what to do.
    pub problem: String,
}

impl Profile {
    /// The baseline: what a key that is left out means under this profile.
    pub fn baseline(self) -> Settings {
        let (enabled, store) = match self {
            Profile::Local => (false, StoreKind::Memory),
            Profile::Staging | Profile::Production => (true, StoreKind::Postgres),
        };
        Settings {
            enabled,
            store,
            auth_required: true,
            rate_limit_per_minute: 60,
            max_preimage_bytes: 10_485_760,
            max_pending_packages: 100,
            allowed_media_types: Vec::new(),
            retention_days: 30,
            archive_days: 7,
            services: BTreeMap::new(),
            legacy_list_response: false,
            accumulators_enabled: true,
            accumulator_hash: HashAlgorithm::Blake3,
            attestation_threshold: 1,
            allowed_origins: Vec::new(),
            health_public: true,
            profile: self,
        }
    }
}

impl JamSettings {
    /// Keys set in `above` win over keys set here.
    #[must_use]
    pub fn overlaid(self, above: JamSettings) -> JamSettings {
        let JamSettings {
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
        } = above;
        JamSettings {
            enabled: enabled.or(self.enabled),
            store: store.or(self.store),
            auth_required: auth_required.or(self.auth_required),
            rate_limit_per_minute: rate_limit_per_minute.or(self.rate_limit_per_minute),
            max_preimage_bytes: max_preimage_bytes.or(self.max_preimage_bytes),
            max_pending_packages: max_pending_packages.or(self.max_pending_packages),
            allowed_media_types: allowed_media_types.or(self.allowed_media_types),
            retention_days: retention_days.or(self.retention_days),
            archive_days: archive_days.or(self.archive_days),
            services: services.or(self.services),
            legacy_list_response: legacy_list_response.or(self.legacy_list_response),
            accumulators_enabled: accumulators_enabled.or(self.accumulators_enabled),
            accumulator_hash: accumulator_hash.or(self.accumulator_hash),
            attestation_threshold: attestation_threshold.or(self.attestation_threshold),
            allowed_origins: allowed_origins.or(self.allowed_origins),
            health_public: health_public.or(self.health_public),
        }
    }

    /// Fills what is left out from the profile's baseline and proves the result: every mistake at once, not the first.
    pub fn resolve(self, profile: Profile) -> Result<Settings, Vec<SettingsMistake>> {
        let (settings, mistakes) = self.resolve_all(profile);
        if mistakes.is_empty() { Ok(settings) } else { Err(mistakes) }
    }

    /// The same, with the settings beside their mistakes: for who has more to compare them with before it names all mistakes.
    pub fn resolve_all(self, profile: Profile) -> (Settings, Vec<SettingsMistake>) {
        let base = profile.baseline();
        let mut mistakes = Vec::new();
        let mut services = BTreeMap::new();
        for limits in self.services.unwrap_or_default() {
            if let Some(twice) = services.insert(limits.id.clone(), limits) {
                mistakes.push(SettingsMistake { key: "services", problem: format!("names {} twice", twice.id) });
            }
        }
        let settings = Settings {
            enabled: self.enabled.unwrap_or(base.enabled),
            store: self.store.unwrap_or(base.store),
            auth_required: self.auth_required.unwrap_or(base.auth_required),
            rate_limit_per_minute: self.rate_limit_per_minute.unwrap_or(base.rate_limit_per_minute),
            max_preimage_bytes: self.max_preimage_bytes.unwrap_or(base.max_preimage_bytes),
            max_pending_packages: self.max_pending_packages.unwrap_or(base.max_pending_packages),
            allowed_media_types: self.allowed_media_types.unwrap_or(base.allowed_media_types),
            retention_days: self.retention_days.unwrap_or(base.retention_days),
            archive_days: self.archive_days.unwrap_or(base.archive_days),
            services,
            legacy_list_response: self.legacy_list_response.unwrap_or(base.legacy_list_response),
            accumulators_enabled: self.accumulators_enabled.unwrap_or(base.accumulators_enabled),
            accumulator_hash: self.accumulator_hash.unwrap_or(base.accumulator_hash),
            attestation_threshold: self.attestation_threshold.unwrap_or(base.attestation_threshold),
            allowed_origins: self.allowed_origins.unwrap_or(base.allowed_origins),
            health_public: self.health_public.unwrap_or(base.health_public),
            profile,
        };
        settings.prove(&mut mistakes);
        (settings, mistakes)
    }
}

impl Settings {
    fn prove(&self, mistakes: &mut Vec<SettingsMistake>) {
        let mut wrong = |key, problem: String| mistakes.push(SettingsMistake { key, problem });
        for (key, value, most) in self.bounded() {
            if value > most {
                wrong(key, format!("must be at most {most}"));
            }
        }
        for limits in self.services.values() {
            for (name, value, most) in limits.bounded() {
                if value.is_some_and(|value| value > most) {
                    wrong("services", format!("has {}: {name} must be at most {most}", limits.id));
                }
            }
        }
        if self.attestation_threshold == 0 {
            wrong("attestation_threshold", "must be at least 1".into());
        }
        for media_type in &self.allowed_media_types {
            if !is_media_range(media_type) {
                wrong("allowed_media_types", format!("has {media_type:?}, which is not type/subtype or type/*"));
            }
        }
        for origin in &self.allowed_origins {
            if !is_origin(origin) {
                wrong(
                    "allowed_origins",
                    format!("has {origin:?}, which is not scheme://host[:port] with nothing after it"),
                );
            }
        }
        if self.profile == Profile::Production {
            if !self.auth_required {
                wrong("auth_required", "must be true under profile production".into());
            }
            if self.store == StoreKind::Memory {
                wrong("store", "must be postgres under profile production".into());
            }
            for origin in self.allowed_origins.iter().filter(|o| o.starts_with("http:")) {
                wrong("allowed_origins", format!("has {origin:?}; profile production takes https origins only"));
            }
        }
    }

    /// Whether a preimage of this media type may be stored. Parameters (`; charset=…`) and case do not matter.
    pub fn accepts_media_type(&self, media_type: &str) -> bool {
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        self.allowed_media_types.is_empty()
            || self.allowed_media_types.iter().any(|allowed| match allowed.strip_suffix("/*") {
                Some(group) => essence.split_once('/').is_some_and(|(kind, _)| kind.eq_ignore_ascii_case(group)),
                None => essence.eq_ignore_ascii_case(allowed),
            })
    }
}

fn is_media_range(text: &str) -> bool {
    is_media_type(text) || text.strip_suffix("/*").is_some_and(is_media_token)
}

fn is_origin(text: &str) -> bool {
    let Some(host) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else { return false };
    !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_left_out_has_the_value_of_the_profile() {
        let local = JamSettings::default().resolve(Profile::Local).unwrap();
        assert_eq!((local.enabled, local.store), (false, StoreKind::Memory));
        let production = JamSettings::default().resolve(Profile::Production).unwrap();
        assert_eq!((production.enabled, production.store), (true, StoreKind::Postgres));
    }

    #[test]
    fn production_names_every_mistake_at_once() {
        let block = JamSettings {
            auth_required: Some(false),
            store: Some(StoreKind::Memory),
            allowed_origins: Some(vec!["http://a.example".into()]),
            ..JamSettings::default()
        };
        let keys: Vec<_> = block.resolve(Profile::Production).unwrap_err().iter().map(|m| m.key).collect();
        assert_eq!(keys, ["auth_required", "store", "allowed_origins"]);
    }

    #[test]
    fn both_spellings_of_a_key_are_read_and_an_unknown_one_is_refused() {
        let camel: JamSettings = serde_json::from_str(r#"{"maxPreimageBytes": 5}"#).unwrap();
        let snake: JamSettings = serde_json::from_str(r#"{"max_preimage_bytes": 5}"#).unwrap();
        assert_eq!(camel, snake);
        assert!(serde_json::from_str::<JamSettings>(r#"{"maxPreimageByte": 5}"#).is_err());
    }

    #[test]
    fn a_media_range_accepts_its_whole_group() {
        let mut settings = Profile::Local.baseline();
        settings.allowed_media_types = vec!["text/*".into(), "application/json".into()];
        assert!(settings.accepts_media_type("Text/Plain; charset=utf-8"));
        assert!(settings.accepts_media_type("application/json"));
        assert!(!settings.accepts_media_type("application/octet-stream"));
    }
}
