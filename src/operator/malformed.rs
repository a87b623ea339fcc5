//! An instance that this release cannot read: it is told so through an untyped object, and the others keep running.

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};

use jam_plan::{JamInstance, JamInstanceStatus, Reason, names};

use super::context::Context;
use super::error::Error;
use super::key::Key;
use super::publish;

/// Longest message of a condition that is written here.
const MESSAGE: usize = 1024;

/// Writes `Stalled=True` with what cannot be read. It waits for a change; it is not tried again.
pub async fn tell(context: &Context, invalid: &InvalidObject) -> Result<Action, Error> {
    let metadata = &invalid.metadata;
    let key = Key::new(metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default());
    let resource = ApiResource::erase::<JamInstance>(&());
    let instances: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &key.namespace, &resource);
    let what = || format!("JamInstance {key}");
    let Some(live) = instances.get_opt(&key.name).await.map_err(Error::read(what()))? else {
        return Ok(Action::await_change());
    };
    let before = live.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let now = conditions(&before, metadata.generation, &invalid.error);
    if now != before {
        tracing::warn!(instance = %key, error = invalid.error, "the resource cannot be read");
        let body = json!({
            "metadata": {"uid": live.uid()},
            "status": {"observedGeneration": metadata.generation, "conditions": now},
        });
        let params = PatchParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PatchParams::default() };
        instances.patch_status(&key.name, &params, &Patch::Merge(&body)).await.map_err(Error::write(what()))?;
        publish::tell(context, &key, &live.object_ref(&resource), &readable(&before), &readable(&now)).await;
    }
    Ok(Action::await_change())
}

/// The conditions as a status, to tell the transitions by.
fn readable(conditions: &[Value]) -> JamInstanceStatus {
    let conditions = conditions.iter().filter_map(|condition| serde_json::from_value(condition.clone()).ok());
    JamInstanceStatus { conditions: conditions.collect(), ..JamInstanceStatus::default() }
}

/// The conditions with the three of kstatus set, dated anew where their status changes.
fn conditions(before: &[Value], generation: Option<i64>, error: &str) -> Vec<Value> {
    let message: String = format!("this release cannot read the resource: {error}").chars().take(MESSAGE).collect();
    let mut all = before.to_vec();
    for (kind, status) in [("Ready", "False"), ("Reconciling", "False"), ("Stalled", "True")] {
        let at = all.iter().position(|condition| condition["type"] == kind);
        let earlier = at.map(|at| &all[at]).filter(|condition| condition["status"] == status);
        let since = earlier.map_or_else(|| json!(now()), |c| c["lastTransitionTime"].clone());
        let condition = json!({
            "type": kind,
            "status": status,
            "reason": Reason::InvalidSettings.as_str(),
            "message": message,
            "observedGeneration": generation,
            "lastTransitionTime": since,
        });
        match at {
            Some(at) => all[at] = condition,
            None => all.push(condition),
        }
    }
    all
}

/// Now, to the second, as Kubernetes writes times.
fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_fault_is_written_once() {
        let other = json!({"type": "Migrated", "status": "True"});
        let first = conditions(std::slice::from_ref(&other), Some(3), "spec.replicas: invalid type");
        assert_eq!(first.len(), 4);
        assert_eq!(first[0], other, "what else was said stays");
        assert_eq!(conditions(&first, Some(3), "spec.replicas: invalid type"), first);
        assert_ne!(conditions(&first, Some(4), "spec.replicas: invalid type"), first);
    }
}
