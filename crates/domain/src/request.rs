//! What clients send, as the types that the OpenAPI document is written from; `submission` and `word` read and prove it.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;

use crate::control::Toggle;
use crate::digest::PreimageHash;
use crate::names::{MAX_NAME, PackageId, ReportId, ServiceId};
use crate::submission::{MAX_FEE, MAX_ITEMS, MAX_MEMO, MAX_NONCE, MAX_SIGNATURE};
use crate::time::Timestamp;
use crate::word::MAX_WEIGHT;

/// A work package as a client submits it. What the server sets (status, created_at, created_by, ids of items) is refused.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct PackageRequest {
    /// An id of the client's choice: sending the same package under it again is answered from the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<PackageId>,
    /// The service whose state the package changes.
    #[schemars(required)]
    pub service_id: Option<ServiceId>,
    /// The items of work, in their order.
    #[schemars(length(min = 1, max = MAX_ITEMS))]
    pub items: Vec<ItemRequest>,
    /// Tells equal packages apart; "" when it is left out. At most 128 characters, none of them NUL.
    #[schemars(length(max = MAX_NONCE), regex(pattern = NO_NUL))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// From this time on the package is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiry: Option<Timestamp>,
    /// The client's signature, base64 with padding, at most 4096 characters. Kept, not checked.
    #[schemars(length(max = MAX_SIGNATURE), regex(pattern = BASE64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Preimages that the whole package refers to; each must be stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preimage_hashes: Option<Vec<PreimageHash>>,
}

/// One item of a package as a client submits it.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ItemRequest {
    /// What is to be done.
    #[schemars(length(min = 1, max = MAX_NAME), regex(pattern = NAME))]
    pub kind: String,
    /// Hash of the parameters.
    #[schemars(length(min = 1, max = MAX_NAME), regex(pattern = NAME))]
    pub params_hash: String,
    /// Preimages that the item refers to; each must be stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preimage_hashes: Option<Vec<PreimageHash>>,
    /// The most that the client pays, a whole number without a unit of the server's.
    #[schemars(range(min = 0, max = MAX_FEE))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_fee: Option<u64>,
    /// A note, at most 1024 characters, none of them NUL.
    #[schemars(length(max = MAX_MEMO), regex(pattern = NO_NUL))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memo: Option<String>,
}

/// A further worker's word for a report.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AttestationRequest {
    /// Who attests; each worker once for each report.
    #[schemars(length(min = 1, max = MAX_NAME), regex(pattern = NAME))]
    pub worker_id: String,
    /// The worker's signature, base64 with padding, at most 4096 characters. Kept, not checked.
    #[schemars(length(max = MAX_SIGNATURE), regex(pattern = BASE64))]
    pub signature: String,
    /// How much the word counts towards `attestation_threshold`; 1 when it is left out.
    #[schemars(range(min = 1, max = MAX_WEIGHT))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// The engine that refined; `unknown` when it is left out.
    #[schemars(length(min = 1, max = MAX_NAME), regex(pattern = NAME))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// Its version; `unknown` when it is left out.
    #[schemars(length(min = 1, max = MAX_NAME), regex(pattern = NAME))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine_version: Option<String>,
    /// The output that the worker got, 64 lower-case hex digits; the report's when it is left out. Another one than the
    /// report's makes the package disputed.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refine_output_hash: Option<String>,
}

/// The report that ends a dispute.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AcceptRequest {
    /// One of the reports of the package.
    pub report_id: ReportId,
}

/// A setting to override.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ToggleRequest {
    /// The setting.
    pub key: Toggle,
    /// Its value from now on: true or false for `enabled`, else a whole number.
    #[schemars(schema_with = "toggle_value")]
    pub value: serde_json::Value,
}

fn toggle_value(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["boolean", "integer"], "minimum": 0})
}

/// A token that may act for a service.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct DelegateRequest {
    /// The SHA-256 of the token, 64 hex digits.
    pub sha256: PreimageHash,
    /// For people, 1 to 128 characters.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[!-~]+$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A delegate to take away.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct DelegateName {
    /// The SHA-256 of the token, 64 hex digits.
    pub sha256: PreimageHash,
}

/// A bucket to empty.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct BucketName {
    /// Its key, e.g. `token:0badcafe`.
    pub key: String,
}

/// Base64 with padding in its only spelling: bits that stand for nothing are zero.
const BASE64: &str = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";
const NAME: &str = "^[A-Za-z0-9._:-]+$";
const NO_NUL: &str = r"^[^\u0000]*$";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::submission::Submission;
    use crate::word::attestation;

    /// The request with every field set.
    fn whole() -> PackageRequest {
        let hashes = Some(vec![PreimageHash::of(b"")]);
        PackageRequest {
            id: Some(PackageId::new()),
            service_id: "s".parse().ok(),
            items: vec![ItemRequest {
                kind: "k".into(),
                params_hash: "p".into(),
                preimage_hashes: hashes.clone(),
                max_fee: Some(MAX_FEE),
                memo: Some("\u{e4}".repeat(MAX_MEMO)),
            }],
            nonce: Some("\u{e4}".repeat(MAX_NONCE)),
            expiry: Some(Timestamp::from_micros(1)),
            signature: Some("YQ==".into()),
            preimage_hashes: hashes,
        }
    }

    /// Whether the schema names this field of the object at `pointer`.
    fn named(schema: &Schema, fields: &[&str], value: &Value) {
        let properties = fields.iter().fold(schema.as_value(), |at, field| &at[field]);
        for key in value.as_object().unwrap().keys() {
            assert!(properties.get(key).is_some(), "{key} in {properties}");
        }
        assert_eq!(properties.as_object().unwrap().len(), value.as_object().unwrap().len());
    }

    #[test]
    fn every_field_of_the_document_is_read_and_no_other() {
        let sent = serde_json::to_value(whole()).unwrap();
        assert!(Submission::parse(sent.to_string().as_bytes()).is_ok(), "{sent}");
        let schema = schemars::schema_for!(PackageRequest);
        named(&schema, &["properties"], &sent);
        named(&schema, &["$defs", "ItemRequest", "properties"], &sent["items"][0]);
        let word = AttestationRequest {
            worker_id: "w".into(),
            signature: "YQ==".into(),
            weight: Some(MAX_WEIGHT),
            engine: Some("e".into()),
            engine_version: Some("1".into()),
            refine_output_hash: Some("ab".repeat(32)),
        };
        let sent = serde_json::to_value(word).unwrap();
        assert!(attestation(sent.to_string().as_bytes(), ReportId::new(), Timestamp::from_micros(1)).is_ok());
        named(&schemars::schema_for!(AttestationRequest), &["properties"], &sent);
    }

    #[test]
    fn what_the_document_lets_be_left_out_may_be_left_out() {
        let schema = schemars::schema_for!(PackageRequest);
        assert_eq!(schema.as_value()["required"], json!(["service_id", "items"]));
        let least = json!({"service_id": "s", "items": [{"kind": "k", "params_hash": "p"}]});
        assert!(Submission::parse(least.to_string().as_bytes()).is_ok());
        let nulls =
            json!({"service_id": "s", "nonce": null, "items": [{"kind": "k", "params_hash": "p", "memo": null}]});
        assert!(Submission::parse(nulls.to_string().as_bytes()).is_ok());
    }
}
