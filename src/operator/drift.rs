//! Whether what is there still says everything that is wanted: the wanted fields within the live object.

use jam_plan::names::FIELD_MANAGER;
use jam_plan::quantity::thousandths;
use serde_json::Value;

/// Whether the live object holds every wanted field. What others added (defaults, sidecars, labels) does not matter.
pub fn holds(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => wanted.iter().all(|(key, value)| match live.get(key) {
            Some(found) if is_whole(key) => holds(value, found) && holds(found, value),
            Some(found) => holds(value, found) || (is_amount_field(key) && same_amounts(value, found)),
            None => is_empty(value),
        }),
        (Value::Array(wanted), Value::Array(live)) => match merge_key(wanted) {
            Some(key) => wanted.iter().all(|item| {
                let twin = live.iter().find(|other| other.get(key) == item.get(key));
                twin.is_some_and(|twin| holds(item, twin))
            }),
            None => wanted.len() == live.len() && wanted.iter().zip(live).all(|(item, other)| holds(item, other)),
        },
        (wanted, live) => wanted == live,
    }
}

/// Whether somebody else has written a list of ours since we last did: the API server keeps account of it. What was added within
/// an item shows in no comparison that leaves room for defaults.
pub fn is_taken(wanted: &Value, live: &Value) -> bool {
    let entries = live["metadata"]["managedFields"].as_array().into_iter().flatten();
    let ours = |entry: &&Value| {
        entry["manager"] == FIELD_MANAGER && entry["operation"] == "Apply" && entry.get("subresource").is_none()
    };
    let fields = entries.into_iter().find(ours).and_then(|entry| entry.pointer("/fieldsV1/f:spec"));
    fields.is_some_and(|fields| lacks_a_list(&wanted["spec"], fields))
}

/// Whether a Job of ours is suspended and nobody has written that since it was created: an admission did, such as a queue's, and lets
/// it run in its turn.
pub fn is_queued(live: &Value) -> bool {
    let entries = live["metadata"]["managedFields"].as_array().into_iter().flatten();
    let says_so = |entry: &&Value| entry.pointer("/fieldsV1/f:spec/f:suspend").is_some();
    let mut writers = entries.filter(says_so).map(|entry| &entry["manager"]).peekable();
    live["spec"]["suspend"] == true && writers.peek().is_some() && writers.all(|manager| manager == FIELD_MANAGER)
}

fn lacks_a_list(wanted: &Value, fields: &Value) -> bool {
    wanted.as_object().into_iter().flatten().any(|(key, value)| match (value, fields.get(format!("f:{key}"))) {
        (Value::Array(items), None) => !items.is_empty(),
        // Owned as a whole, such as a required node affinity: nothing within is accounted for.
        (Value::Object(_), Some(Value::Object(fields))) if fields.is_empty() => false,
        (Value::Object(_), Some(fields)) => lacks_a_list(value, fields),
        (_, _) => false,
    })
}

/// Fields that one writer owns as a whole (atomic in Kubernetes' own schema): what was added there changes what it
/// selects, so a key that we did not write is no neighbour's but a change.
fn is_whole(key: &str) -> bool {
    matches!(
        key,
        "selector" | "podSelector" | "namespaceSelector" | "matchLabels" | "nodeSelector" | "ingress" | "egress"
    )
}

/// The API server leaves out what is empty.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(value) => value.as_f64() == Some(0.0),
        Value::String(value) => value.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// The key by which server-side apply merges lists such as containers, env, volumes and volumeMounts.
fn merge_key(items: &[Value]) -> Option<&'static str> {
    ["name", "uid", "mountPath"].into_iter().find(|key| {
        let values: Vec<_> = items.iter().filter_map(|item| item.get(key)).collect();
        let unique = values.iter().enumerate().all(|(at, value)| !values[..at].contains(value));
        !items.is_empty() && values.len() == items.len() && unique
    })
}

fn is_amount_field(key: &str) -> bool {
    matches!(key, "limits" | "requests" | "sizeLimit")
}

/// The API server writes amounts in its own way: 0.5 becomes 500m.
fn same_amounts(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => {
            wanted.iter().all(|(key, value)| live.get(key).is_some_and(|found| same_amounts(value, found)))
        }
        (wanted, live) => amount(wanted).is_some_and(|wanted| Some(wanted) == amount(live)),
    }
}

fn amount(value: &Value) -> Option<i128> {
    match value {
        Value::String(text) => thousandths(text),
        Value::Number(number) => thousandths(&number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_added_does_not_matter() {
        let wanted = json!({"spec": {"containers": [{"name": "api", "env": [{"name": "A", "value": "1"}]}]}});
        let live = json!({"spec": {"containers": [
            {"name": "sidecar"},
            {"name": "api", "env": [{"name": "B"}, {"name": "A", "value": "1"}], "terminationMessagePath": "/x"},
        ], "dnsPolicy": "ClusterFirst"}, "status": {}});
        assert!(holds(&wanted, &live));
    }

    #[test]
    fn a_changed_or_missing_field_is_found_wherever_it_is() {
        let wanted = json!({"a": {"b": [{"name": "x", "port": 1}], "list": [1, 2], "yes": true}});
        for live in [
            json!({"a": {"b": [{"name": "x", "port": 2}], "list": [1, 2], "yes": true}}),
            json!({"a": {"b": [], "list": [1, 2], "yes": true}}),
            json!({"a": {"b": [{"name": "x", "port": 1}], "list": [1, 2, 3], "yes": true}}),
            json!({"a": {"b": [{"name": "x", "port": 1}], "list": [1, 2]}}),
        ] {
            assert!(!holds(&wanted, &live), "{live}");
        }
    }

    #[test]
    fn what_was_added_to_a_selector_is_found() {
        for field in ["selector", "podSelector", "namespaceSelector", "matchLabels", "nodeSelector"] {
            let of = |labels: Value| json!({"spec": {field: labels}});
            let wanted = of(json!({"app": "jam"}));
            assert!(holds(&wanted, &of(json!({"app": "jam"}))), "{field}");
            assert!(!holds(&wanted, &of(json!({"app": "jam", "x": "y"}))), "{field}");
            assert!(!holds(&of(json!({})), &of(json!({"x": "y"}))), "{field}");
        }
    }

    #[test]
    fn a_list_that_is_not_ours_any_more_is_found() {
        let wanted = json!({"spec": {"rules": [{"a": 1}], "none": [], "inner": {"items": [1], "on": true}, "whole": {"terms": [1]}, "mode": "x"}});
        let live = |fields: Value, manager: &str, operation: &str| {
            let entry = json!({"manager": manager, "operation": operation, "fieldsV1": {"f:spec": fields}});
            json!({"metadata": {"managedFields": [entry]}})
        };
        let all = json!({"f:rules": {}, "f:mode": {}, "f:inner": {"f:items": {}, "f:on": {}}, "f:whole": {}});
        let taken = |fields: &Value| is_taken(&wanted, &live(fields.clone(), FIELD_MANAGER, "Apply"));
        assert!(!taken(&all));
        for path in ["/f:rules", "/f:inner/f:items"] {
            let (parent, name) = path.rsplit_once('/').unwrap();
            let mut less = all.clone();
            less.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
            assert!(taken(&less), "{path}");
            assert!(!is_taken(&wanted, &live(less, FIELD_MANAGER, "Update")), "we have applied nothing yet");
        }
    }

    #[test]
    fn a_job_that_was_created_suspended_is_queued_and_one_that_somebody_suspended_is_not() {
        let queued = |suspend: bool, managers: &[&str]| {
            let fields = json!({"f:spec": {"f:suspend": {}}});
            let entry = |manager: &&str| json!({"manager": manager, "operation": "Update", "fieldsV1": fields});
            let entries: Vec<Value> = managers.iter().map(entry).collect();
            is_queued(&json!({"metadata": {"managedFields": entries}, "spec": {"suspend": suspend}}))
        };
        assert!(queued(true, &[FIELD_MANAGER]));
        assert!(!queued(false, &[FIELD_MANAGER]) && !queued(true, &[]));
        assert!(!queued(true, &["kubectl-patch"]) && !queued(true, &[FIELD_MANAGER, "kubectl-patch"]));
    }

    #[test]
    fn what_was_added_to_a_rule_of_a_network_policy_is_found() {
        let of = |rule: Value| json!({"spec": {"ingress": [rule.clone()], "egress": [rule]}});
        let rule = json!({"ports": [{"port": "http", "protocol": "TCP"}]});
        assert!(holds(&of(rule.clone()), &of(rule.clone())));
        let mut shut = rule.clone();
        shut["from"] = json!([{"podSelector": {"matchLabels": {"app": "nobody"}}}]);
        let mut open = rule.clone();
        open["ports"][0]["endPort"] = json!(65535);
        for other in [shut, open] {
            assert!(!holds(&of(rule.clone()), &of(other.clone())), "{other}");
        }
    }

    #[test]
    fn amounts_are_compared_as_amounts_and_only_where_they_are() {
        let of = |cpu: &str, memory: &str| json!({"limits": {"cpu": cpu, "memory": memory}});
        assert!(holds(&of("0.5", "1024Mi"), &of("500m", "1Gi")));
        assert!(!holds(&of("0.5", "1Gi"), &of("600m", "1Gi")));
        assert!(!holds(&json!({"data": {"a": "0.5"}}), &json!({"data": {"a": "500m"}})));
    }

    #[test]
    fn an_empty_wish_is_met_by_nothing() {
        assert!(holds(&json!({"hostNetwork": false, "args": [], "x": {}}), &json!({})));
        assert!(!holds(&json!({"replicas": 0}), &json!({"replicas": 1})));
    }
}
