//! The table of settings: every key with its flag, its environment variable and the form of its value.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use super::Source;

/// The form of a value given as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// true or false.
    Flag,
    /// A whole number.
    Number,
    /// Text.
    Text,
    /// Texts, separated by `,` or `;`.
    List,
    /// The path of a YAML file that holds the value.
    File,
}

/// The type that a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The `runtime.jam` block, also in a JamInstance.
    Block,
    /// The wiring of one process.
    Wiring,
    /// The profile itself.
    Profile,
}

/// One setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name in the server's file.
    pub name: &'static str,
    /// Its flag.
    pub flag: &'static str,
    /// Its environment variable.
    pub env: &'static str,
    /// The form of its value.
    pub form: Form,
    /// Where it belongs.
    pub part: Part,
    /// Whether its value must never be shown.
    pub secret: bool,
    /// For `--help`.
    pub help: &'static str,
}

const fn key(
    name: &'static str,
    flag: &'static str,
    env: &'static str,
    form: Form,
    part: Part,
    help: &'static str,
) -> Key {
    Key { name, flag, env, form, part, secret: false, help }
}

const fn secret(name: &'static str, flag: &'static str, env: &'static str, form: Form, help: &'static str) -> Key {
    Key { name, flag, env, form, part: Part::Wiring, secret: true, help }
}

use Form::{File, Flag, List, Number, Text};
use Part::{Block, Wiring};

/// Every setting, in the order of `check-config`. A later row of the same name gives way to an earlier one.
#[rustfmt::skip]
pub static KEYS: [Key; 33] = [
    key("profile", "profile", "JAM_PROFILE", Text, Part::Profile, "Baseline of what is left out: local, staging or production"),
    key("enabled", "enabled", "JAM_ENABLED", Flag, Block, "Serve /jam/*"),
    key("store", "store", "JAM_STORE", Text, Block, "memory or postgres"),
    secret("pg_dsn", "pg-dsn", "JAM_PG_DSN", Text, "PostgreSQL DSN"),
    secret("pg_dsn", "database-url", "DATABASE_URL", Text, "PostgreSQL DSN, when --pg-dsn is not given"),
    key("auth_required", "auth-required", "JAM_AUTH_REQUIRED", Flag, Block, "Require a bearer token on /jam/* and /system/status"),
    secret("allowed_tokens", "allowed-tokens", "JAM_ALLOWED_TOKENS", List, "Tokens that are accepted"),
    secret("api_tokens", "api-tokens", "API_TOKENS", List, "Global tokens, accepted when the allowlist is empty"),
    key("tokens_file", "tokens-file", "JAM_TOKENS_FILE", Text, Wiring, "File of token hashes, watched"),
    key("admin_tokens_file", "admin-tokens-file", "JAM_ADMIN_TOKENS_FILE", Text, Wiring, "File of admin token hashes"),
    key("rate_limit_per_minute", "rate-limit-per-minute", "JAM_RATE_LIMIT_PER_MINUTE", Number, Block, "Requests a minute for one token; 0 = off"),
    key("max_preimage_bytes", "max-preimage-bytes", "JAM_MAX_PREIMAGE_BYTES", Number, Block, "Largest preimage; 0 = no cap"),
    key("max_pending_packages", "max-pending-packages", "JAM_MAX_PENDING_PACKAGES", Number, Block, "Packages pending at once; 0 = no cap"),
    key("allowed_media_types", "allowed-media-types", "JAM_ALLOWED_MEDIA_TYPES", List, Block, "Accepted media types of preimages; empty = any"),
    key("retention_days", "retention-days", "JAM_RETENTION_DAYS", Number, Block, "Days before finished packages are archived; 0 = never"),
    key("archive_days", "archive-days", "JAM_ARCHIVE_DAYS", Number, Block, "Days between archiving and deletion"),
    key("services", "services-file", "JAM_SERVICES_FILE", File, Block, "YAML file of the limits of single services"),
    key("legacy_list_response", "legacy-list-response", "JAM_LEGACY_LIST_RESPONSE", Flag, Block, "Lists answer a bare array"),
    key("accumulators_enabled", "accumulators-enabled", "JAM_ACCUMULATORS_ENABLED", Flag, Block, "Keep receipts and roots"),
    key("accumulator_hash", "accumulator-hash", "JAM_ACCUMULATOR_HASH", Text, Block, "blake3-256 or sha256"),
    key("attestation_threshold", "attestation-threshold", "JAM_ATTESTATION_THRESHOLD", Number, Block, "Sum of weights needed before accumulate"),
    key("allowed_origins", "allowed-origins", "JAM_ALLOWED_ORIGINS", List, Block, "CORS origins"),
    key("health_public", "health-public", "JAM_HEALTH_PUBLIC", Flag, Block, "/jam/healthz without a token"),
    key("otlp_endpoint", "otlp-endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT", Text, Wiring, "Where spans are exported to"),
    key("blob_store", "blob-store", "JAM_BLOB_STORE", Text, Wiring, "Where the bytes of preimages are, when not in the store"),
    key("listen", "listen", "JAM_LISTEN", Text, Wiring, "Address of the API; port 0 prints the port it got"),
    key("metrics_listen", "metrics-listen", "JAM_METRICS_LISTEN", Text, Wiring, "Address of /metrics; empty = off"),
    key("trusted_proxies", "trusted-proxies", "JAM_TRUSTED_PROXIES", List, Wiring, "Address blocks whose X-Forwarded-For is believed"),
    key("pg_max_connections", "pg-max-connections", "JAM_PG_MAX_CONNECTIONS", Number, Wiring, "Connections to PostgreSQL at most"),
    key("claim_timeout_seconds", "claim-timeout", "JAM_CLAIM_TIMEOUT", Number, Wiring, "Seconds without a sign of life after which PostgreSQL takes a processor's packages back"),
    key("max_bytes_in_flight", "max-bytes-in-flight", "JAM_MAX_BYTES_IN_FLIGHT", Number, Wiring, "Bytes of uploads and downloads held at once"),
    key("client_timeout_seconds", "client-timeout", "JAM_CLIENT_TIMEOUT", Number, Wiring, "Seconds for a request's head, for 64 KiB of its body, between two requests, and to go on reading an answer"),
    key("shutdown_delay_seconds", "shutdown-delay", "JAM_SHUTDOWN_DELAY", Number, Wiring, "Seconds between SIGTERM (/readyz answers 503) and the end of accepting; 3600 at most"),
];

/// The key of this name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// One value that was given by a flag or the environment.
#[derive(Clone)]
pub struct Given {
    /// The key.
    pub key: &'static Key,
    /// The value as it was written.
    pub text: String,
    /// Who gave it.
    pub source: Source,
}

/// The settings of a program on its command line and in its environment: one flag and one variable for every key.
#[derive(Clone)]
pub struct SettingsArgs {
    /// The YAML file, or JamInstance manifest.
    pub config: Option<PathBuf>,
    /// What was given.
    pub given: Vec<Given>,
}

impl clap::FromArgMatches for SettingsArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = KEYS.iter().filter_map(|key| {
            let text = matches.get_one::<String>(key.flag)?.clone();
            let from_flag = matches.value_source(key.flag) == Some(ValueSource::CommandLine);
            // An empty variable is one that somebody left blank, except where empty has a meaning of its own.
            let blank = text.trim().is_empty() && key.name != "metrics_listen" && !from_flag;
            let source = if from_flag { Source::Flag(key.flag) } else { Source::Environment(key.env) };
            (!blank).then_some(Given { key, text, source })
        });
        Ok(Self { config: matches.get_one::<PathBuf>("config").cloned(), given: given.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for SettingsArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .env("JAM_CONFIG")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("YAML file of settings, or a JamInstance manifest");
        command.arg(config).next_help_heading("Settings").args(KEYS.iter().map(|key| {
            let value_name = match key.form {
                Form::Flag => "true|false",
                Form::Number => "N",
                Form::Text => "TEXT",
                Form::List => "A,B",
                Form::File => "FILE",
            };
            let arg = Arg::new(key.flag).long(key.flag).env(key.env).value_name(value_name).help(key.help);
            arg.hide_env_values(key.secret).allow_hyphen_values(key.form == Form::Number)
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
