//! What is known of a child without its content: its metadata.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{controller_of, noted};
use crate::names;
use crate::resolve::ports_in;

/// The metadata of an object that carries an instance's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// What it is.
    pub object: crate::ObjectRef,
    /// Its uid, so that only this very object is ever deleted.
    pub uid: String,
    /// The uid of its controller, if it has one.
    pub controller: Option<String>,
    /// Hash of what was rendered, as annotated.
    pub rendered: Option<String>,
    /// The consumer whose token it holds, as labelled.
    pub consumer: Option<String>,
    /// The ports outside that it says pods may go to, as annotated.
    pub egress: BTreeSet<u16>,
    /// Whether it is on its way out.
    pub deleting: bool,
}

impl Child {
    /// A child from its metadata.
    pub fn of(kind: crate::Kind, metadata: &ObjectMeta) -> Self {
        Self {
            object: crate::ObjectRef { kind, name: metadata.name.clone().unwrap_or_default() },
            uid: metadata.uid.clone().unwrap_or_default(),
            controller: controller_of(metadata).map(|(_, uid)| uid),
            rendered: noted(metadata.annotations.as_ref(), names::RENDERED),
            consumer: noted(metadata.labels.as_ref(), names::CONSUMER),
            egress: noted(metadata.annotations.as_ref(), names::EGRESS)
                .map(|ports| ports_in(&ports))
                .unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
        }
    }
}
