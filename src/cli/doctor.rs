//! `doctor`: is the server reached, does it take the token, is everything there that it needs.

use std::fmt::Write as _;

use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::answer::Answer;
use crate::cli::args::DoctorArgs;
use crate::cli::client::{Call, Client, Repeat, Reply};
use crate::cli::connection::ConnectionArgs;
use crate::cli::fault::{Fault, Refused};
use crate::cli::outage::Class;
use crate::cli::status;
use crate::table::{Table, plain_line};

const COLUMNS: [(&str, &str); 5] =
    [("CHECK", "name"), ("STATE", "state"), ("CLASS", "class"), ("DETAIL", "detail"), ("NEXT", "next")];

/// What came of one check.
#[derive(Debug)]
enum Finding {
    Fine(String),
    Ill {
        class: Class,
        detail: String,
        next: String,
    },
    /// Not looked at, because of an earlier failure.
    Skipped,
}

#[derive(Debug)]
struct Check {
    name: &'static str,
    finding: Finding,
}

/// The stages of reaching a server, in the order in which they are passed.
const STAGES: [&str; 4] = ["resolve", "connect", "tls", "alive"];

/// What is checked of a server that was reached.
const LATER: [&str; 5] = ["ready", "authorized", "enabled", "store", "cleanup"];

/// `doctor`.
pub async fn examine(connection: &ConnectionArgs, args: DoctorArgs) -> Result<Answer, Fault> {
    let client = match connection.client() {
        Ok(client) => client,
        // The client itself needs the machine's CA certificates.
        Err(Fault::Unreachable { class, addr, detail }) => {
            let finding = |name| if name == "tls" { sick(class, detail.clone()) } else { Finding::Skipped };
            let checks = STAGES.into_iter().chain(LATER).map(|name| Check { name, finding: finding(name) });
            return Ok(answer(&addr, checks.collect(), args));
        }
        Err(fault) => return Err(fault),
    };
    let mut checks = reached(look(&client, &["healthz"]).await.and_then(|reply| reply.json()), client.is_tls());
    if checks.iter().all(|check| matches!(check.finding, Finding::Fine(_))) {
        checks.push(Check { name: "ready", finding: readiness(look(&client, &["readyz"]).await) });
        checks.extend(served(look(&client, &["system", "status"]).await));
    } else {
        checks.extend(LATER.map(|name| Check { name, finding: Finding::Skipped }));
    }
    Ok(answer(client.addr(), checks, args))
}

/// The doctor looks once: a retry would hide what it looks for.
async fn look(client: &Client, path: &[&str]) -> Result<Reply, Fault> {
    client.send(Call::new(Method::GET, path, Repeat::Never)).await
}

/// Sorts the outcome of the first call into the stages of reaching a server.
fn reached(outcome: Result<Value, Fault>, tls: bool) -> Vec<Check> {
    let (failed_at, ill) = match outcome {
        Ok(_) => (STAGES.len(), None),
        Err(Fault::Unreachable { class, detail, .. }) => (stage_of(class, tls), Some((class, detail))),
        Err(fault) => (3, Some((Class::ProviderUnavailable, fault.to_string()))),
    };
    let finding = |(stage, name): (usize, &'static str)| {
        let finding = match (&ill, stage.cmp(&failed_at)) {
            (Some((class, detail)), std::cmp::Ordering::Equal) => sick(*class, detail.clone()),
            (_, std::cmp::Ordering::Greater) => Finding::Skipped,
            (_, std::cmp::Ordering::Less | std::cmp::Ordering::Equal) => Finding::Fine(passed(stage).into()),
        };
        Check { name, finding }
    };
    STAGES.into_iter().enumerate().filter(|(_, name)| tls || *name != "tls").map(finding).collect()
}

fn stage_of(class: Class, tls: bool) -> usize {
    match class {
        Class::DnsResolution => 0,
        Class::NetworkUnreachable | Class::Timeout => 1,
        Class::Tls if tls => 2,
        Class::Tls | Class::Unauthorized | Class::ProviderUnavailable => 3,
    }
}

fn passed(stage: usize) -> &'static str {
    match stage {
        0 => "the host has an address",
        1 => "the server takes connections",
        2 => "its certificate is trusted",
        _ => "GET /healthz answers",
    }
}

fn sick(class: Class, detail: String) -> Finding {
    Finding::Ill { class, detail, next: class.next().into() }
}

fn unavailable(detail: impl Into<String>, next: &str) -> Finding {
    Finding::Ill { class: Class::ProviderUnavailable, detail: detail.into(), next: next.into() }
}

fn readiness(outcome: Result<Reply, Fault>) -> Finding {
    match outcome {
        Ok(_) => Finding::Fine("GET /readyz answers: it takes work".into()),
        Err(Fault::Unreachable { class, detail, .. }) => sick(class, detail),
        Err(fault) => unavailable(fault.to_string(), "mend what it names, or wait: it may be starting or draining"),
    }
}

/// What `/system/status` tells: whether the token is taken, JAM is on, the store answers and cleanup runs.
fn served(outcome: Result<Reply, Fault>) -> Vec<Check> {
    let names = || LATER.into_iter().skip(1);
    let status = outcome.and_then(|reply| reply.json::<Value>());
    let status = match status {
        Ok(status) => status,
        Err(fault) => {
            let first = match fault {
                Fault::Refused(Refused { status: 401 | 403, message, .. }) => sick(Class::Unauthorized, message),
                Fault::Unreachable { class, detail, .. } => sick(class, detail),
                other => sick(Class::ProviderUnavailable, other.to_string()),
            };
            let mut findings = vec![first, Finding::Skipped, Finding::Skipped, Finding::Skipped];
            return names().zip(findings.drain(..)).map(|(name, finding)| Check { name, finding }).collect();
        }
    };
    let jam = |pointer: &str| status.pointer(&format!("/jam/{pointer}"));
    let is = |pointer: &str, wanted: bool| jam(pointer).and_then(Value::as_bool) == Some(wanted);
    let enabled = if is("enabled", true) {
        Finding::Fine("JAM is enabled".into())
    } else if status::is_overridden(&status) {
        unavailable(format!("JAM is not enabled: {}", status::SWITCHED_OFF), status::SWITCH_ON)
    } else {
        unavailable("JAM is not enabled: every /jam/ path answers 404", "set JAM_ENABLED=true on the server")
    };
    let store = if is("health/store_ok", false) {
        unavailable("the store does not answer", "look at the server's log and at the database")
    } else {
        Finding::Fine(format!("store {}", jam("store").and_then(Value::as_str).unwrap_or("unknown")))
    };
    let cleanup = if is("health/cleanup_ok", false) {
        unavailable("the last cleanup failed or is too long ago", "run `jam-api cleanup` and look at its log")
    } else {
        Finding::Fine("nothing is overdue".into())
    };
    let findings = [Finding::Fine("the token is taken, or none is needed".into()), enabled, store, cleanup];
    names().zip(findings).map(|(name, finding)| Check { name, finding }).collect()
}

fn answer(addr: &str, checks: Vec<Check>, args: DoctorArgs) -> Answer {
    let ill: Vec<Class> = checks
        .iter()
        .filter_map(|check| match check.finding {
            Finding::Ill { class, .. } => Some(class),
            Finding::Fine(_) | Finding::Skipped => None,
        })
        .collect();
    let mut text = String::new();
    for Check { name, finding } in &checks {
        let _ = match finding {
            Finding::Fine(detail) => writeln!(text, "ok    {name:<10}  {}", plain_line(detail)),
            Finding::Skipped => writeln!(text, "-     {name:<10}  not looked at"),
            Finding::Ill { class, detail, next } => {
                let (class, detail) = (class.as_str(), plain_line(detail));
                writeln!(text, "FAIL  {name:<10}  {class}: {detail}\n                  next: {next}")
            }
        };
    }
    let entries: Vec<Value> = checks.into_iter().map(entry).collect();
    let summary = format!("{} of {} checks failed at {addr}", ill.len(), entries.len());
    let names = entries.iter().filter_map(|check| check["name"].as_str()).map(str::to_owned).collect();
    let table = Table::of_records(&COLUMNS, &entries);
    let json = json!({"addr": addr, "ok": ill.is_empty(), "checks": entries});
    let answer = Answer::json(json).with_text(text).with_table(table).with_names(names).prefer_json(args.json);
    match ill.first() {
        Some(class) => answer.with_fault(Fault::Unwell { class: *class, summary }),
        None => answer,
    }
}

fn entry(check: Check) -> Value {
    let Check { name, finding } = check;
    match finding {
        Finding::Fine(detail) => json!({"name": name, "state": "ok", "detail": detail}),
        Finding::Skipped => json!({"name": name, "state": "skipped"}),
        Finding::Ill { class, detail, next } => {
            json!({"name": name, "state": "failed", "class": class.as_str(), "detail": detail, "next": next})
        }
    }
}
