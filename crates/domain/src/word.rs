//! A further worker's word for a report: read and proven from a request's body.

use crate::fields::{Fields, object_of};
use crate::names::ReportId;
use crate::record::Attestation;
use crate::refusal::Refusal;
use crate::settings::MOST_THRESHOLD;
use crate::submission::{plain_name, signature};
use crate::time::Timestamp;

/// The heaviest word that one worker can give.
pub const MAX_WEIGHT: u32 = 1000;

/// Words that a report has at most, and as many those that contradict it together. A word weighs 1 at least, so that a report
/// which waits for the highest threshold there is never has as many.
pub const MAX_WORDS: usize = MOST_THRESHOLD as usize;

/// Reads the body of an attestation of this report.
///
/// Beside it the output that the worker got, when it says so.
pub fn attestation(body: &[u8], report_id: ReportId, now: Timestamp) -> Result<(Attestation, Option<String>), Refusal> {
    let mut fields = Fields::new(object_of(body)?, "");
    fields.refuse_server_made(&["report_id", "created_at"])?;
    let weight = fields.number("weight", 1..=MAX_WEIGHT.into())?.unwrap_or(1);
    let output = fields.text("refine_output_hash", output_hash)?;
    let said = Attestation {
        report_id,
        worker_id: fields.required_text("worker_id", plain_name)?,
        signature: fields.required_text("signature", signature)?,
        weight: u32::try_from(weight).unwrap_or(MAX_WEIGHT),
        created_at: now,
        engine: fields.text("engine", plain_name)?.unwrap_or_else(|| "unknown".into()),
        engine_version: fields.text("engine_version", plain_name)?.unwrap_or_else(|| "unknown".into()),
    };
    fields.finish()?;
    Ok((said, output))
}

fn output_hash(text: &str) -> Result<String, String> {
    let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if digits && text.len() == 64 { Ok(text.to_owned()) } else { Err("must be 64 lower-case hex digits".into()) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(body: &Value) -> Result<Attestation, Refusal> {
        attestation(body.to_string().as_bytes(), ReportId::new(), Timestamp::from_micros(1)).map(|(said, _)| said)
    }

    #[test]
    fn a_word_weighs_1_unless_it_says_otherwise() {
        let said = read(&json!({"worker_id": "w1", "signature": "YQ=="})).unwrap();
        assert_eq!((said.weight, said.engine.as_str()), (1, "unknown"));
        for seven in [json!(7), json!(7.0)] {
            assert_eq!(read(&json!({"worker_id": "w1", "signature": "YQ==", "weight": seven})).unwrap().weight, 7);
        }
    }

    #[test]
    fn a_wrong_weight_is_refused_with_both_of_its_bounds() {
        for weight in [json!(0), json!(1001), json!(-1), json!("1")] {
            let refused = read(&json!({"worker_id": "w", "signature": "YQ==", "weight": weight})).unwrap_err();
            assert_eq!(refused.message, "weight: must be a whole number from 1 to 1000", "{weight}");
        }
    }

    #[test]
    fn a_wrong_word_is_refused_by_field() {
        let cases = [
            (json!({"signature": "YQ=="}), "worker_id"),
            (json!({"worker_id": "w", "signature": "%"}), "signature"),
            (json!({"worker_id": "w"}), "signature"),
            (json!({"worker_id": "w", "signature": "YQ==", "weight": 0}), "weight"),
            (json!({"worker_id": "w", "signature": "YQ==", "weight": 1001}), "weight"),
            (json!({"worker_id": "w", "signature": "YQ==", "weight": -1}), "weight"),
            (json!({"worker_id": "w", "signature": "YQ==", "weight": 1.5}), "weight"),
            (json!({"worker_id": "w", "signature": "YQ==", "weight": 1e300}), "weight"),
            (json!({"worker_id": "w", "signature": "YQ==", "created_at": "x"}), "created_at"),
            (json!({"worker_id": "w", "signature": "YQ==", "report_id": "x"}), "report_id"),
            (json!({"worker_id": "w", "signature": "YQ==", "mood": 1}), "mood"),
            (json!({"worker_id": "w", "signature": "YQ==", "refine_output_hash": "AB"}), "refine_output_hash"),
        ];
        for (body, field) in cases {
            assert_eq!(read(&body).unwrap_err().details, Some(json!({"field": field})));
        }
    }
}
