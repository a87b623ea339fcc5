//! Which ports the pods of an instance need to reach, for its NetworkPolicy.

use std::collections::BTreeSet;

use crate::crd::JamInstanceSpec;
use crate::observed::Observed;

/// The port of PostgreSQL, when a DSN names none.
const POSTGRES: u16 = 5432;

/// The ports outside: the database's, the collector's of spans, the object store's, and those that the spec names.
pub(super) fn ports(spec: &JamInstanceSpec, observed: &Observed) -> BTreeSet<u16> {
    let database = spec.database.as_ref().map(|_| observed.database_port.unwrap_or(POSTGRES));
    let spans = spec.monitoring.as_ref().and_then(|monitoring| monitoring.otlp_endpoint.as_deref());
    let blobs = spec.blob_store.as_ref().map(|store| store.endpoint.as_deref().unwrap_or("https://amazon"));
    let named = spec.network_policy.iter().flat_map(|policy| &policy.egress_ports);
    let named = named.filter_map(|port| u16::try_from(*port).ok());
    [database, spans.and_then(port_of_url), blobs.and_then(port_of_url)].into_iter().flatten().chain(named).collect()
}

/// The port of a URL such as a DSN: the one of its parameters, of its authority, or its scheme's own.
pub fn port_of_url(url: &str) -> Option<u16> {
    let (scheme, rest) = url.trim().split_once("://")?;
    let (authority, parameters) = match rest.split_once('?') {
        Some((before, after)) => (before, after.split('#').next().unwrap_or_default()),
        None => (rest, ""),
    };
    let by_parameter = parameters.split('&').find_map(|pair| pair.strip_prefix("port="));
    if let Some(port) = by_parameter {
        return port.parse().ok();
    }
    let authority = authority.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    // In brackets stands an IPv6 address, whose colons are its own.
    let after = host.rsplit(']').next().unwrap_or_default();
    match after.rsplit_once(':') {
        Some((_, port)) => port.parse().ok(),
        None => match scheme {
            "postgres" | "postgresql" => Some(POSTGRES),
            "https" => Some(443),
            "http" => Some(80),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dsns_port_is_found_wherever_it_stands() {
        for (url, port) in [
            ("postgres://jam:p%40ss@db:6432/jam?sslmode=require", Some(6432)),
            ("postgresql://db/jam", Some(5432)),
            ("postgres://u:p@[fd00::1]/jam", Some(5432)),
            ("postgres://u:p@[fd00::1]:7000/jam", Some(7000)),
            ("postgres:///jam?host=db&port=7001", Some(7001)),
            ("postgres://u:p@db:many/jam", None),
            ("http://otel:4317", Some(4317)),
            ("https://otel", Some(443)),
            ("host=db", None),
        ] {
            assert_eq!(port_of_url(url), port, "{url}");
        }
    }
}
