//! Laws of a cleanup on PostgreSQL: one at a time, interrupted, beside others; and of the schema before it.

use std::time::Duration;

use jam_domain::PreimageHash;
use jam_domain::refine::RefineFault;
use jam_domain::retention::Cleaned;
use jam_store::{CleanupError, NewPackage, PostgresConfig, PostgresStore, Progress, Store, StoreError};
use sqlx::Executor;

use crate::api_support::{PATIENCE, ran, until};
use crate::store_fixture::{bytes_of, engine, engine_that, package, put, verified_chain};
use crate::store_retention::{aged, blob, cleanup, rule, rule_of};
use crate::support::postgres;

async fn store_on(dsn: &str) -> PostgresStore {
    PostgresStore::connect(PostgresConfig::new(dsn)).await.unwrap()
}

/// So many applied packages of 40 days, each referring to one preimage.
async fn filled(store: &PostgresStore, count: usize) -> PreimageHash {
    let hash = blob(store, b"blob", 0).await;
    let engine = engine();
    let referring = || {
        let mut new: NewPackage = aged("s", 40);
        new.package.preimage_hashes = Some(vec![hash]);
        new
    };
    futures::future::join_all((0..count).map(|_| store.submit(referring(), &engine))).await;
    while !store.process(500, &engine).await.unwrap().is_empty() {}
    hash
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_that_is_told_to_end_ends_after_its_batch_and_has_counted_what_is_done() {
    let dsn = postgres::migrated_database().await;
    let store = store_on(&dsn).await;
    filled(&store, 250).await;
    let (progress, rule) = (Progress::default(), rule(0));
    let ending = async {
        while progress.cleaned().archived_packages == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        progress.end();
    };
    let (ended, ()) = tokio::join!(store.clean(&rule, false, &progress), ending);
    let Err(CleanupError::Failed { error: StoreError::Stopped(_), cleaned }) = ended else {
        panic!("it is told to end: {ended:?}");
    };
    let archived = i64::try_from(cleaned.archived_packages).unwrap();
    assert!((1..250).contains(&archived), "{cleaned:?}");
    assert_eq!(postgres::number(&dsn, "select count(*) from archived_packages").await, archived);
    assert_eq!((progress.cleaned(), cleaned.archived_reports), (cleaned, cleaned.archived_packages));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_cleanup_runs_the_next_is_told_so_and_a_dry_one_is_not_in_its_way() {
    let dsn = postgres::migrated_database().await;
    let store = store_on(&dsn).await;
    filled(&store, 3).await;
    let mut other = postgres::connect(&dsn).await;
    other.execute("select pg_advisory_lock(5425451, 2)").await.unwrap();
    assert_eq!(store.cleanup(&rule(0), false).await, Err(CleanupError::Busy));
    assert_eq!(store.cleanup(&rule(0), true).await.unwrap().archived_packages, 3);
    drop(other);
    let free = async { while store.cleanup(&rule(0), false).await == Err(CleanupError::Busy) {} };
    tokio::time::timeout(Duration::from_secs(10), free).await.unwrap();
    assert_eq!(store.cleanup(&rule(7), false).await.unwrap().deleted_packages, 3);
}

#[tokio::test]
async fn a_cleanup_that_has_ended_is_in_nobodys_way() {
    let store = store_on(&postgres::migrated_database().await).await;
    for run in 0..200 {
        assert!(store.cleanup(&rule(0), false).await.is_ok(), "run {run}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_cleanup_keeps_what_it_did_and_the_next_one_finishes() {
    let dsn = postgres::migrated_database().await;
    let store = store_on(&dsn).await;
    let hash = filled(&store, 1700).await;
    // The third batch of the deletion waits for a row that somebody holds, until its connection is killed.
    let rule = rule_of(30, 0, &[], 0);
    let mut obstacle = postgres::connect(&dsn).await;
    obstacle.execute("begin; lock table disputes in access exclusive mode").await.unwrap();
    let run = {
        let (store, rule) = (store.clone(), rule.clone());
        tokio::spawn(async move { store.cleanup(&rule, false).await })
    };
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    until("the wait", async || (postgres::number(&dsn, waits).await > 0).then_some(())).await;
    obstacle.execute("rollback").await.unwrap();
    let some = async {
        while !run.is_finished() && postgres::number(&dsn, "select count(*) from archived_packages").await == 1700 {}
    };
    tokio::time::timeout(PATIENCE, some).await.expect("the first batch in time");
    postgres::terminate_connections(&dsn).await;
    let before = match run.await.unwrap() {
        // Or it was faster than the kill.
        Err(CleanupError::Failed { error: StoreError::Unavailable(_), cleaned }) | Ok(cleaned) => cleaned,
        Err(other) => panic!("{other:?}"),
    };
    let left = postgres::number(&dsn, "select count(*) from archived_packages").await.unsigned_abs();
    assert_eq!(store.preimage(hash).await.unwrap().unwrap().refcount, left, "no batch is half done");
    assert!(before.deleted_packages <= 1700 - left);
    let after = cleanup(&store, &rule).await;
    assert_eq!((after.archived_packages, after.deleted_packages), (1700 - before.archived_packages, left));
    assert_eq!(store.preimage(hash).await.unwrap().unwrap().refcount, 0);
    verified_chain(&store, "s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_was_wrong_before_never_goes_below_0_and_does_not_stop_retention() {
    let dsn = postgres::migrated_database().await;
    let store = store_on(&dsn).await;
    let hash = filled(&store, 3).await;
    postgres::execute(&dsn, "update preimages set refcount = 1").await;
    assert_eq!(store.cleanup(&rule_of(30, 0, &[], 0), false).await.unwrap().deleted_packages, 3);
    assert_eq!(store.preimage(hash).await.unwrap().unwrap().refcount, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preimage_that_a_submission_refers_to_at_the_same_moment_stays() {
    let dsn = postgres::migrated_database().await;
    let store = store_on(&dsn).await;
    put(&store, b"blob", 9).await;
    postgres::execute(&dsn, "update preimages set created_at = '2020-01-01'").await;
    let mut submission = postgres::connect(&dsn).await;
    submission.execute("begin; select from preimages for no key update").await.unwrap();
    assert_eq!(store.cleanup(&rule(0), false).await.unwrap(), Cleaned::default(), "it is in somebody's hand");
    submission.execute("update preimages set refcount = 1; commit").await.unwrap();
    assert_eq!(store.cleanup(&rule(0), false).await.unwrap(), Cleaned::default());
    assert_eq!(bytes_of(&store, PreimageHash::of(b"blob"), 0..9).await, b"blob");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_a_cleanup_waits_for_no_disk_and_holds_no_lock_that_a_submission_needs() {
    let dsn = postgres::migrated_database().await;
    let store = store_on(&dsn).await;
    filled(&store, 3).await;
    // A submission under way holds its lock and the preimage; the cleanup archives all the same.
    let mut submission = postgres::connect(&dsn).await;
    submission
        .execute("begin; select pg_advisory_xact_lock(5425451, 1); select from preimages for no key update")
        .await
        .unwrap();
    assert_eq!(store.cleanup(&rule(0), false).await.unwrap().archived_packages, 3);
    submission.execute("rollback").await.unwrap();
    store.submit(package("s"), &engine()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn large_packages_are_moved_and_deleted_a_few_megabytes_at_a_time() {
    let dsn = postgres::migrated_database().await;
    let store = store_on(&dsn).await;
    let megabytes = [3, 3, 3, 9, 1, 1, 5];
    for length in megabytes {
        let mut new = aged("s", 40);
        new.package.items[0].memo = Some("m".repeat(length * 1_000_000));
        store.submit(new, &engine()).await.unwrap();
    }
    while !store.process(1, &engine()).await.unwrap().is_empty() {}
    let limit = "create function light() returns trigger language plpgsql as $$ begin
            if (select count(*) > 1 and sum(octet_length(body::text)) > 8 * 1024 * 1024 from touched) then
                raise 'too much at once';
            end if;
            return null;
        end $$;
        create trigger light_archive after insert on archived_packages referencing new table as touched
            for each statement execute function light();
        create trigger light_deletion after delete on archived_packages referencing old table as touched
            for each statement execute function light()";
    postgres::execute(&dsn, limit).await;
    let cleaned = cleanup(&store, &rule_of(30, 0, &[], 0)).await;
    assert_eq!((cleaned.archived_packages, cleaned.deleted_packages), (7, 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dispute_of_a_living_package_stays_when_an_archived_one_of_the_same_id_is_deleted() {
    let dsn = postgres::migrated_database().await;
    let store = store_on(&dsn).await;
    let failing = engine_that(|_| Err(RefineFault("no".into())));
    let id = store.submit(aged("s", 40), &failing).await.unwrap().package.id;
    store.process(1, &failing).await.unwrap();
    assert_eq!(store.cleanup(&rule(0), false).await.unwrap().archived_packages, 1);
    // The release before this one does not look into the archive when it accepts an id.
    let again = "insert into packages (id, service_id, status, created_at, created_by, fingerprint, receipt_seq, body)
        select id, service_id, status, now() + interval '100 years', created_by, fingerprint, receipt_seq, body
        from archived_packages";
    postgres::execute(&dsn, again).await;
    assert_eq!(store.cleanup(&rule(7), false).await.unwrap().deleted_packages, 1);
    assert_eq!(store.dispute_of(id).await.unwrap().as_deref(), Some("no"));
    postgres::execute(&dsn, "update packages set created_at = '2020-01-01'").await;
    assert_eq!(store.cleanup(&rule_of(30, 0, &[], 7), false).await.unwrap().deleted_packages, 1);
    assert_eq!(postgres::number(&dsn, "select count(*) from disputes").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_package_that_cannot_be_read_stays_and_stops_no_other_deletion() {
    let dsn = postgres::migrated_database().await;
    let store = store_on(&dsn).await;
    let hash = filled(&store, 3).await;
    let other = aged("other", 40);
    store.submit(other, &engine()).await.unwrap();
    store.process(1, &engine()).await.unwrap();
    assert_eq!(cleanup(&store, &rule(0)).await.archived_packages, 4);
    let spoil = "update archived_packages set body = '[]'
        where id = (select id from archived_packages where service_id = 's' order by id limit 1)";
    postgres::execute(&dsn, spoil).await;
    // What a dry run foretells is what is done, and nothing is left for a further one.
    let cleaned = cleanup(&store, &rule(7)).await;
    assert_eq!((cleaned.deleted_packages, cleaned.deleted_reports), (3, 3));
    let left = "select count(*) from archived_packages p join archived_reports r on r.package_id = p.id
        join attestations a on a.report_id = r.id where p.service_id = 's'";
    assert_eq!(postgres::number(&dsn, left).await, 1);
    assert_eq!(store.preimage(hash).await.unwrap().unwrap().refcount, 1, "of the one that stays");
    // A run that leaves it has gone well, and its log names it.
    let settings = [("JAM_STORE", "postgres"), ("JAM_PG_DSN", dsn.as_str())];
    postgres::execute(&dsn, "update archived_packages set archived_at = '2020-01-01'").await;
    let id: uuid::Uuid = sqlx::query_scalar("select id from archived_packages")
        .fetch_one(&mut postgres::connect(&dsn).await)
        .await
        .unwrap();
    for arguments in [&["cleanup", "--dry-run"][..], &["cleanup"]] {
        let (code, _, err) = ran(arguments, &settings).await;
        let named = err.lines().any(|line| line.contains("not deleted") && line.contains(&format!("package {id}: ")));
        assert!(code == 0 && named && err.contains("\"left\":1"), "{arguments:?}: {err}");
    }
    assert_eq!(postgres::number(&dsn, left).await, 1);
}
