//! Everything that was read from the cluster and decides what is wanted and what is said: plain data, no secrets.

mod child;
mod cleanup;
mod deployment;
mod last_words;
mod migration;
mod owned;
mod preview;
mod schema;
#[cfg(test)]
mod tests;
mod token_secrets;

use std::collections::{BTreeMap, BTreeSet};

use jam_domain::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::desired::Revision;
use crate::names;
use crate::resolve::BLOB_KEYS;
use crate::rotation::{Distribution, PodAnswer};

pub use token_secrets::{HashBook, OwnTokens, TokenSecret};

pub use child::Child;
pub use cleanup::{CleanupOutcome, CleanupRun, CleanupState, ToldRun};
pub use deployment::DeploymentState;
pub(crate) use last_words::end_of;
pub use last_words::{LastWords, left_out};
pub use migration::{CutShort, JobState, MigrationJob, SUSPENDED};
pub(crate) use owned::owned_template;
pub use preview::{MigrationPreview, PreviewSaid, applies_nothing};
pub use schema::PodSchema;

/// What the cluster looks like, for one instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// When this was read.
    pub at: Timestamp,
    /// The Secret key that `spec.database` refers to; `None` when it refers to nothing.
    pub dsn: Option<SecretKey>,
    /// The database's port, when the DSN is there and names one.
    pub database_port: Option<u16>,
    /// The Secret with the keys to the blob store, when the spec refers to one.
    pub blob_keys: Option<BlobKeys>,
    /// The consumers' Secrets that are there.
    pub tokens: Vec<TokenSecret>,
    /// The consumers whose Secret could not be written just now.
    pub held: BTreeMap<String, Held>,
    /// The Secret of hashes as it is in the cluster; `None` when it is not there.
    pub hashes: Option<HashBook>,
    /// The Secret with the user's own tokens, when the spec refers to one.
    pub own_tokens: Option<OwnTokens>,
    /// The Secret with the tokens of administrators, when the spec refers to one.
    pub admin_tokens: Option<OwnTokens>,
    /// What each API pod says about tokens, while a rotation has to know.
    pub pod_answers: Vec<PodAnswer>,
    /// Whether API pods are there without a Deployment: they serve until they are gone.
    pub pods_remain: bool,
    /// Consumers whose Secret an instance of the same name has left to the garbage collector.
    pub leaving: BTreeSet<String>,
    /// How far what the Secret of hashes says has come; `None` where no API runs that could have read it.
    pub distribution: Option<Distribution>,
    /// The migration Jobs of this instance that are there.
    pub migration_jobs: Vec<MigrationJob>,
    /// What keeps the pod of the migration that runs from its end, where anybody says so.
    pub migration_trouble: Option<String>,
    /// The pods of migrations that have not ended, as `name (where it stands)`; looked for before a Job is made.
    pub migration_pods: Vec<String>,
    /// What migrations that wait for approval would apply.
    pub migration_previews: Vec<MigrationPreview>,
    /// The API Deployment, from the last answer of the API server.
    pub api: Option<DeploymentState>,
    /// The worker Deployment.
    pub worker: Option<DeploymentState>,
    /// Whether the database answers, as the API pods' readiness or the migration says; `None` when nobody was asked.
    pub database: Option<Probe>,
    /// Why API pods are not ready, in the kubelet's words (such as ImagePullBackOff), when they are not.
    pub trouble: Option<String>,
    /// The same of workers.
    pub worker_trouble: Option<String>,
    /// Since when a pod that was ready runs on and is not ready any more, the first of them: what was evicted or deleted did not lapse.
    pub lapsed: Option<Timestamp>,
    /// The same of a worker's pod.
    pub worker_lapsed: Option<Timestamp>,
    /// Since when every API pod that is wanted has lapsed, where all of them have.
    pub all_lapsed: Option<Timestamp>,
    /// The same of workers' pods.
    pub workers_lapsed: Option<Timestamp>,
    /// Whether API pods are ready each of which has fallen on its rollout's trial, too, and come back since the first one fell.
    pub in_turns: bool,
    /// The same of workers' pods.
    pub workers_in_turns: bool,
    /// What runs, as a revision, where status pins none (a release from before revisions made it) or a rollout was given up.
    pub adoptable: Option<Revision>,
    /// The revisions that status refers to and that were read because they differ from what is rendered now.
    pub revisions: Vec<Revision>,
    /// The schema that the API pods find, when they were asked.
    pub pod_schema: Option<PodSchema>,
    /// The metadata of everything that carries this instance's labels.
    pub children: Vec<Child>,
    /// Whether a pod runs on that no Deployment counts; looked for only before fewer ports are let through.
    pub lingers: bool,
    /// Objects of wanted names that are not ours.
    pub foreign: Vec<Foreign>,
    /// The CronJob of the cleanup and its last run.
    pub cleanup: Option<CleanupState>,
    /// Optional kinds that the API server does not serve.
    pub unserved: BTreeSet<crate::Kind>,
    /// The overrides in force, as an API pod says; `None` when nobody was asked or answered.
    pub overrides: Option<Vec<ActiveOverride>>,
}

/// A setting that an administrator has put in front of the spec's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveOverride {
    /// The setting, as the API calls it.
    pub key: String,
    /// The value in force.
    pub value: String,
    /// The spec's value.
    pub overrode: String,
}

/// Longest words about the pods of one Deployment where there are some about those of another, too.
const HALF: usize = 200;

impl Observed {
    /// What is wrong with the pods, servers and workers both.
    pub fn told_trouble(&self) -> Option<String> {
        let short = |words: &String| match words.char_indices().nth(HALF) {
            Some((end, _)) => format!("{}…", &words[..end]),
            None => words.clone(),
        };
        match (&self.trouble, &self.worker_trouble) {
            (Some(of_servers), Some(of_workers)) if of_servers != of_workers => {
                Some(format!("{}; {}", short(of_servers), short(of_workers)))
            }
            (Some(words), None | Some(_)) => Some(words.clone()),
            (None, words) => words.clone(),
        }
    }

    /// A cluster with nothing of this instance in it.
    pub fn nothing(at: Timestamp) -> Self {
        Self {
            at,
            dsn: None,
            database_port: None,
            blob_keys: None,
            tokens: Vec::new(),
            hashes: None,
            own_tokens: None,
            admin_tokens: None,
            pod_answers: Vec::new(),
            pods_remain: false,
            leaving: BTreeSet::new(),
            distribution: None,
            migration_jobs: Vec::new(),
            migration_trouble: None,
            migration_pods: Vec::new(),
            migration_previews: Vec::new(),
            held: BTreeMap::new(),
            api: None,
            worker: None,
            database: None,
            trouble: None,
            worker_trouble: None,
            lapsed: None,
            worker_lapsed: None,
            all_lapsed: None,
            workers_lapsed: None,
            in_turns: false,
            workers_in_turns: false,
            adoptable: None,
            revisions: Vec::new(),
            pod_schema: None,
            children: Vec::new(),
            lingers: false,
            foreign: Vec::new(),
            cleanup: None,
            unserved: BTreeSet::new(),
            overrides: None,
        }
    }
}

/// A key of a Secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretKey {
    /// There is no such Secret.
    NoSecret,
    /// The Secret has no such key.
    NoKey,
    /// The key is there and holds nothing.
    Empty,
    /// The key holds a value.
    Present {
        /// Hash of the value and the instance's uid, 10 hex digits.
        hash: String,
    },
}

impl SecretKey {
    /// What a Secret says about a key. `salt` is the instance's uid: equal values of two instances differ.
    pub fn of(secret: Option<&Secret>, key: &str, salt: &str) -> Self {
        let Some(secret) = secret else { return SecretKey::NoSecret };
        match secret.data.as_ref().and_then(|data| data.get(key)) {
            None => SecretKey::NoKey,
            Some(ByteString(value)) if value.trim_ascii().is_empty() => SecretKey::Empty,
            Some(ByteString(value)) => {
                SecretKey::Present { hash: names::short_hash([salt.as_bytes(), value.trim_ascii()]) }
            }
        }
    }

    /// The hash of the value, where there is one.
    pub fn hash(&self) -> Option<&str> {
        match self {
            Self::Present { hash } => Some(hash),
            Self::NoSecret | Self::NoKey | Self::Empty => None,
        }
    }
}

/// What a Secret says about each of [`BLOB_KEYS`], without their values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobKeys(pub [SecretKey; 3]);

impl BlobKeys {
    /// What a Secret says. `salt` is the instance's uid.
    pub fn of(secret: Option<&Secret>, salt: &str) -> Self {
        Self(BLOB_KEYS.map(|key| SecretKey::of(secret, key, salt)))
    }

    /// The hash of them all, as pods carry it; `None` while one is missing that is needed.
    pub fn hash(&self) -> Option<String> {
        let Self([id, key, session]) = self;
        let session = match session {
            // There for credentials that end, and nowhere else.
            SecretKey::NoKey => "",
            SecretKey::NoSecret | SecretKey::Empty | SecretKey::Present { .. } => session.hash()?,
        };
        Some(names::short_hash([id.hash()?, key.hash()?, session].map(str::as_bytes)))
    }
}

/// Why a consumer's Secret could not be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What the API server said.
    pub why: String,
    /// Whether the Secret is there, as it was before.
    pub made: bool,
}

/// Whether something answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// It does.
    pub reachable: bool,
    /// What it said, for people. Never a DSN.
    pub message: String,
}

/// An object of a wanted name that is not ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// What it is.
    pub object: crate::ObjectRef,
    /// Whose it is, in words that follow "belongs to".
    pub owner: String,
}

impl Foreign {
    /// Judges an object of a wanted name by its metadata: `None` when it is this instance's.
    ///
    /// Ours is what this instance controls. Kept token Secrets have no controller: they are ours by their labels, so
    /// that an instance made again takes them over, and also when somebody took these labels off what we have written.
    pub fn judge(object: &crate::ObjectRef, metadata: &ObjectMeta, instance: &str, uid: &str) -> Option<Self> {
        let label = |key: &str| metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
        let labelled =
            label(names::MANAGED_BY.0) == Some(names::MANAGED_BY.1) && label(names::INSTANCE) == Some(instance);
        let mut fields = metadata.managed_fields.iter().flatten();
        let written = fields.any(|entry| entry.manager.as_deref() == Some(names::FIELD_MANAGER));
        let unlabelled = label(names::INSTANCE).is_none_or(|named| named == instance);
        let owner = match controller_of(metadata) {
            Some((_, controller)) if controller == uid => return None,
            Some((who, _)) => who,
            None if labelled || (written && unlabelled) => return None,
            None => match (label(names::MANAGED_BY.0), label(names::INSTANCE)) {
                (Some(manager), Some(other)) if manager == names::MANAGED_BY.1 => {
                    format!("JamInstance {other}, by its label {}", names::INSTANCE)
                }
                (Some(manager), _) => format!("{manager}, by its label"),
                (None, _) => "nobody that it names".into(),
            },
        };
        Some(Self { object: object.clone(), owner })
    }
}

fn controller_of(metadata: &ObjectMeta) -> Option<(String, String)> {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
    Some((format!("{} {}", owner.kind, owner.name), owner.uid.clone()))
}

fn noted(notes: Option<&BTreeMap<String, String>>, key: &str) -> Option<String> {
    notes.and_then(|notes| notes.get(key)).cloned()
}

fn instant(time: Option<&Time>) -> Option<Timestamp> {
    time.map(|Time(at)| Timestamp::from_jiff(*at))
}
