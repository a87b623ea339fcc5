//! What only pods can say: why they are not ready, whether their database answers, and a failed migration's last words.
//!
//! Nothing here can fail a reconcile: without an answer the status says that nobody was asked.

use std::time::Duration;

use futures::future::{join, join_all};
use jam_domain::{StoreKind, Timestamp};
use jam_plan::names::{self, Component};
use jam_plan::observed::{DeploymentState, PodSchema, Probe};
use jam_plan::{JamInstance, Observed};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::Value;

use super::context::Context;
use super::key::Key;
use super::watch::chain;

/// How long a pod may take to answer: longer than it waits itself for a store that hangs, which is what it then says.
const PATIENCE: Duration = Duration::from_secs(5);
/// What containers wait for that will start in a moment.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];
/// Seconds that the kubelet waits at most before it starts a container again, and a margin.
const LONGEST_BACKOFF: i64 = 330;
/// Pods that are asked or shown, of however many there are.
pub const ENOUGH: u32 = 5;
/// What is said of a database while some pods are ready.
const A_READY_POD: &str = "a ready API pod says so";
/// Bytes of a log's end that the kubelet makes a termination message of.
const KEPT: usize = 2048;
/// The label of a pod with the name of its Job.
pub const OF_JOB: &str = "batch.kubernetes.io/job-name";
/// Pods that are looked at.
const SEEN: u32 = 100;

/// Fills in what pods say, when there is reason to ask them.
pub async fn look(context: &Context, instance: &JamInstance, observed: &mut Observed) {
    let Some(api) = observed.api.clone() else { return };
    let settings = instance.spec.runtime.jam.clone().resolve(instance.spec.profile);
    let postgres = settings.is_ok_and(|settings| settings.store == StoreKind::Postgres);
    let worker = observed.worker.clone().filter(|_| instance.spec.workers.replicas > 0);
    if worker.as_ref().is_some_and(|worker| !worker.is_settled())
        && let Ok(pods) = pods_of(context, &Key::of(instance), Component::Worker).await
    {
        observed.worker_lapsed = pods.iter().any(has_lapsed);
        observed.trouble = told_by(&pods, observed.at);
    }
    // Whether there is a way back depends on the schema that is there now; any API pod that runs knows it.
    let judged = observed.worker_lapsed || [Some(&api), worker.as_ref()].into_iter().flatten().any(is_stuck);
    if api.is_settled() && api.ready >= api.wanted {
        if postgres && api.ready > 0 {
            // A pod is ready only while its store answers.
            observed.database = Some(Probe { reachable: true, message: "every API pod is ready".into() });
            if (judged || is_news(instance, &api))
                && let Ok(mut pods) = pods_of(context, &Key::of(instance), Component::Api).await
            {
                pods.truncate(ENOUGH as usize);
                observed.pod_schema = ask(context, &pods).await.1;
            }
        }
        return;
    }
    let mut pods = match pods_of(context, &Key::of(instance), Component::Api).await {
        Ok(pods) => pods,
        Err(error) => {
            tracing::debug!(error = chain(&error), "the pods cannot be listed");
            return;
        }
    };
    observed.trouble = told_by_unready(&pods, observed.at).or(observed.trouble.take());
    let lapsed: Vec<Pod> = pods.iter().filter(|pod| has_lapsed(pod)).take(ENOUGH as usize).cloned().collect();
    pods.truncate(ENOUGH as usize);
    if !postgres {
        observed.lapsed = !lapsed.is_empty();
        return;
    }
    let any_ready = pods.iter().any(is_ready);
    if any_ready && !judged && lapsed.is_empty() {
        observed.database = Some(Probe { reachable: true, message: A_READY_POD.into() });
        return;
    }
    let (blamed, (database, schema)) = join(any_is_to_blame(context, &lapsed), ask(context, &pods)).await;
    let ready = any_ready.then(|| Probe { reachable: true, message: A_READY_POD.into() });
    (observed.lapsed, observed.database, observed.pod_schema) = (blamed, ready.or(database), schema);
}

fn is_stuck(deployment: &DeploymentState) -> bool {
    deployment.stuck().is_some()
}

/// Whether one of the pods that lapsed did so by itself. The probes of pods are never in step: the first one that an outage of
/// the database makes unready is unready alone, and says itself that its store is away.
async fn any_is_to_blame(context: &Context, lapsed: &[Pod]) -> bool {
    let answers = lapsed.iter().map(|pod| async move {
        let address = pod.status.as_ref()?.pod_ip.as_deref()?;
        readiness(context, address).await
    });
    join_all(answers).await.iter().any(|answer| is_to_blame(answer.as_ref()))
}

/// Whether a pod that is not ready is to blame for it, by its answer, where it gave one.
fn is_to_blame(answer: Option<&Value>) -> bool {
    answer.and_then(store_check).is_none_or(|store| store.reachable)
}

/// Whether the schema version of the pods that serve is not in the status yet.
fn is_news(instance: &JamInstance, api: &DeploymentState) -> bool {
    let told = instance.status.as_ref().and_then(|status| status.version.as_ref());
    told.is_none_or(|version| version.schema.is_none() || version.image != api.image)
}

/// The pods of one part of an instance, the newest first.
pub async fn pods_of(context: &Context, instance: &Key, component: Component) -> Result<Vec<Pod>, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &instance.namespace);
    let labels = names::written(&names::selector(&instance.name, component));
    let mut found = pods.list(&ListParams::default().labels(&labels).limit(SEEN)).await?.items;
    // The newest pod is the one whose trouble matters.
    found.sort_by_key(|pod| std::cmp::Reverse(pod.metadata.creation_timestamp.clone()));
    Ok(found)
}

/// Whether a pod is ready and stays.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_none() && conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Whether the containers of a pod that goes on running were ready and are not any more. What was evicted, deleted or is on a
/// node that does not answer is no such pod, nor is the one in its place.
///
/// A pod begins initialised and unready, so its containers' readiness has an earlier date, or the same, until it first changes.
fn has_lapsed(pod: &Pod) -> bool {
    let Some(status) = pod.status.as_ref().filter(|_| pod.metadata.deletion_timestamp.is_none()) else { return false };
    let of = |kind: &str| status.conditions.iter().flatten().find(|condition| condition.type_ == kind);
    let (Some(ready), Some(begun)) = (of("ContainersReady"), of("Initialized")) else { return false };
    let later = match (&ready.last_transition_time, &begun.last_transition_time) {
        (Some(ready), Some(begun)) => ready.0 > begun.0,
        (None | Some(_), None) | (None, Some(_)) => false,
    };
    status.phase.as_deref() == Some("Running") && ready.status == "False" && later
}

/// What is wrong with one of these pods: with one that waits, before one that runs again.
fn told_by(pods: &[Pod], at: Timestamp) -> Option<String> {
    pods.iter().find_map(trouble).or_else(|| pods.iter().find_map(|pod| crashed(pod, at)))
}

/// The same of pods with a readiness probe: one that is ready again is no trouble, whatever it went through.
fn told_by_unready(pods: &[Pod], at: Timestamp) -> Option<String> {
    let unready: Vec<Pod> = pods.iter().filter(|pod| !is_ready(pod)).cloned().collect();
    told_by(&unready, at)
}

/// How a container of a pod that stays ended just now. Between a crash and its next start, and after that, the kubelet says no more than this.
pub fn crashed(pod: &Pod, at: Timestamp) -> Option<String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    pod.status.as_ref()?.container_statuses.iter().flatten().find_map(|container| {
        let states = [&container.state, &container.last_state].into_iter().flatten();
        let ended = states.filter_map(|state| state.terminated.as_ref()).find(|ended| ended.exit_code != 0)?;
        let finished = Timestamp::from_jiff(ended.finished_at.as_ref()?.0);
        let reason = ended.reason.as_deref().unwrap_or("Error");
        let words = joined(reason, ended.message.as_deref().and_then(last_line));
        (at < finished.plus_seconds(LONGEST_BACKOFF)).then(|| format!("pod {}: {words}", pod.name_any()))
    })
}

/// Why a pod is not ready, in the kubelet's or the scheduler's words.
fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let waiting = status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().filter(|reason| !STARTING.contains(reason))?;
        let ended = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        let words = ended.and_then(|ended| last_line(ended.message.as_deref()?)).or(waiting.message.as_deref());
        Some(format!("pod {}: {}", pod.name_any(), joined(reason, words)))
    });
    let unscheduled = || {
        let condition =
            status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
        let reason = condition.reason.as_deref().unwrap_or("PodScheduled");
        Some(format!("pod {}: {}", pod.name_any(), joined(reason, condition.message.as_deref())))
    };
    waiting.or_else(unscheduled)
}

fn joined(reason: &str, words: Option<&str>) -> String {
    words.map_or_else(|| reason.to_owned(), |words| format!("{reason}: {words}"))
}

fn last_line(text: &str) -> Option<&str> {
    text.trim_end().lines().next_back().filter(|line| !line.is_empty())
}

/// Asks running pods for their readiness: what they say about their store is what the database is, and its schema.
async fn ask(context: &Context, pods: &[Pod]) -> (Option<Probe>, Option<PodSchema>) {
    let addresses = pods.iter().filter_map(|pod| pod.status.as_ref()?.pod_ip.as_deref());
    let answers = join_all(addresses.map(|address| readiness(context, address))).await;
    let answers: Vec<Value> = answers.into_iter().flatten().collect();
    let said: Vec<Probe> = answers.iter().filter_map(store_check).collect();
    let probe = said.iter().find(|probe| probe.reachable).or(said.first()).cloned();
    // The newest pod comes first: the image that is being rolled out decides what the schema has to be.
    (probe, answers.iter().find_map(schema_check))
}

/// What a pod says of its readiness, and of itself beside it.
pub async fn readiness(context: &Context, address: &str) -> Option<Value> {
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let request = context.instruments.http.get(format!("http://{host}:8080/readyz")).timeout(PATIENCE);
    request.send().await.ok()?.json::<Value>().await.ok()
}

/// The versions in a readiness answer, where the pod could read them: `{"schema": {"found": 3, "wanted": 3}}`.
fn schema_check(answer: &Value) -> Option<PodSchema> {
    let schema = answer.get("checks").unwrap_or(answer).get("schema")?;
    let wanted = schema.get("wanted")?.as_i64()?;
    Some(PodSchema { found: schema.get("found")?.as_i64(), wanted })
}

/// The word about the store in a readiness answer: `{"checks": {"store": {"ok": false, "reason": "…"}}}`.
fn store_check(answer: &Value) -> Option<Probe> {
    let store = answer.get("checks").unwrap_or(answer).get("store")?;
    let message = store["reason"].as_str().unwrap_or("the store answers").to_owned();
    Some(Probe { reachable: store["ok"].as_bool()?, message })
}

/// How a failed Job's last pod ended.
#[derive(Debug, Default)]
pub struct LastWords {
    /// Its exit code.
    pub exit_code: Option<i32>,
    /// Its termination message: the end of its log, by the Job's termination message policy.
    pub text: Option<String>,
}

/// What the last pod of a failed Job said.
pub async fn last_words(context: &Context, instance: &Key, job: &str) -> LastWords {
    let Ok(found) = pods_of_job(context, instance, job).await else { return LastWords::default() };
    // One that the Job's end cut short has said nothing.
    let statuses = found.into_iter().filter_map(|pod| pod.status?.container_statuses).flatten();
    let statuses: Vec<ContainerStatus> = statuses.collect();
    let Some((exit_code, message)) = statuses.iter().find_map(terminated) else { return LastWords::default() };
    let text = message.map(|text| whole_lines(text).trim().to_owned()).filter(|text| !text.is_empty());
    LastWords { exit_code: Some(exit_code), text }
}

/// Without the line in whose middle the kubelet cut a log: half a secret is not known for one.
fn whole_lines(text: &str) -> &str {
    let rest = text.split_once('\n').map(|(_, rest)| rest).filter(|_| text.len() >= KEPT);
    rest.filter(|rest| !rest.trim().is_empty()).unwrap_or(text)
}

/// What is wrong with the newest pods of a Job that runs.
pub async fn trouble_of_job(context: &Context, instance: &Key, job: &str) -> Option<String> {
    told_by(&pods_of_job(context, instance, job).await.ok()?, Timestamp::now())
}

/// The pods of a Job, the newest first.
async fn pods_of_job(context: &Context, instance: &Key, job: &str) -> Result<Vec<Pod>, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &instance.namespace);
    let mut found = pods.list(&ListParams::default().labels(&format!("{OF_JOB}={job}"))).await?.items;
    found.sort_by_key(|pod| std::cmp::Reverse(pod.metadata.creation_timestamp.clone()));
    Ok(found)
}

fn terminated(status: &ContainerStatus) -> Option<(i32, Option<&str>)> {
    let ended =
        [&status.state, &status.last_state].into_iter().flatten().find_map(|state| state.terminated.as_ref())?;
    Some((ended.exit_code, ended.message.as_deref()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_readiness_answer_tells_about_the_store() {
        let probe = |answer: Value| store_check(&answer).map(|probe| (probe.reachable, probe.message));
        let away = json!({"checks": {"store": {"ok": false, "reason": "it is away"}, "draining": {"ok": true}}});
        assert_eq!(probe(away), Some((false, "it is away".into())));
        assert!(probe(json!({"checks": {"store": {"ok": true}}})).unwrap().0);
        assert_eq!(probe(json!({"error": "not ours"})), None);
    }

    #[test]
    fn a_readiness_answer_tells_the_schema_when_the_pod_knows_it() {
        let schema = |answer: Value| schema_check(&answer).map(|schema| (schema.found, schema.is_behind()));
        let said = |found: Value| json!({"schema": {"ok": false, "found": found, "wanted": 3}});
        assert_eq!(schema(said(json!(3))), Some((Some(3), false)));
        assert_eq!(schema(json!({"checks": said(Value::Null)})), Some((None, true)));
        assert_eq!(schema(json!({"schema": {"ok": false, "reason": "not known"}})), None);
    }

    #[test]
    fn a_line_that_the_kubelet_cut_in_its_middle_is_not_told() {
        let cut = format!("ret@db/jam\n{}the end", "a line\n".repeat(300));
        assert!(whole_lines(&cut).starts_with("a line\na line") && whole_lines(&cut).ends_with("the end"));
        assert_eq!(whole_lines("first\nsecond"), "first\nsecond", "a short one is whole");
        assert_eq!(whole_lines(&"x".repeat(3000)).len(), 3000, "one line is better than none");
    }

    fn pod(phase: &str, ready: (&str, &str), deleted: Option<&str>) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "main-1", "deletionTimestamp": deleted},
            "status": {"phase": phase, "conditions": [
                {"type": "Initialized", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"},
                {"type": "ContainersReady", "status": ready.0, "lastTransitionTime": ready.1},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn only_a_pod_that_was_ready_and_runs_on_unready_has_lapsed() {
        let (begun, later) = ("2026-01-01T00:00:05Z", "2026-01-01T00:01:00Z");
        assert!(has_lapsed(&pod("Running", ("False", later), None)));
        for (why, pod) in [
            ("it is ready", pod("Running", ("True", later), None)),
            ("it never was ready", pod("Running", ("False", begun), None)),
            ("it is drained or deleted", pod("Running", ("False", later), Some(later))),
            ("its node evicted it", pod("Failed", ("False", later), None)),
            ("nobody has said a word yet", Pod::default()),
        ] {
            assert!(!has_lapsed(&pod), "{why}");
        }
    }

    #[test]
    fn a_pod_whose_store_is_away_is_not_to_blame_for_it() {
        let says = |store: Value| is_to_blame(Some(&json!({"checks": {"store": store, "schema": {"ok": false}}})));
        assert!(!says(json!({"ok": false, "reason": "the store did not answer within 2 s"})));
        assert!(says(json!({"ok": true})), "it has a database and is not ready all the same");
        assert!(is_to_blame(None), "a process that is gone says nothing");
        assert!(is_to_blame(Some(&json!({"error": "not ours"}))));
    }

    #[test]
    fn trouble_is_told_in_the_kubelets_words() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "main-1"},
            "status": {"containerStatuses": [{
                "name": "api", "image": "x", "imageID": "", "ready": false, "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                "lastState": {"terminated": {"exitCode": 1, "message": "first\nJAM_PG_DSN is not a DSN\n"}},
            }]},
        }))
        .unwrap();
        assert_eq!(trouble(&pod).unwrap(), "pod main-1: CrashLoopBackOff: JAM_PG_DSN is not a DSN");
    }

    #[test]
    fn a_crash_is_told_also_while_the_container_runs_again_until_it_is_long_ago() {
        let ended = json!({"terminated": {"exitCode": 1, "reason": "Error", "message": "first\ncrashes late\n",
            "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:01:00Z"}});
        let running = json!({"running": {"startedAt": "2026-01-01T00:01:10Z"}});
        let finished: Timestamp = Timestamp::from_jiff("2026-01-01T00:01:00Z".parse().unwrap());
        let told = |state: &Value, before: &Value, after: i64| {
            let pod = json!({"metadata": {"name": "main-1"}, "status": {"containerStatuses": [{
                "name": "api", "image": "x", "imageID": "", "ready": true, "restartCount": 1,
                "state": state, "lastState": before,
            }]}});
            told_by(&[serde_json::from_value(pod).unwrap()], finished.plus_seconds(after))
        };
        let words = Some("pod main-1: Error: crashes late".to_owned());
        assert_eq!(told(&ended, &json!({}), 0), words);
        assert_eq!(told(&running, &ended, LONGEST_BACKOFF - 1), words);
        assert_eq!(told(&running, &ended, LONGEST_BACKOFF), None);
        let good = json!({"terminated": {"exitCode": 0, "finishedAt": "2026-01-01T00:01:00Z"}});
        assert_eq!(told(&running, &good, 0), None);
    }

    #[test]
    fn a_crash_of_a_pod_that_is_ready_again_or_on_its_way_out_is_no_trouble() {
        let finished: Timestamp = Timestamp::from_jiff("2026-01-01T00:01:00Z".parse().unwrap());
        let pod = |ready: &str, leaves: Value| {
            serde_json::from_value::<Pod>(json!({
                "metadata": {"name": "main-1", "deletionTimestamp": leaves},
                "status": {"conditions": [{"type": "Ready", "status": ready}], "containerStatuses": [{
                    "name": "api", "image": "x", "imageID": "", "ready": true, "restartCount": 1, "state": {"running": {}},
                    "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-01T00:01:00Z"}},
                }]},
            }))
            .unwrap()
        };
        assert_eq!(told_by_unready(&[pod("True", Value::Null)], finished), None);
        assert_eq!(told_by_unready(&[pod("False", json!("2026-01-01T00:01:01Z"))], finished), None);
        let words = Some("pod main-1: OOMKilled".to_owned());
        assert_eq!(told_by_unready(&[pod("False", Value::Null)], finished), words);
        assert_eq!(told_by(&[pod("True", Value::Null)], finished), words, "a worker has no readiness but that it runs");
    }
}
