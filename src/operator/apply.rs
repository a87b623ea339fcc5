//! Every write of children: in the written order, each only when it is needed, none to an object that is not ours.

use std::collections::BTreeSet;

use jam_plan::desired::{nothing_replaces, prunable};
use jam_plan::observed::{CleanupState, DeploymentState, HashBook, Held, MigrationJob};
use jam_plan::{Desired, JamInstance, Kind, ObjectRef, Objects, Observed, Write, names};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use serde_json::{Value, json};

use super::children::Mark;
use super::context::Context;
use super::creation;
use super::error::{Error, Objection, is_immutable, objection};
use super::key::Key;
use super::observe::{Finding, api_of};
use super::setbacks::{Setbacks, runs_pods, serves_pods};
use super::stranger;
use super::tokens::Minted;

/// Writes what `findings` says is absent or different, in order. What the API server has something against holds up only what would
/// run without it; any other failure ends it.
pub async fn all(
    context: &Context,
    instance: &JamInstance,
    objects: &Objects<Desired>,
    findings: &[Finding],
    needs: &BTreeSet<u16>,
    minted: &Minted,
    observed: &mut Observed,
) -> Result<Setbacks, Error> {
    let key = Key::of(instance);
    let mounts_leave = objects.items.iter().zip(findings).any(|(desired, finding)| {
        matches!(finding, Finding::Leaving { .. }) && serves_pods(&key.name, &desired.object)
    });
    let mut setbacks = Setbacks::default();
    for (desired, finding) in objects.items.iter().zip(findings) {
        let Desired { object, hash, .. } = desired;
        let there = match finding {
            Finding::Good | Finding::Foreign(_) | Finding::Leaving { .. } => continue,
            // New pods would wait for what they mount: that is made again first.
            Finding::Absent if mounts_leave && runs_pods(object.kind) => continue,
            Finding::Absent => None,
            Finding::Differs { uid, own } => Some((uid.as_str(), *own)),
        };
        // No pod comes of a CronJob that is suspended, and who suspends it wants no more of them.
        let is_suspended = object.kind == Kind::CronJob && desired.body["spec"]["suspend"] == true;
        if setbacks.hold_back(object.kind) && !is_suspended {
            continue;
        }
        let uid = there.map(|(uid, _)| uid);
        let shuts_out = there.is_some() && shuts_out(desired, needs, observed);
        if let Some(words) = context.memory.refused(&key, object, hash, uid) {
            setbacks.refuse(&key.name, object, shuts_out, words);
            continue;
        }
        if there.is_some() && desired.write == Write::CreateOnce && !context.memory.remake(&key, object) {
            setbacks.changed(&key.name, object);
            continue;
        }
        match write(context, instance, desired, there, minted).await {
            Ok(Some(live)) => note(context, &key, desired, live, observed),
            Ok(None) => setbacks.removed(&key.name, object),
            Err(error) => match Objection::of(&error) {
                // The body of a Secret is ours, never the spec's fault: what refuses it may end, and what leaked is accepted until then.
                Some((Objection::Object, words)) if object.kind != Kind::Secret => {
                    let words = format!("{object}: {words}");
                    context.memory.refuse(&key, object, hash, uid, words.clone());
                    setbacks.refuse(&key.name, object, shuts_out, words);
                }
                Some((Objection::Object | Objection::Rule, _)) => setbacks.deny(&key.name, object, shuts_out, error),
                None => return Err(Error::write(object)(error)),
            },
        }
    }
    Ok(setbacks)
}

/// Whether new pods would reach less than they need as long as what is there of this NetworkPolicy stays as it is.
fn shuts_out(desired: &Desired, needs: &BTreeSet<u16>, observed: &Observed) -> bool {
    let there = observed.children.iter().find(|child| child.object == desired.object);
    desired.object.kind == Kind::NetworkPolicy
        && there.is_some_and(|child| !child.egress.is_empty() && !needs.is_subset(&child.egress))
}

/// Makes one object, or puts right what is there, of this uid and made by this very instance or not. None where it was removed:
/// the watch reports its end, and it is made again.
async fn write(
    context: &Context,
    instance: &JamInstance,
    desired: &Desired,
    there: Option<(&str, bool)>,
    minted: &Minted,
) -> Result<Option<DynamicObject>, kube::Error> {
    let (key, object) = (Key::of(instance), &desired.object);
    let Some((uid, own)) = there else { return create(context, &key, desired, minted).await.map(Some) };
    let answer = match desired.write {
        Write::Apply => put_right(context, instance, desired, uid).await,
        Write::CreateOnce => {
            // It cannot be put right in place.
            remove(context, &key, object, uid.to_owned()).await?;
            tracing::info!(instance = %key, %object, "removed: changed by hand");
            return Ok(None);
        }
    };
    match answer {
        // What it says there it never got from here.
        Err(error) if own && is_immutable(&error, remade_for(object.kind)) => {
            rehearse(context, &key, desired).await?;
            remove(context, &key, object, uid.to_owned()).await?;
            let why = super::watch::chain(&error);
            tracing::warn!(instance = %key, %object, why, "removed, with its pods if it has any: made again by hand with other content");
            Ok(None)
        }
        answer => answer.map(Some),
    }
}

/// Asks the API server whether it would take this object anew, under another name; what it would make of it, where it says so. What
/// it would refuse then, or what an admission is in the way of, is not removed: nothing would come in its place.
pub async fn rehearse(
    context: &Context,
    instance: &Key,
    desired: &Desired,
) -> Result<Option<DynamicObject>, kube::Error> {
    let (name, mut body) = (&desired.object.name, desired.body.clone());
    let again = format!("{name}-again");
    body["metadata"]["name"] = again.as_str().into();
    let object: DynamicObject = serde_json::from_value(body).map_err(kube::Error::SerdeError)?;
    let params = PostParams { dry_run: true, field_manager: Some(names::FIELD_MANAGER.into()) };
    match api_of(context, desired.object.kind, &instance.namespace).create(&params, &object).await {
        // A webhook that knows no dry run says nothing about this object. A quota says no more than that it is full, nothing of others
        // and of the pods': what serves is not given up for that.
        Err(kube::Error::Api(status)) if status.message.contains("dry run") => Ok(None),
        Err(kube::Error::Api(mut status)) => {
            status.message = status.message.replace(&again, name);
            Err(kube::Error::Api(status))
        }
        Err(error) => Err(error),
        Ok(mut made) => {
            made.metadata.name = Some(name.clone());
            Ok(Some(made))
        }
    }
}

/// The fields that cannot be put right in place, for which an object of ours is removed and made again. No Secret is, nor what has
/// an address.
pub fn remade_for(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::ConfigMap => &["data", "binaryData", "immutable"],
        Kind::Deployment => &["spec.selector"],
        Kind::Secret
        | Kind::ServiceAccount
        | Kind::NetworkPolicy
        | Kind::Job
        | Kind::Service
        | Kind::CronJob
        | Kind::PodDisruptionBudget
        | Kind::HorizontalPodAutoscaler
        | Kind::Ingress
        | Kind::HttpRoute
        | Kind::ServiceMonitor
        | Kind::PrometheusRule => &[],
    }
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
    if desired.object.kind == Kind::CronJob
        && let Ok(written) = live.clone().try_parse::<CronJob>()
    {
        let written = CleanupState::of(&written);
        let suspended = written.suspended;
        observed.cleanup.get_or_insert(written).suspended = suspended;
    }
    if desired.object.kind == Kind::Job
        && !names::is_migration_preview(&desired.object.name)
        && let Ok(made) = live.clone().try_parse::<Job>()
    {
        observed.migration_jobs.push(MigrationJob::of(&made, None));
    }
    if desired.object.name == names::token_hashes(&instance.name) {
        observed.hashes = live.clone().try_parse::<Secret>().ok().map(|secret| HashBook::of(&secret));
    }
    if desired.object.kind != Kind::Deployment {
        return;
    }
    let state = live.try_parse::<Deployment>().ok().map(|deployment| DeploymentState::of(&deployment));
    if desired.object.name == names::api(&instance.name) {
        observed.api = state;
    } else if desired.object.name == names::worker(&instance.name) {
        observed.worker = state;
    }
}

/// Removes the children that are no longer wanted, each by uid, so that only the object that was seen can go.
pub async fn prune(
    context: &Context,
    instance: &JamInstance,
    objects: &Objects<Desired>,
    observed: &Observed,
    whole: bool,
) -> Result<(), Error> {
    let key = Key::of(instance);
    let uid = instance.metadata.uid.as_deref().unwrap_or_default();
    let unwanted = prunable(&key.name, objects, observed, uid);
    for child in unwanted.into_iter().filter(|child| whole || nothing_replaces(child.object.kind)) {
        remove(context, &key, &child.object, child.uid.clone()).await.map_err(Error::write(&child.object))?;
        tracing::info!(instance = %key, object = %child.object, "removed: no longer wanted");
        context.children.gone(child.object.kind, &Key::new(key.namespace.clone(), child.object.name.clone()));
        context.memory.drop_child(&key, &child.object);
    }
    Ok(())
}

/// Removes just this object, by uid. One that is gone already, or is another by now, is none of our business.
///
/// A Job stays until its pods have ended: as long as it is there, no other one is made.
async fn remove(context: &Context, instance: &Key, object: &ObjectRef, uid: String) -> Result<(), kube::Error> {
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
        Err(error) => Err(error),
    }
}
