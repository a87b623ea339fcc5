//! What the document promises of the admin plane alone, brought about on a database whose state no client could make.

use jam_store::{PostgresConfig, PostgresStore, Store};
use sqlx::Executor;

use crate::api_refusals::{ALL, Book, MINE, Subject, with};
use crate::api_support::{Server, World};
use crate::store_fixture::{engine, package};
use crate::store_retention::rule_at;
use crate::support::postgres;

/// A package that is archived.
async fn archived(dsn: &str) -> String {
    let store = PostgresStore::connect(PostgresConfig::new(dsn)).await.unwrap();
    let new = package("other");
    let now = new.package.created_at;
    let id = store.submit(new, &engine()).await.unwrap().package.id;
    store.process(1, &engine()).await.unwrap();
    store.cleanup(&rule_at(30, 7, &[], now.plus_seconds(31 * 86_400)), false).await.unwrap();
    store.close().await;
    id.to_string()
}

/// Everything that only administrators get to see.
pub async fn administer(book: &mut Book) {
    let world = World::postgres().await;
    let dsn = world.dsn().unwrap();
    let server = with(&world, &[]).await;
    restore(book, &server, dsn).await;
    cleanup(book, &server, dsn).await;
}

async fn restore(book: &mut Book, server: &Server, dsn: &str) {
    let call = "POST /jam/admin/packages/{id}/restore";
    let path = format!("/jam/admin/packages/{}/restore", archived(dsn).await);
    let (all, mine) = (Subject::new(server, Some(ALL)), Subject::new(server, Some(MINE)));
    assert_eq!(book.try_one(call, mine.request("POST", &path)).await.status, 403);
    let columns = "id, service_id, status, created_at, created_by, idempotency_key, fingerprint, receipt_seq, body";
    let taken = format!("insert into packages ({columns}) select {columns} from archived_packages");
    postgres::execute(dsn, &taken).await;
    assert_eq!(book.try_one(call, all.request("POST", &path)).await.status, 409);
    postgres::execute(dsn, "delete from packages").await;
    for status in [200, 404] {
        assert_eq!(book.try_one(call, all.request("POST", &path)).await.status, status);
    }
}

async fn cleanup(book: &mut Book, server: &Server, dsn: &str) {
    let (call, path) = ("POST /jam/admin/cleanup/run", "/jam/admin/cleanup/run");
    let all = Subject::new(server, Some(ALL));
    let mut other = postgres::connect(dsn).await;
    other.execute("select pg_advisory_lock(5425451, 2)").await.unwrap();
    assert_eq!(book.try_one(call, all.request("POST", path)).await.status, 409);
    other.execute("select pg_advisory_unlock(5425451, 2)").await.unwrap();
    assert_eq!(book.try_one(call, all.request("POST", path)).await.status, 200);
}
