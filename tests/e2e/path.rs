//! Claims 1 to 3: an instance gets Ready, a package is processed, its receipts verify; on both stores.

use serde_json::{Value, json};

use crate::database::Postgres;
use crate::support::{Instance, apply, eventually, repository_file};

#[tokio::test]
async fn a_memory_instance_gets_ready_processes_a_package_and_its_receipts_verify() {
    let instance = Instance::applied("memory", &memory_spec());
    instance.wait_ready().await;
    first_package(&instance).await;
}

#[tokio::test]
async fn a_postgres_instance_gets_ready_processes_a_package_and_its_receipts_verify() {
    let instance = Instance::in_new_namespace("postgres");
    let database = Postgres::started(&instance.namespace).await;
    apply(&database.secret());
    instance.apply(&postgres_spec());
    instance.wait_ready().await;
    assert_eq!(instance.condition("Migrated").0, "True");
    assert_eq!(instance.condition("DatabaseReachable").0, "True");
    first_package(&instance).await;
}

/// The smallest instance that serves.
pub fn memory_spec() -> Value {
    json!({
        "runtime": {"jam": {"enabled": true, "store": "memory", "rateLimitPerMinute": 0, "maxPendingPackages": 0}},
        "tokens": {"consumers": [{"name": "demo"}]},
    })
}

/// Two replicas on the database of [`Postgres`].
pub fn postgres_spec() -> Value {
    json!({
        "runtime": {"jam": {"enabled": true, "store": "postgres", "rateLimitPerMinute": 0, "maxPendingPackages": 0}},
        "replicas": 2,
        "database": {"dsnSecretRef": {"name": "jam-db", "key": "dsn"}},
        "tokens": {"consumers": [{"name": "demo"}]},
    })
}

/// Uploads a real file, submits three items that refer to it, processes them and verifies the chain.
pub async fn first_package(instance: &Instance) {
    let file = repository_file("README.md");
    let file = file.to_string_lossy();
    // Ready is not routable: for a moment a ClusterIP may refuse.
    let uploaded = eventually("the first upload", || async {
        let output = instance.slctl(&["jam", "preimage", "--file", &file]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    })
    .await;
    let hash = uploaded.split_whitespace().find(|word| word.len() == 64).expect("slctl prints the hash").to_owned();

    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let package = folder.path().join("package.json");
    let items: Vec<Value> =
        (1..=3).map(|n| json!({"kind": "demo", "params_hash": format!("p{n}"), "preimage_hashes": [hash]})).collect();
    std::fs::write(&package, json!({"service_id": "demo", "items": items}).to_string()).expect("a file can be written");
    let submitted = instance.slctl_ok(&["--output", "json", "jam", "package", "--file", &package.to_string_lossy()]);
    let submitted: Value = serde_json::from_str(&submitted).expect("slctl prints JSON");
    let id = submitted["id"].as_str().expect("a package has an id");
    assert_eq!(submitted["items"].as_array().map(Vec::len), Some(3));

    instance.slctl_ok(&["jam", "process", "--all"]);
    let report = instance.slctl_ok(&["--output", "json", "jam", "report", "--package", id]);
    let report: Value = serde_json::from_str(&report).expect("slctl prints JSON");
    assert_eq!(report["report"]["package_id"], id);
    assert_eq!(report["report"]["status"], "applied");
    assert_eq!(report["attestations"].as_array().map(Vec::len), Some(1));
    instance.slctl_ok(&["jam", "verify", "--service", "demo"]);
}
