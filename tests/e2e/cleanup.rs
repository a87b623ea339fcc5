//! The cleanup runs by its schedule in a real pod, its result is in the status, and a wrong database user is a condition.

use serde_json::{Value, json};

use crate::database::Postgres;
use crate::path::postgres_spec;
use crate::support::{Instance, apply, eventually, kubectl_ok, object};

fn told(instance: &Instance) -> Value {
    object(&instance.namespace, "jam", instance.name)
        .map(|found| found["status"]["cleanup"].clone())
        .unwrap_or_default()
}

#[tokio::test]
async fn a_cleanup_runs_by_its_schedule_and_its_result_is_in_the_status() {
    let instance = Instance::in_new_namespace("cleanup");
    let database = Postgres::started(&instance.namespace).await;
    apply(&database.secret());
    let mut spec = postgres_spec();
    spec["replicas"] = json!(1);
    spec["cleanup"] = json!({"schedule": "* * * * *", "timeZone": "Etc/UTC"});
    spec["networkPolicy"] = json!({"enabled": true});
    instance.apply(&spec);
    instance.wait_ready().await;
    assert_eq!(instance.condition("CleanupScheduled"), ("True".into(), "Scheduled".into()));
    let first = eventually("a run that succeeded", || async {
        Some(told(&instance)).filter(|told| told["lastResult"] == "Succeeded")
    })
    .await;
    assert_eq!(first["deleted"]["packages"], 0, "{first}\n{}", instance.describe());

    let suspended = json!({"spec": {"cleanup": {"suspend": true}}});
    instance.patch(&suspended);
    eventually("the suspension is told", || async {
        (instance.condition("CleanupScheduled").1 == "CleanupSuspended").then_some(())
    })
    .await;
    // A run of the schedule may just have begun.
    eventually("no run to be under way", || async {
        let cron_job = object(&instance.namespace, "cronjob", &format!("{}-cleanup", instance.name))?;
        cron_job["status"]["active"].as_array().is_none_or(Vec::is_empty).then_some(())
    })
    .await;
    let first = told(&instance);
    kubectl_ok(&[
        "-n",
        &instance.namespace,
        "create",
        "job",
        "--from",
        &format!("cronjob/{}-cleanup", instance.name),
        "try",
    ]);
    eventually("a run by hand is told as well", || async {
        let now = told(&instance);
        (now["lastResult"] == "Succeeded" && now["lastRun"] != first["lastRun"]).then_some(())
    })
    .await;
}
