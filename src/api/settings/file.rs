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

/// Reads the file's text. Every key that can be read is returned, beside every mistake.
pub fn read(text: &str) -> (Vec<Written>, Vec<Mistake>) {
    match block_of(text) {
        Ok(Block { keys, manifest }) => written(keys, manifest),
        Err(problem) => (Vec::new(), vec![Mistake::of("config", problem, Some(Source::File))]),
    }
}

struct Block {
    keys: Map<String, Value>,
    manifest: bool,
}

fn block_of(text: &str) -> Result<Block, String> {
    let documents: Vec<Value> = yaml_documents(text)?.into_iter().filter(|document| !document.is_null()).collect();
    if let Some(instance) = documents.iter().find(|d| d.get("kind").and_then(Value::as_str) == Some("JamInstance")) {
        return manifest_block(instance);
    }
    let [document] = documents.as_slice() else {
        return match documents.len() {
            0 => Ok(Block { keys: Map::new(), manifest: false }),
            several => Err(format!("has {several} YAML documents and none of them is a JamInstance")),
        };
    };
    if document.get("apiVersion").is_some() {
        return Err("is a Kubernetes manifest without a JamInstance in it".into());
    }
    let mut top = object(document, "the file")?;
    let Some(runtime) = top.remove("runtime") else { return Ok(Block { keys: top, manifest: false }) };
    let mut keys = under(&runtime, "runtime", &["jam"])?
        .remove("jam")
        .map_or(Ok(Map::new()), |jam| object(&jam, "runtime.jam"))?;
    if let Some(profile) = top.remove("profile") {
        keys.entry("profile").or_insert(profile);
    }
    match top.keys().next() {
        Some(stray) => Err(format!("has {stray:?} beside runtime; settings belong under runtime.jam")),
        None => Ok(Block { keys, manifest: false }),
    }
}

fn manifest_block(instance: &Value) -> Result<Block, String> {
    let group = instance.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if !group.starts_with("jam.network/") {
        return Err(format!("has a JamInstance of apiVersion {group:?}; jam.network/v1alpha1 belongs there"));
    }
    let spec = instance.get("spec").unwrap_or(&Value::Null);
    let runtime = spec.get("runtime").map_or(Ok(Map::new()), |runtime| under(runtime, "spec.runtime", &["jam"]))?;
    let mut keys = runtime.get("jam").map_or(Ok(Map::new()), |jam| object(jam, "spec.runtime.jam"))?;
    if keys.contains_key("profile") {
        return Err("has spec.runtime.jam.profile; in a manifest it is spec.profile".into());
    }
    if let Some(profile) = spec.get("profile") {
        keys.insert("profile".into(), profile.clone());
    }
    Ok(Block { keys, manifest: true })
}

fn object(value: &Value, place: &str) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(fields) => Ok(fields.clone()),
        Value::Null => Ok(Map::new()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(format!("{place} is not a mapping"))
        }
    }
}

fn under(value: &Value, place: &str, known: &[&str]) -> Result<Map<String, Value>, String> {
    let fields = object(value, place)?;
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        Some(stray) => Err(format!("has {place}.{stray}, which is not a setting")),
        None => Ok(fields),
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
        ] {
            assert!(mistakes(text).iter().any(|m| m.contains(wanted)), "{text}: {:?}", mistakes(text));
        }
    }
}
