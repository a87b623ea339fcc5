//! Laws of a migration that waits: for approval, where what it would apply is found out once, said and remembered; for an earlier one.

use serde_json::json;

use super::*;
use crate::fixtures::{applied_status, at, but, cluster_for, job, on_postgres, resolved};
use crate::observed::MigrationPreview;
use crate::{Reason, Refusal, Verdict};

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
    let Preview::Asks { job, trouble: None } = preview(&cluster, &instance) else { panic!("nobody finds out") };
    let said = |said: PreviewSaid| vec![MigrationPreview { job: job.clone(), said, trouble: None }];
    cluster.migration_previews = said(PreviewSaid::Nothing);
    assert_eq!(preview(&cluster, &instance), Preview::Asks { job: job.clone(), trouble: None });
    assert!(message(&instance, &cluster).contains(&format!("(Job {job} finds out what it would apply)")));
    cluster.migration_previews[0].trouble = Some("pod a: ErrImagePull: not found".into());
    let told = message(&instance, &cluster);
    let why = format!("(Job {job} finds out what it would apply: pod a: ErrImagePull: not found)");
    assert!(told.contains(&why) && told.contains("--overwrite"), "nobody waits for it without knowing why: {told}");

    cluster.migration_previews = said(PreviewSaid::Failed("no route to host".into()));
    assert_eq!(preview(&cluster, &instance), Preview::Failed { job: job.clone(), why: "no route to host".into() });
    let told = message(&instance, &cluster);
    assert!(told.contains("could not find out") && told.contains("no route to host"), "{told}");
    let waits = applied_status(&instance, &cluster).migration.unwrap();
    assert_eq!((waits.would_apply, waits.state), (None, MigrationState::Pending));

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
fn a_new_dsn_that_would_apply_nothing_waits_for_nobody_and_another_image_does() {
    let instance = but(&on_postgres(), json!({"migrations": {"mode": "Manual"}}));
    let settled = crate::fixtures::settled_cluster_for(&on_postgres());
    let mut api = settled.api.clone().unwrap();
    api.image = Some(resolved(&instance, &settled).image.reference);
    api.dsn_hash = Some("the DSN before".into());
    let mut cluster = Observed { migration_jobs: Vec::new(), api: Some(api), ..settled };
    let Preview::Asks { job, trouble: None } = preview(&cluster, &instance) else { panic!("nobody finds out") };
    let said = |job: &str, words: &str| {
        vec![MigrationPreview { job: job.into(), said: PreviewSaid::Would(words.into()), trouble: None }]
    };
    for words in
        ["it does not say what", "would apply: 9 nothing would apply", "nothing would apply\nwould apply: 4 admin"]
    {
        cluster.migration_previews = said(&job, words);
        assert_eq!(preview(&cluster, &instance), Preview::Told { what: words.into() });
    }
    cluster.migration_previews = said(&job, "nothing would apply\n");
    assert_eq!(resolved(&instance, &cluster).migration.step, MigrationStep::Complete);
    let stored = JamInstance { status: Some(applied_status(&instance, &cluster)), ..instance.clone() };
    let gone = Observed { migration_previews: Vec::new(), at: at(900_000), ..cluster.clone() };
    assert_eq!(resolved(&stored, &gone).migration.step, MigrationStep::Complete, "it is remembered");

    let newer = but(&stored, json!({"image": {"tag": "2"}}));
    let Preview::Asks { job, trouble: None } = preview(&cluster, &newer) else {
        panic!("another image is asked for anew")
    };
    cluster.migration_previews = said(&job, "nothing would apply\n");
    assert!(matches!(preview(&cluster, &newer), Preview::Told { .. }), "a release is let in by whoever approves it");
}

#[test]
fn an_automatic_migration_asks_nobody_and_finds_out_nothing() {
    let instance = on_postgres();
    let step = resolved(&instance, &cluster_for(&instance)).migration.step;
    assert!(matches!(step, MigrationStep::Run { .. }));
}

fn ended(instance: &JamInstance, cluster: &Observed, exit_code: i32) -> (JamInstance, Observed, String) {
    let MigrationStep::Run { job } = resolved(instance, cluster).migration.step else { panic!("no Job is wanted") };
    let told = resolved(instance, cluster).migration.status.unwrap();
    let failed = MigrationJob {
        name: job.clone(),
        key: told.key,
        attempt: told.attempt,
        state: JobState::Failed { exit_code: Some(exit_code), message: "permission denied for schema public".into() },
        suspended: false,
        finished_at: Some(cluster.at),
        has_pod: true,
    };
    let cluster = Observed { migration_jobs: vec![failed], ..cluster.clone() };
    let status = applied_status(instance, &cluster);
    (JamInstance { status: Some(status), ..instance.clone() }, cluster, job)
}

#[test]
fn an_impossible_migration_waits_for_a_change_of_the_spec_or_for_somebody_who_names_its_job() {
    let first = on_postgres();
    let (instance, cluster, job) = ended(&first, &cluster_for(&first), 3);
    assert_eq!(resolved(&instance, &cluster).migration.step, MigrationStep::Never);
    assert!(message(&instance, &cluster).contains("jam.network/retry-migration names this Job"));
    let gone = Observed { migration_jobs: Vec::new(), ..cluster.clone() };
    assert_eq!(
        resolved(&instance, &gone).migration.step,
        MigrationStep::Never,
        "a Job that is removed changes nothing"
    );

    let mut named = instance.clone();
    named.annotations_mut().insert(names::RETRY_MIGRATION.into(), job.clone());
    let mut changed = instance.clone();
    changed.metadata.generation = changed.metadata.generation.map(|generation| generation + 1);
    for again in [&named, &changed] {
        let MigrationStep::Run { job: next } = resolved(again, &cluster).migration.step else { panic!("not again") };
        assert_ne!(next, job);
        let (again, cluster, _) = ended(again, &cluster, 3);
        assert_eq!(resolved(&again, &cluster).migration.step, MigrationStep::Never, "once, not in a loop");
    }
}

#[test]
fn what_a_failed_migration_said_and_when_it_is_tried_again_stays_when_its_pod_is_gone() {
    let first = on_postgres();
    let (instance, cluster, _) = ended(&first, &cluster_for(&first), 1);
    let told = resolved(&instance, &cluster).migration;
    assert!(message(&instance, &cluster).contains("permission denied"));
    let mut gone = cluster.clone();
    let job = &mut gone.migration_jobs[0];
    let limit = "BackoffLimitExceeded: Job has reached the specified backoff limit";
    (job.state, job.has_pod) = (JobState::Failed { exit_code: None, message: limit.into() }, false);
    assert_eq!(resolved(&instance, &gone).migration, told);
    assert!(message(&first, &gone).contains("BackoffLimitExceeded"), "nobody has seen the pod");
}

#[test]
fn a_change_is_tried_also_when_the_first_walk_that_saw_it_was_refused() {
    let first = on_postgres();
    let (instance, cluster, job) = ended(&first, &cluster_for(&first), 3);
    let mut changed = instance.clone();
    changed.metadata.generation = changed.metadata.generation.map(|generation| generation + 1);
    let refusal = Refusal::new(Reason::SecretMissing, "Secret db does not exist");
    for verdict in [Verdict::Refused(&refusal), Verdict::Interrupted(None, "no answer"), Verdict::Paused] {
        let seen = crate::status::status(&changed, verdict, &cluster, at(2000));
        assert_eq!(seen.observed_generation, changed.metadata.generation, "it was seen");
        let seen = JamInstance { status: Some(seen), ..changed.clone() };
        let MigrationStep::Run { job: next } = resolved(&seen, &cluster).migration.step else { panic!("{verdict:?}") };
        assert_ne!(next, job);
    }
    let mut of_before = instance;
    of_before.status.as_mut().unwrap().migration.as_mut().unwrap().generation = None;
    assert_eq!(resolved(&of_before, &cluster).migration.step, MigrationStep::Never, "an upgrade is no change");
    of_before.metadata.generation = changed.metadata.generation;
    assert!(matches!(resolved(&of_before, &cluster).migration.step, MigrationStep::Run { .. }));
}

#[test]
fn what_serves_already_needs_no_migration_and_no_approval_to_come_back() {
    let instance = but(&on_postgres(), json!({"migrations": {"mode": "Manual"}}));
    let cluster = crate::fixtures::settled_cluster_for(&on_postgres());
    let here = resolved(&instance, &cluster);
    let mut api = cluster.api.clone().unwrap();
    api.image = Some(here.image.reference.clone());
    api.dsn_hash = here.database.as_ref().map(|database| database.dsn_hash.clone());
    // The Job is gone, and status tells of what was tried after it.
    let cluster = Observed { migration_jobs: Vec::new(), api: Some(api.clone()), ..cluster };
    assert_eq!(resolved(&instance, &cluster).migration.step, MigrationStep::Complete);
    let asks = |api: crate::observed::DeploymentState, instance: &JamInstance| {
        let step = resolved(instance, &Observed { api: Some(api), ..cluster.clone() }).migration.step;
        matches!(step, MigrationStep::AwaitApproval { .. })
    };
    assert!(asks(api.clone(), &but(&instance, json!({"image": {"tag": "2"}}))), "another image");
    for other in [
        crate::observed::DeploymentState { dsn_hash: Some("another database".into()), ..api.clone() },
        crate::observed::DeploymentState { ready: 0, ..api },
    ] {
        assert!(asks(other, &instance));
    }
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

#[test]
fn a_migration_whose_job_is_suspended_is_pending_and_says_so_until_it_runs() {
    let first = on_postgres();
    let mut cluster = cluster_for(&first);
    let job = job(&first, &cluster, JobState::Running);
    let mut instance = first;
    for (suspended, state) in
        [(true, MigrationState::Pending), (false, MigrationState::Running), (true, MigrationState::Pending)]
    {
        cluster.migration_jobs = vec![MigrationJob { suspended, ..job.clone() }];
        let words = message(&instance, &cluster);
        let status = applied_status(&instance, &cluster);
        let told = status.migration.clone().unwrap();
        let sentence = format!("Job {} is suspended: it runs when its spec.suspend is false", job.name);
        assert_eq!((told.state, told.message), (state, suspended.then(|| sentence.clone())));
        assert_eq!(words.contains(&sentence), suspended, "{words}");
        instance.status = Some(status);
    }
    cluster.migration_jobs.clear();
    let told = applied_status(&instance, &cluster).migration.unwrap();
    assert_eq!((told.state, told.message), (MigrationState::Pending, None), "it is gone, and made again");
}
