//! Every pod is asked itself, not through the Service: which tokens it accepts, and whether it refuses those that are over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use jam_domain::TokenId;
use jam_domain::token::TokenHash;
use jam_plan::names::{self, Component};
use jam_plan::rotation::{Plain, PodAnswer, Stage, stage};
use jam_plan::tokens::{Surroundings, consumers};
use jam_plan::{JamInstance, Observed};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::context::Context;
use super::error::Error;
use super::key::Key;
use super::watch::chain;

/// How long a pod may take to answer: more than it waits itself for a database that hangs before it says what it accepts.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pods that are asked at once.
const AT_ONCE: usize = 16;

/// The tokens that pods must refuse, by their hashes. Without Debug: they are tokens.
pub type Retired = BTreeMap<TokenHash, Plain>;

/// Fills in what each pod says, when a rotation has to know.
pub async fn look(
    context: &Context,
    instance: &JamInstance,
    retired: &Retired,
    observed: &mut Observed,
) -> Result<(), Error> {
    let waits = {
        let surroundings = Surroundings::of(instance, observed, context.defaults.pace);
        let stages = consumers(&instance.spec).into_iter().map(|consumer| {
            let (_, holding) = surroundings.holding(&consumer.name);
            stage(&holding, &surroundings.hashes(&consumer.name))
        });
        stages.into_iter().any(|stage| match stage {
            Stage::Verify | Stage::Prove => true,
            Stage::Idle | Stage::Lost | Stage::Distribute | Stage::Overlap | Stage::Retire => false,
        })
    };
    if !waits {
        return Ok(());
    }
    let settings = instance.spec.runtime.jam.clone().resolve(instance.spec.profile);
    let by_request = settings.is_ok_and(|settings| settings.auth_required);
    let pods = api_pods(context, &Key::of(instance)).await?;
    let asked = pods.iter().map(|pod| ask(context, pod, retired, by_request));
    let answers: Vec<Option<PodAnswer>> = futures::stream::iter(asked).buffered(AT_ONCE).collect().await;
    observed.pod_answers = answers.into_iter().flatten().collect();
    Ok(())
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
    let Some(book) = &observed.hashes else { return };
    let wanted: BTreeSet<TokenId> = book.entries.iter().map(|(_, hash)| hash.id()).collect();
    let (word, pods_untold) = untold(&wanted, &observed.pod_answers);
    let key = Key::of(instance);
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    for pod in pods_untold {
        let body = json!({"metadata": {"annotations": {names::TOKENS_TOLD: word}}});
        if let Err(error) = pods.patch_metadata(pod, &PatchParams::default(), &Patch::Merge(&body)).await {
            tracing::debug!(instance = %key, pod, error = chain(&error), "the pod cannot be told");
        }
    }
}

/// The word for this content, and the pods that accept something else and have not been told.
fn untold<'a>(wanted: &BTreeSet<TokenId>, answers: &'a [PodAnswer]) -> (String, Vec<&'a str>) {
    let word = names::short_hash(wanted.iter().map(|id| id.as_str().as_bytes()));
    let is_untold =
        |pod: &&PodAnswer| pod.accepts.as_ref() != Some(wanted) && pod.told.as_deref() != Some(word.as_str());
    let pods = answers.iter().filter(is_untold).map(|pod| pod.pod.as_str()).collect();
    (word, pods)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_does_not_tell_its_key_ids_has_not_answered() {
        let ids = ids_of(&json!({"status": "unavailable", "key_ids": ["0a1b2c3d"]})).unwrap();
        assert_eq!(ids.iter().map(TokenId::as_str).collect::<Vec<_>>(), ["0a1b2c3d"]);
        assert_eq!(ids_of(&json!({"status": "ok"})), None);
        assert_eq!(ids_of(&json!({"key_ids": [1]})), None);
    }

    #[test]
    fn a_pod_is_told_once_for_each_content_and_one_that_agrees_or_was_told_is_not() {
        let ids = |all: &[&str]| all.iter().map(|id| id.parse().unwrap()).collect::<BTreeSet<TokenId>>();
        let pod = |name: &str, accepts: Option<&[&str]>, told: Option<&str>| PodAnswer {
            pod: name.into(),
            accepts: accepts.map(ids),
            refused: BTreeSet::new(),
            told: told.map(str::to_owned),
        };
        let (old, new) = (["0a1b2c3d", "ffffffff"], ["0a1b2c3d"]);
        let (word, _) = untold(&ids(&new), &[]);
        assert_ne!(word, untold(&ids(&old), &[]).0, "another content is another word");
        let pods = [
            pod("agrees", Some(&new), None),
            pod("old", Some(&old), None),
            pod("was-told-of-another", Some(&old), Some("0123456789")),
            pod("was-told", Some(&old), Some(&word)),
            pod("says-nothing", None, None),
        ];
        assert_eq!(untold(&ids(&new), &pods), (word, vec!["old", "was-told-of-another", "says-nothing"]));
    }

    #[test]
    fn an_address_of_either_family_is_asked() {
        assert_eq!(url("10.0.0.1", "/readyz"), "http://10.0.0.1:8080/readyz");
        assert_eq!(url("fd00::1", "/readyz"), "http://[fd00::1]:8080/readyz");
    }
}
