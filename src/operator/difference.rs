//! Two states of an object for a person: what differs, without what only the API server writes, and without any secret.

use serde_json::Value;
use similar::TextDiff;

/// What stands where a value must not be shown.
const REDACTED: &str = "(redacted)";
/// The same, where it will be another value.
const REPLACED: &str = "(redacted, another value)";
/// Fields that the API server writes or hands out anew at every question, and our own hash of what is shown anyway.
const SERVERS: [&str; 12] = [
    "/metadata/uid",
    "/metadata/resourceVersion",
    "/metadata/generation",
    "/metadata/creationTimestamp",
    "/metadata/managedFields",
    "/metadata/annotations/deployment.kubernetes.io~1revision",
    "/metadata/annotations/jam.network~1rendered",
    // Holds the whole content of an object that somebody applied with kubectl, of a Secret as well.
    "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration",
    "/spec/clusterIP",
    "/spec/clusterIPs",
    "/spec/template/metadata/creationTimestamp",
    "/status",
];
const GREEN: &str = "\u{1b}[32m";
const RED: &str = "\u{1b}[31m";
const PLAIN: &str = "\u{1b}[0m";

/// What is left of an object when the API server's own fields are gone.
pub fn essence(mut object: Value) -> Value {
    for path in SERVERS {
        let (parent, field) = path.rsplit_once('/').unwrap_or_default();
        let field = field.replace("~1", "/");
        if let Some(fields) = object.pointer_mut(parent).and_then(Value::as_object_mut) {
            fields.remove(&field);
        }
    }
    for owner in object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut).into_iter().flatten() {
        // An instance that is not made yet has no uid.
        if let Some(fields) = owner.as_object_mut() {
            fields.remove("uid");
        }
    }
    object
}

/// Hides the values of a Secret, on both sides, so that only whether they differ can be seen.
pub fn redact(live: &mut Value, planned: &mut Value) {
    let (before, after) = (live.clone(), planned.clone());
    hide(live, |_, _| false);
    hide(planned, |field, key| before.is_object() && before[field][key] != after[field][key]);
}

fn hide(object: &mut Value, replaced: impl Fn(&str, &str) -> bool) {
    if object["kind"] != "Secret" {
        return;
    }
    for field in ["data", "stringData"] {
        for (key, value) in object.get_mut(field).and_then(Value::as_object_mut).into_iter().flatten() {
            *value = if replaced(field, key) { REPLACED } else { REDACTED }.into();
        }
    }
}

/// The lines that differ, with a few around them. Null is an object that is not there.
pub fn lines(object: &str, live: &Value, planned: &Value) -> String {
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        value => serde_saphyr::to_string(value).expect("a Kubernetes object is YAML"),
    };
    let (live, planned) = (text(live), text(planned));
    let diff = TextDiff::from_lines(&live, &planned);
    let (from, to) = (format!("live/{object}"), format!("planned/{object}"));
    diff.unified_diff().context_radius(3).header(&from, &to).to_string()
}

/// The same in colours.
pub fn coloured(diff: &str) -> String {
    let line = |line: &str| match line.bytes().next() {
        Some(b'+') => format!("{GREEN}{line}{PLAIN}\n"),
        Some(b'-') => format!("{RED}{line}{PLAIN}\n"),
        Some(_) | None => format!("{line}\n"),
    };
    diff.lines().map(line).collect()
}

/// What differs between two values, one line for each place; items of a list are told by their names.
pub fn places(live: &Value, planned: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", live, planned, &mut found);
    found
}

fn compare(path: &str, live: &Value, planned: &Value, found: &mut Vec<String>) {
    if live == planned {
        return;
    }
    if let (Some(before), Some(after)) = (parts(live), parts(planned)) {
        for (name, value) in &before {
            let twin = after.iter().find(|(other, _)| other == name).map_or(&Value::Null, |(_, value)| *value);
            compare(&format!("{path}{name}"), value, twin, found);
        }
        for (name, value) in after.iter().filter(|(name, _)| before.iter().all(|(other, _)| other != name)) {
            compare(&format!("{path}{name}"), &Value::Null, value, found);
        }
        return;
    }
    let word = |value: &Value| match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    found.push(format!("{}: {} -> {}", path.trim_start_matches('.'), word(live), word(planned)));
}

/// The parts of a value with the words that lead to them; `None` when it has none.
fn parts(value: &Value) -> Option<Vec<(String, &Value)>> {
    match value {
        Value::Object(fields) => Some(fields.iter().map(|(key, value)| (format!(".{key}"), value)).collect()),
        Value::Array(items) if !items.is_empty() => {
            let name = |item: &Value| Some(format!("[{}]", item.get("name")?.as_str()?));
            items.iter().map(|item| Some((name(item)?, item))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_value_of_a_secret_is_shown_and_a_change_of_one_is() {
        let secret = |token: &str| json!({"kind": "Secret", "data": {"token": token, "id": "c2FtZQ=="}});
        let (mut live, mut planned) = (secret("b2xkLXNlY3JldA=="), secret("bmV3LXNlY3JldA=="));
        redact(&mut live, &mut planned);
        let text = lines("Secret main-token-demo", &live, &planned);
        assert!(!text.contains("b2xk") && !text.contains("bmV3") && !text.contains("c2Ft"), "{text}");
        assert!(text.contains("-  token: (redacted)\n+  token: (redacted, another value)"), "{text}");
        let (mut none, mut new) = (Value::Null, secret("bmV3LXNlY3JldA=="));
        redact(&mut none, &mut new);
        assert_eq!(new["data"]["token"], REDACTED);
    }

    #[test]
    fn what_the_api_server_writes_is_no_difference() {
        let live =
            json!({"metadata": {"name": "a", "uid": "1", "resourceVersion": "7", "generation": 2}, "status": {}});
        assert_eq!(essence(live), json!({"metadata": {"name": "a"}}));
    }

    #[test]
    fn a_place_is_named_by_the_words_that_lead_to_it() {
        let pod =
            |image: &str, env: Value| json!({"spec": {"containers": [{"name": "jam", "image": image, "env": env}]}});
        let live = pod("a:1", json!([{"name": "A", "value": "1"}]));
        let planned = pod("a:2", json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]));
        assert_eq!(
            places(&live, &planned),
            [
                "spec.containers[jam].env[B]: none -> {\"name\":\"B\",\"value\":\"2\"}",
                "spec.containers[jam].image: a:1 -> a:2"
            ]
        );
    }

    #[test]
    fn added_lines_are_green_and_removed_ones_red() {
        assert_eq!(coloured("+a\n-b\n c\n"), "\u{1b}[32m+a\u{1b}[0m\n\u{1b}[31m-b\u{1b}[0m\n c\n");
    }
}
