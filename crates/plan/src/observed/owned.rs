//! What of a Deployment's pod template is ours, as the API server keeps account of it in managed fields.

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Map, Value};

use crate::names;

/// The part of the pod template that our last apply wrote; nothing when there was none.
pub(crate) fn owned_template(deployment: &Deployment) -> Option<Value> {
    let ours = deployment.metadata.managed_fields.iter().flatten().find(|entry| {
        entry.manager.as_deref() == Some(names::FIELD_MANAGER)
            && entry.operation.as_deref() == Some("Apply")
            && entry.subresource.is_none()
    })?;
    let fields = ours.fields_v1.as_ref()?.0.pointer("/f:spec/f:template")?;
    let template = serde_json::to_value(&deployment.spec.as_ref()?.template).expect("a Kubernetes object is JSON");
    Some(owned(fields, &template))
}

/// The owned part of a value. Fields are `f:name`, items of a list `k:{"its":"key"}`, and `.` is the thing itself.
fn owned(fields: &Value, live: &Value) -> Value {
    let inner = fields.as_object().into_iter().flatten().filter(|(key, _)| *key != ".");
    let inner: Vec<(&str, &Value)> = inner.map(|(key, value)| (key.as_str(), value)).collect();
    match live {
        Value::Object(live) if !inner.is_empty() => {
            let named = inner.iter().filter_map(|(key, fields)| {
                let name = key.strip_prefix("f:")?;
                Some((name.to_owned(), owned(fields, live.get(name)?)))
            });
            Value::Object(named.collect())
        }
        Value::Object(_) if fields.get(".").is_some() => Value::Object(Map::new()),
        Value::Array(items) if inner.iter().any(|(key, _)| key.starts_with("k:")) => {
            let keyed: Vec<(Value, &Value)> =
                inner.iter().filter_map(|(key, fields)| Some((keys(key)?, *fields))).collect();
            let ours = items.iter().filter_map(|item| {
                let (_, fields) = keyed.iter().find(|(key, _)| is_item(key, item))?;
                Some(owned(fields, item))
            });
            Value::Array(ours.collect())
        }
        // A leaf, or a list that has one owner as a whole.
        live => live.clone(),
    }
}

fn keys(key: &str) -> Option<Value> {
    serde_json::from_str(key.strip_prefix("k:")?).ok()
}

fn is_item(keys: &Value, item: &Value) -> bool {
    keys.as_object().is_some_and(|keys| keys.iter().all(|(key, value)| item.get(key) == Some(value)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_we_applied_is_ours() {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"managedFields": [
                {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:template": {"f:metadata": {"f:labels": {}}}}}},
                {"manager": "jam-operator", "operation": "Apply", "fieldsV1": {"f:spec": {"f:template": {"f:spec": {
                    "f:containers": {"k:{\"name\":\"jam\"}": {
                        ".": {}, "f:name": {}, "f:args": {}, "f:resources": {".": {}, "f:requests": {"f:cpu": {}}},
                    }},
                    "f:securityContext": {".": {}},
                    "f:tolerations": {},
                }}}}},
            ]},
            "spec": {"selector": {}, "template": {
                "metadata": {"labels": {"their": "own"}},
                "spec": {
                    "containers": [
                        {"name": "theirs", "image": "sidecar"},
                        {"name": "jam", "args": ["serve"], "imagePullPolicy": "Always", "resources": {"requests": {"cpu": "1", "memory": "1Mi"}}},
                    ],
                    "securityContext": {},
                    "tolerations": [{"key": "a"}],
                    "dnsPolicy": "ClusterFirst",
                },
            }},
        }))
        .unwrap();
        let ours = json!({"spec": {
            "containers": [{"name": "jam", "args": ["serve"], "resources": {"requests": {"cpu": "1"}}}],
            "securityContext": {},
            "tolerations": [{"key": "a"}],
        }});
        assert_eq!(owned_template(&deployment), Some(ours));
        assert_eq!(owned_template(&Deployment::default()), None);
    }
}
