//! Laws of the migration Jobs.

use serde_json::{Value, json};

use crate::desired::{Kind, Write};
use crate::fixtures::{but, cluster_for, objects, on_postgres};

fn job(change: Value) -> (Write, Value) {
    let instance = but(&on_postgres(), change);
    let all = objects(&instance, &cluster_for(&instance)).items;
    let mut jobs = all.into_iter().filter(|item| item.object.kind == Kind::Job);
    let job = jobs.next().expect("there is a Job");
    assert!(jobs.next().is_none(), "one Job at a time");
    (job.write, job.body)
}

#[test]
fn a_migration_has_one_pod_at_a_time_a_deadline_an_end_at_exit_code_3_and_a_time_to_live() {
    let (write, job) = job(json!({"migrations": {"timeoutSeconds": 77, "backoffLimit": 2}}));
    let spec = &job["spec"];
    assert_eq!((write, &spec["parallelism"], &spec["completions"]), (Write::CreateOnce, &json!(1), &json!(1)));
    // Also when a node dies: a pod that may still run is waited for.
    assert_eq!(spec["podReplacementPolicy"], "Failed");
    assert_eq!((&spec["activeDeadlineSeconds"], &spec["backoffLimit"]), (&json!(77), &json!(2)));
    let rule = |code| json!({"action": "FailJob", "onExitCodes": {"containerName": "jam", "operator": "In", "values": [code]}});
    assert_eq!(spec["podFailurePolicy"]["rules"], json!([rule(3), rule(124)]));
    assert!(spec["ttlSecondsAfterFinished"].as_i64().is_some_and(|kept| kept >= 3600), "its logs can be read");
    let container = &spec["template"]["spec"]["containers"][0];
    assert_eq!(
        (&container["args"], &container["terminationMessagePolicy"]),
        (&json!(["migrate"]), &json!("FallbackToLogsOnError"))
    );
}

#[test]
fn a_migration_and_its_dry_run_give_up_by_themselves_before_their_deadline() {
    for (deadline, limit) in [(10, "5s"), (77, "70s"), (600, "540s"), (86_400, "86340s")] {
        for mode in ["Auto", "Manual"] {
            let (_, job) = job(json!({"migrations": {"mode": mode, "timeoutSeconds": deadline}}));
            assert_eq!(job["spec"]["activeDeadlineSeconds"], deadline);
            let variable = json!({"name": "JAM_MIGRATE_TIMEOUT", "value": limit});
            let container = &job["spec"]["template"]["spec"]["containers"][0];
            assert!(container["env"].as_array().unwrap().contains(&variable), "{mode} {deadline}: {container}");
        }
    }
}

#[test]
fn a_migration_that_waits_for_approval_has_only_a_dry_run() {
    let (write, job) = job(json!({"migrations": {"mode": "Manual"}}));
    assert_eq!(write, Write::CreateOnce);
    let labels = &job["metadata"]["labels"];
    assert!(labels["jam.network/migration-preview"].is_string() && labels["jam.network/migration"].is_null());
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["args"], json!(["migrate", "--dry-run"]));
    let note = json!({"name": "JAM_MIGRATE_RESULT_FILE", "value": "/dev/termination-log"});
    assert!(container["env"].as_array().unwrap().contains(&note), "{container}");
}
