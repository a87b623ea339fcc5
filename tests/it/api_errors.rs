//! docs/ERRORS.md: every status and code with an example, and every example is what a real server answers.

use jam_domain::Code;
use reqwest::RequestBuilder;
use serde_json::Value;

use crate::api_raw::{INSIDE, sabotage};
use crate::api_support::{Server, TOKEN, World, answer, file, package, token_file, until};
use crate::crd_generated::repository;
use crate::support::postgres;

/// One section of the page.
struct Section {
    status: u16,
    code: String,
    text: String,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
    answer: String,
}

/// What stands between these fences.
fn fenced<'a>(text: &'a str, language: &str) -> Option<&'a str> {
    Some(text.split_once(&format!("```{language}\n"))?.1.split_once("\n```")?.0)
}

fn sections() -> Vec<Section> {
    let page = std::fs::read_to_string(repository("docs/ERRORS.md")).unwrap();
    let parts = page.split("\n## ").skip(1).filter(|part| part.starts_with(|c: char| c.is_ascii_digit()));
    let section = |part: &str| {
        let (heading, text) = part.split_once('\n').unwrap();
        let (status, code) = heading.split_once(' ').unwrap();
        let request = fenced(text, "http").unwrap_or_else(|| panic!("{heading}: no request"));
        let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
        let mut lines = head.lines();
        let (method, path) = lines.next().unwrap().split_once(' ').unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned()));
        Section {
            status: status.parse().unwrap(),
            code: code.trim_matches('`').to_owned(),
            text: text.to_owned(),
            method: method.to_owned(),
            path: path.to_owned(),
            headers: headers.collect(),
            body: body.to_owned(),
            answer: fenced(text, "json").unwrap_or_else(|| panic!("{heading}: no answer")).to_owned(),
        }
    };
    parts.map(section).collect()
}

impl Section {
    fn request(&self, server: &Server, token: Option<&str>) -> RequestBuilder {
        let request = server.bare(&self.method, &self.path).body(self.body.clone());
        let request = self.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

#[test]
fn every_status_and_code_has_a_section_with_cause_example_and_what_to_do_next() {
    let sections = sections();
    let listed: Vec<(u16, &str)> = sections.iter().map(|section| (section.status, section.code.as_str())).collect();
    let mut codes: Vec<(u16, &str)> = Code::ALL.iter().map(|code| (code.status(), code.as_str())).collect();
    codes.sort_unstable();
    assert_eq!(listed, codes);
    for section in sections {
        for part in ["**Cause.** ", "**Next.** "] {
            assert!(section.text.contains(part), "{}: {part}", section.code);
        }
    }
}

#[test]
fn every_code_of_the_admin_plane_is_listed() {
    let page = std::fs::read_to_string(repository("docs/ERRORS.md")).unwrap();
    let listed: Vec<&str> = page.lines().filter(|line| line.contains("| `jam_admin_")).collect();
    // Administrators neither submit nor upload, nor follow events.
    let elsewhere = [Code::PendingLimit, Code::UnsupportedMediaType, Code::EventsGone];
    let mut codes: Vec<Code> = Code::ALL.into_iter().filter(|code| !elsewhere.contains(code)).collect();
    codes.sort_unstable_by_key(|code| (code.status(), code.as_str()));
    assert_eq!(listed.len(), codes.len());
    for (line, code) in listed.iter().zip(codes) {
        let begin = format!("| {} | `{}` | `{}`", code.status(), code.admin_str(), code.as_str());
        assert!(line.starts_with(&begin), "{line}: {begin}");
    }
}

/// A server where each refusal of a client can be had.
async fn strict() -> Server {
    let services: &[&str] = &["demo"];
    let tokens = [("reader", Some(&["read"][..]), None), ("bound", None, Some(services))];
    let (_dir, path) = file("tokens.json", &token_file(&tokens));
    let server = Server::with(&[
        ("JAM_TOKENS_FILE", path.to_str().unwrap()),
        ("JAM_MAX_PENDING_PACKAGES", "1"),
        ("JAM_MAX_PREIMAGE_BYTES", "3"),
        ("JAM_ALLOWED_MEDIA_TYPES", "text/*"),
    ])
    .await;
    let first = server.request("POST", "/jam/packages").header("idempotency-key", "order-7");
    answer(first.body(package("demo", "").to_string())).await.expect(201);
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_what_a_real_server_answers() {
    let strict = strict().await;
    let slow = Server::with(&[("JAM_RATE_LIMIT_PER_MINUTE", "1")]).await;
    slow.get("/jam/status").await.expect(200);
    let broken = World::postgres().await;
    sabotage(broken.dsn().unwrap()).await;
    let broken = broken.serve().await;
    let database = postgres::Server::private();
    let dsn = database.migrated_database().await;
    let away = Server::with(&[("JAM_STORE", "postgres"), ("JAM_PG_DSN", &dsn)]).await;
    database.stop();
    let mut wrong = Vec::new();
    for section in sections() {
        let (server, token) = match section.code.as_str() {
            "jam_auth_missing" => (&strict, None),
            "jam_auth_forbidden" => (&strict, Some("reader")),
            "jam_authz_service_denied" => (&strict, Some("bound")),
            "jam_rate_limit" => (&slow, Some(TOKEN)),
            "jam_internal" => (&broken, Some(TOKEN)),
            "jam_store_unavailable" => (&away, Some(TOKEN)),
            _ => (&strict, Some(TOKEN)),
        };
        let answered = answer(section.request(server, token)).await;
        let said = answered.text();
        assert_eq!(answered.status, section.status, "{}: {said}", section.code);
        let mut body = answered.refused(section.status, &section.code);
        if section.code == "jam_rate_limit" {
            // The whole minute of the example, less what has passed of it.
            let left = body["retry_after"].as_u64().filter(|left| (1..=60).contains(left)).unwrap();
            body["error"] = body["error"].as_str().unwrap().replace(&format!("in {left} s"), "in 60 s").into();
            body["retry_after"] = 60.into();
        }
        if serde_json::from_str::<Value>(&section.answer).ok() != Some(body) {
            wrong.push(format!("{}: {said}", section.code));
        }
    }
    assert!(wrong.is_empty(), "docs/ERRORS.md says otherwise:\n{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_500_of_the_real_server_reveals_nothing_from_inside_and_is_logged_whole() {
    let world = World::postgres().await;
    sabotage(world.dsn().unwrap()).await;
    let server = world.serve().await;
    for (method, path, body) in [
        ("GET", "/jam/packages", String::new()),
        ("GET", "/jam/status", String::new()),
        ("POST", "/jam/packages", package("s", "").to_string()),
        ("POST", "/jam/process", String::new()),
    ] {
        let failed = answer(server.request(method, path).body(body)).await;
        assert_eq!(failed.text(), r#"{"error":"the server failed; the fault is logged","code":"jam_internal"}"#);
        let trace = failed.header("x-trace-id").to_owned();
        assert!(!format!("{:?}", failed.headers).contains(INSIDE), "{path}");
        let logged =
            async || server.log().lines().any(|line| line.contains(&trace) && line.contains(INSIDE)).then_some(());
        until("the log line with what went wrong", logged).await;
    }
}
