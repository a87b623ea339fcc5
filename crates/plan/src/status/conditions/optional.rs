//! What is said about kinds that an API server may do without.

use super::{Said, no, stored, unknown, yes};
use crate::Kind;
use crate::crd::{ConditionType, JamInstance};
use crate::reason::Reason;
use crate::resolve::Resolved;

pub(super) fn optional(instance: &JamInstance, resolved: Option<&Resolved>) -> Said {
    let kind = ConditionType::OptionalKindsServed;
    let Some(resolved) = resolved else {
        return stored(instance, kind).unwrap_or_else(|| unknown(kind, Reason::NotAsked, "nobody was asked yet"));
    };
    let wanted = &resolved.optional;
    let written = |kind: Kind| format!("{} ({})", kind.as_str(), kind.api_version());
    let missing: Vec<String> = resolved.left_out().map(written).collect();
    if wanted.is_empty() {
        yes(kind, Reason::NotNeeded, "the spec asks for none")
    } else if missing.is_empty() {
        let served: Vec<String> = wanted.iter().copied().map(written).collect();
        yes(kind, Reason::KindsServed, format!("served: {}", served.join(", ")))
    } else {
        let what = missing.join(", ");
        no(
            kind,
            Reason::KindNotServed,
            format!("left out, because the API server does not serve {what}; made when its definition is installed"),
        )
    }
}
