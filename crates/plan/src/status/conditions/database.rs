//! `DatabaseReachable`: what pods, or the migration of the wanted DSN, say of the database.

use jam_domain::StoreKind;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{Said, no, unknown, yes};
use crate::crd::{ConditionType, JamInstanceStatus};
use crate::observed::{JobState, MigrationJob, Observed};
use crate::reason::{Reason, Refusal};
use crate::resolve::Resolved;
use crate::status::Verdict;

/// Whether the database that the spec wants answers.
pub(super) fn database(resolved: Option<&Resolved>, verdict: Verdict<'_>, observed: &Observed) -> Said {
    let kind = ConditionType::DatabaseReachable;
    if let Verdict::Refused(Refusal { reason: reason @ (Reason::SecretMissing | Reason::SecretKeyMissing), message }) =
        verdict
    {
        return no(kind, *reason, message.clone());
    }
    if resolved.is_some_and(|resolved| resolved.settings.store == StoreKind::Memory) {
        return yes(kind, Reason::NotNeeded, "the memory store needs no database");
    }
    let could_not = |job: &MigrationJob| {
        no(kind, Reason::DatabaseUnreachable, format!("migration Job {} could not reach it", job.name))
    };
    if let Some(job) = resolved.and_then(|resolved| unreached(resolved, observed)) {
        return could_not(job);
    }
    match &observed.database {
        Some(probe) if probe.reachable => yes(kind, Reason::Reachable, "the database answers"),
        Some(probe) => no(kind, Reason::DatabaseUnreachable, probe.message.clone()),
        None => match observed.migration_jobs.iter().max_by_key(|job| job.attempt) {
            Some(job) if job.state.lacks_database() => could_not(job),
            Some(_) | None => unknown(kind, Reason::NotAsked, "no pod has asked the database yet"),
        },
    }
}

/// The last migration of the wanted DSN that ended, where it could not reach its database. Pods with another DSN are ready
/// meanwhile, and say nothing about this one.
fn unreached<'a>(resolved: &Resolved, observed: &'a Observed) -> Option<&'a MigrationJob> {
    let told = resolved.migration.status.as_ref().filter(|_| !resolved.migration.is_complete())?;
    let wanted = resolved.database.as_ref()?;
    if resolved.running(observed).is_some_and(|running| running.dsn_hash() == wanted.dsn_hash) {
        return None;
    }
    let ended = observed.migration_jobs.iter().filter(|job| job.key == told.key && job.state != JobState::Running);
    ended.max_by_key(|job| job.attempt).filter(|job| job.state.lacks_database())
}

/// Until when the database was known to be away. When nobody could say anything after it was, it may have been until somebody does;
/// a first word about it ends no outage.
pub(in crate::status) fn away_until(before: &JamInstanceStatus, now: &[Condition]) -> Option<Time> {
    let of = |conditions: &[Condition]| {
        let told = conditions.iter().find(|told| told.type_ == ConditionType::DatabaseReachable.as_str());
        told.map(|told| (told.status.clone(), told.last_transition_time.clone()))
    };
    let known = before.database_away_until.clone();
    let (Some((was, since)), Some((is, at))) = (of(&before.conditions), of(now)) else { return known };
    let ended = match (was.as_str(), is.as_str()) {
        ("False", "True" | "Unknown") => true,
        ("Unknown", "True") => known.as_ref() == Some(&since),
        (_, _) => false,
    };
    if ended { Some(at) } else { known }
}
