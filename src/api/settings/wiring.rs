//! The wiring of one process: secrets, sockets, paths; what no JamInstance carries.

use std::fmt;
use std::path::PathBuf;

use jam_domain::client::AddressBlock;
use jam_domain::{Settings, StoreKind};
use jam_store::{Objects, PostgresConfig};
use serde::Deserialize;
use serde_json::Value;

use super::{Mistake, Purpose, lacks_dsn};

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text, for the one who needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// The wiring as it is written: every key may be left out.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Values {
    pg_dsn: Option<Secret>,
    allowed_tokens: Vec<Secret>,
    api_tokens: Vec<Secret>,
    tokens_file: Option<PathBuf>,
    admin_tokens_file: Option<PathBuf>,
    otlp_endpoint: Option<String>,
    blob_store: Option<String>,
    listen: Option<String>,
    metrics_listen: Option<String>,
    trusted_proxies: Vec<String>,
    pg_max_connections: Option<u32>,
    claim_timeout_seconds: Option<u32>,
    max_bytes_in_flight: Option<u64>,
    client_timeout_seconds: Option<u32>,
    shutdown_delay_seconds: Option<u32>,
}

/// The wiring in force.
#[derive(Debug)]
pub struct Wiring {
    /// PostgreSQL DSN.
    pub pg_dsn: Option<Secret>,
    /// Tokens that are accepted.
    pub allowed_tokens: Vec<Secret>,
    /// Global tokens, accepted when the allowlist is empty.
    pub api_tokens: Vec<Secret>,
    /// File of token hashes.
    pub tokens_file: Option<PathBuf>,
    /// File of token hashes of administrators; without it there is no admin plane.
    pub admin_tokens_file: Option<PathBuf>,
    /// Where the bytes of preimages go, when not into the store.
    pub blob_store: Option<Objects>,
    /// Where spans are exported to, without the path of the signal.
    pub otlp_endpoint: Option<String>,
    /// Address of the API.
    pub listen: String,
    /// Address of `/metrics`.
    pub metrics_listen: Option<String>,
    /// Proxies whose forwarding headers are believed.
    pub trusted_proxies: Vec<AddressBlock>,
    /// Connections to PostgreSQL at most.
    pub pg_max_connections: u32,
    /// Seconds without a sign of life after which PostgreSQL takes a processor's packages back.
    pub claim_timeout_seconds: u32,
    /// Bytes of uploads and downloads held at once.
    pub max_bytes_in_flight: u64,
    /// Seconds that a client may take for a request's head, for 64 KiB of its body, between two requests, and before it goes on
    /// reading an answer.
    pub client_timeout_seconds: u32,
    /// Seconds between the stop signal and the end of accepting.
    pub shutdown_delay_seconds: u32,
}

impl Wiring {
    pub(super) fn prove(values: Value, mistakes: &mut Vec<Mistake>) -> Self {
        let Values {
            pg_dsn,
            allowed_tokens,
            api_tokens,
            tokens_file,
            admin_tokens_file,
            otlp_endpoint,
            blob_store,
            listen,
            metrics_listen,
            trusted_proxies,
            pg_max_connections,
            claim_timeout_seconds,
            max_bytes_in_flight,
            client_timeout_seconds,
            shutdown_delay_seconds,
        } = serde_json::from_value(values).expect("every value was checked by itself");
        let mut wrong = |key: &str, problem: String| mistakes.push(Mistake::of(key, problem, None));
        if let Some(problem) = otlp_endpoint.as_deref().and_then(no_endpoint) {
            wrong("otlp_endpoint", problem.into());
        }
        let blob_store = blob_store
            .and_then(|url| Objects::open(&url, aws_variables()).map_err(|problem| wrong("blob_store", problem)).ok());
        for (key, tokens) in [("allowed_tokens", &allowed_tokens), ("api_tokens", &api_tokens)] {
            if tokens.iter().any(|token| !is_sendable(token.reveal())) {
                wrong(key, "has a token that no header can carry: use visible ASCII characters without spaces".into());
            }
        }
        let numbers = [pg_max_connections, claim_timeout_seconds, client_timeout_seconds, shutdown_delay_seconds];
        out_of_bounds(numbers).for_each(|(key, problem)| wrong(key, problem));
        let blocks = trusted_proxies
            .iter()
            .filter_map(|text| text.parse().map_err(|problem| wrong("trusted_proxies", format!("has {problem}"))).ok());
        let trusted_proxies = blocks.collect();
        let mut address =
            |key: &str, text: String| address_of(&text).map_err(|problem| wrong(key, problem)).unwrap_or(text);
        let listen = address("listen", listen.unwrap_or_else(|| "0.0.0.0:8080".into()));
        let metrics_listen = metrics_listen.unwrap_or_else(|| "0.0.0.0:9090".into());
        let metrics_listen = (!metrics_listen.is_empty()).then(|| address("metrics_listen", metrics_listen));
        Self {
            pg_dsn,
            allowed_tokens,
            api_tokens,
            tokens_file,
            admin_tokens_file,
            blob_store,
            otlp_endpoint,
            listen,
            metrics_listen,
            trusted_proxies,
            pg_max_connections: pg_max_connections.unwrap_or(10).max(1),
            claim_timeout_seconds: claim_timeout_seconds.unwrap_or(60).max(1),
            max_bytes_in_flight: max_bytes_in_flight.unwrap_or(67_108_864),
            client_timeout_seconds: client_timeout_seconds.unwrap_or(30).max(1),
            shutdown_delay_seconds: shutdown_delay_seconds.unwrap_or(0),
        }
    }

    /// What the block and the wiring have to agree on.
    pub(super) fn mistakes_with(&self, settings: &Settings, purpose: Purpose) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if lacks_dsn(settings, self) {
            let problem = "is missing and store is postgres: set JAM_PG_DSN (or DATABASE_URL)";
            mistakes.push(Mistake::of("pg_dsn", problem, None));
        }
        let dsn = self.pg_dsn.as_ref().filter(|_| settings.store == StoreKind::Postgres);
        if let Some(Err(problem)) = dsn.map(|dsn| PostgresConfig::new(dsn.reveal()).check()) {
            let problem = format!("can't be read: {problem}. A DSN is postgres://user:password@host:5432/database");
            mistakes.push(Mistake::of("pg_dsn", problem, None));
        }
        if self.blob_store.is_some() && settings.store == StoreKind::Memory {
            let problem = "needs store postgres: the memory store forgets with its process which objects are whose";
            mistakes.push(Mistake::of("blob_store", problem, None));
        }
        let no_tokens = self.allowed_tokens.is_empty() && self.api_tokens.is_empty() && self.tokens_file.is_none();
        if purpose == Purpose::Serve && settings.auth_required && no_tokens {
            let problem = "is empty, nothing else names a token, and auth_required is true: nobody could call. \
                           Next: JAM_ALLOWED_TOKENS=$(openssl rand -hex 32) jam-api serve …, or set tokens_file";
            mistakes.push(Mistake::of("allowed_tokens", problem, None));
        }
        mistakes
    }
}

/// Numbers with the least and the most that each may be.
const BOUNDS: [(&str, u32, u32); 4] = [
    // PostgreSQL takes no more from anybody, and the pool makes a place for each beforehand.
    ("pg_max_connections", 1, 262_143),
    // PostgreSQL refuses what is more than 24 days.
    ("claim_timeout_seconds", 1, 86_400),
    ("client_timeout_seconds", 1, u32::MAX),
    // A stop has an end.
    ("shutdown_delay_seconds", 0, 3600),
];

/// What is wrong with connections, claim timeout, client timeout and shutdown delay.
fn out_of_bounds(numbers: [Option<u32>; 4]) -> impl Iterator<Item = (&'static str, String)> {
    BOUNDS.into_iter().zip(numbers).filter_map(|((key, least, most), number)| match number? {
        number if number < least => Some((key, format!("must be at least {least}"))),
        number => (number > most).then(|| (key, format!("must be at most {most}"))),
    })
}

/// The variables that every client of S3 reads, this one through its library: they are no settings of ours.
fn aws_variables() -> impl Iterator<Item = (String, String)> {
    let all =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    all.filter(|(name, _)| name.starts_with("AWS_"))
}

fn is_sendable(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic())
}

/// Why spans can't be sent there. What is wrong is not repeated: it may hold a password.
fn no_endpoint(text: &str) -> Option<&'static str> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let authority = rest.unwrap_or_default().split('/').next().unwrap_or_default();
    let is_url = reqwest::Url::parse(text).is_ok() && !authority.is_empty() && !text.contains(['?', '#', ' ']);
    if !is_url {
        return Some("is not a URL of a collector such as http://otel-collector:4318");
    }
    authority.contains('@').then_some("must not carry credentials: put them into OTEL_EXPORTER_OTLP_HEADERS")
}

fn address_of(text: &str) -> Result<String, String> {
    let problem = || format!("has {text:?}, which is not host:port such as 0.0.0.0:8080");
    let (host, port) = text.rsplit_once(':').ok_or_else(problem)?;
    port.parse::<u16>().map_err(|_| problem())?;
    Ok(if host.is_empty() { format!("0.0.0.0:{port}") } else { text.to_owned() })
}
