//! The server killed or stopped under load: what it promised is there, what it stored it has told.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::api_support::until;
use crate::crash_support::{Record, serve};
use crate::support::postgres;

/// Submissions that are accepted before something happens to the server.
const LOAD: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_survives_a_server_that_is_killed_under_load_three_times() {
    let dsn = postgres::migrated_database().await;
    let record = Record::default();
    let mut open = 0;
    for round in 0..3 {
        let mut server = serve(&dsn).await;
        let killed = async {
            record.more(LOAD).await;
            server.signal("KILL").await;
        };
        let never = AtomicBool::new(false);
        tokio::join!(record.load(&server, round, &never), killed);
        assert!(!server.ended().await.success());
        open = record.open();
    }
    assert!(open > 0, "some submissions were cut");
    record.audit(&serve(&dsn).await, &dsn).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_has_answered_everything_that_it_stored() {
    let dsn = postgres::migrated_database().await;
    let record = Record::default();
    for round in 0..3 {
        let mut server = serve(&dsn).await;
        let stop = AtomicBool::new(false);
        let stopped = async {
            record.more(LOAD).await;
            server.signal("TERM").await;
        };
        tokio::join!(record.load(&server, round, &stop), stopped);
        assert!(server.ended().await.success(), "{}", server.log());
        let stored = postgres::number(&dsn, "select count(*) from packages").await;
        assert_eq!(usize::try_from(stored).unwrap(), record.accepted(), "what was stored and not told was cut");
    }
    record.audit(&serve(&dsn).await, &dsn).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_on_one_database_do_not_notice_that_a_third_is_killed() {
    let dsn = postgres::migrated_database().await;
    let record = Record::default();
    let (one, two, mut victim) = tokio::join!(serve(&dsn), serve(&dsn), serve(&dsn));
    let stop = AtomicBool::new(false);
    let killed = async {
        record.more(LOAD).await;
        // That may have been the work of the other two.
        let own = async || victim.metric("jam_package_submit_total").await.filter(|count| *count > 0.0);
        until("the victim's own first package", own).await;
        victim.signal("KILL").await;
        record.more(LOAD).await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(record.load(&one, 1, &stop), record.load(&two, 2, &stop), record.load(&victim, 3, &stop), killed);
    victim.ended().await;
    let unanswered = record.statuses.lock().unwrap().get(&0).copied().unwrap_or_default();
    assert!((1..=12).contains(&unanswered), "only the victim's own clients: {unanswered}");
    record.audit(&one, &dsn).await;
    record.audit(&two, &dsn).await;
}
