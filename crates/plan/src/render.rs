//! From the text of a manifest to the objects it would become, without a cluster.

use std::fmt::Write as _;

use jam_domain::Timestamp;
use jam_domain::token::TokenHash;
use serde_json::Value;

use crate::crd::{GROUP, JamInstance, KIND, VERSION};
use crate::desired::Desired;
use crate::forecast::forecast;
use crate::observed::{BlobKeys, Observed, OwnTokens, SecretKey, TokenSecret};
use crate::reason::Refusal;
use crate::remarks::remarks;
use crate::resolve::{Defaults, MigrationStep, blob_secret, resolve};
use crate::rotation::{Holding, Notes, Slots};
use crate::{names, tokens};

/// The uid in owner references, where there is no cluster that gives one.
const NO_UID: &str = "00000000-0000-0000-0000-000000000000";

/// Why a manifest has no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The text is not YAML.
    #[error("the manifest is not YAML: {0}")]
    Yaml(String),
    /// There is no JamInstance in it.
    #[error("the manifest has no JamInstance of {GROUP}")]
    NoInstance,
    /// A JamInstance of a version that this release does not know.
    #[error("JamInstance {name} has apiVersion {found}: this release knows {GROUP}/{VERSION} only")]
    Version {
        /// Its name.
        name: String,
        /// Its apiVersion.
        found: String,
    },
    /// A JamInstance of another namespace than the one that was asked for.
    #[error("JamInstance {name} is of namespace {found}, not of {asked}: leave one of the two out")]
    Namespace {
        /// Its name.
        name: String,
        /// Its namespace in the manifest.
        found: String,
        /// The namespace that was asked for.
        asked: String,
    },
    /// A JamInstance that does not have the form of one.
    #[error("JamInstance {name}: {problem}")]
    Malformed {
        /// Its name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A JamInstance that the operator would refuse.
    #[error("JamInstance {name} would be refused, {refusal}")]
    Refused {
        /// Its name.
        name: String,
        /// Why.
        refusal: Refusal,
    },
}

impl RenderError {
    /// The error's name, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            RenderError::Yaml(_) => "plan_not_yaml",
            RenderError::NoInstance => "plan_no_instance",
            RenderError::Version { .. } => "plan_unknown_version",
            RenderError::Namespace { .. } => "plan_other_namespace",
            RenderError::Malformed { .. } => "plan_malformed",
            RenderError::Refused { .. } => "plan_refused",
        }
    }
}

/// The JamInstances of a manifest; other documents are passed over.
pub fn instances(text: &str) -> Result<Vec<JamInstance>, RenderError> {
    documents(text)?.iter().map(instance).collect()
}

/// Metadata that only an API server writes: what `kubectl get -o yaml` says is a manifest as well.
const SERVERS: [&str; 6] =
    ["uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "managedFields"];

/// The JamInstances of a manifest as they are written, those in lists included; other documents are passed over.
pub fn documents(text: &str) -> Result<Vec<Value>, RenderError> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|e| RenderError::Yaml(e.to_string()))?;
    let mut found: Vec<Value> = documents.into_iter().flat_map(items).filter(is_ours).collect();
    for document in &mut found {
        let version = word(document, "apiVersion");
        if version != format!("{GROUP}/{VERSION}") {
            return Err(RenderError::Version { name: name(document), found: version });
        }
        document.as_object_mut().map(|fields| fields.remove("status"));
        for field in SERVERS {
            document.get_mut("metadata").and_then(Value::as_object_mut).map(|fields| fields.remove(field));
        }
    }
    if found.is_empty() { Err(RenderError::NoInstance) } else { Ok(found) }
}

fn items(document: Value) -> Vec<Value> {
    match document.get("items") {
        Some(Value::Array(items)) if word(&document, "kind").ends_with("List") => {
            items.iter().cloned().flat_map(self::items).collect()
        }
        Some(_) | None => vec![document],
    }
}

fn is_ours(document: &Value) -> bool {
    word(document, "kind") == KIND && word(document, "apiVersion").starts_with(&format!("{GROUP}/"))
}

fn word(document: &Value, key: &str) -> String {
    document.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn name(document: &Value) -> String {
    document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("without a name").to_owned()
}

/// Gives the instances that name no namespace theirs, as `kubectl` does: the one that was asked for, else the context's.
pub fn place(documents: &mut [Value], asked: Option<&str>, context: &str) -> Result<(), RenderError> {
    for document in documents {
        let found = document.pointer("/metadata/namespace").and_then(Value::as_str).map(str::to_owned);
        match (found, asked) {
            (Some(found), Some(asked)) if found != asked => {
                return Err(RenderError::Namespace { name: name(document), found, asked: asked.to_owned() });
            }
            (Some(_), _) => {}
            (None, asked) => {
                if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.insert("namespace".into(), asked.unwrap_or(context).into());
                }
            }
        }
    }
    Ok(())
}

/// Reads a document as an instance.
pub fn instance(document: &Value) -> Result<JamInstance, RenderError> {
    let malformed = |e: serde_json::Error| RenderError::Malformed { name: name(document), problem: e.to_string() };
    let mut instance: JamInstance = serde_json::from_value(document.clone()).map_err(malformed)?;
    instance.metadata.uid.get_or_insert_with(|| NO_UID.into());
    instance.metadata.generation.get_or_insert(1);
    instance.metadata.namespace.get_or_insert_with(|| "default".into());
    Ok(instance)
}

/// Every object that a manifest would become, in the order they are applied, its migration and what follows it included.
pub fn render(text: &str, defaults: &Defaults) -> Result<Vec<Desired>, RenderError> {
    of_documents(&documents(text)?, defaults)
}

/// The same of documents that are read and placed.
pub fn of_documents(documents: &[Value], defaults: &Defaults) -> Result<Vec<Desired>, RenderError> {
    let mut all = Vec::new();
    for instance in documents.iter().map(instance) {
        let instance = instance?;
        let refused =
            |refusal| RenderError::Refused { name: instance.metadata.name.clone().unwrap_or_default(), refusal };
        all.extend(imagined(&instance, defaults).map_err(refused)?);
    }
    Ok(all)
}

/// The objects of an instance in a cluster where its Secrets are there and its migration is approved and succeeds.
fn imagined(instance: &JamInstance, defaults: &Defaults) -> Result<Vec<Desired>, Refusal> {
    let mut instance = instance.clone();
    let mut observed = Observed::nothing(Timestamp::from_micros(0));
    observed.dsn = Some(SecretKey::Present { hash: "0".repeat(10) });
    observed.blob_keys =
        blob_secret(&instance.spec).map(|_| BlobKeys([(); 3].map(|()| SecretKey::Present { hash: "0".repeat(10) })));
    observed.tokens = tokens::consumers(&instance.spec).into_iter().map(|consumer| held(consumer.name)).collect();
    let imagined = |secret: &str| OwnTokens {
        secret: secret.to_owned(),
        exists: true,
        hashes: vec![("imagined".into(), imagined_hash(secret))],
        unusable: Vec::new(),
    };
    observed.own_tokens = tokens::own_tokens(&instance.spec).map(|(_, secret)| imagined(secret));
    observed.admin_tokens = tokens::admin_tokens(&instance.spec).map(|(_, secret)| imagined(secret));
    // The plan of one who has not approved yet shows what approval would lead to.
    if let MigrationStep::AwaitApproval { key, preview: _ } = resolve(&instance, &observed, defaults)?.migration.step {
        instance.metadata.annotations.get_or_insert_default().insert(names::APPROVE_MIGRATION.into(), key);
    }
    Ok(forecast(&instance, &observed, defaults)?.objects)
}

/// The hash that stands in a plan for one that only a cluster has: another for each name, as there.
fn imagined_hash(name: &str) -> TokenHash {
    TokenHash::of(&format!("the token of {name}"))
}

/// A token that is not made yet, as the cluster will hold it: nobody knows it.
pub fn held(consumer: String) -> TokenSecret {
    let slots = Slots { token: Some(imagined_hash(&consumer)), ..Slots::default() };
    let notes = Notes { generation: 1, ..Notes::default() };
    TokenSecret { consumer, holding: Holding { slots, notes, ..Holding::default() } }
}

/// The plan of a manifest as `jam-operator plan` prints it without a cluster: what is in no object as comments, then the objects.
pub fn text(documents: &[Value], defaults: &Defaults) -> Result<String, RenderError> {
    let mut text = String::new();
    for instance in documents.iter().map(instance) {
        let instance = instance?;
        for remark in remarks(&instance) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# JamInstance {}: {remark}", instance.metadata.name.as_deref().unwrap_or_default());
        }
    }
    Ok(text + &to_yaml(&of_documents(documents, defaults)?))
}

/// The objects as YAML documents.
pub fn to_yaml(objects: &[Desired]) -> String {
    let mut text = String::new();
    for item in objects {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&item.body).expect("a Kubernetes object is YAML"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use crate::fixtures::defaults;

    const MANIFEST: &str = "
kind: Namespace
apiVersion: v1
metadata: {name: jam}
---
kind: JamInstance
apiVersion: jam.network/v1alpha1
metadata: {name: main, namespace: jam}
spec:
  profile: staging
  database: {dsnSecretRef: {name: jam-db}}
---
kind: JamInstance
apiVersion: jam.network/v1alpha1
metadata: {name: other}
spec: {}
";

    fn mistake(text: &str) -> String {
        render(text, &defaults()).expect_err("it has no plan").to_string()
    }

    #[test]
    fn a_plan_has_the_migration_and_what_follows_it() {
        let all = render(MANIFEST, &defaults()).unwrap();
        let of = |namespace: &str| -> Vec<Kind> {
            all.iter().filter(|item| item.namespace == namespace).map(|item| item.object.kind).collect()
        };
        assert!(of("jam").contains(&Kind::Job) && of("jam").contains(&Kind::Deployment));
        assert!(of("jam").is_sorted(), "in the order they are applied");
        assert!(!of("default").contains(&Kind::Job));
        let manual = MANIFEST.replace("  profile: staging", "  profile: staging\n  migrations: {mode: Manual}");
        assert_eq!(render(&manual, &defaults()).unwrap(), all, "a plan shows what follows when somebody approves");
        assert_eq!(to_yaml(&all).matches("\n---\n").count() + 1, all.len());
    }

    #[test]
    fn what_has_no_plan_says_why() {
        assert!(mistake("{").starts_with("the manifest is not YAML"));
        assert_eq!(mistake("kind: Secret\napiVersion: v1"), "the manifest has no JamInstance of jam.network");
        let typo = MANIFEST.replace("spec: {}", "spec: {replica: 1}");
        assert!(mistake(&typo).starts_with("JamInstance other: unknown field `replica`"), "{}", mistake(&typo));
        let later = MANIFEST.replace("spec: {}", "spec: {blobStore: {url: \"s3://bucket\"}}");
        assert_eq!(
            mistake(&later),
            "JamInstance other would be refused, InvalidSettings: spec.blobStore needs runtime.jam.store postgres: store memory forgets with its process which objects are whose"
        );
    }

    #[test]
    fn a_list_is_read_as_what_is_in_it_and_what_the_server_wrote_is_left_out() {
        let list = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Secret, metadata: {name: a}}
- apiVersion: jam.network/v1alpha1
  kind: JamInstanceList
  items:
  - {apiVersion: jam.network/v1alpha1, kind: JamInstance, metadata: {name: b, uid: u, generation: 7}, spec: {}, status: {}}
";
        let found = documents(list).unwrap();
        let bare = serde_json::json!({"apiVersion": "jam.network/v1alpha1", "kind": "JamInstance", "metadata": {"name": "b"}, "spec": {}});
        assert_eq!(found, [bare]);
    }

    #[test]
    fn a_version_that_this_release_does_not_know_is_refused_by_name() {
        assert_eq!(
            mistake(&MANIFEST.replace("v1alpha1\nmetadata: {name: other}", "v1\nmetadata: {name: other}")),
            "JamInstance other has apiVersion jam.network/v1: this release knows jam.network/v1alpha1 only"
        );
    }

    #[test]
    fn an_instance_without_a_namespace_is_of_the_one_asked_for_or_of_the_contexts() {
        let placed = |asked: Option<&str>| {
            let mut all = documents(MANIFEST).unwrap();
            place(&mut all, asked, "team").map(|()| all.iter().map(|one| word(&one["metadata"], "namespace")).collect())
        };
        assert_eq!(placed(None), Ok(vec!["jam".to_owned(), "team".to_owned()]));
        assert_eq!(placed(Some("jam")), Ok(vec!["jam".to_owned(), "jam".to_owned()]));
        let mistake = placed(Some("other")).unwrap_err();
        assert_eq!(mistake.to_string(), "JamInstance main is of namespace jam, not of other: leave one of the two out");
    }
}
