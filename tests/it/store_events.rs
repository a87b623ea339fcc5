//! Events in the store: none is ever skipped, whatever commits when, and their numbers rise through restores.

use jam_domain::event::{EventType, Happening, Step};
use jam_store::{PostgresConfig, PostgresStore, Store, migrate};
use sqlx::Executor;

use crate::events_support::settled;
use crate::store_fixture::{World, engine, engine_that, laws, package};
use crate::store_retention::rule;
use crate::support::postgres::{self, connect, execute};

laws!(
    every_step_is_read_once_in_order_from_any_replica,
    old_steps_are_deleted_and_the_last_one_stays,
    a_package_that_cannot_be_refined_is_told_as_disputed,
);

/// Every step that was made by now.
async fn told(world: &World, store: &dyn Store) -> Vec<Step> {
    if let Some(dsn) = &world.dsn {
        settled(dsn).await;
    }
    every_step(store).await
}

async fn every_step(store: &dyn Store) -> Vec<Step> {
    let mut steps = Vec::new();
    loop {
        let page = store.steps(steps.last().map_or(0, |step: &Step| step.number)).await.unwrap();
        if page.is_empty() {
            return steps;
        }
        steps.extend(page);
    }
}

fn kinds(steps: &[Step]) -> Vec<EventType> {
    steps.iter().flat_map(Step::events).map(|(_, event)| event.kind).collect()
}

async fn every_step_is_read_once_in_order_from_any_replica(world: World) {
    let engine = engine();
    for n in 0..30 {
        world.replica(n).submit(package("s"), &engine).await.unwrap();
        if n % 5 == 4 {
            assert_eq!(world.replica(n + 1).process(5, &engine).await.unwrap().len(), 5);
        }
    }
    let steps = told(&world, world.store().as_ref()).await;
    assert!(steps.is_sorted_by(|a, b| a.number < b.number));
    assert_eq!(kinds(&steps).len(), 150);
    assert_eq!(told(&world, world.replica(2).as_ref()).await, steps);
    let reach = world.store().reach().await.unwrap();
    assert_eq!(reach.last, steps.last().unwrap().number);
    assert!(reach.forgotten < steps[0].number);
}

async fn old_steps_are_deleted_and_the_last_one_stays(world: World) {
    let (store, engine) = (world.store(), engine());
    for _ in 0..10 {
        store.submit(package("s"), &engine).await.unwrap();
    }
    store.process(10, &engine).await.unwrap();
    let before = told(&world, store.as_ref()).await;
    assert_eq!(store.cleanup(&rule(4000), true).await.unwrap().archived_packages, 10);
    assert_eq!(told(&world, store.as_ref()).await, before, "a dry run tells nothing and forgets nothing");
    assert_eq!(store.cleanup(&rule(4000), false).await.unwrap().archived_packages, 10);
    let left = told(&world, store.as_ref()).await;
    assert!(kinds(&left).iter().all(|kind| *kind == EventType::PackageArchived) && !left.is_empty());
    let reach = store.reach().await.unwrap();
    let (first, last) = (left[0].number, left[left.len() - 1].number);
    assert!(before[10].number <= reach.forgotten && reach.forgotten < first && reach.last == last);
}

async fn a_package_that_cannot_be_refined_is_told_as_disputed(world: World) {
    let store = world.store();
    let engine = engine_that(|package| match package.service_id.as_str() {
        "bad" => Err(jam_domain::refine::RefineFault("no".into())),
        _ => Ok(()),
    });
    for service in ["bad", "good", "bad"] {
        store.submit(package(service), &engine).await.unwrap();
    }
    // One batch of both kinds, and one with nothing but a dispute.
    assert_eq!(
        (store.process(2, &engine).await.unwrap().len(), store.process(1, &engine).await.unwrap().len()),
        (2, 1)
    );
    let kinds = kinds(&told(&world, store.as_ref()).await);
    let count = |kind| kinds.iter().filter(|known| **known == kind).count();
    let counts = EventType::ALL.map(count);
    assert_eq!(counts, [3, 1, 2, 1, 0, 4], "{kinds:?}");
}

/// A writer that has done its work and not yet committed.
async fn slow_writer(dsn: &str) -> sqlx::PgConnection {
    let mut slow = connect(dsn).await;
    let work = "begin; insert into events (step, body) select pg_current_xact_id()::text::bigint, '[]'";
    slow.execute(work).await.unwrap();
    slow
}

#[tokio::test(flavor = "multi_thread")]
async fn what_commits_late_is_waited_for_and_never_skipped() {
    // A server of its own: nobody else's transactions hold anything up.
    let server = postgres::Server::private();
    let dsn = server.migrated_database().await;
    let store = PostgresStore::connect(PostgresConfig::new(&dsn)).await.unwrap();
    let first = store.submit(package("s"), &engine()).await.unwrap().package.id;
    let before = every_step(&store).await;
    assert_eq!(before.len(), 1);
    let mut slow = slow_writer(&dsn).await;
    store.submit(package("s"), &engine()).await.unwrap();
    assert_eq!(every_step(&store).await, before, "nobody reads past a writer whose number is lower");
    assert_eq!(store.reach().await.unwrap().last, before[0].number);
    slow.execute("commit").await.unwrap();
    let after = every_step(&store).await;
    assert_eq!(after.len(), 3);
    assert!(after.is_sorted_by(|a, b| a.number < b.number) && after[1].happened.is_empty());
    // One that is given up holds up nobody either.
    let mut slow = slow_writer(&dsn).await;
    slow.execute("rollback").await.unwrap();
    assert_eq!(every_step(&store).await.len(), 3);
    assert!(matches!(&after[0].happened[..], [Happening::Submitted(_, id, Some(1))] if *id == first));
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_restored_into_a_younger_cluster_number_their_steps_on() {
    let dsn = postgres::migrated_database().await;
    // The steps of a cluster that had seen more transactions than this one.
    execute(&dsn, "insert into events (step, body) values (70000000000, '[]')").await;
    let store = PostgresStore::connect(PostgresConfig::new(&dsn)).await.unwrap();
    assert_eq!(every_step(&store).await, []);
    for _ in 0..2 {
        migrate::apply(&PostgresConfig::new(&dsn)).await.unwrap();
    }
    store.submit(package("s"), &engine()).await.unwrap();
    settled(&dsn).await;
    let steps = every_step(&store).await;
    assert_eq!(steps.len(), 2);
    assert!(steps[0].number == 70_000_000_000 && steps[1].number < 71_000_000_000, "{steps:?}");
}
