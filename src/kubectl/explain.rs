//! `explain`: what is wrong, why, and what to do, from the enum of reasons and the runbooks.

use std::fmt::Write as _;

use jam_plan::reason::ReasonKind;
use jam_plan::{Reason, alerts};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;

use super::args::ExplainArgs;
use super::cluster::{Cluster, Instance, place, told};
use super::fault::Fault;
use super::{runbook, wait};

/// The reason that a condition names; none when a newer operator has one that this build does not know.
pub fn reason_of(word: &str) -> Option<Reason> {
    Reason::ALL.iter().copied().find(|reason| reason.as_str() == word)
}

/// What needs no cluster: the list of reasons, a reason, an alert. `None` when an instance is meant.
pub fn word(args: &ExplainArgs) -> Result<Option<String>, Fault> {
    let ExplainArgs { what, reasons } = args;
    if *reasons {
        let lines = Reason::ALL.iter().map(|reason| format!("{:<22} {}\n", reason.as_str(), reason.explanation()));
        return Ok(Some(lines.collect::<Vec<_>>().concat()));
    }
    let Some(what) = what.as_deref() else { return Ok(None) };
    if let Some(reason) = reason_of(what) {
        return Ok(Some(format!("{reason}: {}\n\n{}", reason.explanation(), advice(reason))));
    }
    if let Some(page) = runbook::of_alert(what) {
        return Ok(Some(runbook::plain(page)));
    }
    // Names of instances have no capitals.
    if what.contains(|c: char| c.is_ascii_uppercase()) {
        let words =
            Reason::ALL.iter().map(|reason| reason.as_str()).chain(runbook::PAGES.iter().map(|(name, _)| *name));
        let nearest = words.max_by(|a, b| strsim::jaro_winkler(a, what).total_cmp(&strsim::jaro_winkler(b, what)));
        return Err(Fault::NotFound(format!(
            "{what} is no reason and no alert{}; kubectl jam explain --reasons lists them",
            nearest.map(|word| format!(", perhaps {word}")).unwrap_or_default()
        )));
    }
    Ok(None)
}

/// One instance, or all of the namespace with something wrong.
pub async fn instances(cluster: &Cluster, args: &ExplainArgs) -> Result<String, Fault> {
    if let Some(name) = &args.what {
        return Ok(of(&cluster.instance(name).await?));
    }
    let all = cluster.all(false).await?;
    let texts: Vec<String> =
        all.iter().filter(|instance| !ills(instance).is_empty() || unseen(instance)).map(of).collect();
    if texts.is_empty() {
        return Ok(format!("nothing is wrong with the {} instances in namespace {}\n", all.len(), cluster.namespace));
    }
    Ok(texts.join("\n"))
}

/// Whether the operator has not looked at the newest spec.
pub fn unseen(instance: &Instance) -> bool {
    !wait::is_current(instance)
}

/// The conditions that tell of something that is not as it should be, each reason once.
pub fn ills(instance: &Instance) -> Vec<(Condition, Option<Reason>)> {
    let mut ills: Vec<(Condition, Option<Reason>)> = Vec::new();
    for condition in told(instance).conditions {
        let reason = reason_of(&condition.reason);
        let ill = reason.is_none_or(|reason| reason.kind() != ReasonKind::Well);
        if ill && ills.iter().all(|(other, _)| other.reason != condition.reason) {
            ills.push((condition, reason));
        }
    }
    ills
}

/// An instance: each thing that is wrong, with its reason and what to do.
pub fn of(instance: &Instance) -> String {
    let (name, namespace) = (instance.name_any(), instance.namespace().unwrap_or_default());
    let mut text = String::new();
    // Writing to a String cannot fail.
    if unseen(instance) {
        let _ = writeln!(
            text,
            "{}: the operator has not looked at generation {} yet\n  Is it running, and does it watch this namespace? \
             kubectl get pods -A -l jam.network/component=operator\n",
            place(instance),
            instance.metadata.generation.unwrap_or_default()
        );
    }
    let ills = ills(instance);
    if ills.is_empty() && !unseen(instance) {
        let ready = wait::condition(instance, "Ready").map(|ready| wait::words(&ready)).unwrap_or_default();
        let _ = writeln!(text, "{}: nothing is wrong, {ready}", place(instance));
    }
    for (condition, reason) in ills {
        let _ = writeln!(text, "{}: {}", place(instance), wait::words(&condition));
        let advice = match reason {
            Some(reason) => format!("{reason}: {}\n\n{}", reason.explanation(), advice(reason)),
            None => "this build does not know the reason: it is older than the operator\n".into(),
        };
        let advice = advice.replace("NAMESPACE", &namespace).replace("NAME", &name);
        for line in advice.lines() {
            let _ = writeln!(text, "{}", format!("  {line}").trim_end());
        }
        text.push('\n');
    }
    format!("{}\n", text.trim_end())
}

/// What the runbooks say of a reason, with the pages that they lead to.
fn advice(reason: Reason) -> String {
    let section = runbook::of_reason(reason.as_str()).unwrap_or_default();
    let mut text = runbook::plain(section);
    text.push('\n');
    for (name, page) in runbook::linked(section) {
        for heading in ["Diagnosis", "Mitigation"] {
            let said = runbook::section(page, heading).unwrap_or_default();
            let _ = write!(text, "\n{name}, {heading}:\n{}\n", runbook::plain(said));
        }
    }
    if let Some(alert) = alerts::of_reason(reason) {
        let _ = write!(text, "\nIts alert is {0}: kubectl jam explain {0}\n", alert.name);
    }
    text
}
