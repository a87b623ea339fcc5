//! The cluster that kubectl's flags name, and the instances in it.

use std::time::Duration;

use jam_plan::{JamInstance, JamInstanceStatus};
use kube::api::{ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, Object};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::Value;

use super::args::PlaceArgs;
use super::fault::Fault;
use crate::operator::chain;

/// How long one request may take: the API server of a laptop that sleeps must not hold a terminal.
const PATIENCE: Duration = Duration::from_secs(30);
/// The field manager of what a person changes with this plugin.
const MANAGER: &str = "kubectl-jam";

/// An instance as any release of the operator has it: a spec that this build does not know is no reason to show nothing.
pub type Instance = Object<Value, JamInstanceStatus>;

/// Where to ask.
pub struct Cluster {
    /// The API server.
    pub client: Client,
    /// The namespace that is meant where none is named.
    pub namespace: String,
}

impl PlaceArgs {
    /// The cluster's address and credentials.
    pub async fn config(&self) -> Result<Config, Fault> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let unusable = |error: &(dyn std::error::Error + 'static)| {
            let hint = "name one by --kubeconfig or KUBECONFIG, and one of its contexts by --context";
            Fault::Usage(format!("no cluster is configured: {}; {hint}", chain(error)))
        };
        let mut config = match (&self.kubeconfig, &self.context) {
            (Some(path), _) => {
                let file = Kubeconfig::read_from(path).map_err(|error| unusable(&error))?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| unusable(&error))?
            }
            (None, Some(_)) => Config::from_kubeconfig(&options).await.map_err(|error| unusable(&error))?,
            (None, None) => Config::infer().await.map_err(|error| unusable(&error))?,
        };
        config.connect_timeout = Some(PATIENCE);
        config.read_timeout = Some(PATIENCE);
        config.write_timeout = Some(PATIENCE);
        if let Some(namespace) = &self.namespace {
            config.default_namespace.clone_from(namespace);
        }
        Ok(config)
    }

    /// A client of it.
    pub async fn cluster(&self) -> Result<Cluster, Fault> {
        let config = self.config().await?;
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config)
            .map_err(|error| Fault::Usage(format!("the kubeconfig cannot be used: {}", chain(&error))))?;
        Ok(Cluster { client, namespace })
    }
}

impl Cluster {
    fn instances(&self) -> Api<Instance> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &ApiResource::erase::<JamInstance>(&()))
    }

    /// The instance of this name; where there is none, the names that are near.
    pub async fn instance(&self, name: &str) -> Result<Instance, Fault> {
        let doing = format!("read JamInstance {}/{name}", self.namespace);
        match self.instances().get(name).await {
            Ok(instance) => Ok(instance),
            // It says much the same when it does not know the kind: then the list is not there either.
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let there = near(name, &self.all(false).await?);
                Err(Fault::NotFound(format!("no JamInstance {name} in namespace {}; {there}", self.namespace)))
            }
            Err(error) => Err(Fault::of(&doing, error)),
        }
    }

    /// The instances of the namespace, or of all.
    pub async fn all(&self, everywhere: bool) -> Result<Vec<Instance>, Fault> {
        let resource = ApiResource::erase::<JamInstance>(&());
        let api: Api<Instance> =
            if everywhere { Api::all_with(self.client.clone(), &resource) } else { self.instances() };
        match api.list(&ListParams::default()).await {
            Ok(list) => Ok(list.items),
            Err(kube::Error::Api(status)) if status.code == 404 => Err(Fault::NoDefinition),
            Err(error) => Err(Fault::of("list JamInstances", error)),
        }
    }

    /// Changes these fields of an instance, and nothing else in it.
    pub async fn change(&self, name: &str, fields: &Value) -> Result<Instance, Fault> {
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let changed = self.instances().patch(name, &params, &Patch::Merge(fields)).await;
        changed.map_err(|error| Fault::of(&format!("change JamInstance {}/{name}", self.namespace), error))
    }
}

/// `namespace/name`.
pub fn place(instance: &Instance) -> String {
    format!("{}/{}", instance.namespace().unwrap_or_default(), instance.name_any())
}

/// The status, empty while the operator has said nothing.
pub fn told(instance: &Instance) -> JamInstanceStatus {
    instance.status.clone().unwrap_or_default()
}

/// A word of the spec.
pub fn spec<'a>(instance: &'a Instance, pointer: &str) -> Option<&'a Value> {
    instance.spec.pointer(pointer).filter(|value| !value.is_null())
}

fn near(name: &str, there: &[Instance]) -> String {
    let mut names: Vec<String> = there.iter().map(ResourceExt::name_any).collect();
    // The nearest first; of many a few.
    names.sort_by(|a, b| strsim::jaro_winkler(b, name).total_cmp(&strsim::jaro_winkler(a, name)));
    names.truncate(5);
    if names.is_empty() {
        "there is none in it; kubectl jam status -A shows those of all namespaces".into()
    } else {
        format!("there is {}", names.join(", "))
    }
}
