//! Plays the kubelet: there are no nodes in these tests, so somebody has to say that pods run, crash or never get ready.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

/// The environment variable by which a pod asks for a fate: `crash`, `pull`, `never`, `flap` or `slow`; `one-flaps` where only the
/// first of all pods does; `crash-first` where pods with the first DSN crash and those with another never get ready; `bad-worker` and `late-worker` where only workers never get ready, or crash after a while; `falls` where pods
/// run until the place says no more, and then crash; `by-hand` where pods are ready and then what [`say`] says of them; `no-room` where pods with another DSN than the first one get ready only while the place says so.
pub const FATE: &str = "FATE";
/// What a pod that crashes says last.
pub const LAST_WORDS: &str = "broken on purpose";
/// How long a pod that flaps stays as it is.
const FLAP: Duration = Duration::from_millis(1500);
/// Seconds that a worker lives whose fate it is to crash.
const LIFE: i64 = 22;
/// Seconds that a slow pod takes to become ready.
const SLOW: i64 = 3;

/// Plays the kubelet in one namespace: every pod of a Deployment runs and is ready; pods of Jobs end as told.
pub struct Kubelet(tokio::task::JoinHandle<()>);

impl Kubelet {
    /// Plays until it is dropped. Job pods end with this exit code and these last words.
    pub fn play(client: &Client, namespace: &str, exit_code: i32, words: &'static str) -> Self {
        Self::play_at(client, namespace, (exit_code, words), None)
    }

    /// The same; pods of Deployments are at `place`, where somebody answers for them, and are ready while that says so.
    pub fn play_at(
        client: &Client,
        namespace: &str,
        (exit_code, words): (i32, &'static str),
        place: Option<(&'static str, Arc<AtomicBool>)>,
    ) -> Self {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let started = Instant::now();
        let mut first_dsn = None;
        Self(tokio::spawn(async move {
            loop {
                let flapped = (started.elapsed().as_millis() / FLAP.as_millis()).is_multiple_of(2);
                let found = pods.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
                let alone = found.iter().find(|pod| fate(pod) == Some("one-flaps")).map(ResourceExt::name_any);
                for pod in found {
                    let worker = pod.labels().get("app.kubernetes.io/component").is_some_and(|part| part == "worker");
                    let job = pod.labels().contains_key("batch.kubernetes.io/job-name");
                    let ready = place.as_ref().is_none_or(|(_, ready)| ready.load(Ordering::SeqCst));
                    let address = place.as_ref().map(|(address, _)| *address);
                    let mut status = match fate(&pod) {
                        _ if job => ended(exit_code, words),
                        Some("crash") => crashed(),
                        Some("falls") if !ready => crashed(),
                        Some("pull") => waiting("ImagePullBackOff", "no such image"),
                        Some("never") => running(address, false),
                        Some("flap") => running(address, flapped),
                        Some("one-flaps") => running(address, flapped || alone != Some(pod.name_any())),
                        Some("bad-worker") => running(address, !worker),
                        Some("late-worker") if worker && is_older(&pod, LIFE) => crashed(),
                        Some("crash-first") => {
                            let dsn = pod.annotations().get("jam.network/dsn-hash").cloned();
                            let first = dsn == *first_dsn.get_or_insert_with(|| dsn.clone());
                            if first { crashed() } else { running(address, false) }
                        }
                        Some("no-room") => {
                            let dsn = pod.annotations().get("jam.network/dsn-hash").cloned();
                            running(address, ready || dsn == *first_dsn.get_or_insert_with(|| dsn.clone()))
                        }
                        Some("slow") => running(address, is_older(&pod, SLOW)),
                        Some(_) | None => running(address, ready),
                    };
                    let stays = (job && has_ended(&pod)) || (fate(&pod) == Some("by-hand") && is_told(&pod));
                    if pod.metadata.deletion_timestamp.is_none() && !stays && is_news(&pod, &status) {
                        date(&pod, &mut status);
                        // It may be gone by now.
                        let body = Patch::Merge(json!({"status": status}));
                        let _ = pods.patch_status(&pod.name_any(), &PatchParams::default(), &body).await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The pods of the fate `by-hand` that are not on their way out, by name.
pub async fn by_hand(client: &Client, namespace: &str) -> Vec<String> {
    let found = Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default()).await.unwrap().items;
    let stays = |pod: &&Pod| fate(pod) == Some("by-hand") && pod.metadata.deletion_timestamp.is_none();
    found.iter().filter(stays).map(ResourceExt::name_any).collect()
}

/// Says of a pod of the fate `by-hand` that it has been ready, or crashes, since then. It may be gone by now.
pub async fn say(client: &Client, namespace: &str, name: &str, ready: bool, since: jiff::Timestamp) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let Some(pod) = pods.get_opt(name).await.unwrap() else { return };
    let mut status = if ready { running(None, true) } else { crashed() };
    if let Some(crashed) = json!(pod.status).pointer("/containerStatuses/0/lastState").filter(|_| ready) {
        status["containerStatuses"][0]["lastState"] = crashed.clone();
        status["containerStatuses"][0]["restartCount"] = 3.into();
    }
    date(&pod, &mut status);
    for condition in status["conditions"].as_array_mut().unwrap() {
        if condition["type"] != "Initialized" {
            condition["lastTransitionTime"] = whole(since).into();
        }
    }
    let _ = pods.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await;
}

/// Whether somebody has said already whether a pod is ready.
fn is_told(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready")
}

/// The fate that a pod's environment asks for.
fn fate(pod: &Pod) -> Option<&str> {
    let environment = pod.spec.as_ref()?.containers.first()?.env.as_deref()?;
    environment.iter().find(|variable| variable.name == FATE)?.value.as_deref()
}

/// Whether a pod of a Job has ended: it stays as it is, whoever plays the kubelet now.
fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn created(pod: &Pod) -> jiff::Timestamp {
    pod.metadata.creation_timestamp.as_ref().unwrap().0
}

fn is_older(pod: &Pod, seconds: i64) -> bool {
    jiff::Timestamp::now().as_second() >= created(pod).as_second() + seconds
}

/// Gives the conditions their dates as the kubelet does: a pod begins initialised and unready, a date moves with its word. Dates are
/// of whole seconds, and no real pod begins, gets ready and falls within the same one.
fn date(pod: &Pod, status: &mut Value) {
    let before = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    for condition in conditions {
        let told = before.iter().find(|told| condition["type"] == told.type_.as_str());
        let at = match told {
            Some(told) if condition["status"] == told.status.as_str() => {
                told.last_transition_time.as_ref().unwrap().0.to_string()
            }
            None if condition["type"] == "Initialized" || condition["status"] == "False" => created(pod).to_string(),
            Some(_) => now().max(whole(created(pod) + Duration::from_secs(1))),
            None => now(),
        };
        condition["lastTransitionTime"] = at.into();
    }
}

/// Whether the pod is not yet as it is to be: its phase, its readiness, the state of its container.
fn is_news(pod: &Pod, wanted: &Value) -> bool {
    let gist = |status: &Value| {
        let container = &status["containerStatuses"][0];
        let ready = status["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Ready");
        let ready = ready.map(|condition| condition["status"].clone());
        (status["phase"].clone(), ready, container["ready"].clone(), container["state"]["waiting"]["reason"].clone())
    };
    gist(&json!(pod.status)) != gist(wanted)
}

/// A container that the kubelet has started again and again.
fn crashed() -> Value {
    let now = now();
    let state = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
    let mut container = container(&state, false);
    container["restartCount"] = 3.into();
    container["lastState"] =
        json!({"terminated": {"exitCode": 1, "message": LAST_WORDS, "startedAt": now, "finishedAt": now}});
    json!({"phase": "Running", "conditions": conditions(false), "containerStatuses": [container]})
}

fn waiting(reason: &str, message: &str) -> Value {
    let state = json!({"waiting": {"reason": reason, "message": message}});
    json!({"phase": "Pending", "conditions": conditions(false), "containerStatuses": [container(&state, false)]})
}

fn conditions(ready: bool) -> Value {
    let word = if ready { "True" } else { "False" };
    json!([
        {"type": "Initialized", "status": "True"},
        {"type": "ContainersReady", "status": word},
        {"type": "Ready", "status": word},
    ])
}

fn running(address: Option<&str>, ready: bool) -> Value {
    let mut status = json!({
        "phase": "Running",
        "conditions": conditions(ready),
        "containerStatuses": [container(&json!({"running": {"startedAt": now()}}), ready)],
    });
    if let Some(address) = address {
        status["podIP"] = address.into();
        status["podIPs"] = json!([{"ip": address}]);
    }
    status
}

/// The status of a pod of a Job that ended.
pub fn ended(exit_code: i32, words: &str) -> Value {
    let now = now();
    let state = json!({"terminated": {"exitCode": exit_code, "message": words, "startedAt": now, "finishedAt": now}});
    let phase = if exit_code == 0 { "Succeeded" } else { "Failed" };
    json!({"phase": phase, "containerStatuses": [container(&state, false)]})
}

fn container(state: &Value, ready: bool) -> Value {
    json!({"name": "jam", "image": "x", "imageID": "x", "restartCount": 0, "ready": ready, "started": ready, "state": state})
}

fn now() -> String {
    whole(jiff::Timestamp::now())
}

fn whole(at: jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(at.as_second()).unwrap().to_string()
}
