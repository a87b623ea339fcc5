//! The log lines of spec/observability.md, field by field, on real runs; and the trace id on every line of a request.

use std::collections::BTreeSet;

use jam_domain::PreimageHash;
use jam_domain::token::TokenHash;
use serde_json::{Value, json};

use crate::api_support::{Server, TOKEN, World, answer, file, jam_api, laws, package, token_file, until};

laws!(
    a_package_and_its_processing_are_logged_with_every_field,
    a_preimage_is_logged_with_every_field,
    a_reject_is_logged_with_who_why_and_which_limit,
    every_line_of_a_request_carries_its_trace_id,
);

/// The lines that were logged so far.
fn lines(log: &str) -> Vec<Value> {
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The first line with this message that pleases, once it is there.
async fn line(server: &Server, message: &str, pleases: impl Fn(&Value) -> bool) -> Value {
    let find = || lines(&server.log()).into_iter().find(|line| line["message"] == message && pleases(line));
    until(message, async || find()).await
}

/// The names of a line's fields, without those that every line has.
fn fields(line: &Value) -> BTreeSet<&str> {
    let all = line.as_object().unwrap().keys().map(String::as_str);
    all.filter(|name| !["time", "level", "target", "message", "trace_id"].contains(name)).collect()
}

fn token() -> String {
    TokenHash::of(TOKEN).id().to_string()
}

async fn a_package_and_its_processing_are_logged_with_every_field(world: World) {
    let server = world.serve().await;
    let id = server.submit("svc-1", "1").await["id"].clone();
    let submitted = line(&server, "package submitted", |_| true).await;
    let named = ["pkg_id", "service_id", "store", "token_hash", "pending_count", "replayed"];
    assert_eq!(fields(&submitted), named.into());
    assert_eq!((&submitted["pkg_id"], &submitted["service_id"]), (&id, &json!("svc-1")));
    assert_eq!((&submitted["store"], &submitted["token_hash"]), (&json!(world.store()), &json!(token())));
    assert_eq!(submitted["pending_count"], 1, "{submitted}");
    server.post("/jam/process", &json!(null)).await.expect(200);
    let processed = line(&server, "package processed", |_| true).await;
    assert_eq!(fields(&processed), ["pkg_id", "service_id", "store", "duration_ms", "applied"].into());
    assert_eq!((&processed["pkg_id"], &processed["store"]), (&id, &json!(world.store())));
    assert!(processed["duration_ms"].is_u64() && processed["level"] == "info", "{processed}");
}

async fn a_preimage_is_logged_with_every_field(world: World) {
    let server = world.with(&[("JAM_MAX_PREIMAGE_BYTES", "10")]).await;
    let hash = server.upload(b"blob").await;
    let stored = line(&server, "preimage", |_| true).await;
    let named = ["hash", "size", "media_type", "store", "token_hash", "quota_hit", "created"];
    assert_eq!(fields(&stored), named.into());
    assert_eq!((&stored["hash"], &stored["size"], &stored["quota_hit"]), (&json!(hash), &json!(4), &json!(false)));
    assert_eq!((&stored["media_type"], &stored["store"]), (&json!("application/octet-stream"), &json!(world.store())));
    assert_eq!(stored["token_hash"], token());
    let path = format!("/jam/preimages/{}", PreimageHash::of(b"more than ten bytes"));
    answer(server.request("PUT", &path).body("more than ten bytes")).await.expect(413);
    let refused = line(&server, "request refused", |_| true).await;
    assert_eq!((&refused["reason"], &refused["limit"]), (&json!("too_large"), &json!(10)));
    assert_eq!((&refused["quota_hit"], &refused["token_hash"]), (&json!(true), &json!(token())));
}

async fn a_reject_is_logged_with_who_why_and_which_limit(world: World) {
    let ended = json!([
        {"id": TokenHash::of("ended").id(), "sha256": TokenHash::of("ended"), "not_after": "2020-01-01T00:00:00Z"},
    ]);
    let mut entries: Value = serde_json::from_str(&token_file(&[
        ("caller", None, None),
        ("reader", Some(&["read"]), None),
        ("hasty", None, None),
    ]))
    .unwrap();
    entries.as_array_mut().unwrap().extend(ended.as_array().unwrap().clone());
    let (_dir, path) = file("tokens.json", &entries.to_string());
    let settings = [
        ("JAM_TOKENS_FILE", path.to_str().unwrap()),
        ("JAM_MAX_PENDING_PACKAGES", "1"),
        ("JAM_ALLOWED_MEDIA_TYPES", "text/*"),
        ("JAM_RATE_LIMIT_PER_MINUTE", "4"),
    ];
    let server = world.with(&settings).await;
    let blob = format!("/jam/preimages/{}", PreimageHash::of(b"x"));
    let sent = package("s", "1").to_string();
    for (token, method, path, body, status) in [
        (Some("caller"), "POST", "/jam/packages", sent.as_str(), 201),
        (Some("caller"), "POST", "/jam/packages", &package("s", "2").to_string(), 409),
        (Some("caller"), "PUT", &blob, "x", 415),
        (Some("reader"), "POST", "/jam/packages", &sent, 403),
        (Some("stranger"), "GET", "/jam/status", "", 401),
        (Some("ended"), "GET", "/jam/status", "", 401),
        (None, "GET", "/jam/status", "", 401),
    ] {
        let request = server.bare(method, path).body(body.to_owned());
        let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
        answer(request).await.expect(status);
    }
    for n in 0..6 {
        let hasty = answer(server.bare("GET", "/jam/status").bearer_auth("hasty")).await.status;
        assert!(hasty == 200 || (hasty == 429 && n > 0), "{hasty}");
    }
    for (message, reason, token, limit) in [
        ("package refused", "pending_limit", Some("caller"), json!(1)),
        ("preimage refused", "unsupported_media", Some("caller"), json!("text/*")),
        ("request refused", "scope", Some("reader"), Value::Null),
        ("request refused", "unknown", Some("stranger"), Value::Null),
        ("request refused", "expired", Some("ended"), Value::Null),
        ("request refused", "missing", None, Value::Null),
        ("request refused", "rate", Some("hasty"), json!(4)),
    ] {
        let refused = line(&server, message, |line| line["reason"] == reason).await;
        let who = token.map_or_else(|| "anonymous".to_owned(), |token| TokenHash::of(token).id().to_string());
        assert_eq!((&refused["token_hash"], &refused["limit"]), (&json!(who), &limit), "{refused}");
    }
}

/// What a server says that belongs to no request.
const OF_THE_PROCESS: [&str; 3] =
    ["serving", "stopped", "the memory store is ephemeral: everything is gone when this process ends"];

async fn every_line_of_a_request_carries_its_trace_id(world: World) {
    let server = world.with(&[("JAM_LOG", "jam=debug"), ("JAM_MAX_PREIMAGE_BYTES", "10")]).await;
    let hash = server.upload(b"blob").await;
    let id = server.submit("s", "1").await["id"].as_str().unwrap().to_owned();
    let mut traces = BTreeSet::new();
    for (method, path) in [
        ("GET", format!("/jam/preimages/{hash}")),
        ("GET", format!("/jam/packages/{id}")),
        ("POST", "/jam/process".to_owned()),
        ("GET", format!("/jam/packages/{id}/report")),
        ("GET", "/jam/packages?status=wrong".to_owned()),
        ("GET", "/nowhere".to_owned()),
        ("DELETE", "/jam/packages".to_owned()),
        ("DELETE", format!("/jam/preimages/{hash}")),
        ("PUT", format!("/jam/preimages/{}", PreimageHash::of(b"y"))),
        ("POST", "/jam/packages".to_owned()),
    ] {
        let answered = answer(server.request(method, &path).body("x")).await;
        traces.insert(answered.header("x-trace-id").to_owned());
    }
    let log =
        until("the last lines", async || Some(server.log()).filter(|log| log.matches("trace_id").count() > 8)).await;
    let mut logged = BTreeSet::new();
    for line in lines(&log).into_iter().filter(|line| !OF_THE_PROCESS.contains(&line["message"].as_str().unwrap())) {
        let trace = line["trace_id"].as_str().unwrap_or_else(|| panic!("whose line is this? {line}"));
        assert!(trace.len() == 32 && trace.bytes().all(|b| b.is_ascii_hexdigit()), "{line}");
        logged.insert(trace.to_owned());
    }
    assert!(logged.intersection(&traces).count() >= 7, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_is_logged_with_its_cutoff_its_counts_and_its_time() {
    let world = World::postgres().await;
    let mut command = jam_api(&["cleanup"]);
    command.env("JAM_STORE", "postgres").env("JAM_PG_DSN", world.dsn().unwrap());
    let output = command.output().await.unwrap();
    assert!(output.status.success());
    let log = lines(&String::from_utf8(output.stderr).unwrap());
    let [line] = &log[..] else { panic!("{log:?}") };
    let named = [
        "store",
        "cutoff",
        "archived_packages",
        "archived_reports",
        "deleted_packages",
        "deleted_reports",
        "deleted_preimages",
        "duration_ms",
    ];
    let missing: Vec<_> = named.iter().filter(|name| line.get(**name).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?} in {line}");
    assert!(line["duration_ms"].is_u64() && line["deleted_packages"] == 0, "{line}");
}
