//! What happens to an instance over time: migrations, cleanup, deletion.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the database schema is moved forward before pods of a new version start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Migrations {
    /// Auto runs the migration Job at once; Manual waits until the annotation `jam.network/approve-migration` names it; the Migrated condition tells the command.
    #[serde(default)]
    pub mode: MigrationMode,
    /// Seconds after which a migration Job is given up.
    #[serde(default = "six_hundred")]
    #[schemars(range(min = 10, max = 86_400))]
    pub timeout_seconds: i64,
    /// Pods of a migration Job that may fail before the Job does.
    #[serde(default = "three")]
    #[schemars(range(min = 0, max = 10))]
    pub backoff_limit: i32,
}

impl Default for Migrations {
    fn default() -> Self {
        Self { mode: MigrationMode::Auto, timeout_seconds: six_hundred(), backoff_limit: three() }
    }
}

/// Whether a migration waits for a person.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MigrationMode {
    /// Runs at once.
    #[default]
    Auto,
    /// Waits for an approval annotation.
    Manual,
}

/// When old packages are archived and deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cleanup {
    /// Five cron fields (minute, hour, day of month, month, day of week), or one of @hourly, @daily, @weekly, @monthly, @yearly.
    #[serde(default = "nightly")]
    #[schemars(length(min = 6, max = 128))]
    pub schedule: String,
    /// The schedule's time zone, a name of the IANA database such as Europe/Berlin.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$"))]
    pub time_zone: String,
    /// Do not start new runs.
    #[serde(default)]
    pub suspend: bool,
    /// Only count what would be archived and deleted.
    #[serde(default)]
    pub dry_run: bool,
}

/// What happens to the token Secrets when the instance is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They stay, and an instance of the same name takes them over.
    #[default]
    Retain,
    /// They go with the instance.
    Delete,
}

fn six_hundred() -> i64 {
    600
}

fn three() -> i32 {
    3
}

fn nightly() -> String {
    "17 3 * * *".into()
}

fn utc() -> String {
    "Etc/UTC".into()
}
