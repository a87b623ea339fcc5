//! GET /jam/events: what is told, to whom, from where on, and how a stream ends.

use std::time::Duration;

use jam_store::{PostgresConfig, PostgresStore, Store};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};

use crate::api_raw::{connect, head, memory};
use crate::api_support::{PATIENCE, Server, TOKEN, World, answer, file, laws, package, token_file};
use crate::events_support::{Message, Stream, client, settled, types};
use crate::store_retention::rule;
use crate::support::postgres::execute;

laws!(
    what_happens_to_a_package_is_told_in_order_and_a_reader_resumes_at_any_id,
    a_reader_gets_its_own_services_and_the_types_that_it_asked_for,
    a_disputed_package_and_one_that_waits_for_attestations_are_told_as_they_are,
    an_id_that_is_not_kept_is_gone_and_what_is_no_id_is_refused,
    a_server_that_stops_ends_its_streams,
    a_token_that_is_retired_hears_nothing_more,
    a_stream_counts_once_for_the_rate_limit,
);

async fn processed(server: &Server) -> Value {
    server.post("/jam/process?limit=100", &Value::Null).await.expect(200).json()
}

const WHOLE: [&str; 5] =
    ["package.submitted", "receipt.appended", "package.refined", "receipt.appended", "package.applied"];

async fn what_happens_to_a_package_is_told_in_order_and_a_reader_resumes_at_any_id(world: World) {
    let server = world.serve().await;
    let mut live = Stream::open(&server, "").await;
    let greeting = live.message().await.unwrap();
    assert!(greeting.event.is_empty() && !greeting.id.is_empty(), "{greeting:?}");
    let package = server.submit("s", "1").await;
    processed(&server).await;
    let events = live.events(5).await;
    assert_eq!(types(&events), WHOLE);
    assert!(greeting.id < events[0].id && events.windows(2).all(|pair| pair[0].id < pair[1].id), "{events:?}");
    for Message { event, data, .. } in &events {
        assert_eq!((&data["service_id"], &data["package_id"]), (&package["service_id"], &package["id"]));
        assert!(data["at"].as_str().is_some() && data["type"] == **event);
    }
    let report = server.get(&format!("/jam/packages/{}/report", package["id"].as_str().unwrap())).await.json();
    for told in &events[2..] {
        assert_eq!(told.data["report_id"], report["report"]["id"]);
    }
    let receipts = server.get("/jam/receipts?service_id=s&order=asc").await.json();
    for (told, receipt) in [&events[1], &events[3]].into_iter().zip(receipts["items"].as_array().unwrap()) {
        for field in ["seq", "hash", "entry_type"] {
            assert_eq!(told.data["receipt"][field], receipt[field]);
        }
    }
    // From the greeting, from 0 and from each event on, by query, by header, and by both.
    let from = |at: usize| events[at..].to_vec();
    assert_eq!(Stream::open(&server, &format!("?after={}", greeting.id)).await.events(5).await, from(0));
    assert_eq!(Stream::open(&server, "?after=0").await.events(5).await, from(0));
    for (at, last) in events[..4].iter().map(|told| &told.id).enumerate() {
        assert_eq!(Stream::open(&server, &format!("?after={last}")).await.events(4 - at).await, from(at + 1));
        assert_eq!(Stream::of(&server, TOKEN, "?after=0", Some(last)).await.events(4 - at).await, from(at + 1));
    }
    let head = answer(server.request("HEAD", "/jam/events")).await.expect(200);
    assert_eq!((head.header("content-type"), head.bytes.len()), ("text/event-stream", 0));
}

async fn a_reader_gets_its_own_services_and_the_types_that_it_asked_for(world: World) {
    let (_dir, path) = file("tokens.json", &token_file(&[("bound-to-a", None, Some(&["a"]))]));
    let server = world.with(&[("JAM_TOKENS_FILE", path.to_str().unwrap())]).await;
    let mut live = Stream::of(&server, "bound-to-a", "", None).await;
    for service in ["b", "a", "c"] {
        server.submit(service, "1").await;
    }
    processed(&server).await;
    for stream in [&mut live, &mut Stream::of(&server, "bound-to-a", "?after=0", None).await] {
        let events = stream.events(5).await;
        assert_eq!(types(&events), WHOLE);
        assert!(events.iter().all(|told| told.data["service_id"] == "a"));
    }
    let mut of_c = Stream::open(&server, "?after=0&service_id=c&types=package.applied,package.submitted").await;
    let events = of_c.events(2).await;
    assert_eq!(types(&events), ["package.submitted", "package.applied"]);
    assert!(events.iter().all(|told| told.data["service_id"] == "c"));
    let denied = server.bare("GET", "/jam/events?service_id=b").bearer_auth("bound-to-a");
    answer(denied).await.refused(403, "jam_authz_service_denied");
    answer(server.bare("GET", "/jam/events")).await.refused(401, "jam_auth_missing");
    let unknown = server.get("/jam/events?types=package.applied,package.eaten").await;
    assert_eq!(unknown.refused(400, "jam_validation_error")["details"]["field"], "types");
}

async fn a_disputed_package_and_one_that_waits_for_attestations_are_told_as_they_are(world: World) {
    let server = world.with(&[("JAM_ATTESTATION_THRESHOLD", "2"), ("JAM_ACCUMULATORS_ENABLED", "false")]).await;
    let package = server.submit("s", "1").await;
    processed(&server).await;
    let mut stream = Stream::open(&server, "?after=0").await;
    assert_eq!(types(&stream.events(2).await), ["package.submitted", "package.refined"]);
    let report = server.get(&format!("/jam/packages/{}/report", package["id"].as_str().unwrap())).await.json();
    let attest = format!("/jam/reports/{}/attestations", report["report"]["id"].as_str().unwrap());
    server.post(&attest, &json!({"worker_id": "w", "signature": "YQ=="})).await.expect(201);
    let applied = stream.event().await.unwrap();
    assert_eq!((applied.event.as_str(), &applied.data["package_id"]), ("package.applied", &package["id"]));
}

async fn an_id_that_is_not_kept_is_gone_and_what_is_no_id_is_refused(world: World) {
    let server = world.serve().await;
    server.submit("s", "1").await;
    let all = Stream::open(&server, "?after=0").await.events(2).await;
    processed(&server).await;
    if let Some(dsn) = world.dsn() {
        let store = PostgresStore::connect(PostgresConfig::new(dsn)).await.unwrap();
        settled(dsn).await;
        store.cleanup(&rule(4000), false).await.unwrap();
    }
    for gone in ["0000000000000001-000001", "7000000000000000-000001"] {
        server.get(&format!("/jam/events?after={gone}")).await.refused(410, "jam_events_gone");
    }
    if let Some(dsn) = world.dsn() {
        settled(dsn).await;
        let forgotten = server.request("GET", "/jam/events").header("last-event-id", &all[0].id);
        answer(forgotten).await.refused(410, "jam_events_gone");
        // The last step stays: who has read everything can always go on.
        let left = Stream::open(&server, "?after=0").await.event().await.unwrap();
        assert_eq!(left.event, "package.archived");
        Stream::open(&server, &format!("?after={}", left.id)).await;
    }
    for wrong in ["x", "1", "0-1", "000000000000000G-000001"] {
        let refused = server.get(&format!("/jam/events?after={wrong}")).await;
        assert_eq!(refused.refused(400, "jam_validation_error")["details"]["field"], "after");
        let refused = answer(server.request("GET", "/jam/events").header("last-event-id", wrong)).await;
        assert_eq!(refused.refused(400, "jam_validation_error")["details"]["field"], "Last-Event-ID");
    }
}

async fn a_server_that_stops_ends_its_streams(world: World) {
    let mut server = world.serve().await;
    let mut streams = vec![Stream::open(&server, "").await, Stream::open(&server, "?after=0").await];
    server.submit("s", "1").await;
    for stream in &mut streams {
        stream.events(2).await;
    }
    server.signal("TERM").await;
    for stream in &mut streams {
        assert_eq!(stream.event().await, None);
    }
    assert!(server.ended().await.success());
    assert!(!server.log().contains("still in flight"), "{}", server.log());
}

async fn a_token_that_is_retired_hears_nothing_more(world: World) {
    let (dir, path) = file("tokens.json", &token_file(&[("leaver", None, None)]));
    let server = world.with(&[("JAM_TOKENS_FILE", path.to_str().unwrap())]).await;
    let mut stream = Stream::of(&server, "leaver", "", None).await;
    server.submit("s", "1").await;
    stream.events(2).await;
    std::fs::write(dir.path().join("next"), token_file(&[("another", None, None)])).unwrap();
    std::fs::rename(dir.path().join("next"), &path).unwrap();
    let retired = async || answer(server.bare("GET", "/jam/status").bearer_auth("leaver")).await.status == 401;
    crate::api_support::until("the end of the token", async || retired().await.then_some(())).await;
    server.submit("s", "2").await;
    assert_eq!(stream.event().await, None);
}

async fn a_stream_counts_once_for_the_rate_limit(world: World) {
    let (_dir, path) = file("tokens.json", &token_file(&[("reader", None, None), ("writer", None, None)]));
    let settings = [("JAM_TOKENS_FILE", path.to_str().unwrap()), ("JAM_RATE_LIMIT_PER_MINUTE", "20")];
    let server = world.with(&settings).await;
    let mut stream = Stream::of(&server, "reader", "", None).await;
    for n in 0..15 {
        let post = server.bare("POST", "/jam/packages").bearer_auth("writer");
        answer(post.body(package("s", &n.to_string()).to_string())).await.expect(201);
    }
    stream.events(30).await;
    let status = answer(server.bare("GET", "/jam/status").bearer_auth("reader")).await.expect(200);
    assert!(status.header("ratelimit-remaining").parse::<u32>().unwrap() >= 18, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_to_whom_nothing_happens_hears_a_heartbeat() {
    let server = World::memory().serve().await;
    server.submit("s", "1").await;
    let mut stream = Stream::open(&server, "?types=package.archived").await;
    let greeting = stream.message().await.unwrap();
    let beat = timeout(PATIENCE, stream.message()).await.expect("a sign of life before proxies hang up").unwrap();
    // It carries where to resume, so that a reader that hears nothing else does not begin again from far behind.
    assert!(beat.event.is_empty() && beat.id >= greeting.id, "{beat:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stalls_is_closed() {
    let world = World::postgres().await;
    // 60,000 events, some 12 MB as text: more than the sockets between us hold.
    let deeds = r#"[{"d": ["s", "0198a5a5-0000-7000-8000-000000000001"]}"#.to_owned();
    let fill = format!(
        "insert into events (step, body) select n, '{deeds}' || repeat(',' || substr('{deeds}', 2), 599) || ']'
         from generate_series(1, 100) n"
    );
    execute(world.dsn().unwrap(), &fill).await;
    let server = world.with(&[("JAM_CLIENT_TIMEOUT", "1")]).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stalled = socket.connect(server.address.trim_start_matches("http://").parse().unwrap()).await.unwrap();
    stalled.write_all(head("GET", "/jam/events?after=0", TOKEN, "").as_bytes()).await.unwrap();
    let mut steady = Stream::open(&server, "?after=0").await;
    assert_eq!(steady.events(60_000).await.len(), 60_000);
    sleep(Duration::from_secs(4)).await;
    // What the kernel had taken can still be read, and then the connection is over: an open one would go on to the end.
    let mut bytes = Vec::new();
    let ended = timeout(PATIENCE, stalled.read_to_end(&mut bytes)).await;
    assert!(ended.is_ok(), "it is still open after {} bytes", bytes.len());
    assert!(bytes.len() < 10_000_000, "{} bytes", bytes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_readers_cost_less_than_20_kib_each_and_one_more_is_told_to_come_back() {
    let server = World::postgres().await.serve().await;
    let open = async || {
        let mut stream = connect(&server.address).await;
        stream.write_all(head("GET", "/jam/events", TOKEN, "").as_bytes()).await.unwrap();
        let mut greeting = [0; 1024];
        let count = timeout(PATIENCE, stream.read(&mut greeting)).await.expect("a greeting").unwrap();
        assert!(String::from_utf8_lossy(&greeting[..count]).starts_with("HTTP/1.1 200"));
        stream
    };
    // What the first readers make the process allocate, it allocates once.
    let mut streams = Vec::new();
    for _ in 0..100 {
        streams.push(open().await);
    }
    let before = memory(&server.pid(), "VmRSS");
    while streams.len() < 1000 {
        streams.push(open().await);
    }
    let each = memory(&server.pid(), "VmRSS").saturating_sub(before) * 1024 / 900;
    println!("{each} bytes for each idle reader");
    assert!(each < 20 * 1024, "{each} bytes for each idle reader");
    let refused = client().get(format!("{}/jam/events", server.address)).bearer_auth(TOKEN);
    answer(refused).await.refused(429, "jam_rate_limit");
    // They are idle, not forgotten.
    server.submit("s", "1").await;
    for stream in [0, 500, 999] {
        let mut text = String::new();
        while !text.contains("receipt.appended") {
            let mut bytes = [0; 4096];
            let count = timeout(PATIENCE, streams[stream].read(&mut bytes)).await.expect("the event").unwrap();
            text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
    }
}
