//! The published vectors of docs/receipts.md: written from the Rust code, compared with it, recomputed by Python.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jam_domain::digest::HashAlgorithm;
use jam_domain::receipt::{Chain, DOMAIN, Entry, root_of};
use jam_domain::refine::Engine;
use jam_domain::{EntryType, PackageStatus, Receipt, Timestamp, WorkPackage, WorkReport, attestation, canonical};
use serde_json::{Value, json};

const OPEN: &str = "```json vectors\n";
const OPEN_ATTESTATIONS: &str = "```json attestations\n";
const CLOSE: &str = "\n```\n";

pub fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/receipts.md")
}

/// Runs the Python verifier with nothing of this machine's environment but the token: exit code, stdout, stderr.
pub fn python(arguments: &[&str], token: &str) -> (i32, String, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/verify_receipts.py");
    // -I: no site directories, no PYTHON variables; only the standard library can be imported.
    let mut command = Command::new("python3");
    command.arg("-I").arg(script).args(arguments).env_clear().env("JAM_TOKEN", token).env("NO_PROXY", "*");
    let output = command.output().expect("python3 is installed: see dev/prerequisites");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn package() -> WorkPackage {
    serde_json::from_value(json!({
        "id": "01890a5d-ac96-774b-bcce-b302099a8057", "service_id": "demo", "nonce": "\u{7f}\n\"ü€😀\\", "status": "pending",
        "created_by": "9f86d081", "created_at": "2026-01-31T12:00:00.123456Z", "expiry": "2026-02-01T00:00:00.000000Z",
        "signature": "c2ln", "preimage_hashes": ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
        "items": [{
            "id": "01890a5d-ac96-774b-bcce-b302099a8058", "package_id": "01890a5d-ac96-774b-bcce-b302099a8057",
            "kind": "index", "params_hash": "p1", "max_fee": 9_223_372_036_854_775_807_u64, "memo": "\u{1}\u{1f}\t",
        }],
    }))
    .unwrap()
}

fn report() -> WorkReport {
    serde_json::from_value(json!({
        "id": "01890a5d-ac96-774b-bcce-b302099a8059", "package_id": "01890a5d-ac96-774b-bcce-b302099a8057",
        "service_id": "demo", "refine_output_hash": "ab".repeat(32), "refine_output_compact": "q6ur", "traces": ["one", ""],
        "created_at": "2026-01-31T12:00:01.000001Z", "status": "applied",
    }))
    .unwrap()
}

fn entry(entry_type: EntryType, hash: &str, metadata_hash: &str, status: PackageStatus) -> Entry {
    Entry { entry_type, hash: hash.into(), metadata_hash: metadata_hash.into(), status, extra: None }
}

/// Name, seq before the link, whether something precedes it, the entry, when, and the record that was hashed.
fn cases(algorithm: HashAlgorithm) -> Vec<(&'static str, u64, Entry, i64, Option<Value>)> {
    use EntryType::{Package, Report};
    use PackageStatus::{Applied, Disputed, Pending, Refined};
    let (package, report) = (package(), report());
    let sent = 1_769_860_800_123_456;
    vec![
        ("first link, a package", 0, Entry::of_package(algorithm, &package), sent, Some(json!(package))),
        ("second link, its report", 1, Entry::of_report(algorithm, &report), sent + 1, Some(json!(report))),
        ("every text empty", 0, entry(Package, "", "", Pending), 0, None),
        ("a byte in hash", 0, entry(Report, "ab", "c", Applied), 1, None),
        ("the same byte in metadata_hash", 0, entry(Report, "a", "bc", Applied), 1, None),
        ("lengths above 255 and beyond ASCII", 41, entry(Report, &"ü€😀".repeat(30), "00", Disputed), -1, None),
        ("control characters and NUL", 9, entry(Package, "\0\u{1}\n\u{7f}\"\\", "00", Refined), 999_999, None),
        ("the highest seq", 9_223_372_036_854_775_806, entry(Report, "h", "m", Applied), 1_000_000, None),
        ("late in the year 9999", 99, entry(Package, "h", "m", Pending), 253_402_207_199_999_999, None),
    ]
}

fn vector(algorithm: HashAlgorithm, case: (&'static str, u64, Entry, i64, Option<Value>)) -> Value {
    let (name, seq, entry, at, record) = case;
    let before = if seq == 0 { String::new() } else { hex::encode(algorithm.hash(&seq.to_be_bytes())) };
    let receipt = Chain::at("demo".parse().unwrap(), seq, before).append(algorithm, entry, Timestamp::from_micros(at));
    let mut vector = json!({
        "name": name, "accumulator_hash": algorithm, "receipt": receipt, "bytes": hex::encode(layout(&receipt)),
    });
    if let Some(record) = record {
        vector["record"] = record;
    }
    vector
}

/// The layout once more, as the page tells it: a vector must not come from the code that it proves.
fn layout(receipt: &Receipt) -> Vec<u8> {
    let shown = json!(receipt);
    let text = |name: &str| shown[name].as_str().unwrap().to_owned();
    let (seq, at) = (receipt.seq.to_string(), text("processed_at"));
    let (prev_root, kind, hash) = (text("prev_root"), text("entry_type"), text("hash"));
    let fields = [DOMAIN.into(), prev_root, kind, hash, text("metadata_hash"), text("status"), seq, at];
    let part = |field: &String| [&u32::try_from(field.len()).unwrap().to_be_bytes()[..], field.as_bytes()].concat();
    fields.iter().flat_map(part).collect()
}

fn vectors() -> Vec<Value> {
    let both = [HashAlgorithm::Sha256, HashAlgorithm::Blake3];
    both.into_iter()
        .flat_map(|algorithm| cases(algorithm).into_iter().map(move |case| vector(algorithm, case)))
        .collect()
}

/// One word of the worker in the server for each hash, with the bytes that are signed, laid out as the page tells it.
fn attestations() -> Vec<Value> {
    let of = |algorithm: HashAlgorithm| {
        let mut engine = Engine::hash_refiner(algorithm, 1, true);
        let report = WorkReport { status: PackageStatus::Refined, ..report() };
        let mut word = engine.attestors.remove(0).attest(&report, Timestamp::from_micros(1_769_860_801_000_002));
        // A release of our own must not change what is published.
        word.engine_version = "0.1.0".into();
        word.signature = attestation::signature(algorithm, &json!(report), &word);
        let (shown, report_hash) = (json!(word), hex::encode(algorithm.hash(&canonical::bytes(&report))));
        let text = |name: &str| shown[name].as_str().unwrap().to_owned();
        let (weight, created_at) = (shown["weight"].to_string(), text("created_at"));
        let last = [text("worker_id"), weight, created_at, text("engine"), text("engine_version")];
        let fields = [&["jam-attestation-v2".to_owned(), report_hash][..], &last].concat();
        let part = |field: &String| [&u32::try_from(field.len()).unwrap().to_be_bytes()[..], field.as_bytes()].concat();
        let bytes: Vec<u8> = fields.iter().flat_map(part).collect();
        assert_eq!(word.signature, BASE64.encode(algorithm.hash(&bytes)));
        json!({"accumulator_hash": algorithm, "report": report, "attestation": word, "bytes": hex::encode(bytes)})
    };
    [HashAlgorithm::Sha256, HashAlgorithm::Blake3].map(of).into()
}

/// Compares a block of the page with these values, or writes them.
fn published(open: &str, values: &[Value]) {
    let lines: Vec<String> = values.iter().map(ToString::to_string).collect();
    let text = std::fs::read_to_string(page()).unwrap();
    let (before, rest) = text.split_once(open).unwrap();
    let (published, after) = rest.split_once(CLOSE).unwrap();
    let computed = format!("[\n{}\n]", lines.join(",\n"));
    if std::env::var_os("JAM_BLESS").is_some() {
        std::fs::write(page(), [before, open, &computed, CLOSE, after].concat()).unwrap();
        return;
    }
    assert_eq!(published, computed, "JAM_BLESS=1 writes them again; but a change breaks what is stored");
}

#[test]
fn the_published_vectors_are_what_the_code_computes() {
    published(OPEN, &vectors());
    published(OPEN_ATTESTATIONS, &attestations());
}

#[test]
fn every_published_root_is_the_hash_of_its_published_bytes() {
    let text = std::fs::read_to_string(page()).unwrap();
    let block = text.split_once(OPEN).unwrap().1.split_once(CLOSE).unwrap().0;
    let vectors: Vec<Value> = serde_json::from_str(block).unwrap();
    assert!(vectors.len() >= 12);
    for vector in vectors {
        let algorithm: HashAlgorithm = serde_json::from_value(vector["accumulator_hash"].clone()).unwrap();
        let bytes = hex::decode(vector["bytes"].as_str().unwrap()).unwrap();
        let receipt: Receipt = serde_json::from_value(vector["receipt"].clone()).unwrap();
        assert_eq!(hex::encode(algorithm.hash(&bytes)), receipt.new_root, "{vector}");
        assert_eq!(root_of(algorithm, &receipt), receipt.new_root, "{vector}");
    }
}

#[test]
fn python_computes_the_published_vectors() {
    let page = page();
    let (code, out, err) = python(&["--vectors", page.to_str().unwrap()], "");
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out, "18 vectors have the documented bytes, 9 of them sha256 with the documented root\n");
}

#[test]
fn python_finds_a_wrong_vector() {
    let text = std::fs::read_to_string(page()).unwrap();
    let changed = text.replacen("\"hash\":\"ab\"", "\"hash\":\"ac\"", 1);
    assert_ne!(changed, text);
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("copy.md");
    std::fs::write(&copy, changed).unwrap();
    let (code, _, err) = python(&["--vectors", copy.to_str().unwrap()], "");
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("a byte in hash"), "{err}");
    let changed = text.replacen("\"weight\":1", "\"weight\":2", 1);
    assert_ne!(changed, text);
    std::fs::write(&copy, changed).unwrap();
    let (code, _, err) = python(&["--vectors", copy.to_str().unwrap()], "");
    assert_eq!(
        (code, err.as_str()),
        (
            1,
            "the chain of service None is broken: attestation of local: the bytes differ\n0 receipts verified up to the break\n"
        )
    );
}
