//! What administrators have set in front of the spec at run time: a ready pod is asked, where there can be anything to tell.

use jam_plan::crd::ConditionType;
use jam_plan::names::Component;
use jam_plan::observed::ActiveOverride;
use jam_plan::{JamInstance, Observed};
use serde_json::Value;

use super::context::Context;
use super::key::Key;
use super::pods::{ENOUGH, is_ready, pods_of, readiness};

/// Letters that the name of a setting has at most.
const KEY: usize = 64;

/// Fills in the overrides in force. Nothing here can fail a reconcile: without an answer the status stays as it is.
pub async fn look(context: &Context, instance: &JamInstance, observed: &mut Observed) {
    if !has_administrators(instance) || observed.api.as_ref().is_none_or(|api| api.ready == 0) {
        return;
    }
    let Ok(pods) = pods_of(context, &Key::of(instance), Component::Api).await else { return };
    for pod in pods.iter().filter(|pod| is_ready(pod)).take(ENOUGH as usize) {
        let Some(address) = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()) else { continue };
        if let Some(said) = readiness(context, address).await.as_ref().and_then(overrides_of) {
            observed.overrides = Some(said);
            return;
        }
    }
}

/// Whether anybody can have set something, or did and has gone since.
fn has_administrators(instance: &JamInstance) -> bool {
    let tokens = instance.spec.tokens.as_ref();
    let conditions = instance.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    tokens.is_some_and(|tokens| tokens.admin_tokens_secret_ref.is_some())
        || conditions
            .iter()
            .any(|condition| condition.type_ == ConditionType::Overridden.as_str() && condition.status == "True")
}

/// The overrides in a readiness answer: `{"overrides": [{"key": "enabled", "value": false, "overrode": true}]}`. A pod of an
/// earlier release says nothing of them.
fn overrides_of(answer: &Value) -> Option<Vec<ActiveOverride>> {
    let one = |told: &Value| {
        // They are repeated in a condition: no words, whatever a pod makes of its answer.
        let word =
            |name: &str| told.get(name).filter(|value| value.is_number() || value.is_boolean()).map(Value::to_string);
        let key = told.get("key")?.as_str()?;
        let is_key = key.len() <= KEY && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        is_key.then_some(())?;
        Some(ActiveOverride { key: key.into(), value: word("value")?, overrode: word("overrode")? })
    };
    answer.get("overrides")?.as_array()?.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_readiness_answer_tells_the_overrides_when_the_pod_knows_of_them() {
        let told = json!({"overrides": [{"key": "max_pending_packages", "value": 5, "overrode": 100}]});
        let set = ActiveOverride { key: "max_pending_packages".into(), value: "5".into(), overrode: "100".into() };
        assert_eq!(overrides_of(&told), Some(vec![set]));
        assert_eq!(overrides_of(&json!({"overrides": []})), Some(Vec::new()));
        assert_eq!(overrides_of(&json!({"status": "ok"})), None);
        assert_eq!(overrides_of(&json!({"overrides": [{"key": 1}]})), None);
        for words in [
            json!({"key": "max_pending_packages", "value": "postgres://jam:secret@db", "overrode": 100}),
            json!({"key": "postgres://jam:secret@db", "value": 5, "overrode": 100}),
        ] {
            assert_eq!(overrides_of(&json!({"overrides": [words]})), None, "no word of a pod gets into a condition");
        }
    }
}
