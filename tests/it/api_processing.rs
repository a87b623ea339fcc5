//! Processing, reports, attestations and receipts, through the API alone.

use futures::future::join_all;
use jam_domain::digest::HashAlgorithm;
use jam_domain::receipt::{Chain, verify_next};
use jam_domain::{AccumulatorRoot, Receipt};
use serde_json::{Value, json};

use crate::api_support::{Server, World, laws};

laws!(
    a_processed_package_has_a_report_an_attestation_and_receipts,
    processing_says_what_it_did_and_when_there_was_nothing,
    many_processors_take_each_package_once,
    a_threshold_above_one_waits_for_further_workers,
    a_chain_verifies_offline_page_by_page,
    equal_content_gives_two_receipts_of_one_hash,
    without_accumulators_there_are_no_receipts,
);

async fn process(server: &Server, limit: u32) -> (u16, Value) {
    let answered = server.post(&format!("/jam/process?limit={limit}"), &json!(null)).await;
    (answered.status, if answered.bytes.is_empty() { Value::Null } else { answered.json() })
}

fn path_of(package: &Value) -> String {
    format!("/jam/packages/{}", package["id"].as_str().unwrap())
}

async fn a_processed_package_has_a_report_an_attestation_and_receipts(world: World) {
    let server = world.serve().await;
    let package = server.submit("s", "").await;
    let path = path_of(&package);
    let early = server.get(&format!("{path}/report")).await.refused(404, "jam_not_found");
    assert_eq!(early["details"]["status"], "pending");
    assert_eq!(server.get(&format!("{path}/attestations")).await.expect(200).json(), json!({"items": []}));
    assert_eq!(process(&server, 1).await, (200, json!({"processed": true, "count": 1, "failed": 0})));
    assert_eq!(server.get(&path).await.json()["status"], "applied");
    let bundle = server.get(&format!("{path}/report?include_receipt=true")).await.expect(200).json();
    let (report, attestation) = (&bundle["report"], &bundle["attestations"][0]);
    assert_eq!((&report["package_id"], &report["status"]), (&package["id"], &json!("applied")));
    assert_eq!((&attestation["report_id"], &attestation["weight"]), (&report["id"], &json!(1)));
    assert_eq!(attestation["engine"], "hash-refiner");
    assert_eq!(bundle["receipt"]["hash"], report["refine_output_hash"]);
    assert_eq!(bundle["receipt"]["extra"], json!({"package_id": package["id"], "report_id": report["id"]}));
    assert!(server.get(&format!("{path}/report")).await.json().get("receipt").is_none());
    assert_eq!(server.get(&format!("{path}/attestations")).await.json(), json!({"items": [attestation]}));
    assert_eq!(server.get("/jam/reports?service_id=s&status=applied").await.json()["items"], json!([report]));
    let listed = server.get("/jam/reports?include_receipt=true").await.expect(200).json();
    assert_eq!((&listed["items"][0], &listed["receipts"]), (report, &json!([bundle["receipt"]])));
    assert_eq!(listed.get("attestations"), None);
    let hash = report["refine_output_hash"].as_str().unwrap();
    assert_eq!(server.get(&format!("/jam/receipts/{hash}")).await.expect(200).json(), bundle["receipt"]);
    let root = server.get("/jam/status?service_id=s").await.json()["accumulator_root"].clone();
    assert_eq!((&root["root"], &root["seq"]), (&bundle["receipt"]["new_root"], &json!(2)));
    for series in ["jam_package_process_total", "jam_reports_total", "jam_attestations_total"] {
        assert_eq!(server.metric(&format!("{series}{{store=\"{}\"}}", world.store())).await, Some(1.0), "{series}");
    }
    assert_eq!(server.metric("jam_receipts_total").await, Some(2.0));
}

async fn processing_says_what_it_did_and_when_there_was_nothing(world: World) {
    let server = world.with(&[("JAM_MAX_PENDING_PACKAGES", "0")]).await;
    assert_eq!(process(&server, 1).await, (204, Value::Null));
    for n in 0..103 {
        server.submit(&format!("s{}", n % 3), &n.to_string()).await;
    }
    let count = async |limit: u32| process(&server, limit).await.1["count"].clone();
    assert_eq!(count(1).await, 1);
    assert_eq!(count(0).await, 1, "the default");
    assert_eq!(count(1000).await, 100, "the most");
    assert_eq!(count(100).await, 1, "what was left");
    assert_eq!(process(&server, 100).await.0, 204);
}

async fn many_processors_take_each_package_once(world: World) {
    let server = world.serve().await;
    for n in 0..16 {
        server.submit(&format!("s{}", n % 2), &n.to_string()).await;
    }
    let answers = join_all((0..32).map(|_| process(&server, 1))).await;
    assert!(answers.iter().all(|(status, _)| [200, 204].contains(status)), "{answers:?}");
    let counted: u64 = answers.iter().filter_map(|(_, body)| body["count"].as_u64()).sum();
    let rest = process(&server, 100).await.1["count"].as_u64().unwrap_or(0);
    assert_eq!(counted + rest, 16);
    assert_eq!(server.get("/jam/reports?limit=200").await.json()["items"].as_array().unwrap().len(), 16);
    for service in ["s0", "s1"] {
        assert_eq!(verified(&server, service, HashAlgorithm::Blake3).await.len(), 16);
    }
}

async fn a_threshold_above_one_waits_for_further_workers(world: World) {
    let server = world.with(&[("JAM_ATTESTATION_THRESHOLD", "4")]).await;
    let path = path_of(&server.submit("s", "").await);
    assert_eq!(process(&server, 1).await.0, 200);
    assert_eq!(server.get(&path).await.json()["status"], "refined");
    let report = server.get(&format!("{path}/report")).await.json()["report"].clone();
    let attestations = format!("/jam/reports/{}/attestations", report["id"].as_str().unwrap());
    let said_by = |worker: &str, weight: u32| json!({"worker_id": worker, "signature": "c2ln", "weight": weight, "engine": "other", "engine_version": "2"});
    server.post(&attestations, &json!({"worker_id": "w"})).await.refused(400, "jam_validation_error");
    let first = server.post(&attestations, &said_by("one", 2)).await.expect(201).json();
    assert_eq!((&first["report"]["status"], &first["receipt"]), (&json!("refined"), &Value::Null));
    server.post(&attestations, &said_by("one", 1)).await.refused(409, "jam_conflict");
    server.post(&attestations, &said_by("local", 1)).await.refused(409, "jam_conflict");
    let second = server.post(&attestations, &said_by("two", 1)).await.expect(201).json();
    assert_eq!((&second["report"]["status"], &second["receipt"]["seq"]), (&json!("applied"), &json!(2)));
    assert_eq!(server.get(&path).await.json()["status"], "applied");
    let workers: Vec<_> = second["attestations"].as_array().unwrap().iter().map(|a| a["worker_id"].clone()).collect();
    assert_eq!(workers, ["local", "one", "two"]);
    assert_eq!(verified(&server, "s", HashAlgorithm::Blake3).await.len(), 2);
    assert_eq!(server.metric("jam_receipts_total").await, Some(2.0));
}

/// A service's whole chain, read page by page and checked with nothing but what the pages say.
async fn verified(server: &Server, service: &str, algorithm: HashAlgorithm) -> Vec<Receipt> {
    let (mut chain, mut receipts, mut next) = (Chain::empty(service.parse().unwrap()), Vec::new(), String::new());
    loop {
        let path = format!("/jam/receipts?service_id={service}&order=asc&limit=3{next}");
        let page = server.get(&path).await.expect(200).json();
        let items: Vec<Receipt> = serde_json::from_value(page["items"].clone()).unwrap();
        for receipt in items {
            verify_next(algorithm, &mut chain, &receipt).unwrap();
            receipts.push(receipt);
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => break,
        }
    }
    let root = server.get(&format!("/jam/status?service_id={service}")).await.json()["accumulator_root"].clone();
    let root: AccumulatorRoot = serde_json::from_value(root).unwrap();
    assert_eq!((root.seq, root.root.as_str()), (chain.seq(), chain.root()));
    receipts
}

async fn a_chain_verifies_offline_page_by_page(world: World) {
    for algorithm in [HashAlgorithm::Blake3, HashAlgorithm::Sha256] {
        let service = format!("of-{algorithm}");
        let server = world.with(&[("JAM_ACCUMULATOR_HASH", algorithm.as_str())]).await;
        for n in 0..7 {
            server.submit(&service, &n.to_string()).await;
        }
        process(&server, 100).await;
        let receipts = verified(&server, &service, algorithm).await;
        assert_eq!(receipts.iter().map(|r| r.seq).collect::<Vec<_>>(), (1..=14).collect::<Vec<_>>());
    }
}

async fn equal_content_gives_two_receipts_of_one_hash(world: World) {
    let server = world.serve().await;
    for _ in 0..2 {
        server.submit("s", "same").await;
    }
    process(&server, 2).await;
    let reports = server.get("/jam/reports").await.json()["items"].clone();
    let hash = reports[0]["refine_output_hash"].as_str().unwrap();
    assert_eq!(reports[1]["refine_output_hash"], hash);
    let receipts = server.get(&format!("/jam/receipts?hash={hash}")).await.expect(200).json()["items"].clone();
    assert_eq!((receipts[0]["seq"].as_u64(), receipts[1]["seq"].as_u64()), (Some(4), Some(3)));
    assert_eq!(server.get(&format!("/jam/receipts/{hash}")).await.json(), receipts[0]);
}

async fn without_accumulators_there_are_no_receipts(world: World) {
    let server = world.with(&[("JAM_ACCUMULATORS_ENABLED", "false")]).await;
    let body = crate::api_support::package("s", "");
    let submitted = server.post("/jam/packages?include_receipt=true", &body).await.expect(201).json();
    assert_eq!(submitted["receipt"], Value::Null);
    process(&server, 1).await;
    assert_eq!(server.get(&path_of(&submitted["package"])).await.json()["status"], "applied");
    server.get("/jam/receipts").await.refused(404, "jam_not_found");
    server.get("/jam/receipts/x").await.refused(404, "jam_not_found");
    assert_eq!(server.metric("jam_receipts_total").await, Some(0.0));
}
