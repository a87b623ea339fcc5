//! Traces: the spans of the contract in the caller's trace, and a collector that nobody waits for.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jam_domain::PreimageHash;
use reqwest::RequestBuilder;
use serde_json::json;

use crate::api_support::{Server, TOKEN, World, answer, jam_api, laws, package, until};
use crate::support::postgres;
use crate::trace_support::{Collector, Mood, Seen};

laws!(
    every_named_action_has_its_span_below_the_callers,
    without_a_caller_the_trace_begins_here_and_the_log_and_the_answer_name_it,
    no_span_carries_a_token_a_dsn_or_a_blob,
);

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

async fn traced(world: &World, mood: Mood, settings: &[(&str, &str)]) -> (Server, Collector) {
    let collector = Collector::start(mood).await;
    let endpoint = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str())];
    let server = world.with(&endpoint.into_iter().chain(settings.iter().copied()).collect::<Vec<_>>()).await;
    (server, collector)
}

fn below(request: RequestBuilder) -> RequestBuilder {
    request.header("traceparent", format!("00-{TRACE}-{CALLER}-01"))
}

async fn stopped(server: &mut Server) {
    server.signal("TERM").await;
    assert!(server.ended().await.success());
}

async fn every_named_action_has_its_span_below_the_callers(world: World) {
    let (mut server, collector) = traced(&world, Mood::Willing, &[]).await;
    let blob = format!("/jam/preimages/{}", PreimageHash::of(b"blob"));
    let sent = package("svc-1", "n").to_string();
    let mut ids = Vec::new();
    let mut path_of_package = String::new();
    for (name, method, path, body, status) in [
        ("jam.preimage.put", "PUT", blob.as_str(), "blob", 201),
        ("jam.preimage.get", "GET", &blob, "", 200),
        ("jam.preimage.head", "HEAD", &blob, "", 200),
        ("jam.package.submit", "POST", "/jam/packages", &sent, 201),
        ("jam.package.list", "GET", "/jam/packages", "", 200),
        ("jam.package.get", "GET", "", "", 200),
        ("jam.process", "POST", "/jam/process", "", 200),
        ("", "GET", "/jam/status", "", 200),
        ("", "GET", "/jam/nothing", "", 404),
    ] {
        let path = if path.is_empty() { path_of_package.clone() } else { path.to_owned() };
        let answered = answer(below(server.request(method, &path)).body(body.to_owned())).await.expect(status);
        if status == 201 && name == "jam.package.submit" {
            answered.header("location").clone_into(&mut path_of_package);
        }
        let here = answered.header("traceparent").to_owned();
        assert_eq!(answered.header("x-trace-id"), TRACE);
        assert!(here.starts_with(&format!("00-{TRACE}-")) && !here.contains(CALLER), "{here}");
        assert_eq!(here.ends_with("-01"), !name.is_empty(), "{path}: recorded or not: {here}");
        if !name.is_empty() {
            ids.push((name, here[36..52].to_owned(), status));
        }
    }
    // The library would send them after five seconds: what is there now was handed over at the stop.
    stopped(&mut server).await;
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
    for (name, id, status) in &ids {
        let span = spans.iter().find(|span| span.id == *id).unwrap_or_else(|| panic!("{name}: {spans:#?}"));
        assert_eq!((span.name.as_str(), span.parent.as_str(), span.kind, span.status), (*name, CALLER, 2, 0));
        assert_eq!(span.attributes["http.response.status_code"], status.to_string());
        assert_eq!(span.attributes["jam.store"], world.store());
        assert!(span.attributes["http.route"].starts_with("/jam/"), "{span:?}");
    }
    let batch = spans.iter().find(|span| span.name == "jam.process").unwrap();
    assert_eq!(batch.attributes["jam.packages"], "1");
    let steps: Vec<&Seen> = spans.iter().filter(|span| span.parent != CALLER).collect();
    let id = path_of_package.rsplit('/').next().unwrap();
    assert_eq!(steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["refine", "attest", "accumulate"]);
    for step in steps {
        assert_eq!((step.parent.as_str(), step.kind), (batch.id.as_str(), 1), "{step:?}");
        assert_eq!((step.attributes["jam.pkg_id"].as_str(), step.attributes["jam.service_id"].as_str()), (id, "svc-1"));
    }
    assert_eq!(spans.len(), ids.len() + 3);
    assert_eq!(collector.resource()["service.name"], "jam-api");
    let place = ("/v1/traces".to_owned(), "application/x-protobuf".to_owned());
    assert!(collector.places().iter().all(|one| *one == place), "{:?}", collector.places());
}

async fn without_a_caller_the_trace_begins_here_and_the_log_and_the_answer_name_it(world: World) {
    let (mut server, collector) = traced(&world, Mood::Willing, &[]).await;
    let submitted = server.post("/jam/packages", &package("svc-1", "n")).await.expect(201);
    let trace = submitted.header("x-trace-id").to_owned();
    // Whoever is not recorded by its caller is not recorded here.
    let unrecorded = server.request("GET", "/jam/packages").header("traceparent", format!("00-{TRACE}-{CALLER}-00"));
    let unrecorded = answer(unrecorded).await.expect(200);
    assert!(unrecorded.header("traceparent").starts_with(&format!("00-{TRACE}-")));
    assert!(unrecorded.header("traceparent").ends_with("-00"));
    stopped(&mut server).await;
    let spans = collector.spans();
    let [span] = &spans[..] else { panic!("{spans:#?}") };
    assert_eq!((span.name.as_str(), span.trace.as_str(), span.parent.as_str()), ("jam.package.submit", &*trace, ""));
    assert_eq!(submitted.header("traceparent"), format!("00-{trace}-{}-01", span.id));
    assert_eq!(span.attributes["jam.pkg_id"], submitted.json()["id"]);
    let log = server.log();
    let line = log.lines().find(|line| line.contains("package submitted")).unwrap();
    assert!(line.contains(&format!("\"trace_id\":\"{trace}\"")), "{line}");
}

async fn no_span_carries_a_token_a_dsn_or_a_blob(world: World) {
    let settings = [
        ("JAM_ALLOWED_TOKENS", "hushtoken1"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=hushheader"),
        ("JAM_LOG", "trace"),
    ];
    let (mut server, collector) = traced(&world, Mood::Willing, &settings).await;
    let call = async |method: &str, path: &str, token: &str, body: &'static str| {
        answer(server.bare(method, path).bearer_auth(token).body(body)).await.status
    };
    let blob = format!("/jam/preimages/{}", PreimageHash::of(b"hushblob"));
    assert_eq!(call("PUT", &blob, "hushtoken1", "hushblob").await, 201);
    assert_eq!(call("PUT", "/jam/preimages/hushpath", "hushtoken1", "hushblob").await, 400);
    assert_eq!(call("GET", "/jam/packages/hushpath", "hushtoken1", "").await, 404);
    assert_eq!(call("GET", "/jam/packages?token=hushquery", "hushtoken2", "").await, 401);
    assert_eq!(call("POST", "/jam/packages", "hushtoken1", "hushblob").await, 400);
    stopped(&mut server).await;
    assert_eq!(collector.spans().len(), 5);
    let log = until("the last line", async || Some(server.log()).filter(|log| log.contains("\"stopped\""))).await;
    let exported = String::from_utf8_lossy(&collector.bytes()).into_owned();
    for secret in ["hushtoken", "hushheader", "hushblob", "postgres://"] {
        assert!(!exported.contains(secret) && !log.contains(secret), "{secret}");
    }
    assert!(!exported.contains("hush"), "nor any other text of clients: {exported}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_the_server_is_an_error_in_its_span_and_a_refusal_is_not() {
    let database = postgres::Server::private();
    let dsn = database.migrated_database().await;
    let (mut server, collector) = traced(&World::on(&dsn), Mood::Willing, &[]).await;
    server.get("/jam/packages/none").await.expect(404);
    database.stop();
    server.get("/jam/packages").await.expect(503);
    stopped(&mut server).await;
    let told: Vec<_> = collector.spans().into_iter().map(|span| (span.name, span.status)).collect();
    assert_eq!(told, [("jam.package.get".to_owned(), 0), ("jam.package.list".to_owned(), 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_tells_of_its_batches_and_not_of_an_empty_queue() {
    let world = World::postgres().await;
    let server = world.serve().await;
    let collector = Collector::start(Mood::Willing).await;
    let mut command = jam_api(&["work", "--interval", "50ms", "--metrics-listen", ""]);
    command.env("JAM_STORE", "postgres").env("JAM_PG_DSN", world.dsn().unwrap());
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint).env("OTEL_SERVICE_NAME", "my-worker");
    let mut worker = command.spawn().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.submit("svc-1", "n").await;
    let applied = async || {
        let list = server.get("/jam/packages?status=applied").await.json();
        (list["items"].as_array().unwrap().len() == 1).then_some(())
    };
    until("the applied package", applied).await;
    let pid = worker.id().unwrap().to_string();
    tokio::process::Command::new("kill").arg(pid).status().await.unwrap();
    assert!(worker.wait().await.unwrap().success());
    let spans = collector.spans();
    let batches: Vec<_> = spans.iter().filter(|span| span.name == "jam.process").collect();
    let [batch] = &batches[..] else { panic!("{spans:#?}") };
    assert_eq!((batch.kind, batch.parent.as_str(), batch.attributes["jam.packages"].as_str()), (1, "", "1"));
    let steps: BTreeSet<_> =
        spans.iter().filter(|span| span.parent == batch.id).map(|span| span.name.as_str()).collect();
    assert_eq!(steps, BTreeSet::from(["accumulate", "attest", "refine"]));
    assert_eq!(collector.resource()["service.name"], "my-worker");
}

/// Requests of [`refused_or_stalled`], several times more than the queue of spans has room for.
const REQUESTS: usize = 600;
const QUEUE: &str = "64";

async fn refused_or_stalled(endpoint: &str) -> (Server, Duration) {
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
    ];
    let mut server = World::memory().with(&settings).await;
    let sent = package("svc-1", "n").to_string();
    for n in 0..REQUESTS {
        let status = if n % 10 == 0 {
            answer(server.request("POST", "/jam/packages").body(sent.clone())).await.status
        } else {
            server.get("/jam/packages").await.status
        };
        assert!(status == 200 || status == 201 || status == 409, "{status}");
    }
    let told = Instant::now();
    stopped(&mut server).await;
    (server, told.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_no_request_and_is_said_a_few_times_only() {
    let failing = Collector::start(Mood::Failing).await;
    for endpoint in ["http://127.0.0.1:9", failing.endpoint.as_str()] {
        let (server, _) = refused_or_stalled(endpoint).await;
        let log = server.log();
        let lines = log.lines().filter(|line| line.contains("could not be exported")).count();
        // Hundreds of batches failed; they are said at the first, the second, the fourth …
        assert!((1..=10).contains(&lines), "{lines} lines: {log}");
        assert!(log.contains(endpoint) && log.contains("4318"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_stalls_costs_no_request_and_what_does_not_fit_its_queue_is_dropped_and_counted() {
    let stalled = Collector::start(Mood::Stalled).await;
    let (server, stopping) = refused_or_stalled(&stalled.endpoint).await;
    assert!(stopping < Duration::from_secs(15), "a pod has 45 s for everything: {stopping:?}");
    let log = until("the last line", async || Some(server.log()).filter(|log| log.contains("\"stopped\""))).await;
    assert_eq!(log.matches("dropped a Span due to queue full").count(), 1, "{log}");
    let line = log.lines().find(|line| line.contains("dropped_span_count")).unwrap_or_else(|| panic!("{log}"));
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let dropped: u64 = line["dropped_span_count"].to_string().trim_matches('"').parse().unwrap();
    let kept: u64 = QUEUE.parse::<u64>().unwrap() * 4;
    assert!(dropped > REQUESTS as u64 - kept, "the queue is bounded: {line}");
    assert_eq!(line["level"], json!("warn"));
}

#[tokio::test(flavor = "multi_thread")]
async fn slctl_hands_on_the_trace_that_it_is_run_in_and_makes_none_up() {
    let (mut server, collector) = traced(&World::memory(), Mood::Willing, &[]).await;
    let span = format!("00-{TRACE}-{CALLER}-01");
    for trace in [Some(span.as_str()), None, Some("no\nheader")] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_slctl"));
        command.args(["jam", "packages"]).env_clear().envs(trace.map(|trace| ("TRACEPARENT", trace)));
        command.env("SERVICE_LAYER_ADDR", &server.address).env("SERVICE_LAYER_TOKEN", TOKEN);
        assert!(command.output().await.unwrap().status.success());
    }
    stopped(&mut server).await;
    let spans = collector.spans();
    let parents: Vec<_> = spans.iter().map(|span| (span.name.as_str(), span.parent.as_str())).collect();
    assert_eq!(parents, [("jam.package.list", CALLER), ("jam.package.list", ""), ("jam.package.list", "")]);
    assert_eq!(spans[0].trace, TRACE);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_endpoint_nothing_is_recorded_and_the_trace_goes_on_all_the_same() {
    let server = Server::start().await;
    let answered = answer(below(server.request("GET", "/jam/packages"))).await.expect(200);
    assert_eq!(answered.header("x-trace-id"), TRACE);
    let here = answered.header("traceparent");
    assert!(here.starts_with(&format!("00-{TRACE}-")) && here.ends_with("-00") && !here.contains(CALLER), "{here}");
}
