//! Laws of resolve: what is refused and how it is said, what is filled in, and the gate of the migration.

use serde_json::{Value, json};

use super::*;
use crate::crd::MigrationState;
use crate::fixtures::{
    at, but, cluster_for, defaults, in_memory, instance, job, migrated_cluster_for, on_postgres, resolved,
};
use crate::observed::{Foreign, JobState, MigrationJob, PodSchema};
use crate::{Kind, ObjectRef, names, tokens};

fn refusal(instance: &JamInstance, observed: &Observed) -> Refusal {
    resolve(instance, observed, &defaults()).expect_err("it is refused")
}

#[test]
fn fields_that_contradict_each_other_are_refused_even_past_the_schema() {
    let postgres = json!({"store": "postgres"});
    let table: [(Value, &str); 15] = [
        (json!({"blobStore": {"url": "s3://bucket"}}), "spec.blobStore needs runtime.jam.store postgres"),
        (json!({"runtime": {"jam": postgres}}), "exactly one of spec.database.dsnSecretRef and spec.database.cluster"),
        (json!({"profile": "staging"}), "exactly one of"),
        (
            json!({"runtime": {"jam": postgres}, "database": {"dsnSecretRef": {"name": "a"}, "cluster": {"name": "b"}}}),
            "exactly one of",
        ),
        (
            json!({"profile": "production", "runtime": {"jam": {"store": "memory"}}}),
            "runtime.jam.store must be postgres",
        ),
        (
            json!({"profile": "production", "runtime": {"jam": {"authRequired": false}}}),
            "runtime.jam.auth_required must be true",
        ),
        (
            json!({"profile": "production", "runtime": {"jam": {"allowedOrigins": ["http://a.example"]}}}),
            "https origins only",
        ),
        (json!({"replicas": 2}), "spec.replicas must be at most 1"),
        (json!({"autoscaling": {"maxReplicas": 3}}), "without autoscaling"),
        (json!({"workers": {"replicas": 1}}), "spec.workers.replicas must be 0"),
        (json!({"ingress": {"enabled": true}}), "spec.ingress.host"),
        (json!({"httpRoute": {"enabled": true}}), "spec.httpRoute.parentRefs"),
        (json!({"tokens": {"consumers": []}}), "lets nobody in"),
        (json!({"tokens": {"consumers": [{"name": "hashes"}]}}), "the name hashes is taken"),
        (
            json!({"runtime": {"jam": {"attestationThreshold": 0}}}),
            "runtime.jam.attestation_threshold must be at least 1",
        ),
    ];
    for (spec, words) in table {
        let instance = instance(spec);
        let refusal = refusal(&instance, &cluster_for(&instance));
        assert_eq!(refusal.reason, Reason::InvalidSettings, "{words}: {}", refusal.message);
        assert!(refusal.message.contains(words), "{words}: {}", refusal.message);
    }
}

#[test]
fn an_autoscaler_whose_bounds_cross_is_refused() {
    let instance = but(&on_postgres(), json!({"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}));
    assert!(refusal(&instance, &cluster_for(&instance)).message.contains("maxReplicas"));
}

#[test]
fn a_name_that_a_service_could_not_have_is_refused() {
    for name in ["", "1st", "Main", "a.b", "a-", &"a".repeat(41)] {
        let mut instance = in_memory();
        instance.metadata.name = Some(name.into());
        assert!(refusal(&instance, &cluster_for(&instance)).message.contains("metadata.name"), "{name:?}");
    }
    let mut longest = in_memory();
    longest.metadata.name = Some("a".repeat(40));
    assert!(resolve(&longest, &cluster_for(&longest), &defaults()).is_ok());
}

#[test]
fn a_secret_that_is_missing_or_empty_is_named_and_heals_from_outside() {
    let instance = on_postgres();
    let table = [
        (None, Reason::SecretMissing),
        (Some(SecretKey::NoSecret), Reason::SecretMissing),
        (Some(SecretKey::NoKey), Reason::SecretKeyMissing),
        (Some(SecretKey::Empty), Reason::SecretKeyMissing),
    ];
    for (dsn, reason) in table {
        let refusal = refusal(&instance, &Observed { dsn, ..cluster_for(&instance) });
        assert_eq!(refusal.reason, reason);
        assert!(
            refusal.message.contains("Secret jam-db in namespace jam") && refusal.message.contains("dsn"),
            "{refusal}"
        );
        assert!(refusal.heals_from_outside());
    }
}

#[test]
fn a_cluster_of_cloudnativepg_is_reached_by_its_app_secret() {
    let change = json!({"database": {"dsnSecretRef": null, "cluster": {"name": "pg"}}});
    let instance = but(&on_postgres(), change);
    assert_eq!(dsn_reference(&instance), Some(("pg-app".into(), "uri".into())));
    let database = resolved(&instance, &cluster_for(&instance)).database.unwrap();
    assert_eq!((database.secret.as_str(), database.key.as_str()), ("pg-app", "uri"));
}

#[test]
fn an_object_that_is_not_ours_is_named_and_stops_everything() {
    let foreign =
        Foreign { object: ObjectRef { kind: Kind::Service, name: "main".into() }, owner: "Helm, by its label".into() };
    let observed = Observed { foreign: vec![foreign], ..cluster_for(&in_memory()) };
    let refusal = refusal(&in_memory(), &observed);
    assert_eq!(refusal.reason, Reason::NameTaken);
    assert_eq!(refusal.message, "Service main exists and belongs to Helm, by its label; it is not touched");
}

#[test]
fn a_pod_override_of_what_the_operator_sets_is_refused_by_name() {
    let table = [
        (json!({"labels": {"app.kubernetes.io/name": "x"}}), "spec.podTemplate.labels: app.kubernetes.io/name"),
        (json!({"annotations": {"jam.network/x": "y"}}), "spec.podTemplate.annotations: jam.network/x"),
        (json!({"env": [{"name": "JAM_PG_DSN", "value": "x"}]}), "spec.podTemplate.env: JAM_PG_DSN"),
        (json!({"env": [{"name": "DATABASE_URL", "value": "x"}]}), "spec.podTemplate.env: DATABASE_URL"),
    ];
    for (template, words) in table {
        let instance = but(&in_memory(), json!({"podTemplate": template}));
        let refusal = refusal(&instance, &cluster_for(&instance));
        assert!(refusal.message.starts_with(words), "{words}: {}", refusal.message);
    }
}

#[test]
fn an_empty_spec_is_an_instance_with_one_consumer() {
    let instance = instance(json!({}));
    let resolved = resolved(&instance, &cluster_for(&instance));
    assert_eq!(resolved.consumers.len(), 1);
    assert_eq!(resolved.consumers[0].name, tokens::DEFAULT_CONSUMER);
    assert_eq!((resolved.replicas, resolved.settings.enabled), (Some(1), false));
}

#[test]
fn no_consumer_is_needed_where_no_token_is_required() {
    let instance = instance(json!({"runtime": {"jam": {"authRequired": false}}}));
    assert!(resolved(&instance, &cluster_for(&instance)).consumers.is_empty());
}

#[test]
fn what_the_image_leaves_out_is_the_operators_default_and_a_digest_stands_for_the_tag() {
    let image = |image: Value| {
        let instance = but(&in_memory(), json!({"image": image}));
        resolved(&instance, &cluster_for(&instance)).image.reference
    };
    let digest = format!("sha256:{}", "a".repeat(64));
    assert_eq!(image(json!({})), "registry.example/jam-api:1.0.0");
    assert_eq!(image(json!({"tag": "2"})), "registry.example/jam-api:2");
    assert_eq!(image(json!({"repository": "other/jam"})), "other/jam:1.0.0");
    assert_eq!(image(json!({"digest": digest})), format!("registry.example/jam-api@{digest}"));
    let pinned = Defaults { digest: Some(digest.clone()), ..defaults() };
    let image = |image: Value| {
        let instance = but(&in_memory(), json!({"image": image}));
        resolve(&instance, &cluster_for(&instance), &pinned).unwrap().image.reference
    };
    assert_eq!(image(json!({})), format!("registry.example/jam-api@{digest}"));
    assert_eq!(image(json!({"repository": "other/jam"})), format!("other/jam@{digest}"));
    assert_eq!(image(json!({"tag": "2"})), "registry.example/jam-api:2", "whoever names a tag gets it");
}

#[test]
fn a_token_that_is_missing_is_made_once_and_one_that_is_there_never() {
    let instance = in_memory();
    let none = Observed { tokens: Vec::new(), ..cluster_for(&instance) };
    let work = |observed: &Observed| tokens::work(&instance, observed, Pace::default());
    let made = work(&none);
    assert_eq!(made.len(), 1);
    assert_eq!((made[0].secret.as_str(), made[0].exists), ("main-token-demo", false));
    assert_eq!(made[0].change.then, crate::rotation::Move::Create);
    assert_eq!(refusal(&instance, &none).reason, Reason::TokensPending);
    assert_eq!(work(&cluster_for(&instance)), []);
}

#[test]
fn no_pod_of_a_new_version_starts_before_its_migration_is_complete() {
    let instance = on_postgres();
    let cluster = cluster_for(&instance);
    let waiting = resolved(&instance, &cluster);
    assert_eq!(waiting.rollout, Rollout::AfterMigration);
    let running = job(&instance, &cluster, JobState::Running);
    assert_eq!(waiting.migration.step, MigrationStep::Run { job: running.name.clone() });
    let under_way = Observed { migration_jobs: vec![running], ..cluster };
    assert_eq!(resolved(&instance, &under_way).rollout, Rollout::AfterMigration);
    assert_eq!(resolved(&instance, &migrated_cluster_for(&instance)).rollout, Rollout::Apply);
    assert_eq!(resolved(&in_memory(), &cluster_for(&in_memory())).rollout, Rollout::Apply);
}

#[test]
fn another_image_or_another_database_is_another_migration() {
    let instance = on_postgres();
    let done = migrated_cluster_for(&instance);
    let newer = but(&instance, json!({"image": {"tag": "2.0.0"}}));
    assert_eq!(resolved(&newer, &done).rollout, Rollout::AfterMigration);
    let moved = Observed { dsn: Some(SecretKey::Present { hash: "dsn-hash-2".into() }), ..done.clone() };
    assert_eq!(resolved(&instance, &moved).rollout, Rollout::AfterMigration);
    let louder = but(&instance, json!({"runtime": {"jam": {"rateLimitPerMinute": 7}}}));
    assert_eq!(resolved(&louder, &done).rollout, Rollout::Apply);
}

/// The instance as it is stored after a reconcile in this cluster.
fn stored(instance: &JamInstance, cluster: &Observed) -> JamInstance {
    let resolved = resolved(instance, cluster);
    let status = crate::status(instance, crate::Verdict::Applied(&resolved), cluster, cluster.at);
    JamInstance { status: Some(status), ..instance.clone() }
}

#[test]
fn a_complete_migration_is_remembered_when_its_job_is_gone() {
    let after = stored(&on_postgres(), &migrated_cluster_for(&on_postgres()));
    let resolved = resolved(&after, &cluster_for(&after));
    assert_eq!((resolved.rollout, resolved.migration.step), (Rollout::Apply, MigrationStep::Complete));
}

#[test]
fn a_failed_migration_is_tried_again_later_each_time_with_more_delay() {
    let instance = on_postgres();
    let mut cluster = cluster_for(&instance);
    let mut names = Vec::new();
    let mut now = instance;
    for (attempt, delay) in [(0, 30), (1, 60), (2, 120), (3, 240), (4, 300)] {
        let failed = JobState::Failed { exit_code: Some(1), message: "no route to host".into() };
        let job = job(&now, &cluster, failed);
        let finished = job.finished_at.unwrap();
        names.push(job.name.clone());
        cluster.migration_jobs = vec![job];
        now = stored(&now, &cluster);
        let told = now.status.as_ref().unwrap().migration.clone().unwrap();
        assert_eq!((told.state, told.attempt), (MigrationState::Failed, attempt));
        // The Job is gone, the operator was restarted: status alone remembers.
        cluster.migration_jobs.clear();
        cluster.at = finished.plus_seconds(delay - 1);
        assert_eq!(resolved(&now, &cluster).migration.step, MigrationStep::Retry { at: finished.plus_seconds(delay) });
        cluster.at = finished.plus_seconds(delay);
    }
    names.dedup();
    assert_eq!(names.len(), 5, "each attempt has its own Job: {names:?}");
}

#[test]
fn a_crash_after_the_job_was_made_finds_the_same_job_again() {
    let instance = on_postgres();
    let cluster = cluster_for(&instance);
    let running = job(&instance, &cluster, JobState::Running);
    // Neither status nor anything else was written before the crash.
    let after = Observed { migration_jobs: vec![running.clone()], at: at(5000), ..cluster };
    assert_eq!(resolved(&instance, &after).migration.step, MigrationStep::Run { job: running.name });
}

#[test]
fn exit_code_3_is_never_tried_again_until_image_or_database_change() {
    let instance = on_postgres();
    let mut cluster = cluster_for(&instance);
    let failed = JobState::Failed { exit_code: Some(3), message: "the schema is newer".into() };
    cluster.migration_jobs = vec![job(&instance, &cluster, failed)];
    let after = stored(&instance, &cluster);
    cluster.migration_jobs.clear();
    cluster.at = at(10_000_000);
    assert_eq!(resolved(&after, &cluster).migration.step, MigrationStep::Never);
    let newer = but(&after, json!({"image": {"tag": "2.0.0"}}));
    assert!(matches!(resolved(&newer, &cluster).migration.step, MigrationStep::Run { .. }));
}

#[test]
fn two_migrations_never_run_at_once() {
    let instance = on_postgres();
    let cluster = cluster_for(&instance);
    let old = job(&instance, &cluster, JobState::Running);
    let newer = but(&instance, json!({"image": {"tag": "2.0.0"}}));
    let both = Observed { migration_jobs: vec![old.clone()], ..cluster };
    assert_eq!(resolved(&newer, &both).migration.step, MigrationStep::Wait { what: format!("Job {}", old.name) });
}

#[test]
fn a_job_that_was_deleted_by_hand_does_not_shorten_the_delay() {
    let instance = on_postgres();
    let failed = || JobState::Failed { exit_code: Some(1), message: "no route".into() };
    let mut cluster = cluster_for(&instance);
    let first = job(&instance, &cluster, failed());
    cluster.migration_jobs = vec![first.clone()];
    let after_first = stored(&instance, &cluster);
    cluster.at = at(1030);
    let second = job(&after_first, &cluster, failed());
    assert_eq!(second.attempt, 1);
    cluster.migration_jobs = vec![first.clone(), second];
    let after_second = stored(&after_first, &cluster);
    // The second Job is deleted, the first is still there.
    cluster.migration_jobs = vec![first];
    let step = resolved(&after_second, &cluster).migration.step;
    assert_eq!(step, MigrationStep::Retry { at: at(1060) });
}

#[test]
fn a_manual_migration_waits_until_it_is_approved_by_its_key() {
    let mut instance = but(&on_postgres(), json!({"migrations": {"mode": "Manual"}}));
    let cluster = cluster_for(&instance);
    let MigrationStep::AwaitApproval { key, preview: _ } = resolved(&instance, &cluster).migration.step else {
        panic!("it waits for nobody")
    };
    let approve = |instance: &mut JamInstance, key: &str| {
        instance.metadata.annotations = Some([(names::APPROVE_MIGRATION.to_owned(), key.to_owned())].into());
    };
    approve(&mut instance, "another");
    assert!(matches!(resolved(&instance, &cluster).migration.step, MigrationStep::AwaitApproval { .. }));
    approve(&mut instance, &key);
    assert!(matches!(resolved(&instance, &cluster).migration.step, MigrationStep::Run { .. }));
    let newer = but(&instance, json!({"image": {"tag": "2.0.0"}}));
    assert!(matches!(resolved(&newer, &cluster).migration.step, MigrationStep::AwaitApproval { .. }));
    // A Job that has begun is not stopped by taking the approval back.
    let running = Observed { migration_jobs: vec![job(&instance, &cluster, JobState::Running)], ..cluster };
    instance.metadata.annotations = None;
    assert!(matches!(resolved(&instance, &running).migration.step, MigrationStep::Run { .. }));
}

#[test]
fn a_database_that_lost_its_schema_is_migrated_again() {
    let gap = |found| Some(PodSchema { found, wanted: 3 });
    let mut cluster = migrated_cluster_for(&on_postgres());
    let after = stored(&on_postgres(), &cluster);
    cluster.at = at(1100);
    for (found, again) in [(Some(3), false), (Some(4), false), (Some(2), true), (None, true)] {
        cluster.pod_schema = gap(found);
        let step = resolved(&after, &cluster).migration.step;
        assert_eq!(matches!(step, MigrationStep::Run { .. }), again, "{found:?}: {step:?}");
    }
    // Pods that have not looked again since the migration ended are not believed yet.
    cluster.at = at(1029);
    assert_eq!(resolved(&after, &cluster).migration.step, MigrationStep::Complete);
    cluster.at = at(1100);
    let second = job(&after, &cluster, JobState::Running);
    assert_eq!(second.attempt, 1);
    cluster.migration_jobs.push(second.clone());
    assert_eq!(resolved(&after, &cluster).migration.step, MigrationStep::Run { job: second.name.clone() });
    cluster.migration_jobs.pop();
    cluster.migration_jobs.push(MigrationJob { state: JobState::Complete, finished_at: Some(at(1110)), ..second });
    assert_eq!(resolved(&after, &cluster).migration.step, MigrationStep::Complete);
}

#[test]
fn an_override_that_would_break_the_instance_is_refused_by_name() {
    let variable = |name: &str| json!({"env": [{"name": name, "value": "x"}]});
    let table = [
        (variable("JAM_ENABLED"), "spec.podTemplate.env: JAM_ENABLED"),
        (variable("JAM_LISTEN"), "spec.podTemplate.env: JAM_LISTEN"),
        (variable("JAM_A_KEY_OF_A_LATER_RELEASE"), "JAM_A_KEY_OF_A_LATER_RELEASE"),
        (variable("DATABASE_URL"), "spec.podTemplate.env: DATABASE_URL"),
        (json!({"labels": {"app.kubernetes.io/name": "x"}}), "spec.podTemplate.labels: app.kubernetes.io/name"),
        (json!({"annotations": {"jam.network/dsn-hash": "x"}}), "spec.podTemplate.annotations: jam.network/dsn-hash"),
    ];
    for (template, words) in table {
        let instance = but(&on_postgres(), json!({"podTemplate": template}));
        let refusal = refusal(&instance, &cluster_for(&instance));
        assert!(refusal.reason == Reason::InvalidSettings && refusal.message.contains(words), "{words}: {refusal}");
    }
    for free in ["JAM_LOG", "JAM_TRUSTED_PROXIES", "RUST_BACKTRACE"] {
        let instance = but(&on_postgres(), json!({"podTemplate": variable(free)}));
        assert!(resolve(&instance, &cluster_for(&instance), &defaults()).is_ok(), "{free}");
    }
}

#[test]
fn what_is_not_to_be_overridden_is_no_field_of_the_template() {
    for field in ["containers", "initContainers", "volumes", "ports", "securityContext", "readinessProbe", "selector"] {
        let document = json!({
            "apiVersion": "jam.network/v1alpha1", "kind": "JamInstance", "metadata": {"name": "main"},
            "spec": {"podTemplate": {field: []}},
        });
        let told = serde_json::from_value::<JamInstance>(document).expect_err(field).to_string();
        assert!(told.contains(&format!("unknown field `{field}`")), "{told}");
    }
}
