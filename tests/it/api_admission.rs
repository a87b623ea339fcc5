//! Who may come in: the switch, tokens, scopes, services, the order of the checks and the rate limit.

use jam_domain::Timestamp;
use jam_domain::token::TokenHash;
use serde_json::{Value, json};

use crate::api_support::{Server, TOKEN, World, answer, file, laws, package, token_file, until};

laws!(
    a_bound_token_touches_and_sees_its_own_services_only,
    switched_off_every_jam_path_is_as_if_never_mounted,
    a_token_is_required_known_and_sent_as_bearer,
    global_tokens_count_where_there_is_no_allowlist,
    a_token_whose_time_is_over_is_as_good_as_none,
    a_scope_lets_in_to_its_own_calls_only,
    without_auth_everyone_may_all_but_administer,
    a_changed_token_file_counts_within_two_seconds_and_a_broken_one_not_at_all,
    the_rate_limit_is_per_token_and_says_when_to_come_back,
    without_tokens_the_rate_limit_is_per_client_behind_trusted_proxies_only,
    checks_come_in_the_order_of_the_contract,
    only_an_origin_of_the_allowlist_is_ever_echoed,
);

async fn switched_off_every_jam_path_is_as_if_never_mounted(world: World) {
    let server = world.with(&[("JAM_ENABLED", "false")]).await;
    let nowhere = server.get("/no/such/path").await.refused(404, "jam_not_found");
    for (method, path) in [
        ("GET", "/jam"),
        ("GET", "/jam/status"),
        ("GET", "/jam/healthz"),
        ("DELETE", "/jam/status"),
        ("OPTIONS", "/jam/packages"),
        ("POST", "/jam/packages"),
        ("PUT", "/jam/preimages/x"),
        ("GET", "/jam/receipts/x"),
        ("GET", "/jam/admin/toggles"),
    ] {
        for request in [server.request(method, path), server.bare(method, path)] {
            let refused = answer(request).await;
            assert_eq!(refused.header("allow"), "");
            assert_eq!(refused.refused(404, "jam_not_found"), nowhere, "{method} {path}");
        }
    }
    for path in ["/healthz", "/readyz", "/system/version"] {
        answer(server.bare("GET", path)).await.expect(200);
    }
    assert_eq!(server.get("/system/status").await.expect(200).json()["jam"]["enabled"], false);
}

async fn a_token_is_required_known_and_sent_as_bearer(world: World) {
    let server = world.with(&[("API_TOKENS", "a-global-token;a-token-of-the-api-tests")]).await;
    let status = async |header: Option<&str>| {
        let request = server.bare("GET", "/jam/status");
        answer(match header {
            Some(header) => request.header("authorization", header),
            None => request,
        })
        .await
    };
    let missing = status(None).await;
    assert_eq!(missing.header("www-authenticate"), "Bearer");
    missing.refused(401, "jam_auth_missing");
    for wrong in
        ["", "Bearer", "Bearer ", "Basic YTpi", TOKEN, "Bearer unknown-token", "Bearer a-token-of-the-api-test"]
    {
        status(Some(wrong)).await.refused(401, "jam_auth_missing");
    }
    // Of two headers, nobody can tell which one a proxy in front has looked at.
    let good = format!("Bearer {TOKEN}");
    let twice = server.bare("GET", "/jam/status").header("authorization", &good).header("authorization", &good);
    answer(twice).await.refused(401, "jam_auth_missing");
    status(Some(&format!("bearer {TOKEN}"))).await.expect(200);
    // A global token that the allowlist leaves out is known, and not allowed here.
    status(Some("Bearer a-global-token")).await.refused(403, "jam_auth_forbidden");
    assert_eq!(server.metric("jam_auth_failures_total{reason=\"missing\"").await, Some(7.0));
    assert_eq!(server.metric("jam_auth_failures_total{reason=\"unknown\"").await, Some(3.0));
}

async fn global_tokens_count_where_there_is_no_allowlist(world: World) {
    let server = world.with(&[("JAM_ALLOWED_TOKENS", ""), ("API_TOKENS", "one-global, two-global")]).await;
    for token in ["one-global", "two-global"] {
        answer(server.bare("GET", "/jam/status").bearer_auth(token)).await.expect(200);
    }
    server.get("/jam/status").await.refused(401, "jam_auth_missing");
}

async fn a_token_whose_time_is_over_is_as_good_as_none(world: World) {
    let entry = |token: &str, key: &str, seconds: i64| {
        let hash = TokenHash::of(token);
        json!({"id": hash.id(), "sha256": hash, key: Timestamp::now().plus_seconds(seconds)})
    };
    let entries =
        json!([entry("ended", "not_after", -1), entry("ends", "not_after", 60), entry("begins", "not_before", 60)]);
    let (_dir, path) = file("tokens.json", &entries.to_string());
    let server = world.with(&[("JAM_TOKENS_FILE", path.to_str().unwrap())]).await;
    let status = async |token: &str| answer(server.bare("GET", "/jam/status").bearer_auth(token)).await;
    for over in ["ended", "begins"] {
        let refused = status(over).await;
        assert_eq!(refused.header("www-authenticate"), "Bearer");
        refused.refused(401, "jam_auth_missing");
    }
    status("ends").await.expect(200);
    assert_eq!(server.metric("jam_auth_failures_total{reason=\"expired\"").await, Some(2.0));
}

async fn a_scope_lets_in_to_its_own_calls_only(world: World) {
    let scopes: [(&str, &[&str]); 4] = [
        ("reader", &["read"]),
        ("submitter", &["submit"]),
        ("processor", &["process"]),
        ("keeper", &["admin", "read"]),
    ];
    let entries: Vec<_> = scopes.iter().map(|(token, scopes)| (*token, Some(*scopes), None)).collect();
    let (_dir, path) = file("tokens.json", &token_file(&entries));
    let server = world.with(&[("JAM_TOKENS_FILE", path.to_str().unwrap())]).await;
    let hash = server.upload(b"scoped").await;
    let blob = format!("/jam/preimages/{hash}");
    let calls = [
        ("GET", "/jam/status", "reader"),
        ("GET", "/system/status", "reader"),
        ("GET", "/jam/receipts", "reader"),
        ("GET", blob.as_str(), "reader"),
        ("PUT", blob.as_str(), "submitter"),
        ("POST", "/jam/packages", "submitter"),
        ("POST", "/jam/process", "processor"),
        ("DELETE", blob.as_str(), "keeper"),
    ];
    for (method, path, owner) in calls {
        let body = if method == "PUT" { "scoped".to_owned() } else { package("s", path).to_string() };
        for (token, _) in scopes {
            let answered = answer(server.bare(method, path).bearer_auth(token).body(body.clone())).await;
            if token == owner || (token == "keeper" && owner == "reader") {
                assert!(answered.status < 300, "{method} {path} {token}: {}", answered.text());
            } else {
                answered.refused(403, "jam_auth_forbidden");
            }
        }
    }
    answer(server.bare("GET", &blob).bearer_auth("reader")).await.refused(404, "jam_not_found");
}

fn path_of(package: &Value) -> String {
    format!("/jam/packages/{}", package["id"].as_str().unwrap())
}

async fn a_bound_token_touches_and_sees_its_own_services_only(world: World) {
    let (_dir, path) = file("tokens.json", &token_file(&[("bound-to-a", None, Some(&["a"]))]));
    let server = world.with(&[("JAM_TOKENS_FILE", path.to_str().unwrap())]).await;
    let bound = async |method: &str, path: &str, body: String| {
        answer(server.bare(method, path).bearer_auth("bound-to-a").body(body)).await
    };
    let read = async |path: &str| bound("GET", path, String::new()).await;
    let of_b = server.submit("b", "1").await;
    let of_a = bound("POST", "/jam/packages", package("a", "1").to_string()).await.expect(201).json();
    bound("POST", "/jam/packages", package("b", "2").to_string()).await.refused(403, "jam_authz_service_denied");
    let processed = bound("POST", "/jam/process?limit=10", String::new()).await.expect(200).json();
    assert_eq!((&processed["count"], &read(&path_of(&of_a)).await.json()["status"]), (&json!(1), &json!("applied")));
    bound("POST", "/jam/process", String::new()).await.expect(204);
    server.post("/jam/process?limit=10", &json!(null)).await.expect(200);
    for path in ["/jam/packages", "/jam/reports", "/jam/receipts"] {
        let items = read(path).await.expect(200).json()["items"].clone();
        let services: Vec<_> = items.as_array().unwrap().iter().map(|item| item["service_id"].clone()).collect();
        assert!(!services.is_empty() && services.iter().all(|service| service == "a"), "{path}: {services:?}");
        read(&format!("{path}?service_id=b")).await.refused(403, "jam_authz_service_denied");
    }
    let id = of_b["id"].as_str().unwrap();
    for path in [
        format!("/jam/packages/{id}"),
        format!("/jam/packages/{id}/report"),
        format!("/jam/packages/{id}/attestations"),
    ] {
        read(&path).await.refused(403, "jam_authz_service_denied");
    }
    read(&format!("/jam/receipts/{id}")).await.refused(404, "jam_not_found");
    read(&format!("/jam/packages/{}", of_a["id"].as_str().unwrap())).await.expect(200);
    let roots = read("/jam/status").await.expect(200).json()["accumulator_roots"].clone();
    assert_eq!(roots.as_array().unwrap().len(), 1);
    read("/jam/status?service_id=b").await.refused(403, "jam_authz_service_denied");
    let report = server.get(&format!("/jam/packages/{id}/report")).await.expect(200).json();
    let attest = format!("/jam/reports/{}/attestations", report["report"]["id"].as_str().unwrap());
    bound("POST", &attest, json!({"worker_id": "w", "signature": "YQ=="}).to_string())
        .await
        .refused(404, "jam_not_found");
}

async fn without_auth_everyone_may_all_but_administer(world: World) {
    let server = world.with(&[("JAM_AUTH_REQUIRED", "false"), ("JAM_ALLOWED_TOKENS", "")]).await;
    let post = server.bare("POST", "/jam/packages").body(package("s", "").to_string());
    assert_eq!(answer(post).await.expect(201).json()["created_by"], "anonymous");
    answer(server.bare("GET", "/jam/status").bearer_auth("whatever")).await.expect(200);
    let hash = "00".repeat(32);
    answer(server.bare("DELETE", &format!("/jam/preimages/{hash}"))).await.refused(403, "jam_auth_forbidden");
}

async fn a_changed_token_file_counts_within_two_seconds_and_a_broken_one_not_at_all(world: World) {
    let (dir, path) = file("tokens.yaml", &token_file(&[("first-token", None, None)]));
    let server = world.with(&[("JAM_TOKENS_FILE", path.to_str().unwrap()), ("JAM_ALLOWED_TOKENS", "")]).await;
    let status = async |token: &str| answer(server.bare("GET", "/jam/status").bearer_auth(token)).await.status;
    assert_eq!((status("first-token").await, status("second-token").await), (200, 401));
    // As Kubernetes does it: a new file is linked into the place of the old one.
    let replace = |text: &str| {
        let next = dir.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &path).unwrap();
    };
    replace(&token_file(&[("first-token", None, None), ("second-token", None, None)]));
    until("the second token", async || (status("second-token").await == 200).then_some(())).await;
    assert_eq!(status("first-token").await, 200);
    let ids = answer(server.bare("GET", "/readyz")).await.json()["key_ids"].clone();
    assert_eq!(ids.as_array().unwrap().len(), 2);
    replace("- {id: nonsense");
    until("the complaint", async || server.log().contains("the last good one stays in force").then_some(())).await;
    assert_eq!((status("first-token").await, status("second-token").await), (200, 200));
    replace(&token_file(&[("second-token", None, None)]));
    until("the end of the first token", async || (status("first-token").await == 401).then_some(())).await;
    assert_eq!(status("second-token").await, 200);
    // As an editor does it, and `>`: for a moment there is nothing in it.
    std::fs::write(&path, "").unwrap();
    until("the complaint", async || server.log().contains("it says nothing").then_some(())).await;
    assert_eq!(status("second-token").await, 200);
    std::fs::write(&path, "[]").unwrap();
    until("the end of the second token", async || (status("second-token").await == 401).then_some(())).await;
}

async fn the_rate_limit_is_per_token_and_says_when_to_come_back(world: World) {
    let settings =
        [("JAM_RATE_LIMIT_PER_MINUTE", "3"), ("JAM_ALLOWED_TOKENS", "a-token-of-the-api-tests,another-token")];
    let server = world.with(&settings).await;
    for remaining in ["2", "1", "0"] {
        let answered = server.get("/jam/status").await.expect(200);
        assert_eq!((answered.header("ratelimit-limit"), answered.header("ratelimit-remaining")), ("3", remaining));
    }
    let refused = server.get("/jam/status").await;
    let wait: u32 = refused.header("retry-after").parse().unwrap();
    assert!((1..=20).contains(&wait), "{wait}");
    assert!((1..=60).contains(&refused.header("ratelimit-reset").parse::<u32>().unwrap()));
    assert_eq!(refused.refused(429, "jam_rate_limit")["retry_after"], wait);
    assert_eq!(server.metric("jam_rate_limit_hits_total").await, Some(1.0));
    answer(server.bare("GET", "/jam/status").bearer_auth("another-token")).await.expect(200);
    // Health and version are never limited, and a path that does not exist costs nothing.
    for path in ["/healthz", "/readyz", "/system/version", "/jam/healthz"] {
        server.get(path).await.expect(200);
    }
}

async fn without_tokens_the_rate_limit_is_per_client_behind_trusted_proxies_only(world: World) {
    let base = [("JAM_AUTH_REQUIRED", "false"), ("JAM_ALLOWED_TOKENS", ""), ("JAM_RATE_LIMIT_PER_MINUTE", "1")];
    let from = async |server: &Server, client: &str| {
        answer(server.bare("GET", "/jam/status").header("x-forwarded-for", client)).await.status
    };
    let open = world.with(&base).await;
    assert_eq!([from(&open, "1.1.1.1").await, from(&open, "2.2.2.2").await], [200, 429]);
    let behind = world.with(&[&base[..], &[("JAM_TRUSTED_PROXIES", "127.0.0.0/8")]].concat()).await;
    assert_eq!([from(&behind, "1.1.1.1").await, from(&behind, "2.2.2.2").await], [200, 200]);
    assert_eq!(from(&behind, "9.9.9.9, 1.1.1.1").await, 429);
}

async fn checks_come_in_the_order_of_the_contract(world: World) {
    let (_dir, path) = file("tokens.json", &token_file(&[("reader", Some(&["read"]), None)]));
    let settings = [
        ("JAM_TOKENS_FILE", path.to_str().unwrap()),
        ("JAM_RATE_LIMIT_PER_MINUTE", "1"),
        ("JAM_MAX_PREIMAGE_BYTES", "1"),
    ];
    let server = world.with(&settings).await;
    let blob = "/jam/preimages/nothex";
    // Each request is wrong in every respect from its check onwards.
    answer(server.bare("POST", "/jam/nowhere").body("{")).await.refused(404, "jam_not_found");
    answer(server.bare("POST", blob).body("{")).await.refused(405, "jam_method_not_allowed");
    answer(server.bare("PUT", blob).body("large")).await.refused(401, "jam_auth_missing");
    answer(server.bare("PUT", blob).bearer_auth("reader").body("large")).await.refused(403, "jam_auth_forbidden");
    answer(server.request("PUT", blob).body("large")).await.refused(413, "jam_preimage_too_large");
    answer(server.request("PUT", blob).body("large")).await.refused(429, "jam_rate_limit");
}

async fn only_an_origin_of_the_allowlist_is_ever_echoed(world: World) {
    let server = world.with(&[("JAM_ALLOWED_ORIGINS", "https://app.example")]).await;
    let preflight = async |origin: &str| {
        let asked = server.bare("OPTIONS", "/jam/packages").header("origin", origin);
        answer(asked.header("access-control-request-method", "POST")).await
    };
    let allowed = preflight("https://app.example").await.expect(204);
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example");
    assert!(allowed.header("access-control-allow-methods").contains("POST"));
    for wrong in ["https://app.example.evil", "http://app.example", "https://app.example:8443", "null"] {
        let refused = preflight(wrong).await;
        assert_eq!(refused.header("access-control-allow-origin"), "");
        refused.refused(405, "jam_method_not_allowed");
    }
    let read = answer(server.request("GET", "/jam/status").header("origin", "https://app.example")).await;
    assert_eq!((read.header("access-control-allow-origin"), read.header("vary")), ("https://app.example", "Origin"));
    let stranger = answer(server.request("GET", "/jam/status").header("origin", "https://evil.example")).await;
    assert_eq!((stranger.status, stranger.header("access-control-allow-origin")), (200, ""));
}
