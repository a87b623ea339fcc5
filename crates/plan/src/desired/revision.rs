//! A revision: everything that decides how pods run, kept word for word in a ConfigMap of its own (adr/0015).

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;

use super::{Desired, Kind, Write, config, deployment, identity};
use crate::names::{self, Component};
use crate::observed::{DeploymentState, owned_template};
use crate::resolve::Resolved;

/// The key with the server's settings file.
const CONFIG: &str = "config.yaml";
/// The key with the template of the API pods.
const API: &str = "api.json";
/// The key with the template of the worker pods.
const WORKER: &str = "worker.json";

/// The volume in which a template mounts the settings file.
const CONFIG_VOLUME: &str = "config";
/// Where a template has the hash of the DSN.
const DSN_HASH: &str = "/metadata/annotations/jam.network~1dsn-hash";
/// The same of the keys to the blob store.
const BLOB_KEYS_HASH: &str = "/metadata/annotations/jam.network~1blob-keys-hash";

/// Settings file and pod templates, as they were rendered once. Its name is the hash of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Revision {
    name: String,
    config: String,
    api: Value,
    worker: Option<Value>,
}

impl Revision {
    /// What this release makes of an instance.
    pub(crate) fn render(resolved: &Resolved) -> Self {
        let config = config::file(resolved);
        let api = deployment::api_template(resolved, &config);
        let worker = resolved.runs_workers().then(|| deployment::worker_template(resolved, &config));
        Self { name: name(&resolved.name, &config, &api, worker.as_ref()), config, api, worker }
    }

    /// What a ConfigMap holds, when its name proves that it is what was once written.
    pub fn of(map: &ConfigMap, instance: &str) -> Option<Self> {
        let data = map.data.as_ref()?;
        let template = |key: &str| data.get(key).map(|text| serde_json::from_str::<Value>(text)).transpose().ok();
        let (config, api, worker) = (data.get(CONFIG)?.clone(), template(API)??, template(WORKER)?);
        let name = name(instance, &config, &api, worker.as_ref());
        (map.metadata.name.as_deref() == Some(name.as_str())).then_some(Self { name, config, api, worker })
    }

    /// What runs, from the fields that we applied once and the settings file that the pods mount: a release from before
    /// revisions stored none. Nothing where that is not the whole of it.
    pub fn adopt(api: &Deployment, worker: Option<&Deployment>, map: &ConfigMap, instance: &str) -> Option<Self> {
        let mounts = |deployment: &Deployment| DeploymentState::of(deployment).config == map.metadata.name;
        let whole = |deployment: &Deployment| {
            let template = owned_template(deployment)?;
            let has = |path: &str| template.pointer(path).is_some_and(|value| !value.is_null());
            let parts = ["/spec/containers/0/image", "/spec/containers/0/args", "/spec/volumes/0", "/metadata/labels"];
            (mounts(deployment) && parts.into_iter().all(has)).then_some(template)
        };
        let config = map.data.as_ref()?.get(CONFIG)?.clone();
        let api = whole(api)?;
        let worker = match worker {
            Some(worker) => Some(whole(worker)?),
            None => None,
        };
        Some(Self { name: name(instance, &config, &api, worker.as_ref()), config, api, worker })
    }

    /// Whether its pods take this variable from this key of this Secret.
    pub(crate) fn takes(&self, variable: &str, (secret, key): (&str, &str)) -> bool {
        let variables = self.api.pointer("/spec/containers/0/env").and_then(Value::as_array).into_iter().flatten();
        let mut of_it = variables.filter(|told| told["name"] == variable);
        of_it.any(|told| {
            let reference = &told["valueFrom"]["secretKeyRef"];
            reference["name"] == secret && reference["key"] == key
        })
    }

    /// The same pods with another DSN, and other keys to the blob store: nothing else about them is decided anew.
    pub(crate) fn with_secrets(mut self, instance: &str, dsn: Option<&str>, blob_keys: Option<&str>) -> Self {
        for template in [Some(&mut self.api), self.worker.as_mut()].into_iter().flatten() {
            for (place, hash) in [(DSN_HASH, dsn), (BLOB_KEYS_HASH, blob_keys)] {
                if let (Some(told), Some(hash)) = (template.pointer_mut(place), hash) {
                    *told = hash.into();
                }
            }
        }
        self.name = name(instance, &self.config, &self.api, self.worker.as_ref());
        self
    }

    /// The same pods with this toggle in their settings file, whatever else the spec says by now.
    pub(crate) fn with_enabled(mut self, instance: &str, enabled: bool) -> Self {
        self.config = config::with_enabled(&self.config, enabled);
        let map = config::name(instance, &self.config);
        for template in [Some(&mut self.api), self.worker.as_mut()].into_iter().flatten() {
            let volumes = template.pointer_mut("/spec/volumes").and_then(Value::as_array_mut);
            for volume in volumes.into_iter().flatten().filter(|volume| volume["name"] == CONFIG_VOLUME) {
                if let Some(name) = volume.pointer_mut("/configMap/name") {
                    *name = map.clone().into();
                }
            }
        }
        self.name = name(instance, &self.config, &self.api, self.worker.as_ref());
        self
    }

    /// Whether its pods serve `/jam/*`, as their settings file says.
    pub fn enabled(&self) -> Option<bool> {
        config::enabled(&self.config)
    }

    /// The hash of the DSN that its pods were made with; empty where they need none.
    pub(crate) fn dsn_hash(&self) -> &str {
        self.api.pointer(DSN_HASH).and_then(Value::as_str).unwrap_or_default()
    }

    /// The name of its ConfigMap.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server's settings file.
    pub(super) fn config(&self) -> &str {
        &self.config
    }

    /// The template of the API pods.
    pub(super) fn api(&self) -> &Value {
        &self.api
    }

    /// The template of the worker pods, where there are any.
    pub(super) fn worker(&self) -> Option<&Value> {
        self.worker.as_ref()
    }

    /// Whether it has worker pods.
    pub fn has_workers(&self) -> bool {
        self.worker.is_some()
    }

    /// The image of the API pods.
    pub fn image(&self) -> &str {
        self.api.pointer("/spec/containers/0/image").and_then(Value::as_str).unwrap_or_default()
    }

    /// The revision of the operator's rendering that made it.
    pub fn render_revision(&self) -> Option<i32> {
        self.api["metadata"]["annotations"][names::RENDER_REVISION].as_str()?.parse().ok()
    }
}

/// Hash of the content, in the form in which it is written and read back.
fn name(instance: &str, config: &str, api: &Value, worker: Option<&Value>) -> String {
    let text = |template: &Value| jam_domain::canonical::bytes(template);
    let (api, worker) = (text(api), worker.map(text).unwrap_or_default());
    names::revision(instance, &names::short_hash([config.as_bytes(), &api, &worker]))
}

/// The ConfigMap that holds it: immutable, because what it is named by never changes. No pod mounts it.
pub(super) fn record(resolved: &Resolved) -> Desired {
    let Revision { name, config, api, worker } = &resolved.revision;
    let text =
        |template: &Value| String::from_utf8(jam_domain::canonical::bytes(template)).expect("canonical JSON is UTF-8");
    let mut data = BTreeMap::from([(CONFIG.to_owned(), config.clone()), (API.to_owned(), text(api))]);
    data.extend(worker.as_ref().map(|worker| (WORKER.to_owned(), text(worker))));
    let map = ConfigMap {
        metadata: identity::metadata(resolved, name, Component::Api),
        immutable: Some(true),
        data: Some(data),
        ..ConfigMap::default()
    };
    Desired::new(resolved, Kind::ConfigMap, name.clone(), Write::Apply, &map)
}
