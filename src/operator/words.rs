//! What pods said, without what is secret in it: whatever a program prints, no condition, event or evidence repeats a DSN or a token.
//!
//! What was secret before is not known any more. A pod that was given it is not repeated at all (adr/0041).

use std::collections::BTreeMap;

use futures::future::try_join_all;
use jam_domain::Timestamp;
use jam_plan::names::{self, Component};
use jam_plan::observed::{BlobKeys, JobState, PreviewSaid, SecretKey};
use jam_plan::{JamInstance, Observed, resolve, tokens};
use k8s_openapi::api::core::v1::{EnvVar, Pod, Secret, SecretKeySelector};
use kube::ResourceExt;
use tokio::sync::OnceCell;

use super::context::Context;
use super::error::Error;
use super::key::Key;
use super::observe;
use super::watch::chain;
use crate::redact::Redactor;

/// Cleans every word that a pod has said.
pub async fn clean(discretion: &Discretion<'_>, observed: &mut Observed) -> Result<(), Error> {
    let mut words = said(observed);
    if words.is_empty() {
        return Ok(());
    }
    let known = discretion.known().await?;
    for word in &mut words {
        **word = known.redactor.text(word);
    }
    Ok(())
}

/// The words of pods among what was observed.
fn said(observed: &mut Observed) -> Vec<&mut String> {
    let mut words: Vec<&mut String> = Vec::new();
    for job in &mut observed.migration_jobs {
        match &mut job.state {
            JobState::Failed { exit_code: _, message } => words.push(message),
            JobState::Running | JobState::Complete => {}
        }
    }
    for preview in &mut observed.migration_previews {
        words.extend(&mut preview.trouble);
        match &mut preview.said {
            PreviewSaid::Would(words_of) | PreviewSaid::Failed(words_of) => words.push(words_of),
            PreviewSaid::Nothing => {}
        }
    }
    let runs = observed.cleanup.iter_mut().flat_map(|state| [&mut state.real, &mut state.counted]).flatten();
    words.extend(runs.filter_map(|run| run.failure.as_mut()));
    words.extend(
        [&mut observed.trouble, &mut observed.worker_trouble, &mut observed.migration_trouble].into_iter().flatten(),
    );
    words.extend(observed.database.as_mut().filter(|probe| !probe.reachable).map(|probe| &mut probe.message));
    words
}

/// What is secret of what an instance's pods were given, read at most once, when a pod has said something.
pub struct Discretion<'a> {
    context: &'a Context,
    instance: &'a JamInstance,
    known: OnceCell<Known>,
}

impl<'a> Discretion<'a> {
    /// Nothing is read yet.
    pub fn about(context: &'a Context, instance: &'a JamInstance) -> Self {
        Self { context, instance, known: OnceCell::new() }
    }

    /// The text without what is secret in it.
    pub async fn cleaned(&self, text: &str) -> Result<String, Error> {
        Ok(self.known().await?.redactor.text(text))
    }

    /// Why nothing that this pod said is repeated, not even cleaned: it may know what is secret and not known here.
    pub async fn silence(&self, pod: &Pod) -> Option<String> {
        match self.known().await {
            Ok(known) => known.silence(pod),
            Err(error) => Some(format!("what is secret in it is not known: {}", chain(&error))),
        }
    }

    async fn known(&self) -> Result<&Known, Error> {
        self.known.get_or_try_init(|| Known::read(self.context, self.instance)).await
    }
}

/// What is secret now, and what tells a pod that knows something else.
struct Known {
    redactor: Redactor,
    /// What the annotation of a pod says that has the present DSN, and the present keys to the blob store.
    dsn: Option<String>,
    blob_keys: Option<String>,
    /// When each Secret with tokens that clients send was last written.
    tokens: BTreeMap<String, Timestamp>,
    /// The same of each key of a Secret that pods have a variable from: the DSN, those of the blob store, and what the spec names.
    variables: BTreeMap<(String, String), Timestamp>,
}

impl Known {
    /// The DSN, the keys to the blob store, every token, and what the spec has variables from.
    async fn read(context: &Context, instance: &JamInstance) -> Result<Self, Error> {
        let (key, spec) = (Key::of(instance), &instance.spec);
        let salt = instance.metadata.uid.as_deref().unwrap_or_default();
        let own = [tokens::own_tokens(spec), tokens::admin_tokens(spec)].into_iter().flatten();
        let own: Vec<String> = own.map(|(_, name)| name.to_owned()).collect();
        let consumers = tokens::consumers(spec).into_iter().map(|one| names::consumer_secret(&key.name, &one.name));
        let blobs = resolve::blob_secret(spec).map(str::to_owned);
        let dsn = resolve::dsn_reference(instance);
        let variables = spec.pod_template.iter().flat_map(|template| &template.env).filter_map(reference);
        let variables: Vec<(String, String)> = variables.map(|of| (of.name.clone(), of.key.clone())).collect();
        let whole = own.iter().cloned().chain(blobs.clone()).map(|name| (name, Values::All));
        let consumers = consumers.map(|name| (name, Values::Tokens));
        let keys = dsn.iter().chain(&variables).map(|(name, key)| (name.clone(), Values::Of(key.clone())));
        let all: Vec<(String, Values)> = whole.chain(consumers).chain(keys).collect();
        // From one reading: what a pod was given is compared with the very values that are taken out.
        let read = all.iter().map(|(name, _)| observe::secret(context, &key, name));
        let found = try_join_all(read).await?;
        let of = |wanted: &str| {
            let at = all.iter().position(|(name, _)| name == wanted);
            at.and_then(|at| found.get(at)?.as_ref())
        };
        let since = |name: &str| written(of(name)?);
        let of_blobs = blobs.iter().flat_map(|name| resolve::BLOB_KEYS.map(|key| (name.clone(), key.to_owned())));
        let named = dsn.clone().into_iter().chain(variables).chain(of_blobs);
        let present = dsn.as_ref().map(|(name, key)| SecretKey::of(of(name), key, salt));
        let values = all.iter().zip(&found).flat_map(|((_, wanted), secret)| secret_values(secret.as_ref(), wanted));
        Ok(Self {
            redactor: Redactor::knowing(values),
            dsn: present.as_ref().and_then(SecretKey::hash).map(str::to_owned),
            blob_keys: blobs.as_ref().and_then(|name| BlobKeys::of(of(name), salt).hash()),
            tokens: own.iter().filter_map(|name| Some((name.clone(), since(name)?))).collect(),
            variables: named.filter_map(|from| Some((from.clone(), since(&from.0)?))).collect(),
        })
    }

    fn silence(&self, pod: &Pod) -> Option<String> {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let own = containers.filter(|container| container.name == names::CONTAINER);
        let variables = own.flat_map(|container| container.env.iter().flatten());
        for (annotation, present, what) in [
            (names::DSN_HASH, &self.dsn, "the DSN"),
            (names::BLOB_KEYS_HASH, &self.blob_keys, "the keys to the blob store"),
        ] {
            if pod.annotations().get(annotation).is_some_and(|given| present.as_ref() != Some(given)) {
                return Some(format!("what it was given as {what} may not be the present"));
            }
        }
        let began = pod.metadata.creation_timestamp.as_ref().map(|at| Timestamp::from_jiff(at.0));
        let is_older = |written: &Timestamp| began.is_none_or(|began| began < *written);
        // Also one with the values that it was given: between two writes of them a container that began again has read others.
        let mut given = variables.filter_map(|one| reference(one).map(|from| (from.name.clone(), from.key.clone())));
        let changed = given.find(|from| self.variables.get(from).is_none_or(is_older)).map(|(secret, _)| secret);
        let serves = pod.labels().get(names::COMPONENT).map(String::as_str) == Some(Component::Api.as_str());
        let heard =
            || self.tokens.iter().find(|(_, written)| serves && is_older(written)).map(|(name, _)| name.clone());
        let secret = changed.or_else(heard)?;
        Some(format!("Secret {secret} may have held something else when it began"))
    }
}

/// The Secret and its key that a variable is from.
fn reference(variable: &EnvVar) -> Option<&SecretKeySelector> {
    variable.value_from.as_ref()?.secret_key_ref.as_ref()
}

/// When a Secret was last written, by any of those who have written it.
fn written(secret: &Secret) -> Option<Timestamp> {
    let managed = secret.metadata.managed_fields.iter().flatten().filter_map(|entry| entry.time.as_ref());
    managed.chain(&secret.metadata.creation_timestamp).map(|at| Timestamp::from_jiff(at.0)).max()
}

fn secret_values(secret: Option<&Secret>, wanted: &Values) -> Vec<String> {
    let data = secret.and_then(|secret| secret.data.as_ref()).into_iter().flatten();
    data.filter(|(key, _)| wanted.has(key)).map(|(_, value)| String::from_utf8_lossy(&value.0).into_owned()).collect()
}

/// What of a Secret is secret.
enum Values {
    All,
    Of(String),
    /// Of a consumer's all but the id and the end of its token.
    Tokens,
}

impl Values {
    fn has(&self, key: &str) -> bool {
        match self {
            Self::All => true,
            Self::Of(one) => one == key,
            Self::Tokens => !matches!(key, "id" | "not-after"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_jiff("2026-01-01T00:00:00Z".parse().unwrap()).plus_seconds(seconds)
    }

    /// The key that a pod's variables are from.
    fn key_of(secret: &str) -> (String, String) {
        (secret.to_owned(), "k".to_owned())
    }

    fn known() -> Known {
        Known {
            redactor: Redactor::knowing([]),
            dsn: Some("d1".into()),
            blob_keys: None,
            tokens: BTreeMap::from([("own".into(), at(-60))]),
            variables: ["vars", "db", "blobs"].map(|name| (key_of(name), at(-60))).into(),
        }
    }

    const DSN: &str = "JAM_PG_DSN";

    /// A pod that began at the hour, of this part, with these annotations and with variables from these Secrets.
    fn pod(part: &str, annotations: &Value, variables: &[(&str, &str)]) -> Pod {
        let from = |(name, secret): &(&str, &str)| json!({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}});
        let env: Vec<Value> = variables.iter().map(from).collect();
        let metadata = json!({"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {names::COMPONENT: part}, "annotations": annotations});
        let body = json!({"metadata": metadata, "spec": {"containers": [{"name": "jam", "env": env}]}});
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn a_pod_that_was_given_another_dsn_or_other_keys_is_not_repeated() {
        let given = |annotations: Value| {
            known().silence(&pod("api", &annotations, &[(DSN, "db"), ("AWS_ACCESS_KEY_ID", "vars")])).is_some()
        };
        assert!(!given(json!({names::DSN_HASH: "d1"})), "the present one is known and is taken out");
        assert!(given(json!({names::DSN_HASH: "d0"})));
        assert!(!given(json!({})), "nothing else was there since it began");
        let another = Known { variables: BTreeMap::from([(("db".into(), "other".into()), at(-60))]), ..known() };
        assert!(another.silence(&pod("api", &json!({}), &[(DSN, "db")])).is_some(), "the spec names another key of it");
        assert!(given(json!({names::DSN_HASH: "d1", names::BLOB_KEYS_HASH: "b0"})));
        let keys = Known { blob_keys: Some("b0".into()), ..known() };
        let both = json!({names::DSN_HASH: "d1", names::BLOB_KEYS_HASH: "b0"});
        assert_eq!(keys.silence(&pod("api", &both, &[(DSN, "db"), ("AWS_ACCESS_KEY_ID", "blobs")])), None);
        let gone = Known { dsn: None, ..known() };
        let silence = gone.silence(&pod("cleanup", &json!({names::DSN_HASH: "d1"}), &[])).unwrap();
        assert_eq!(silence, "what it was given as the DSN may not be the present");
    }

    #[test]
    fn a_dsn_or_keys_that_were_changed_and_changed_back_silence_pods_that_may_know_the_ones_between() {
        let given = json!({names::DSN_HASH: "d1", names::BLOB_KEYS_HASH: "b1"});
        let pod = pod("api", &given, &[(DSN, "db"), ("AWS_ACCESS_KEY_ID", "blobs")]);
        let known = || Known { blob_keys: Some("b1".into()), ..known() };
        assert_eq!(known().silence(&pod), None, "one that began after the last write has read what is there");
        for name in ["db", "blobs"] {
            let mut back = known();
            back.variables.insert(key_of(name), at(1));
            let silence = back.silence(&pod).unwrap();
            assert_eq!(silence, format!("Secret {name} may have held something else when it began"));
        }
    }

    #[test]
    fn a_pod_that_began_before_a_secret_was_written_whose_values_it_may_know_is_not_repeated() {
        let bare = json!({});
        let later = |name: &str| BTreeMap::from([(name.to_owned(), at(1))]);
        let tokens = Known { tokens: later("own"), ..known() };
        let silence = tokens.silence(&pod("api", &bare, &[])).unwrap();
        assert_eq!(silence, "Secret own may have held something else when it began");
        assert_eq!(tokens.silence(&pod("worker", &bare, &[])), None, "no client sends it a token");
        let variables = Known { variables: BTreeMap::from([(key_of("vars"), at(1))]), ..known() };
        let mine = [("MINE", "vars")];
        assert!(variables.silence(&pod("worker", &bare, &mine)).is_some());
        assert_eq!(known().silence(&pod("worker", &bare, &mine)), None);
        assert!(
            known().silence(&pod("worker", &bare, &[("MINE", "former")])).is_some(),
            "the spec refers to it no more"
        );
    }

    #[test]
    fn a_secret_was_last_written_by_the_last_of_its_writers() {
        let managed =
            json!([{"manager": "a", "time": "2026-01-01T00:00:05Z"}, {"manager": "b", "time": "2026-01-01T00:00:09Z"}]);
        let secret = |managed: &Value| {
            let metadata = json!({"creationTimestamp": "2026-01-01T00:00:01Z", "managedFields": managed});
            serde_json::from_value::<Secret>(json!({"metadata": metadata})).unwrap()
        };
        assert_eq!(written(&secret(&managed)), Some(at(9)));
        assert_eq!(written(&secret(&json!([]))), Some(at(1)));
    }
}
