//! What is said about an instance: its status, written only when it says something new, and an event for each transition.

use std::time::Duration;

use jam_plan::{EventType, JamInstance, JamInstanceStatus, Observed, Verdict, names, status, transitions};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use kube::runtime::events;
use kube::{Api, Resource};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::context::Context;
use super::error::Error;
use super::key::Key;

/// Numbers and words that change while the same thing goes on are said this often, not at every step of a rollout.
const PATIENCE: Duration = Duration::from_mins(1);
/// The same for words, such as the kubelet's about an image that cannot be pulled.
const PATIENCE_WITH_WORDS: Duration = Duration::from_secs(10);

/// How the API server calls a field that its definition lacks.
pub const UNKNOWN_FIELD: &str = "field not declared in schema";

/// Whether the whole of the status is said.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// It is; this is the status.
    All(JamInstanceStatus),
    /// Only numbers or words changed while the same thing goes on; they are said after this pause at the latest.
    Later(JamInstanceStatus, Duration),
}

/// Says how a reconcile ended.
pub async fn outcome(
    context: &Context,
    instance: &JamInstance,
    verdict: Verdict<'_>,
    observed: &Observed,
) -> Result<Said, Error> {
    let before = instance.status.clone().unwrap_or_default();
    let now = status(instance, verdict, observed, observed.at);
    if now == before {
        return Ok(Said::All(now));
    }
    let last = context.memory.published(instance).map(|published| published.at);
    if let Some(rest) = may_wait(&before, &now, last, Instant::now()) {
        return Ok(Said::Later(now, rest));
    }
    write(context, instance, &now).await?;
    tell(context, &Key::of(instance), &instance.object_ref(&()), &before, &now).await;
    Ok(Said::All(now))
}

/// How long a change may wait: only while the same thing is under way for the same generation. Numbers wait longer than words,
/// which may be the reason why nothing goes on.
fn may_wait(
    before: &JamInstanceStatus,
    now: &JamInstanceStatus,
    last: Option<Instant>,
    at: Instant,
) -> Option<Duration> {
    let under_way = now.conditions.iter().any(|c| c.type_ == "Reconciling" && c.status == "True");
    let are_same = |kept: fn(&str) -> String| reduced(before, kept) == reduced(now, kept);
    let patience = if are_same(without_digits) { PATIENCE } else { PATIENCE_WITH_WORDS };
    let rest = patience.checked_sub(at.duration_since(last?))?;
    (under_way && are_same(|_| String::new()) && !rest.is_zero()).then_some(rest)
}

/// A status without its numbers, and with what is kept of its words.
fn reduced(status: &JamInstanceStatus, kept: fn(&str) -> String) -> JamInstanceStatus {
    let mut rest = JamInstanceStatus { replicas: None, ready_replicas: None, ..status.clone() };
    rest.conditions.iter_mut().for_each(|condition| condition.message = kept(&condition.message));
    rest
}

fn without_digits(message: &str) -> String {
    message.chars().filter(|c| !c.is_ascii_digit()).collect()
}

async fn write(context: &Context, instance: &JamInstance, now: &JamInstanceStatus) -> Result<(), Error> {
    let key = Key::of(instance);
    let instances: Api<JamInstance> = Api::namespaced(context.client.clone(), &key.namespace);
    let body = json!({
        "apiVersion": JamInstance::api_version(&()),
        "kind": JamInstance::kind(&()),
        "metadata": {"name": key.name, "uid": instance.metadata.uid},
        "status": now,
    });
    let apply = PatchParams::apply(names::FIELD_MANAGER).force();
    let params = PatchParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PatchParams::default() };
    let merge = async |before: Option<&JamInstanceStatus>| {
        instances.patch_status(&key.name, &params, &Patch::Merge(replacing(before, body.clone()))).await
    };
    let written = match instances.patch_status(&key.name, &apply, &Patch::Apply(&body)).await {
        // The definition in the cluster is older: better a status without its new fields than none.
        Err(kube::Error::Api(status)) if status.message.contains(UNKNOWN_FIELD) => {
            merge(instance.status.as_ref()).await
        }
        // Such a merge owns what it wrote beside the apply, which then takes nothing out any more.
        Ok(written) if written.status.as_ref() != Some(now) => merge(written.status.as_ref()).await,
        answer => answer,
    };
    let written = written.map_err(Error::write(format_args!("status of JamInstance {key}")))?;
    context.memory.publish(&key, written.metadata.resource_version.as_deref(), now.clone());
    Ok(())
}

/// A merge that leaves nothing of the status before: what is not said any more is null.
fn replacing(before: Option<&JamInstanceStatus>, mut body: Value) -> Value {
    clear(&json!(before), &mut body["status"]);
    body
}

fn clear(before: &Value, now: &mut Value) {
    let (Some(before), Some(now)) = (before.as_object(), now.as_object_mut()) else { return };
    for (key, old) in before {
        clear(old, now.entry(key.as_str()).or_insert(Value::Null));
    }
}

/// An event for each transition. An event that is lost is not worth a retry: the status says it all.
pub async fn tell(
    context: &Context,
    instance: &Key,
    reference: &ObjectReference,
    before: &JamInstanceStatus,
    now: &JamInstanceStatus,
) {
    for event in transitions(before, now) {
        let type_ = match event.kind {
            EventType::Normal => events::EventType::Normal,
            EventType::Warning => events::EventType::Warning,
        };
        let (note, reason) = (Some(event.note), event.reason.as_str().to_owned());
        let event = events::Event { type_, reason, note, action: "Reconcile".into(), secondary: None };
        context.instruments.say(instance, event, reference).await;
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;

    fn rolling(message: &str, ready: i32) -> JamInstanceStatus {
        let condition = |kind: &str, status: &str| Condition {
            type_: kind.into(),
            status: status.into(),
            reason: "RollingOut".into(),
            message: message.into(),
            observed_generation: Some(1),
            last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
        };
        JamInstanceStatus {
            ready_replicas: Some(ready),
            conditions: vec![condition("Ready", "False"), condition("Reconciling", "True")],
            ..JamInstanceStatus::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn progress_waits_while_the_same_thing_goes_on_but_not_for_ever() {
        let (before, now) = (rolling("0 of 2", 0), rolling("1 of 2", 1));
        let start = Instant::now();
        assert_eq!(may_wait(&before, &now, Some(start), start + PATIENCE / 4), Some(PATIENCE * 3 / 4));
        assert_eq!(may_wait(&before, &now, Some(start), start + PATIENCE), None);
        assert_eq!(may_wait(&before, &now, None, start), None, "the first word is never late");
    }

    #[tokio::test(start_paused = true)]
    async fn why_nothing_goes_on_does_not_wait_as_long_as_a_number() {
        let (before, now) = (rolling("0 of 2", 0), rolling("0 of 2: pod a: ImagePullBackOff", 0));
        let start = Instant::now();
        assert_eq!(
            may_wait(&before, &now, Some(start), start + PATIENCE_WITH_WORDS / 4),
            Some(PATIENCE_WITH_WORDS * 3 / 4)
        );
        assert_eq!(may_wait(&before, &now, Some(start), start + PATIENCE_WITH_WORDS), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_transition_never_waits() {
        let (before, mut now) = (rolling("0 of 2", 0), rolling("2 of 2", 2));
        now.conditions[0].status = "True".into();
        assert_eq!(may_wait(&before, &now, Some(Instant::now()), Instant::now()), None);
    }
}
