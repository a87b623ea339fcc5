//! New tokens: 256 random bits each, made only where none is, known to this process just long enough to be written.

use std::collections::BTreeMap;

use jam_domain::{Timestamp, TokenId};
use jam_plan::observed::{TokenSecret, TokenState};
use jam_plan::tokens::{TokenTask, TokenWork, missing};
use jam_plan::{JamInstance, Observed, names};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use rand::TryRng;
use rand::rngs::SysRng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::context::Context;
use super::error::Error;
use super::key::Key;
use super::observe;

/// Tokens that wait for their Secret to be created, by the Secret's name.
#[derive(Default)]
pub struct Minted(BTreeMap<String, (Token, String)>);

/// A token. It has no Debug and no Display: it cannot be logged by accident.
struct Token(String);

impl Token {
    fn random() -> Result<Self, Error> {
        let mut bits = [0_u8; 32];
        SysRng.try_fill_bytes(&mut bits).map_err(|error| Error::NoRandom(error.to_string()))?;
        Ok(Self(hex::encode(bits)))
    }

    fn key_id(&self) -> (TokenId, String) {
        let hash: [u8; 32] = Sha256::digest(self.0.as_bytes()).into();
        (TokenId::of_hash(&hash), hex::encode(hash))
    }

    /// What a consumer's Secret holds.
    fn data(&self) -> BTreeMap<&'static str, ByteString> {
        [
            (names::TOKEN_KEY, self.0.clone()),
            (names::TOKEN_ID_KEY, self.key_id().0.to_string()),
            (names::AUTHORIZATION_KEY, format!("Bearer {}", self.0)),
        ]
        .into_iter()
        .map(|(key, text)| (key, ByteString(text.into_bytes())))
        .collect()
    }
}

impl Minted {
    /// Completes the body of a consumer's Secret that is to be created; other bodies are left as they are.
    pub fn fill(&self, secret: &str, body: &mut Value) {
        if let Some((token, issued_at)) = self.0.get(secret) {
            body["data"] = json!(token.data());
            body["metadata"]["annotations"][names::ISSUED_AT] = issued_at.as_str().into();
        }
    }

    /// Whether a token waits for this Secret.
    pub fn waits_for(&self, secret: &str) -> bool {
        self.0.contains_key(secret)
    }
}

/// Makes what is missing. A token for a new Secret is only minted: its Secret is created with all the other children.
/// Secrets that are there without a usable token are filled at once.
pub async fn make(context: &Context, instance: &JamInstance, observed: &mut Observed) -> Result<Minted, Error> {
    let mut minted = Minted::default();
    for TokenWork { consumer, secret, task } in missing(instance, observed) {
        if observed.foreign.iter().any(|foreign| foreign.object.name == secret) {
            continue;
        }
        let held = match task {
            TokenTask::Create => {
                let token = Token::random()?;
                let (key_id, sha256) = token.key_id();
                // What is told now and what the Secret will say are the same second.
                let now = issued_now();
                let issued_at = now.parse::<Timestamp>().ok();
                minted.0.insert(secret, (token, now));
                TokenSecret { consumer, state: TokenState::Held { key_id, sha256, issued_at, complete: true } }
            }
            TokenTask::Fill => fill(context, instance, &consumer, &secret, &Token::random()?).await?,
            TokenTask::Complete => {
                let there = observe::secret(context, &Key::of(instance), &secret).await?;
                let Some(token) = there.as_ref().and_then(token_of) else { continue };
                fill(context, instance, &consumer, &secret, &token).await?
            }
        };
        observed.tokens.retain(|token| token.consumer != held.consumer);
        observed.tokens.push(held);
    }
    Ok(minted)
}

async fn fill(
    context: &Context,
    instance: &JamInstance,
    consumer: &str,
    secret: &str,
    token: &Token,
) -> Result<TokenSecret, Error> {
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &Key::of(instance).namespace);
    let body = json!({
        "metadata": {"annotations": {names::ISSUED_AT: issued_now()}},
        "data": token.data(),
    });
    let params = PatchParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PatchParams::default() };
    let written = secrets.patch(secret, &params, &Patch::Merge(&body)).await;
    let written = written.map_err(Error::write(format_args!("Secret {secret}")))?;
    Ok(TokenSecret::of(consumer, &written))
}

fn token_of(secret: &Secret) -> Option<Token> {
    let ByteString(bytes) = secret.data.as_ref()?.get(names::TOKEN_KEY)?;
    String::from_utf8(bytes.clone()).ok().map(Token)
}

/// Now, to the second.
pub fn issued_now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_256_random_bits_and_its_secret_names_it() {
        let (one, other) = (Token::random().unwrap(), Token::random().unwrap());
        assert_eq!(one.0.len(), 64);
        assert_ne!(one.0, other.0);
        let data = one.data().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let secret = Secret { data: Some(data), ..Secret::default() };
        let TokenState::Held { key_id, sha256, complete, .. } = TokenSecret::of("a", &secret).state else {
            panic!("the plan reads what is written here")
        };
        assert!(complete);
        assert_eq!((key_id, sha256), one.key_id());
    }
}
