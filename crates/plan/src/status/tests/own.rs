//! Laws of the user's own tokens that were revoked: done when every pod has refused them, and not before.

use std::collections::BTreeSet;

use jam_domain::token::TokenHash;
use serde_json::json;

use super::{condition, pair, short, with};
use crate::crd::{JamInstance, JamInstanceStatus};
use crate::fixtures::{at, but, in_memory, resolved, settled_cluster_for};
use crate::names::REVOKE;
use crate::observed::{Observed, OwnTokens};
use crate::reason::Reason;
use crate::rotation::{Distribution, PodAnswer};
use crate::status::{Verdict, status, transitions};

fn leaked() -> TokenHash {
    TokenHash::of("an-administrators-token")
}

/// Two pods, of which these refuse the leaked token; the Secret of hashes was written at 1000.
fn cluster(instance: &JamInstance, refuse: &[&str], seconds: i64) -> Observed {
    let own = |secret: &str, tokens: &[&str]| OwnTokens {
        secret: secret.into(),
        exists: true,
        hashes: tokens.iter().map(|token| ("a".to_owned(), TokenHash::of(token))).collect(),
        unusable: Vec::new(),
    };
    let answer = |pod: &str| PodAnswer {
        pod: pod.into(),
        accepts: Some(BTreeSet::new()),
        refused: refuse.iter().filter(|name| **name == pod).map(|_| leaked()).collect(),
        told: None,
    };
    let bare = settled_cluster_for(&in_memory());
    let own_tokens = Some(own("mine", &["a-token-of-my-own-1"]));
    let admin_tokens = Some(own("admins", &["an-administrators-token"]));
    let cluster = Observed { at: at(seconds), own_tokens, admin_tokens, ..bare };
    let book = crate::observed::HashBook {
        word: crate::desired::token_word(&resolved(instance, &cluster)),
        written_at: Some(at(1000)),
        ..Default::default()
    };
    let distribution = Some(Distribution::settled(book.word.clone(), 2));
    let pod_answers = vec![answer("pod-a"), answer("pod-b")];
    Observed { hashes: Some(book), distribution, pod_answers, ..cluster }
}

fn told(instance: &JamInstance, cluster: &Observed) -> JamInstanceStatus {
    status(instance, Verdict::Applied(&resolved(instance, cluster)), cluster, cluster.at)
}

#[test]
fn a_revoked_token_of_the_users_own_is_done_when_every_pod_refused_it_and_pods_that_do_not_are_named() {
    let refers = json!({"consumers": [], "allowedTokensSecretRef": {"name": "mine"}, "adminTokensSecretRef": {"name": "admins"}});
    let mut instance = but(&in_memory(), json!({"tokens": refers}));
    let nothing = told(&instance, &cluster(&instance, &[], 1001));
    assert_eq!(nothing.rotation, None, "nothing was revoked");
    let id = leaked().id().to_string();
    instance.metadata.annotations.get_or_insert_default().insert(REVOKE.into(), id.clone());
    let soon = cluster(&instance, &["pod-a"], 1001);
    assert!(resolved(&instance, &soon).remembered.own.next.is_some(), "it is asked again");
    let waits = told(&instance, &soon);
    assert_eq!((short(&waits, "TokensReady"), &waits.rotation), (pair("True", Reason::Rotating), &None));
    assert!(condition(&waits, "TokensReady").message.contains(&id));
    let late = told(&instance, &cluster(&instance, &["pod-a"], 2000));
    assert_eq!(short(&late, "TokensReady"), pair("False", Reason::RotationHeld));
    let message = &condition(&late, "TokensReady").message;
    assert!(message.contains("pod-b") && !message.contains("pod-a"), "{message}");
    let done = told(&instance, &cluster(&instance, &["pod-a", "pod-b"], 1002));
    let proof = done.rotation.clone().unwrap().refused_own;
    assert_eq!((proof.len(), &proof[0].key_id, proof[0].pods), (1, &id, 2));
    assert_eq!(short(&done, "TokensReady"), pair("True", Reason::TokensIssued));
    let event = transitions(&waits, &done).into_iter().find(|event| event.reason == Reason::TokenRetired).unwrap();
    assert_eq!(event.note, format!("{id} of your own is refused by each of 2 pods"));
    // It is proven once, and forgotten when nobody asks for it any more.
    let known = with(&instance, done);
    let quiet = Observed { pod_answers: Vec::new(), ..cluster(&known, &[], 3000) };
    assert_eq!(resolved(&known, &quiet).remembered.own.next, None);
    assert_eq!(told(&known, &quiet).rotation.unwrap().refused_own, proof);
    let mut over = known;
    over.metadata.annotations = None;
    assert_eq!(told(&over, &cluster(&over, &[], 3000)).rotation, None);
}
