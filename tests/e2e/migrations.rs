//! The schema moves before any pod of a new version, and when it cannot, the version before goes on serving.

use serde_json::{Value, json};

use crate::database::Postgres;
use crate::path::postgres_spec;
use crate::support::{Instance, apply, eventually, kubectl, objects};
use crate::traffic::Load;

/// The Jobs that migrate: one that only finds out what a migration would apply changes nothing.
fn jobs(instance: &Instance) -> Vec<Value> {
    let all = objects(&instance.namespace, "jobs", &format!("app.kubernetes.io/instance={}", instance.name));
    let is_dry = |job: &Value| job["metadata"]["name"].as_str().is_some_and(|name| name.ends_with("-dry"));
    all.into_iter().filter(|job| !is_dry(job)).collect()
}

fn uids(instance: &Instance) -> Vec<String> {
    let mut uids: Vec<_> = instance.pods().iter().map(|pod| pod["metadata"]["uid"].to_string()).collect();
    uids.sort();
    uids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_fails_keeps_the_old_version_and_tells_its_last_words() {
    let instance = Instance::in_new_namespace("migfail");
    let database = Postgres::started(&instance.namespace).await;
    apply(&database.secret());
    let mut spec = postgres_spec();
    spec["migrations"] = json!({"backoffLimit": 0});
    instance.apply(&spec);
    instance.wait_ready().await;
    let before = uids(&instance);
    let load = Load::on(&instance).await;

    // The image of dev/images/build that says a word and ends, whatever it is asked to do.
    instance.patch(&json!({"spec": {"image": {"tag": "broken"}}}));
    let told = instance.says("Migrated", "False", "MigrationFailed").await;
    assert!(told.contains("broken on purpose"), "{told}");
    instance.is_told("InProgress").await;
    let names: Vec<_> = jobs(&instance).iter().map(|job| job["metadata"]["name"].to_string()).collect();
    assert!(names.iter().any(|name| told.contains(name.trim_matches('"'))), "{told} names one of {names:?}");
    assert_eq!(uids(&instance), before, "the old pods, and no other");

    instance.patch(&json!({"spec": {"image": {"tag": Value::Null}}}));
    instance.wait_ready().await;
    assert_eq!(uids(&instance), before, "back again restarts nothing");
    load.all_answered().await;
}

/// The words that the message tells the reader to run, run.
fn approve_as(told: &str) {
    let command = told.split("kubectl ").nth(1).unwrap_or_else(|| panic!("a command in: {told}"));
    // What it would apply is said after the command.
    let command = command.split(" (").next().unwrap_or(command);
    let arguments: Vec<_> = command.split_whitespace().collect();
    let output = kubectl(&arguments);
    assert!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_manual_mode_each_migration_waits_for_the_approval_that_its_condition_spells_out() {
    let instance = Instance::in_new_namespace("manual");
    let database = Postgres::started(&instance.namespace).await;
    apply(&database.secret());
    let mut spec = postgres_spec();
    spec["migrations"] = json!({"mode": "Manual"});
    instance.apply(&spec);
    let told = instance.says("Migrated", "False", "ApprovalNeeded").await;
    instance.is_told("Failed").await;
    assert!(jobs(&instance).is_empty() && instance.pods().is_empty(), "{}", instance.describe());
    approve_as(&told);
    instance.wait_ready().await;
    let (before, ran) = (uids(&instance), jobs(&instance).len());

    // An approval is for one image: the next one waits again, and the old pods serve meanwhile.
    let load = Load::on(&instance).await;
    instance.patch(&json!({"spec": {"image": {"tag": "next"}}}));
    let told = instance.says("Migrated", "False", "ApprovalNeeded").await;
    assert!(told.contains("jam-api:next"), "{told}");
    instance.is_told("Failed").await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert_eq!((uids(&instance), jobs(&instance).len()), (before.clone(), ran), "nothing moves unasked");
    approve_as(&told);
    eventually("the pods of the new image", || async {
        let pods = uids(&instance);
        (pods.len() == 2 && pods.iter().all(|uid| !before.contains(uid))).then_some(())
    })
    .await;
    instance.wait_ready().await;
    load.all_answered().await;
}
