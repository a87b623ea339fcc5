//! What must not be in a bundle: the values of the instance's Secrets, read only to know what to look for.

use std::collections::BTreeSet;

use jam_plan::names;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::Value;

use crate::kubectl::cluster::{Cluster, Instance, spec, told};
use crate::kubectl::fault::Fault;

/// A shorter value of a variable is a word such as `debug`.
const WORD: usize = 8;

/// Which keys of a Secret are secret.
enum Keys {
    All,
    But(&'static [&'static str]),
}

/// The values, and what could not be read of them.
pub async fn known(cluster: &Cluster, instance: &Instance) -> (BTreeSet<String>, Vec<Fault>) {
    let mut known = written(instance);
    let mut unread = Vec::new();
    // Who may not list pods gets none of them either, and is told so there.
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let labels = names::written(&names::pods(&instance.name_any()));
    let pods = pods.list(&ListParams::default().labels(&labels)).await.map(|list| list.items);
    known.extend(pods.unwrap_or_default().iter().flat_map(variables));
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    for (name, keys) in named(instance) {
        match secrets.get_opt(&name).await {
            Ok(Some(secret)) => known.extend(values(secret, &keys)),
            Ok(None) => {}
            Err(error) => unread.push(Fault::of(&format!("look for what Secret {name} holds"), error)),
        }
    }
    (known, unread)
}

/// The Secrets that an instance has and refers to.
fn named(instance: &Instance) -> Vec<(String, Keys)> {
    let name = instance.metadata.name.clone().unwrap_or_default();
    // The id of a token is told by status and logs; it is no secret.
    let tokens = told(instance).tokens.into_iter().map(|token| {
        let secret = names::consumer_secret(&name, &token.consumer);
        (secret, Keys::But(&[names::TOKEN_ID_KEY, names::NOT_AFTER_KEY]))
    });
    let referred = [
        "/database/dsnSecretRef/name",
        "/blobStore/credentialsSecretRef/name",
        "/tokens/allowedTokensSecretRef/name",
        "/tokens/globalTokensSecretRef/name",
        "/tokens/adminTokensSecretRef/name",
    ];
    let text = |pointer: &str| spec(instance, pointer).and_then(Value::as_str).map(str::to_owned);
    let mut all: Vec<(String, Keys)> = tokens.collect();
    all.extend(referred.into_iter().filter_map(text).map(|secret| (secret, Keys::All)));
    // CloudNativePG's Secret also has names of host, port, user and database, which help.
    let cluster = text("/database/cluster/name").map(|cluster| format!("{cluster}-app"));
    all.extend(cluster.map(|secret| (secret, Keys::But(&["host", "port", "user", "username", "dbname"]))));
    let from = spec(instance, "/podTemplate/env").and_then(Value::as_array).into_iter().flatten();
    let from = from.filter_map(|variable| variable.pointer("/valueFrom/secretKeyRef/name").and_then(Value::as_str));
    all.extend(from.map(|secret| (secret.to_owned(), Keys::All)));
    all
}

fn values(secret: Secret, keys: &Keys) -> impl Iterator<Item = String> {
    let data = secret.data.unwrap_or_default();
    let harmless = match keys {
        Keys::All => &[],
        Keys::But(harmless) => *harmless,
    };
    data.into_iter()
        .filter(move |(key, _)| !harmless.contains(&key.as_str()))
        .filter_map(|(_, value)| String::from_utf8(value.0).ok())
        .flat_map(|value| {
            // `Bearer …`: the token alone is as secret as the header.
            let words: Vec<String> =
                value.split_whitespace().filter(|word| word.len() >= 16).map(str::to_owned).collect();
            words.into_iter().chain([value])
        })
}

/// Values of variables that are not ours: whoever injected them knows what they are, nobody else does.
fn variables(pod: &Pod) -> Vec<String> {
    let spec = pod.spec.iter();
    let containers = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let foreign = containers
        .flat_map(|container| container.env.iter().flatten())
        .filter(|variable| !variable.name.starts_with("JAM_"));
    foreign.filter_map(|variable| variable.value.clone()).filter(|value| value.len() >= WORD).collect()
}

/// What stands in the instance itself: values of variables, and a leaked token that somebody wrote into an annotation.
fn written(instance: &Instance) -> BTreeSet<String> {
    let variables = spec(instance, "/podTemplate/env").and_then(Value::as_array).into_iter().flatten();
    let values = variables.filter_map(|variable| variable["value"].as_str()).filter(|value| value.len() >= WORD);
    let notes = instance.metadata.annotations.iter().flatten();
    let revoked = notes.filter(|(key, _)| *key == names::REVOKE).flat_map(|(_, value)| value.split([',', ' ']));
    values.chain(revoked.filter(|word| word.len() > 16)).map(str::to_owned).collect()
}
