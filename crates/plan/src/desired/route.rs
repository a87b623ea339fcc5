//! The HTTPRoute of the Service, for clusters with the Gateway API.

use serde_json::{Value, json};

use super::{Desired, Kind, Write, identity};
use crate::crd::{HttpRoute, ParentRef};
use crate::names::{self, Component};
use crate::resolve::Resolved;

/// The HTTPRoute, when the spec enables one: everything that its Gateways take for these hosts goes to the Service.
pub(super) fn http_route(resolved: &Resolved) -> Option<Desired> {
    let HttpRoute { enabled: _, parent_refs, hostnames } = resolved.http_route.as_ref()?;
    let name = names::api(&resolved.name);
    let mut spec = json!({
        "parentRefs": parent_refs.iter().map(parent).collect::<Vec<_>>(),
        "rules": [{"backendRefs": [{"name": name, "port": resolved.service.port}]}],
    });
    if !hostnames.is_empty() {
        spec["hostnames"] = json!(hostnames);
    }
    let route = json!({"metadata": identity::metadata(resolved, &name, Component::Api), "spec": spec});
    Some(Desired::new(resolved, Kind::HttpRoute, name, Write::Apply, &route))
}

fn parent(parent: &ParentRef) -> Value {
    let ParentRef { name, namespace, section_name } = parent;
    let mut reference = json!({"name": name});
    for (key, value) in [("namespace", namespace), ("sectionName", section_name)] {
        if let Some(value) = value {
            reference[key] = value.as_str().into();
        }
    }
    reference
}
