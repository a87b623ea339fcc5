//! Names and ids, each a type of its own, checked where the text comes in.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// The longest service id, in characters.
pub const MAX_NAME: usize = 128;

/// Whether the text is 1 to 128 characters of `[A-Za-z0-9._:-]`, the alphabet of service ids, kinds and params hashes.
pub fn is_plain_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

/// Derives what a checked text newtype needs: Display, and serde through `FromStr`.
macro_rules! text_form {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use text_form;

/// A service: the owner of one chain of state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(String);

impl ServiceId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServiceId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_plain_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a service id is 1 to 128 characters of A-Z a-z 0-9 . _ : -".into())
        }
    }
}

text_form!(ServiceId);

impl JsonSchema for ServiceId {
    fn schema_name() -> Cow<'static, str> {
        "ServiceId".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 1, "maxLength": MAX_NAME, "pattern": "^[A-Za-z0-9._:-]+$"})
    }
}

/// A token's public name: the first 8 hex digits of its SHA-256. `anonymous` when no token is required.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(String);

impl TokenId {
    /// The id of requests that came without a token, where none is required.
    pub fn anonymous() -> Self {
        Self("anonymous".into())
    }

    /// Who ends an override: the settings of the process, when they changed.
    pub fn settings() -> Self {
        Self("settings".into())
    }

    /// The id of the token with this SHA-256.
    pub fn of_hash(sha256: &[u8; 32]) -> Self {
        Self(hex::encode(&sha256[..4]))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TokenId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_plain_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a token id is 1 to 128 plain characters".into())
        }
    }
}

text_form!(TokenId);

impl JsonSchema for TokenId {
    fn schema_name() -> Cow<'static, str> {
        "TokenId".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 1, "maxLength": MAX_NAME, "pattern": "^[A-Za-z0-9._:-]+$"})
    }
}

macro_rules! uuid_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id, ordered by the time it was made (UUID version 7).
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                // Only the hyphenated form: one id has one spelling, in paths and in hashes.
                match (text.len(), Uuid::try_parse(text)) {
                    (36, Ok(id)) => Ok(Self(id)),
                    _ => Err(format!("{text:?} is not a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057")),
                }
            }
        }

        text_form!($name);

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "format": "uuid", "minLength": 36, "maxLength": 36})
            }
        }
    };
}

uuid_name!(
    /// A work package.
    PackageId
);
uuid_name!(
    /// A work item, named by the server.
    ItemId
);
uuid_name!(
    /// A work report.
    ReportId
);

/// Whether this is `type/subtype`, as RFC 6838 names media types.
pub fn is_media_type(text: &str) -> bool {
    text.split_once('/').is_some_and(|(kind, subtype)| is_media_token(kind) && is_media_token(subtype))
}

/// Whether this can be one half of a media type.
pub fn is_media_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_id_has_1_to_128_plain_characters() {
        assert!("svc-1.a:b_C".parse::<ServiceId>().is_ok());
        assert!("a".repeat(128).parse::<ServiceId>().is_ok());
        for wrong in ["", "a b", "ä", "a/b", &"a".repeat(129)] {
            assert!(wrong.parse::<ServiceId>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_id_has_one_spelling() {
        let id = PackageId::new();
        assert_eq!(id.to_string().parse::<PackageId>().unwrap(), id);
        assert!(id.0.simple().to_string().parse::<PackageId>().is_err());
    }

    #[test]
    fn a_token_id_is_the_first_8_digits_of_the_hash() {
        assert_eq!(TokenId::of_hash(&[0xab; 32]).as_str(), "abababab");
    }
}
