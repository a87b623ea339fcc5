//! Hashes: the SHA-256 that names a preimage, and the algorithm of receipts and roots.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::names::text_form;

/// The hash of receipts, roots and refine outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum HashAlgorithm {
    /// BLAKE3 with 256 bits of output.
    #[serde(rename = "blake3-256")]
    Blake3,
    /// SHA-256.
    #[serde(rename = "sha256")]
    Sha256,
}

impl HashAlgorithm {
    /// The 32-byte hash of the bytes.
    pub fn hash(self, bytes: &[u8]) -> [u8; 32] {
        match self {
            HashAlgorithm::Blake3 => *blake3::hash(bytes).as_bytes(),
            HashAlgorithm::Sha256 => Sha256::digest(bytes).into(),
        }
    }

    /// The name in settings and statuses.
    pub fn as_str(self) -> &'static str {
        match self {
            HashAlgorithm::Blake3 => "blake3-256",
            HashAlgorithm::Sha256 => "sha256",
        }
    }
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a preimage: lower-case hex of the SHA-256 of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PreimageHash(pub [u8; 32]);

impl PreimageHash {
    /// The name of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for PreimageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PreimageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PreimageHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 32];
        let lower = text.len() == 64 && !text.bytes().any(|b| b.is_ascii_uppercase());
        match lower.then(|| hex::decode_to_slice(text, &mut bytes)) {
            Some(Ok(())) => Ok(Self(bytes)),
            _ => Err("a preimage hash is the SHA-256 of the bytes as 64 lower-case hex digits".into()),
        }
    }
}

text_form!(PreimageHash);

impl JsonSchema for PreimageHash {
    fn schema_name() -> Cow<'static, str> {
        "PreimageHash".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[0-9a-f]{64}$", "minLength": 64, "maxLength": 64})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preimage_hash_is_64_lower_case_hex_digits() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(empty.parse::<PreimageHash>().unwrap(), PreimageHash::of(b""));
        assert_eq!(PreimageHash::of(b"").to_string(), empty);
        assert!(empty.to_uppercase().parse::<PreimageHash>().is_err());
        assert!(empty[1..].parse::<PreimageHash>().is_err());
    }
}
