//! Laws of a migration that waits: for approval, where what it would apply is found out once, said and remembered; for an earlier one.

use serde_json::json;

use super::*;
use crate::fixtures::{applied_status, at, but, cluster_for, job, on_postgres, resolved};
use crate::observed::MigrationPreview;

fn preview(cluster: &Observed, instance: &JamInstance) -> Preview {
    match resolved(instance, cluster).migration.step {
        MigrationStep::AwaitApproval { key: _, preview } => preview,
        other => panic!("it waits for nobody: {other:?}"),
    }
}

fn message(instance: &JamInstance, cluster: &Observed) -> String {
    let status = applied_status(instance, cluster);
    status.conditions.into_iter().find(|condition| condition.type_ == "Migrated").unwrap().message
}

#[test]
fn a_manual_migration_says_what_it_would_apply_and_remembers_it_when_the_job_is_gone() {
    let instance = but(&on_postgres(), json!({"migrations": {"mode": "Manual"}}));
    let mut cluster = cluster_for(&instance);
    let Preview::Asks { job } = preview(&cluster, &instance) else { panic!("nobody finds out") };
    let said = |said: PreviewSaid| vec![MigrationPreview { job: job.clone(), said }];
    cluster.migration_previews = said(PreviewSaid::Nothing);
    assert_eq!(preview(&cluster, &instance), Preview::Asks { job: job.clone() });
    assert!(message(&instance, &cluster).contains(&format!("Job {job} finds out")));

    cluster.migration_previews = said(PreviewSaid::Failed("no route to host".into()));
    assert_eq!(preview(&cluster, &instance), Preview::Failed { job: job.clone(), why: "no route to host".into() });
    let told = message(&instance, &cluster);
    assert!(told.contains("could not find out") && told.contains("no route to host"), "{told}");
    assert_eq!(applied_status(&instance, &cluster).migration.unwrap().would_apply, None);

    let would = "would apply: 4 admin\nwould apply: 5 events";
    cluster.migration_previews = said(PreviewSaid::Would(would.into()));
    assert_eq!(preview(&cluster, &instance), Preview::Told { what: would.into() });
    let told = message(&instance, &cluster);
    let key = resolved(&instance, &cluster).migration.status.unwrap().key;
    assert!(told.contains("(would apply: 4 admin; would apply: 5 events)"), "{told}");
    assert!(told.contains(&format!("jam.network/approve-migration={key} --overwrite")), "{told}");

    let status = applied_status(&instance, &cluster);
    assert_eq!(status.migration.as_ref().unwrap().would_apply.as_deref(), Some(would));
    let stored = JamInstance { status: Some(status), ..instance };
    cluster.migration_previews.clear();
    cluster.at = at(900_000);
    assert_eq!(
        preview(&cluster, &stored),
        Preview::Told { what: would.into() },
        "the Job is gone, it is not made again"
    );
    let newer = but(&stored, json!({"image": {"tag": "2"}}));
    assert!(matches!(preview(&cluster, &newer), Preview::Asks { .. }), "another migration is asked for anew");
}

#[test]
fn an_automatic_migration_asks_nobody_and_finds_out_nothing() {
    let instance = on_postgres();
    let step = resolved(&instance, &cluster_for(&instance)).migration.step;
    assert!(matches!(step, MigrationStep::Run { .. }));
}

#[test]
fn no_migration_begins_while_a_pod_of_an_earlier_one_has_not_ended() {
    let instance = on_postgres();
    let cluster = cluster_for(&instance);
    let left = Observed { migration_pods: vec!["main-migrate-a-x (on its way out)".into()], ..cluster.clone() };
    let waits = MigrationStep::Wait { what: "pod main-migrate-a-x (on its way out)".into() };
    assert_eq!(resolved(&instance, &left).migration.step, waits, "its Job may be gone");
    let own = job(&instance, &cluster, JobState::Running);
    let begun = Observed { migration_jobs: vec![own.clone()], ..left.clone() };
    assert_eq!(resolved(&instance, &begun).migration.step, MigrationStep::Run { job: own.name }, "its own pod");
    let failed = JobState::Failed { exit_code: None, message: "DeadlineExceeded".into() };
    let failed = Observed { migration_jobs: vec![job(&instance, &cluster, failed)], at: at(2000), ..left };
    assert_eq!(resolved(&instance, &failed).migration.step, waits, "a Job can have failed before its pods have ended");
    let manual = but(&instance, json!({"migrations": {"mode": "Manual"}}));
    let step = resolved(&manual, &Observed { migration_pods: vec!["a".into()], ..cluster }).migration.step;
    assert!(matches!(step, MigrationStep::AwaitApproval { .. }), "there is nothing to wait with yet");
}
