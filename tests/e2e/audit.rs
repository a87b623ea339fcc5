//! What the operator asked of the API server, from its audit log.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The operator's account.
const OPERATOR: &str = "system:serviceaccount:jam-system:jam-operator";
/// Verbs that change something.
const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

/// A request that changes something, or that only reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// When it came.
    pub at: jiff::Timestamp,
    /// The namespace that it is about, empty for what has none.
    pub namespace: String,
    /// Verb, kind and name.
    pub what: String,
    /// The name alone.
    pub name: String,
    /// Whether it changes something, or would have.
    pub is_write: bool,
    /// Whether something is there now that was not.
    pub has_made: bool,
}

/// The folder of the audit log; `dev/cluster/shell` says where it is.
pub fn log() -> PathBuf {
    std::env::var_os("JAM_AUDIT_LOG").expect("dev/cluster/shell sets JAM_AUDIT_LOG").into()
}

/// The log and what was rotated away from it.
pub fn logs() -> Vec<PathBuf> {
    let log = log();
    let folder = std::fs::read_dir(log.parent().unwrap_or(Path::new("/"))).expect("the folder of the audit log");
    let of_audit = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("audit"));
    folder.flatten().map(|entry| entry.path()).filter(of_audit).collect()
}

/// Every write of the operator since then.
pub fn writes_of_the_operator(since: jiff::Timestamp) -> Vec<Request> {
    let mut all = requests_of_the_operator(since);
    all.retain(|request| request.is_write);
    all
}

/// Everything that the operator has asked for since then.
pub fn requests_of_the_operator(since: jiff::Timestamp) -> Vec<Request> {
    let mut requests = Vec::new();
    for log in logs() {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let of_operator = text.lines().filter(|line| line.contains(OPERATOR));
        let all = of_operator.filter_map(|line| request(&serde_json::from_str(line).ok()?));
        requests.extend(all.filter(|request| request.at >= since));
    }
    requests
}

fn request(entry: &Value) -> Option<Request> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (verb, about) = (text(&entry["verb"]), &entry["objectRef"]);
    // A question about rights is a `create` that stores nothing.
    let counts = entry["user"]["username"] == OPERATOR && about["apiGroup"] != "authorization.k8s.io";
    counts.then(|| Request {
        at: text(&entry["requestReceivedTimestamp"]).parse().unwrap_or_default(),
        namespace: text(&about["namespace"]),
        what: format!("{verb} {} {}", text(&about["resource"]), text(&about["name"])),
        name: text(&about["name"]),
        is_write: WRITES.contains(&verb.as_str()),
        has_made: entry["responseStatus"]["code"] == 201,
    })
}
