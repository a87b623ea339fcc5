//! Which ports outside pods may go to: those that the spec needs, and until the last pod of before is gone those that it needed (adr/0053).

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use jam_domain::Timestamp;

use super::{Resolved, uid_of};
use crate::crd::{JamInstance, JamInstanceSpec, RolloutPhase};
use crate::observed::{DeploymentState, Observed};
use crate::rollout::Course;

/// The port of PostgreSQL, when a DSN names none.
const POSTGRES: u16 = 5432;

/// The ports outside of an instance's pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// What pods of the spec need, a migration included: the ports of the database, of the collector of spans and of the object
    /// store, and those that the spec names.
    pub needs: BTreeSet<u16>,
    /// What is let through now: the same, and what earlier pods need that may still run.
    pub open: BTreeSet<u16>,
}

impl Egress {
    /// What the spec needs, and nothing else.
    pub(super) fn needed(spec: &JamInstanceSpec, observed: &Observed) -> Self {
        let database = spec.database.as_ref().map(|_| observed.database_port.unwrap_or(POSTGRES));
        let spans = spec.monitoring.as_ref().and_then(|monitoring| monitoring.otlp_endpoint.as_deref());
        let blobs = spec.blob_store.as_ref().map(|store| store.endpoint.as_deref().unwrap_or("https://amazon"));
        let named = spec.network_policy.iter().flat_map(|policy| &policy.egress_ports);
        let named = named.filter_map(|port| u16::try_from(*port).ok());
        let of_urls = [spans, blobs].into_iter().flatten().filter_map(port_of_url);
        let needs: BTreeSet<u16> = database.into_iter().chain(of_urls).chain(named).collect();
        Self { open: needs.clone(), needs }
    }

    /// What is let through, as it is annotated.
    pub(crate) fn written(&self) -> String {
        self.open.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
    }
}

/// The ports that such an annotation names. What a hand wrote there that is no port is nobody's need.
pub fn ports_in(annotation: &str) -> BTreeSet<u16> {
    annotation.split(',').filter_map(|port| port.parse().ok()).filter(|port| *port > 0).collect()
}

/// What the children of the instance with this uid say was let through: the pods that run may need it.
fn told(uid: &str, observed: &Observed) -> BTreeSet<u16> {
    let ours = observed.children.iter().filter(|child| child.controller.as_deref() == Some(uid));
    ours.flat_map(|child| &child.egress).copied().collect()
}

/// Whether fewer ports are to be let through now that every Deployment has settled: whether a pod lingers that they do not count,
/// one on its way out or of a Job, has to be known then.
pub fn narrows(instance: &JamInstance, observed: &Observed) -> bool {
    observed.api.iter().chain(&observed.worker).all(DeploymentState::is_settled)
        && !told(&uid_of(instance), observed).is_subset(&Egress::needed(&instance.spec, observed).needs)
}

/// Whether a rollout whose pods have settled may still be given up within `deadline` seconds: the pods of before would come back,
/// with the ports that they need. After one that was given up everything is let through anyway.
pub fn may_go_back(instance: &JamInstance, observed: &Observed, deadline: i32) -> bool {
    let told = instance.status.as_ref().and_then(|status| status.rollout.as_ref());
    told.filter(|told| told.from.is_some()).is_some_and(|told| match told.phase {
        RolloutPhase::Progressing => observed.api.as_ref().is_some_and(|api| api.wanted > 0),
        RolloutPhase::Serving => observed.at <= Timestamp::from_jiff(told.since.0).plus_seconds(deadline.into()),
        RolloutPhase::RolledBack => false,
    })
}

/// The instance with what is let through now.
pub(super) fn opened(mut resolved: Resolved, observed: &Observed) -> Resolved {
    if !has_arrived(&resolved, observed) {
        resolved.egress.open.append(&mut told(&resolved.uid, observed));
    }
    resolved
}

/// Whether every pod is of what the spec wants, and nothing of before or beside it runs on.
fn has_arrived(resolved: &Resolved, observed: &Observed) -> bool {
    let of_this = |one: &DeploymentState| one.is_settled() && one.revision.as_deref() == Some(resolved.revision.name());
    resolved.will_arrive()
        && observed.api.is_some()
        && observed.worker.is_some() == resolved.revision.has_workers()
        && observed.api.iter().chain(&observed.worker).all(of_this)
        && !observed.lingers
}

impl Resolved {
    /// Whether pods of what the spec wants are let come: no migration is waited for, and what is wanted was not given up.
    fn will_arrive(&self) -> bool {
        self.migration.is_complete() && self.course == Course::Forward
    }

    /// The same when its pods have come to rest: fewer ports may be let through then.
    pub(crate) fn at_rest(mut self) -> Self {
        if self.will_arrive() {
            self.egress.open.clone_from(&self.egress.needs);
        }
        self
    }
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
