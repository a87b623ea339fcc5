//! Laws of migrations: once, in parallel, interrupted, on a newer schema, on another program's database.

use std::time::Duration;

use futures::future::join_all;
use jam_domain::retention::{Cleaned, CleanupRun};
use jam_store::migrate::{self, MigrateError};
use jam_store::{PostgresConfig, PostgresStore, Put, Restored, Store};
use sqlx::Executor;

use crate::store_fixture::{by, engine, package, put};
use crate::store_retention::rule;
use crate::support::postgres;

async fn applied(dsn: &str) -> Vec<i64> {
    let steps = migrate::apply(&PostgresConfig::new(dsn)).await.unwrap();
    steps.into_iter().map(|step| step.version).collect()
}

/// The numbers of the files in migrations/: they rise, and may leave one out.
fn every_version() -> Vec<i64> {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned());
    let mut versions: Vec<i64> = names.map(|name| name.split('_').next().unwrap().parse().unwrap()).collect();
    versions.sort_unstable();
    versions
}

#[tokio::test]
async fn an_empty_database_is_migrated_once_and_the_second_run_does_nothing() {
    let dsn = postgres::fresh_database().await;
    let config = PostgresConfig::new(&dsn);
    let before = migrate::status(&config).await.unwrap();
    assert_eq!((before.version.found, before.applied.len()), (None, 0));
    assert_eq!(migrate::plan(&config).await.unwrap(), before.pending);
    assert_eq!(postgres::number(&dsn, TABLES).await, 0, "status and plan change nothing");
    assert_eq!(applied(&dsn).await, every_version());
    assert_eq!(applied(&dsn).await, Vec::<i64>::new());
    let after = migrate::status(&config).await.unwrap();
    assert_eq!((after.version.found, after.pending.len()), (Some(migrate::wanted()), 0));
    assert_eq!(after.applied, before.pending);
    let store = PostgresStore::connect(config).await.unwrap();
    assert_eq!(store.schema().await.unwrap(), after.version);
    assert!(!before.version.foreign && !after.version.foreign);
}

const TABLES: &str = "select count(*) from pg_tables where schemaname = 'public'";

#[tokio::test(flavor = "multi_thread")]
async fn runs_at_the_same_time_apply_each_migration_once() {
    let dsn = postgres::fresh_database().await;
    let runs = (0..8).map(|_| {
        let dsn = dsn.clone();
        tokio::spawn(async move { applied(&dsn).await })
    });
    let versions: Vec<i64> = join_all(runs).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(versions, every_version());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_leaves_nothing_and_the_next_one_finishes() {
    let dsn = postgres::fresh_database().await;
    // A table of the same name that is not committed yet holds the migration up in its middle.
    let mut obstacle = postgres::connect(&dsn).await;
    obstacle.execute("begin; create table packages (x int)").await.unwrap();
    let run = {
        let config = PostgresConfig::new(&dsn);
        tokio::spawn(async move { migrate::apply(&config).await })
    };
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    while postgres::number(&dsn, waits).await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    postgres::terminate_connections(&dsn).await;
    let error = run.await.unwrap().unwrap_err();
    assert!(matches!(error, MigrateError::Unavailable(_)), "{error}");
    assert!(!error.permanent());
    assert_eq!(postgres::number(&dsn, "select count(*) from pg_tables where tablename = 'packages'").await, 0);
    assert_eq!(applied(&dsn).await, every_version());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_halted_names_its_step_and_who_is_in_its_way_and_the_next_one_finishes() {
    let dsn = postgres::fresh_database().await;
    let mut obstacle = postgres::connect(&dsn).await;
    obstacle.execute("begin; create table packages (x int)").await.unwrap();
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    let halt = async {
        while postgres::number(&dsn, waits).await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let halted = migrate::apply_until(&PostgresConfig::new(&dsn), halt).await.unwrap_err();
    let told = halted.to_string();
    assert!(matches!(halted, MigrateError::Halted(_)) && !halted.permanent(), "{told}");
    assert!(told.contains("applying 1 ") && told.contains("which waits for process "), "{told}");
    assert!(told.contains(" of postgres, idle in transaction for "), "{told}");
    let locks = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
        where d.datname = current_database() and locktype = 'advisory'";
    assert_eq!(postgres::number(&dsn, locks).await, 0, "the lock is free while the obstacle is still there");
    obstacle.execute("rollback").await.unwrap();
    assert_eq!(postgres::number(&dsn, "select count(*) from pg_tables where tablename = 'packages'").await, 0);
    assert_eq!(applied(&dsn).await, every_version());
}

#[tokio::test]
async fn a_newer_schema_is_refused_for_good() {
    let dsn = postgres::migrated_database().await;
    let later = "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
        values (9999, 'later', true, '', 0)";
    postgres::execute(&dsn, later).await;
    let refused = migrate::apply(&PostgresConfig::new(&dsn)).await.unwrap_err();
    assert_eq!(refused, MigrateError::Newer { found: 9999, wanted: migrate::wanted() });
    assert!(refused.permanent());
    let store = PostgresStore::connect(PostgresConfig::new(&dsn)).await.unwrap();
    assert_eq!(store.schema().await.unwrap().found, Some(9999));
}

#[tokio::test]
async fn the_version_is_the_last_before_the_first_migration_that_is_missing_unfinished_or_another_programs() {
    let versions = every_version();
    let (third, last) = (versions[2], versions[versions.len() - 1]);
    for (sql, found, refusal) in [
        (format!("delete from _sqlx_migrations where version = {third}"), Some(versions[1]), None),
        (
            format!("update _sqlx_migrations set success = false where version = {last}"),
            Some(versions[versions.len() - 2]),
            Some("failed"),
        ),
        (
            format!("update _sqlx_migrations set checksum = 'x' where version = {third}"),
            Some(versions[1]),
            Some("changed"),
        ),
        ("update _sqlx_migrations set checksum = 'x', description = 'theirs'".into(), None, Some("foreign")),
    ] {
        let dsn = postgres::migrated_database().await;
        postgres::execute(&dsn, &sql).await;
        let store = PostgresStore::connect(PostgresConfig::new(&dsn)).await.unwrap();
        let schema = store.schema().await.unwrap();
        assert_eq!((schema.found, schema.serves()), (found, false), "{sql}");
        match migrate::status(&PostgresConfig::new(&dsn)).await {
            Ok(status) => {
                assert_eq!((refusal, status.version.found), (None, found), "{sql}");
                assert_eq!(status.pending.iter().map(|step| step.version).collect::<Vec<_>>(), [third]);
            }
            Err(refused) => {
                assert_eq!((refusal, refused.permanent()), (Some(refused.code()), true), "{sql}: {refused}");
            }
        }
    }
}

#[tokio::test]
async fn a_database_of_another_program_is_refused_and_left_alone() {
    let dsn = postgres::fresh_database().await;
    postgres::execute(&dsn, "create table customers (id int)").await;
    let refused = migrate::apply(&PostgresConfig::new(&dsn)).await.unwrap_err();
    assert!(matches!(&refused, MigrateError::Foreign(what) if what.contains("customers")), "{refused}");
    assert!(refused.permanent());
    assert_eq!(postgres::number(&dsn, TABLES).await, 1);
    let store = PostgresStore::connect(PostgresConfig::new(&dsn)).await.unwrap();
    assert!(store.schema().await.unwrap().foreign);
    // What it keeps elsewhere it may show here.
    for kind in ["view", "materialized view"] {
        let dsn = postgres::fresh_database().await;
        let elsewhere = format!(
            "create schema theirs; create table theirs.all_of_them (id int);
            create {kind} customers as select id from theirs.all_of_them"
        );
        postgres::execute(&dsn, &elsewhere).await;
        let refused = migrate::apply(&PostgresConfig::new(&dsn)).await.unwrap_err();
        assert!(matches!(&refused, MigrateError::Foreign(what) if what.contains("customers")), "{kind}: {refused}");
        assert_eq!(postgres::number(&dsn, TABLES).await, 0);
        let store = PostgresStore::connect(PostgresConfig::new(&dsn)).await.unwrap();
        assert!(store.schema().await.unwrap().foreign);
    }
    // Another program that uses the same library has the same table of migrations, with other rows.
    let dsn = postgres::migrated_database().await;
    postgres::execute(&dsn, "update _sqlx_migrations set version = 20240101 + version, description = 'init'").await;
    let refused = migrate::status(&PostgresConfig::new(&dsn)).await.unwrap_err();
    assert!(matches!(refused, MigrateError::Foreign(_)), "{refused}");
}

#[tokio::test]
async fn a_migration_that_was_changed_after_it_was_applied_is_refused() {
    let dsn = postgres::migrated_database().await;
    postgres::execute(&dsn, "update _sqlx_migrations set checksum = 'other' where version = 1").await;
    let refused = migrate::apply(&PostgresConfig::new(&dsn)).await.unwrap_err();
    assert_eq!(refused, MigrateError::Changed { version: 1 });
}

#[tokio::test]
async fn what_can_be_put_right_outside_may_be_tried_again_and_a_statement_that_fails_may_not() {
    let away = migrate::apply(&PostgresConfig::new("postgres://jam:s3cret@127.0.0.1:1/jam")).await.unwrap_err();
    assert!(!away.permanent() && !away.to_string().contains("s3cret"), "{away}");
    let dsn = postgres::fresh_database().await;
    postgres::execute(&dsn, "create role reader_only login; revoke create on schema public from public").await;
    let reader = dsn.replace("postgres@", "reader_only@");
    let denied = migrate::apply(&PostgresConfig::new(&reader)).await.unwrap_err();
    assert!(matches!(denied, MigrateError::Refused { .. }) && !denied.permanent(), "{denied}");
    postgres::execute(&dsn, "grant create on schema public to reader_only").await;
    assert!(!migrate::apply(&PostgresConfig::new(&reader)).await.unwrap().is_empty(), "the same DSN, with the right");
    let dsn = postgres::fresh_database().await;
    postgres::execute(&dsn, "create type packages as (one int)").await;
    let failed = migrate::apply(&PostgresConfig::new(&dsn)).await.unwrap_err();
    assert!(matches!(failed, MigrateError::Failed { .. }) && failed.permanent(), "{failed}");
    assert!(!failed.to_string().contains(" at line "), "no line of the database's own source: {failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_role_needs_no_more_than_to_read_and_write_rows() {
    let dsn = postgres::migrated_database().await;
    let rights = "create role runtime login; grant select on _sqlx_migrations, schema_serves to runtime;
        grant select, insert, update, delete on packages, disputes, reports, attestations, accumulators, receipts,
            preimages, blob_chunks, uploads, objects_in_doubt, archived_packages, archived_reports, cleanups,
            controls, controls_version, rival_reports, rate_limits, rate_limit_resets, events, event_log to runtime;
        grant select, insert on audit to runtime";
    postgres::execute(&dsn, rights).await;
    let config = PostgresConfig::new(dsn.replace("postgres@", "runtime@"));
    let store = PostgresStore::connect(config).await.unwrap();
    assert_eq!(store.schema().await.unwrap().found, Some(migrate::wanted()));
    assert!(matches!(put(&store, &vec![1; 1_200_000], 100_000).await, Put::Created(_)));
    let keyed = jam_store::NewPackage { idempotency_key: Some("k".into()), ..package("s") };
    let id = store.submit(keyed, &engine()).await.unwrap().package.id;
    assert!(store.process(1, &engine()).await.unwrap()[0].applied);
    let later = rule(4000);
    assert_eq!(store.cleanup(&later, false).await.unwrap().archived_packages, 1);
    assert!(matches!(store.restore(id, &by(later.now())).await.unwrap(), Restored::Back(_)));
    let run = CleanupRun {
        started_at: later.now(),
        finished_at: later.now(),
        cutoff: None,
        cleaned: Cleaned::default(),
        error: None,
    };
    store.record_cleanup(run, None).await.unwrap();
    store.delete_preimage(jam_domain::PreimageHash::of(&vec![1; 1_200_000]), &by(later.now())).await.unwrap();
}
