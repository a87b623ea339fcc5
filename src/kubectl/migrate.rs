//! `migrate`: what a migration would apply, and its approval, where `spec.migrations.mode` is Manual.

use std::fmt::Write as _;

use jam_plan::Reason;
use jam_plan::crd::{MigrationState, MigrationStatus};
use jam_plan::names::APPROVE_MIGRATION;
use kube::ResourceExt as _;
use serde_json::json;

use super::args::MigrateArgs;
use super::cluster::{Cluster, Instance, place, told};
use super::fault::Fault;
use super::wait;

/// Approves by the key of the migration, which stands for one image and one database: never for what comes later.
pub async fn approve(cluster: &Cluster, args: &MigrateArgs) -> Result<String, Fault> {
    let MigrateArgs { name, dry_run, wait: waiting } = args;
    let instance = cluster.instance(name).await?;
    let at = place(&instance);
    let waits = wait::condition(&instance, "Migrated")
        .is_some_and(|condition| condition.reason == Reason::ApprovalNeeded.as_str());
    let Some(migration) = told(&instance).migration.filter(|_| waits) else {
        return Err(Fault::Refused(format!("{at}: no migration waits for approval; {}", stands(&instance))));
    };
    let MigrationStatus { key, image, would_apply, .. } = &migration;
    let mut text = format!("{at}: migration {key} to {image}\n");
    let would = would_apply.as_deref().unwrap_or("not known yet: a dry run of the image finds out");
    for line in would.lines() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {}", line.trim_end());
    }
    if *dry_run {
        let _ = writeln!(text, "approve it with: kubectl jam migrate {name} -n {}", cluster.namespace);
        return Ok(text);
    }
    if instance.annotations().get(APPROVE_MIGRATION) != Some(key) {
        cluster.change(name, &json!({"metadata": {"annotations": {APPROVE_MIGRATION: key}}})).await?;
    }
    text.push_str("approved; pods of the old version serve until it is complete\n");
    if waiting.wait {
        let what = format!("migration {key}");
        let job = wait::until(cluster, name, *waiting, &what, |instance| ended(instance, key)).await?;
        let _ = writeln!(text, "complete: Job {job}");
    }
    Ok(text)
}

/// The Job, when the migration is complete; a refusal when it failed.
fn ended(instance: &Instance, key: &str) -> Result<Option<String>, Fault> {
    let Some(migration) = told(instance).migration.filter(|migration| migration.key == key) else { return Ok(None) };
    let MigrationStatus { job, state, message, .. } = migration;
    match state {
        MigrationState::Pending | MigrationState::Running => Ok(None),
        MigrationState::Complete => Ok(Some(job)),
        MigrationState::Failed | MigrationState::Impossible => Err(Fault::Ended(format!(
            "{}: migration Job {job} failed, the old version serves: {}; kubectl jam explain {} -n {} says what to do",
            place(instance),
            message.unwrap_or_else(|| "no message".into()),
            instance.name_any(),
            instance.namespace().unwrap_or_default(),
        ))),
    }
}

/// Why nothing waits.
fn stands(instance: &Instance) -> String {
    wait::condition(instance, "Migrated")
        .map_or_else(|| "the operator has not looked at it yet".into(), |condition| wait::words(&condition))
}
