//! Every status and code of the contract, each brought about by a real request.

use serde_json::json;

use crate::api_support::{World, answer, laws, package};

laws!(
    what_is_wrong_with_a_request_is_said_by_status_and_code,
    a_wrong_method_learns_the_right_ones,
    a_validation_error_names_its_field,
    health_version_and_status_answer_as_the_contract_says,
    every_answer_carries_the_trace_that_it_belongs_to,
    jams_health_is_for_readers_only_where_it_is_not_public,
);

const NOWHERE: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

async fn what_is_wrong_with_a_request_is_said_by_status_and_code(world: World) {
    let server = world.serve().await;
    let deep = "[".repeat(200_000);
    let many: Vec<String> = (0..10_000).map(|n| format!("\"k{n}\":1")).collect();
    let cases: Vec<(&str, String, Vec<u8>, u16, &str)> = vec![
        ("POST", "/jam/packages".into(), b"{".to_vec(), 400, "jam_bad_request"),
        ("POST", "/jam/packages".into(), b"".to_vec(), 400, "jam_bad_request"),
        ("POST", "/jam/packages".into(), b"[]".to_vec(), 400, "jam_bad_request"),
        ("POST", "/jam/packages".into(), b"{\"nonce\":\"\xff\"}".to_vec(), 400, "jam_bad_request"),
        ("POST", "/jam/packages".into(), deep.into_bytes(), 400, "jam_bad_request"),
        ("POST", "/jam/packages".into(), format!("{{{}}}", many.join(",")).into_bytes(), 400, "jam_validation_error"),
        ("POST", "/jam/packages".into(), b"{}".to_vec(), 400, "jam_validation_error"),
        ("POST", "/jam/packages".into(), vec![b' '; (1 << 20) + 1], 413, "jam_preimage_too_large"),
        ("GET", "/jam/packages?status=lost".into(), vec![], 400, "jam_validation_error"),
        ("GET", "/jam/packages?limit=x".into(), vec![], 400, "jam_validation_error"),
        ("GET", "/jam/packages?offset=-1".into(), vec![], 400, "jam_validation_error"),
        ("GET", "/jam/packages?cursor=x".into(), vec![], 400, "jam_validation_error"),
        ("GET", "/jam/packages?created_after=today".into(), vec![], 400, "jam_validation_error"),
        ("GET", "/jam/packages?include_receipt=perhaps".into(), vec![], 400, "jam_validation_error"),
        ("GET", "/jam/packages?service_id=a%20b".into(), vec![], 400, "jam_validation_error"),
        ("GET", "/jam/receipts?order=asc".into(), vec![], 400, "jam_validation_error"),
        ("GET", "/jam/receipts?order=up&service_id=s".into(), vec![], 400, "jam_validation_error"),
        ("GET", "/jam/status?service_id=%2F".into(), vec![], 400, "jam_validation_error"),
        ("POST", "/jam/process?limit=-1".into(), vec![], 400, "jam_validation_error"),
        ("PUT", "/jam/preimages/nothex".into(), b"x".to_vec(), 400, "jam_validation_error"),
        ("PUT", format!("/jam/preimages/{NO_HASH}"), b"x".to_vec(), 400, "jam_validation_error"),
        ("GET", "/jam/preimages/nothex".into(), vec![], 400, "jam_validation_error"),
        ("GET", format!("/jam/preimages/{NO_HASH}"), vec![], 404, "jam_not_found"),
        ("GET", format!("/jam/preimages/{NO_HASH}/meta"), vec![], 404, "jam_not_found"),
        ("DELETE", format!("/jam/preimages/{NO_HASH}"), vec![], 403, "jam_auth_forbidden"),
        ("GET", format!("/jam/packages/{NOWHERE}"), vec![], 404, "jam_not_found"),
        ("GET", "/jam/packages/not-a-uuid".into(), vec![], 404, "jam_not_found"),
        ("GET", "/jam/packages/%ff".into(), vec![], 404, "jam_not_found"),
        ("GET", format!("/jam/packages/{NOWHERE}/report"), vec![], 404, "jam_not_found"),
        ("GET", format!("/jam/packages/{NOWHERE}/attestations"), vec![], 404, "jam_not_found"),
        ("POST", "/jam/reports/x/attestations".into(), b"{}".to_vec(), 404, "jam_not_found"),
        (
            "POST",
            format!("/jam/reports/{NOWHERE}/attestations"),
            b"{\"worker_id\":\"w\",\"signature\":\"YQ==\"}".to_vec(),
            404,
            "jam_not_found",
        ),
        ("GET", "/jam/receipts/nothing".into(), vec![], 404, "jam_not_found"),
        ("GET", "/".into(), vec![], 404, "jam_not_found"),
        ("GET", "/jam".into(), vec![], 404, "jam_not_found"),
        ("GET", "/jam/admin/toggles".into(), vec![], 404, "jam_not_found"),
        ("GET", "/jam/status/".into(), vec![], 404, "jam_not_found"),
    ];
    for (method, path, body, status, code) in cases {
        let answered = answer(server.request(method, &path).body(body)).await;
        assert_eq!((answered.status, answered.json()["code"].as_str()), (status, Some(code)), "{method} {path}");
        answered.refused(status, code);
    }
    assert!(!server.log().contains("\"level\":\"error\""), "{}", server.log());
}

async fn a_wrong_method_learns_the_right_ones(world: World) {
    let server = world.serve().await;
    for (method, path, allowed) in [
        ("POST", "/healthz", "GET, HEAD"),
        ("DELETE", "/jam/packages", "POST, GET, HEAD"),
        ("GET", "/jam/process", "POST"),
        ("PATCH", "/jam/preimages/x", "PUT, HEAD, GET, DELETE"),
        ("BREW", "/jam/status", "GET, HEAD"),
    ] {
        let refused = answer(server.bare(method, path)).await;
        assert_eq!(refused.header("allow"), allowed, "{method} {path}");
        refused.refused(405, "jam_method_not_allowed");
    }
}

async fn a_validation_error_names_its_field(world: World) {
    let server = world.serve().await;
    let mut wrong = package("s", "");
    wrong["items"][0]["kind"] = json!("");
    let refused = server.post("/jam/packages", &wrong).await.refused(400, "jam_validation_error");
    assert_eq!(refused["details"], json!({"field": "items[0].kind"}));
    let hash = "ab".repeat(32);
    let mut unknown = package("s", "");
    unknown["preimage_hashes"] = json!([hash]);
    let refused = server.post("/jam/packages", &unknown).await.refused(400, "jam_validation_error");
    assert_eq!(refused["details"], json!({"field": "preimage_hashes", "hash": hash}));
    unknown["items"][0]["preimage_hashes"] = unknown["preimage_hashes"].take();
    unknown["preimage_hashes"] = json!([]);
    let refused = server.post("/jam/packages", &unknown).await.refused(400, "jam_validation_error");
    assert_eq!(refused["details"], json!({"field": "items[0].preimage_hashes", "hash": hash}));
    assert!(refused["error"].as_str().unwrap().contains(&hash));
}

async fn health_version_and_status_answer_as_the_contract_says(world: World) {
    let server = world.serve().await;
    let open = async |path: &str| answer(server.bare("GET", path)).await.expect(200).json();
    assert_eq!(open("/healthz").await, json!({"status": "ok"}));
    let ready = open("/readyz").await;
    assert_eq!(ready["status"], "ok");
    assert_eq!(ready["key_ids"].as_array().unwrap().len(), 1);
    assert_eq!(open("/jam/healthz").await["status"], "ok");
    let version = open("/system/version").await;
    for field in ["version", "commit", "built_at", "rust_version"] {
        assert!(version[field].is_string(), "{version}");
    }
    answer(server.bare("GET", "/system/status")).await.refused(401, "jam_auth_missing");
    let status = server.get("/system/status").await.expect(200).json();
    assert_eq!(status["status"], "ok");
    let jam = server.get("/jam/status").await.expect(200).json();
    for (field, value) in jam.as_object().unwrap() {
        assert_eq!(&status["jam"][field], value, "{field}");
    }
    assert_eq!(status["jam"]["health"], json!({"store_ok": true, "cleanup_ok": true, "last_cleanup": null}));
    assert_eq!(jam["rate_limit_per_min"], jam["rate_limit_per_minute"]);
    assert_eq!(jam["store"], world.store());
}

async fn every_answer_carries_the_trace_that_it_belongs_to(world: World) {
    let server = world.serve().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = server.bare("GET", "/jam/status").header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    assert_eq!(answer(request).await.header("x-trace-id"), trace);
    crate::api_support::until("the log line", async || server.log().contains(trace).then_some(())).await;
}

async fn jams_health_is_for_readers_only_where_it_is_not_public(world: World) {
    let server = world.with(&[("JAM_HEALTH_PUBLIC", "false")]).await;
    answer(server.bare("GET", "/jam/healthz")).await.refused(401, "jam_auth_missing");
    assert_eq!(server.get("/jam/healthz").await.expect(200).json()["status"], "ok");
    // Probes of the process itself stay open.
    for path in ["/healthz", "/readyz"] {
        answer(server.bare("GET", path)).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_shows_the_roots_of_the_first_200_services() {
    for world in [World::memory(), World::postgres().await] {
        let server = world.with(&[("JAM_MAX_PENDING_PACKAGES", "0")]).await;
        for n in (0..203).rev() {
            server.submit(&format!("svc-{n:03}"), "").await;
        }
        for path in ["/jam/status", "/system/status"] {
            let status = server.get(path).await.expect(200).json();
            let roots = status.pointer("/jam/accumulator_roots").unwrap_or(&status["accumulator_roots"]).clone();
            let services: Vec<&str> =
                roots.as_array().unwrap().iter().map(|root| root["service_id"].as_str().unwrap()).collect();
            let first: Vec<String> = (0..200).map(|n| format!("svc-{n:03}")).collect();
            assert_eq!(services, first, "{path}");
        }
        let last = server.get("/jam/status?service_id=svc-202").await.expect(200).json();
        assert_eq!(last["accumulator_root"]["seq"], 1);
    }
}
