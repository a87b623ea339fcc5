//! The settings file: a snake_case YAML, bare or under `runtime: jam:`, or a whole JamInstance manifest.

use serde_json::{Map, Value};

use super::keys::{Part, find};
use super::{Mistake, Source, yaml_documents};

/// One value of the file.
pub struct Written {
    /// The key's name in snake_case.
    pub name: &'static str,
    /// The value.
    pub value: Value,
}

/// The keys of a JamInstance's spec: all but the two with settings are the operator's business.
pub const SPEC: [&str; 19] = [
    "autoscaling",
    "blobStore",
    "cleanup",
    "database",
    "deletionPolicy",
    "httpRoute",
    "image",
    "ingress",
    "migrations",
    "monitoring",
    "networkPolicy",
    "paused",
    "podTemplate",
    "profile",
    "replicas",
    "runtime",
    "service",
    "tokens",
    "workers",
];

/// Reads the file's text. Every key that can be read is returned, beside every mistake.
pub fn read(text: &str) -> (Vec<Written>, Vec<Mistake>) {
    let mut problems = Vec::new();
    let block = block_of(text, &mut problems);
    let mistake = |problem| Mistake::of("config", problem, Some(Source::File));
    let (keys, mistakes) = written(block.keys, block.manifest);
    (keys, problems.into_iter().map(mistake).chain(mistakes).collect())
}

#[derive(Default)]
struct Block {
    keys: Map<String, Value>,
    manifest: bool,
}

fn block_of(text: &str, problems: &mut Vec<String>) -> Block {
    let documents = yaml_documents(text).unwrap_or_else(|problem| {
        problems.push(problem);
        Vec::new()
    });
    let documents: Vec<Value> = documents.into_iter().filter(|document| !document.is_null()).collect();
    let is_instance = |d: &&Value| d.get("kind").and_then(Value::as_str) == Some("JamInstance");
    let instances: Vec<&Value> = documents.iter().filter(is_instance).collect();
    if let Some(instance) = instances.first() {
        if instances.len() > 1 {
            let count = instances.len();
            problems.push(format!("has {count} JamInstances: whose settings are meant? One belongs into the file"));
        }
        return manifest_block(instance, problems);
    }
    match documents.as_slice() {
        [] => Block::default(),
        [document] if document.get("apiVersion").is_some() => {
            problems.push("is a Kubernetes manifest without a JamInstance in it".into());
            Block::default()
        }
        [document] => Block { keys: file_block(document, problems), manifest: false },
        several => {
            problems.push(format!("has {} YAML documents and none of them is a JamInstance", several.len()));
            Block::default()
        }
    }
}

fn file_block(document: &Value, problems: &mut Vec<String>) -> Map<String, Value> {
    let mut top = object(document, "the file", problems);
    let Some(runtime) = top.remove("runtime") else { return top };
    let mut keys = jam_of(&runtime, "runtime", problems);
    match (top.remove("profile"), keys.contains_key("profile")) {
        (Some(_), true) => problems.push("has a profile at its top and another in runtime.jam".into()),
        (Some(profile), false) => drop(keys.insert("profile".into(), profile)),
        (None, _) => {}
    }
    problems.extend(top.keys().map(|stray| format!("has {stray:?} beside runtime; settings belong under runtime.jam")));
    keys
}

fn manifest_block(instance: &Value, problems: &mut Vec<String>) -> Block {
    let group = instance.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if !group.starts_with("jam.network/") {
        problems.push(format!("has a JamInstance of apiVersion {group:?}; jam.network/v1alpha1 belongs there"));
        return Block::default();
    }
    let spec = instance.get("spec").map_or_else(Map::new, |spec| object(spec, "spec", problems));
    let strays = spec.keys().filter(|key| !SPEC.contains(&key.as_str()));
    problems.extend(strays.map(|stray| format!("has spec.{stray}, which is no field of a JamInstance")));
    let mut keys = spec.get("runtime").map_or_else(Map::new, |runtime| jam_of(runtime, "spec.runtime", problems));
    if keys.remove("profile").is_some() {
        problems.push("has spec.runtime.jam.profile; in a manifest it is spec.profile".into());
    }
    if let Some(profile) = spec.get("profile") {
        keys.insert("profile".into(), profile.clone());
    }
    Block { keys, manifest: true }
}

/// The `jam` block of a `runtime`, which has nothing else.
fn jam_of(runtime: &Value, place: &str, problems: &mut Vec<String>) -> Map<String, Value> {
    let mut fields = object(runtime, place, problems);
    let jam = fields.remove("jam");
    problems.extend(fields.keys().map(|stray| format!("has {place}.{stray}, which is not a setting")));
    jam.map_or_else(Map::new, |jam| object(&jam, &format!("{place}.jam"), problems))
}

fn object(value: &Value, place: &str, problems: &mut Vec<String>) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields.clone(),
        Value::Null => Map::new(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            problems.push(format!("{place} is not a mapping"));
            Map::new()
        }
    }
}

fn written(keys: Map<String, Value>, manifest: bool) -> (Vec<Written>, Vec<Mistake>) {
    let (mut out, mut mistakes): (Vec<Written>, Vec<Mistake>) = (Vec::new(), Vec::new());
    for (spelling, value) in keys {
        let known = find(&snake(&spelling)).filter(|key| !(manifest && key.part == Part::Wiring));
        // A manifest goes to Kubernetes too, where only the camelCase spelling exists.
        let known = known.filter(|_| !(manifest && spelling.contains('_')));
        match known {
            None => mistakes.push(Mistake::of(&spelling, "is not a setting", Some(Source::File))),
            Some(key) if out.iter().any(|written| written.name == key.name) => {
                mistakes.push(Mistake::of(key.name, "is set twice, in both spellings", Some(Source::File)));
            }
            Some(_) if value.is_null() => {}
            Some(key) => out.push(Written { name: key.name, value }),
        }
    }
    (out, mistakes)
}

fn snake(spelling: &str) -> String {
    let mut out = String::with_capacity(spelling.len() + 4);
    for letter in spelling.chars() {
        if letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<(&'static str, Value)> {
        let (written, mistakes) = read(text);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        written.into_iter().map(|w| (w.name, w.value)).collect()
    }

    fn mistakes(text: &str) -> Vec<String> {
        read(text).1.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_is_read_bare_under_runtime_and_as_a_manifest() {
        let wanted = vec![("max_preimage_bytes", Value::from(5)), ("profile", Value::from("staging"))];
        assert_eq!(keys("max_preimage_bytes: 5\nprofile: staging"), wanted);
        assert_eq!(keys("profile: staging\nruntime: {jam: {max_preimage_bytes: 5}}"), wanted);
        let manifest = "kind: Secret\napiVersion: v1\n---\napiVersion: jam.network/v1alpha1\nkind: JamInstance\n\
                        spec: {replicas: 2, profile: staging, runtime: {jam: {maxPreimageBytes: 5}}}\n---\nkind: Service\napiVersion: v1";
        assert_eq!(keys(manifest), wanted);
        assert_eq!(keys(""), vec![]);
    }

    #[test]
    fn one_mistake_does_not_hide_the_next() {
        let wrong = mistakes("runtime: {jam: {colour: red}, http: {}}\nserver: {}\nclient: {}");
        for name in ["colour", "runtime.http", "server", "client"] {
            assert!(wrong.iter().any(|line| line.contains(name)), "{name}: {wrong:?}");
        }
    }

    #[test]
    fn the_fields_of_a_spec_are_those_of_the_resource() {
        let resource: Value = super::super::yaml(include_str!("../../../crds/jaminstances.jam.network.yaml")).unwrap();
        let spec = &resource["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        let fields: Vec<&String> = spec.as_object().unwrap().keys().collect();
        assert_eq!(fields, SPEC.iter().collect::<Vec<_>>());
    }

    #[test]
    fn what_is_not_a_setting_is_named() {
        for (text, wanted) in [
            ("colour: red", "colour"),
            ("runtime: {jam: {}, http: {}}", "runtime.http"),
            ("runtime: {jam: {}}\nserver: {}", "server"),
            ("kind: JamInstance\napiVersion: jam.network/v1alpha1\nspec: {runtime: {jam: {pgDsn: x}}}", "pgDsn"),
            (
                "kind: JamInstance\napiVersion: jam.network/v1alpha1\nspec: {runtime: {jam: {auth_required: true}}}",
                "auth_required",
            ),
            ("kind: JamInstance\napiVersion: other/v1", "other/v1"),
            ("apiVersion: v1\nkind: Secret", "without a JamInstance"),
            ("store: memory\nstore: memory", "config"),
            ("authRequired: true\nauth_required: true", "twice"),
            ("{", "not YAML"),
            ("- a", "mapping"),
            ("kind: JamInstance\napiVersion: jam.network/v1alpha1\nspec: {profil: production}", "spec.profil"),
            ("profile: local\nruntime: {jam: {profile: staging}}", "another in runtime.jam"),
            (
                "kind: JamInstance\napiVersion: jam.network/v1alpha1\n---\nkind: JamInstance\napiVersion: jam.network/v1alpha1",
                "2 JamInstances",
            ),
        ] {
            assert!(mistakes(text).iter().any(|m| m.contains(wanted)), "{text}: {:?}", mistakes(text));
        }
    }
}
