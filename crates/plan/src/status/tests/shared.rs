//! Laws of a token that two Secrets hold: whom it is accepted from still is told, and no pod is blamed for it.

use std::collections::BTreeSet;

use jam_domain::token::TokenHash;
use serde_json::json;

use super::{applied, condition, pair, short};
use crate::crd::{JamInstance, SharedToken};
use crate::fixtures::{at, but, in_memory, settled_cluster_for, token};
use crate::names::REVOKE;
use crate::observed::{HashBook, Observed, OwnTokens};
use crate::reason::Reason;
use crate::rotation::PodAnswer;

fn leaked() -> TokenHash {
    token("demo", 7).holding.slots.token.unwrap()
}

/// Consumer demo got another token and every pod is to refuse what it had; `others` have a token of their own.
fn proving(instance: &JamInstance, other: u8) -> Observed {
    let (mut demo, other) = (token("demo", 2), token("other", other));
    demo.holding.slots.retired = vec![leaked()];
    let entry = |name: &str, hash: Option<TokenHash>| (name.to_owned(), hash.unwrap());
    let entries = vec![entry("demo", demo.holding.slots.token), entry("other", other.holding.slots.token)];
    let ids: BTreeSet<_> = entries.iter().map(|(_, hash)| hash.id()).chain([leaked().id()]).collect();
    let answer = |pod: &str, accepts: Option<BTreeSet<_>>| PodAnswer {
        pod: pod.into(),
        accepts,
        refused: BTreeSet::new(),
        told: None,
    };
    let pod_answers = vec![answer("pod-a", Some(ids.clone())), answer("pod-b", Some(ids))];
    let hashes = Some(HashBook { entries, ..HashBook::default() });
    Observed { at: at(9000), tokens: vec![demo, other], hashes, pod_answers, ..settled_cluster_for(instance) }
}

fn two() -> JamInstance {
    but(&in_memory(), json!({"tokens": {"consumers": [{"name": "demo"}, {"name": "other"}]}}))
}

#[test]
fn a_token_that_another_consumer_has_as_well_is_told_with_what_ends_it_and_blamed_on_no_pod() {
    let instance = two();
    let said = applied(&instance, &proving(&instance, 7), 9000);
    assert_eq!(short(&said, "TokensReady"), pair("False", Reason::RotationHeld));
    let message = &condition(&said, "TokensReady").message;
    let words = format!("Secret main-token-other of consumer other holds it as well; {REVOKE}={}", leaked().id());
    assert!(message.contains(&words) && !message.contains("pod-"), "{message}");
    let rotation = said.rotation.unwrap();
    let (consumer, key_id, secret) = ("demo".into(), leaked().id().to_string(), "main-token-other".into());
    assert_eq!(rotation.shared, [SharedToken { consumer, key_id, holder: Some("other".into()), secret }]);
    assert!(rotation.waiting_for.is_empty() && rotation.refused.is_empty(), "{rotation:?}");
    // Where nobody else has it the pods are in the way.
    let said = applied(&instance, &proving(&instance, 8), 9000);
    assert!(condition(&said, "TokensReady").message.contains("pod-a, pod-b"), "{said:?}");
    assert!(said.rotation.unwrap().shared.is_empty());
}

#[test]
fn a_token_that_is_revoked_by_its_id_is_shared_with_nobody() {
    let mut instance = two();
    instance.metadata.annotations.get_or_insert_default().insert(REVOKE.into(), leaked().id().to_string());
    assert!(applied(&instance, &proving(&instance, 7), 9000).rotation.unwrap().shared.is_empty());
}

#[test]
fn a_token_that_administrators_have_as_well_is_told_with_their_secret() {
    let refers =
        json!({"consumers": [{"name": "demo"}, {"name": "other"}], "adminTokensSecretRef": {"name": "admins"}});
    let instance = but(&in_memory(), json!({"tokens": refers}));
    let hashes = vec![("alice".to_owned(), leaked())];
    let admins = OwnTokens { secret: "admins".into(), exists: true, hashes, unusable: Vec::new() };
    // Pods name no id of an administrator, and let such a token in all the same.
    let with = |cluster: Observed| Observed { admin_tokens: Some(admins.clone()), ..cluster };
    let mut cluster = with(proving(&two(), 8));
    for pod in &mut cluster.pod_answers {
        pod.accepts.as_mut().unwrap().remove(&leaked().id());
    }
    let said = applied(&instance, &cluster, 9000);
    let message = &condition(&said, "TokensReady").message;
    assert!(
        message.contains("Secret admins of administrators holds it as well") && !message.contains("pod-"),
        "{message}"
    );
}
