//! What is said of the user's own tokens that were revoked: which every pod refused, and which pods have not.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::whole_seconds;
use crate::crd::{RefusedOwn, RotationStatus};
use crate::observed::Observed;
use crate::resolve::Resolved;

/// Tokens that are told at most.
const MOST: usize = 64;

/// Those that every pod refused when it was sent them, once every pod has `agreed` to what it is to accept.
pub(super) fn refused(
    resolved: &Resolved,
    observed: &Observed,
    before: Option<&RotationStatus>,
    agreed: bool,
) -> Vec<RefusedOwn> {
    let told = before.map(|before| before.refused_own.as_slice()).unwrap_or_default();
    let answers = &observed.pod_answers;
    let nobody_runs = observed.distribution.as_ref().is_none_or(|there| there.pods == 0);
    let one = |hash: &jam_domain::token::TokenHash| {
        let key_id = hash.id().to_string();
        if let Some(known) = told.iter().find(|told| told.key_id == key_id) {
            return Some(known.clone());
        }
        let by_all = answers.iter().all(|pod| pod.refused.contains(hash)) && (nobody_runs || !answers.is_empty());
        let pods = i32::try_from(answers.len()).unwrap_or(i32::MAX);
        (agreed && by_all).then(|| RefusedOwn { key_id, at: Time(whole_seconds(observed.at)), pods })
    };
    resolved.remembered.own.all.iter().filter_map(one).take(MOST).collect()
}

/// What is under way about them, the pods that it waits for, and whether these had their time; `None` when nothing is.
pub(super) fn waits(resolved: &Resolved, observed: &Observed) -> Option<(String, Vec<String>, bool)> {
    let own = &resolved.remembered.own;
    let accept = |pod: &&crate::rotation::PodAnswer| own.unproven.iter().any(|hash| !pod.refused.contains(hash));
    let pods: Vec<String> = observed.pod_answers.iter().filter(accept).map(|pod| pod.pod.clone()).collect();
    if own.unproven.is_empty() || pods.is_empty() {
        return None;
    }
    let ids: Vec<String> = own.unproven.iter().take(MOST).map(|hash| hash.id().to_string()).collect();
    Some((format!("every pod is sent {}, revoked of your own, until it refuses", ids.join(", ")), pods, own.overdue))
}
