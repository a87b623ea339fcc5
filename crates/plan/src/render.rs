//! From the text of a manifest to the objects it would become, without a cluster.

use jam_domain::Timestamp;
use jam_domain::token::TokenHash;
use serde_json::Value;

use crate::crd::{GROUP, JamInstance, KIND};
use crate::desired::Desired;
use crate::forecast::forecast;
use crate::observed::{BlobKeys, Observed, OwnTokens, SecretKey, TokenSecret};
use crate::reason::Refusal;
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
            RenderError::Malformed { .. } => "plan_malformed",
            RenderError::Refused { .. } => "plan_refused",
        }
    }
}

/// The JamInstances of a manifest; other documents are passed over.
pub fn instances(text: &str) -> Result<Vec<JamInstance>, RenderError> {
    documents(text)?.into_iter().map(instance).collect()
}

/// The same as they are written, not yet read as instances.
pub fn documents(text: &str) -> Result<Vec<Value>, RenderError> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|e| RenderError::Yaml(e.to_string()))?;
    let ours = |document: &Value| {
        let word = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        word("kind") == KIND && word("apiVersion").starts_with(&format!("{GROUP}/"))
    };
    let found: Vec<Value> = documents.into_iter().filter(ours).collect();
    if found.is_empty() { Err(RenderError::NoInstance) } else { Ok(found) }
}

fn instance(document: Value) -> Result<JamInstance, RenderError> {
    let name = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("without a name").to_owned();
    let mut instance: JamInstance =
        serde_json::from_value(document).map_err(|e| RenderError::Malformed { name, problem: e.to_string() })?;
    instance.metadata.uid.get_or_insert_with(|| NO_UID.into());
    instance.metadata.generation.get_or_insert(1);
    instance.metadata.namespace.get_or_insert_with(|| "default".into());
    Ok(instance)
}

/// Every object that a manifest would become, in the order they are applied, its migration and what follows it included.
pub fn render(text: &str, defaults: &Defaults) -> Result<Vec<Desired>, RenderError> {
    let mut all = Vec::new();
    for instance in instances(text)? {
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

/// The objects as YAML documents, as `jam-operator plan` prints them.
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
}
