//! Laws of the user's own tokens: taken instead of consumers, and named when they are not there.

use jam_domain::token::TokenHash;
use serde_json::json;

use crate::crd::JamInstance;
use crate::desired::desired;
use crate::fixtures::{but, cluster_for, defaults, in_memory, resolved};
use crate::observed::{Observed, OwnTokens};
use crate::reason::{Reason, Refusal};
use crate::resolve;

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
