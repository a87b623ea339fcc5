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
use crate::observed::HashBook;
use crate::resolve::{Resolved, ResolvedConsumer};

/// Where Kubernetes looks for words about an object.
const DESCRIPTION: &str = "kubernetes.io/description";
/// Tokens that are remembered after they were listed: those of the last rotations and revocations.
const REMEMBERED: usize = 64;

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

/// Both files: the tokens of callers, and those of administrators. That one is there also when it is empty: pods of an earlier
/// revision that read it then know nobody any more, instead of going on with what they read last.
fn files(resolved: &Resolved) -> [Vec<Entry>; 2] {
    let (mut callers, mut administrators) = (Vec::new(), Vec::new());
    for ResolvedConsumer { name, secret: _, accepted, outlook: _, scopes, services, revoked: _, held: _, shared: _ } in
        &resolved.consumers
    {
        for hash in accepted {
            let entry = Entry {
                id: hash.id(),
                sha256: *hash,
                name: name.clone(),
                scopes: (!scopes.is_empty()).then(|| scopes.clone()),
                services: (!services.is_empty()).then(|| services.clone()),
            };
            add(&mut callers, entry);
        }
    }
    for entry in own(&resolved.own_tokens) {
        add(&mut callers, entry);
    }
    // A file of its own: being in it is what makes an administrator.
    for entry in own(&resolved.admin_tokens) {
        add(&mut administrators, entry);
    }
    [callers, administrators]
}

fn text(entries: &[Entry]) -> Vec<u8> {
    serde_json::to_vec_pretty(entries).expect("token entries are JSON")
}

/// The word for what pods are to read, as [`HashBook`] has it for what is in the cluster.
pub(crate) fn token_word(resolved: &Resolved) -> String {
    let [callers, administrators] = files(resolved).map(|entries| text(&entries));
    HashBook::word_of([&callers, &administrators])
}

/// The ids that were listed and are no longer, the latest at the end: a pod that accepts one of them has not read the file.
fn ended(resolved: &Resolved, listed: &[Entry]) -> Option<String> {
    let mut ended: Vec<String> = Vec::new();
    for (name, id) in resolved.remembered.listed.iter().filter(|(_, id)| listed.iter().all(|entry| entry.id != *id)) {
        let words = format!("{name} {id}");
        if !ended.contains(&words) {
            ended.push(words);
        }
    }
    let old = ended.len().saturating_sub(REMEMBERED);
    (!ended.is_empty()).then(|| ended[old..].join(","))
}

/// The Secret that the API pods mount: hashes only. It has one name for good, so that a new token rolls no pod.
fn hashes(resolved: &Resolved) -> Desired {
    let name = names::token_hashes(&resolved.name);
    let (mut generations, mut revocations) = (BTreeMap::new(), BTreeMap::new());
    for consumer in &resolved.consumers {
        if let Some(revoked) = &consumer.revoked {
            revocations.insert(consumer.name.as_str(), revoked.as_str());
        }
        if consumer.outlook.generation > 0 {
            generations.insert(consumer.name.as_str(), consumer.outlook.generation);
        }
    }
    let [callers, administrators] = files(resolved);
    let data = [(names::TOKENS_KEY, &callers), (names::ADMIN_TOKENS_KEY, &administrators)];
    let data = data.map(|(key, entries)| (key.to_owned(), ByteString(text(entries)))).into();
    let mut metadata = identity::metadata(resolved, &name, Component::Tokens);
    let json = |all: serde_json::Result<String>| all.expect("names, numbers and words are JSON");
    let notes = [
        (names::TOKEN_GENERATIONS, (!generations.is_empty()).then(|| json(serde_json::to_string(&generations)))),
        (names::TOKEN_REVOCATIONS, (!revocations.is_empty()).then(|| json(serde_json::to_string(&revocations)))),
        (
            names::TOKEN_ROTATION,
            resolved.remembered.answered.as_ref().map(|answered| json(serde_json::to_string(answered))),
        ),
        (names::ENDED_TOKENS, ended(resolved, &callers)),
    ];
    for (key, text) in notes.into_iter().filter_map(|(key, text)| Some((key, text?))) {
        metadata.annotations.get_or_insert_default().insert(key.into(), text);
    }
    let secret = Secret { metadata, type_: Some("Opaque".into()), data: Some(data), ..Secret::default() };
    Desired::new(resolved, Kind::Secret, name, Write::Apply, &secret)
}
