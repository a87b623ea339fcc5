//! The signature of the worker in the server: a hash over every field of its word and over the report, so that a later change of one is found.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::canonical;
use crate::digest::HashAlgorithm;
use crate::receipt::parts;
use crate::record::{Attestation, PackageStatus};

/// The first field of what is hashed: names the layout and keeps its hashes apart from all others.
pub const DOMAIN: &str = "jam-attestation-v2";

/// The worker id of the attestor built into the server.
pub const LOCAL_WORKER: &str = "local";

/// How much of a word its signature proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Every field of it, and of the report.
    Whole,
    /// It was given by an older release: who attests, which report and which output, nothing else.
    Older,
    /// Nothing: the signature is another one.
    Nothing,
}

/// The signature of this word for this report: base64 of H over seven texts, laid out as in a receipt's root.
pub fn signature(algorithm: HashAlgorithm, report: &Value, word: &Attestation) -> String {
    // The id of the report is in its hash.
    let Attestation { report_id: _, worker_id, signature: _, weight, created_at, engine, engine_version } = word;
    let (weight, created_at) = (weight.to_string(), created_at.to_string());
    let report_hash = hex::encode(algorithm.hash(&canonical::bytes(&refined(report))));
    let fields = [DOMAIN, &report_hash, worker_id, &weight, &created_at, engine, engine_version];
    BASE64.encode(algorithm.hash(&parts(&fields)))
}

/// What the signature of a word of the worker in the server proves, of the report as it is stored.
pub fn proof(algorithm: HashAlgorithm, report: &Value, word: &Attestation) -> Proof {
    if word.signature == signature(algorithm, report, word) {
        Proof::Whole
    } else if word.signature == former_signature(algorithm, report, word) {
        Proof::Older
    } else {
        Proof::Nothing
    }
}

/// The report as it was when it was attested.
fn refined(report: &Value) -> Value {
    let mut report = report.clone();
    if let Some(fields) = report.as_object_mut() {
        fields.insert("status".into(), PackageStatus::Refined.as_str().into());
    }
    report
}

/// What was signed before this layout.
fn former_signature(algorithm: HashAlgorithm, report: &Value, word: &Attestation) -> String {
    let said = canonical::bytes(&json!({
        "domain": "jam-attestation-v1",
        "report_id": word.report_id,
        "refine_output_hash": report.get("refine_output_hash"),
        "worker_id": word.worker_id,
    }));
    BASE64.encode(algorithm.hash(&said))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    const ALGORITHM: HashAlgorithm = HashAlgorithm::Sha256;

    fn report() -> Value {
        json!({
            "id": "01890a5d-ac96-774b-bcce-b302099a8059", "package_id": "01890a5d-ac96-774b-bcce-b302099a8057",
            "service_id": "demo", "refine_output_hash": "ab", "refine_output_compact": "q6ur", "traces": ["one"],
            "created_at": "2026-01-31T12:00:01.000001Z", "status": "applied",
        })
    }

    fn word() -> Attestation {
        let mut word = Attestation {
            report_id: "01890a5d-ac96-774b-bcce-b302099a8059".parse().unwrap(),
            worker_id: LOCAL_WORKER.into(),
            signature: String::new(),
            weight: 1,
            created_at: Timestamp::from_micros(1),
            engine: "hash-refiner".into(),
            engine_version: "1".into(),
        };
        word.signature = signature(ALGORITHM, &report(), &word);
        word
    }

    #[test]
    fn a_word_is_proven_wherever_its_report_stands() {
        for status in PackageStatus::ALL {
            let mut report = report();
            report["status"] = status.as_str().into();
            assert_eq!(proof(ALGORITHM, &report, &word()), Proof::Whole);
        }
    }

    #[test]
    fn a_change_of_any_field_of_a_word_is_found() {
        let changes: [fn(&mut Attestation); 6] = [
            |word| word.worker_id.push('x'),
            |word| word.signature.insert(0, 'x'),
            |word| word.weight = 2,
            |word| word.created_at = Timestamp::from_micros(2),
            |word| word.engine.push('x'),
            |word| word.engine_version.push('x'),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut word = word();
            change(&mut word);
            assert_eq!(proof(ALGORITHM, &report(), &word), Proof::Nothing, "change {at}");
        }
    }

    #[test]
    fn a_change_of_any_field_of_its_report_is_found() {
        for (name, _) in report().as_object().unwrap() {
            let mut report = report();
            report[name] = "other".into();
            let expected = if name == "status" { Proof::Whole } else { Proof::Nothing };
            assert_eq!(proof(ALGORITHM, &report, &word()), expected, "{name}");
        }
    }

    #[test]
    fn a_word_of_an_older_release_proves_its_worker_its_report_and_its_output() {
        let mut word = word();
        word.signature = former_signature(ALGORITHM, &report(), &word);
        assert_eq!(proof(ALGORITHM, &report(), &word), Proof::Older);
        word.weight = 9;
        assert_eq!(proof(ALGORITHM, &report(), &word), Proof::Older, "its weight is not covered");
        word.worker_id = "other".into();
        assert_eq!(proof(ALGORITHM, &report(), &word), Proof::Nothing);
    }
}
