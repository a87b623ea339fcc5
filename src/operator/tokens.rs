//! Writes of tokens: 256 random bits each, straight into their Secret, known to this process just long enough to be written.

use std::collections::BTreeMap;

use jam_plan::observed::{Held, TokenSecret};
use jam_plan::rotation::{Holding, Plain, Slots, advance, annotations, data};
use jam_plan::tokens::{Surroundings, TokenWork, work};
use jam_plan::{JamInstance, Observed, names};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use rand::TryRng;
use rand::rngs::SysRng;
use serde_json::{Map, Value, json};

use super::context::Context;
use super::error::Error;
use super::key::Key;
use super::observe;

/// Contents of consumers' Secrets that wait to be created, by the Secret's name. Without Debug: they hold tokens.
#[derive(Default)]
pub struct Minted(BTreeMap<String, (Slots<Plain>, Holding)>);

impl Minted {
    /// Completes the body of a consumer's Secret that is to be created; other bodies are left as they are.
    pub fn fill(&self, secret: &str, body: &mut Value) {
        let Some((slots, holding)) = self.0.get(secret) else { return };
        body["data"] = json!(without_nulls(data(slots, holding)));
        for (key, value) in without_nulls(annotations(holding)) {
            body["metadata"]["annotations"][key.as_str()] = value;
        }
    }

    /// Whether a token waits for this Secret.
    pub fn waits_for(&self, secret: &str) -> bool {
        self.0.contains_key(secret)
    }
}

fn without_nulls(all: Map<String, Value>) -> Map<String, Value> {
    all.into_iter().filter(|(_, value)| !value.is_null()).collect()
}

/// A new token: 256 bits of the operating system.
fn random() -> Result<Plain, Error> {
    let mut bits = [0_u8; 32];
    SysRng.try_fill_bytes(&mut bits).map_err(|error| Error::NoRandom(error.to_string()))?;
    Ok(Plain::new(hex::encode(bits)))
}

/// Whether a token is to be moved now in a Secret that is there.
pub fn moves(context: &Context, instance: &JamInstance, observed: &Observed) -> bool {
    work(instance, observed, context.defaults.pace).iter().any(|task| task.exists)
}

/// Does what is to be done about tokens now: at most one write for each consumer, refused when its Secret changed meanwhile.
///
/// A Secret that is not there is only prepared: it is created with all the other children.
pub async fn make(context: &Context, instance: &JamInstance, observed: &mut Observed) -> Result<Minted, Error> {
    let (mut minted, mut moved) = (Minted::default(), Vec::new());
    for task in work(instance, observed, context.defaults.pace) {
        let is_taken = observed.foreign.iter().any(|foreign| foreign.object.name == task.secret);
        if is_taken || observed.leaving.contains(&task.consumer) {
            continue;
        }
        let fresh = if task.change.needs_fresh(&task.before) { Some(random()?) } else { None };
        let holding = after(context, instance, observed, &task, fresh.as_ref());
        if task.exists {
            match write(context, instance, &task, fresh, &holding).await {
                Ok(written) => moved.extend(written),
                Err(error) => {
                    // It stays as it was, and nobody else has to wait for it.
                    let held = error.objection().map(|why| Held { why, made: true });
                    observed.held.insert(task.consumer, held.ok_or(error)?);
                }
            }
        } else {
            let slots = task.change.slots(&Slots::default(), fresh, |token| token.hash().id());
            moved.push(TokenSecret { consumer: task.consumer, holding: holding.clone() });
            minted.0.insert(task.secret, (slots, holding));
        }
    }
    for held in moved {
        observed.tokens.retain(|token| token.consumer != held.consumer);
        observed.tokens.push(held);
    }
    Ok(minted)
}

/// What the Secret will hold.
fn after(
    context: &Context,
    instance: &JamInstance,
    observed: &Observed,
    task: &TokenWork,
    fresh: Option<&Plain>,
) -> Holding {
    let surroundings = Surroundings::of(instance, observed, context.defaults.pace);
    let hashes = surroundings.hashes(&task.consumer);
    let around = surroundings.around(&task.consumer, &hashes);
    advance(&task.before, &task.change, fresh.map(Plain::hash), &around, &task.lost)
}

/// One move of a Secret that is there; `None` when it says something else by now: its watch calls again.
async fn write(
    context: &Context,
    instance: &JamInstance,
    task: &TokenWork,
    fresh: Option<Plain>,
    holding: &Holding,
) -> Result<Option<TokenSecret>, Error> {
    let TokenWork { consumer, secret, exists: _, before, change, lost: _ } = task;
    let key = Key::of(instance);
    let Some(there) = observe::secret(context, &key, secret).await? else { return Ok(None) };
    if Holding::of(&there) != *before {
        return Ok(None);
    }
    let slots = change.slots(&Slots::<Plain>::of(&there), fresh, |token| token.hash().id());
    let body = json!({
        "metadata": {
            "uid": there.metadata.uid,
            "resourceVersion": there.metadata.resource_version,
            "annotations": annotations(holding),
        },
        "data": data(&slots, holding),
    });
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &key.namespace);
    let params = PatchParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PatchParams::default() };
    let written = secrets.patch(secret, &params, &Patch::Merge(&body)).await;
    let written = written.map_err(Error::write(format_args!("Secret {secret}")))?;
    tracing::info!(instance = %key, consumer, step = ?change.then, generation = holding.notes.generation, "tokens moved");
    Ok(Some(TokenSecret::of(consumer, &written)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_256_random_bits_and_its_secret_names_it() {
        let (one, other) = (random().unwrap(), random().unwrap());
        assert_eq!(one.reveal().len(), 64);
        assert_ne!(one.reveal(), other.reveal());
        let slots = Slots { token: Some(one.clone()), ..Slots::default() };
        let holding = Holding { slots: slots.hashes(), matching: true, ..Holding::default() };
        let minted = Minted([("main-token-a".to_owned(), (slots, holding.clone()))].into());
        let mut body = json!({"metadata": {"annotations": {"other": "kept"}}});
        minted.fill("main-token-a", &mut body);
        let secret: Secret = serde_json::from_value(body).unwrap();
        assert_eq!(secret.metadata.annotations.as_ref().unwrap()["other"], "kept");
        assert_eq!(Holding::of(&secret), holding);
        assert_eq!(holding.slots.token, Some(one.hash()));
    }
}
