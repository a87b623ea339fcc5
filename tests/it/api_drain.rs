//! SIGTERM: whatever was sent before the end of accepting is answered, and bodies under way never hold more than they may.

use serde_json::json;
use sqlx::{Connection as _, Executor as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::api_raw::{connect, head, memory, read_answer, read_to_end};
use crate::api_support::{Server, TOKEN, World, answer, package, until};

const CLIENTS: usize = 60;

/// A request that does not end the connection by itself.
fn asking() -> String {
    format!("GET /jam/status HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\r\n")
}

async fn connected(address: &str) -> Vec<TcpStream> {
    futures::future::join_all((0..CLIENTS).map(|_| connect(address))).await
}

async fn ask(clients: &mut [TcpStream]) {
    for client in clients {
        client.write_all(asking().as_bytes()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_sent_before_the_stop_is_answered_on_old_and_new_connections() {
    let mut server = Server::start().await;
    let mut kept = connected(&server.address).await;
    ask(&mut kept).await;
    for client in &mut kept {
        assert_eq!(read_answer(client).await.status, 200);
    }
    // While it stands still its sockets fill: connections that it never took, requests that it never read, and the stop.
    server.signal("STOP").await;
    let mut fresh = connected(&server.address).await;
    ask(&mut fresh).await;
    ask(&mut kept).await;
    server.signal("TERM").await;
    server.signal("CONT").await;
    for client in kept.iter_mut().chain(&mut fresh) {
        let answered = read_to_end(client).await;
        assert_eq!(answered.status, 200, "{answered:?}");
    }
    assert!(server.ended().await.success(), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_request_does_not_hold_the_stop_up() {
    let mut server = Server::start().await;
    let idle = connected(&server.address).await;
    server.signal("TERM").await;
    assert!(server.ended().await.success(), "{}", server.log());
    assert!(!server.log().contains("still in flight"), "{}", server.log());
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_json_that_are_under_way_hold_no_more_memory_than_they_may() {
    let server = Server::with(&[("JAM_MAX_BYTES_IN_FLIGHT", "4194304")]).await;
    let (size, pid) = (1_000_000, server.pid());
    let before = memory(&pid, "VmRSS");
    let begun = head("POST", "/jam/packages", TOKEN, &format!("content-length: {size}\r\n"));
    let body = vec![b' '; size - 1];
    let mut clients = connected(&server.address).await;
    let sent = clients.iter_mut().map(|client| async {
        client.write_all(begun.as_bytes()).await.unwrap();
        // Those that have to wait for room are not read: what they send stays with the kernel, and with them.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), client.write_all(&body)).await;
    });
    futures::future::join_all(sent).await;
    let grown = memory(&pid, "VmRSS").saturating_sub(before);
    assert!(
        grown < 24 << 10,
        "{CLIENTS} bodies of {size} bytes, of which four fit, have the process grow by {grown} KiB"
    );
    drop(clients);
    let small = server.request("POST", "/jam/packages").body(package("s", "1").to_string());
    answer(small).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_that_wait_for_the_database_hold_no_more_memory_than_they_may() {
    let world = World::postgres().await;
    let server = world.with(&[("JAM_MAX_BYTES_IN_FLIGHT", "4194304")]).await;
    server.submit("s", "warm").await;
    let mut frozen = sqlx::PgConnection::connect(world.dsn().unwrap()).await.unwrap();
    frozen.execute("begin; select pg_advisory_xact_lock(5425451, 1)").await.unwrap();
    let pid = server.pid();
    let item = json!({"kind": "k", "params_hash": "p", "memo": "m".repeat(1000)});
    let before = memory(&pid, "VmRSS");
    let mut clients = connected(&server.address).await;
    let sent = clients.iter_mut().enumerate().map(async |(number, client)| {
        let mut large = package("s", &number.to_string());
        large["items"] = vec![item.clone(); 900].into();
        let body = large.to_string();
        let head = head("POST", "/jam/packages", TOKEN, &format!("content-length: {}\r\n", body.len()));
        let whole = [head.as_bytes(), body.as_bytes()].concat();
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), client.write_all(&whole)).await;
    });
    futures::future::join_all(sent).await;
    let grown = memory(&pid, "VmRSS").saturating_sub(before);
    assert!(
        grown < 36 << 10,
        "{CLIENTS} packages of a megabyte, of which two fit, have the process grow by {grown} KiB"
    );
    drop(clients);
    frozen.execute("rollback").await.unwrap();
    until("others to be served", async || {
        let small = server.request("POST", "/jam/packages").body(package("s", "small").to_string());
        (answer(small).await.status == 201).then_some(())
    })
    .await;
}
