//! The classes of outage, and how an error of the network is sorted into them.

use std::error::Error;
use std::io;

/// Why the server can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The host's name has no address.
    DnsResolution,
    /// Nothing came in time.
    Timeout,
    /// No connection.
    NetworkUnreachable,
    /// No trust, or no TLS at all.
    Tls,
    /// The server wants another token.
    Unauthorized,
    /// There is an answer, or its beginning, but no service behind it.
    ProviderUnavailable,
}

impl Class {
    /// The word in `doctor --json` and in parentheses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DnsResolution => "dns_resolution",
            Self::Timeout => "timeout",
            Self::NetworkUnreachable => "network_unreachable",
            Self::Tls => "tls",
            Self::Unauthorized => "unauthorized",
            Self::ProviderUnavailable => "provider_unavailable",
        }
    }

    /// What happened, as the clause after the address.
    pub fn says(self) -> &'static str {
        match self {
            Self::DnsResolution => "has a host name that cannot be resolved",
            Self::Timeout => "does not answer in time",
            Self::NetworkUnreachable => "cannot be reached",
            Self::Tls => "cannot be trusted over TLS",
            Self::Unauthorized => "does not accept the token",
            Self::ProviderUnavailable => "breaks off without an answer",
        }
    }

    /// The next thing to try.
    pub fn next(self) -> &'static str {
        match self {
            Self::DnsResolution => "check the host name in --addr or SERVICE_LAYER_ADDR, and this machine's DNS",
            Self::Timeout => "is a firewall in between, or the server overloaded? raise --timeout to wait longer",
            Self::NetworkUnreachable => "is the server running there? set --addr or SERVICE_LAYER_ADDR",
            Self::Tls => "is it http:// instead of https://? name the CA of the server's certificate in SSL_CERT_FILE",
            Self::Unauthorized => "set --token, --token-file or SERVICE_LAYER_TOKEN to a token that the server knows",
            Self::ProviderUnavailable => "is it a JAM API that is up? look at the server's log and GET /readyz",
        }
    }

    /// 4 when the server was not reached, 1 when it was and did not serve.
    pub fn exit(self) -> u8 {
        match self {
            Self::DnsResolution | Self::Timeout | Self::NetworkUnreachable | Self::Tls => 4,
            Self::Unauthorized | Self::ProviderUnavailable => 1,
        }
    }
}

/// The class of a failed request.
pub fn class_of(error: &reqwest::Error) -> Class {
    // The order decides: a TLS failure happens while connecting, a name is resolved while connecting.
    if error.is_dns() {
        Class::DnsResolution
    } else if error.is_builder() || causes(error).any(is_tls) {
        Class::Tls
    } else if error.is_timeout() {
        Class::Timeout
    } else if error.is_connect() {
        Class::NetworkUnreachable
    } else {
        Class::ProviderUnavailable
    }
}

/// The innermost cause in its own words: the outer layers only repeat the address.
pub fn detail_of(error: &reqwest::Error) -> String {
    let innermost = causes(error).last().map_or_else(|| error.to_string(), ToString::to_string);
    match innermost.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => innermost,
    }
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first: Option<&(dyn Error + 'static)> = error.source();
    std::iter::successors(first, |cause: &&'_ (dyn Error + 'static)| (*cause).source())
}

fn is_tls(cause: &(dyn Error + 'static)) -> bool {
    // `source` of an io::Error skips the error it wraps, which may be an io::Error again.
    match cause.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().is_some_and(|wrapped| is_tls(wrapped)),
        None => cause.is::<rustls::Error>(),
    }
}
