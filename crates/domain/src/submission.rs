//! A submitted work package: read, proven field by field, fingerprinted, and stamped with what the server adds.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::canonical;
use crate::digest::PreimageHash;
use crate::fields::{Fields, object_of};
use crate::names::{ItemId, PackageId, ServiceId, TokenId, is_plain_name};
use crate::record::{PackageStatus, WorkItem, WorkPackage};
use crate::refusal::Refusal;
use crate::time::Timestamp;

/// Items that a package has at most.
pub const MAX_ITEMS: usize = 1000;
/// Characters that a nonce has at most.
pub const MAX_NONCE: usize = 128;
/// Characters that a memo has at most.
pub const MAX_MEMO: usize = 1024;
/// Characters of base64 that a signature has at most.
pub const MAX_SIGNATURE: usize = 4096;
/// The highest fee: what PostgreSQL's bigint holds.
pub const MAX_FEE: u64 = u64::MAX >> 1;
/// Characters that an Idempotency-Key has at most.
pub const MAX_KEY: usize = 128;

/// A package as a client may send it: every field is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    id: Option<PackageId>,
    service_id: ServiceId,
    items: Vec<NewItem>,
    nonce: String,
    expiry: Option<Timestamp>,
    signature: Option<String>,
    preimage_hashes: Option<Vec<PreimageHash>>,
    fingerprint: [u8; 32],
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct NewItem {
    kind: String,
    params_hash: String,
    preimage_hashes: Option<Vec<PreimageHash>>,
    max_fee: Option<u64>,
    memo: Option<String>,
}

/// A submission as it will be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamped {
    /// The package, status `pending`.
    pub package: WorkPackage,
    /// SHA-256 of the canonical JSON of what the client sent, without its `id`.
    pub fingerprint: [u8; 32],
    /// Whether the client chose the id.
    pub id_from_client: bool,
}

impl Submission {
    /// Reads a request's body.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let mut sent = object_of(body)?;
        let id = sent.remove("id");
        let fingerprint = Sha256::digest(canonical::bytes(&sent)).into();
        if let Some(id) = id {
            sent.insert("id".into(), id);
        }
        let mut fields = Fields::new(sent, "");
        fields.refuse_server_made(&["status", "created_at", "created_by"])?;
        let submission = Self {
            id: fields.text("id", str::parse)?,
            service_id: fields.required_text("service_id", str::parse)?,
            items: items_of(&mut fields)?,
            nonce: fields.text("nonce", |text| at_most(text, MAX_NONCE))?.unwrap_or_default(),
            expiry: fields.text("expiry", str::parse)?,
            signature: fields.text("signature", signature)?,
            preimage_hashes: fields.texts("preimage_hashes", str::parse)?,
            fingerprint,
        };
        fields.finish()?;
        Ok(submission)
    }

    /// The service that it is for.
    pub fn service_id(&self) -> &ServiceId {
        &self.service_id
    }

    /// Adds what the server adds.
    pub fn stamp(self, created_by: TokenId, now: Timestamp) -> Stamped {
        let Self { id, service_id, items, nonce, expiry, signature, preimage_hashes, fingerprint } = self;
        let package_id = id.unwrap_or_default();
        let items = items.into_iter().map(|item| item.stamp(package_id)).collect();
        Stamped {
            package: WorkPackage {
                id: package_id,
                service_id,
                items,
                created_by,
                nonce,
                expiry,
                signature,
                preimage_hashes,
                status: PackageStatus::Pending,
                created_at: now,
            },
            fingerprint,
            id_from_client: id.is_some(),
        }
    }
}

/// The expiry of a package that it had passed already when it came. Stores ask this of what is new only: the answer to a
/// submission that came in time does not change when it is sent again later.
pub fn passed_expiry(package: &WorkPackage) -> Option<Timestamp> {
    package.expiry.filter(|expiry| *expiry <= package.created_at)
}

impl NewItem {
    fn stamp(self, package_id: PackageId) -> WorkItem {
        let Self { kind, params_hash, preimage_hashes, max_fee, memo } = self;
        WorkItem { id: ItemId::new(), package_id, kind, params_hash, preimage_hashes, max_fee, memo }
    }
}

fn items_of(fields: &mut Fields) -> Result<Vec<NewItem>, Refusal> {
    let values = match fields.take("items") {
        Some(Value::Array(values)) => values,
        Some(_) => return Err(Refusal::field("items", "must be a list")),
        None => return Err(Refusal::field("items", "is missing")),
    };
    if values.is_empty() || values.len() > MAX_ITEMS {
        return Err(Refusal::field("items", format!("has {} items; a package has 1 to {MAX_ITEMS}", values.len())));
    }
    values.into_iter().enumerate().map(|(n, value)| item_of(value, format!("items[{n}]"))).collect()
}

fn item_of(value: Value, place: String) -> Result<NewItem, Refusal> {
    let Value::Object(sent) = value else { return Err(Refusal::field(place, "must be an object")) };
    let mut fields = Fields::new(sent, place);
    fields.refuse_server_made(&["id", "package_id"])?;
    let item = NewItem {
        kind: fields.required_text("kind", plain_name)?,
        params_hash: fields.required_text("params_hash", plain_name)?,
        preimage_hashes: fields.texts("preimage_hashes", str::parse)?,
        max_fee: fields.number("max_fee", 0..=MAX_FEE)?,
        memo: fields.text("memo", |text| at_most(text, MAX_MEMO))?,
    };
    fields.finish()?;
    Ok(item)
}

/// A text of the alphabet of kinds and params hashes.
pub(crate) fn plain_name(text: &str) -> Result<String, String> {
    if is_plain_name(text) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 128 characters of A-Z a-z 0-9 . _ : -".into())
    }
}

/// A base64 text of bounded length.
pub(crate) fn signature(text: &str) -> Result<String, String> {
    if text.len() > MAX_SIGNATURE {
        return Err(format!("is longer than {MAX_SIGNATURE} characters"));
    }
    BASE64.decode(text).map(|_| text.to_owned()).map_err(|_| "is not base64".into())
}

fn at_most(text: &str, most: usize) -> Result<String, String> {
    // Characters and not bytes: that is what the JSON Schema of the OpenAPI document can say.
    if text.chars().count() > most {
        return Err(format!("is longer than {most} characters"));
    }
    // PostgreSQL text holds every character but this one; both stores refuse the same.
    if text.contains('\0') { Err("has a NUL character".into()) } else { Ok(text.to_owned()) }
}

/// Reads an Idempotency-Key header.
pub fn idempotency_key(text: &str) -> Result<String, Refusal> {
    let visible = text.bytes().all(|b| (b' '..=b'~').contains(&b));
    if visible && !text.trim().is_empty() && text.len() <= MAX_KEY {
        Ok(text.to_owned())
    } else {
        Err(Refusal::field("Idempotency-Key", format!("must be 1 to {MAX_KEY} visible ASCII characters")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::refusal::Code;

    fn parse(value: &Value) -> Result<Submission, Refusal> {
        Submission::parse(value.to_string().as_bytes())
    }

    fn minimal() -> Value {
        json!({"service_id": "svc-1", "items": [{"kind": "k", "params_hash": "p"}]})
    }

    fn with(pointer: &str, key: &str, value: Value) -> Value {
        let mut package = minimal();
        package.pointer_mut(pointer).unwrap().as_object_mut().unwrap().insert(key.into(), value);
        package
    }

    #[test]
    fn a_minimal_package_gets_ids_status_and_an_empty_nonce() {
        let now = Timestamp::from_micros(7);
        let stamped = parse(&minimal()).unwrap().stamp(TokenId::anonymous(), now);
        let package = stamped.package;
        assert_eq!((package.status, package.created_at, package.nonce.as_str()), (PackageStatus::Pending, now, ""));
        assert_eq!(package.items[0].package_id, package.id);
        assert!(!stamped.id_from_client);
    }

    #[test]
    fn every_wrong_field_is_refused_by_its_name() {
        let long = |n: usize| json!("a".repeat(n));
        let cases = [
            (with("", "status", json!("applied")), "status"),
            (with("", "created_at", json!("2026-01-01T00:00:00Z")), "created_at"),
            (with("", "created_by", json!("me")), "created_by"),
            (with("", "id", json!("not-a-uuid")), "id"),
            (with("", "service_id", json!("a b")), "service_id"),
            (with("", "service_id", json!(null)), "service_id"),
            (with("", "service_id", json!(7)), "service_id"),
            (with("", "items", json!([])), "items"),
            (with("", "items", json!({})), "items"),
            (with("", "items", json!(["x"])), "items[0]"),
            (with("", "items", Value::Array(vec![json!({"kind": "k", "params_hash": "p"}); 1001])), "items"),
            (with("", "nonce", long(129)), "nonce"),
            (with("", "nonce", json!("a\0b")), "nonce"),
            (with("", "expiry", json!("tomorrow")), "expiry"),
            (with("", "signature", json!("%%%")), "signature"),
            (with("", "signature", long(4100)), "signature"),
            (with("", "preimage_hashes", json!("x")), "preimage_hashes"),
            (with("", "preimage_hashes", json!(["x"])), "preimage_hashes[0]"),
            (with("", "colour", json!(1)), "colour"),
            (with("/items/0", "id", json!("x")), "items[0].id"),
            (with("/items/0", "package_id", json!("x")), "items[0].package_id"),
            (with("/items/0", "kind", long(129)), "items[0].kind"),
            (with("/items/0", "params_hash", json!("")), "items[0].params_hash"),
            (with("/items/0", "max_fee", json!(-1)), "items[0].max_fee"),
            (with("/items/0", "max_fee", json!(1.5)), "items[0].max_fee"),
            (with("/items/0", "memo", long(1025)), "items[0].memo"),
            (with("/items/0", "preimage_hashes", json!([1])), "items[0].preimage_hashes[0]"),
            (with("/items/0", "size", json!(1)), "items[0].size"),
        ];
        for (package, field) in cases {
            let refusal = parse(&package).unwrap_err();
            assert_eq!(refusal.code, Code::Validation, "{refusal}");
            assert_eq!(refusal.details, Some(json!({"field": field})));
        }
    }

    #[test]
    fn what_is_no_json_object_is_a_bad_request() {
        let deep = "[".repeat(100_000);
        for body in ["", "nope", "[]", "\"x\"", "{\"a\":", &deep] {
            assert_eq!(Submission::parse(body.as_bytes()).unwrap_err().code, Code::BadRequest);
        }
        assert_eq!(Submission::parse(b"{\"nonce\":\"\xff\"}").unwrap_err().code, Code::BadRequest);
    }

    #[test]
    fn the_fingerprint_is_of_the_content_not_of_its_order_or_id() {
        let fingerprint = |value: &Value| parse(value).unwrap().fingerprint;
        let reordered = "{ \"items\": [{\"params_hash\":\"p\",\"kind\":\"k\"}], \"service_id\": \"svc-1\" }";
        assert_eq!(fingerprint(&minimal()), Submission::parse(reordered.as_bytes()).unwrap().fingerprint);
        let id = PackageId::new().to_string();
        assert_eq!(fingerprint(&minimal()), fingerprint(&with("", "id", json!(id))));
        assert_ne!(fingerprint(&minimal()), fingerprint(&with("", "nonce", json!("n"))));
    }

    #[test]
    fn an_expiry_holds_until_its_very_moment() {
        let at = |micros| Timestamp::from_micros(micros);
        let came = |now| {
            let sent = parse(&with("", "expiry", json!(at(10).to_string()))).unwrap();
            passed_expiry(&sent.stamp(TokenId::anonymous(), now).package)
        };
        assert_eq!((came(at(9)), came(at(10))), (None, Some(at(10))));
    }

    #[test]
    fn an_idempotency_key_is_1_to_128_visible_characters() {
        assert!(idempotency_key("order 7").is_ok());
        for wrong in ["", "  ", "a\tb", "ä", &"k".repeat(129)] {
            assert!(idempotency_key(wrong).is_err(), "{wrong:?}");
        }
    }
}
