//! What an API server would refuse, found without one: bounds, patterns and lists of the resource's schema, and time zones.
//!
//! The rules across fields (CEL in the schema) are checked by `plan` itself, which has each of them in Rust.

use std::fmt::Write as _;

use jam_plan::schedule;
use serde_json::{Value, json};

/// What stands at the head of a plan that no cluster has seen.
pub const UNCHECKED: &str = "\
# Planned without a cluster: the schema and the rules of JamInstance were checked. Not checked: whether Secrets and other objects
# that it names are there, whether the store of a migrated instance changes, admission policies, quotas, names that are taken, and
# Kubernetes' own rules for podTemplate. `jam-operator plan -f FILE --diff` asks the cluster of the kubeconfig.
";

/// The fields of an object's metadata that a manifest may have.
const METADATA: [&str; 9] = [
    "name",
    "generateName",
    "namespace",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
    "selfLink",
    "deletionGracePeriodSeconds",
];

/// Finds everything in the JamInstances of a manifest that their schema forbids; the error names each place.
pub fn refuse(documents: &[Value]) -> Result<(), String> {
    let schema = schema();
    let validator = jsonschema::validator_for(&schema).expect("the schema of our own resource is one");
    each(documents, |document| {
        let mut faults: Vec<String> = validator
            .iter_errors(document)
            .map(|error| format!("{}: {error}", place(&error.instance_path().to_string())))
            .collect();
        faults.extend(strangers(&schema, document));
        beyond(&schema, document, "", &mut faults);
        faults.extend(unknown_time_zone(document));
        faults.extend(no_day(document));
        faults
    })
}

/// Finds every field that no API server knows: `kubectl apply` refuses it, and a server by itself drops it without a word.
pub fn unknown(documents: &[Value]) -> Result<(), String> {
    let schema = schema();
    each(documents, |document| strangers(&schema, document))
}

/// Takes out the keys without a value: an API server has them as if they were not there.
pub fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, inner| !inner.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The faults of all documents in one text.
fn each(documents: &[Value], faults: impl Fn(&Value) -> Vec<String>) -> Result<(), String> {
    let told: Vec<String> = documents
        .iter()
        .flat_map(|document| {
            let name = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("without a name");
            faults(document).into_iter().map(move |fault| format!("JamInstance {name}: {fault}"))
        })
        .collect();
    if told.is_empty() { Ok(()) } else { Err(told.join("; ")) }
}

/// The schema of the resource in the words of JSON Schema: what only Kubernetes knows is translated.
fn schema() -> Value {
    let crd = serde_json::to_value(jam_plan::crd::crd()).expect("a CRD is JSON");
    let mut schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").expect("it has one version").clone();
    translate(&mut schema);
    // What every resource has stands in no definition.
    let metadata: Value = METADATA.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
    let head = json!({"apiVersion": {}, "kind": {}, "metadata": {"properties": metadata}});
    if let (Some(properties), Value::Object(head)) = (schema["properties"].as_object_mut(), head) {
        properties.extend(head);
    }
    schema
}

fn translate(node: &mut Value) {
    let Some(fields) = node.as_object_mut() else { return };
    if fields.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        fields.insert("type".into(), json!(["integer", "string"]));
    }
    if fields.get("x-kubernetes-list-type") == Some(&json!("set")) {
        fields.insert("uniqueItems".into(), Value::Bool(true));
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(translate);
    }
    for inner in ["items", "additionalProperties"] {
        fields.get_mut(inner).into_iter().for_each(translate);
    }
}

/// Fields of a document that have no place in the resource, and a name that it lacks.
fn strangers(schema: &Value, document: &Value) -> Vec<String> {
    let unnamed = document.pointer("/metadata/name").is_none();
    let mut faults = Vec::from_iter(unnamed.then(|| "metadata.name: it has none".to_owned()));
    unknown_in(schema, document, "", &mut faults);
    faults
}

fn unknown_in(schema: &Value, value: &Value, path: &str, faults: &mut Vec<String>) {
    match value {
        Value::Object(fields) if schema["x-kubernetes-preserve-unknown-fields"] != true => {
            for (name, inner) in fields {
                let path = format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"));
                let known = schema["properties"].get(name);
                match known.or_else(|| schema.get("additionalProperties").filter(|any| any.is_object())) {
                    Some(of) => unknown_in(of, inner, &path, faults),
                    None if schema["properties"].is_object() => faults.push(format!("{}: unknown field", place(&path))),
                    None => {}
                }
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                unknown_in(&schema["items"], item, &format!("{path}/{at}"), faults);
            }
        }
        Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What only Kubernetes' own words in the schema forbid: a key that stands twice in a list, a text that its rule does not match.
fn beyond(schema: &Value, value: &Value, path: &str, faults: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                beyond(&schema["properties"][name], inner, &format!("{path}/{name}"), faults);
            }
        }
        Value::Array(items) => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let keys: Vec<_> = keys.collect();
            let key = |item: &Value| keys.iter().map(|key| item[*key].clone()).collect::<Vec<_>>();
            for (at, item) in items.iter().enumerate() {
                let path = format!("{path}/{at}");
                if !keys.is_empty() && items[..at].iter().any(|other| key(other) == key(item)) {
                    faults.push(format!("{}: {} stands twice", place(&path), json!(key(item))));
                }
                beyond(&schema["items"], item, &path, faults);
            }
        }
        Value::String(_) => {
            for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
                let pattern =
                    rule["rule"].as_str().and_then(|rule| rule.strip_prefix("self.matches(r'")?.strip_suffix("')"));
                if pattern.is_some_and(|pattern| !jsonschema::is_valid(&json!({"pattern": pattern}), value)) {
                    faults.push(format!("{}: {}", place(path), rule["message"].as_str().unwrap_or_default()));
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A time zone that this machine's database does not know; nothing where there is no such database.
fn unknown_time_zone(document: &Value) -> Option<String> {
    let zone = document.pointer("/spec/cleanup/timeZone")?.as_str()?;
    // Go has a zone of this name, and a CronJob refuses it.
    let known = !zone.eq_ignore_ascii_case("local");
    let known = known && (jiff::tz::db().is_definitively_empty() || jiff::tz::TimeZone::get(zone).is_ok());
    (!known).then(|| {
        format!("spec.cleanup.timeZone: unknown time zone {zone:?}: use a name of the IANA database such as Etc/UTC")
    })
}

/// A day that is in no calendar, unless it is to be cleaned up by hand alone. One that is stored already stops nothing but its runs.
fn no_day(document: &Value) -> Option<String> {
    let cleanup = document.pointer("/spec/cleanup")?;
    let never = schedule::never_comes(cleanup["schedule"].as_str()?) && cleanup["suspend"] != true;
    never.then(|| format!("spec.cleanup.schedule {}", schedule::NEVER_COMES))
}

/// `/spec/consumers/0/name` as Kubernetes writes it: `spec.consumers[0].name`.
fn place(pointer: &str) -> String {
    let mut text = String::new();
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            let _ = write!(text, "[{part}]");
        } else {
            let _ = write!(text, "{}{part}", if text.is_empty() { "" } else { "." });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_kubernetes_writes_it() {
        assert_eq!(place("/spec/tokens/consumers/0/name"), "spec.tokens.consumers[0].name");
        assert_eq!(place("/metadata/annotations/a.b~1c"), "metadata.annotations.a.b/c");
    }

    #[test]
    fn what_no_api_server_knows_is_told_wherever_it_stands() {
        let odd = json!({"apiVersion": "v", "kind": "k", "specs": {}, "metadata": {"name": "main", "anotations": {}},
        "spec": {"replica": 2, "podTemplate": {
            "labels": {"any/name": "x"},
            "resources": {"limit": {}, "limits": {"example.com/gpu": 1}},
            "tolerations": [{"operater": "Exists"}],
            "env": [{"name": "A", "valueForm": {}}],
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecutions": []}},
            "topologySpreadConstraints": [{"labelselector": {}}],
        }}});
        let told = unknown(&[odd, json!({"metadata": {}})]).unwrap_err();
        for place in [
            "specs",
            "metadata.anotations",
            "spec.replica",
            "spec.podTemplate.resources.limit",
            "spec.podTemplate.tolerations[0].operater",
            "spec.podTemplate.env[0].valueForm",
            "spec.podTemplate.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecutions",
            "spec.podTemplate.topologySpreadConstraints[0].labelselector",
        ] {
            assert!(told.contains(&format!("JamInstance main: {place}: unknown field")), "{place}: {told}");
        }
        assert!(told.ends_with("; JamInstance without a name: metadata.name: it has none"), "{told}");
        assert_eq!(told.matches("; ").count(), 8, "{told}");
    }

    #[test]
    fn every_fault_is_told_at_once_with_its_place() {
        let bad = json!({"metadata": {"name": "main"}, "spec": {
            "replicas": 101,
            "tokens": {"consumers": [{"name": "a"}, {"name": "a"}]},
            "podTemplate": {"resources": {"limits": {"memory": true}}},
            "cleanup": {"timeZone": "Mars/Olympus"},
        }});
        let told = refuse(&[bad]).unwrap_err();
        for words in [
            "JamInstance main: spec.replicas: 101 is greater than the maximum of 100",
            "spec.tokens.consumers[1]: [\"a\"] stands twice",
            "spec.podTemplate.resources.limits.memory: true is not of types",
        ] {
            assert!(told.contains(words), "{words}: {told}");
        }
        assert_eq!(refuse(&[json!({"metadata": {"name": "main"}, "spec": {"replicas": 100}})]), Ok(()));
    }
}
