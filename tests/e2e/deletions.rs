//! An instance goes whatever is broken beneath it, and nothing else goes with it.

use std::time::Duration;

use serde_json::json;

use crate::audit::writes_of_the_operator;
use crate::database::Postgres;
use crate::hold::Hold;
use crate::path::{memory_spec, postgres_spec};
use crate::removal::names;
use crate::support::{Instance, apply, eventually, kubectl_ok, object};

const OURS: &str = "app.kubernetes.io/instance=jam";

#[tokio::test]
async fn an_instance_whose_database_and_dsn_are_gone_goes_and_leaves_nothing() {
    let instance = Instance::in_new_namespace("dbgone");
    let namespace = instance.namespace.as_str();
    let database = Postgres::started(namespace).await;
    apply(&database.secret());
    let mut spec = postgres_spec();
    spec["workers"] = json!({"replicas": 1});
    spec["cleanup"] = json!({"schedule": "0 3 * * *"});
    spec["deletionPolicy"] = json!("Delete");
    instance.apply(&spec);
    instance.wait_ready().await;

    kubectl_ok(&["-n", namespace, "delete", "statefulset", "pg", "--cascade=foreground"]);
    instance.says("DatabaseReachable", "False", "DatabaseUnreachable").await;
    instance.is_told("InProgress").await;
    kubectl_ok(&["-n", namespace, "delete", "secret", "jam-db"]);
    instance.says("Stalled", "True", "SecretMissing").await;
    instance.is_told("Failed").await;
    kubectl_ok(&["-n", namespace, "delete", "jam", "jam", "--timeout=30s"]);
    eventually("everything to be gone", || async { names(&instance, OURS).is_empty().then_some(()) }).await;
}

/// How long a walk may go on that began before its instance was told to go.
const UNDER_WAY: Duration = Duration::from_secs(5);

/// Whether a request is about the status or an event of an instance.
fn is_word(what: &str) -> bool {
    [" jaminstances ", " events "].iter().any(|kind| what.contains(kind))
}

#[tokio::test]
async fn in_a_namespace_that_hangs_in_its_end_nothing_is_made_again_and_other_instances_are_looked_after() {
    let stays = Instance::applied("stays", &memory_spec());
    let going = Instance::applied("going", &memory_spec());
    stays.wait_ready().await;
    going.wait_ready().await;
    let service = Hold::on(&going, "service");
    let itself = Hold::on(&going, "jam");
    let since = jiff::Timestamp::now();
    kubectl_ok(&["delete", "namespace", &going.namespace, "--wait=false"]);
    eventually("all but the Service and the instance, which are held", || async {
        (going.kstatus() == "Terminating" && names(&going, OURS) == ["Service/jam"]).then_some(())
    })
    .await;
    // Until the instance itself is told to go nobody knows, and what the operator asks for is refused. A walk that was under way then
    // may still be.
    tokio::time::sleep(UNDER_WAY).await;
    let told = jiff::Timestamp::now();
    let mut made = writes_of_the_operator(since);
    made.retain(|write| write.namespace == going.namespace && write.has_made && !is_word(&write.what));
    assert!(made.is_empty(), "nothing is made again: {made:?}");
    // The instance is there, and now a child of it is gone that it had until now.
    drop(service);
    eventually("the Service to be gone", || async { names(&going, OURS).is_empty().then_some(()) }).await;

    let before = object(&stays.namespace, "service", "jam").unwrap_or_default()["metadata"]["uid"].clone();
    kubectl_ok(&["-n", &stays.namespace, "delete", "service", "jam"]);
    eventually("the others' Service to be made again", || async {
        object(&stays.namespace, "service", "jam").filter(|now| now["metadata"]["uid"] != before)
    })
    .await;
    stays.wait_ready().await;
    for _ in 0..20 {
        assert_eq!((names(&going, OURS), going.kstatus()), (Vec::new(), "Terminating"), "nothing is made again");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let mut writes = writes_of_the_operator(told);
    assert!(writes.iter().any(|write| write.namespace == stays.namespace), "the log tells what it did elsewhere");
    writes.retain(|write| write.namespace == going.namespace && !is_word(&write.what));
    assert!(writes.is_empty(), "nobody writes into a namespace that is going: {writes:?}");

    drop(itself);
    eventually("the namespace to be gone", || async {
        object("default", "namespace", &going.namespace).is_none().then_some(())
    })
    .await;
}
