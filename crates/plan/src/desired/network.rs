//! The NetworkPolicy of an instance's pods: callers to the API, scrapes, and from them DNS, the database and what the spec names.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Desired, Kind, Write, identity};
use crate::crd::NetworkPeer;
use crate::names::{self, Component};
use crate::resolve::Resolved;

/// The ports of DNS, and what its pods call theirs. Most networks judge after the address of a Service was replaced by a pod's:
/// the Service has port 53, the pods of some distributions 5353, others any port of one of these names.
const DNS: [i32; 2] = [53, 5353];
const DNS_NAMES: [(&str, &str); 2] = [("UDP", "dns"), ("TCP", "dns-tcp")];

/// The NetworkPolicy, when the spec enables one.
///
/// It holds for every pod of the instance. A named port exists only in the pods that serve it, so one policy is enough.
/// Where pods go to is bounded by port: a policy cannot name hosts, and the database is known by its DSN alone.
pub(super) fn policy(resolved: &Resolved) -> Option<Desired> {
    let crate::crd::NetworkPolicy { enabled: _, allow_from, egress_ports: _ } = resolved.network_policy.as_ref()?;
    let name = names::api(&resolved.name);
    let by_number = DNS.iter().flat_map(|port| [number("UDP", *port), number("TCP", *port)]);
    let by_name = DNS_NAMES.iter().map(|(protocol, name)| named(protocol, name));
    let mut out = vec![NetworkPolicyEgressRule { to: None, ports: Some(by_number.chain(by_name).collect()) }];
    if !resolved.egress.open.is_empty() {
        let ports = resolved.egress.open.iter().map(|port| number("TCP", i32::from(*port))).collect();
        out.push(NetworkPolicyEgressRule { to: None, ports: Some(ports) });
    }
    let mut metadata = identity::metadata(resolved, &name, Component::Api);
    metadata.annotations = Some(identity::annotation(names::EGRESS, &resolved.egress.written()));
    let policy = NetworkPolicy {
        metadata,
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(matching(names::pods(&resolved.name))),
            policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule {
                    from: callers(resolved, allow_from),
                    ports: Some(vec![named("TCP", "http")]),
                },
                NetworkPolicyIngressRule { from: None, ports: Some(vec![named("TCP", "metrics")]) },
            ]),
            egress: Some(out),
        }),
    };
    Some(Desired::new(resolved, Kind::NetworkPolicy, name, Write::Apply, &policy))
}

/// Who may call the API: everybody when nobody is named; else those, and the operator, which asks pods how they are.
fn callers(resolved: &Resolved, allow_from: &[NetworkPeer]) -> Option<Vec<NetworkPolicyPeer>> {
    if allow_from.is_empty() {
        return None;
    }
    let (label, value) = names::OPERATOR;
    let own = resolved.operator_namespace.as_ref();
    let operator = NetworkPolicyPeer {
        pod_selector: Some(matching([(label.to_owned(), value.to_owned())].into())),
        namespace_selector: Some(own.map_or_else(LabelSelector::default, |namespace| {
            matching([("kubernetes.io/metadata.name".to_owned(), namespace.clone())].into())
        })),
        ip_block: None,
    };
    Some(allow_from.iter().map(peer).chain([operator]).collect())
}

fn peer(peer: &NetworkPeer) -> NetworkPolicyPeer {
    let NetworkPeer { pod_selector, namespace_selector } = peer;
    // A peer with neither would be refused; it means every pod of the instance's namespace.
    let pods = pod_selector.clone().or_else(|| namespace_selector.is_none().then(LabelSelector::default));
    NetworkPolicyPeer { pod_selector: pods, namespace_selector: namespace_selector.clone(), ip_block: None }
}

fn matching(labels: std::collections::BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), match_expressions: None }
}

fn named(protocol: &str, name: &str) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::String(name.into())),
        protocol: Some(protocol.into()),
        ..NetworkPolicyPort::default()
    }
}

fn number(protocol: &str, port: i32) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(port)),
        protocol: Some(protocol.into()),
        ..NetworkPolicyPort::default()
    }
}
