//! The bounds of the numbers: of the resource's schema and of the server's settings alike.

use super::{ServiceLimits, Settings};

pub(super) const MOST_RATE: u32 = 10_000_000;
pub(super) const MOST_SERVICE_RATE: u32 = 1_000_000;
pub(super) const MOST_PENDING: u32 = 10_000_000;
pub(super) const MOST_BYTES: u64 = 1 << 40;
pub(super) const MOST_DAYS: u32 = 36_500;
pub(crate) const MOST_THRESHOLD: u32 = 1000;
pub(super) const MOST_SERVICES: usize = 256;
pub(super) const MOST_ENTRIES: usize = 64;

impl ServiceLimits {
    /// The numbers that have an upper bound.
    pub(super) fn bounded(&self) -> [(&'static str, Option<u64>, u64); 4] {
        let Self { id: _, max_packages_per_minute, max_pending_packages, max_preimage_bytes, retention_days } = self;
        [
            ("max_packages_per_minute", max_packages_per_minute.map(u64::from), MOST_SERVICE_RATE.into()),
            ("max_pending_packages", max_pending_packages.map(u64::from), MOST_PENDING.into()),
            ("max_preimage_bytes", *max_preimage_bytes, MOST_BYTES),
            ("retention_days", retention_days.map(u64::from), MOST_DAYS.into()),
        ]
    }
}

impl Settings {
    /// The numbers that have an upper bound, and the length of the lists.
    pub(super) fn bounded(&self) -> [(&'static str, u64, u64); 9] {
        [
            ("rate_limit_per_minute", self.rate_limit_per_minute.into(), MOST_RATE.into()),
            ("max_preimage_bytes", self.max_preimage_bytes, MOST_BYTES),
            ("max_pending_packages", self.max_pending_packages.into(), MOST_PENDING.into()),
            ("retention_days", self.retention_days.into(), MOST_DAYS.into()),
            ("archive_days", self.archive_days.into(), MOST_DAYS.into()),
            ("attestation_threshold", self.attestation_threshold.into(), MOST_THRESHOLD.into()),
            ("services", self.services.len() as u64, MOST_SERVICES as u64),
            ("allowed_media_types", self.allowed_media_types.len() as u64, MOST_ENTRIES as u64),
            ("allowed_origins", self.allowed_origins.len() as u64, MOST_ENTRIES as u64),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{JamSettings, Profile};

    fn keys_refused(block: Value) -> Vec<&'static str> {
        let block: JamSettings = serde_json::from_value(block).unwrap();
        let mistakes = block.resolve(Profile::Local).err().unwrap_or_default();
        mistakes.into_iter().map(|mistake| mistake.key).collect()
    }

    #[test]
    fn what_is_above_the_schemas_bound_the_settings_refuse_too() {
        let schema = schemars::schema_for!(JamSettings).to_value();
        let (mut numbers, mut lists) = (0, 0);
        for (name, field) in schema["properties"].as_object().unwrap() {
            if let Some(most) = field["maximum"].as_u64() {
                numbers += 1;
                assert!(keys_refused(json!({name: most})).is_empty(), "{name}");
                assert_eq!(keys_refused(json!({name: most + 1})).len(), 1, "{name}");
            }
            if let Some(most) = field["maxItems"].as_u64() {
                lists += 1;
                let entry = |n: u64| match name.as_str() {
                    "services" => json!({"id": n.to_string()}),
                    "allowedOrigins" => json!(format!("https://a{n}")),
                    _ => json!(format!("a/b{n}")),
                };
                let list = |count: u64| (0..count).map(entry).collect::<Vec<_>>();
                assert!(keys_refused(json!({name: list(most)})).is_empty(), "{name}");
                assert_eq!(keys_refused(json!({name: list(most + 1)})).len(), 1, "{name}");
            }
        }
        assert_eq!((numbers, lists), (6, 3));
        for (name, field) in schema["$defs"]["ServiceLimits"]["properties"].as_object().unwrap() {
            let Some(most) = field["maximum"].as_u64() else { continue };
            assert!(keys_refused(json!({"services": [{"id": "s", name: most}]})).is_empty(), "{name}");
            assert_eq!(keys_refused(json!({"services": [{"id": "s", name: most + 1}]})), ["services"], "{name}");
        }
    }
}
