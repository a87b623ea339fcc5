//! What a step costs the database, in counters that no busy machine can blur: statements and commits.

use jam_store::{PostgresConfig, PostgresStore, Put, Store};
use sqlx::query_as;

use crate::api_support::until;
use crate::store_fixture::{engine, noise, package, put};
use crate::support::postgres::{self, Server, connect, execute};

/// A store whose statements are counted, and where they are read from.
async fn counted(server: &Server) -> (PostgresStore, String) {
    let dsn = server.migrated_database().await;
    execute(&dsn, "create extension pg_stat_statements; create role counted superuser login").await;
    let store = PostgresStore::connect(PostgresConfig::new(dsn.replace("postgres@", "counted@"))).await.unwrap();
    // The first upload makes the connection, and looks for interrupted ones, once an hour and beside it: in nobody's bill.
    put(&store, b"the first one", 99).await;
    let looked = "select count(*) from pg_stat_statements s join pg_roles r on r.oid = s.userid
        where r.rolname = 'counted' and query like '%objects_in_doubt%touched_at <=%' and not exists
            (select from pg_stat_activity where usename = 'counted' and state <> 'idle')";
    until("the end of the look", async || (postgres::number(&dsn, looked).await > 0).then_some(())).await;
    (store, dsn)
}

/// Statements, `begin` and `commit` among them, and of these the commits, since this was last asked.
async fn spent(dsn: &str) -> (i64, i64) {
    let mut connection = connect(dsn).await;
    let sums =
        "select coalesce(sum(calls), 0)::bigint, coalesce(sum(calls) filter (where query ilike 'commit%'), 0)::bigint
         from pg_stat_statements s join pg_roles r on r.oid = s.userid where r.rolname = 'counted'";
    let sums = query_as(sums).fetch_one(&mut connection).await.unwrap();
    sqlx::query("select pg_stat_statements_reset()").execute(&mut connection).await.unwrap();
    sums
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_blob_is_looked_for_and_written_by_one_statement_each() {
    let server = Server::tuned("-c shared_preload_libraries=pg_stat_statements");
    let (store, dsn) = counted(&server).await;
    for length in [0, 1, 1 << 20] {
        spent(&dsn).await;
        assert!(matches!(put(&store, &noise(length, 3), 100_000).await, Put::Created(_)));
        assert_eq!(spent(&dsn).await, (2, 0), "{length} bytes");
        assert!(matches!(put(&store, &noise(length, 3), 100_000).await, Put::AlreadyThere(_)));
        assert_eq!(spent(&dsn).await, (1, 0), "{length} bytes again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_is_a_statement_for_each_megabyte_and_one_commit() {
    let server = Server::tuned("-c shared_preload_libraries=pg_stat_statements");
    let (store, dsn) = counted(&server).await;
    spent(&dsn).await;
    let blob = noise(4 << 20, 3);
    assert!(matches!(put(&store, &blob, 100_000).await, Put::Created(_)));
    // The look for it; four windows; begin, the end of the upload, the record, commit.
    assert_eq!(spent(&dsn).await, (9, 1));
    let hash = jam_domain::PreimageHash::of(&blob);
    assert!(crate::store_fixture::bytes_of(&store, hash, 0..u64::MAX).await == blob);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_submissions_and_a_batch_of_work_are_one_commit_each() {
    let server = Server::tuned("-c shared_preload_libraries=pg_stat_statements");
    let (store, dsn) = counted(&server).await;
    spent(&dsn).await;
    let engine = engine();
    // They start in one turn: the first is written alone, the others gather meanwhile.
    let submissions = (0..100).map(|_| store.submit(package("s"), &engine));
    assert!(futures::future::join_all(submissions).await.iter().all(Result::is_ok));
    let (statements, commits) = spent(&dsn).await;
    assert!(commits <= 4, "{commits} commits, {statements} statements for 100 packages");
    assert_eq!(store.process(100, &engine).await.unwrap().len(), 100);
    let (statements, commits) = spent(&dsn).await;
    assert!(commits == 1 && statements <= 12, "{commits} commits, {statements} statements for 100 packages");
}
