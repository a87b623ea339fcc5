//! At the end of the run: no token of it, and no password of a database, is in anything that cluster, operator and API have said.
//!
//! `dev/lib/record.sh` has written down since the first test: the log of every container, every version of every object, metrics
//! and readiness of every pod. Secrets are in a file of their own, from which the tokens are known: every one, whichever test made it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::audit;
use crate::support::{Instance, apply, eventually, kubectl_ok};

/// Keys of a consumer's Secret under which tokens stand.
const KEYS: [&str; 4] = ["token", "next", "previous", "retired"];

/// What was written down; `dev/lib/suites.sh` says where.
fn record() -> PathBuf {
    std::env::var_os("JAM_E2E_RECORD").expect("dev/lib/suites.sh sets JAM_E2E_RECORD").into()
}

fn decoded(value: &Value) -> String {
    let bytes = value.as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Every version of every Secret that there was.
fn secrets() -> Vec<Value> {
    let text = fs::read_to_string(record().join("secrets.json")).expect("the Secrets were written down");
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.map(|event| event["object"].clone()).filter(|object| object["kind"] == "Secret").collect()
}

fn is_of_a_consumer(secret: &Value) -> bool {
    secret["metadata"]["labels"]["jam.network/consumer"].is_string()
}

/// Every token that there was.
fn tokens() -> BTreeSet<String> {
    let of_consumers = secrets().into_iter().filter(is_of_a_consumer);
    let values = of_consumers.flat_map(|secret| KEYS.map(|key| decoded(&secret["data"][key])));
    let tokens = values.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    tokens.filter(|token| token.len() >= 16).collect()
}

/// The Secrets that instances named, with the key that counts, where one does.
fn named_by_instances() -> BTreeSet<(String, String, Option<String>)> {
    let text = fs::read_to_string(record().join("objects/jaminstances.json")).expect("the instances were written down");
    let mut named = BTreeSet::new();
    for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let (namespace, spec) = (&event["object"]["metadata"]["namespace"], &event["object"]["spec"]);
        let mut name = |secret: &Value, suffix: &str, key: &Value| {
            if let (Some(namespace), Some(secret)) = (namespace.as_str(), secret.as_str()) {
                named.insert((namespace.to_owned(), format!("{secret}{suffix}"), key.as_str().map(str::to_owned)));
            }
        };
        for field in ["allowedTokensSecretRef", "globalTokensSecretRef", "adminTokensSecretRef"] {
            name(&spec["tokens"][field]["name"], "", &Value::Null);
        }
        let database = &spec["database"];
        name(&database["dsnSecretRef"]["name"], "", &database["dsnSecretRef"]["key"]);
        name(&database["cluster"]["name"], "-app", &json!("uri"));
    }
    named
}

/// The users' own tokens, and the passwords in their DSNs as they are written and as they are meant.
fn given() -> BTreeSet<String> {
    let named = named_by_instances();
    let values = secrets().into_iter().flat_map(|secret| {
        let at = |field: &str| secret["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (at("namespace"), at("name"));
        let data: Vec<(String, String)> = secret["data"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), decoded(value)))
            .collect();
        let is_named = |key: &String| {
            named.iter().any(|(place, secret, only)| {
                *place == namespace && *secret == name && only.as_ref().is_none_or(|only| only == key)
            })
        };
        data.into_iter().filter(|(key, _)| is_named(key)).map(|(_, value)| value).collect::<Vec<_>>()
    });
    let secret_part = |value: String| match value.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')) {
        Some((userinfo, _)) => {
            let password = userinfo.split_once(':').map_or("", |(_, password)| password);
            let meant = percent_encoding::percent_decode_str(password).decode_utf8_lossy().into_owned();
            vec![password.to_owned(), meant]
        }
        None => value.lines().map(str::to_owned).collect(),
    };
    values.flat_map(secret_part).filter(|text| text.len() >= 16).collect()
}

/// A text as it is written, and in base64 wherever in a longer text it stood.
fn spellings(text: &str) -> Vec<String> {
    let encoded = (0..3).map(|before| {
        let whole = STANDARD.encode([&vec![0; before], text.as_bytes()].concat());
        // The first characters depend on what stood before, the last ones on what follows.
        let (first, end) = ([0, 2, 3][before], (before + text.len()) * 8 / 6);
        whole[first..end].to_owned()
    });
    [text.to_owned()].into_iter().chain(encoded).collect()
}

/// The files in which one of these texts stands, as grep finds them.
fn said_in(texts: &BTreeSet<String>, places: &[PathBuf]) -> Vec<String> {
    let patterns = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    let lines: Vec<String> = texts.iter().flat_map(|text| spellings(text)).collect();
    fs::write(patterns.path(), lines.join("\n")).expect("a file can be written there");
    let found = Command::new("grep")
        .args(["--recursive", "--text", "--fixed-strings", "--files-with-matches", "--file"])
        .arg(patterns.path())
        .args(places)
        .output()
        .expect("grep is there");
    assert!(found.status.code().is_some_and(|code| code < 2), "{}", String::from_utf8_lossy(&found.stderr));
    String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect()
}

/// The Secrets that the operator made: none of them holds what a user has given.
fn secrets_of_the_operator() -> PathBuf {
    let ours = |secret: &Value| secret["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "jam-operator";
    let file = record().join("secrets-of-the-operator.json");
    let lines: Vec<String> = secrets().into_iter().filter(ours).map(|secret| secret.to_string()).collect();
    fs::write(&file, lines.join("\n")).expect("a file can be written there");
    file
}

/// Every Secret without what is a consumer's own: nobody else's holds a token, and no Secret shows one beside its data.
fn secrets_of_others() -> PathBuf {
    let stripped = secrets().into_iter().map(|mut secret| {
        if is_of_a_consumer(&secret) {
            secret["data"] = Value::Null;
        }
        secret.to_string()
    });
    let file = record().join("secrets-of-others.json");
    fs::write(&file, stripped.collect::<Vec<_>>().join("\n")).expect("a file can be written there");
    file
}

fn places(secrets: PathBuf) -> Vec<PathBuf> {
    let recorded = ["logs", "objects", "answers"].map(|name| record().join(name));
    recorded.into_iter().chain(audit::logs()).chain([secrets]).collect()
}

/// Says a word in each of the ways in which a token could be told: where it is not found, a token would not be either.
async fn word_everywhere(word: &str) {
    let instance = Instance::in_new_namespace("last");
    let namespace = instance.namespace.as_str();
    let restricted = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "word", "namespace": namespace},
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 70, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "word", "image": "localhost/postgres:15", "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/sh", "-c", format!("echo {word}-log")], "securityContext": restricted,
            }],
        },
    }));
    // It is paused: only what is written into it matters, and that the record goes on after a change of the definition.
    apply(&json!({
        "apiVersion": "jam.network/v1alpha1", "kind": "JamInstance",
        "metadata": {"name": "word", "namespace": namespace, "annotations": {"word": format!("{word}-instance")}},
        "spec": {"paused": true},
    }));
    let encoded = STANDARD.encode(format!("Bearer {word}-base64"));
    apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "word", "namespace": namespace},
        "data": {"plain": format!("{word}-object"), "encoded": encoded},
    }));
    apply(&json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "word", "namespace": namespace},
        "involvedObject": {"kind": "Pod", "name": "word", "namespace": namespace},
        "reason": "Word", "message": format!("{word}-event"), "type": "Normal",
    }));
    kubectl_ok(&["-n", namespace, "get", "pods", "--field-selector", &format!("metadata.name={word}-audit")]);
    let said = |kind: &str| BTreeSet::from([format!("{word}-{kind}")]);
    for (kind, place) in
        [("log", "logs"), ("object", "objects"), ("event", "objects"), ("base64", "objects"), ("instance", "objects")]
    {
        eventually(&format!("the word of the {kind} to be found"), || async {
            (!said_in(&said(kind), &[record().join(place)]).is_empty()).then_some(())
        })
        .await;
    }
    assert!(!said_in(&said("audit"), &audit::logs()).is_empty(), "the word of the audit log is found");
}

/// The recorded files of a folder whose text has this in it.
fn answers_with(text: &str) -> usize {
    said_in(&BTreeSet::from([text.to_owned()]), &[record().join("answers")]).len()
}

fn bytes_in(path: &Path) -> u64 {
    let Ok(folder) = fs::read_dir(path) else { return fs::metadata(path).map_or(0, |of| of.len()) };
    folder.flatten().map(|entry| bytes_in(&entry.path())).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_and_no_password_of_the_whole_run_is_in_anything_that_was_said() {
    word_everywhere(&format!("canary{:032x}", rand::random::<u128>())).await;
    assert!(answers_with("jam_operator_") > 0 && answers_with("jam_http_") > 0, "metrics of both were written down");
    let (tokens, places) = (tokens(), places(secrets_of_others()));
    let bytes: u64 = places.iter().map(|place| bytes_in(place)).sum();
    println!("{} tokens looked for in {bytes} bytes of {places:?}", tokens.len());
    let told = said_in(&tokens, &places);
    assert!(told.is_empty(), "a token is told in {told:#?}");
    assert!(tokens.len() > 50, "only {} tokens were made in this run", tokens.len());
    let given = given();
    println!("{} passwords and users' own tokens looked for", given.len());
    assert!(given.len() > 3, "only {} of them were given in this run", given.len());
    let told = said_in(&given, &self::places(secrets_of_the_operator()));
    assert!(told.is_empty(), "a password or a user's own token is told in {told:#?}");
}
