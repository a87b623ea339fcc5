//! PostgreSQL killed under load and started again: clients hear 503 and never 500, the server heals, nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::crash_support::{Record, serve};
use crate::support::postgres::{Server, execute};

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn every_promise_survives_a_database_that_is_killed_under_load_twice() {
    let database = Arc::new(Server::private());
    let dsn = database.migrated_database().await;
    // The store must not take the database's word for it: with this default and no setting of its own, a 201 was lost.
    execute(&dsn, "alter system set synchronous_commit = off").await;
    execute(&dsn, "select pg_reload_conf()").await;
    let server = serve(&dsn).await;
    let record = Record::default();
    let stop = AtomicBool::new(false);
    let killed = async {
        for _ in 0..2 {
            record.more(60).await;
            database.kill().await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            let killed = Arc::clone(&database);
            spawn_blocking(move || killed.start()).await.unwrap();
            // The same server heals by itself.
            record.more(10).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(record.load(&server, 0, &stop), killed);
    let statuses = record.statuses.lock().unwrap().clone();
    // Whether anybody hears a 503 depends on how long the database is away: the store waits a while for it.
    assert!(!statuses.contains_key(&0), "every request was answered: {statuses:?}");
    record.audit(&server, &dsn).await;
}
