//! What every child carries, and the ServiceAccount of the pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{Desired, Kind, Write};
use crate::crd::{GROUP, KIND, VERSION};
use crate::names::{self, Component};
use crate::resolve::Resolved;

/// Metadata of a child that goes with its instance.
pub(super) fn metadata(resolved: &Resolved, name: &str, component: Component) -> ObjectMeta {
    ObjectMeta { owner_references: Some(vec![owner(resolved)]), ..unowned(resolved, name, component) }
}

/// Metadata of a child that stays when its instance goes.
pub(super) fn unowned(resolved: &Resolved, name: &str, component: Component) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(resolved.namespace.clone()),
        labels: Some(names::labels(&resolved.name, component)),
        ..ObjectMeta::default()
    }
}

fn owner(resolved: &Resolved) -> OwnerReference {
    OwnerReference {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: KIND.into(),
        name: resolved.name.clone(),
        uid: resolved.uid.clone(),
        controller: Some(true),
        // A foreground deletion of the instance waits for its pods to be gone.
        block_owner_deletion: Some(true),
    }
}

/// The account of the pods: it has no rights and its token is never mounted.
///
/// It says where they may go, whether there is a NetworkPolicy or not: one that comes in the middle of a change has to know.
pub(super) fn service_account(resolved: &Resolved) -> Desired {
    let name = names::api(&resolved.name);
    let mut metadata = metadata(resolved, &name, Component::Api);
    metadata.annotations = Some(annotation(names::EGRESS, &resolved.egress.written()));
    let account =
        ServiceAccount { metadata, automount_service_account_token: Some(false), ..ServiceAccount::default() };
    Desired::new(resolved, Kind::ServiceAccount, name, Write::Apply, &account)
}

/// An annotation map with one entry.
pub(super) fn annotation(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}
