//! Every pod is asked itself, not through the Service: which tokens it accepts, and whether it refuses those that are over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use jam_domain::token::TokenHash;
use jam_domain::{Timestamp, TokenId};
use jam_plan::crd::Consumer;
use jam_plan::names::{self, Component};
use jam_plan::observed::HashBook;
use jam_plan::rotation::{Distribution, Plain, PodAnswer, Reader, Stage, distribution, stage};
use jam_plan::tokens::{Surroundings, consumers};
use jam_plan::{JamInstance, Observed};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::context::Context;
use super::error::Error;
use super::key::Key;
use super::last_words::is_ours;
use super::watch::chain;

/// How long a pod may take to answer: more than it waits itself for a database that hangs before it says what it accepts.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pods that are asked at once.
const AT_ONCE: usize = 16;

/// The tokens that pods must refuse, by their hashes. Without Debug: they are tokens.
pub type Retired = BTreeMap<TokenHash, Plain>;

/// The same by whose they were.
#[derive(Default)]
pub struct Over {
    /// Consumers'.
    pub consumers: Retired,
    /// The user's own, of callers.
    pub callers: Retired,
    /// Those of administrators: no pod says which of these it accepts.
    pub administrators: Retired,
}

/// Whether pods are sent the tokens that are over, to see each refuse them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// They are.
    Asked,
    /// They are not: outside of the cluster somebody else may answer at a pod's address.
    Spared,
}

impl Over {
    /// Those that pods are sent.
    pub fn shown(self, proof: Proof) -> Self {
        match proof {
            Proof::Asked => self,
            Proof::Spared => Self::default(),
        }
    }
}

/// Fills in what each pod says, when a rotation has to know or not every pod is known to have read its file.
pub async fn look(context: &Context, instance: &JamInstance, over: Over, observed: &mut Observed) -> Result<(), Error> {
    let Over { consumers: mut retired, callers, administrators } = over;
    let settings = instance.spec.runtime.jam.clone().resolve(instance.spec.profile);
    let by_request = settings.is_ok_and(|settings| settings.auth_required);
    let proves = !callers.is_empty() || (by_request && !administrators.is_empty());
    retired.extend(callers);
    retired.extend(administrators.into_iter().filter(|_| by_request));

    let surroundings = Surroundings::of(instance, observed, context.defaults.pace);
    let rotates = consumers(&instance.spec).into_iter().any(|consumer| {
        let (_, holding) = surroundings.holding(&consumer.name);
        match stage(&holding, &surroundings.hashes(&consumer.name)) {
            Stage::Verify | Stage::Prove => true,
            Stage::Idle | Stage::Lost | Stage::Distribute | Stage::Overlap | Stage::Retire => false,
        }
    });
    let waits = rotates || proves;
    let key = Key::of(instance);
    if observed.api.is_none() && !waits {
        let is_lost = |consumer: Consumer| !surroundings.holding(&consumer.name).0;
        if observed.hashes.is_some() && consumers(&instance.spec).into_iter().any(is_lost) {
            // Somebody deleted both: pods that run on accept what they have read.
            observed.pods_remain = !api_pods(context, &key).await?.is_empty();
        }
        return Ok(());
    }
    let book = observed.hashes.clone().unwrap_or_default();
    let read_by = context.memory.readers(&key, &book.word).or(observed.hashes.is_none().then_some(0));
    if let Some(pods) = read_by.filter(|_| !waits) {
        observed.distribution = Some(Distribution::settled(book.word, pods));
        return Ok(());
    }
    let pods = api_pods(context, &key).await?;
    // Also where somebody deleted the Deployment: pods that run on accept what they have read.
    observed.pods_remain = observed.api.is_none() && !pods.is_empty();
    let mut readers: Vec<Reader> = pods.iter().map(reader).collect();
    if waits {
        observed.pod_answers = ask_all(context, &pods, &retired, by_request, &mut readers).await;
    } else {
        ask_readers(context, &pods, &book, &mut readers).await;
    }
    let there = match &observed.hashes {
        Some(book) => distribution(book, &readers, observed.at, context.defaults.pace.kubelet_sync),
        None => Distribution::default(),
    };
    if there.is_settled() {
        context.memory.read(&key, there.word.clone(), there.pods);
    }
    observed.distribution = Some(there);
    Ok(())
}

/// Every pod is asked for all that a rotation has to know.
async fn ask_all(
    context: &Context,
    pods: &[Pod],
    retired: &Retired,
    by_request: bool,
    readers: &mut [Reader],
) -> Vec<PodAnswer> {
    let asked = pods.iter().map(|pod| ask(context, pod, retired, by_request));
    let answers: Vec<Option<PodAnswer>> = futures::stream::iter(asked).buffered(AT_ONCE).collect().await;
    for (reader, answer) in readers.iter_mut().zip(&answers) {
        reader.accepts = answer.as_ref().and_then(|answer| answer.accepts.clone());
        // One that is on its way out and does not answer serves nobody.
        reader.runs &= answer.is_some();
    }
    answers.into_iter().flatten().collect()
}

/// Those pods are asked what they accept that may have read another content of the Secret.
async fn ask_readers(context: &Context, pods: &[Pod], book: &HashBook, readers: &mut [Reader]) {
    let mut asked = Vec::new();
    for (pod, reader) in pods.iter().zip(readers.iter()) {
        asked.push(ask_unless(!reader.runs || (reader.is_surely_younger(book) && reader.knows(book)), context, pod));
    }
    let answers: Vec<_> = futures::stream::iter(asked).buffered(AT_ONCE).collect().await;
    for (reader, answer) in readers.iter_mut().zip(answers) {
        let Some(answer) = answer else { continue };
        reader.runs = answer.is_some();
        reader.accepts = answer.and_then(|answer| answer.accepts);
    }
}

/// What is known of a pod as a reader before it is asked.
fn reader(pod: &Pod) -> Reader {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    // What is injected beside ours runs on while ours does not, and reads no file.
    let own = containers.iter().find(|container| is_ours(container)).and_then(|own| own.state.as_ref());
    let waits = status.and_then(|status| status.phase.as_deref()) != Some("Running")
        || own.is_some_and(|state| state.running.is_none());
    Reader {
        pod: pod.name_any(),
        accepts: None,
        told: pod.annotations().get(names::TOKENS_TOLD).cloned(),
        begun: pod.metadata.creation_timestamp.as_ref().map(|time| Timestamp::from_jiff(time.0)),
        runs: !waits,
    }
}

/// The pods that may serve. One that has no node yet will mount what is in the Secret then.
async fn api_pods(context: &Context, instance: &Key) -> Result<Vec<Pod>, Error> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &instance.namespace);
    let selector = names::selector(&instance.name, Component::Api);
    let selector: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let list = pods.list(&ListParams::default().labels(&selector.join(","))).await;
    let mut found = list.map_err(Error::read(format_args!("pods of {instance}")))?.items;
    found.retain(|pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let addressed = pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some());
        !matches!(phase, Some("Succeeded" | "Failed")) && (placed || addressed)
    });
    Ok(found)
}

/// Which tokens one pod accepts, where that is to be known.
async fn ask_unless(known: bool, context: &Context, pod: &Pod) -> Option<Option<PodAnswer>> {
    if known { None } else { Some(ask(context, pod, &Retired::new(), false).await) }
}

/// What one pod says; `None` for one that is on its way out and serves nobody any more.
async fn ask(context: &Context, pod: &Pod, retired: &Retired, by_request: bool) -> Option<PodAnswer> {
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    let accepts = match address {
        Some(address) => key_ids(context, address).await,
        None => None,
    };
    if accepts.is_none() && pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let mut refused = BTreeSet::new();
    if let (Some(address), Some(ids)) = (address, &accepts) {
        for (hash, token) in retired {
            // Where no token is required none is ever refused; then the ids alone can tell.
            if if by_request { is_refused(context, address, token).await } else { !ids.contains(&hash.id()) } {
                refused.insert(*hash);
            }
        }
    }
    Some(PodAnswer { pod: pod.name_any(), accepts, refused, told: pod.annotations().get(names::TOKENS_TOLD).cloned() })
}

fn url(address: &str, path: &str) -> String {
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    format!("http://{host}:8080{path}")
}

/// The ids in `{"key_ids": ["0a1b2c3d"]}`, which a pod tells also while it is not ready.
async fn key_ids(context: &Context, address: &str) -> Option<BTreeSet<TokenId>> {
    let request = context.instruments.http.get(url(address, "/readyz")).timeout(PATIENCE);
    ids_of(&request.send().await.ok()?.json::<Value>().await.ok()?)
}

fn ids_of(answer: &Value) -> Option<BTreeSet<TokenId>> {
    answer.get("key_ids")?.as_array()?.iter().map(|id| id.as_str()?.parse().ok()).collect()
}

/// Whether a request with this token gets 401: `/system/status` needs a token also while JAM is disabled.
async fn is_refused(context: &Context, address: &str, token: &Plain) -> bool {
    let request = context.instruments.http.get(url(address, "/system/status")).timeout(PATIENCE);
    let answer = request.bearer_auth(token.reveal()).send().await;
    answer.is_ok_and(|answer| answer.status() == reqwest::StatusCode::UNAUTHORIZED)
}

/// Tells pods whose file is old to read: a changed annotation makes the kubelet look at the pod at once, not within a minute.
///
/// Each pod is told once for each content of the Secret of hashes. Not being able to tell costs only that minute.
pub async fn tell(context: &Context, instance: &JamInstance, observed: &Observed) {
    let Some(Distribution { word, untold, .. }) = &observed.distribution else { return };
    let key = Key::of(instance);
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let body = json!({"metadata": {"annotations": {names::TOKENS_TOLD: word}}});
    let told: Vec<_> = untold.iter().map(|pod| tell_one(&pods, &key, pod, &body)).collect();
    futures::stream::iter(told).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}

async fn tell_one(pods: &Api<Pod>, instance: &Key, pod: &str, body: &Value) {
    if let Err(error) = pods.patch_metadata(pod, &PatchParams::default(), &Patch::Merge(body)).await {
        tracing::debug!(%instance, pod, error = chain(&error), "the pod cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_of_the_cluster_no_token_is_shown_to_a_pods_address() {
        let over = || {
            let one = || Retired::from([(TokenHash::of("t"), Plain::new("t".into()))]);
            Over { consumers: one(), callers: one(), administrators: one() }
        };
        let count = |over: Over| over.consumers.len() + over.callers.len() + over.administrators.len();
        assert_eq!((count(over().shown(Proof::Asked)), count(over().shown(Proof::Spared))), (3, 0));
    }

    #[test]
    fn a_pod_that_does_not_tell_its_key_ids_has_not_answered() {
        let ids = ids_of(&json!({"status": "unavailable", "key_ids": ["0a1b2c3d"]})).unwrap();
        assert_eq!(ids.iter().map(TokenId::as_str).collect::<Vec<_>>(), ["0a1b2c3d"]);
        assert_eq!(ids_of(&json!({"status": "ok"})), None);
        assert_eq!(ids_of(&json!({"key_ids": [1]})), None);
    }

    #[test]
    fn only_a_pod_in_which_a_container_runs_or_may_run_is_waited_for() {
        let runs = |status: Value| reader(&serde_json::from_value(json!({"status": status})).unwrap()).runs;
        assert!(runs(json!({"phase": "Running"})), "the kubelet has said no more yet");
        let container = |name: &str, state: &Value| json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 1, "state": state});
        let with = |all: &[Value]| json!({"phase": "Running", "containerStatuses": all});
        let (running, waiting) = (json!({"running": {}}), json!({"waiting": {"reason": "CrashLoopBackOff"}}));
        assert!(runs(with(&[container("jam", &running)])));
        assert!(!runs(with(&[container("jam", &waiting)])) && !runs(json!({"phase": "Pending"})));
        assert!(!runs(with(&[container("mesh", &running), container("jam", &waiting)])), "a neighbour reads no tokens");
        assert!(runs(with(&[container("mesh", &waiting), container("jam", &running)])));
        assert!(runs(with(&[container("mesh", &waiting)])), "of ours nothing is said yet");
    }

    #[test]
    fn an_address_of_either_family_is_asked() {
        assert_eq!(url("10.0.0.1", "/readyz"), "http://10.0.0.1:8080/readyz");
        assert_eq!(url("fd00::1", "/readyz"), "http://[fd00::1]:8080/readyz");
    }
}
