//! How the API pods are reached: Service and Ingress.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend, IngressSpec,
    IngressTLS, ServiceBackendPort,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Desired, Kind, Write, identity};
use crate::crd::{ServiceSettings, ServiceType};
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
            // A pod whose database is away gets no requests, whoever has asked for them.
            publish_not_ready_addresses: Some(false),
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
