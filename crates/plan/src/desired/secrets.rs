//! The Secrets: hashes for the API pods, and one Secret for each consumer, whose token is never written here.

use std::collections::BTreeMap;

use jam_domain::token::TokenHash;
use jam_domain::{ServiceId, TokenId};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use super::{Desired, Kind, Write, identity};
use crate::crd::{DeletionPolicy, Scope};
use crate::names::{self, Component};
use crate::resolve::{Resolved, ResolvedConsumer};

/// Where Kubernetes looks for words about an object.
const DESCRIPTION: &str = "kubernetes.io/description";

/// An entry of the token file, as the server reads it.
#[derive(Serialize)]
struct Entry {
    id: TokenId,
    sha256: TokenHash,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    scopes: Option<Vec<Scope>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    services: Option<Vec<ServiceId>>,
}

/// Every Secret: the consumers' first, so that a token is never accepted before it can be had.
pub(super) fn all(resolved: &Resolved) -> Vec<Desired> {
    // One that could not be made is tried again by the next look, with another token.
    let made = resolved.consumers.iter().filter(|consumer| consumer.held.as_ref().is_none_or(|held| held.made));
    let mut all: Vec<_> = made.map(|consumer| consumer_secret(resolved, consumer)).collect();
    all.push(hashes(resolved));
    all
}

/// A consumer's Secret without its data: its tokens are moved by [`crate::tokens::TokenWork`] alone.
fn consumer_secret(resolved: &Resolved, consumer: &ResolvedConsumer) -> Desired {
    let mut metadata = match resolved.deletion_policy {
        DeletionPolicy::Retain => ObjectMeta {
            annotations: Some(identity::annotation(DESCRIPTION, &kept(&resolved.name, &consumer.name))),
            ..identity::unowned(resolved, &consumer.secret, Component::Tokens)
        },
        DeletionPolicy::Delete => identity::metadata(resolved, &consumer.secret, Component::Tokens),
    };
    metadata.labels.get_or_insert_default().insert(names::CONSUMER.into(), consumer.name.clone());
    let secret = Secret { metadata, type_: Some("Opaque".into()), ..Secret::default() };
    Desired::new(resolved, Kind::Secret, consumer.secret.clone(), Write::Apply, &secret)
}

/// The user's own tokens, each named by its key.
fn own(tokens: &[(String, TokenHash)]) -> Vec<Entry> {
    let entry = |(key, hash): &(String, TokenHash)| Entry {
        id: hash.id(),
        sha256: *hash,
        name: key.clone(),
        scopes: None,
        services: None,
    };
    tokens.iter().map(entry).collect()
}

/// One hash stands once in a file: two lines with it would make the server refuse the whole.
fn add(entries: &mut Vec<Entry>, entry: Entry) {
    if entries.iter().all(|known| known.sha256 != entry.sha256) {
        entries.push(entry);
    }
}

/// What a Secret says of itself that stays when its instance goes: an event is gone after an hour, this is not.
fn kept(instance: &str, consumer: &str) -> String {
    format!(
        "The token of consumer {consumer} of JamInstance {instance}. Kept when the instance is deleted (deletionPolicy: Retain): the \
         next instance of this name takes it over."
    )
}

/// The Secret that the API pods mount: hashes only. It has one name for good, so that a new token rolls no pod.
fn hashes(resolved: &Resolved) -> Desired {
    let name = names::token_hashes(&resolved.name);
    let mut entries: Vec<Entry> = Vec::new();
    let mut generations = BTreeMap::new();
    let mut revocations = BTreeMap::new();
    for ResolvedConsumer { name, secret: _, accepted, outlook, scopes, services, revoked, held: _ } in
        &resolved.consumers
    {
        if let Some(revoked) = revoked {
            revocations.insert(name.as_str(), revoked.as_str());
        }
        if outlook.generation > 0 {
            generations.insert(name.as_str(), outlook.generation);
        }
        for hash in accepted {
            let entry = Entry {
                id: hash.id(),
                sha256: *hash,
                name: name.clone(),
                scopes: (!scopes.is_empty()).then(|| scopes.clone()),
                services: (!services.is_empty()).then(|| services.clone()),
            };
            add(&mut entries, entry);
        }
    }
    for entry in own(&resolved.own_tokens) {
        add(&mut entries, entry);
    }
    let text = |entries: &[Entry]| ByteString(serde_json::to_vec_pretty(entries).expect("token entries are JSON"));
    // A file of its own: being in it is what makes an administrator. It is there also when it is empty: pods of an earlier
    // revision that read it then know nobody any more, instead of going on with what they read last.
    let mut administrators = Vec::new();
    for entry in own(&resolved.admin_tokens) {
        add(&mut administrators, entry);
    }
    let files = [(names::TOKENS_KEY, text(&entries)), (names::ADMIN_TOKENS_KEY, text(&administrators))];
    let data = files.map(|(key, file)| (key.to_owned(), file)).into();
    let mut metadata = identity::metadata(resolved, &name, Component::Tokens);
    if !generations.is_empty() {
        let text = serde_json::to_string(&generations).expect("names and numbers are JSON");
        metadata.annotations = Some(identity::annotation(names::TOKEN_GENERATIONS, &text));
    }
    if !revocations.is_empty() {
        let text = serde_json::to_string(&revocations).expect("names and words are JSON");
        metadata.annotations.get_or_insert_default().insert(names::TOKEN_REVOCATIONS.into(), text);
    }
    let secret = Secret { metadata, type_: Some("Opaque".into()), data: Some(data), ..Secret::default() };
    Desired::new(resolved, Kind::Secret, name, Write::Apply, &secret)
}
