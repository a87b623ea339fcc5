//! Claim 6: a database that goes away makes pods unready, never restarts them, and everything comes back by itself.

use std::collections::BTreeMap;
use std::process::Output;

use serde_json::{Value, json};

use crate::path::{first_package, postgres_spec};
use crate::support::{Instance, apply, eventually, kubectl, kubectl_ok, object};
use crate::traffic::{Load, PUT_OFF, TURNED_AWAY};

/// The PostgreSQL of `dev/cluster/addons/postgres.yaml`, one in the namespace of each test that needs it.
pub struct Postgres {
    namespace: String,
    password: String,
}

impl Postgres {
    /// Applies the add-on and waits until it is ready.
    pub async fn started(namespace: &str) -> Self {
        Self::started_on(namespace, None).await
    }

    /// The same on a certain node.
    pub async fn started_on(namespace: &str, node: Option<&str>) -> Self {
        let password = format!("{:032x}", rand::random::<u128>());
        for mut object in objects(namespace, &password) {
            if let (Some(node), true) = (node, object["kind"] == "StatefulSet") {
                object["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
            }
            apply(&object);
        }
        eventually("PostgreSQL to be ready", || async {
            object(namespace, "statefulset", "pg").filter(|set| set["status"]["readyReplicas"] == 1)
        })
        .await;
        Self { namespace: namespace.to_owned(), password }
    }

    /// The Secret that `dsnSecretRef` names.
    pub fn secret(&self) -> Value {
        self.secret_for("jam-db", "app")
    }

    /// A Secret with the DSN of one of its databases.
    pub fn secret_for(&self, name: &str, database: &str) -> Value {
        let dsn = format!("postgres://postgres:{}@pg.{}.svc:5432/{database}", self.password, self.namespace);
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": self.namespace}, "stringData": {"dsn": dsn},
        })
    }

    /// The namespace that it runs in.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Asks it as its administrator, in one of its databases.
    pub fn ask(&self, database: &str, statement: &str) -> Output {
        let psql = ["psql", "-At", "-h", "/tmp", "-U", "postgres", "-d", database, "-c", statement];
        kubectl(&[&["-n", &self.namespace, "exec", "pg-0", "--"], &psql[..]].concat())
    }

    /// The bare text of its answer, which must be one.
    pub fn asked(&self, database: &str, statement: &str) -> String {
        let output = self.ask(database, statement);
        assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Cuts it off: nobody reaches it through its Service any more. Its data stays.
    pub fn cut_off(&self) {
        self.select("nobody");
        // Sessions that are open already would go on: the server ends them.
        self.asked(
            "postgres",
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and backend_type = 'client backend'",
        );
    }

    /// Brings it back.
    pub fn bring_back(&self) {
        self.select("pg");
    }

    fn select(&self, app: &str) {
        let change = json!({"spec": {"selector": {"app": app}}}).to_string();
        kubectl_ok(&["-n", &self.namespace, "patch", "service", "pg", "--type", "merge", "-p", &change]);
    }
}

fn objects(namespace: &str, password: &str) -> [Value; 3] {
    let restricted =
        json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
    let container = json!({
        "name": "postgres", "image": "localhost/postgres:15", "imagePullPolicy": "IfNotPresent",
        "args": ["-c", "shared_buffers=32MB", "-c", "max_connections=60"],
        "env": [
            {"name": "POSTGRES_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "pg", "key": "password"}}},
            {"name": "POSTGRES_DB", "value": "app"},
        ],
        "ports": [{"name": "pg", "containerPort": 5432}],
        "readinessProbe": {"exec": {"command": ["pg_isready", "-q", "-h", "/tmp", "-U", "postgres"]}, "periodSeconds": 1},
        "securityContext": restricted,
        "volumeMounts": [
            {"name": "data", "mountPath": "/var/lib/postgresql/data"},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    });
    let pod = json!({
        "automountServiceAccountToken": false,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 70, "runAsGroup": 70, "fsGroup": 70,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
        ],
    });
    let meta = json!({"name": "pg", "namespace": namespace});
    [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"password": password}}),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": meta,
            "spec": {"selector": {"app": "pg"}, "ports": [{"name": "pg", "port": 5432}]},
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta,
            "spec": {
                "serviceName": "pg", "replicas": 1, "selector": {"matchLabels": {"app": "pg"}},
                "template": {"metadata": {"labels": {"app": "pg"}}, "spec": pod},
            },
        }),
    ]
}

/// Each pod of the API by its UID, with how often its container was restarted.
pub fn names_and_restarts(instance: &Instance) -> BTreeMap<String, u64> {
    restarts(&instance.pods())
}

/// The same of these pods.
pub fn restarts(pods: &[Value]) -> BTreeMap<String, u64> {
    let of = |pod: &Value| {
        let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
        (pod["metadata"]["uid"].to_string(), restarts.expect("a container has run"))
    };
    pods.iter().map(of).collect()
}

/// Waits until everybody is served again; whoever was not, meanwhile, was told to come again by a pod or turned away by the Service.
/// How many submissions were accepted.
pub async fn put_off(through_service: Load, at_a_pod: Load) -> u64 {
    through_service.is_served().await;
    at_a_pod.is_served().await;
    let (through_service, at_a_pod) = (through_service.ended().await, at_a_pod.ended().await);
    through_service.failed_only_as(&[PUT_OFF, TURNED_AWAY]);
    at_a_pod.failed_only_as(&[PUT_OFF]);
    let of = |client: &str| at_a_pod.failed.iter().filter(|failed| failed.client.starts_with(client)).count();
    assert_eq!(of("healthz"), 0, "who is alive says so whatever its database does");
    assert!(of("status") + of("submissions") > 10, "who works was put off: {:#?}", at_a_pod.failed);
    through_service.submitted + at_a_pod.submitted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_outage_makes_pods_unready_restarts_none_and_heals_by_itself() {
    let instance = Instance::in_new_namespace("outage");
    let database = Postgres::started(&instance.namespace).await;
    apply(&database.secret());
    instance.apply(&postgres_spec());
    instance.wait_ready().await;
    first_package(&instance).await;

    let before = names_and_restarts(&instance);
    let (through_service, at_a_pod) = (Load::on(&instance).await, Load::on_a_pod_of(&instance).await);
    through_service.is_served().await;
    database.cut_off();
    eventually("DatabaseReachable=False", || async {
        (instance.condition("DatabaseReachable").0 == "False").then_some(())
    })
    .await;
    let waited = instance.kubectl_wait("Ready=False", "180s");
    assert!(waited.status.success(), "{}", instance.describe());
    instance.is_told("InProgress").await;
    // Longer than it takes a failing liveness probe to have a container restarted (3 times 10 s).
    tokio::time::sleep(std::time::Duration::from_secs(45)).await;

    database.bring_back();
    instance.wait_ready().await;
    eventually("DatabaseReachable=True", || async {
        (instance.condition("DatabaseReachable").0 == "True").then_some(())
    })
    .await;
    let submitted = put_off(through_service, at_a_pod).await;
    let kept: u64 = database.asked("app", "select count(*) from packages").parse().expect("a number");
    assert!(kept > submitted, "what was accepted is there: {kept} of {submitted}");
    assert_eq!(names_and_restarts(&instance), before, "the same pods, never restarted");
    eventually("the chain to verify", || async {
        instance.slctl(&["jam", "verify", "--service", "demo"]).status.success().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_missing_database_secret_is_named_and_the_instance_recovers_when_it_is_there() {
    let instance = Instance::in_new_namespace("secret");
    let database = Postgres::started(&instance.namespace).await;
    instance.apply(&postgres_spec());
    let message = eventually("a condition that names the Secret", || async {
        let object = object(&instance.namespace, "jam", instance.name)?;
        let conditions = object["status"]["conditions"].as_array()?.clone();
        let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready")?;
        ready["message"].as_str().filter(|message| message.contains("jam-db")).map(str::to_owned)
    })
    .await;
    assert!(message.contains("jam-db"), "{message}");
    instance.is_told("Failed").await;
    apply(&database.secret());
    instance.wait_ready().await;
}
