//! Laws of a migration that waits for approval: what it would apply is found out once, said and remembered.

use serde_json::json;

use super::*;
use crate::fixtures::{applied_status, at, but, cluster_for, on_postgres, resolved};
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
