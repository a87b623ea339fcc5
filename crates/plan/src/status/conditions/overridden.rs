//! What is said about overrides: the settings that administrators have put in front of the spec's at run time.

use super::{Said, no, stored, yes};
use crate::crd::{ConditionType, JamInstance};
use crate::observed::{ActiveOverride, Observed};
use crate::reason::Reason;

/// Nothing before the first override; what was said before while no pod could be asked.
pub(super) fn overridden(instance: &JamInstance, observed: &Observed) -> Option<Said> {
    let kind = ConditionType::Overridden;
    let before = stored(instance, kind);
    match &observed.overrides {
        None => before,
        Some(active) if active.is_empty() => {
            before.map(|_| no(kind, Reason::NotOverridden, "the settings in force are the spec's"))
        }
        Some(active) => {
            let each: Vec<String> = active.iter().map(written).collect();
            let ends = "each lasts until it is deleted (DELETE /jam/admin/toggles/KEY) or the spec's own value changes";
            Some(yes(kind, Reason::OverrideActive, format!("{}; {ends}", each.join(", "))))
        }
    }
}

fn written(ActiveOverride { key, value, overrode }: &ActiveOverride) -> String {
    format!("{key} is {value} instead of {overrode}")
}
