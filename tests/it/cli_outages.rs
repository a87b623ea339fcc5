//! slctl against servers that fail in ways a healthy one can't be brought to: a fake server plays them.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use jam_domain::receipt::{Chain, Entry};
use jam_domain::{EntryType, HashAlgorithm, PackageStatus, Receipt, Timestamp};
use serde_json::{Value, json};

use crate::cli_support::{Fake, Ran, Reply, refused, refused_like, slctl, slctl_with, write};

fn chain_of(count: u64) -> Vec<Receipt> {
    let mut chain = Chain::empty("svc".parse().unwrap());
    let entry = |n: u64| Entry {
        entry_type: EntryType::Report,
        hash: format!("{n:064x}"),
        metadata_hash: "00".into(),
        status: PackageStatus::Applied,
        extra: Some(json!({"package_id": "p", "report_id": n.to_string()})),
    };
    (1..=count)
        .map(|n| chain.append(HashAlgorithm::Sha256, entry(n), Timestamp::from_micros(i64::try_from(n).unwrap())))
        .collect()
}

/// A server with this head and these receipts, two a page. Tampering can't be had from the real server.
fn keeper_of(receipts: Vec<Receipt>, head: &Receipt) -> Fake {
    let status = json!({
        "enabled": true, "accumulators_enabled": true, "accumulator_hash": "sha256",
        "accumulator_root":
            {"service_id": "svc", "seq": head.seq, "root": head.new_root, "updated_at": head.processed_at},
    });
    Fake::answering(move |_, head| {
        let path = head.split(' ').nth(1)?;
        if path.starts_with("/jam/status?service_id=svc") {
            return Some(Reply::json(&status));
        }
        if path.starts_with("/jam/packages/p/report") {
            let gone = json!({"error": "no such package", "code": "jam_not_found"}).to_string();
            return Some(Reply("404 Not Found", String::new(), gone));
        }
        assert!(path.contains("service_id=svc"), "{path}");
        if !path.starts_with("/jam/receipts") {
            return Some(Reply::json(&json!({"items": [], "next_offset": null, "next_cursor": null})));
        }
        assert!(path.contains("order=asc"), "{path}");
        let start: usize = path.split("cursor=").nth(1).map_or(0, |cursor| cursor.parse().unwrap());
        let end = (start + 2).min(receipts.len());
        let next = (end < receipts.len()).then(|| end.to_string());
        Some(Reply::json(&json!({"items": receipts[start..end], "next_offset": null, "next_cursor": next})))
    })
}

const VERIFY: [&str; 4] = ["jam", "verify", "--service", "svc"];

#[test]
fn a_sound_chain_is_verified_over_all_its_pages() {
    let receipts = chain_of(5);
    let fake = keeper_of(receipts.clone(), &receipts[4]);
    let Ran { code, out, err } = fake.slctl(&VERIFY);
    let root = &receipts[4].new_root;
    let gone = "5 of their packages and reports are no longer listed: those were not compared";
    assert_eq!(out, format!("service svc: 5 receipts verified, root {root} (sha256)\n{gone}\n"));
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(
        fake.calls(),
        11,
        "the status, 3 pages of receipts, one of packages, one of reports, and 5 that are gone"
    );
}

#[test]
fn links_added_while_verifying_are_checked_too() {
    let receipts = chain_of(5);
    let fake = keeper_of(receipts.clone(), &receipts[2]);
    assert!(fake.slctl(&VERIFY).out.starts_with("service svc: 5 receipts verified"));
}

#[test]
fn a_tampered_chain_is_refused_at_the_link_that_breaks() {
    let sound = chain_of(5);
    let broken = |change: fn(&mut Vec<Receipt>), head: usize| {
        let mut receipts = chain_of(5);
        change(&mut receipts);
        let ran = keeper_of(receipts, &sound[head]).slctl(&VERIFY);
        assert_eq!(ran.code, 1, "{ran:?}");
        ran
    };
    let changed = broken(|receipts| receipts[3].hash = "f".repeat(64), 4);
    assert_eq!(changed.out, "service svc: 3 receipts verified up to the break\n");
    assert_eq!(
        changed.err,
        "the chain of service svc is broken: seq 4: new_root does not follow from the stored fields: one of them was changed (chain_broken)\n"
    );
    let gap = broken(|receipts| drop(receipts.remove(1)), 4);
    assert!(gap.err.contains("seq 3 where 2 belongs"), "{gap:?}");
    let cut = broken(|receipts| receipts.truncate(3), 4);
    assert!(cut.err.contains("the receipts end at seq 3, the server's root is at seq 5"), "{cut:?}");
    let foreign = broken(|receipts| receipts[0].service_id = "other".parse().unwrap(), 4);
    assert!(foreign.err.contains("seq 1: belongs to service other"), "{foreign:?}");
}

#[test]
fn a_chain_that_was_rewritten_as_a_whole_does_not_fit_the_root() {
    let mut head = chain_of(3).remove(2);
    head.new_root = "0".repeat(64);
    let ran = keeper_of(chain_of(3), &head).slctl(&["jam", "verify", "--service", "svc", "--output", "json"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("seq 3: the server's root is 0000"), "{ran:?}");
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["verified"], json!(false));
}

const BUSY: &str = r#"{"error":"too many requests","code":"jam_rate_limit","retry_after":1}"#;

fn busy(retry_after: u32) -> Reply {
    Reply("429 Too Many Requests", format!("retry-after: {retry_after}\r\n"), BUSY.into())
}

#[test]
fn a_call_that_was_turned_away_is_made_again_when_the_server_says() {
    let fake =
        Fake::answering(|call, _| Some(if call == 0 { busy(1) } else { Reply::json(&json!({"enabled": true})) }));
    let started = Instant::now();
    let ran = fake.slctl(&["jam", "status"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "JAM enabled=true\n"));
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(fake.calls(), 2);
}

#[test]
fn a_wait_beyond_the_timeout_is_refused_at_once() {
    let fake = Fake::answering(|_, _| Some(busy(60)));
    let started = Instant::now();
    refused(&fake.slctl(&["jam", "status"]), 1, "too many requests; try again in 60 s (jam_rate_limit)");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(fake.calls(), 1);
}

#[test]
fn a_refusal_is_not_forgotten_when_its_retry_takes_too_long() {
    let (over, ended) = std::sync::mpsc::channel::<()>();
    let fake = Fake::answering(move |call, _| {
        if call > 0 {
            ended.recv().ok();
        }
        let body = r#"{"error":"the store does not answer: try again","code":"jam_store_unavailable","retry_after":0}"#;
        Some(Reply("503 Service Unavailable", String::new(), body.into()))
    });
    let line =
        "tried again until the timeout of 3s: the store does not answer: try again in 0 s (jam_store_unavailable)";
    refused(&fake.slctl(&["jam", "packages", "--timeout", "3s"]), 1, line);
    drop(over);
}

#[test]
fn a_broken_connection_is_tried_again_for_a_submission_and_not_for_processing() {
    let fake = Fake::answering(|call, _| (call > 0).then(|| Reply::json(&json!({"id": "x"}))));
    let submit = ["jam", "package", "--service", "s", "--kind", "k", "--params-hash", "p", "--output", "name"];
    assert_eq!(fake.slctl(&submit).out, "x\n");
    assert_eq!(fake.calls(), 2);
    let fake = Fake::answering(|_, _| None);
    let ran = fake.slctl(&["jam", "process"]);
    refused_like(&ran, 4, &format!("{} breaks off without an answer", fake.addr), "(provider_unavailable)");
    assert_eq!(fake.calls(), 1);
}

#[test]
fn the_key_of_a_submission_stays_the_same_when_it_is_made_again() {
    let (said, heard) = std::sync::mpsc::channel();
    let fake = Fake::answering(move |call, head| {
        let key = head.lines().find_map(|line| line.strip_prefix("idempotency-key: "))?;
        said.send(key.to_owned()).unwrap();
        Some(if call == 0 { busy(0) } else { Reply::json(&json!({"id": "x"})) })
    });
    let submit = ["jam", "package", "--service", "s", "--kind", "k", "--params-hash", "p"];
    assert_eq!((fake.slctl(&submit).code, fake.slctl(&submit).code), (0, 0));
    let keys: Vec<String> = heard.try_iter().collect();
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[1], keys[2]);
}

#[test]
fn a_preimage_with_other_bytes_is_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::answering(|_, _| Some(Reply("200 OK", String::new(), "wrong".into())));
    let hash = "0".repeat(64);
    let file = write(directory.path(), "old", b"old");
    let ran = fake.slctl(&["jam", "preimage", "--get", "--hash", &hash, "-o", &file]);
    refused_like(&ran, 1, "the bytes that came hash to", "(hash_mismatch)");
    assert_eq!(std::fs::read(&file).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "no half file is left");
}

#[test]
fn a_redirect_is_told_and_not_followed() {
    let fake =
        Fake::answering(|_, _| Some(Reply("302 Found", "location: http://else.where/\r\n".into(), String::new())));
    let ran = fake.slctl(&["jam", "status"]);
    refused_like(&ran, 1, "GET /jam/status: the server redirects to http://else.where/", "(unexpected_answer)");
}

#[test]
fn an_answer_that_is_not_ours_is_told() {
    let fake = Fake::answering(|_, _| Some(Reply("200 OK", String::new(), "<html>".into())));
    refused_like(
        &fake.slctl(&["jam", "packages"]),
        1,
        "GET /jam/packages: the answer is not ours",
        "(unexpected_answer)",
    );
    let fake = Fake::answering(|_, _| Some(Reply("404 Not Found", String::new(), "<html>".into())));
    let line = "GET /jam/status: the server answered 404 Not Found; does --addr or SERVICE_LAYER_ADDR name a JAM API? (unexpected_answer)";
    refused(&fake.slctl(&["jam", "status"]), 1, line);
    let fake = Fake::answering(|_, _| Some(Reply("418 I'm a teapot", String::new(), "<html>".into())));
    refused(&fake.slctl(&["jam", "packages"]), 1, "GET /jam/packages: the server answered 418 I'm a teapot (http_418)");
}

#[test]
fn who_asks_is_sent_with_every_call() {
    let fake = Fake::answering(|_, head| {
        let said = |line: &str| head.lines().any(|header| header == line);
        assert!(said("authorization: Bearer from-file") && said("x-tenant-id: acme"), "{head}");
        Some(Reply::json(&json!({"enabled": true})))
    });
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), "token", b"from-file\n");
    let ran = fake.slctl(&["--tenant", "acme", "--token-file", &file, "jam", "status"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

fn class(ran: &Ran) -> (i32, String) {
    let report: Value = serde_json::from_str(&ran.out).expect("doctor --json prints JSON");
    let checks = report["checks"].as_array().unwrap();
    let ill = checks.iter().find(|check| check["state"] == "failed").expect("a check failed");
    assert!(!ill["next"].as_str().unwrap().is_empty());
    (ran.code, format!("{} {}", ill["name"].as_str().unwrap(), ill["class"].as_str().unwrap()))
}

#[test]
fn doctor_knows_each_class_of_outage() {
    let doctor = |addr: &str| class(&slctl(addr, &["doctor", "--json", "--timeout", "2s"]));
    assert_eq!(doctor("http://no-such-host.invalid"), (4, "resolve dns_resolution".into()));
    let closed = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    assert_eq!(doctor(&closed), (4, "connect network_unreachable".into()));
    // It accepts and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(doctor(&format!("http://{}", silent.local_addr().unwrap())), (4, "connect timeout".into()));
    let plain = Fake::answering(|_, _| Some(Reply::json(&json!({}))));
    assert_eq!(doctor(&plain.addr.replace("http://", "https://")), (4, "tls tls".into()));
    let page = Fake::answering(|_, _| Some(Reply("200 OK", String::new(), "<html>".into())));
    assert_eq!(doctor(&page.addr), (1, "alive provider_unavailable".into()));
    let gone = Fake::answering(|_, _| None);
    assert_eq!(doctor(&gone.addr), (1, "alive provider_unavailable".into()));
    let draining = Fake::answering(|_, head| {
        let body = r#"{"error":"draining","code":"jam_store_unavailable"}"#;
        let fine = || Reply::json(&json!({"jam": {"enabled": true}}));
        Some(if head.contains("/readyz") { Reply("503 Busy", String::new(), body.into()) } else { fine() })
    });
    assert_eq!(doctor(&draining.addr), (1, "ready provider_unavailable".into()));
}

#[test]
fn without_a_server_every_command_says_where_it_looked() {
    let closed = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let line = format!(
        "{closed} cannot be reached: Connection refused; is the server running there? set --addr or SERVICE_LAYER_ADDR (network_unreachable)"
    );
    for args in [&["status"][..], &["jam", "status"], &["jam", "packages"], &["jam", "process"], &VERIFY] {
        refused(&slctl_with(&[], &[args, &["--addr", &closed]].concat()), 4, &line);
    }
}

#[test]
fn an_administrator_asks_with_a_token_of_his_own() {
    let package = "01890a5d-ac96-774b-bcce-b302099a8057";
    let cases: [(&[&str], &str); 9] = [
        (&["rate-limits"], "GET /jam/admin/rate-limits "),
        (&["rate-limits", "--reset", "k"], "POST /jam/admin/rate-limits "),
        (&["toggles"], "GET /jam/admin/toggles "),
        (&["toggles", "--set", "enabled=false"], "POST /jam/admin/toggles "),
        (&["toggles", "--delete", "enabled"], "DELETE /jam/admin/toggles/enabled "),
        (&["cleanup"], "GET /jam/admin/cleanup/status "),
        (&["cleanup", "--run", "--dry-run"], "POST /jam/admin/cleanup/run?dry_run=true "),
        (
            &["disputes", "--package", package, "--reject"],
            "POST /jam/admin/disputes/01890a5d-ac96-774b-bcce-b302099a8057/reject ",
        ),
        (&["delegates", "--service", "s"], "GET /jam/admin/services/s/delegates "),
    ];
    for (args, wanted) in cases {
        let fake = Fake::answering(move |_, head| {
            assert!(head.starts_with(wanted) && head.contains("authorization: Bearer root\r\n"), "{head}");
            Some(Reply::json(&json!({"fine": true})))
        });
        let ran = fake.slctl(&[&["jam", "admin", "--admin-token", "root"], args].concat());
        assert_eq!((ran.code, ran.out.as_str()), (0, "{\n  \"fine\": true\n}\n"), "{args:?} {ran:?}");
    }
}

#[test]
fn a_disputed_package_is_told_with_its_reason() {
    let package = "01890a5d-ac96-774b-bcce-b302099a8057";
    let report = ["jam", "report", "--package", package];
    let told = r#"{"error":"no report","code":"jam_not_found","details":{"status":"disputed","reason":"bad item"}}"#;
    let fake = Fake::answering(move |_, _| Some(Reply("404 Not Found", String::new(), told.into())));
    let line = format!("package {package} is disputed and has no report: bad item (jam_not_found)");
    refused(&fake.slctl(&report), 3, &line);
    // An older server says less: the package itself is asked for.
    let fake = Fake::answering(|_, head| {
        let silent = Reply("404 Not Found", String::new(), r#"{"error":"no report","code":"jam_not_found"}"#.into());
        Some(if head.contains("/report") { silent } else { Reply::json(&json!({"status": "disputed"})) })
    });
    let line = format!("package {package} is disputed and has no report: no report (jam_not_found)");
    refused(&fake.slctl(&report), 3, &line);
}

#[test]
fn processing_that_disputes_says_where_to_look() {
    let fake = Fake::answering(|call, _| {
        let some = || Reply::json(&json!({"processed": true, "count": 3, "failed": 1}));
        Some(if call < 2 { some() } else { Reply("204 No Content", String::new(), String::new()) })
    });
    let ran = fake.slctl(&["jam", "process", "--all"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "processed 6 packages, 2 of them disputed\n"));
    assert_eq!(ran.err, "see `slctl jam packages --status disputed`\n");
}
