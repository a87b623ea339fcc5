//! Every write of children: in the written order, each only when it is needed, none to an object that is not ours.

use jam_plan::desired::prunable;
use jam_plan::observed::{CleanupState, DeploymentState, HashBook, Held};
use jam_plan::{Desired, JamInstance, Kind, ObjectRef, Objects, Observed, Reason, Refusal, Write, names};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use serde_json::{Value, json};

use super::children::Mark;
use super::context::Context;
use super::creation;
use super::error::{Error, objection};
use super::key::Key;
use super::observe::{Finding, api_of};
use super::publish::UNKNOWN_FIELD;
use super::stranger;
use super::tokens::Minted;

/// What became of the children.
#[derive(Debug)]
pub enum Applied {
    /// All are as wanted.
    All,
    /// The API server refuses one of them as the spec wants it: it would again.
    Refused(Refusal),
}

/// Writes what `findings` says is absent or different, in order; stops at the first that fails.
pub async fn all(
    context: &Context,
    instance: &JamInstance,
    objects: &Objects<Desired>,
    findings: &[Finding],
    minted: &Minted,
    observed: &mut Observed,
) -> Result<Applied, Error> {
    let key = Key::of(instance);
    let mounts_leave = objects.items.iter().zip(findings).any(|(desired, finding)| {
        matches!(finding, Finding::Leaving { .. })
            && matches!(desired.object.kind, Kind::ServiceAccount | Kind::ConfigMap | Kind::Secret)
    });
    for (desired, finding) in objects.items.iter().zip(findings) {
        if let (Finding::Absent | Finding::Differs { .. }, Some(words)) =
            (finding, context.memory.refused(&key, &desired.object, &desired.hash))
        {
            return Ok(Applied::Refused(Refusal::new(Reason::InvalidObject, words)));
        }
        let answer = match finding {
            Finding::Good | Finding::Foreign(_) | Finding::Leaving { .. } => continue,
            // New pods would wait for what they mount: that is made again first.
            Finding::Absent if mounts_leave && runs_pods(desired.object.kind) => continue,
            Finding::Absent => create(context, &key, desired, minted).await,
            Finding::Differs { uid } => match desired.write {
                Write::Apply => put_right(context, instance, desired, uid).await,
                Write::CreateOnce => {
                    // It cannot be put right in place. The watch reports its end, and it is made again.
                    remove(context, &key, &desired.object, uid.clone()).await?;
                    tracing::info!(instance = %key, object = %desired.object, "removed: changed by hand");
                    continue;
                }
            },
        };
        let live = match answer {
            Ok(live) => live,
            // The body of a Secret is ours, never the spec's fault: what refuses it may end, and what leaked is accepted until then.
            Err(kube::Error::Api(status))
                if desired.object.kind != Kind::Secret && is_refusal(status.code, &status.message) =>
            {
                let message = format!("{}: {}", desired.object, status.message);
                context.memory.refuse(&key, &desired.object, &desired.hash, message.clone());
                return Ok(Applied::Refused(Refusal::new(Reason::InvalidObject, message)));
            }
            Err(error) => return Err(Error::write(&desired.object)(error)),
        };
        note(context, &key, desired, live, observed);
    }
    Ok(Applied::All)
}

/// Makes the Secrets of new consumers, before their hashes stand anywhere. One that the API server will not have holds up its own
/// consumer alone: `observed` knows it then, and the caller resolves anew.
pub async fn newcomers(
    context: &Context,
    instance: &Key,
    objects: &Objects<Desired>,
    findings: &mut [Finding],
    minted: &Minted,
    observed: &mut Observed,
) -> Result<(), Error> {
    for (desired, finding) in objects.items.iter().zip(findings) {
        let is_new = desired.object.kind == Kind::Secret && minted.waits_for(&desired.object.name);
        if !is_new || !matches!(finding, Finding::Absent) {
            continue;
        }
        match create(context, instance, desired, minted).await {
            Ok(live) => {
                note(context, instance, desired, live, observed);
                *finding = Finding::Good;
            }
            Err(error) => {
                let consumer = desired.body["metadata"]["labels"][names::CONSUMER].as_str().unwrap_or_default();
                let Some(why) = objection(&error) else { return Err(Error::write(&desired.object)(error)) };
                observed.held.insert(consumer.to_owned(), Held { why, made: false });
            }
        }
    }
    Ok(())
}

fn runs_pods(kind: Kind) -> bool {
    matches!(kind, Kind::Job | Kind::Deployment | Kind::CronJob)
}

/// Creates an object that is written once, unless it is there.
pub async fn once(context: &Context, instance: &Key, desired: &Desired) -> Result<(), Error> {
    match post(&api_of(context, desired.object.kind, &instance.namespace), &desired.body).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(Error::write(&desired.object)(error)),
    }
}

/// A new object. What appeared under this name since the survey is somebody else's, and conflicts.
async fn create(
    context: &Context,
    instance: &Key,
    desired: &Desired,
    minted: &Minted,
) -> Result<DynamicObject, kube::Error> {
    let api = api_of(context, desired.object.kind, &instance.namespace);
    if desired.object.kind == Kind::Secret && minted.waits_for(&desired.object.name) {
        // Created, not applied: the token in it is written once and never again by an apply.
        let mut body = desired.body.clone();
        minted.fill(&desired.object.name, &mut body);
        return post(&api, &body).await;
    }
    match desired.write {
        Write::CreateOnce => post(&api, &desired.body).await,
        Write::Apply => creation::create(&api, &desired.object.name, &desired.body).await,
    }
}

async fn post(api: &kube::Api<DynamicObject>, body: &Value) -> Result<DynamicObject, kube::Error> {
    let object: DynamicObject = serde_json::from_value(body.clone()).map_err(kube::Error::SerdeError)?;
    let params = PostParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PostParams::default() };
    api.create(&params, &object).await
}

/// An object of ours that differs. The uid makes the server refuse when it is another object by now.
async fn put_right(
    context: &Context,
    instance: &JamInstance,
    desired: &Desired,
    uid: &str,
) -> Result<DynamicObject, kube::Error> {
    let mut body = desired.body.clone();
    body["metadata"]["uid"] = uid.into();
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    let api = api_of(context, desired.object.kind, &Key::of(instance).namespace);
    let live = api.patch(&desired.object.name, &params, &Patch::Apply(&body)).await?;
    let Some(mut patch) = remainder(instance, desired, &live) else { return Ok(live) };
    patch["metadata"]["uid"] = uid.into();
    patch["metadata"]["resourceVersion"] = live.metadata.resource_version.clone().into();
    let params = PatchParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PatchParams::default() };
    api.patch(&desired.object.name, &params, &Patch::Merge(&patch)).await
}

/// The merge patch that is still to be written when an object of ours was applied and came to this: what others wrote is not
/// taken back by an apply that says nothing of it, nor what a create wrote.
pub fn remainder(instance: &JamInstance, desired: &Desired, applied: &DynamicObject) -> Option<Value> {
    let strange = serde_json::to_value(applied).ok().and_then(|applied| stranger::removal(&desired.body, &applied));
    strange.or_else(|| is_owned_unasked(instance, desired, &applied.metadata).then(|| without_owner(instance, applied)))
}

/// The owners without the instance.
fn without_owner(instance: &JamInstance, live: &DynamicObject) -> Value {
    let owners: Vec<_> = live
        .metadata
        .owner_references
        .iter()
        .flatten()
        .filter(|owner| Some(&owner.uid) != instance.metadata.uid.as_ref())
        .collect();
    json!({"metadata": {"ownerReferences": (!owners.is_empty()).then_some(owners)}})
}

/// Whether the instance still takes along what is to stay when it goes.
pub fn is_owned_unasked(instance: &JamInstance, desired: &Desired, live: &ObjectMeta) -> bool {
    let ours = |owner: &OwnerReference| Some(&owner.uid) == instance.metadata.uid.as_ref();
    desired.body["metadata"].get("ownerReferences").is_none() && live.owner_references.iter().flatten().any(ours)
}

/// Takes the answer in: what was written is known at once, not only when the watch brings it back.
fn note(context: &Context, instance: &Key, desired: &Desired, live: DynamicObject, observed: &mut Observed) {
    context.children.seen(desired.object.kind, &live.metadata);
    context.memory.prove(instance, &desired.object, &desired.hash, Mark::of(&live.metadata));
    tracing::info!(instance = %instance, object = %desired.object, hash = desired.hash, "written");
    if desired.object.kind == Kind::CronJob && observed.cleanup.is_none() {
        let made = serde_json::to_value(&live).and_then(serde_json::from_value::<CronJob>);
        observed.cleanup = made.ok().map(|cron_job| CleanupState::of(&cron_job, None));
    }
    if desired.object.name == names::token_hashes(&instance.name) {
        let book = serde_json::to_value(&live).and_then(serde_json::from_value::<Secret>);
        observed.hashes = book.ok().map(|secret| HashBook::of(&secret));
    }
    if desired.object.kind != Kind::Deployment {
        return;
    }
    let state = serde_json::to_value(live).and_then(serde_json::from_value::<Deployment>);
    let state = state.ok().map(|deployment| DeploymentState::of(&deployment));
    if desired.object.name == names::api(&instance.name) {
        observed.api = state;
    } else if desired.object.name == names::worker(&instance.name) {
        observed.worker = state;
    }
}

/// Answers that come again for the same object: it is wrong, or the server does not know its fields.
fn is_refusal(code: u16, message: &str) -> bool {
    matches!(code, 400 | 422) || (code == 500 && message.contains(UNKNOWN_FIELD))
}

/// Removes the children that are no longer wanted, each by uid, so that only the object that was seen can go.
pub async fn prune(
    context: &Context,
    instance: &JamInstance,
    objects: &Objects<Desired>,
    observed: &Observed,
) -> Result<(), Error> {
    let key = Key::of(instance);
    let uid = instance.metadata.uid.as_deref().unwrap_or_default();
    for child in prunable(&key.name, objects, observed, uid) {
        remove(context, &key, &child.object, child.uid.clone()).await?;
        tracing::info!(instance = %key, object = %child.object, "removed: no longer wanted");
        context.children.gone(child.object.kind, &Key::new(key.namespace.clone(), child.object.name.clone()));
        context.memory.drop_child(&key, &child.object);
    }
    Ok(())
}

/// Removes just this object, by uid. One that is gone already, or is another by now, is none of our business.
///
/// A Job stays until its pods have ended: as long as it is there, no other one is made.
async fn remove(context: &Context, instance: &Key, object: &ObjectRef, uid: String) -> Result<(), Error> {
    let policy = match object.kind {
        Kind::Job => PropagationPolicy::Foreground,
        Kind::ServiceAccount
        | Kind::ConfigMap
        | Kind::Secret
        | Kind::NetworkPolicy
        | Kind::Service
        | Kind::Deployment
        | Kind::CronJob
        | Kind::PodDisruptionBudget
        | Kind::HorizontalPodAutoscaler
        | Kind::Ingress
        | Kind::HttpRoute
        | Kind::ServiceMonitor
        | Kind::PrometheusRule => PropagationPolicy::Background,
    };
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
        propagation_policy: Some(policy),
        ..DeleteParams::default()
    };
    match api_of(context, object.kind, &instance.namespace).delete(&object.name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(Error::write(object)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_that_would_come_again_are_refusals() {
        assert!(is_refusal(422, "Deployment is invalid"));
        assert!(is_refusal(500, ".spec.template.spec.foo: field not declared in schema"));
        for (code, message) in
            [(409, "conflict"), (403, "exceeded quota"), (500, "etcd"), (429, ""), (404, "namespace")]
        {
            assert!(!is_refusal(code, message), "{code}");
        }
    }
}
