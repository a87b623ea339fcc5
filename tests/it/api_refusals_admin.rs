//! What the document promises of the admin plane alone, brought about on a database whose state no client could make.

use jam_domain::token::TokenHash;
use jam_store::{PostgresConfig, PostgresStore, Store};
use serde_json::json;
use sqlx::Executor;

use crate::api_refusals::{ALL, Book, MINE, NOWHERE, Subject, with};
use crate::api_support::{Server, World, answer};
use crate::store_fixture::{engine, package};
use crate::store_retention::rule_at;
use crate::support::postgres;

/// A package that is archived.
async fn archived(dsn: &str) -> String {
    let store = PostgresStore::connect(PostgresConfig::new(dsn)).await.unwrap();
    let new = package("other");
    let now = new.package.created_at;
    let id = store.submit(new, &engine()).await.unwrap().package.id;
    store.process(1, &engine()).await.unwrap();
    store.cleanup(&rule_at(30, 7, &[], now.plus_seconds(31 * 86_400)), false).await.unwrap();
    store.close().await;
    id.to_string()
}

/// Everything that only administrators get to see.
pub async fn administer(book: &mut Book) {
    let world = World::postgres().await;
    let dsn = world.dsn().unwrap();
    let server = with(&world, &[]).await;
    restore(book, &server, dsn).await;
    cleanup(book, &server, dsn).await;
    let all = Subject::new(&server, Some(ALL));
    controls(book, &all, dsn).await;
    let threshold = with(&world, &[("JAM_ATTESTATION_THRESHOLD", "2")]).await;
    disputes(book, &threshold).await;
    let limited = with(&world, &[("JAM_RATE_LIMIT_PER_MINUTE", "1000")]).await;
    buckets(book, &Subject::new(&limited, Some(ALL))).await;
}

/// A body that is good for this call of administrators.
pub fn body_of(method: &str, path: &str) -> String {
    let hash = TokenHash::of("a-delegate");
    match (method, path.rsplit('/').next().unwrap_or_default().split('?').next().unwrap_or_default()) {
        ("POST", "toggles") => json!({"key": "rate_limit_per_minute", "value": 0}).to_string(),
        ("PUT", "quotas") => json!({"max_pending_packages": 5}).to_string(),
        ("POST" | "DELETE", "delegates") => json!({"sha256": hash}).to_string(),
        ("POST", "accept") => json!({"report_id": NOWHERE}).to_string(),
        ("POST", "rate-limits") => json!({"key": format!("token:{}", TokenHash::of(ALL).id())}).to_string(),
        _ => String::new(),
    }
}

/// Tries a call again and again; the statuses are these.
async fn each(book: &mut Book, subject: &Subject<'_>, call: &str, statuses: &[u16]) {
    let (method, path) = call.split_once(' ').unwrap();
    for status in statuses {
        let answered = book.try_one(call, subject.request(method, &subject.concrete(path))).await;
        assert_eq!(answered.status, *status, "{call}: {}", answered.text());
    }
}

async fn controls(book: &mut Book, subject: &Subject<'_>, dsn: &str) {
    each(book, subject, "POST /jam/admin/toggles", &[200]).await;
    each(book, subject, "DELETE /jam/admin/toggles/{key}", &[204, 404]).await;
    each(book, subject, "PUT /jam/admin/services/{id}/quotas", &[200]).await;
    each(book, subject, "DELETE /jam/admin/services/{id}/quotas", &[204, 404]).await;
    each(book, subject, "POST /jam/admin/services/{id}/delegates", &[201, 200]).await;
    each(book, subject, "DELETE /jam/admin/services/{id}/delegates", &[204, 404]).await;
    let many =
        "insert into controls select 'delegate', 'full/' || lpad(to_hex(n), 64, '0'), '{\"name\": null}', now(), 'sql'
        from generate_series(1, 1000) n; update controls_version set version = version + 1";
    postgres::execute(dsn, many).await;
    each(book, subject, "GET /jam/admin/services/{id}/delegates", &[200]).await;
    each(book, subject, "POST /jam/admin/services/{id}/delegates", &[409]).await;
    postgres::execute(dsn, "delete from controls; update controls_version set version = version + 1").await;
}

async fn disputes(book: &mut Book, server: &Server) {
    for (call, rest) in [("accept", "/accept"), ("reject", "/reject")] {
        let (package, report) = disputed(server).await;
        let call = format!("POST /jam/admin/disputes/{{package_id}}/{call}");
        let (path, accept) = (format!("/jam/admin/disputes/{package}"), json!({"report_id": report}).to_string());
        let read = "GET /jam/admin/disputes/{package_id}";
        for (token, status, again) in [(MINE, 403, 403), (ALL, 200, 409)] {
            let subject = Subject::new(server, Some(token));
            assert_eq!(book.try_one(read, subject.request("GET", &path)).await.status, status);
            for status in [status, again] {
                let request = subject.sent("POST", &format!("{path}{rest}"), accept.clone());
                assert_eq!(book.try_one(&call, request).await.status, status, "{call}");
            }
        }
    }
    let all = Subject::new(server, Some(ALL));
    for call in ["GET /jam/admin/disputes/{package_id}", "POST /jam/admin/disputes/{package_id}/accept"] {
        each(book, &all, call, &[404]).await;
    }
    each(book, &all, "POST /jam/admin/disputes/{package_id}/reject", &[404]).await;
}

/// A package of which two workers say different things, and its report.
async fn disputed(server: &Server) -> (String, String) {
    let call = async |method: &str, path: &str, body: String| {
        answer(server.bare(method, path).bearer_auth(ALL).body(body)).await.json()
    };
    let package = call("POST", "/jam/packages", crate::api_support::package("other", "").to_string()).await;
    let id = package["id"].as_str().unwrap().to_owned();
    call("POST", "/jam/process?limit=100", String::new()).await;
    let report = call("GET", &format!("/jam/packages/{id}/report"), String::new()).await;
    let report = report["report"]["id"].as_str().unwrap().to_owned();
    let word = json!({"worker_id": "w", "signature": "YQ==", "refine_output_hash": "ab".repeat(32)});
    call("POST", &format!("/jam/reports/{report}/attestations"), word.to_string()).await;
    (id, report)
}

async fn buckets(book: &mut Book, subject: &Subject<'_>) {
    each(book, subject, "POST /jam/admin/rate-limits", &[204]).await;
    let call = "POST /jam/admin/rate-limits";
    let unknown = subject.sent("POST", "/jam/admin/rate-limits", r#"{"key": "token:unknown"}"#);
    assert_eq!(book.try_one(call, unknown).await.status, 404);
}

async fn restore(book: &mut Book, server: &Server, dsn: &str) {
    let call = "POST /jam/admin/packages/{id}/restore";
    let path = format!("/jam/admin/packages/{}/restore", archived(dsn).await);
    let (all, mine) = (Subject::new(server, Some(ALL)), Subject::new(server, Some(MINE)));
    assert_eq!(book.try_one(call, mine.request("POST", &path)).await.status, 403);
    let columns = "id, service_id, status, created_at, created_by, idempotency_key, fingerprint, receipt_seq, body";
    let taken = format!("insert into packages ({columns}) select {columns} from archived_packages");
    postgres::execute(dsn, &taken).await;
    assert_eq!(book.try_one(call, all.request("POST", &path)).await.status, 409);
    postgres::execute(dsn, "delete from packages").await;
    for status in [200, 404] {
        assert_eq!(book.try_one(call, all.request("POST", &path)).await.status, status);
    }
}

async fn cleanup(book: &mut Book, server: &Server, dsn: &str) {
    let (call, path) = ("POST /jam/admin/cleanup/run", "/jam/admin/cleanup/run");
    let all = Subject::new(server, Some(ALL));
    let mut other = postgres::connect(dsn).await;
    other.execute("select pg_advisory_lock(5425451, 2)").await.unwrap();
    assert_eq!(book.try_one(call, all.request("POST", path)).await.status, 409);
    other.execute("select pg_advisory_unlock(5425451, 2)").await.unwrap();
    assert_eq!(book.try_one(call, all.request("POST", path)).await.status, 200);
}
