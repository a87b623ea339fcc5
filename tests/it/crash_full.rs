//! A database without room: for connections, or for its log. Clients hear 503 and never 500, and everything heals by itself.

use std::time::Duration;

use jam_domain::PreimageHash;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use crate::api_support::{Answer, PATIENCE, Server, answer, package, until};
use crate::crash_support::serve;
use crate::store_disk_and_tls::fill;
use crate::support::postgres;

/// One of each way to need the database.
async fn asked(server: &Server) -> Vec<Answer> {
    let put = server.request("PUT", &format!("/jam/preimages/{}", PreimageHash::of(b"x"))).body("x");
    let submitted = package("s", "while there is no room");
    let (process, list, submit, put) = tokio::join!(
        server.post("/jam/process", &Value::Null),
        server.get("/jam/packages"),
        server.post("/jam/packages", &submitted),
        answer(put),
    );
    vec![process, list, submit, put]
}

fn unavailable(answered: Answer) {
    assert!(answered.header("retry-after").parse::<u32>().unwrap_or(0) >= 1, "{answered:?}");
    let body = answered.refused(503, "jam_store_unavailable");
    for inside in ["clients", "role", "space", "postgres", "No ", "FATAL"] {
        assert!(!body.to_string().contains(inside), "nothing from inside: {body}");
    }
}

async fn ready(server: &Server) -> Option<()> {
    (answer(server.bare("GET", "/readyz")).await.status == 200).then_some(())
}

/// What the database takes at most.
const CONNECTIONS: usize = 12;

/// Every connection that the database has: the server keeps none, and gets none.
async fn all_connections(dsn: &str) -> Vec<PgConnection> {
    let mut held: Vec<PgConnection> = Vec::new();
    let holding = async {
        while held.len() < CONNECTIONS {
            match PgConnection::connect(dsn).await {
                Ok(connection) => held.push(connection),
                Err(sqlx::Error::Database(refused)) => {
                    assert_eq!(refused.code().as_deref(), Some("53300"), "{refused}");
                    // What the server opened meanwhile, or what has not gone yet.
                    if let Some(first) = held.first_mut() {
                        let others =
                            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'jam-api'";
                        sqlx::query(others).execute(first).await.unwrap();
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, holding).await.expect("all are ours in time");
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exhausted_connections_are_503_with_retry_after_and_heal_by_themselves() {
    let database =
        postgres::Server::tuned(&format!("-c max_connections={CONNECTIONS} -c superuser_reserved_connections=0"));
    let dsn = database.migrated_database().await;
    let server = serve(&dsn).await;
    // Before the server has any connection, and once it had some.
    for _ in 0..2 {
        let held = all_connections(&dsn).await;
        for answered in asked(&server).await {
            unavailable(answered);
        }
        answer(server.bare("GET", "/readyz")).await.expect(503);
        answer(server.bare("GET", "/healthz")).await.expect(200);
        drop(held);
        until("room", async || ready(&server).await).await;
        server.submit("s", "").await;
        for answered in asked(&server).await {
            assert!(answered.status < 300, "{answered:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_of_the_databases_log_is_503_with_retry_after_and_heals_by_itself() {
    let database = postgres::Server::with_its_log_on_a_small_disk();
    let dsn = database.migrated_database().await;
    let server = serve(&dsn).await;
    let mut accepted = vec![server.submit("s", "before").await];
    let filler = fill(&database.place("disk"));
    let full = async {
        for n in 0.. {
            let mut large = package("s", &n.to_string());
            large["items"] = vec![large["items"][0].clone(); 50].into();
            let answered = server.post("/jam/packages", &large).await;
            if answered.status == 201 {
                accepted.push(answered.json());
            } else if database.log().contains("PANIC") {
                return answered;
            } else {
                // A busy machine's disk may be slow before it is full.
                unavailable(answered);
            }
        }
        unreachable!("it is full some time")
    };
    unavailable(tokio::time::timeout(Duration::from_mins(1), full).await.expect("a full disk"));
    let log = database.log();
    assert!(log.contains("PANIC") && log.contains("No space left"), "the log is full, and the database stops: {log}");
    // It starts again, comes as far as the log goes, and stops again: what it can't answer meanwhile is unavailable, too.
    for _ in 0..3 {
        asked(&server).await.into_iter().filter(|answered| answered.status >= 300).for_each(unavailable);
        answer(server.bare("GET", "/healthz")).await.expect(200);
    }
    std::fs::remove_file(filler).unwrap();
    until("room", async || {
        // A supervisor starts what has ended; the server has nobody's help.
        database.start_again();
        ready(&server).await
    })
    .await;
    server.submit("s", "after").await;
    for package in accepted {
        let path = format!("/jam/packages/{}", package["id"].as_str().unwrap());
        server.get(&path).await.expect(200);
    }
    while server.post("/jam/process?limit=100", &Value::Null).await.status != 204 {}
}
