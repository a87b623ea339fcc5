//! Every way the real server says no, as slctl tells it: one line, one code, one exit code.

use serde_json::Value;
use tempfile::tempdir;

use crate::cli_support::{Server, TOKEN, refused, refused_like, slctl, slctl_with, write};

const NOWHERE: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

#[test]
fn a_missing_token_and_a_wrong_one_are_told_apart() {
    let server = Server::start();
    let addr = ("SERVICE_LAYER_ADDR", server.addr.as_str());
    for args in [&["jam", "status"][..], &["status"], &["jam", "packages"], &["jam", "process"]] {
        let none = slctl_with(&[addr], args);
        refused_like(&none, 1, "", "; set --token, --token-file or SERVICE_LAYER_TOKEN (jam_auth_missing)");
        let wrong = slctl_with(&[addr, ("SERVICE_LAYER_TOKEN", "wrong")], args);
        refused_like(
            &wrong,
            1,
            "this token is not known",
            "set --token, --token-file or SERVICE_LAYER_TOKEN (jam_auth_missing)",
        );
    }
    let report = slctl_with(&[addr, ("SERVICE_LAYER_TOKEN", "wrong")], &["doctor", "--json"]);
    let json: Value = serde_json::from_str(&report.out).unwrap();
    assert_eq!((report.code, json["checks"][4]["class"].as_str()), (1, Some("unauthorized")));
    assert_eq!(slctl_with(&[addr], &["jam", "status", "--token", TOKEN]).code, 0);
}

#[test]
fn what_is_not_there_is_not_found() {
    let server = Server::start();
    let hash = "0".repeat(64);
    let line = format!("preimage {hash} is not stored; upload it with `slctl jam preimage --file F` (jam_not_found)");
    refused(&server.slctl(&["jam", "preimage", "--stat", "--hash", &hash]), 3, &line);
    refused(&server.slctl(&["jam", "preimage", "--meta", "--hash", &hash]), 3, &line);
    let directory = tempdir().unwrap();
    let file = directory.path().join("f");
    let get = ["jam", "preimage", "--get", "--hash", &hash, "-o", file.to_str().unwrap()];
    refused(&server.slctl(&get), 3, &line);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "no file is made");
    refused_like(&server.slctl(&["jam", "report", "--package", NOWHERE]), 3, "", "(jam_not_found)");
    refused_like(&server.slctl(&["jam", "receipt", NOWHERE]), 3, "", "(jam_not_found)");
    refused(&server.slctl(&["jam", "verify", "--service", "s"]), 3, "service s has no receipts (jam_not_found)");
}

#[test]
fn a_server_without_jam_says_so() {
    let server = Server::with(&[("JAM_ENABLED", "false")]);
    let line = format!(
        "JAM is not enabled at {}: see `slctl status`; the server needs JAM_ENABLED=true (jam_not_found)",
        server.addr
    );
    refused(&server.slctl(&["jam", "status"]), 3, &line);
    refused(&server.slctl(&["jam", "verify", "--service", "s"]), 3, &line);
    refused(&server.slctl(&["jam", "packages"]), 3, &line);
    refused(&server.slctl(&["jam", "preimage", "--stat", "--hash", &"0".repeat(64)]), 3, &line);
    let status = server.ok(&["status"]);
    assert!(status.contains("JAM enabled=false"), "{status}");
    let doctor = server.slctl(&["doctor"]);
    assert!(doctor.out.contains("FAIL  enabled     provider_unavailable: JAM is not enabled"), "{doctor:?}");
    assert_eq!(doctor.code, 1);
}

#[test]
fn an_address_below_which_there_is_no_api_is_told_by_every_command() {
    let server = Server::start();
    let addr = format!("{}/prefix", server.addr);
    let line = format!(
        "there is no JAM API below {addr}: set --addr or SERVICE_LAYER_ADDR to where it begins (jam_not_found)"
    );
    let stat = ["jam", "preimage", "--stat", "--hash", &"0".repeat(64)];
    for args in [&["jam", "status"][..], &["jam", "packages"], &["jam", "verify", "--service", "s"], &stat] {
        refused(&slctl(&addr, args), 3, &line);
    }
}

#[test]
fn a_server_without_receipts_says_so() {
    let server = Server::with(&[("JAM_ACCUMULATORS_ENABLED", "false")]);
    let line = "the server keeps no receipts: JAM_ACCUMULATORS_ENABLED is false there (jam_not_found)";
    refused(&server.slctl(&["jam", "verify", "--service", "s"]), 3, line);
    refused_like(&server.slctl(&["jam", "receipts"]), 3, "", "(jam_not_found)");
}

#[test]
fn a_preimage_that_the_server_does_not_want_is_refused() {
    let server = Server::with(&[("JAM_MAX_PREIMAGE_BYTES", "1000"), ("JAM_ALLOWED_MEDIA_TYPES", "text/*")]);
    let directory = tempdir().unwrap();
    let small = write(directory.path(), "small", b"small");
    let large = write(directory.path(), "large", &vec![b'x'; 5_000_000]);
    let upload = |file: &str, kind: &str| server.slctl(&["jam", "preimage", "--file", file, "--content-type", kind]);
    refused_like(&upload(&small, "image/png"), 1, "", "(jam_unsupported_media_type)");
    refused_like(&upload(&large, "text/plain"), 1, "", "(jam_preimage_too_large)");
    assert_eq!(upload(&small, "text/plain").code, 0);
    let hash = "0".repeat(64);
    let other = server.slctl(&["jam", "preimage", "--file", &small, "--hash", &hash]);
    refused_like(&other, 2, &format!("{small} hashes to "), &format!("not to {hash} (usage)"));
}

#[test]
fn a_package_that_the_server_does_not_want_is_refused() {
    let server = Server::with(&[("JAM_MAX_PENDING_PACKAGES", "1")]);
    let submit = |more: &[&str]| {
        let package = ["jam", "package", "--service", "s", "--kind", "k", "--params-hash", "p"];
        server.slctl(&[&package[..], more].concat())
    };
    let hash = "0".repeat(64);
    let unknown = submit(&["--preimages", &hash]);
    refused_like(&unknown, 1, "", "(jam_validation_error)");
    assert!(unknown.err.contains(&hash), "{unknown:?}");
    let directory = tempdir().unwrap();
    let invented = write(directory.path(), "p.json", br#"{"service_id":"s","items":[],"status":"applied"}"#);
    refused_like(&server.slctl(&["jam", "package", "--file", &invented]), 1, "", "(jam_validation_error)");
    let twice = br#"{"service_id":"s","items":[{"kind":"k","params_hash":"p"}],"service_id":"t"}"#;
    let twice = write(directory.path(), "twice.json", twice);
    refused_like(&server.slctl(&["jam", "package", "--file", &twice]), 1, "", "(jam_bad_request)");
    assert_eq!(submit(&[]).code, 0);
    refused_like(&submit(&[]), 1, "", "(jam_pending_limit)");
}

#[test]
fn a_rate_limit_beyond_the_timeout_is_told_with_the_time_to_wait() {
    let server = Server::with(&[("JAM_RATE_LIMIT_PER_MINUTE", "1")]);
    let last = (0..5).map(|_| server.slctl(&["jam", "packages"])).find(|ran| ran.code != 0).expect("the limit holds");
    refused_like(&last, 1, "", "s (jam_rate_limit)");
    assert_eq!(last.err.matches("try again").count(), 1, "{last:?}");
}
