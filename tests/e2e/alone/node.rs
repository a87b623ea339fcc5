//! A node that dies in the middle of a migration: no second migration beside one that may still run, and nobody who calls notices.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::database::Postgres;
use crate::path::postgres_spec;
use crate::support::{Instance, apply, eventually, kubectl, kubectl_ok, object, objects, repository_file};
use crate::traffic::Load;

/// The advisory lock that sqlx takes in the database `next` before it migrates.
const MIGRATION_LOCK: i64 = 72_069_576_371_507_464;

/// Makes a node silent, or lets it be heard again. Its containers run on: nobody can know that from outside.
fn kubelet(verb: &str, node: &str) -> bool {
    let script = repository_file("dev/cluster/kubelet");
    Command::new(script).args([verb, node]).status().is_ok_and(|done| done.success())
}

/// Puts everything right again, also when the test fails in between.
struct Heard;

impl Drop for Heard {
    fn drop(&mut self) {
        kubectl(&["uncordon", "node1"]);
        kubelet("start", "2");
    }
}

/// A session that holds the lock of the migrations of the database `next`, until it is dropped.
struct Held<'a>(Child, &'a Postgres);

impl<'a> Held<'a> {
    fn by(database: &'a Postgres) -> Self {
        let lock = format!("select pg_advisory_lock({MIGRATION_LOCK})");
        let session = Command::new("kubectl")
            .args([
                "-n",
                database.namespace(),
                "exec",
                "pg-0",
                "--",
                "psql",
                "-h",
                "/tmp",
                "-U",
                "postgres",
                "-d",
                "next",
            ])
            .args(["-c", &lock, "-c", "select pg_sleep(900)"])
            .stdout(Stdio::null())
            .spawn()
            .expect("kubectl is on PATH inside dev/cluster/shell");
        Self(session, database)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let end = "select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep%' and pid <> pg_backend_pid()";
        let _ = self.1.ask("postgres", end);
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How many sessions wait for that lock: one for each migration that is under way.
fn waiting(database: &Postgres) -> String {
    database.asked("next", "select count(*) from pg_stat_activity where datname = 'next' and wait_event = 'advisory'")
}

/// Migration pods that are not known to have ended.
fn migrating(instance: &Instance) -> Vec<Value> {
    let selector = format!("app.kubernetes.io/instance={},app.kubernetes.io/component=migration", instance.name);
    let ended = |pod: &Value| pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed";
    objects(&instance.namespace, "pods", &selector).into_iter().filter(|pod| !ended(pod)).collect()
}

fn node_is_ready(node: &str) -> bool {
    let node = object("default", "node", node).unwrap_or_default();
    node["status"]["conditions"]
        .as_array()
        .is_some_and(|all| all.iter().any(|told| told["type"] == "Ready" && told["status"] == "True"))
}

/// Two replicas that leave a silent node after five seconds, not after the usual five minutes.
fn impatient() -> Value {
    let mut spec = postgres_spec();
    let soon = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
    spec["podTemplate"] =
        json!({"tolerations": [soon("node.kubernetes.io/not-ready"), soon("node.kubernetes.io/unreachable")]});
    spec
}

/// The migration's pod, held up by the lock, alone on node 2.
async fn migration_on_node_2(instance: &Instance, database: &Postgres) -> Value {
    kubectl_ok(&["cordon", "node1"]);
    instance.patch(&json!({"spec": {"database": {"dsnSecretRef": {"name": "jam-next"}}}}));
    eventually("a migration to wait for the lock", || async { (waiting(database) == "1").then_some(()) }).await;
    kubectl_ok(&["uncordon", "node1"]);
    let pods = migrating(instance);
    assert_eq!(pods.len(), 1, "{pods:?}");
    assert_eq!(pods[0]["spec"]["nodeName"], "node2");
    pods[0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_node_is_dead_no_second_migration_starts_and_the_old_version_serves() {
    let instance = Instance::in_new_namespace("nodedies");
    let database = Postgres::started_on(&instance.namespace, Some("node1")).await;
    apply(&database.secret());
    instance.apply(&impatient());
    instance.wait_ready().await;
    let image = instance.pods()[0]["metadata"]["labels"]["pod-template-hash"].clone();
    // Another database, empty: its migration comes before the pods that use it.
    database.asked("postgres", "create database next");
    apply(&database.secret_for("jam-next", "next"));
    let lock = Held::by(&database);
    let load = Load::on(&instance).await;

    let _heard = Heard;
    let first = migration_on_node_2(&instance, &database).await;
    assert!(kubelet("stop", "2"), "the kubelet of node 2 is killed");
    eventually("the node to count as dead", || async { (!node_is_ready("node2")).then_some(()) }).await;
    eventually("its pods to be given up", || async {
        let pod = object(&instance.namespace, "pod", first["metadata"]["name"].as_str()?)?;
        pod["metadata"]["deletionTimestamp"].is_string().then_some(())
    })
    .await;
    instance.is_told("InProgress").await;
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(20) {
        let pods = migrating(&instance);
        assert!(pods.len() == 1 && pods[0]["metadata"]["uid"] == first["metadata"]["uid"], "a second one: {pods:#?}");
        assert_eq!(waiting(&database), "1", "the first one still runs on the silent node");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let old = |pod: &Value| pod["metadata"]["labels"]["pod-template-hash"] == image;
    assert!(instance.pods().iter().all(old), "no pod of the new revision: {}", instance.describe());

    assert!(kubelet("start", "2"), "the kubelet of node 2 is started");
    eventually("another migration after the end of the first", || async {
        let pods = migrating(&instance);
        assert!(pods.len() <= 1, "{pods:#?}");
        pods.iter().any(|pod| pod["metadata"]["uid"] != first["metadata"]["uid"]).then_some(())
    })
    .await;
    drop(lock);
    eventually("the pods on the new database", || async {
        let pods = instance.pods();
        (pods.len() == 2 && !pods.iter().any(old)).then_some(())
    })
    .await;
    instance.wait_ready().await;
    load.all_answered().await;
}
