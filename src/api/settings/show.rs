//! What `check-config` prints: every setting in force, who gave it, and no secret.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::Value;

use super::keys::{KEYS, Part};
use super::wiring::{Secret, Wiring};
use super::{Loaded, Source};

/// One line a setting: `key = value  # source`.
pub fn show(loaded: &Loaded) -> String {
    let block = serde_json::to_value(&loaded.settings).expect("settings have string keys");
    let mut seen = BTreeSet::new();
    let mut out = String::new();
    for key in KEYS.iter().filter(|key| seen.insert(key.name)) {
        let value = match key.part {
            Part::Block | Part::Profile => block.get(key.name).map_or_else(|| "–".to_owned(), Value::to_string),
            Part::Wiring => wired(&loaded.wiring, key.name),
        };
        let unset = match key.part {
            Part::Block => Source::Profile(loaded.settings.profile),
            Part::Profile | Part::Wiring => Source::Default,
        };
        let source = loaded.sources.get(key.name).copied().unwrap_or(unset);
        writeln!(out, "{} = {value}  # {source}", key.name).expect("writing to a String does not fail");
    }
    out
}

fn wired(wiring: &Wiring, name: &str) -> String {
    let Wiring {
        pg_dsn,
        allowed_tokens,
        api_tokens,
        tokens_file,
        admin_tokens_file,
        otlp_endpoint,
        listen,
        metrics_listen,
        trusted_proxies,
        pg_max_connections,
        claim_timeout_seconds,
        max_bytes_in_flight,
        client_timeout_seconds,
        shutdown_delay_seconds,
    } = wiring;
    let unset = || "–".to_owned();
    let path = |path: Option<&PathBuf>| path.map_or_else(unset, |path| format!("{:?}", path.display().to_string()));
    match name {
        "pg_dsn" => pg_dsn.as_ref().map_or_else(unset, |_| "<redacted>".into()),
        "allowed_tokens" => counted(allowed_tokens),
        "api_tokens" => counted(api_tokens),
        "tokens_file" => path(tokens_file.as_ref()),
        "admin_tokens_file" => path(admin_tokens_file.as_ref()),
        "otlp_endpoint" => otlp_endpoint.as_ref().map_or_else(unset, |endpoint| format!("{endpoint:?}")),
        "listen" => format!("{listen:?}"),
        "metrics_listen" => metrics_listen.as_ref().map_or_else(|| "off".into(), |address| format!("{address:?}")),
        "trusted_proxies" => {
            format!("[{}]", trusted_proxies.iter().map(|b| format!("\"{b}\"")).collect::<Vec<_>>().join(","))
        }
        "pg_max_connections" => pg_max_connections.to_string(),
        "claim_timeout_seconds" => claim_timeout_seconds.to_string(),
        "max_bytes_in_flight" => max_bytes_in_flight.to_string(),
        "client_timeout_seconds" => client_timeout_seconds.to_string(),
        "shutdown_delay_seconds" => shutdown_delay_seconds.to_string(),
        // The key that this build refuses (blob_store) is never set here.
        _ => unset(),
    }
}

fn counted(secrets: &[Secret]) -> String {
    if secrets.is_empty() { "[]".into() } else { format!("<{} redacted>", secrets.len()) }
}
