//! Every field of the spec is shown in a manifest, and what is written there decides the plan.

use std::collections::BTreeMap;

use jam_plan::render::{self, RenderError};
use serde_json::{Value, json};

use crate::plan_snapshots::{defaults, manifests};

/// Kubernetes' own types: the field as a whole is one wish.
const BORROWED: [&str; 7] =
    ["affinity", "tolerations", "topologySpreadConstraints", "env", "resources", "podSelector", "namespaceSelector"];

/// The fields of a schema, as paths: list items have `[]`, and what is borrowed or a free map is one field.
fn fields(path: &str, node: &Value, found: &mut Vec<String>) {
    let last = path.rsplit('.').next().unwrap_or_default();
    if let Some(properties) = node["properties"].as_object().filter(|_| !BORROWED.contains(&last)) {
        for (name, property) in properties {
            let dot = if path.is_empty() { "" } else { "." };
            fields(&format!("{path}{dot}{name}"), property, found);
        }
    } else if node["items"]["properties"].is_object() && !BORROWED.contains(&last) {
        fields(&format!("{path}[]"), &node["items"], found);
    } else {
        found.push(path.to_owned());
    }
}

fn spec_fields() -> Vec<String> {
    let crd = serde_json::to_value(jam_plan::crd::crd()).unwrap();
    let mut found = Vec::new();
    let spec = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
    fields("", spec, &mut found);
    assert!(found.len() > 60, "{found:?}");
    found
}

/// The field in a document, the first one where it stands in a list.
fn find<'a>(spec: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let mut parts: Vec<&str> = path.split('.').collect();
    let last = parts.pop()?;
    let mut here = spec;
    for part in parts {
        here = match part.strip_suffix("[]") {
            Some(items) => {
                let wanted = path.split("[].").nth(1)?.split('.').next()?.to_owned();
                here.get_mut(items)?.as_array_mut()?.iter_mut().find(|item| item.get(&wanted).is_some())?
            }
            None => here.get_mut(part)?,
        };
    }
    here.get(last)?;
    Some((here, last.to_owned()))
}

/// Other values that could stand in place of this one.
fn others(value: &Value) -> Vec<Value> {
    match value {
        Value::Bool(yes) => vec![json!(!yes)],
        Value::Number(number) => {
            let number = number.as_i64().unwrap();
            vec![json!(number + 1), json!(number - 1)]
        }
        Value::String(text) => {
            let words = [
                "local",
                "staging",
                "production",
                "memory",
                "postgres",
                "blake3-256",
                "sha256",
                "Retain",
                "Delete",
                "Auto",
                "Manual",
                "Always",
                "Never",
                "NodePort",
                "ClusterIP",
            ];
            let one = text.get(..1).unwrap_or_default().to_owned();
            let mut all = vec![json!(format!("{text}x")), json!(format!("{one}{text}"))];
            all.extend(words.iter().filter(|word| *word != text).map(|word| json!(word)));
            all
        }
        Value::Array(items) => vec![json!(items[1..])],
        Value::Object(map) => {
            vec![map.iter().map(|(key, value)| (format!("{key}x"), value.clone())).collect(), json!({})]
        }
        Value::Null => Vec::new(),
    }
}

fn plan(document: &Value) -> Result<String, RenderError> {
    render::text(&render::documents(&serde_json::to_string(document).unwrap())?, &defaults())
}

/// Whether another value of this field makes another plan of this document. A refusal is no plan.
fn decides(document: &Value, path: &str) -> bool {
    let before = plan(document).unwrap();
    let mut spec = document["spec"].clone();
    let Some((parent, name)) = find(&mut spec, path) else { return false };
    let candidates = others(&parent[name.as_str()]);
    candidates.into_iter().any(|candidate| {
        let mut other = document.clone();
        let (parent, name) = find(&mut other["spec"], path).unwrap();
        parent[name.as_str()] = candidate;
        plan(&other).is_ok_and(|after| after != before)
    })
}

fn documents() -> BTreeMap<String, Value> {
    let one = |(name, text): (String, String)| {
        let all: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        (name, all.into_iter().find(|document| document["kind"] == "JamInstance").unwrap())
    };
    manifests().into_iter().map(one).collect()
}

#[test]
fn every_field_of_the_spec_is_shown_in_a_manifest_and_decides_its_plan() {
    let documents = documents();
    let silent: Vec<String> =
        spec_fields().into_iter().filter(|path| !documents.values().any(|document| decides(document, path))).collect();
    assert!(silent.is_empty(), "no manifest's plan changes with {silent:#?}");
}
