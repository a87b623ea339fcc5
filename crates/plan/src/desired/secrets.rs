//! The Secrets: hashes for the API pods, and one Secret for each consumer, whose token is never written here.

use std::collections::BTreeMap;

use jam_domain::ServiceId;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde::Serialize;

use super::{Desired, Kind, Write, identity, pod};
use crate::crd::{DeletionPolicy, Scope};
use crate::names::{self, Component};
use crate::resolve::{Resolved, ResolvedConsumer};

/// An entry of the token file, as the server reads it.
#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    sha256: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scopes: Option<&'a [Scope]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    services: Option<&'a [ServiceId]>,
}

/// Every Secret: the consumers' first, so that a token is never accepted before it can be had.
pub(super) fn all(resolved: &Resolved) -> Vec<Desired> {
    let mut all: Vec<_> = resolved.consumers.iter().map(|consumer| consumer_secret(resolved, consumer)).collect();
    all.push(hashes(resolved));
    all
}

/// A consumer's Secret without its data: the token was written once by [`crate::tokens::TokenWork`] and stays as it is.
fn consumer_secret(resolved: &Resolved, consumer: &ResolvedConsumer) -> Desired {
    let mut metadata = match resolved.deletion_policy {
        DeletionPolicy::Retain => identity::unowned(resolved, &consumer.secret, Component::Tokens),
        DeletionPolicy::Delete => identity::metadata(resolved, &consumer.secret, Component::Tokens),
    };
    metadata.labels.get_or_insert_default().insert(names::CONSUMER.into(), consumer.name.clone());
    let secret = Secret { metadata, type_: Some("Opaque".into()), ..Secret::default() };
    Desired::new(resolved, Kind::Secret, consumer.secret.clone(), Write::Apply, &secret)
}

/// The Secret that the API pods mount: hashes only. It has one name for good, so that a new token rolls no pod.
fn hashes(resolved: &Resolved) -> Desired {
    let name = names::token_hashes(&resolved.name);
    let entries: Vec<_> = resolved
        .consumers
        .iter()
        .map(|ResolvedConsumer { name, secret: _, key_id, sha256, scopes, services }| Entry {
            id: key_id,
            sha256,
            name,
            scopes: (!scopes.is_empty()).then_some(scopes),
            services: (!services.is_empty()).then_some(services),
        })
        .collect();
    let text = serde_json::to_vec_pretty(&entries).expect("token entries are JSON");
    let secret = Secret {
        metadata: identity::metadata(resolved, &name, Component::Tokens),
        type_: Some("Opaque".into()),
        data: Some(BTreeMap::from([(pod::TOKENS_NAME.to_owned(), ByteString(text))])),
        ..Secret::default()
    };
    Desired::new(resolved, Kind::Secret, name, Write::Apply, &secret)
}
