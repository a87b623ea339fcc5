//! A network that stalls while a migration talks to its database: the migration ends when it is told to, all the same.

use std::time::Duration;

use jam_store::PostgresConfig;
use jam_store::migrate::{self, MigrateError};
use sqlx::Executor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::support::postgres;

/// Longer than any of the program's own patience.
const FOR_EVER: Duration = Duration::from_mins(5);

/// A way to the database on which nothing goes any more from the statement on that has this word in it; and whether it has come.
async fn way_until(dsn: &str, word: &'static str) -> (String, watch::Receiver<bool>) {
    let (front, rest) = dsn.split_once('@').unwrap();
    let (database, name) = rest.split_once('/').unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let way = format!("{front}@{}/{name}", listener.local_addr().unwrap());
    let (stalls, stalled) = watch::channel(false);
    let database = database.to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (database, stalls) = (database.clone(), stalls.clone());
            tokio::spawn(async move {
                let (to, from) = (TcpStream::connect(database).await.unwrap(), client);
                let ((from_client, to_client), (from_server, to_server)) = (from.into_split(), to.into_split());
                tokio::join!(
                    carry(from_client, to_server, Some(word), &stalls),
                    carry(from_server, to_client, None, &stalls)
                );
            });
        }
    });
    (way, stalled)
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    word: Option<&str>,
    stalls: &watch::Sender<bool>,
) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if word.is_some_and(|word| String::from_utf8_lossy(&bytes[..count]).contains(word)) {
            stalls.send_replace(true);
        }
        if *stalls.borrow() {
            // The connection stays: nobody is told that anything is wrong.
            std::future::pending::<()>().await;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

async fn comes(mut stalled: watch::Receiver<bool>) {
    stalled.wait_for(|stalled| *stalled).await.unwrap();
}

#[tokio::test]
async fn a_migration_ends_when_it_is_told_to_although_its_database_does_not_say_which_session_it_is() {
    let dsn = postgres::fresh_database().await;
    let (way, stalled) = way_until(&dsn, "pg_backend_pid").await;
    let config = PostgresConfig::new(&way);
    let run = timeout(Duration::from_mins(1), migrate::apply_until(&config, comes(stalled)));
    let halted = run.await.expect("it ends").unwrap_err();
    assert_eq!(halted, MigrateError::Halted("asking its database".into()));
}

#[tokio::test]
async fn a_migration_ends_when_it_is_told_to_although_its_database_does_not_say_what_it_is_at() {
    let dsn = postgres::fresh_database().await;
    let mut obstacle = postgres::connect(&dsn).await;
    obstacle.execute("begin; create table packages (x int)").await.unwrap();
    let (way, stalled) = way_until(&dsn, "wait_event_type").await;
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    let halt = async {
        while postgres::number(&dsn, waits).await == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    // From then on nothing moves, and the clock goes from one deadline to the next.
    let hastened = async {
        comes(stalled).await;
        tokio::time::pause();
        sleep(FOR_EVER).await;
    };
    let config = PostgresConfig::new(&way);
    let halted = tokio::select! {
        ended = migrate::apply_until(&config, halt) => ended.unwrap_err(),
        () = hastened => panic!("it waits for ever"),
    };
    assert_eq!(halted, MigrateError::Halted("its database did not answer".into()));
}
