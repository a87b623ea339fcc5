//! `jam-operator plan --diff`: what the operator would do in a cluster, asked of its API server without changing anything.

use std::sync::Arc;

use futures::future::try_join_all;
use jam_plan::forecast::forecast;
use jam_plan::names::{self, FIELD_MANAGER};
use jam_plan::remarks::remarks;
use jam_plan::rotation::Pace;
use jam_plan::{
    Defaults, Desired, JamInstance, Kind, ObjectRef, Objects, Observed, Reason, Refusal, Write, render, tokens,
};
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::store::Writer;
use kube::{Client, Config};
use serde::Serialize;
use serde_json::{Value, json};

use super::accepted::accepted;
use super::apply;
use super::children::Children;
use super::client::{Ledger, connect};
use super::context::Context;
use super::difference::{essence, places, redact};
use super::error::is_immutable;
use super::instruments::Instruments;
use super::key::Key;
use super::observe::{self, Finding, api_of};
use super::queue::Queue;
use super::token_pods::Proof;
use super::watch::chain;
use super::{check, reconcile};

/// What would become of one instance.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What is not to be seen in objects.
    pub notes: Vec<String>,
    /// The objects that would change.
    pub changes: Vec<Change>,
}

/// What would become of one object.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// What.
    pub action: Action,
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Whether it would be removed and made again, because it cannot be put right in place.
    pub remade: bool,
    /// Why its pods would be replaced; empty when they stay.
    pub restarts: Vec<String>,
    /// As it is; null when it is not there.
    pub live: Value,
    /// As it would be; null when it would be gone.
    pub planned: Value,
}

/// What would be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Made.
    Create,
    /// Put right.
    Change,
    /// Removed.
    Remove,
}

/// Asks a cluster about every instance of a manifest.
pub async fn previews(config: Config, documents: &[Value], defaults: Defaults) -> Result<Vec<Preview>, String> {
    let client = connect(config, &Arc::new(Ledger::default()), None).map_err(|error| chain(&error))?;
    let mut all = Vec::new();
    for document in documents {
        let instance = render::instance(document).map_err(|error| error.to_string())?;
        let context = context(client.clone(), defaults.clone())?;
        let key = Key::of(&instance);
        all.push(
            Box::pin(preview(&context, &key, document)).await.map_err(|error| format!("JamInstance {key}: {error}"))?,
        );
    }
    Ok(all)
}

fn context(client: Client, defaults: Defaults) -> Result<Context, String> {
    let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: None };
    let http = check::client().map_err(|error| chain(&error))?;
    let (queue, _) = Queue::new();
    let instruments = Instruments::new(queue, Recorder::new(client.clone(), reporter), http);
    Ok(Context {
        client,
        defaults,
        instances: Writer::default().as_reader(),
        children: Arc::new(Children::default()),
        memory: Arc::default(),
        instruments: Arc::new(instruments),
    })
}

async fn preview(context: &Context, key: &Key, document: &Value) -> Result<Preview, String> {
    let instance = accepted(context, key, document).await?;
    let Key { namespace, name } = Key::of(&instance);
    let mut preview = Preview { namespace, name, notes: remarks(&instance), changes: Vec::new() };
    if instance.spec.paused {
        return Ok(preview);
    }
    know_children(context, &instance).await?;
    let told = |error: super::error::Error| chain(&error);
    let refused = |refusal: Refusal| format!("it would be refused, {refusal}");
    let mut observed = Box::pin(observe::cluster(context, &instance, Proof::Spared)).await.map_err(told)?;
    preview.notes.extend(imagine_tokens(&instance, &mut observed, context.defaults.pace));
    let resolved = reconcile::in_force(context, &instance, &mut observed).await.map_err(told)?.map_err(refused)?;
    for kind in resolved.left_out() {
        let (kind, version) = (kind.as_str(), kind.api_version());
        preview.notes.push(format!("no {kind} is made: the API server does not serve {version}"));
    }
    let ahead = forecast(&instance, &observed, &context.defaults).map_err(refused)?;
    preview
        .notes
        .extend(ahead.migration.iter().map(|job| format!("migration Job {job} runs before any pod is replaced")));
    preview.notes.extend(ahead.waits.iter().map(|what| format!("pods stay as they are, they wait for {what}")));
    preview.notes.extend(ahead.given_up);
    let objects = Objects { items: ahead.objects, keep: Vec::new() };
    let findings = observe::survey(context, &instance, &objects).await.map_err(told)?;
    for (desired, finding) in objects.items.iter().zip(findings) {
        if let Finding::Leaving { why } = &finding {
            preview.notes.push(format!("{} is made again when it is gone, it waits for {why}", desired.object));
        }
        preview.changes.extend(change(context, &instance, desired, finding).await?);
    }
    for child in ahead.removed {
        preview.changes.push(removal(context, &instance, &child.object).await?);
    }
    explain_settings(&mut preview.changes);
    Ok(preview)
}

/// Lists what carries the instance's labels, metadata only: what the watches of a running operator know.
async fn know_children(context: &Context, instance: &JamInstance) -> Result<(), String> {
    let key = Key::of(instance);
    let params = ListParams::default().labels(&names::child_selector(&key.name));
    context.children.served.ask(&context.client).await;
    let missing = context.children.served.missing();
    let lists = Kind::ALL.into_iter().filter(|kind| !missing.contains(kind)).map(|kind| {
        let (api, params) = (api_of(context, kind, &key.namespace), params.clone());
        async move {
            let list = api.list_metadata(&params).await;
            list.map(|list| (kind, list))
                .map_err(|error| format!("{} cannot be listed: {}", kind.as_str(), chain(&error)))
        }
    });
    for (kind, list) in try_join_all(lists).await? {
        for object in list.items {
            context.children.seen(kind, &object.metadata);
        }
    }
    Ok(())
}

/// Tokens that the operator would make first: nobody knows them yet.
fn imagine_tokens(instance: &JamInstance, observed: &mut Observed, pace: Pace) -> Vec<String> {
    let mut notes = Vec::new();
    for task in tokens::work(instance, observed, pace) {
        // One that is there and moves on keeps its Secret: what it holds is never shown.
        if task.exists && task.before.slots.token.is_some() {
            continue;
        }
        notes.push(format!("a token is made in Secret {}", task.secret));
        observed.tokens.retain(|token| token.consumer != task.consumer);
        observed.tokens.push(render::held(task.consumer));
    }
    notes
}

/// Why pods go where their Deployment cannot be put right in place.
const REMADE: &str = "spec.selector: the Deployment is removed with its pods and made again";

async fn change(
    context: &Context,
    instance: &JamInstance,
    desired: &Desired,
    finding: Finding,
) -> Result<Option<Change>, String> {
    let api = api_of(context, desired.object.kind, &Key::of(instance).namespace);
    let mut body = desired.body.clone();
    let (action, params, live, own) = match finding {
        Finding::Good | Finding::Leaving { .. } => return Ok(None),
        Finding::Foreign(foreign) => {
            let refusal = Refusal::new(Reason::NameTaken, format!("{} belongs to {}", foreign.object, foreign.owner));
            return Err(format!("it would be refused, {refusal}"));
        }
        Finding::Absent => (Action::Create, PatchParams::apply(FIELD_MANAGER), Value::Null, false),
        Finding::Differs { uid, own } => {
            body["metadata"]["uid"] = uid.into();
            let live = api.get(&desired.object.name).await.map_err(|error| chain(&error))?;
            (Action::Change, PatchParams::apply(FIELD_MANAGER).force(), essence(json!(live)), own)
        }
    };
    let not_taken = |error: kube::Error| format!("{} would not be taken: {}", desired.object, chain(&error));
    let (mut remade, mut restarts) = (desired.write == Write::CreateOnce && action == Action::Change, Vec::new());
    let planned = match api.patch(&desired.object.name, &params.dry_run(), &Patch::Apply(&body)).await {
        Ok(answer) => {
            let mut planned = json!(answer);
            // The second write of the operator cannot be asked for: the first one was not made.
            if let Some(patch) = apply::remainder(instance, desired, &answer) {
                json_patch::merge(&mut planned, &patch);
            }
            planned
        }
        Err(error) if own && is_immutable(&error, apply::remade_for(desired.object.kind)) => {
            let again = apply::rehearse(context, &Key::of(instance), desired).await.map_err(not_taken)?;
            remade = true;
            restarts.extend((desired.object.kind == Kind::Deployment).then(|| REMADE.to_owned()));
            again.map_or_else(|| desired.body.clone(), |again| json!(again))
        }
        // Another one comes in its place, as this release makes it.
        Err(error) if remade && is_immutable(&error, &["spec.template"]) => desired.body.clone(),
        Err(error) => return Err(not_taken(error)),
    };
    let (mut live, mut planned) = (live, essence(planned));
    if remade && desired.write == Write::CreateOnce {
        json_patch::merge(&mut planned, &observe::what_stays(&desired.body));
    }
    if live == planned {
        return Ok(None);
    }
    let templates = [&live, &planned].map(|object| object.pointer("/spec/template").unwrap_or(&Value::Null).clone());
    let is_rollout = desired.object.kind == Kind::Deployment && action == Action::Change;
    if is_rollout {
        restarts.extend(places(&templates[0], &templates[1]));
    }
    redact(&mut live, &mut planned);
    let ObjectRef { kind, name } = desired.object.clone();
    Ok(Some(Change { action, kind: kind.as_str(), name, remade, restarts, live, planned }))
}

async fn removal(context: &Context, instance: &JamInstance, object: &ObjectRef) -> Result<Change, String> {
    let api = api_of(context, object.kind, &Key::of(instance).namespace);
    let live = api.get_opt(&object.name).await.map_err(|error| format!("{object}: {}", chain(&error)))?;
    let (mut live, mut planned) = (live.map(|live| essence(json!(live))).unwrap_or_default(), Value::Null);
    redact(&mut live, &mut planned);
    let (kind, name) = (object.kind.as_str(), object.name.clone());
    Ok(Change { action: Action::Remove, kind, name, remade: false, restarts: Vec::new(), live, planned })
}

/// Pods that mount another settings file are replaced for its settings: those are named, not only the file.
fn explain_settings(changes: &mut [Change]) {
    let settings = |action: Action| {
        let map =
            changes.iter().find(|c| c.kind == "ConfigMap" && c.action == action && c.name.contains("-config-"))?;
        let side = if action == Action::Create { &map.planned } else { &map.live };
        serde_saphyr::from_str::<Value>(side["data"]["config.yaml"].as_str()?).ok()
    };
    let (Some(before), Some(after)) = (settings(Action::Remove), settings(Action::Create)) else { return };
    let named = places(&before, &after);
    for change in changes.iter_mut().filter(|change| !change.restarts.is_empty()) {
        change.restarts.extend(named.iter().map(|place| format!("settings: {place}")));
    }
}
