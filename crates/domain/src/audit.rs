//! What administrators did: each action with what it found and what it left, in words that both stores write alike.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::control::{Change, ControlKey};
use crate::names::{PackageId, TokenId};
use crate::record::Preimage;
use crate::retention::{Cleaned, CleanupRun};
use crate::time::Timestamp;

/// Who changes something, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By {
    /// The administrator's token.
    pub token_id: TokenId,
    /// Now.
    pub at: Timestamp,
}

/// What an administrator can do that leaves a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Act {
    /// A preimage was deleted.
    #[serde(rename = "preimage.delete")]
    DeletePreimage,
    /// An archived package was brought back.
    #[serde(rename = "package.restore")]
    RestorePackage,
    /// A cleanup was run by hand.
    #[serde(rename = "cleanup.run")]
    RunCleanup,
    /// A setting was overridden.
    #[serde(rename = "toggle.set")]
    SetToggle,
    /// An override was taken back.
    #[serde(rename = "toggle.delete")]
    DeleteToggle,
    /// An override ended because the setting's own value changed.
    #[serde(rename = "toggle.end")]
    EndToggle,
    /// The quota of a service was set.
    #[serde(rename = "quota.set")]
    SetQuota,
    /// The quota of a service was taken back.
    #[serde(rename = "quota.delete")]
    DeleteQuota,
    /// A token may act for a service.
    #[serde(rename = "delegate.add")]
    AddDelegate,
    /// A token may not act for a service any more.
    #[serde(rename = "delegate.remove")]
    RemoveDelegate,
    /// A bucket of the rate limit was emptied.
    #[serde(rename = "rate_limit.reset")]
    ResetBucket,
    /// A dispute was ended with a report.
    #[serde(rename = "dispute.accept")]
    AcceptReport,
    /// A dispute was ended without a report.
    #[serde(rename = "dispute.reject")]
    RejectReports,
}

impl Act {
    /// Every act.
    pub const ALL: [Self; 13] = [
        Self::DeletePreimage,
        Self::RestorePackage,
        Self::RunCleanup,
        Self::SetToggle,
        Self::DeleteToggle,
        Self::EndToggle,
        Self::SetQuota,
        Self::DeleteQuota,
        Self::AddDelegate,
        Self::RemoveDelegate,
        Self::ResetBucket,
        Self::AcceptReport,
        Self::RejectReports,
    ];

    /// The word in the audit.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeletePreimage => "preimage.delete",
            Self::RestorePackage => "package.restore",
            Self::RunCleanup => "cleanup.run",
            Self::SetToggle => "toggle.set",
            Self::DeleteToggle => "toggle.delete",
            Self::EndToggle => "toggle.end",
            Self::SetQuota => "quota.set",
            Self::DeleteQuota => "quota.delete",
            Self::AddDelegate => "delegate.add",
            Self::RemoveDelegate => "delegate.remove",
            Self::ResetBucket => "rate_limit.reset",
            Self::AcceptReport => "dispute.accept",
            Self::RejectReports => "dispute.reject",
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Act {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|act| act.as_str() == text).ok_or_else(|| format!("{text:?} is no act of the audit"))
    }
}

/// One action, about to be written with its effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// Who, and when.
    pub by: By,
    /// What was done.
    pub act: Act,
    /// To what: a hash, an id, a service, a key; "" when there is only one.
    pub target: String,
    /// How it was; null when it was not.
    pub before: Value,
    /// How it is now; null when it is gone.
    pub after: Value,
}

impl Deed {
    /// A preimage was deleted.
    pub fn deleted_preimage(by: &By, preimage: &Preimage) -> Self {
        let before = serde_json::to_value(preimage).unwrap_or_default();
        Self::of(by, Act::DeletePreimage, preimage.hash, before, Value::Null)
    }

    /// A package was brought back from the archive.
    pub fn restored_package(by: &By, id: PackageId, archived_at: Timestamp) -> Self {
        Self::of(by, Act::RestorePackage, id, json!({"archived_at": archived_at}), json!({"restored_at": by.at}))
    }

    /// A cleanup was asked for by hand. It is many transactions, so this line comes before the first of them.
    pub fn asks_for_cleanup(by: &By, cutoff: Option<Timestamp>) -> Self {
        Self::of(by, Act::RunCleanup, "", Value::Null, json!({"result": "asked", "cutoff": cutoff}))
    }

    /// A cleanup was run by hand and ended, well or not.
    pub fn ran_cleanup(by: &By, run: &CleanupRun) -> Self {
        let CleanupRun { started_at, finished_at, cutoff, cleaned, error } = run;
        let Cleaned { archived_packages, archived_reports, deleted_packages, deleted_reports, deleted_preimages } =
            cleaned;
        let after = json!({
            "result": if error.is_none() { "ok" } else { "failed" },
            "started_at": started_at,
            "finished_at": finished_at,
            "cutoff": cutoff,
            "archived": {"packages": archived_packages, "reports": archived_reports},
            "deleted": {"packages": deleted_packages, "reports": deleted_reports, "preimages": deleted_preimages},
        });
        Self::of(by, Act::RunCleanup, "", Value::Null, after)
    }

    /// Something was set at run time, or is not any more.
    pub fn controlled(by: &By, key: &ControlKey, before: Option<&Value>, change: &Change) -> Self {
        let act = match (key, change) {
            (ControlKey::Override(_), Change::Set(_)) => Act::SetToggle,
            (ControlKey::Override(_), Change::Remove) => Act::DeleteToggle,
            (ControlKey::Override(_), Change::End(_)) => Act::EndToggle,
            (ControlKey::Quota(_), Change::Set(_)) => Act::SetQuota,
            (ControlKey::Quota(_), Change::Remove | Change::End(_)) => Act::DeleteQuota,
            (ControlKey::Delegate(..), Change::Set(_)) => Act::AddDelegate,
            (ControlKey::Delegate(..), Change::Remove | Change::End(_)) => Act::RemoveDelegate,
        };
        let shown = |value: &Value| match key {
            ControlKey::Override(_) | ControlKey::Quota(_) => value.clone(),
            // The id only, as everywhere: the hash of a weak token can be searched for.
            ControlKey::Delegate(_, hash) => json!({"token_id": hash.id(), "name": value["name"]}),
        };
        let after = match change {
            Change::Set(value) => shown(value),
            Change::Remove | Change::End(_) => Value::Null,
        };
        Self::of(by, act, key.target(), before.map(shown).unwrap_or_default(), after)
    }

    /// Any act.
    pub fn of(by: &By, act: Act, target: impl fmt::Display, before: Value, after: Value) -> Self {
        Self { by: by.clone(), act, target: target.to_string(), before, after }
    }
}

/// One line of the audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AuditEntry {
    /// Its number; a later action has a higher one.
    pub id: u64,
    /// When it was done.
    pub at: Timestamp,
    /// The administrator's token; `settings` where a changed setting ended an override.
    pub token_id: TokenId,
    /// What was done.
    pub action: Act,
    /// To what: a hash, an id, a service, a key; "" when there is only one.
    pub target: String,
    /// How it was; null when it was not.
    pub before: Value,
    /// How it is now; null when it is gone.
    pub after: Value,
}

impl AuditEntry {
    /// The line of this deed under this number.
    pub fn of(id: u64, deed: Deed) -> Self {
        let Deed { by: By { token_id, at }, act, target, before, after } = deed;
        Self { id, at, token_id, action: act, target, before, after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_act_has_one_word_in_rust_json_and_columns() {
        for act in Act::ALL {
            assert_eq!(act.as_str().parse(), Ok(act));
            assert_eq!(serde_json::to_value(act).unwrap(), act.as_str());
        }
    }
}
