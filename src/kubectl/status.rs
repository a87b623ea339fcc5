//! `status`: how instances are, for people, and what to do next.

use std::fmt::Write as _;

use jam_plan::Reason;
use jam_plan::crd::{CleanupStatus, MigrationStatus, RotationStatus, TokenStatus};
use jam_plan::reason::ReasonKind;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::args::{Form, StatusArgs};
use super::cluster::{Cluster, Instance, place, spec, told};
use super::fault::Fault;
use super::{explain, wait};
use crate::table::Table;

const HEADING: [&str; 8] = ["NAMESPACE", "NAME", "READY", "ENABLED", "STORE", "REPLICAS", "TOKENS", "NEXT"];

/// A table of many, or everything about one.
pub async fn show(cluster: &Cluster, args: &StatusArgs) -> Result<String, Fault> {
    let StatusArgs { name, all_namespaces, output } = args;
    let (found, one) = match name {
        Some(name) => (vec![cluster.instance(name).await?], true),
        None => (cluster.all(*all_namespaces).await?, false),
    };
    match output {
        Some(Form::Name) => {
            let names: Vec<String> =
                found.iter().map(|instance| format!("jaminstance.jam.network/{}\n", instance.name_any())).collect();
            Ok(names.concat())
        }
        Some(form @ (Form::Json | Form::Yaml)) => {
            let all: Vec<Value> = found.iter().map(record).collect();
            let value = if one { all.into_iter().next().unwrap_or_default() } else { json!({"items": all}) };
            written(&value, *form)
        }
        None if one => Ok(found.iter().map(page).collect()),
        None if found.is_empty() => {
            super::note(&format!("no JamInstance {}", scope(cluster, *all_namespaces)));
            Ok(String::new())
        }
        None => Ok(table(&found)),
    }
}

fn scope(cluster: &Cluster, everywhere: bool) -> String {
    if everywhere { "in any namespace".into() } else { format!("in namespace {}; -A shows all", cluster.namespace) }
}

fn written(value: &Value, form: Form) -> Result<String, Fault> {
    let unwritten = |error: String| Fault::Output(std::io::Error::other(error));
    match form {
        Form::Json | Form::Name => {
            serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| unwritten(error.to_string()))
        }
        Form::Yaml => serde_saphyr::to_string(value).map_err(|error| unwritten(error.to_string())),
    }
}

/// An instance for programs.
pub fn record(instance: &Instance) -> Value {
    json!({
        "namespace": instance.namespace(), "name": instance.name_any(), "generation": instance.metadata.generation,
        "paused": spec(instance, "/paused").cloned().unwrap_or(Value::Bool(false)),
        "status": told(instance), "next": next(instance),
    })
}

fn table(all: &[Instance]) -> String {
    let mut table = Table::new(&HEADING);
    for instance in all {
        let status = told(instance);
        let ready = wait::condition(instance, "Ready");
        let word = ready.map_or("Unknown".into(), |ready| match ready.status.as_str() {
            "True" => ready.status,
            _ => format!("{} ({})", ready.status, ready.reason),
        });
        table.row(vec![
            instance.namespace().unwrap_or_default(),
            instance.name_any(),
            word,
            switched(status.enabled).into(),
            store(instance),
            replicas(instance),
            status.tokens.len().to_string(),
            next(instance).into_iter().next().unwrap_or_default(),
        ]);
    }
    table.render()
}

fn switched(enabled: Option<bool>) -> &'static str {
    match enabled {
        Some(true) => "yes",
        Some(false) => "no",
        None => "?",
    }
}

fn store(instance: &Instance) -> String {
    let store = told(instance).store.map(|store| json!(store));
    store.as_ref().and_then(Value::as_str).unwrap_or("?").to_owned()
}

fn replicas(instance: &Instance) -> String {
    let status = told(instance);
    let wanted = match spec(instance, "/autoscaling") {
        Some(_) => status.replicas.map(i64::from),
        None => spec(instance, "/replicas").and_then(Value::as_i64),
    };
    let wanted = wanted.map_or_else(|| "?".into(), |wanted| wanted.to_string());
    format!("{}/{wanted}", status.ready_replicas.unwrap_or_default())
}

/// Everything about one instance.
pub fn page(instance: &Instance) -> String {
    let status = told(instance);
    // Until the operator writes, the schema's default stands there: -1 (adr/0022).
    let seen = status.observed_generation.filter(|seen| *seen >= 0);
    let seen = seen.map_or_else(|| "none".into(), |seen| seen.to_string());
    let generation = instance.metadata.generation.unwrap_or_default();
    let mut facts = vec![("instance", format!("{} (generation {generation}, seen {seen})", place(instance)))];
    facts.push(("endpoint", status.endpoint.clone().unwrap_or_else(|| "none yet".into())));
    facts.push(("jam", format!("enabled {}, store {}", switched(status.enabled), store(instance))));
    let version = status.version.clone().unwrap_or_default();
    let schema = version.schema.map(|schema| format!(", schema {schema}")).unwrap_or_default();
    facts.push(("image", format!("{}{schema}", version.image.unwrap_or_else(|| "none yet".into()))));
    facts.push(("replicas", format!("{} ready", replicas(instance))));
    if let Some(revision) = &status.revision {
        let phase = status.rollout.as_ref().map(|rollout| format!(", {:?}", rollout.phase)).unwrap_or_default();
        facts.push(("revision", format!("{} of generation {}{phase}", revision.name, revision.generation)));
    }
    facts.extend(status.tokens.iter().map(|token| ("token", token_line(token))));
    facts.extend(status.rotation.as_ref().and_then(rotation_line).map(|line| ("rotation", line)));
    facts.extend(status.migration.as_ref().map(|migration| ("migration", migration_line(migration))));
    facts.extend(status.cleanup.as_ref().and_then(cleanup_line).map(|line| ("cleanup", line)));
    let mut text = String::new();
    for (name, fact) in facts {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<10} {fact}");
    }
    let mut conditions = Table::new(&["CONDITION", "STATUS", "REASON", "MESSAGE"]);
    for condition in &status.conditions {
        conditions.row(vec![
            condition.type_.clone(),
            condition.status.clone(),
            condition.reason.clone(),
            condition.message.clone(),
        ]);
    }
    let _ = write!(text, "\n{}\n", conditions.render());
    for step in next(instance) {
        let _ = writeln!(text, "next: {step}");
    }
    text
}

fn token_line(token: &TokenStatus) -> String {
    let TokenStatus { consumer, key_id, issued_at, rotates_at, previous_key_id, previous_expires_at } = token;
    let mut line = format!("{consumer} {key_id}");
    for (word, at) in [("since", issued_at), ("next at", rotates_at)] {
        line.extend(at.as_ref().map(|at| format!(", {word} {}", at.0)));
    }
    if let Some(previous) = previous_key_id {
        let until = previous_expires_at.as_ref().map(|at| format!(" until {}", at.0)).unwrap_or_default();
        let _ = write!(line, ", before it {previous}{until}");
    }
    line
}

fn rotation_line(rotation: &RotationStatus) -> Option<String> {
    let RotationStatus { started_at, stage, consumer, waiting_for, shared: _, refused: _, refused_own: _ } = rotation;
    let stage = stage.as_ref().filter(|stage| *stage != "Idle")?;
    let mut line = format!("{stage} {}", consumer.clone().unwrap_or_default());
    line.extend(started_at.as_ref().map(|at| format!(", began {}", at.0)));
    if !waiting_for.is_empty() {
        let _ = write!(line, ", waits for {}", waiting_for.join(", "));
    }
    Some(line.trim_end().to_owned())
}

fn migration_line(migration: &MigrationStatus) -> String {
    let MigrationStatus { job, state, retry_at, .. } = migration;
    let again = retry_at.as_ref().map(|at| format!(", again at {}", at.0)).unwrap_or_default();
    format!("{state:?}, Job {job}{again}")
}

fn cleanup_line(cleanup: &CleanupStatus) -> Option<String> {
    let CleanupStatus {
        last_run,
        last_ended: _,
        last_result,
        dry_run: _,
        failure: _,
        last_real: _,
        cutoff: _,
        duration_ms: _,
        archived,
        deleted,
        timetable: _,
        timetable_since: _,
    } = cleanup;
    let mut line =
        format!("{} {}", last_result.as_ref()?, last_run.as_ref().map(|at| at.0.to_string()).unwrap_or_default());
    for (word, counts) in [("archived", archived), ("deleted", deleted)] {
        let counts: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        if !counts.is_empty() {
            let _ = write!(line, ", {word} {}", counts.join(", "));
        }
    }
    Some(line)
}

/// What ends each override, in the words of the condition: `KEY is VALUE instead of VALUE, …; how each ends`. Who set it, and since
/// when, only the API tells, and only administrators.
fn ends_of_overrides(message: &str) -> Vec<String> {
    let active = message.split("; ").next().unwrap_or_default();
    let keys: Vec<&str> = active.split(", ").filter_map(|one| one.split_once(" is ").map(|(key, _)| key)).collect();
    let each = keys.iter().map(|key| {
        format!("to end the override of {key}, which lasts until then: slctl jam admin toggles --delete {key}, or change it in the spec")
    });
    let who = (!keys.is_empty()).then(|| "who overrode, and since when: slctl jam admin toggles".to_owned());
    each.chain(who).collect()
}

/// What to do next, the most urgent first; one line when there is nothing to do.
pub fn next(instance: &Instance) -> Vec<String> {
    let (name, namespace) = (instance.name_any(), instance.namespace().unwrap_or_default());
    let mut steps = Vec::new();
    if explain::unseen(instance) {
        steps.push("the operator has not seen this yet: kubectl get pods -A -l jam.network/component=operator".into());
    }
    let (mut waits, mut overridden) = (None, Vec::new());
    for (condition, reason) in explain::ills(instance) {
        match reason {
            Some(Reason::ApprovalNeeded) => steps.push(format!("kubectl jam migrate {name} -n {namespace}")),
            Some(Reason::PausedBySpec) => steps.push(format!("kubectl jam resume {name} -n {namespace}")),
            Some(Reason::OverrideActive) => overridden = ends_of_overrides(&condition.message),
            Some(reason) if reason.kind() == ReasonKind::UnderWay => {
                waits = waits.or(Some(format!("wait, {}", reason.explanation())));
            }
            Some(_) | None => {
                let command = format!("kubectl jam explain {name} -n {namespace}");
                if !steps.contains(&command) {
                    steps.push(command);
                }
            }
        }
    }
    steps.extend(overridden);
    steps.extend(waits);
    if steps.is_empty() {
        steps.push("nothing to do".into());
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_override_is_told_with_what_ends_it() {
        let message = "enabled is false instead of true, max_pending_packages is 5 instead of 100; each lasts until it is deleted";
        let told = ends_of_overrides(message).join("\n");
        for key in ["enabled", "max_pending_packages"] {
            assert!(told.contains(&format!("slctl jam admin toggles --delete {key},")), "{told}");
        }
        assert_eq!(told.lines().count(), 3, "{told}");
        assert!(ends_of_overrides("what a newer operator says").is_empty());
    }
}
