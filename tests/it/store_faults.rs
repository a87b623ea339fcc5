//! What is broken in the database, one package or one chain, stops nothing else from being processed.

use jam_domain::PackageId;
use jam_domain::page::Visible;
use jam_domain::refine::Engine;
use jam_store::{Processed, Store, StoreError};
use serde_json::json;
use sqlx::Executor as _;

use crate::api_admin::Office;
use crate::api_support::{World as Servers, until};
use crate::store_fixture::{World, engine, only, package, verified_chain};
use crate::support::postgres::{self, execute};

const UNREAD: &str = "the stored package can't be read";

async fn submit(store: &dyn Store, name: &str, count: usize) -> Vec<PackageId> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(store.submit(package(name), &engine()).await.unwrap().package.id);
    }
    ids
}

async fn break_body(dsn: &str, id: PackageId) {
    execute(dsn, &format!("update packages set body = '[]' where id = '{id}'")).await;
}

async fn process(store: &dyn Store, limit: u32) -> Vec<Processed> {
    store.process(limit, &engine()).await.unwrap()
}

fn ids(processed: &[Processed]) -> Vec<PackageId> {
    let mut ids: Vec<_> = processed.iter().map(|one| one.package_id).collect();
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_package_that_cannot_be_read_is_disputed_with_a_reason_and_the_others_are_processed() {
    let world = World::postgres().await;
    let (store, dsn) = (world.store(), world.dsn.clone().unwrap());
    let (a, b) = (submit(&*store, "a", 4).await, submit(&*store, "b", 3).await);
    break_body(&dsn, a[0]).await;
    // Alone, and the oldest.
    let first = process(&*store, 1).await;
    assert_eq!((ids(&first), first[0].fault.as_deref(), first[0].applied), (vec![a[0]], Some(UNREAD), false));
    assert_eq!(store.dispute_of(a[0]).await.unwrap().as_deref(), Some(UNREAD));
    // Among others.
    break_body(&dsn, b[1]).await;
    let rest = process(&*store, 100).await;
    assert_eq!(ids(&rest), [&a[1..], &b[..]].concat());
    assert_eq!(rest.iter().filter(|one| one.fault.is_some()).map(|one| one.package_id).collect::<Vec<_>>(), [b[1]]);
    assert!(process(&*store, 100).await.is_empty());
    assert_eq!(verified_chain(&*store, "a").await.len(), 4 + 3);
    assert_eq!(verified_chain(&*store, "b").await.len(), 3 + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_chain_that_is_broken_stops_its_own_service_and_no_other_until_it_is_mended() {
    let world = World::postgres().await;
    let (store, dsn) = (world.store(), world.dsn.clone().unwrap());
    let broken = submit(&*store, "ha", 6).await;
    let whole = submit(&*store, "hb", 4).await;
    execute(&dsn, "update accumulators set seq = 0 where service_id = 'ha'").await;
    assert_eq!(ids(&process(&*store, 1).await), whole[..1]);
    assert_eq!(ids(&process(&*store, 2).await), whole[1..3]);
    assert_eq!(ids(&process(&*world.replica(1), 100).await), whole[3..]);
    // It is left out for a while, here as there; who may see nothing else finds nothing.
    for n in [0, 1] {
        assert!(process(&*world.replica(n), 100).await.is_empty());
        let of_ha: Visible = only(&["ha"]);
        assert!(world.replica(n).process_visible(5, &of_ha, &engine()).await.unwrap().is_empty());
    }
    // Where nothing at all can be done, that is said.
    let other = world.replica(2).process(1, &engine()).await;
    assert!(matches!(other, Err(StoreError::Fault(_))), "{other:?}");
    assert_eq!(store.pending().await.unwrap(), 6);
    execute(&dsn, "update accumulators set seq = 6 where service_id = 'ha'").await;
    let fresh = jam_store::PostgresStore::connect(jam_store::PostgresConfig::new(dsn)).await.unwrap();
    assert_eq!(ids(&process(&fresh, 100).await), broken);
    assert_eq!(verified_chain(&fresh, "ha").await.len(), 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn packages_that_others_have_in_hand_say_nothing_of_a_service_whose_chain_is_broken() {
    let world = World::postgres().await;
    let (store, dsn) = (world.store(), world.dsn.clone().unwrap());
    let all = submit(&*store, "s", 8).await;
    execute(&dsn, "update accumulators set seq = 0 where service_id = 's'").await;
    // The oldest and the newest are in the hands of another worker.
    let mut other = postgres::connect(&dsn).await;
    let held = format!("begin; select from packages where id in ('{}', '{}') for update", all[0], all[7]);
    sqlx::raw_sql(sqlx::AssertSqlSafe(held)).execute(&mut other).await.unwrap();
    let failed = store.process(1, &engine()).await;
    assert!(matches!(failed, Err(StoreError::Fault(_))), "{failed:?}");
    // The service is left out, and what is submitted to it meanwhile fails nobody's call.
    let without_receipts = Engine { receipts: false, ..engine() };
    store.submit(package("s"), &without_receipts).await.unwrap();
    assert!(process(&*store, 1).await.is_empty());
    // What is held is no fault of its own, either.
    other.execute("rollback").await.unwrap();
    execute(&dsn, "update accumulators set seq = 8 where service_id = 's'").await;
    let fresh = jam_store::PostgresStore::connect(jam_store::PostgresConfig::new(dsn)).await.unwrap();
    assert_eq!(process(&fresh, 100).await.len(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn packages_that_cannot_be_written_are_left_out_and_the_rest_of_their_service_is_processed() {
    let world = World::postgres().await;
    let (store, dsn) = (world.store(), world.dsn.clone().unwrap());
    let all = submit(&*store, "s", 9).await;
    let refused = all[..4].iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(", ");
    execute(&dsn, &format!("alter table reports add constraint refused check (package_id not in ({refused}))")).await;
    assert_eq!(ids(&process(&*store, 2).await), [all[4], all[8]]);
    assert_eq!(ids(&process(&*store, 100).await), all[5..8]);
    assert!(process(&*store, 100).await.is_empty());
    assert_eq!(store.pending().await.unwrap(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_dispute_of_a_package_that_cannot_be_read_tells_its_reason_and_can_be_ended() {
    let world = Servers::postgres().await;
    let (office, dsn) = (Office::open(&world).await, world.dsn().unwrap());
    let package = office.server.submit("s", "1").await;
    let id = package["id"].as_str().unwrap();
    execute(dsn, r#"update packages set body = '{"x": 1}'"#).await;
    let path = format!("/jam/packages/{id}");
    let details =
        async || office.server.get(&format!("{path}/report")).await.refused(404, "jam_not_found")["details"].clone();
    assert_eq!(details().await, json!({"status": "pending"}));
    office.server.post("/jam/process", &json!(null)).await.expect(200);
    let stands = json!({"status": "disputed", "reason": UNREAD});
    assert_eq!(details().await, stands);
    let words = office.server.get(&format!("{path}/attestations")).await.expect(200).json();
    assert_eq!(words, json!({"items": []}));
    let open = json!({"package": null, "reason": UNREAD, "reports": [], "resolution": null});
    let dispute = format!("/jam/admin/disputes/{id}");
    assert_eq!(office.get(&dispute).await.expect(200).json(), open);
    let other = json!({"report_id": id});
    office.call("POST", &format!("{dispute}/accept"), &other).await.refused(400, "jam_admin_validation_error");
    let ended = office.call("POST", &format!("{dispute}/reject"), &json!(null)).await.expect(200).json();
    assert_eq!(ended["resolution"]["outcome"], "rejected");
    assert_eq!(office.get(&dispute).await.expect(200).json(), ended);
    assert_eq!(office.audit().await[0], ("dispute.reject".to_owned(), id.to_owned()));
    assert_eq!(details().await, stands);
    office.server.get(&path).await.refused(500, "jam_internal");
    // Archived, administrators alone see it, as any other.
    execute(dsn, "update packages set created_at = created_at - interval '99 days'").await;
    office.call("POST", "/jam/admin/cleanup/run", &json!(null)).await.expect(200);
    office.server.get(&format!("{path}/report")).await.refused(404, "jam_not_found");
    let archived = office.get(&format!("{path}/report?archived=true")).await.expect(404).json();
    assert_eq!(archived["details"], json!({"status": "disputed"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_call_answers_200_and_the_log_names_package_and_service() {
    let world = Servers::postgres().await;
    let (server, dsn) = (world.serve().await, world.dsn().unwrap());
    let bad = server.submit("s", "bad").await;
    server.submit("s", "good").await;
    let id = bad["id"].as_str().unwrap();
    execute(dsn, &format!("update packages set body = '[]' where id = '{id}'")).await;
    let call = async || server.post("/jam/process?limit=1", &json!(null)).await.expect(200).json();
    assert_eq!(call().await, json!({"processed": true, "count": 1, "failed": 1}));
    assert_eq!(call().await, json!({"processed": true, "count": 1, "failed": 0}));
    assert_eq!(postgres::number(dsn, "select count(*) from packages where status = 'disputed'").await, 1);
    let told = async |what: &str| {
        let line = async || server.log().lines().find(|line| line.contains(what)).map(str::to_owned);
        until(what, line).await
    };
    for what in ["a stored package can't be read", "package disputed"] {
        let line = told(what).await;
        assert!(line.contains(id) && line.contains("service_id"), "{line}");
    }
    // The chain of one service is broken, and there is nothing else to do.
    server.submit("s", "later").await;
    execute(dsn, "update accumulators set seq = 0 where service_id = 's'").await;
    server.post("/jam/process?limit=1", &json!(null)).await.refused(500, "jam_internal");
    told("it can't be processed").await;
    server.post("/jam/process?limit=1", &json!(null)).await.expect(204);
}
