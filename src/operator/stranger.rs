//! What somebody else put into the pods of a child where only we have a say: it is taken out again.
//!
//! Others may add containers, volumes, annotations and variables to our pods, as injectors do. They may not contradict the
//! spec (a variable that our server reads wins over its settings) nor loosen the pods' security.

use jam_plan::names::CONTAINER;
use jam_plan::resolve::is_own_variable;
use serde_json::{Map, Value, json};

/// Where pods of a child are described.
const TEMPLATES: [&[&str]; 2] = [&["spec", "template", "spec"], &["spec", "jobTemplate", "spec", "template", "spec"]];
/// Fields that let a pod into its node.
const NODES: [&str; 3] = ["hostNetwork", "hostPID", "hostIPC"];

/// The merge patch that takes out what is not to be in the live object; nothing when there is nothing of that kind.
pub fn removal(wanted: &Value, live: &Value) -> Option<Value> {
    let path = TEMPLATES.into_iter().find(|path| at(wanted, path).is_some())?;
    let (wanted, live) = (at(wanted, path)?, at(live, path)?);
    let mut changes = Map::new();
    for field in NODES {
        if live.get(field) == Some(&Value::Bool(true)) && wanted.get(field) != Some(&Value::Bool(true)) {
            changes.insert(field.into(), Value::Null);
        }
    }
    if let Some(removed) = security(&wanted["securityContext"], &live["securityContext"]) {
        changes.insert("securityContext".into(), removed);
    }
    // A merge replaces a list as a whole: what is left in it is what was there.
    for list in ["containers", "initContainers"] {
        let left: Vec<Value> = items(&live[list]).map(|item| cleaned(items(&wanted[list]), item)).collect();
        if items(&live[list]).ne(&left) {
            changes.insert(list.into(), left.into());
        }
    }
    (!changes.is_empty()).then(|| path.iter().rev().fold(Value::Object(changes), |inner, field| json!({*field: inner})))
}

fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, field| value.get(field))
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// Our container without what is foreign in it; any other as it is.
fn cleaned<'a>(mut wanted: impl Iterator<Item = &'a Value>, live: &Value) -> Value {
    let mut left = live.clone();
    let Some(wanted) = wanted.find(|item| item["name"] == CONTAINER && item["name"] == live["name"]) else {
        return left;
    };
    if let Some(variables) = left.get_mut("env").and_then(Value::as_array_mut) {
        let is_ours = |variable: &Value| items(&wanted["env"]).any(|ours| ours["name"] == variable["name"]);
        variables.retain(|variable| is_ours(variable) || !variable["name"].as_str().is_some_and(contradicts));
        if variables.is_empty() {
            left.as_object_mut().map(|fields| fields.remove("env"));
        }
    }
    // The API server writes them next to `hostNetwork`, and would leave them behind.
    for port in left.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let ours = items(&wanted["ports"]).any(|ours| ours["name"] == port["name"] && ours.get("hostPort").is_some());
        port.as_object_mut().filter(|_| !ours).map(|fields| fields.remove("hostPort"));
    }
    if let Some(removed) = security(&wanted["securityContext"], &live["securityContext"]) {
        for field in removed.as_object().into_iter().flat_map(Map::keys) {
            left["securityContext"].as_object_mut().map(|fields| fields.remove(field));
        }
    }
    left
}

/// Where spans go is what an injector of telemetry says; every other variable that our server reads is the spec's to say.
fn contradicts(variable: &str) -> bool {
    variable.starts_with("JAM_") || (is_own_variable(variable) && !variable.starts_with("OTEL_"))
}

/// The fields of a security context that are not ours, as nulls.
fn security(wanted: &Value, live: &Value) -> Option<Value> {
    let known = |field: &str| wanted.get(field).is_some();
    let harmless = |field: &str, value: &Value| field == "procMount" && value == "Default";
    let strange =
        live.as_object().into_iter().flatten().filter(|(field, value)| !known(field) && !harmless(field, value));
    let nulls: Map<String, Value> = strange.map(|(field, _)| (field.clone(), Value::Null)).collect();
    (!nulls.is_empty()).then_some(Value::Object(nulls))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Value {
        json!({"spec": {"template": {"spec": {
            "securityContext": {"runAsNonRoot": true},
            "containers": [{"name": "jam", "env": [{"name": "JAM_PG_DSN"}], "securityContext": {"readOnlyRootFilesystem": true}}],
        }}}})
    }

    /// What is to go when this stands in the pods.
    fn told(change: impl FnOnce(&mut Value)) -> Option<Value> {
        let mut live = wanted();
        change(&mut live["spec"]["template"]["spec"]);
        removal(&wanted(), &live).map(|patch| patch.pointer("/spec/template/spec").unwrap().clone())
    }

    #[test]
    fn what_injectors_add_stays() {
        assert_eq!(told(|_| ()), None);
        let injected = told(|pod| {
            let theirs =
                json!({"name": "proxy", "env": [{"name": "JAM_ENABLED"}], "securityContext": {"runAsUser": 0}});
            pod["initContainers"] = json!([theirs]);
            pod["containers"].as_array_mut().unwrap().insert(0, theirs);
            pod["containers"][1]["env"].as_array_mut().unwrap().push(json!({"name": "OTEL_EXPORTER_OTLP_ENDPOINT"}));
            pod["containers"][1]["env"].as_array_mut().unwrap().push(json!({"name": "HTTPS_PROXY"}));
            pod["containers"][1]["securityContext"]["procMount"] = json!("Default");
            pod["hostNetwork"] = json!(false);
            pod["volumes"] = json!([{"name": "proxy"}]);
        });
        assert_eq!(injected, None);
    }

    #[test]
    fn what_contradicts_the_spec_or_loosens_security_goes_and_nothing_else() {
        for field in NODES {
            assert_eq!(told(|pod| pod[field] = json!(true)), Some(json!({field: null})));
        }
        let pods = told(|pod| pod["securityContext"]["supplementalGroups"] = json!([0]));
        assert_eq!(pods, Some(json!({"securityContext": {"supplementalGroups": null}})));
        let containers = told(|pod| {
            pod["containers"].as_array_mut().unwrap().push(json!({"name": "proxy"}));
            let container = &mut pod["containers"][0];
            container["securityContext"]["runAsUser"] = json!(0);
            for name in ["JAM_ENABLED", "DATABASE_URL", "API_TOKENS", "HTTPS_PROXY", "JAM_LOG"] {
                container["env"].as_array_mut().unwrap().push(json!({"name": name}));
            }
        });
        let ours = json!({"name": "jam", "env": [{"name": "JAM_PG_DSN"}, {"name": "HTTPS_PROXY"}],
            "securityContext": {"readOnlyRootFilesystem": true}});
        assert_eq!(containers, Some(json!({"containers": [ours, {"name": "proxy"}]})));
    }

    #[test]
    fn the_pods_of_a_cron_job_are_looked_at_too() {
        let cron_job =
            |node: bool| json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": {"hostPID": node}}}}}});
        let patch = removal(&cron_job(false), &cron_job(true)).unwrap();
        assert_eq!(patch, json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": {"hostPID": null}}}}}}));
        assert_eq!(removal(&json!({"data": {}}), &json!({"data": {}})), None);
    }
}
