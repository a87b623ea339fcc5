//! How the API pods are reached: Service, Ingress, NetworkPolicy.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend, IngressSpec,
    IngressTLS, NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
    ServiceBackendPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Desired, Kind, Write, identity};
use crate::crd::{NetworkPeer, ServiceSettings, ServiceType};
use crate::names::{self, Component};
use crate::resolve::Resolved;

/// The Service in front of the API pods.
pub(super) fn service(resolved: &Resolved) -> Desired {
    let name = names::api(&resolved.name);
    let ServiceSettings { kind, port, annotations } = &resolved.service;
    let mut metadata = identity::metadata(resolved, &name, Component::Api);
    metadata.annotations = (!annotations.is_empty()).then(|| annotations.clone());
    let word = match kind {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    let service = Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(word.into()),
            selector: Some(names::selector(&resolved.name, Component::Api)),
            ports: Some(vec![ServicePort {
                name: Some("http".into()),
                app_protocol: Some("http".into()),
                protocol: Some("TCP".into()),
                port: *port,
                target_port: Some(IntOrString::String("http".into())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    };
    Desired::new(resolved, Kind::Service, name, Write::Apply, &service)
}

/// The Ingress, when the spec enables one.
pub(super) fn ingress(resolved: &Resolved) -> Option<Desired> {
    let crate::crd::Ingress { enabled: _, class_name, host, tls_secret_name, annotations } =
        resolved.ingress.as_ref()?;
    let name = names::api(&resolved.name);
    let mut metadata = identity::metadata(resolved, &name, Component::Api);
    metadata.annotations = (!annotations.is_empty()).then(|| annotations.clone());
    let backend = IngressBackend {
        service: Some(IngressServiceBackend {
            name: name.clone(),
            port: Some(ServiceBackendPort { name: Some("http".into()), number: None }),
        }),
        resource: None,
    };
    let path = HTTPIngressPath { path: Some("/".into()), path_type: "Prefix".into(), backend };
    let tls = tls_secret_name.as_ref().map(|secret| {
        vec![IngressTLS { hosts: host.clone().map(|host| vec![host]), secret_name: Some(secret.clone()) }]
    });
    let ingress = Ingress {
        metadata,
        spec: Some(IngressSpec {
            ingress_class_name: class_name.clone(),
            rules: Some(vec![IngressRule {
                host: host.clone(),
                http: Some(HTTPIngressRuleValue { paths: vec![path] }),
            }]),
            tls,
            ..IngressSpec::default()
        }),
        ..Ingress::default()
    };
    Some(Desired::new(resolved, Kind::Ingress, name, Write::Apply, &ingress))
}

/// The NetworkPolicy, when the spec enables one: requests from the allowed pods, metrics from anywhere in the cluster.
pub(super) fn network_policy(resolved: &Resolved) -> Option<Desired> {
    let crate::crd::NetworkPolicy { enabled: _, allow_from } = resolved.network_policy.as_ref()?;
    let name = names::api(&resolved.name);
    let port = |name: &str| NetworkPolicyPort {
        port: Some(IntOrString::String(name.into())),
        protocol: Some("TCP".into()),
        end_port: None,
    };
    let mut peers: Vec<_> = allow_from.iter().map(peer).collect();
    if !peers.is_empty() {
        peers.push(operator());
    }
    let policy = NetworkPolicy {
        metadata: identity::metadata(resolved, &name, Component::Api),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(names::selector(&resolved.name, Component::Api)),
                match_expressions: None,
            }),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule {
                    from: (!peers.is_empty()).then_some(peers),
                    ports: Some(vec![port("http")]),
                },
                NetworkPolicyIngressRule { from: None, ports: Some(vec![port("metrics")]) },
            ]),
            egress: None,
        }),
    };
    Some(Desired::new(resolved, Kind::NetworkPolicy, name, Write::Apply, &policy))
}

/// The operator asks each pod which tokens it accepts, wherever it is installed: a policy that shuts it out holds every rotation.
fn operator() -> NetworkPolicyPeer {
    let labels = [("app.kubernetes.io/name".to_owned(), names::FIELD_MANAGER.to_owned())].into();
    NetworkPolicyPeer {
        pod_selector: Some(LabelSelector { match_labels: Some(labels), match_expressions: None }),
        namespace_selector: Some(LabelSelector::default()),
        ip_block: None,
    }
}

fn peer(peer: &NetworkPeer) -> NetworkPolicyPeer {
    let NetworkPeer { pod_selector, namespace_selector } = peer;
    // A peer with neither would be refused; it means every pod of the instance's namespace.
    let pods = pod_selector.clone().or_else(|| namespace_selector.is_none().then(LabelSelector::default));
    NetworkPolicyPeer { pod_selector: pods, namespace_selector: namespace_selector.clone(), ip_block: None }
}
