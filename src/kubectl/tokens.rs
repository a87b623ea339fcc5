//! `rotate` and `revoke`: the annotations that ask for them, and waiting until every pod has followed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;

use jam_domain::token::TokenHash;
use jam_plan::crd::{RotationStatus, TokenStatus};
use jam_plan::names::{REVOKE, ROTATE};
use jam_plan::rotation::{is_id, without_tokens};
use jam_plan::status::UNMATCHED;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::args::{RevokeArgs, RotateArgs};
use super::cluster::{Cluster, Instance, place, spec, told};
use super::fault::Fault;
use super::{note, wait};
use crate::operator::chain;

/// Words of earlier revocations that are named again at most.
const MOST_KEPT: usize = 16;

/// Asks for new tokens by a value that was never there before.
pub async fn rotate(cluster: &Cluster, args: &RotateArgs) -> Result<String, Fault> {
    let RotateArgs { name, consumer, wait: waiting } = args;
    let instance = cluster.instance(name).await?;
    let tokens = issued(&instance)?;
    let unknown = consumer.iter().find(|wanted| tokens.iter().all(|token| token.consumer != **wanted));
    if let Some(unknown) = unknown {
        return Err(Fault::NotFound(format!(
            "{} has no consumer {unknown}; it has {}",
            place(&instance),
            names(&tokens).join(", ")
        )));
    }
    let chosen: Vec<TokenStatus> =
        tokens.into_iter().filter(|token| consumer.is_empty() || consumer.contains(&token.consumer)).collect();
    let now = jiff::Timestamp::now().as_nanosecond().to_string();
    let value = names(&chosen).into_iter().chain([now]).collect::<Vec<_>>().join(",");
    cluster.change(name, &json!({"metadata": {"annotations": {ROTATE: value}}})).await?;
    let mut text = format!("{}: new tokens for {}\n", place(&instance), names(&chosen).join(", "));
    text.push_str(
        "  each stands in its consumer's Secret when every pod accepts it; the old one is accepted for the overlap\n",
    );
    if let Some(stage) = told(&instance).rotation.and_then(|rotation| rotation.stage).filter(|stage| stage != "Idle") {
        note(&format!("a rotation is under way ({stage}): this one begins when it has ended"));
    }
    if waiting.wait {
        let before: BTreeMap<String, String> = chosen.into_iter().map(|token| (token.consumer, token.key_id)).collect();
        let after = wait::until(cluster, name, *waiting, "the new tokens", |instance| Ok(replaced(instance, &before)));
        for token in after.await? {
            text.push_str(&line(&token, before.get(&token.consumer)));
        }
    }
    Ok(text)
}

/// The tokens of these consumers, when all of them are others.
fn replaced(instance: &Instance, before: &BTreeMap<String, String>) -> Option<Vec<TokenStatus>> {
    let tokens = told(instance).tokens;
    let fresh: Vec<_> = tokens
        .into_iter()
        .filter(|token| before.get(&token.consumer).is_some_and(|old| *old != token.key_id))
        .collect();
    (fresh.len() == before.len()).then_some(fresh)
}

fn line(token: &TokenStatus, before: Option<&String>) -> String {
    let TokenStatus { consumer, key_id, previous_expires_at, .. } = token;
    let old = before.map_or("none", String::as_str);
    let until = previous_expires_at.as_ref().map(|at| format!(", the old one accepted until {}", at.0));
    format!("  {consumer}: {old} -> {key_id}{}\n", until.unwrap_or_default())
}

/// Ends tokens at once. A leaked token is never sent anywhere: its id says the same.
pub async fn revoke(cluster: &Cluster, args: &RevokeArgs) -> Result<String, Fault> {
    let RevokeArgs { name, what, wait: waiting } = args;
    let instance = cluster.instance(name).await?;
    let wanted = if what == "-" { leaked()? } else { what.clone() };
    // Its key id ends a token of the user's own as well.
    let tokens = match own_tokens(&instance) {
        Some(_) if is_id(&wanted) => told(&instance).tokens,
        Some(_) | None => issued(&instance)?,
    };
    let of = |token: &TokenStatus| {
        let ids = [Some(token.key_id.clone()), token.previous_key_id.clone()].into_iter().flatten();
        ids.filter(|id| token.consumer == wanted || *id == wanted).collect::<Vec<_>>()
    };
    let mut ids: Vec<String> = tokens.iter().flat_map(of).collect();
    let then = match ids.as_slice() {
        [] => "a token of your own is to be replaced in its Secret, where the operator writes nothing",
        [..] => "the consumer's Secret gets a new token now",
    };
    if ids.is_empty() && is_id(&wanted) {
        // Status names the current tokens and those before; one that was typed over in its Secret is accepted for a while as well.
        ids.push(wanted.clone());
    }
    if ids.is_empty() {
        return Err(unknown(&instance, &tokens, &wanted));
    }
    let value = joined(instance.annotations().get(REVOKE), &wanted, waits(&instance));
    cluster.change(name, &json!({"metadata": {"annotations": {REVOKE: value}}})).await?;
    let mut text = format!("{}: revoked {wanted} (key ids {})\n", place(&instance), ids.join(", "));
    let _ = writeln!(text, "  every pod refuses it as soon as it has read its token file; {then}");
    for token in
        tokens.iter().filter(|token| token.consumer != wanted && tokens.iter().any(|one| one.consumer == wanted))
    {
        for id in
            [Some(&token.key_id), token.previous_key_id.as_ref()].into_iter().flatten().filter(|id| ids.contains(id))
        {
            let _ = writeln!(
                text,
                "  {id} is a token of consumer {} as well; {}",
                token.consumer,
                everywhere(&instance, id)
            );
        }
    }
    if waiting.wait {
        let pods = wait::until(cluster, name, *waiting, "every pod to refuse it", |instance| {
            unless_shared(instance, &wanted, &ids)?;
            unless_unknown(instance, &ids)?;
            Ok(refused(instance, &ids))
        });
        let _ = writeln!(text, "  refused with 401 by {} pods", pods.await?);
    }
    Ok(text)
}

/// What ends a token that more than one Secret holds.
fn everywhere(instance: &Instance, id: &str) -> String {
    let (name, namespace) = (instance.name_any(), instance.namespace().unwrap_or_default());
    format!("end it everywhere with: kubectl jam revoke {name} {id} -n {namespace}")
}

/// Refuses when one of these tokens is over for the consumer that is `wanted` and somebody else has it as well. One that was
/// revoked by its id ends everywhere: what is told of that is of a moment ago.
fn unless_shared(instance: &Instance, wanted: &str, ids: &[String]) -> Result<(), Fault> {
    let shared = told(instance).rotation.map(|rotation| rotation.shared).unwrap_or_default();
    match shared.iter().find(|token| token.consumer == wanted && ids.contains(&token.key_id)) {
        Some(token) => {
            let what = everywhere(instance, &token.key_id);
            Err(Fault::Ended(format!("{}: {}; {what}", place(instance), token.sentence())))
        }
        None => Ok(()),
    }
}

/// Refuses when the operator has looked and says that no token has one of these ids: however long one waits nothing is revoked.
fn unless_unknown(instance: &Instance, ids: &[String]) -> Result<(), Fault> {
    let said = wait::condition(instance, "TokensReady").map(|condition| condition.message).unwrap_or_default();
    let unknown = said.split("; ").find(|words| words.ends_with(UNMATCHED)).unwrap_or_default();
    match ids.iter().find(|id| unknown.contains(id.as_str())) {
        Some(id) => Err(Fault::Ended(format!(
            "{}: {id} is {UNMATCHED}, nothing is revoked; logs call the id of a token token_hash",
            place(instance)
        ))),
        None => Ok(()),
    }
}

/// Whether a revocation that was asked for may not have been done: nothing is done while an instance is paused or stalled.
fn waits(instance: &Instance) -> bool {
    let stalled = |condition: &Condition| condition.type_ == "Stalled" && condition.status == "True";
    spec(instance, "/paused").and_then(Value::as_bool) == Some(true) || told(instance).conditions.iter().any(stalled)
}

/// A new value beside what was asked before: an id that is named again ends nothing new, so ids stay; a name would end the tokens
/// of its consumer once more, so it stays only where it may still wait. A token that somebody wrote stays as its id.
fn joined(before: Option<&String>, wanted: &str, waits: bool) -> String {
    let before = before.map(|value| without_tokens(value));
    let words = before.as_deref().unwrap_or_default().split([',', ' ']).filter(|word| !word.is_empty());
    let kept: Vec<&str> = words.filter(|word| *word != wanted && (waits || is_id(word))).collect();
    let kept = &kept[kept.len().saturating_sub(MOST_KEPT)..];
    let value = kept.iter().copied().chain([wanted]).collect::<Vec<_>>().join(",");
    // The same word once more is no new value, the same word twice is.
    if before.as_ref() == Some(&value) { format!("{value},{wanted}") } else { value }
}

/// How many pods refused all of these, once they did.
fn refused(instance: &Instance, ids: &[String]) -> Option<i32> {
    let RotationStatus { refused: proven, refused_own, .. } = told(instance).rotation?;
    let pods = |id: &String| {
        let own = || refused_own.iter().find(|own| own.key_id == *id).map(|own| own.pods);
        proven.iter().find(|entry| entry.key_ids.contains(id)).map(|entry| entry.pods).or_else(own)
    };
    ids.iter().map(pods).collect::<Option<Vec<_>>>()?.into_iter().min()
}

/// The id of the token on standard input.
fn leaked() -> Result<String, Fault> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|error| Fault::Usage(format!("standard input: {}", chain(&error))))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(Fault::Usage("no token came on standard input".into()));
    }
    Ok(TokenHash::of(token).id().to_string())
}

/// The Secret with the user's own tokens of callers.
fn own_tokens(instance: &Instance) -> Option<&str> {
    let named = |field: &str| spec(instance, &format!("/tokens/{field}/name")).and_then(|name| name.as_str());
    named("allowedTokensSecretRef").or_else(|| named("globalTokensSecretRef"))
}

/// The tokens that the operator makes, or why there are none to replace.
fn issued(instance: &Instance) -> Result<Vec<TokenStatus>, Fault> {
    if let Some(secret) = own_tokens(instance) {
        return Err(Fault::Refused(format!(
            "{}: its tokens are your own, in Secret {secret}; change them there, the pods follow by themselves; \
             one that leaked ends at once by its key id: kubectl jam revoke {} KEY-ID",
            place(instance),
            instance.name_any()
        )));
    }
    let tokens = told(instance).tokens;
    if tokens.is_empty() {
        let name = instance.name_any();
        return Err(Fault::Refused(format!(
            "{}: it has no token yet; kubectl jam explain {name} -n {} says why",
            place(instance),
            instance.namespace().unwrap_or_default()
        )));
    }
    Ok(tokens)
}

fn unknown(instance: &Instance, tokens: &[TokenStatus], wanted: &str) -> Fault {
    let ids: Vec<_> = tokens
        .iter()
        .flat_map(|token| [Some(&token.key_id), token.previous_key_id.as_ref()].into_iter().flatten())
        .map(String::as_str)
        .collect();
    // What is long may be the token itself: it is not repeated.
    let shown = if wanted.len() > 63 { "what was given" } else { wanted };
    Fault::NotFound(format!(
        "{}: {shown} is neither a consumer ({}) nor the id of a token that is accepted ({}); nothing is revoked",
        place(instance),
        names(tokens).join(", "),
        ids.join(", ")
    ))
}

fn names(tokens: &[TokenStatus]) -> Vec<String> {
    tokens.iter().map(|token| token.consumer.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_takes_none_back_that_may_still_wait_and_repeats_none_by_name() {
        let of = |before: Option<&str>, wanted: &str, waits| joined(before.map(str::to_owned).as_ref(), wanted, waits);
        assert_eq!(of(None, "demo", false), "demo");
        assert_eq!(of(Some("0a1b2c3d"), "other", false), "0a1b2c3d,other");
        assert_eq!(of(Some("demo,1732190000"), "other", false), "other", "it was done, and would be done once more");
        assert_eq!(of(Some("demo"), "other", true), "demo,other", "while it is paused nothing was done");
        assert_eq!(of(Some("demo"), "demo", false), "demo,demo", "the same once more is a new value");
        assert_eq!(of(Some("demo,demo"), "demo", false), "demo");
        let token = "0123456789abcdef".repeat(4);
        let kept = format!("{},other", TokenHash::of(&token).id());
        assert_eq!(of(Some(&token), "other", false), kept, "a token of the user's own would be accepted again");
    }
}
