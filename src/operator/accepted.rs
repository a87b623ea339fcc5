//! What `kubectl apply` of a manifest would make of an instance, asked of the API server by a dry run.
//!
//! What somebody else set and the manifest leaves out stays: a toggle by `kubectl patch`, a number of pods by `kubectl scale`.

use jam_plan::JamInstance;
use jam_plan::names::FIELD_MANAGER;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Map, Value};

use super::context::Context;
use super::key::Key;
use super::watch::chain;

/// Where `kubectl apply` keeps what it applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The field manager of `kubectl apply --server-side`.
const KUBECTL: &str = "kubectl";

/// The instance as the API server would store it: merged as apply does it, defaulted, proven, with the generation it would have.
pub async fn accepted(context: &Context, key: &Key, document: &Value) -> Result<JamInstance, String> {
    let resource = ApiResource::erase::<JamInstance>(&());
    let instances: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &key.namespace, &resource);
    let refused = |error: kube::Error| format!("the API server does not take it: {}", chain(&error));
    let unread =
        |error: serde_json::Error| format!("this release cannot read what the API server makes of it: {error}");
    let there = instances.get_opt(&key.name).await.map_err(|error| format!("it cannot be read: {}", chain(&error)))?;
    let noted = there.as_ref().and_then(|live| live.annotations().get(LAST_APPLIED));
    let before: Option<Value> = noted.and_then(|text| serde_json::from_str(text).ok());
    let stored = match (there, before) {
        (None, _) => {
            let params = PostParams { dry_run: true, field_manager: Some(KUBECTL.into()) };
            let new = serde_json::from_value(document.clone()).map_err(unread)?;
            instances.create(&params, &new).await
        }
        (Some(live), Some(before)) => {
            let live = serde_json::to_value(&live).map_err(unread)?;
            // There are always annotations: kubectl's own.
            let mut wanted = document.clone();
            let metadata = wanted.get_mut("metadata").and_then(Value::as_object_mut);
            metadata.map(|fields| fields.entry("annotations").or_insert_with(|| Map::new().into()));
            let patch = Patch::Merge(Value::Object(three_way(&before, &wanted, &live)));
            instances.patch(&key.name, &PatchParams::default().dry_run(), &patch).await
        }
        (Some(live), None) => {
            let params = PatchParams::apply(&manager(&live)).force().dry_run();
            instances.patch(&key.name, &params, &Patch::Apply(document)).await
        }
    };
    let stored = serde_json::to_value(stored.map_err(refused)?).map_err(unread)?;
    serde_json::from_value(stored).map_err(unread)
}

/// In whose name it was applied so far: what that one applied and the manifest has no more goes.
fn manager(live: &DynamicObject) -> String {
    let fields = live.metadata.managed_fields.iter().flatten();
    let applied = fields.filter(|entry| entry.operation.as_deref() == Some("Apply") && entry.subresource.is_none());
    let mut managers = applied.filter_map(|entry| entry.manager.clone()).filter(|manager| manager != FIELD_MANAGER);
    match (managers.next(), managers.next()) {
        (Some(only), None) => only,
        (Some(_), Some(_)) | (None, _) => KUBECTL.into(),
    }
}

/// The merge patch of `kubectl apply`: what the manifest says, and the end of what it said before and does not say any more.
fn three_way(before: &Value, wanted: &Value, live: &Value) -> Map<String, Value> {
    let mut patch = Map::new();
    for (key, value) in wanted.as_object().into_iter().flatten() {
        match live.get(key) {
            Some(found) if found == value => {}
            Some(found) if found.is_object() && value.is_object() => {
                let inner = three_way(&before[key], value, found);
                if !inner.is_empty() {
                    patch.insert(key.clone(), inner.into());
                }
            }
            Some(_) | None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in before.as_object().into_iter().flat_map(Map::keys) {
        if wanted.get(key).is_none() && live.get(key).is_some() {
            patch.insert(key.clone(), Value::Null);
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_set_stays_and_what_the_manifest_has_no_more_goes() {
        let before = json!({"metadata": {"name": "main", "annotations": {}}, "spec": {"replicas": 1, "paused": true, "a": {"b": 1}}});
        let wanted = json!({"metadata": {"name": "main", "annotations": {}}, "spec": {"replicas": 2, "list": [1], "a": {"c": {"d": 1}}}});
        let live = json!({
            "metadata": {"name": "main", "uid": "u", "annotations": {"their": "own"}},
            "spec": {"replicas": 5, "paused": true, "list": [1, 2], "set": "by hand", "a": {"b": 1, "e": 2}},
            "status": {},
        });
        let patch = json!({"spec": {"replicas": 2, "paused": null, "list": [1], "a": {"b": null, "c": {"d": 1}}}});
        assert_eq!(Value::Object(three_way(&before, &wanted, &live)), patch);
    }
}
