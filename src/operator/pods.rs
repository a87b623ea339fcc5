//! What only pods can say: why they are not ready, and whether their database answers.
//!
//! Nothing here can fail a reconcile: without an answer the status says that nobody was asked.

use std::time::Duration;

use futures::future::{join, join_all};
use jam_domain::{StoreKind, Timestamp};
use jam_plan::names::{self, Component};
use jam_plan::observed::{DeploymentState, PodSchema, Probe, left_out};
use jam_plan::{JamInstance, Observed};
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::Value;

use super::context::Context;
use super::key::Key;
use super::last_words::{crashed_at, told_by, told_by_unready};
use super::watch::chain;
use super::words::Discretion;

/// How long a pod may take to answer: longer than it waits itself for a store that hangs, which is what it then says.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pods that are asked or shown, of however many there are.
pub const ENOUGH: u32 = 5;
/// What is said of a database while some pods are ready.
const A_READY_POD: &str = "a ready API pod says so";
/// Pods that are looked at.
const SEEN: u32 = 100;

/// Fills in what pods say, when there is reason to ask them.
pub async fn look(context: &Context, instance: &JamInstance, discretion: &Discretion<'_>, observed: &mut Observed) {
    let Some(api) = observed.api.clone() else { return };
    let settings = instance.spec.runtime.jam.clone().resolve(instance.spec.profile);
    let postgres = settings.is_ok_and(|settings| settings.store == StoreKind::Postgres);
    let worker = observed.worker.clone().filter(|_| instance.spec.workers.replicas > 0);
    if worker.as_ref().is_some_and(|worker| !worker.is_settled())
        && let Ok(pods) = pods_of(context, &Key::of(instance), Component::Worker).await
    {
        observed.worker_lapsed = pods.iter().filter_map(lapsed_since).min();
        observed.workers_lapsed = all_lapsed_since(&pods, worker.as_ref());
        observed.workers_in_turns = in_turns(&pods, instance);
        observed.worker_trouble = told_by(discretion, &pods, observed.at).await;
    }
    // Whether there is a way back depends on the schema that is there now; any API pod that runs knows it.
    let judged = observed.worker_lapsed.is_some() || [Some(&api), worker.as_ref()].into_iter().flatten().any(is_stuck);
    if api.is_settled() && api.ready >= api.wanted {
        if postgres && api.ready > 0 {
            // A pod is ready only while its store answers.
            observed.database = Some(Probe { reachable: true, message: "every API pod is ready".into() });
            if (judged || is_news(instance, &api))
                && let Ok(mut pods) = pods_of(context, &Key::of(instance), Component::Api).await
            {
                pods.truncate(ENOUGH as usize);
                observed.pod_schema = ask(context, discretion, &pods).await.1;
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
    observed.trouble = told_by_unready(discretion, &pods, observed.at).await;
    (observed.all_lapsed, observed.in_turns) = (all_lapsed_since(&pods, Some(&api)), in_turns(&pods, instance));
    let lapsed: Vec<Pod> =
        pods.iter().filter(|pod| lapsed_since(pod).is_some()).take(ENOUGH as usize).cloned().collect();
    let any_ready = pods.iter().any(is_ready);
    pods.truncate(ENOUGH as usize);
    if !postgres {
        observed.lapsed = lapsed.iter().filter_map(lapsed_since).min();
        return;
    }
    if any_ready && !judged && lapsed.is_empty() {
        observed.database = Some(Probe { reachable: true, message: A_READY_POD.into() });
        return;
    }
    let (blamed, (database, schema)) = join(to_blame_since(context, &lapsed), ask(context, discretion, &pods)).await;
    let ready = any_ready.then(|| Probe { reachable: true, message: A_READY_POD.into() });
    (observed.lapsed, observed.database, observed.pod_schema) = (blamed, ready.or(database), schema);
}

fn is_stuck(deployment: &DeploymentState) -> bool {
    deployment.stuck().is_some()
}

/// Since when one of the pods that lapsed did so by itself. The probes of pods are never in step: the first one that an outage of
/// the database makes unready is unready alone, and says itself that its store is away.
async fn to_blame_since(context: &Context, lapsed: &[Pod]) -> Option<Timestamp> {
    let answers = lapsed.iter().map(|pod| async move {
        let address = pod.status.as_ref()?.pod_ip.as_deref()?;
        readiness(context, address).await
    });
    let told = join_all(answers).await.into_iter().zip(lapsed);
    told.filter(|(answer, _)| is_to_blame(answer.as_ref())).filter_map(|(_, pod)| lapsed_since(pod)).min()
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

/// Whether a pod runs on that no Deployment counts: one on its way out, which finishes what it has begun, or one of a Job. Where
/// nobody can say so it may.
pub async fn linger(context: &Context, instance: &Key) -> bool {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &instance.namespace);
    let labels = names::written(&names::pods(&instance.name));
    match pods.list(&ListParams::default().labels(&labels)).await {
        Ok(found) => found.items.iter().any(lingers),
        Err(error) => {
            tracing::debug!(error = chain(&error), "the pods cannot be listed");
            true
        }
    }
}

fn lingers(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let counted = [Component::Api, Component::Worker].map(Component::as_str);
    let is_counted = pod.labels().get(names::COMPONENT).is_some_and(|component| counted.contains(&component.as_str()));
    !matches!(phase, Some("Succeeded" | "Failed")) && (pod.metadata.deletion_timestamp.is_some() || !is_counted)
}

/// Whether a pod is ready and stays.
pub fn is_ready(pod: &Pod) -> bool {
    readiness_of(pod).is_some()
}

fn readiness_of(pod: &Pod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref().filter(|_| pod.metadata.deletion_timestamp.is_none())?.conditions.iter();
    conditions.flatten().find(|c| c.type_ == "Ready" && c.status == "True")
}

/// Since when the containers of a pod that goes on running, and were ready, are not any more. What was evicted, deleted or is on a
/// node that does not answer is no such pod, nor is the one in its place.
///
/// A pod begins initialised and unready, so its containers' readiness has an earlier date, or the same, until it first changes.
fn lapsed_since(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref().filter(|_| pod.metadata.deletion_timestamp.is_none())?;
    let of = |kind: &str| status.conditions.iter().flatten().find(|condition| condition.type_ == kind);
    let (ready, initial) = (of("ContainersReady")?, of("Initialized")?);
    let (since, start) = (ready.last_transition_time.as_ref()?.0, initial.last_transition_time.as_ref()?.0);
    let lapsed = status.phase.as_deref() == Some("Running") && ready.status == "False" && since > start;
    lapsed.then(|| Timestamp::from_jiff(since))
}

/// Since when all of so many wanted pods have lapsed, where all have.
fn all_lapsed_since(pods: &[Pod], of: Option<&DeploymentState>) -> Option<Timestamp> {
    let lapsed: Vec<Timestamp> = pods.iter().filter_map(lapsed_since).collect();
    let all =
        of.is_some_and(|deployment| usize::try_from(deployment.wanted).is_ok_and(|wanted| lapsed.len() >= wanted));
    lapsed.into_iter().max().filter(|_| all)
}

/// Whether pods are ready each of which has fallen on this trial, too, and come back since the first of them fell: it has crashed, or it
/// is of those that have served and has been unready since. What an outage has done is no fall, nor is a first readiness.
fn in_turns(pods: &[Pod], instance: &JamInstance) -> bool {
    let status = instance.status.as_ref();
    let rollout = status.and_then(|status| status.rollout.as_ref());
    let Some((Time(began), Time(fell))) = rollout.and_then(|told| Some((&told.since, told.down_since.as_ref()?)))
    else {
        return false;
    };
    let outage = status.and_then(|status| status.database_away_until.as_ref()).is_some_and(|Time(until)| until >= fell);
    let has_served = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().is_some_and(|Time(made)| made < began);
    let came_back = |pod: &Pod| {
        let since = readiness_of(pod).and_then(|told| told.last_transition_time.as_ref());
        let crashed = crashed_at(pod).is_some_and(|at| at >= Timestamp::from_jiff(*began));
        since.is_some_and(|Time(since)| since > fell) && (crashed || has_served(pod) && !outage)
    };
    pods.iter().any(is_ready) && pods.iter().filter(|pod| is_ready(pod)).all(came_back)
}

/// Asks running pods for their readiness: what they say about their store is what the database is, and its schema.
async fn ask(context: &Context, discretion: &Discretion<'_>, pods: &[Pod]) -> (Option<Probe>, Option<PodSchema>) {
    let asked = pods.iter().map(|pod| async move {
        let answer = readiness(context, pod.status.as_ref()?.pod_ip.as_deref()?).await?;
        Some((pod, answer))
    });
    let answers: Vec<(&Pod, Value)> = join_all(asked).await.into_iter().flatten().collect();
    let mut said = answers.iter().filter_map(|(pod, answer)| Some((*pod, store_check(answer)?)));
    let told = said.clone().find(|(_, probe)| probe.reachable).or_else(|| said.next());
    let probe = match told {
        Some((pod, probe)) if !probe.reachable => {
            let silence = discretion.silence(pod).await;
            let message =
                silence.map_or(probe.message, |why| format!("pod {}: {}", pod.name_any(), left_out(None, &why)));
            Some(Probe { message, ..probe })
        }
        Some((_, probe)) => Some(probe),
        None => None,
    };
    // The newest pod comes first: the image that is being rolled out decides what the schema has to be.
    (probe, answers.iter().find_map(|(_, answer)| schema_check(answer)))
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
        let since = lapsed_since(&pod("Running", ("False", later), None));
        assert_eq!(since.map(|at| at.to_jiff().to_string()).as_deref(), Some(later));
        for (why, pod) in [
            ("it is ready", pod("Running", ("True", later), None)),
            ("it never was ready", pod("Running", ("False", begun), None)),
            ("it is drained or deleted", pod("Running", ("False", later), Some(later))),
            ("its node evicted it", pod("Failed", ("False", later), None)),
            ("nobody has said a word yet", Pod::default()),
        ] {
            assert_eq!(lapsed_since(&pod), None, "{why}");
        }
    }

    #[test]
    fn pods_fall_in_turns_where_each_that_is_ready_has_fallen_too_and_come_back_since_the_first_fell() {
        let (began, before, fell, after) =
            ("2026-01-01T00:00:01Z", "2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z");
        let mut instance: JamInstance =
            serde_json::from_value(json!({"metadata": {}, "spec": {"runtime": {"jam": {}}}})).unwrap();
        let of = |ready: (&str, &str), crashed: Option<&str>| {
            let mut pod = pod("Running", ready, None);
            let status = pod.status.as_mut().unwrap();
            status.conditions.as_mut().unwrap()[1].type_ = "Ready".into();
            let ended = crashed.map(|at| json!({"terminated": {"exitCode": 1, "finishedAt": at}}));
            let container = json!({"name": names::CONTAINER, "image": "i", "imageID": "", "ready": true,
                "restartCount": 1, "lastState": ended.unwrap_or_default()});
            status.container_statuses = Some(vec![serde_json::from_value(container).unwrap()]);
            pod
        };
        let made = |at: &str| {
            let mut pod = of(("True", after), None);
            pod.metadata.creation_timestamp = Some(Time(at.parse().unwrap()));
            pod
        };
        let (fallen, back) = (of(("False", after), Some(after)), of(("True", after), Some(before)));
        assert!(!in_turns(std::slice::from_ref(&back), &instance), "nothing fell");
        let rollout =
            json!({"revision": "r", "generation": 1, "phase": "Progressing", "since": began, "downSince": fell});
        instance.status = Some(serde_json::from_value(json!({"rollout": rollout})).unwrap());
        let beside = |other: Pod| in_turns(&[fallen.clone(), back.clone(), other], &instance);
        assert!(beside(back.clone()));
        for (why, other) in [
            ("it has stood all the while", of(("True", before), None)),
            ("it crashed, and has stood since before the first one fell", of(("True", before), Some(before))),
            ("it may be ready for the first time", made("2026-01-01T00:00:20Z")),
            ("it crashed before this trial", of(("True", after), Some("2025-12-31T00:00:00Z"))),
        ] {
            assert!(!beside(other), "{why}");
        }
        assert!(beside(made("2025-12-31T23:59:00Z")), "it has served, and was unready since");
        assert!(!in_turns(std::slice::from_ref(&fallen), &instance), "none is ready, which is another thing");
        instance.status.as_mut().unwrap().database_away_until = Some(Time(after.parse().unwrap()));
        let beside = |other: Pod| in_turns(&[fallen.clone(), other], &instance);
        assert!(!beside(made("2025-12-31T23:59:00Z")), "an outage may have made it unready");
        assert!(beside(back.clone()), "no outage makes it crash");
    }

    #[test]
    fn a_pod_lingers_that_goes_or_is_a_jobs_until_it_has_ended() {
        let of = |component: &str, phase: &str, deleted: Option<&str>| {
            let mut pod = pod(phase, ("True", "2026-01-01T00:01:00Z"), deleted);
            pod.labels_mut().insert(names::COMPONENT.into(), component.into());
            lingers(&pod)
        };
        let then = Some("2026-01-01T00:02:00Z");
        assert!(of("api", "Running", then) && of("worker", "Running", then) && of("cleanup", "Running", None));
        assert!(!of("api", "Running", None) && !of("worker", "Pending", None), "its Deployment counts it");
        assert!(!of("cleanup", "Succeeded", None) && !of("api", "Failed", then), "it has ended");
    }

    #[test]
    fn a_pod_whose_store_is_away_is_not_to_blame_for_it() {
        let says = |store: Value| is_to_blame(Some(&json!({"checks": {"store": store, "schema": {"ok": false}}})));
        assert!(!says(json!({"ok": false, "reason": "the store did not answer within 2 s"})));
        assert!(says(json!({"ok": true})), "it has a database and is not ready all the same");
        assert!(is_to_blame(None), "a process that is gone says nothing");
        assert!(is_to_blame(Some(&json!({"error": "not ours"}))));
    }
}
