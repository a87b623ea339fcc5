//! The CRD in `crds/` is what the Rust types say, and its schema is of the quality that its users need.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compares a generated file with the one in the repository; with JAM_BLESS=1 it is written instead.
pub fn compare(path: &Path, generated: &str) {
    if std::env::var_os("JAM_BLESS").is_some() {
        std::fs::write(path, generated).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    let line = kept.lines().zip(generated.lines()).position(|(kept, generated)| kept != generated);
    let line = line.unwrap_or_else(|| kept.lines().count().min(generated.lines().count()));
    assert!(
        kept == generated,
        "{} differs from what is generated, first in line {}:\n  kept:      {}\n  generated: {}\nrun the test with JAM_BLESS=1 and look at the difference",
        path.display(),
        line + 1,
        kept.lines().nth(line).unwrap_or("(end)"),
        generated.lines().nth(line).unwrap_or("(end)"),
    );
}

#[test]
fn the_kept_crd_is_the_generated_one() {
    compare(&repository("crds/jaminstances.jam.network.yaml"), &jam_plan::crd::crd_yaml());
}

#[test]
fn the_crd_fits_in_an_annotation() {
    assert!(jam_plan::crd::crd_yaml().len() < 256 * 1024, "kubectl apply keeps the whole of it in an annotation");
}

fn schema() -> Value {
    let crd = serde_json::to_value(jam_plan::crd::crd()).unwrap();
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone()
}

/// Every schema below `properties`, `items` and `additionalProperties`, with its path.
fn walk(path: &str, node: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, node);
    for (name, property) in node["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, visit);
    }
    for (key, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
        if node.get(key).is_some_and(Value::is_object) {
            walk(&format!("{path}{suffix}"), &node[key], visit);
        }
    }
}

/// Where a path leads into a type of Kubernetes' own, which has fewer words.
fn is_borrowed(path: &str) -> bool {
    [
        "affinity",
        "tolerations",
        "topologySpreadConstraints",
        "env",
        "resources",
        "podSelector",
        "namespaceSelector",
        "conditions",
    ]
    .iter()
    .any(|name| path.contains(&format!(".{name}.")) || path.contains(&format!(".{name}[")))
}

#[test]
fn every_field_is_described_and_bounded() {
    let mut faults = Vec::new();
    walk("", &schema(), &mut |path, node| {
        let has = |key: &str| node.get(key).is_some();
        let mut fault = |what: &str| faults.push(format!("{path}: {what}"));
        let element = path.ends_with("[]") || path.ends_with("{}");
        if !element && !has("description") {
            fault("no description");
        }
        match node["type"].as_str() {
            Some("string") if !["maxLength", "enum", "format"].iter().any(|key| has(key)) => fault("no maxLength"),
            Some("array") if !has("maxItems") => fault("no maxItems"),
            Some("array") if !has("x-kubernetes-list-type") => fault("no list type"),
            Some("object") if has("additionalProperties") && !has("maxProperties") => fault("no maxProperties"),
            Some("integer")
                if path.starts_with(".spec") && !is_borrowed(path) && !(has("minimum") && has("maximum")) =>
            {
                fault("no range");
            }
            _ => {}
        }
        if has("nullable") {
            fault("nullable");
        }
        if node["format"].as_str().is_some_and(|format| format.starts_with("uint")) {
            fault("a format that Kubernetes does not know");
        }
    });
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn every_condition_type_is_named_in_the_description() {
    let description = schema().pointer("/properties/status/properties/conditions/description").unwrap().to_string();
    for kind in jam_plan::crd::ConditionType::ALL {
        assert!(description.contains(kind.as_str()), "{kind:?}");
    }
}
