//! Laws of the user's own tokens: taken instead of consumers, and named when they are not there.

use jam_domain::token::TokenHash;
use k8s_openapi::ByteString;
use serde_json::json;

use crate::crd::JamInstance;
use crate::desired::{Desired, desired};
use crate::fixtures::{but, cluster_for, defaults, in_memory, resolved};
use crate::names;
use crate::observed::{HashBook, Held, Observed, OwnTokens};
use crate::reason::{Reason, Refusal};
use crate::resolve;
use crate::rotation::{Move, Notes};
use crate::tokens::work;

fn refusal(instance: &JamInstance, observed: &Observed) -> Refusal {
    resolve(instance, observed, &defaults()).expect_err("it is refused")
}

#[test]
fn the_users_own_tokens_are_taken_instead_of_consumers_and_a_secret_without_them_is_named() {
    let hash = jam_domain::token::TokenHash::of("0123456789abcdef");
    let own = |exists: bool, hashes: Vec<(String, TokenHash)>, unusable: &[&str]| OwnTokens {
        secret: "mine".into(),
        exists,
        hashes,
        unusable: unusable.iter().map(|key| (*key).to_owned()).collect(),
    };
    let good = vec![("a".to_owned(), hash)];
    for field in ["allowedTokensSecretRef", "globalTokensSecretRef"] {
        let instance = but(&in_memory(), json!({"tokens": {"consumers": [], field: {"name": "mine"}}}));
        let with = |own: OwnTokens| Observed { own_tokens: Some(own), ..cluster_for(&instance) };
        let resolved = resolved(&instance, &with(own(true, good.clone(), &[])));
        let settings = desired(&resolved).items.into_iter().find(|item| item.body["data"]["config.yaml"].is_string());
        let file = settings.expect("there is a settings file").body["data"]["config.yaml"].to_string();
        assert!(file.contains("tokens_file: "), "the server is told where their hashes are: {file}");
        assert_eq!((resolved.own_tokens, resolved.consumers.len()), (good.clone(), 0));
        let missing = refusal(&instance, &with(own(false, Vec::new(), &[])));
        assert_eq!(missing.reason, Reason::SecretMissing);
        assert!(missing.message.contains(&format!("spec.tokens.{field}")), "{}", missing.message);
        assert_eq!(refusal(&instance, &with(own(true, Vec::new(), &[]))).reason, Reason::SecretKeyMissing);
        let short = refusal(&instance, &with(own(true, good.clone(), &["b"])));
        assert!(short.message.contains("key b holds no token"), "{}", short.message);
    }
    let both = but(&in_memory(), json!({"tokens": {"allowedTokensSecretRef": {"name": "mine"}}}));
    assert_eq!(refusal(&both, &cluster_for(&both)).reason, Reason::InvalidSettings);
}

/// A file in the Secret of hashes.
fn file_of(all: &[Desired], key: &str) -> serde_json::Value {
    let secret = all.iter().find(|item| item.object.name == "main-token-hashes").unwrap();
    let ByteString(bytes) = serde_json::from_value(secret.body["data"][key].clone()).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn administrators_tokens_are_hashed_into_a_file_of_their_own_and_no_consumer_is_among_them() {
    let instance = but(&in_memory(), json!({"tokens": {"adminTokensSecretRef": {"name": "admins"}}}));
    let hash = TokenHash::of("a-token-of-an-administrator");
    let own = |exists: bool, hashes: Vec<(String, TokenHash)>| OwnTokens {
        secret: "admins".into(),
        exists,
        hashes,
        unusable: Vec::new(),
    };
    let with = |own: OwnTokens| Observed { admin_tokens: Some(own), ..cluster_for(&instance) };
    // The same token under two keys is one line: two would make the server refuse the whole.
    let twice = vec![("alice".to_owned(), hash), ("bob".to_owned(), hash)];
    let all = desired(&resolved(&instance, &with(own(true, twice)))).items;
    let entry = json!({"id": hash.id(), "sha256": hash, "name": "alice"});
    assert_eq!(file_of(&all, "admin-tokens.json"), json!([entry]));
    let consumers = file_of(&all, "tokens.json");
    assert_eq!((consumers.as_array().unwrap().len(), &consumers[0]["name"]), (1, &json!("demo")));
    let settings = all.iter().find_map(|item| item.body["data"]["config.yaml"].as_str()).unwrap();
    assert!(settings.contains("admin_tokens_file: /etc/jam/tokens/admin-tokens.json"), "{settings}");
    assert!(!format!("{all:?}").contains("a-token-of-an-administrator"));

    let all = desired(&resolved(&in_memory(), &cluster_for(&in_memory()))).items;
    assert_eq!(file_of(&all, "admin-tokens.json"), json!([]), "pods that still read it know nobody any more");
    let settings = all.iter().find_map(|item| item.body["data"]["config.yaml"].as_str()).unwrap();
    assert!(!settings.contains("admin_tokens_file"), "who names none has no admin plane: {settings}");
    let missing = refusal(&instance, &with(own(false, Vec::new())));
    assert_eq!(missing.reason, Reason::SecretMissing);
    assert!(missing.message.contains("spec.tokens.adminTokensSecretRef"), "{}", missing.message);
    assert_eq!(refusal(&instance, &with(own(true, Vec::new()))).reason, Reason::SecretKeyMissing);
    let alone = but(&instance, json!({"tokens": {"consumers": []}}));
    let refused = refusal(&alone, &with(own(true, vec![("alice".into(), hash)])));
    assert_eq!(refused.reason, Reason::InvalidSettings, "administrators' tokens let no consumer in");
}

#[test]
fn a_revoked_token_whose_secret_cannot_be_written_is_accepted_by_nobody_and_the_book_remembers_what_was_revoked() {
    let mut instance = but(&in_memory(), json!({"tokens": {"consumers": [{"name": "demo"}]}}));
    let listed = |instance: &JamInstance, observed: &Observed| {
        let all = desired(&resolved(instance, observed)).items;
        let secret = all.iter().find(|item| item.object.name == "main-token-hashes").unwrap();
        (file_of(&all, "tokens.json").as_array().unwrap().len(), secret.body["metadata"]["annotations"].clone())
    };
    let mut observed = cluster_for(&instance);
    assert_eq!(listed(&instance, &observed).0, 1);
    let held = Held { why: "admission says no".into(), made: true };
    observed.held.insert("demo".into(), held);
    assert_eq!(listed(&instance, &observed).0, 1, "without a revocation nobody is locked out");
    instance.metadata.annotations.get_or_insert_default().insert("jam.network/revoke".into(), "demo,1".into());
    assert_eq!(listed(&instance, &observed).0, 0);
    observed.held.clear();
    observed.tokens[0].holding.notes.revoked = Some("demo,1".into());
    let (count, annotations) = listed(&instance, &observed);
    assert_eq!((count, &annotations["jam.network/token-revocations"]), (1, &json!(r#"{"demo":"demo,1"}"#)));
}

#[test]
fn a_revoked_token_of_the_users_own_is_listed_no_longer_and_an_id_that_nobody_has_is_named() {
    let hashes = ["a-token-of-my-own", "another-of-my-own"].map(TokenHash::of);
    let instance = but(&in_memory(), json!({"tokens": {"consumers": [], "allowedTokensSecretRef": {"name": "mine"}}}));
    let own = OwnTokens {
        secret: "mine".into(),
        exists: true,
        hashes: vec![("a".into(), hashes[0]), ("b".into(), hashes[1])],
        unusable: Vec::new(),
    };
    let observed = Observed { own_tokens: Some(own), ..cluster_for(&instance) };
    let revoking = |value: &str| {
        let mut instance = instance.clone();
        instance.metadata.annotations.get_or_insert_default().insert(crate::names::REVOKE.into(), value.into());
        resolved(&instance, &observed)
    };
    let ended = revoking(hashes[0].id().as_str());
    assert_eq!(ended.own_tokens, [("b".to_owned(), hashes[1])]);
    assert!(ended.remembered.unmatched.is_empty());
    let missed = revoking("0a1b2c3d,1732190000");
    assert_eq!((missed.own_tokens.len(), missed.remembered.unmatched), (2, vec!["0a1b2c3d".to_owned()]));
}

#[test]
fn a_replaced_secret_that_cannot_be_written_keeps_the_token_that_was_given_after_the_revocation() {
    let mut instance = but(&in_memory(), json!({"tokens": {"consumers": [{"name": "demo"}]}}));
    instance.metadata.annotations.get_or_insert_default().insert(names::REVOKE.into(), "demo,1".into());
    let mut observed = cluster_for(&instance);
    let notes = &mut observed.tokens[0].holding.notes;
    (notes.generation, notes.revoked) = (5, Some("demo,1".into()));
    // A tool puts it back without its notes, so that nobody can write it.
    let book = |observed: &Observed| {
        let all = desired(&resolved(&instance, observed)).items;
        let secret = all.into_iter().find(|item| item.object.name == "main-token-hashes").unwrap();
        HashBook::of(&serde_json::from_value(secret.body).unwrap())
    };
    let written = book(&observed);
    observed.tokens[0].holding.notes = Notes::default();
    observed.held.insert("demo".into(), Held { why: "immutable".into(), made: true });
    observed.hashes = Some(written.clone());
    for look in 1..=2 {
        let next = book(&observed);
        let said = |book: &HashBook| (book.entries.clone(), book.generations.clone(), book.revocations.clone());
        assert_eq!(said(&next), said(&written), "look {look}");
        observed.hashes = Some(next);
    }
    observed.tokens[0].holding.slots.token = Some(TokenHash::of("one-of-a-backup-that-may-have-leaked"));
    assert_eq!(book(&observed).entries, written.entries, "it is not let in, nor the present one cut off");
}

#[test]
fn a_secret_that_somebody_changed_and_nobody_can_write_cuts_nobody_off() {
    let instance = but(&in_memory(), json!({"tokens": {"consumers": [{"name": "demo"}]}}));
    let mut observed = cluster_for(&instance);
    let holding = &mut observed.tokens[0].holding;
    let given = holding.slots.token.unwrap();
    holding.notes.written = Some(given.id());
    observed.hashes = Some(HashBook { entries: vec![("demo".into(), given)], ..HashBook::default() });
    observed.held.insert("demo".into(), Held { why: "admission says no".into(), made: true });
    let another = TokenHash::of("typed-by-hand-0123456789");
    let book = |token: Option<TokenHash>, notes: &Notes| {
        let mut observed = observed.clone();
        let holding = &mut observed.tokens[0].holding;
        (holding.slots.token, holding.notes) = (token, notes.clone());
        resolved(&instance, &observed).consumers[0].accepted.clone()
    };
    let noted = &observed.tokens[0].holding.notes;
    assert_eq!(book(Some(given), noted), [given]);
    for notes in [noted, &Notes::default()] {
        assert_eq!(book(Some(another), notes), [another, given], "{notes:?}");
        assert_eq!(book(None, notes), [given], "{notes:?}");
    }
}

#[test]
fn a_secret_that_is_lost_while_pods_run_on_without_their_deployment_is_handed_out_when_they_accept_it() {
    let instance = but(&in_memory(), json!({"tokens": {"consumers": [{"name": "demo"}, {"name": "other"}]}}));
    let mut observed = cluster_for(&instance);
    observed.tokens.retain(|token| token.consumer != "demo");
    observed.api = None;
    let moved = |observed: &Observed| {
        let work = work(&instance, observed, defaults().pace);
        work.into_iter().map(|task| (task.consumer, task.change.then)).collect::<Vec<_>>()
    };
    assert_eq!(moved(&observed), [("demo".to_owned(), Move::Create)], "nobody serves, nobody has to be asked");
    observed.pods_remain = true;
    assert_eq!(moved(&observed), [("demo".to_owned(), Move::Issue)]);
}
