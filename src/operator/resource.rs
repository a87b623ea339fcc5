//! Whether the API server knows the resource, and all of it: an older schema prunes what it does not know, silently.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::health::Health;
use super::watch::chain;

/// The resource's name.
const NAME: &str = "jaminstances.jam.network";
/// How often the API server is asked again.
const PAUSE: Duration = Duration::from_secs(3);

/// Waits until the resource is served; `false` when the program is to stop before that. Says what it waits for.
pub async fn wait(client: &Client, health: &Health, stop: &CancellationToken) -> bool {
    let mut last = String::new();
    loop {
        let missing = match look(client).await {
            Ok(()) => return true,
            Err(missing) => missing,
        };
        if missing != last {
            tracing::warn!(missing, "waiting");
        }
        health.waiting(missing.clone());
        last = missing;
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stop.cancelled() => return false,
        }
    }
}

/// What is said where the resource is not served.
pub fn missing() -> String {
    format!("CustomResourceDefinition {NAME} is missing: apply the one of this release")
}

async fn look(client: &Client) -> Result<(), String> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    match definitions.get_opt(NAME).await {
        Ok(Some(definition)) => {
            let unknown = unknown_fields(&definition, &jam_plan::crd::crd());
            if !unknown.is_empty() {
                tracing::warn!(
                    crd = NAME,
                    fields = unknown.join(", "),
                    "the CustomResourceDefinition in the cluster is older than this operator: these fields are dropped \
                     without a word; apply the one of this release"
                );
            }
            Ok(())
        }
        Ok(None) => Err(missing()),
        // Without the right to read definitions, the served resources tell whether it is there.
        Err(kube::Error::Api(status)) if status.code == 403 => served(client).await,
        Err(error) => Err(format!("the API server does not answer: {}", chain(&error))),
    }
}

async fn served(client: &Client) -> Result<(), String> {
    let version = format!("{}/{}", jam_plan::crd::GROUP, jam_plan::crd::VERSION);
    match client.list_api_group_resources(&version).await {
        Ok(list) if list.resources.iter().any(|resource| resource.kind == jam_plan::crd::KIND) => Ok(()),
        Ok(_) => Err(missing()),
        Err(kube::Error::Api(status)) if status.code == 404 => Err(missing()),
        Err(error) => Err(format!("the API server does not answer: {}", chain(&error))),
    }
}

/// Paths of fields that this operator knows and the definition in the cluster does not.
fn unknown_fields(theirs: &CustomResourceDefinition, ours: &CustomResourceDefinition) -> Vec<String> {
    let schema = |definition: &CustomResourceDefinition| {
        let version = definition.spec.versions.iter().find(|version| version.name == jam_plan::crd::VERSION)?;
        serde_json::to_value(version.schema.as_ref()?.open_api_v3_schema.as_ref()?).ok()
    };
    let (Some(theirs), Some(ours)) = (schema(theirs), schema(ours)) else {
        return vec![format!("version {}", jam_plan::crd::VERSION)];
    };
    let mut unknown = Vec::new();
    compare("", &ours, &theirs, &mut unknown);
    unknown
}

fn compare(path: &str, ours: &Value, theirs: &Value, unknown: &mut Vec<String>) {
    if theirs.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        return;
    }
    for (name, field) in ours["properties"].as_object().into_iter().flatten() {
        match theirs["properties"].get(name) {
            Some(known) => compare(&format!("{path}.{name}"), field, known, unknown),
            None if theirs["additionalProperties"].is_object() => {}
            None => unknown.push(format!("{path}.{name}")),
        }
    }
    if ours["items"].is_object() {
        compare(&format!("{path}[]"), &ours["items"], &theirs["items"], unknown);
    }
    if ours["additionalProperties"].is_object() {
        compare(&format!("{path}.*"), &ours["additionalProperties"], &theirs["additionalProperties"], unknown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_the_cluster_would_drop_is_named() {
        let ours = jam_plan::crd::crd();
        assert!(unknown_fields(&ours, &ours).is_empty());
        let mut older = serde_json::to_value(&ours).unwrap();
        let schema = older.pointer_mut("/spec/versions/0/schema/openAPIV3Schema").unwrap();
        let spec = schema.pointer_mut("/properties/spec/properties").unwrap().as_object_mut().unwrap();
        spec.remove("paused").unwrap();
        let consumers = spec["tokens"].pointer_mut("/properties/consumers/items/properties").unwrap();
        consumers.as_object_mut().unwrap().remove("scopes").unwrap();
        let older = serde_json::from_value(older).unwrap();
        assert_eq!(unknown_fields(&older, &ours), [".spec.paused", ".spec.tokens.consumers[].scopes"]);
    }
}
