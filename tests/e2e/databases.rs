//! What happens to a database in use, with real pods and traffic: another password, another database, CloudNativePG's, a slow network.

use std::time::Duration;

use serde_json::{Value, json};

use crate::database::{Postgres, names_and_restarts, put_off};
use crate::path::{first_package, postgres_spec};
use crate::slow::Relay;
use crate::support::{Instance, apply, eventually, kubectl, kubectl_ok, object, repository_file};
use crate::traffic::{Load, PUT_OFF};

/// Longer than a failing liveness probe takes to have a container restarted: 3 times 10 s.
const LIVENESS: Duration = Duration::from_secs(35);
/// How long a caller may have to come again while a password changes.
pub const MOMENT: Duration = Duration::from_secs(10);

/// The Secret that CloudNativePG writes for the owner of a cluster's database; nobody runs that operator here.
fn app_secret(namespace: &str, host: &str, password: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/basic-auth",
        "metadata": {"name": "pg-app", "namespace": namespace, "labels": {"cnpg.io/cluster": "pg"}},
        "stringData": {
            "username": "jam", "password": password, "dbname": "owned", "host": host, "port": "5432",
            "uri": format!("postgresql://jam:{password}@{host}:5432/owned"),
        },
    })
}

/// CloudNativePG's published definition, and a cluster that nobody makes.
async fn cluster(namespace: &str) {
    let definition = repository_file("tests/it/crds/clusters.json");
    kubectl_ok(&["apply", "--server-side", "-f", &definition.to_string_lossy()]);
    eventually("the definition to be served", || async {
        kubectl(&["-n", namespace, "get", "clusters.postgresql.cnpg.io"]).status.success().then_some(())
    })
    .await;
    apply(&json!({
        "apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": {"name": "pg", "namespace": namespace},
        "spec": {"instances": 3, "storage": {"size": "10Gi"}},
    }));
}

/// The pods, by what they were made from and who they are.
fn revision(instance: &Instance) -> Option<String> {
    let deployment = object(&instance.namespace, "deployment", instance.name)?;
    let hash = deployment.pointer("/spec/template/metadata/annotations/jam.network~1dsn-hash")?.as_str()?;
    Some(hash.to_owned())
}

/// Waits until every pod is of another DSN than this one and serves.
async fn follows(instance: &Instance, before: &str) -> String {
    let now = eventually("pods with the other DSN", || async {
        let deployment = object(&instance.namespace, "deployment", instance.name)?;
        let told = |field: &str| deployment["status"][field].as_u64();
        let settled = deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"]
            && told("updatedReplicas") == Some(2)
            && told("replicas") == Some(2)
            && told("availableReplicas") == Some(2);
        revision(instance).filter(|now| settled && now != before)
    })
    .await;
    instance.wait_ready().await;
    now
}

/// How many packages one of the databases has.
fn count(database: &Postgres, name: &str) -> u64 {
    database.asked(name, "select count(*) from packages").parse().expect("a number")
}

/// How often its Deployment was given another template.
pub fn rollouts(instance: &Instance) -> String {
    let deployment = object(&instance.namespace, "deployment", instance.name).unwrap_or_default();
    deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloudnativepg_secret_is_waited_for_and_a_new_password_in_it_reaches_every_pod_by_itself_and_once() {
    let instance = Instance::in_new_namespace("cnpg");
    let namespace = instance.namespace.as_str();
    let database = Postgres::started(namespace).await;
    let host = format!("pg.{namespace}.svc");
    cluster(namespace).await;
    let mut spec = postgres_spec();
    spec["database"] = json!({"cluster": {"name": "pg"}});
    instance.apply(&spec);
    let told = instance.says("Stalled", "True", "SecretMissing").await;
    assert!(told.contains("pg-app") && told.contains("uri"), "{told}");
    instance.is_told("Failed").await;

    database.asked("postgres", "create role jam login password 'first'");
    database.asked("postgres", "create database owned owner jam");
    apply(&app_secret(namespace, &host, "first"));
    instance.wait_ready().await;
    first_package(&instance).await;
    let load = Load::on(&instance).await;
    let (before, first) = (rollouts(&instance), revision(&instance).expect("pods know their DSN"));
    // As that operator does it: the role first, then the Secret.
    database.asked("postgres", "alter role jam password 'second'");
    apply(&app_secret(namespace, &host, "second"));
    follows(&instance, &first).await;
    assert_eq!((before.as_str(), rollouts(&instance).as_str()), ("1", "2"), "once");
    // Until they follow, pods keep the connections that they have; where they need another one the database refuses it.
    load.is_served().await;
    let answers = load.ended().await;
    answers.failed_only_as(&[PUT_OFF]);
    let (asked, failed) = (answers.asked, answers.failed.len() as u64);
    assert!(failed * 20 <= asked, "{failed} of {asked} were put off, more than one in twenty");
    assert!(answers.longest < MOMENT, "somebody was served nothing for {:?}", answers.longest);
    assert!(count(&database, "owned") > answers.submitted, "what was accepted is there");
    let load = Load::on(&instance).await;
    instance.slctl_ok(&["jam", "verify", "--service", "demo"]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    load.all_answered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_names_another_database_moves_every_pod_there_once_it_is_migrated_without_a_failed_request() {
    let instance = Instance::in_new_namespace("moved");
    let database = Postgres::started(&instance.namespace).await;
    database.asked("postgres", "create database next");
    apply(&database.secret());
    instance.apply(&postgres_spec());
    instance.wait_ready().await;
    let load = Load::on(&instance).await;
    let first = revision(&instance).expect("pods know their DSN");
    apply(&database.secret_for("jam-db", "next"));
    let second = follows(&instance, &first).await;
    first_package(&instance).await;
    let count = |name: &str| count(&database, name);
    assert!(count("app") > 0 && count("next") > 0, "{} before, {} after", count("app"), count("next"));

    // And back: what was left there is there.
    apply(&database.secret());
    assert_eq!(follows(&instance, &second).await, first);
    assert_eq!(rollouts(&instance), "3", "each change is one rollout");
    let submitted = load.all_answered().await;
    assert_eq!(count("app") + count("next"), submitted + 1, "what was accepted is in one of them, once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_database_is_served_and_a_silent_one_makes_pods_unready_restarts_none_and_heals_by_itself() {
    let instance = Instance::in_new_namespace("slow");
    let database = Postgres::started(&instance.namespace).await;
    let relay = Relay::to(format!("pg.{}.svc:5432", instance.namespace)).await;
    let mut secret = database.secret();
    let dsn = secret["stringData"]["dsn"].as_str().expect("a DSN");
    secret["stringData"]["dsn"] =
        dsn.replace(&format!("pg.{}.svc:5432", instance.namespace), &relay.address.to_string()).into();
    apply(&secret);
    instance.apply(&postgres_spec());
    instance.wait_ready().await;
    first_package(&instance).await;
    let before = names_and_restarts(&instance);

    let load = Load::on(&instance).await;
    relay.takes(Duration::from_millis(20));
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(instance.condition("Ready").0, "True", "slow is not down: {}", instance.describe());
    load.all_answered().await;

    let (through_service, at_a_pod) = (Load::on(&instance).await, Load::on_a_pod_of(&instance).await);
    through_service.is_served().await;
    relay.goes_silent();
    let told = instance.says("Ready", "False", "DatabaseUnreachable").await;
    assert_eq!(instance.condition("DatabaseReachable").0, "False", "{told}");
    tokio::time::sleep(LIVENESS).await;
    assert_eq!(names_and_restarts(&instance), before);
    instance.is_told("InProgress").await;
    relay.takes(Duration::ZERO);
    instance.wait_ready().await;
    let submitted = put_off(through_service, at_a_pod).await;
    assert!(count(&database, "app") > submitted, "what was accepted is there");
    instance.says("DatabaseReachable", "True", "Reachable").await;
    instance.is_told("Current").await;
    assert_eq!(names_and_restarts(&instance), before, "the same pods, never restarted");
    instance.slctl_ok(&["jam", "verify", "--service", "demo"]);
}
