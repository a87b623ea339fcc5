//! What is kept of a rollout that was given up: the states of its pods and their last log lines, before they are gone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use futures::future::join_all;
use jam_domain::Timestamp;
use jam_plan::names::{self, Component};
use jam_plan::observed::left_out;
use jam_plan::{JamInstance, Resolved, desired};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus};
use kube::api::{ListParams, LogParams};
use kube::{Api, ResourceExt};
use tokio::time::timeout;

use super::apply;
use super::context::Context;
use super::error::Error;
use super::key::Key;
use super::last_words::{has_crashed, is_ours};
use super::pods::{ENOUGH, is_ready};
use super::watch::chain;
use super::words::Discretion;

/// Log lines of one container.
const LINES: i64 = 30;
/// Bytes of them that are asked for: the kubelet cuts off what comes after, which is the end.
const ASKED: i64 = 65536;
/// Bytes of them that are kept.
const KEPT: usize = 4096;
/// The label by which a Deployment tells the pods of one template from those of another.
const TEMPLATE: &str = "pod-template-hash";
/// How long the logs of a pod are waited for: its node may be dead, and all pods are asked at once.
const LOG_PATIENCE: Duration = Duration::from_secs(10);

/// Keeps the evidence in its ConfigMap. It is written once: a crash before the decision is stored finds it there.
pub async fn keep(context: &Context, instance: &JamInstance, resolved: &Resolved) -> Result<(), Error> {
    let key = Key::of(instance);
    let discretion = &Discretion::about(context, instance);
    let components = [Component::Api, Component::Worker].map(|component| told_of(context, &key, component, discretion));
    let texts: BTreeMap<String, String> = join_all(components).await.into_iter().flatten().collect();
    let mut clean = BTreeMap::new();
    for (pod, text) in texts {
        clean.insert(pod, discretion.cleaned(&text).await?);
    }
    match desired::evidence(resolved, clean) {
        Some(desired) => apply::once(context, &key, &desired).await,
        None => Ok(()),
    }
}

/// What is known of the pods of a component. Evidence that cannot be had does not hold up the way back.
async fn told_of(
    context: &Context,
    instance: &Key,
    component: Component,
    discretion: &Discretion<'_>,
) -> Vec<(String, String)> {
    match found(context, instance, component).await {
        Ok(pods) => {
            let pods = suspects(pods, component, Timestamp::now());
            let all = pods.iter().map(|pod| async move {
                let silence = discretion.silence(pod).await;
                (pod.name_any(), told(context, instance, pod, silence.as_deref()).await)
            });
            join_all(all).await
        }
        Err(error) => {
            tracing::warn!(instance = %instance, error = chain(&error), "the pods cannot be listed");
            Vec::new()
        }
    }
}

async fn found(context: &Context, instance: &Key, component: Component) -> Result<Vec<Pod>, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &instance.namespace);
    let params = ListParams::default().labels(&names::written(&names::selector(&instance.name, component)));
    Ok(pods.list(&params).await?.items)
}

/// The pods that are not ready: those of the revision before it are, and are none of the evidence. A worker has no readiness but
/// that it runs, so one that has just crashed counts, too. Where readiness comes and goes every pod may be ready in this very moment:
/// then those of the newest template are told.
fn suspects(found: Vec<Pod>, component: Component, now: Timestamp) -> Vec<Pod> {
    let crashes = |pod: &Pod| component == Component::Worker && has_crashed(pod, now);
    let (bad, ready): (Vec<Pod>, Vec<Pod>) = found.into_iter().partition(|pod| !is_ready(pod) || crashes(pod));
    let template = |pod: &Pod| pod.labels().get(TEMPLATE).cloned();
    let newest = ready.iter().max_by_key(|pod| pod.creation_timestamp()).map(template);
    if bad.is_empty() && component == Component::Api {
        return ready.into_iter().filter(|pod| Some(template(pod)) == newest).take(ENOUGH as usize).collect();
    }
    bad.into_iter().take(ENOUGH as usize).collect()
}

/// States of one pod, and its last words unless there is a reason to leave them out.
async fn told(context: &Context, instance: &Key, pod: &Pod, silence: Option<&str>) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let mut text = format!("phase: {}\n", status.phase.as_deref().unwrap_or("Unknown"));
    let mut say = |line: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{line}");
    };
    for condition in status.conditions.iter().flatten().filter(|condition| condition.status != "True") {
        let (reason, message) = (condition.reason.as_deref(), condition.message.as_deref());
        say(format!("{}: {}", condition.type_, words([reason, message])));
    }
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let mut begun = false;
    for container in containers {
        let ran = container.state.as_ref().is_some_and(has_begun) || container.restart_count > 0;
        begun |= ran && is_ours(container);
        for line in states(container, silence) {
            say(line);
        }
    }
    if let Some(why) = silence.filter(|_| begun) {
        say(left_out(None, why));
    } else if begun {
        let log = timeout(LOG_PATIENCE, log(context, instance, pod)).await;
        say(format!("last log lines:\n{}", log.unwrap_or_else(|_| "not to be had: its node does not answer".into())));
    }
    text
}

fn has_begun(state: &ContainerState) -> bool {
    state.running.is_some() || state.terminated.is_some()
}

/// What the kubelet says about a container, one line for each of its states, with the words that ours left.
fn states(container: &ContainerStatus, silence: Option<&str>) -> Vec<String> {
    let name = &container.name;
    let speaks = is_ours(container) && silence.is_none();
    let mut lines = vec![format!("container {name}: ready {}, restarts {}", container.ready, container.restart_count)];
    for (when, state) in [("now", &container.state), ("before", &container.last_state)] {
        let Some(ContainerState { running, terminated, waiting }) = state else { continue };
        if running.is_some() {
            lines.push(format!("container {name}, {when}: running"));
        }
        if let Some(waiting) = waiting {
            let said = words([waiting.reason.as_deref(), waiting.message.as_deref()]);
            lines.push(format!("container {name}, {when}: waiting, {said}"));
        }
        if let Some(ContainerStateTerminated { exit_code, reason, message, .. }) = terminated {
            let said = words([reason.as_deref(), message.as_deref().map(str::trim).filter(|_| speaks)]);
            lines.push(format!("container {name}, {when}: ended with exit code {exit_code}, {said}"));
        }
    }
    lines
}

fn words<const N: usize>(parts: [Option<&str>; N]) -> String {
    let said: Vec<&str> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    if said.is_empty() { "nothing more is said".into() } else { said.join(": ") }
}

/// The end of a container's log; of the one before, when it has only just been started again.
async fn log(context: &Context, instance: &Key, pod: &Pod) -> String {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &instance.namespace);
    let container = Some(names::CONTAINER.to_owned());
    let params = LogParams { container, tail_lines: Some(LINES), limit_bytes: Some(ASKED), ..LogParams::default() };
    let now = match pods.logs(&pod.name_any(), &params).await {
        Ok(text) => text,
        Err(error) => return format!("not to be had: {}", chain(&error)),
    };
    let begins_anew = now.trim().is_empty() || pod.status.iter().any(has_restarted);
    let before = LogParams { previous: true, ..params };
    let before =
        if begins_anew { pods.logs(&pod.name_any(), &before).await.unwrap_or_default() } else { String::new() };
    [before, now]
        .into_iter()
        .find(|text| !text.trim().is_empty())
        .map_or_else(|| "none".into(), |text| end_of(&text).to_owned())
}

/// Whether a container runs again: what is to be read is the log of the one that ended.
fn has_restarted(status: &PodStatus) -> bool {
    let runs = |container: &ContainerStatus| container.state.as_ref().is_some_and(|state| state.running.is_some());
    let mut own = status.container_statuses.iter().flatten().filter(|container| is_ours(container));
    own.any(|container| container.restart_count > 0 && runs(container))
}

/// As many whole lines of a log as are kept, the last ones. Half a line is left out: half a secret is not known for one.
fn end_of(text: &str) -> &str {
    let is_cut = i64::try_from(text.len()).is_ok_and(|length| length >= ASKED);
    let whole = text.rfind('\n').filter(|_| is_cut).map_or(text, |last| &text[..last]);
    let mut from = whole.len();
    for line in whole.split_inclusive('\n').rev() {
        if whole.len() - from + line.len() > KEPT {
            break;
        }
        from -= line.len();
    }
    &whole[from..]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, template: &str, created: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "creationTimestamp": created, "labels": {"pod-template-hash": template}},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn pods_that_are_not_ready_are_told_and_where_all_are_those_of_the_newest_template() {
        let (earlier, later) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let told = |pods: &[Pod], component| {
            let told = suspects(pods.to_vec(), component, Timestamp::now());
            told.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
        };
        let unready =
            [pod("good", "a", earlier, "True"), pod("bad", "b", later, "False"), pod("fine", "b", later, "True")];
        assert_eq!(told(&unready, Component::Api), ["bad"]);
        let flapping =
            [pod("flaps", "b", later, "True"), pod("good", "a", earlier, "True"), pod("too", "b", earlier, "True")];
        assert_eq!(
            told(&flapping, Component::Api),
            ["flaps", "too"],
            "ready in this very moment, and nobody else is there to blame"
        );
        assert!(told(&flapping, Component::Worker).is_empty(), "a worker that runs is none");
    }

    #[test]
    fn of_a_long_log_the_last_whole_lines_are_kept() {
        let lines: Vec<String> = (0..30).map(|line| format!("{line:02} {}ü\n", "x".repeat(300))).collect();
        let log = lines.concat();
        let kept = end_of(&log);
        assert!(kept.starts_with("17 ") && kept.ends_with("ü\n"), "{kept}");
        assert!(kept.len() <= KEPT && kept.lines().last() == log.lines().last());
        assert_eq!(end_of("short\n"), "short\n");
        let cut = format!("{}{}", "first\n".repeat(10_000), "x".repeat(6000));
        assert!(end_of(&cut).ends_with("first"), "the kubelet cut the last line off in its middle");
    }

    #[test]
    fn every_state_of_a_container_is_told() {
        let container: ContainerStatus = serde_json::from_value(json!({
            "name": "jam", "image": "x", "imageID": "", "ready": false, "restartCount": 4,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
            "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "broken on purpose\n"}},
        }))
        .unwrap();
        let wanted = [
            "container jam: ready false, restarts 4",
            "container jam, now: waiting, CrashLoopBackOff: back-off 40s",
            "container jam, before: ended with exit code 1, Error: broken on purpose",
        ];
        assert_eq!(states(&container, None), wanted);
        let before = "container jam, before: ended with exit code 1, Error";
        assert_eq!(states(&container, Some("it has another DSN"))[2], before, "what it said is left out");
        let other = ContainerStatus { name: "mesh".into(), ..container };
        assert_eq!(states(&other, None)[2], before.replace("jam", "mesh"), "its words are not ours to tell");
    }
}
