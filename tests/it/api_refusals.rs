//! Every status and code that the document promises for a call is brought about, and no call answers another.

use std::collections::BTreeSet;

use jam_domain::Code;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::api_document::{document, operations};
use crate::api_support::{Answer, Server, World, answer, file, package, token_file};
use crate::support::postgres;

pub const NOWHERE: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
/// May do everything.
pub const ALL: &str = "a-token-for-everything";
/// May do everything, for the service `mine`.
pub const MINE: &str = "a-token-of-one-service";

/// A call, its status, its code; "" where the answer has none.
type Row = (String, u16, String);

/// What is promised, and what was seen of it.
pub struct Book {
    promised: BTreeSet<Row>,
    seen: BTreeSet<Row>,
    operations: Vec<(String, String, Value)>,
}

impl Book {
    async fn open() -> Self {
        let operations = operations(&document().await);
        let rows = operations.iter().flat_map(|(method, path, operation)| {
            let answers = operation["responses"].as_object().unwrap().iter();
            answers.flat_map(move |(status, answer)| {
                let codes = answer.pointer("/content/application~1json/schema/allOf/1/properties/code/enum");
                let codes = codes.and_then(Value::as_array).cloned().unwrap_or_else(|| vec![json!("")]);
                let row = move |code: Value| {
                    (format!("{method} {path}"), status.parse().unwrap(), code.as_str().unwrap().to_owned())
                };
                codes.into_iter().map(row)
            })
        });
        Self { promised: rows.collect(), seen: BTreeSet::new(), operations }
    }

    /// Sends a request of this call and notes the answer, which must be one that was promised.
    pub async fn try_one(&mut self, call: &str, request: RequestBuilder) -> Answer {
        let answered = answer(request).await;
        let code = if answered.status < 400 || answered.bytes.is_empty() { Value::Null } else { answered.json() };
        let code = code["code"].as_str().unwrap_or_default().to_owned();
        let with_code = (call.to_owned(), answered.status, code);
        let without = (call.to_owned(), answered.status, String::new());
        let row = if self.promised.contains(&with_code) { with_code } else { without };
        assert!(self.promised.contains(&row), "{call} answers {} {}", answered.status, answered.text());
        self.seen.insert(row);
        answered
    }

    /// Tries every call that promises this status and code with an otherwise good request, changed by `change`.
    async fn try_all(&mut self, wanted: (u16, &str), world: &Subject<'_>, change: impl Fn(&str) -> String) {
        for (method, path, _) in self.operations.clone() {
            let call = format!("{method} {path}");
            let code = if method == "HEAD" { String::new() } else { word_of(&path, wanted.1) };
            if self.promised.contains(&(call.clone(), wanted.0, code.clone())) {
                let request = world.request(&method, &change(&world.concrete(&path)));
                let answered = self.try_one(&call, request).await;
                assert_eq!(answered.status, wanted.0, "{call}: {}", answered.text());
                assert!(method == "HEAD" || answered.json()["code"] == code, "{call}: {}", answered.text());
            }
        }
    }
}

/// The word of a code on this path: administrators have words of their own, but where the path is not mounted at all.
fn word_of(path: &str, code: &str) -> String {
    let code = *Code::ALL.iter().find(|known| known.as_str() == code).unwrap();
    let admin = path.starts_with("/jam/admin/") && code != Code::NotFound;
    if admin { code.admin_str() } else { code.as_str() }.to_owned()
}

/// A server and the token to call it with.
pub struct Subject<'a> {
    server: &'a Server,
    token: Option<&'a str>,
    hash: String,
    package: String,
    report: String,
}

impl<'a> Subject<'a> {
    pub fn new(server: &'a Server, token: Option<&'a str>) -> Self {
        let hash = jam_domain::PreimageHash::of(b"blob").to_string();
        Self { server, token, hash, package: NOWHERE.into(), report: NOWHERE.into() }
    }

    pub fn concrete(&self, path: &str) -> String {
        let id = if path.starts_with("/jam/reports") { &self.report } else { &self.package };
        let path = path.replace("{hash}", &self.hash).replace("{key}", "rate_limit_per_minute");
        path.replace("{id}", id).replace("{package_id}", &self.package)
    }

    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let body = match (method, path) {
            ("PUT", path) if path.starts_with("/jam/preimages") => "blob".to_owned(),
            ("POST", path) if path.starts_with("/jam/packages") => package("other", "").to_string(),
            ("POST", path) if path.ends_with("/attestations") => word("w").to_string(),
            (_, path) => crate::api_refusals_admin::body_of(method, path),
        };
        self.sent(method, path, body)
    }

    pub fn sent(&self, method: &str, path: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let request = self.server.bare(method, path).body(body);
        match self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

fn word(worker: &str) -> Value {
    json!({"worker_id": worker, "signature": "YQ=="})
}

const SCOPES: [&str; 4] = ["read", "submit", "process", "admin"];

pub async fn with(world: &World, settings: &[(&str, &str)]) -> Server {
    let entries = [
        (ALL, Some(&SCOPES[..]), None),
        (MINE, Some(&SCOPES[..]), Some(&["mine"][..])),
        ("reads", Some(&["read"]), None),
        ("administers", Some(&["admin"]), None),
    ];
    let (_dir, path) = file("tokens.json", &token_file(&entries));
    let (_admins, admins) = file("admins.json", &token_file(&[(ALL, None, None), (MINE, None, Some(&["mine"]))]));
    let always = [
        ("JAM_ALLOWED_TOKENS", ""),
        ("JAM_TOKENS_FILE", path.to_str().unwrap()),
        ("JAM_ADMIN_TOKENS_FILE", admins.to_str().unwrap()),
        ("JAM_HEALTH_PUBLIC", "false"),
    ];
    world.with(&always.iter().chain(settings).copied().collect::<Vec<_>>()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_promised_status_and_code_is_answered_and_no_other() {
    let mut book = Book::open().await;
    let memory = World::memory();
    let server = with(&memory, &[]).await;
    admission(&mut book, &server).await;
    success(&mut book, &Subject::new(&server, Some(ALL))).await;
    services(&mut book, &server).await;
    let limited = with(
        &memory,
        &[("JAM_MAX_PENDING_PACKAGES", "1"), ("JAM_MAX_PREIMAGE_BYTES", "3"), ("JAM_ALLOWED_MEDIA_TYPES", "text/*")],
    )
    .await;
    limits(&mut book, &Subject::new(&limited, Some(ALL))).await;
    let disabled = with(&memory, &[("JAM_ENABLED", "false")]).await;
    book.try_all((404, "jam_not_found"), &Subject::new(&disabled, Some(ALL)), str::to_owned).await;
    let slow = with(&memory, &[("JAM_RATE_LIMIT_PER_MINUTE", "1")]).await;
    answer(slow.bare("GET", "/jam/status").bearer_auth(ALL)).await.expect(200);
    book.try_all((429, "jam_rate_limit"), &Subject::new(&slow, Some(ALL)), str::to_owned).await;
    crate::api_refusals_admin::administer(&mut book).await;
    faults(&mut book).await;
    let unseen: Vec<_> = book.promised.difference(&book.seen).collect();
    assert!(unseen.is_empty(), "the document promises what nobody has seen: {unseen:#?}");
}

async fn admission(book: &mut Book, server: &Server) {
    book.try_all((401, "jam_auth_missing"), &Subject::new(server, None), str::to_owned).await;
    let twice = |path: &str| format!("{path}?x=1&x=1");
    book.try_all((400, "jam_validation_error"), &Subject::new(server, Some(ALL)), twice).await;
    for (method, path, operation) in book.operations.clone() {
        let scope = operation["security"].as_array().unwrap().iter().find_map(|one| one["token"][0].as_str());
        if operation["security"] != json!([]) {
            let token = if scope == Some("admin") { "reads" } else { "administers" };
            let subject = Subject::new(server, Some(token));
            let request = subject.request(&method, &subject.concrete(&path));
            assert_eq!(book.try_one(&format!("{method} {path}"), request).await.status, 403, "{method} {path}");
        }
    }
}

/// Everything that goes well, and the refusals of a good request that came twice.
async fn success(book: &mut Book, subject: &Subject<'_>) {
    let blob = format!("/jam/preimages/{}", subject.hash);
    book.try_one("DELETE /jam/preimages/{hash}", subject.request("DELETE", &blob)).await;
    for status in [201, 200] {
        assert_eq!(book.try_one("PUT /jam/preimages/{hash}", subject.request("PUT", &blob)).await.status, status);
    }
    for (name, value, status) in [("range", "bytes=1-2", 206), ("range", "bytes=9-", 416), ("if-none-match", "*", 304)]
    {
        let request = subject.request("GET", &blob).header(name, value);
        assert_eq!(book.try_one("GET /jam/preimages/{hash}", request).await.status, status);
    }
    book.try_one("HEAD /jam/preimages/{hash}", subject.request("HEAD", &blob).header("if-none-match", "*")).await;
    let mut sent = package("other", "");
    (sent["id"], sent["preimage_hashes"]) = (json!(NOWHERE), json!([subject.hash]));
    for status in [201, 200] {
        let request = subject.sent("POST", "/jam/packages", sent.to_string());
        assert_eq!(book.try_one("POST /jam/packages", request).await.status, status);
    }
    sent["nonce"] = json!("another");
    book.try_one("POST /jam/packages", subject.sent("POST", "/jam/packages", sent.to_string())).await;
    book.try_one("DELETE /jam/preimages/{hash}", subject.request("DELETE", &blob)).await;
    for status in [200, 204] {
        assert_eq!(book.try_one("POST /jam/process", subject.request("POST", "/jam/process")).await.status, status);
    }
    let report = answer(subject.request("GET", &format!("/jam/packages/{NOWHERE}/report"))).await.json();
    let path = format!("/jam/reports/{}/attestations", report["report"]["id"].as_str().unwrap());
    for status in [201, 409] {
        let request = subject.request("POST", &path);
        assert_eq!(book.try_one("POST /jam/reports/{id}/attestations", request).await.status, status);
    }
    for (method, path, _) in book.operations.clone() {
        // No client makes a dispute; administer() does.
        if (method == "GET" || method == "HEAD") && !path.contains("/disputes/") {
            let path_here = subject.concrete(&path);
            // A receipt's hash is its package's id.
            let path_here = if path == "/jam/receipts/{hash}" { format!("/jam/receipts/{NOWHERE}") } else { path_here };
            let answered = book.try_one(&format!("{method} {path}"), subject.request(&method, &path_here)).await;
            assert_eq!(answered.status, 200, "{path}: {}", answered.text());
        }
    }
    let gone = subject.request("GET", "/jam/events?after=0000000000000001-000001");
    assert_eq!(book.try_one("GET /jam/events", gone).await.status, 410);
    let fresh = subject.sent("PUT", &format!("/jam/preimages/{}", jam_domain::PreimageHash::of(b"fresh")), "fresh");
    answer(fresh).await.expect(201);
    let unused = format!("/jam/preimages/{}", jam_domain::PreimageHash::of(b"fresh"));
    assert_eq!(book.try_one("DELETE /jam/preimages/{hash}", subject.request("DELETE", &unused)).await.status, 204);
}

/// The refusals of a token that may touch another service only.
async fn services(book: &mut Book, server: &Server) {
    let subject = Subject::new(server, Some(MINE));
    for (method, path, _) in book.operations.clone() {
        let call = format!("{method} {path}");
        let code = word_of(&path, "jam_authz_service_denied");
        if book.promised.contains(&(call.clone(), 403, code.clone()))
            && !path.contains("/restore")
            && !path.contains("/disputes/")
        {
            let path = subject.concrete(&path);
            let named =
                if path.contains(NOWHERE) || method == "POST" { path } else { format!("{path}?service_id=other") };
            let answered = book.try_one(&call, subject.request(&method, &named)).await;
            assert_eq!(answered.json()["code"], code, "{call}");
        }
    }
}

/// The refusals of what is too much, and of bodies that can't be read.
async fn limits(book: &mut Book, subject: &Subject<'_>) {
    let blob = format!("/jam/preimages/{}", subject.hash);
    let attest = format!("/jam/reports/{NOWHERE}/attestations");
    for (call, method, path) in [
        ("POST /jam/packages", "POST", "/jam/packages"),
        ("POST /jam/reports/{id}/attestations", "POST", &attest),
        ("PUT /jam/preimages/{hash}", "PUT", &blob),
    ] {
        let large = subject.sent(method, path, vec![b' '; (1 << 20) + 1]);
        assert_eq!(book.try_one(call, large.header("content-type", "text/plain")).await.status, 413);
        if method == "POST" {
            assert_eq!(book.try_one(call, subject.sent(method, path, "{")).await.status, 400);
        }
    }
    for (method, path, _) in book.operations.clone() {
        let (call, path) = (format!("{method} {path}"), subject.concrete(&path));
        if book.promised.contains(&(call.clone(), 413, "jam_admin_body_too_large".into())) {
            let large = subject.sent(&method, &path, vec![b' '; (1 << 20) + 1]);
            assert_eq!(book.try_one(&call, large).await.status, 413, "{call}");
            let broken = book.try_one(&call, subject.sent(&method, &path, "{")).await;
            assert_eq!(broken.json()["code"], "jam_admin_bad_request", "{call}");
        }
    }
    let request = subject.sent("PUT", &blob, "b").header("content-type", "image/png");
    assert_eq!(book.try_one("PUT /jam/preimages/{hash}", request).await.status, 415);
    answer(subject.request("POST", "/jam/packages")).await.expect(201);
    let request = subject.request("POST", "/jam/packages");
    assert_eq!(book.try_one("POST /jam/packages", request).await.json()["code"], "jam_pending_limit");
    let broken = crate::api_raw::broken_chunk(&subject.server.address, "PUT", &blob, ALL).await;
    assert_eq!((broken.status, broken.code().as_str()), (400, "jam_bad_request"));
    book.seen.insert(("PUT /jam/preimages/{hash}".into(), 400, "jam_bad_request".into()));
}

/// A database that fails every statement, then one that is away.
async fn faults(book: &mut Book) {
    let database = postgres::Server::private();
    let dsn = database.migrated_database().await;
    crate::api_raw::sabotage(&dsn).await;
    // A limit that is far away: there are buckets.
    let settings = [("JAM_STORE", "postgres"), ("JAM_PG_DSN", dsn.as_str()), ("JAM_RATE_LIMIT_PER_MINUTE", "100000")];
    let server = with(&World::memory(), &settings).await;
    let subject = Subject::new(&server, Some(ALL));
    book.try_all((500, "jam_internal"), &subject, str::to_owned).await;
    database.stop();
    book.try_all((503, "jam_store_unavailable"), &subject, str::to_owned).await;
    for path in ["/readyz", "/jam/healthz"] {
        let answered = book.try_one(&format!("GET {path}"), subject.request("GET", path)).await;
        assert_eq!(answered.json()["code"], "jam_store_unavailable", "{path}");
        assert_eq!(answered.header("retry-after"), "2", "{path}");
    }
}
