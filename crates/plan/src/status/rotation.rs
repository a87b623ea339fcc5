//! What is said about tokens: which there are, where a rotation stands, and an event for each of its steps.

use jam_domain::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Event, EventType, Verdict, own, whole_seconds};
use crate::crd::{JamInstance, JamInstanceStatus, RefusedOwn, RefusedTokens, RotationStatus, SharedToken, TokenStatus};
use crate::observed::Observed;
use crate::reason::Reason;
use crate::resolve::{Resolved, ResolvedConsumer};
use crate::rotation::{Event as RotationEvent, Outlook, Pace, Proof, Stage, happened};
use crate::tokens::Surroundings;

/// What is said of an id in a revocation that ends nothing.
pub const UNMATCHED: &str = "the id of no token that is known";
/// Pods that a status names at most.
const NAMED: usize = 100;
/// Pods that a message names at most.
const SHOWN: usize = 5;
/// Key ids that are told of a consumer at most.
const MOST_IDS: usize = 16;
/// Shared tokens that are told at most.
const MOST_SHARED: usize = 64;

/// What the condition TokensReady says.
pub(super) struct TokensSaid {
    pub(super) ready: bool,
    pub(super) reason: Reason,
    pub(super) message: String,
}

/// The tokens in force: ids, never tokens.
pub(super) fn tokens(resolved: &Resolved) -> Vec<TokenStatus> {
    let one = |consumer: &ResolvedConsumer| {
        let Outlook { key_id, issued_at, rotates_at, previous, .. } = &consumer.outlook;
        Some(TokenStatus {
            consumer: consumer.name.clone(),
            key_id: key_id.as_ref()?.to_string(),
            issued_at: issued_at.map(|at| Time(whole_seconds(at))),
            rotates_at: rotates_at.map(|at| Time(whole_seconds(at))),
            previous_key_id: previous.as_ref().map(|(id, _)| id.to_string()),
            previous_expires_at: previous.as_ref().map(|(_, until)| Time(whole_seconds(*until))),
        })
    };
    resolved.consumers.iter().filter_map(one).collect()
}

/// Where a rotation stands; `None` where there is nobody whose tokens could be replaced.
pub(super) fn standing(
    resolved: &Resolved,
    observed: &Observed,
    before: Option<&RotationStatus>,
) -> Option<RotationStatus> {
    let busy = resolved.consumers.iter().find(|consumer| consumer.outlook.stage != Stage::Idle);
    let lag = lagging(resolved, observed);
    let refused_own = own::refused(resolved, observed, before, lag.is_none());
    let Some(one) = busy.or(resolved.consumers.first()) else {
        return (!refused_own.is_empty()).then(|| RotationStatus { refused_own, ..RotationStatus::default() });
    };
    let mut waiting_for: Vec<String> = Vec::new();
    let lagging = lag.iter().flat_map(|lag| &lag.in_the_way);
    for pod in resolved.consumers.iter().flat_map(|consumer| in_the_way(&consumer.outlook)).chain(lagging) {
        if !waiting_for.contains(pod) && waiting_for.len() < NAMED {
            waiting_for.push(pod.clone());
        }
    }
    Some(RotationStatus {
        stage: Some(one.outlook.stage.as_str().into()),
        consumer: busy.map(|consumer| consumer.name.clone()),
        started_at: None,
        waiting_for,
        shared: resolved.consumers.iter().flat_map(|consumer| &consumer.shared).take(MOST_SHARED).cloned().collect(),
        refused: resolved
            .consumers
            .iter()
            .filter_map(|consumer| refused(consumer, resolved, observed, before, lag.is_none()))
            .collect(),
        refused_own,
    })
}

/// With the time at which it began: now, unless one was under way before.
pub(super) fn dated(
    now: Option<RotationStatus>,
    before: Option<&RotationStatus>,
    at: Timestamp,
) -> Option<RotationStatus> {
    let mut now = now?;
    if now.stage.as_deref() != Some(Stage::Idle.as_str()) {
        let before = before.and_then(|before| before.started_at.clone());
        now.started_at = before.or_else(|| Some(Time(whole_seconds(at))));
    }
    Some(now)
}

/// The tokens of a consumer that every pod refuses: those that were sent to each, and those revoked by id that nobody has any more
/// to send and that no pod accepts by its own words, once every pod has `agreed` to what it is to accept.
fn refused(
    consumer: &ResolvedConsumer,
    resolved: &Resolved,
    observed: &Observed,
    before: Option<&RotationStatus>,
    agreed: bool,
) -> Option<RefusedTokens> {
    let told = before.and_then(|before| before.refused.iter().find(|told| told.consumer == consumer.name));
    let sent = consumer.outlook.proof.as_ref();
    let ids = sent.map(|proof| proof.ids.as_slice()).unwrap_or_default();
    let mut key_ids: Vec<String> = ids.iter().take(MOST_IDS).map(ToString::to_string).collect();
    // What is being proven by request is not told before that.
    let is_proving = matches!(consumer.outlook.stage, Stage::Retire | Stage::Prove);
    let settled = agreed && !is_proving;
    let was_told = |id: &String| told.is_some_and(|told| told.key_ids.contains(id));
    let revoked =
        resolved.remembered.revoked.iter().filter(|(name, _)| *name == consumer.name).map(|(_, id)| id.to_string());
    for id in revoked.filter(|id| settled || was_told(id)) {
        if !key_ids.contains(&id) && key_ids.len() < MOST_IDS {
            key_ids.push(id);
        }
    }
    if key_ids.is_empty() {
        return None;
    }
    let (at, pods) = match sent {
        Some(Proof { ids, at, pods }) if ids.len() >= key_ids.len() => (*at, *pods),
        // Dated when it was first told, and by as many as were asked then.
        Some(_) | None => match told.filter(|told| told.key_ids == key_ids) {
            Some(told) => return Some(told.clone()),
            None => (observed.at, observed.distribution.as_ref().map_or(0, |there| there.pods)),
        },
    };
    let pods = i32::try_from(pods).unwrap_or(i32::MAX);
    Some(RefusedTokens { consumer: consumer.name.clone(), key_ids, at: Time(whole_seconds(at)), pods })
}

/// What is to be said of the tokens of a resolved instance.
pub(super) fn said(resolved: &Resolved, observed: &Observed) -> TokensSaid {
    let said = |ready, reason, message: String| TokensSaid { ready, reason, message: noted(resolved, message) };
    let lag = lagging(resolved, observed);
    let shared = || resolved.consumers.iter().flat_map(|consumer| &consumer.shared).next().map(held_twice);
    if let Some(message) = unwritten(resolved).or_else(shared).or_else(|| resolved.consumers.iter().find_map(held)) {
        return said(false, Reason::RotationHeld, message);
    }
    if let Some(lag) = lag.as_ref().filter(|lag| lag.held) {
        return said(false, Reason::RotationHeld, lag.message.clone());
    }
    let own = own::waits(resolved, observed);
    if let Some((_, pods, true)) = &own {
        let message = named(pods, "has not refused a revoked token of your own").unwrap_or_default();
        return said(false, Reason::RotationHeld, message);
    }
    if let Some(waiting) = resolved.consumers.iter().find(|consumer| consumer.outlook.key_id.is_none()) {
        let message = format!("consumer {} gets its token when every pod accepts it", waiting.name);
        return said(false, Reason::TokensPending, message);
    }
    // Where the step under way is that pods follow, its own words say so.
    let is_followed = |consumer: &ResolvedConsumer| match consumer.outlook.stage {
        Stage::Distribute | Stage::Verify | Stage::Retire | Stage::Prove => true,
        Stage::Idle | Stage::Lost | Stage::Overlap => false,
    };
    let lag = lag.filter(|_| !resolved.consumers.iter().any(is_followed)).map(|lag| lag.message);
    let own = own.map(|(what, _, _)| what);
    let moving: Vec<_> = resolved.consumers.iter().filter_map(step).chain(lag).chain(own).collect();
    if !moving.is_empty() {
        return said(true, Reason::Rotating, moving.join("; "));
    }
    if resolved.consumers.is_empty() {
        return match resolved.own_tokens.len() {
            0 => said(true, Reason::NotNeeded, "no consumer is named".into()),
            1 => said(true, Reason::TokensIssued, "1 token of your own is accepted".into()),
            n => said(true, Reason::TokensIssued, format!("{n} tokens of your own are accepted")),
        };
    }
    let names: Vec<_> = resolved.consumers.iter().map(|consumer| consumer.name.as_str()).collect();
    said(true, Reason::TokensIssued, format!("issued to {}", names.join(", ")))
}

/// The consumer whose Secret cannot be written, in words.
fn unwritten(resolved: &Resolved) -> Option<String> {
    let (consumer, held) = resolved.consumers.iter().find_map(|consumer| Some((consumer, consumer.held.as_ref()?)))?;
    Some(format!(
        "Secret {} of consumer {} cannot be written: {}; other consumers go on, and it is tried again",
        consumer.secret, consumer.name, held.why
    ))
}

/// A token that is over for one consumer only, and what ends it.
fn held_twice(token: &SharedToken) -> String {
    format!("{}; {}={} ends it everywhere", token.sentence(), crate::names::REVOKE, token.key_id)
}

/// That not every pod accepts just what it is to accept.
struct Lag {
    /// Whether that takes longer than it should, or cannot be known.
    held: bool,
    message: String,
    /// The pods that it waits for.
    in_the_way: Vec<String>,
}

/// What pods accept that is not what they are to accept; `None` when they agree, and where no API runs.
fn lagging(resolved: &Resolved, observed: &Observed) -> Option<Lag> {
    let there = observed.distribution.as_ref()?;
    let wanted = crate::desired::token_word(resolved);
    if observed.hashes.as_ref().is_none_or(|book| book.word != wanted) {
        let secret = crate::names::token_hashes(&resolved.name);
        let message = format!("Secret {secret} is not written yet: pods accept what it said before");
        return Some(Lag { held: true, message, in_the_way: Vec::new() });
    }
    if there.word == wanted && there.is_settled() {
        return None;
    }
    if there.word != wanted {
        let message = "every pod is told to read which tokens it accepts".to_owned();
        return Some(Lag { held: false, message, in_the_way: Vec::new() });
    }
    let late: &[String] = if there.overdue { &there.behind } else { &[] };
    let in_the_way: Vec<String> = there.silent.iter().chain(late).cloned().collect();
    let why = [
        named(&there.silent, "does not say which tokens it accepts"),
        named(&there.behind, "has not taken in yet which tokens it accepts"),
    ];
    let why: Vec<_> = why.into_iter().flatten().collect();
    let message =
        if why.is_empty() { "every pod is told to read which tokens it accepts".into() } else { why.join("; ") };
    Some(Lag { held: !in_the_way.is_empty(), message, in_the_way })
}

/// A few pods, and what they do.
fn named(pods: &[String], does: &str) -> Option<String> {
    let (few, more) = (pods.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", "), pods.len() > SHOWN);
    (!pods.is_empty()).then(|| format!("pod {few}{} {does}", if more { " …" } else { "" }))
}

/// What is said of a revocation that cannot be done while its instance is refused; `None` when none waits.
pub(super) fn revocation_waits(instance: &JamInstance, observed: &Observed, verdict: Verdict<'_>) -> Option<String> {
    let Verdict::Refused(refusal) = verdict else { return None };
    let surroundings = Surroundings::of(instance, observed, Pace::default());
    let waits = crate::tokens::consumers(&instance.spec).into_iter().find(|consumer| {
        let hashes = surroundings.hashes(&consumer.name);
        let (exists, holding) = surroundings.holding(&consumer.name);
        let around = surroundings.around(&consumer.name, &hashes);
        // Moved already, but the hashes have not followed.
        let accepted = holding.accepted();
        let is_listed = around.asks.revoke.is_some() && hashes.iter().any(|hash| !accepted.contains(hash));
        exists && (is_listed || happened(RotationEvent::Revoked, &holding, &around))
    })?;
    Some(format!(
        "the revocation for consumer {} waits, what it is to end is accepted still: it is done when the instance is no longer refused ({})",
        waits.name, refusal.reason
    ))
}

/// With what else is to be said: somebody who mistyped a revocation believes a token dead that is not.
fn noted(resolved: &Resolved, message: String) -> String {
    let message = match resolved.admin_tokens.len() {
        0 => message,
        n => format!("{message}; administrators have {n} {}", if n == 1 { "token" } else { "tokens" }),
    };
    let revoke = crate::names::REVOKE;
    let said = |words: &[String], is: &str| {
        if words.is_empty() { String::new() } else { format!("; {revoke} names {}, which is {is}", words.join(", ")) }
    };
    let strangers = said(&resolved.remembered.strangers, "neither a consumer nor a key id");
    let unmatched = said(&resolved.remembered.unmatched, UNMATCHED);
    format!("{message}{strangers}{unmatched}")
}

/// The pods that hold a stage: those that do not answer, and those that had their time.
fn in_the_way(outlook: &Outlook) -> impl Iterator<Item = &String> {
    let late: &[String] = if outlook.overdue { &outlook.behind } else { &[] };
    outlook.silent.iter().chain(late)
}

/// Which pods hold the rotation of a consumer, and by what; `None` when none does.
fn held(consumer: &ResolvedConsumer) -> Option<String> {
    let outlook = &consumer.outlook;
    in_the_way(outlook).next()?;
    let late = match outlook.stage {
        Stage::Prove => "has not refused the token before",
        Stage::Idle | Stage::Lost | Stage::Distribute | Stage::Verify | Stage::Overlap | Stage::Retire => {
            "has not taken in the next token"
        }
    };
    let silent = named(&outlook.silent, "does not say which tokens it accepts");
    let behind = named(&outlook.behind, late).filter(|_| outlook.overdue);
    let why: Vec<_> = [silent, behind].into_iter().flatten().collect();
    Some(format!("{} of consumer {} waits: {}", outlook.stage.as_str(), consumer.name, why.join("; ")))
}

/// What is under way for one consumer, in words; `None` when nothing is.
fn step(consumer: &ResolvedConsumer) -> Option<String> {
    let Outlook { stage, previous, .. } = &consumer.outlook;
    let what = match stage {
        Stage::Idle => return None,
        Stage::Lost => "its Secret is made again".to_owned(),
        Stage::Distribute => "the next token is made".to_owned(),
        Stage::Verify => "the next token waits until every pod accepts it".to_owned(),
        Stage::Overlap => match previous {
            Some((id, until)) => format!("the token before, {id}, is accepted until {}", whole_seconds(*until)),
            None => "the token before is accepted as well".to_owned(),
        },
        Stage::Retire => "the token before is taken out".to_owned(),
        Stage::Prove => "every pod is asked to refuse the token before".to_owned(),
    };
    Some(format!("{}: {what}", consumer.name))
}

/// An event for each step of a rotation, and one for the proof at its end.
pub(super) fn events(old: &JamInstanceStatus, new: &JamInstanceStatus) -> Vec<Event> {
    let (before, now) = (old.rotation.clone().unwrap_or_default(), new.rotation.clone().unwrap_or_default());
    let mut events = Vec::new();
    if (&before.stage, &before.consumer) != (&now.stage, &now.consumer)
        && let (Some(stage), Some(consumer)) = (&now.stage, &now.consumer)
    {
        let note = format!("consumer {consumer}: {stage}");
        events.push(Event { kind: EventType::Normal, reason: Reason::Rotating, note });
    }
    let by = |pods: i32| match pods {
        0 => "is in no file any more; no pod runs that could refuse it".to_owned(),
        1 => "is refused by the one pod".to_owned(),
        pods => format!("is refused by each of {pods} pods"),
    };
    let proven = now.refused.iter().filter(|proof| !before.refused.contains(proof));
    let said = proven.map(|RefusedTokens { consumer, key_ids, at: _, pods }| {
        format!("{} of consumer {consumer} {}", key_ids.join(", "), by(*pods))
    });
    let own = now.refused_own.iter().filter(|proof| !before.refused_own.contains(proof));
    let own = own.map(|RefusedOwn { key_id, at: _, pods }| format!("{key_id} of your own {}", by(*pods)));
    let said: Vec<_> = said.chain(own).collect();
    if !said.is_empty() {
        events.push(Event { kind: EventType::Normal, reason: Reason::TokenRetired, note: said.join("; ") });
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_keeps_the_time_at_which_it_began_through_all_its_stages_and_loses_it_at_their_end() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let standing = |stage: Stage| Some(RotationStatus { stage: Some(stage.as_str().into()), ..Default::default() });
        let mut before: Option<RotationStatus> = None;
        let mut told = Vec::new();
        for (n, stage) in
            [Stage::Idle, Stage::Distribute, Stage::Overlap, Stage::Idle, Stage::Prove].into_iter().enumerate()
        {
            before = dated(standing(stage), before.as_ref(), at(i64::try_from(n).unwrap() + 100));
            told.push(before.as_ref().and_then(|now| Some(now.started_at.as_ref()?.0.as_second())));
        }
        assert_eq!(told, [None, Some(101), Some(101), None, Some(104)]);
        assert_eq!(dated(None, before.as_ref(), at(9)), None);
    }
}
