//! Every read of a reconcile. Metadata comes from the watches; contents are read by name, Secrets never in lists.

use std::collections::BTreeSet;

use futures::future::try_join_all;
use jam_domain::Timestamp;
use jam_plan::desired::Revision;
use jam_plan::observed::{BlobKeys, Child, DeploymentState, Foreign, HashBook, OwnTokens, SecretKey, TokenSecret};
use jam_plan::rotation::{Plain, Slots};
use jam_plan::{Desired, JamInstance, Kind, ObjectRef, Objects, Observed, Write, names, resolve, tokens};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::apply::is_owned_unasked;
use super::children::Mark;
use super::cleanup;
use super::context::Context;
use super::drift::{holds, is_queued, is_taken};
use super::error::Error;
use super::key::Key;
use super::token_pods::{self, Over, Proof, Retired};
use super::words::{self, Discretion};
use super::{migrations, overrides, pods, stranger};

/// Reads everything that decides about an instance.
pub async fn cluster(context: &Context, instance: &JamInstance, proof: Proof) -> Result<Observed, Error> {
    let key = Key::of(instance);
    let children = context.children.of(&key);
    let uid = instance.metadata.uid.as_deref().unwrap_or_default();
    // Jobs of the cleanup are its CronJob's.
    let own = |child: &&Child| child.controller.as_deref().is_none_or(|controller| controller == uid);
    let jobs = children.iter().filter(|child| child.object.kind == Kind::Job).filter(own);
    let jobs: Vec<String> = jobs.map(|child| child.object.name.clone()).collect();
    let (api, worker, book) = (names::api(&key.name), names::worker(&key.name), names::token_hashes(&key.name));
    let made_before = instance.status.as_ref().is_some_and(|status| status.last_good.is_some());
    let discretion = &Discretion::about(context, instance);
    let ((dsn, database_port), blob_keys, consumers, hashes, own, admin, api, worker, cleanup, migrations) = tokio::try_join!(
        dsn(context, instance),
        blob_keys(context, instance),
        consumers(context, instance),
        secret(context, &key, &book),
        users_tokens(context, instance, tokens::own_tokens(&instance.spec)),
        users_tokens(context, instance, tokens::admin_tokens(&instance.spec)),
        deployment(context, &key, &api, made_before),
        deployment(context, &key, &worker, made_before && instance.spec.workers.replicas > 0),
        cleanup::look(context, instance, discretion),
        migrations::look(context, &key, &jobs, discretion),
    )?;
    let ours = |deployment: &Deployment| {
        let object = ObjectRef { kind: Kind::Deployment, name: deployment.name_any() };
        Foreign::judge(&object, &deployment.metadata, &key.name, uid).is_none()
    };
    let (api, worker) = (api.filter(ours), worker.filter(ours));
    let mut observed = Observed {
        dsn,
        database_port,
        blob_keys,
        cleanup,
        unserved: context.children.served.missing(),
        tokens: consumers.held,
        foreign: consumers.foreign,
        leaving: consumers.leaving,
        hashes: hashes.as_ref().map(HashBook::of),
        own_tokens: own.held,
        admin_tokens: admin.held,
        migration_jobs: migrations.jobs,
        migration_previews: migrations.previews,
        migration_trouble: migrations.trouble,
        adoptable: adoptable(context, instance, api.as_ref(), worker.as_ref()).await?,
        api: api.as_ref().map(DeploymentState::of),
        worker: worker.as_ref().map(DeploymentState::of),
        children,
        ..Observed::nothing(Timestamp::now())
    };
    observed.lingers = lingers(context, instance, &observed).await;
    pods::look(context, instance, discretion, &mut observed).await;
    let unmade = |of: &Option<DeploymentState>| of.as_ref().and_then(|one| one.create_failure.clone());
    observed.trouble = observed.trouble.take().or_else(|| unmade(&observed.api));
    observed.worker_trouble = observed.worker_trouble.take().or_else(|| unmade(&observed.worker));
    overrides::look(context, instance, &mut observed).await;
    let over = Over { consumers: consumers.retired, callers: own.revoked, administrators: admin.revoked }.shown(proof);
    token_pods::look(context, instance, over, &mut observed).await?;
    words::clean(discretion, &mut observed).await?;
    Ok(observed)
}

/// Whether pods that no Deployment counts run or may come back, asked only where ports are to be closed.
async fn lingers(context: &Context, instance: &JamInstance, observed: &Observed) -> bool {
    resolve::narrows(instance, observed)
        && (resolve::may_go_back(instance, observed, context.defaults.progress_deadline)
            || pods::linger(context, &Key::of(instance)).await)
}

/// What is known of the DSN, and the port in it.
async fn dsn(context: &Context, instance: &JamInstance) -> Result<(Option<SecretKey>, Option<u16>), Error> {
    let Some((name, key)) = resolve::dsn_reference(instance) else { return Ok((None, None)) };
    let secret = secret(context, &Key::of(instance), &name).await?;
    let salt = instance.metadata.uid.as_deref().unwrap_or_default();
    let value = secret.as_ref().and_then(|secret| secret.data.as_ref()?.get(&key));
    let port = value.and_then(|value| resolve::port_of_url(std::str::from_utf8(&value.0).ok()?));
    Ok((Some(SecretKey::of(secret.as_ref(), &key, salt)), port))
}

/// What is known of the keys to the blob store.
async fn blob_keys(context: &Context, instance: &JamInstance) -> Result<Option<BlobKeys>, Error> {
    let Some(name) = resolve::blob_secret(&instance.spec) else { return Ok(None) };
    let secret = secret(context, &Key::of(instance), name).await?;
    let salt = instance.metadata.uid.as_deref().unwrap_or_default();
    Ok(Some(BlobKeys::of(secret.as_ref(), salt)))
}

/// What a Secret with the user's own tokens says.
#[derive(Default)]
struct Users {
    held: Option<OwnTokens>,
    /// Those that were revoked and not every pod is known to refuse.
    revoked: Retired,
}

async fn users_tokens(
    context: &Context,
    instance: &JamInstance,
    reference: Option<(&str, &str)>,
) -> Result<Users, Error> {
    let Some((_, name)) = reference else { return Ok(Users::default()) };
    let found = secret(context, &Key::of(instance), name).await?;
    let texts = found.iter().flat_map(|secret| secret.data.iter().flatten());
    let texts = texts.filter_map(|(_, value)| std::str::from_utf8(value.0.trim_ascii()).ok());
    let tokens = texts.map(|text| Plain::new(text.to_owned())).map(|token| (token.hash(), token));
    let revoked = tokens.filter(|(hash, _)| resolve::is_to_be_proven(instance, *hash)).collect();
    Ok(Users { held: Some(OwnTokens::of(name, found.as_ref())), revoked })
}

/// What the consumers' Secrets say.
#[derive(Default)]
struct Consumers {
    held: Vec<TokenSecret>,
    /// Secrets of a wanted name that are not ours.
    foreign: Vec<Foreign>,
    /// Consumers whose Secret goes with an instance that is gone.
    leaving: BTreeSet<String>,
    retired: Retired,
}

async fn consumers(context: &Context, instance: &JamInstance) -> Result<Consumers, Error> {
    let key = Key::of(instance);
    let uid = instance.metadata.uid.as_deref().unwrap_or_default();
    let names = tokens::consumers(&instance.spec).into_iter().map(|consumer| consumer.name);
    let read = names.map(|consumer| {
        let key = &key;
        async move {
            let name = names::consumer_secret(&key.name, &consumer);
            Ok::<_, Error>((secret(context, key, &name).await?, consumer))
        }
    });
    let mut found = Consumers::default();
    for (secret, consumer) in try_join_all(read).await? {
        let Some(secret) = secret else { continue };
        if is_orphan(&secret.metadata, &key.name, uid) {
            // Nobody else's: it goes with the instance of before.
            found.leaving.insert(consumer);
            continue;
        }
        let object = ObjectRef { kind: Kind::Secret, name: secret.name_any() };
        if let Some(other) = Foreign::judge(&object, &secret.metadata, &key.name, uid) {
            found.foreign.push(other);
            continue;
        }
        let retired = Slots::<Plain>::of(&secret).retired;
        found.retired.extend(retired.into_iter().map(|token| (token.hash(), token)));
        found.held.push(TokenSecret::of(&consumer, &secret));
    }
    Ok(found)
}

/// The revisions of these names that are there and are what was once written.
pub async fn revisions(context: &Context, instance: &JamInstance, names: &[String]) -> Result<Vec<Revision>, Error> {
    let key = Key::of(instance);
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &key.namespace);
    let read = names.iter().map(|name| {
        let maps = &maps;
        async move { maps.get_opt(name).await.map_err(Error::read(format_args!("ConfigMap {name}"))) }
    });
    let found = try_join_all(read).await?;
    Ok(found.iter().flatten().filter_map(|map| Revision::of(map, &key.name)).collect())
}

/// What runs, as a revision, where none may be stored that says it.
async fn adoptable(
    context: &Context,
    instance: &JamInstance,
    api: Option<&Deployment>,
    worker: Option<&Deployment>,
) -> Result<Option<Revision>, Error> {
    let Some(api) = api.filter(|_| resolve::may_be_adopted(instance)) else { return Ok(None) };
    let Some(name) = DeploymentState::of(api).config else { return Ok(None) };
    let key = Key::of(instance);
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &key.namespace);
    let map = maps.get_opt(&name).await.map_err(Error::read(format_args!("ConfigMap {name}")))?;
    Ok(map.and_then(|map| Revision::adopt(api, worker, &map, &key.name)))
}

/// One Secret, by name.
pub async fn secret(context: &Context, instance: &Key, name: &str) -> Result<Option<Secret>, Error> {
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &instance.namespace);
    secrets.get_opt(name).await.map_err(Error::read(format_args!("Secret {name}")))
}

async fn deployment(
    context: &Context,
    instance: &Key,
    name: &str,
    made_before: bool,
) -> Result<Option<Deployment>, Error> {
    let object = ObjectRef { kind: Kind::Deployment, name: name.to_owned() };
    if context.children.mark(instance, &object).is_none() && !made_before {
        // The watch knows every Deployment of ours but one whose labels somebody took away, and how many pods that one has is
        // perhaps an autoscaler's to say.
        return Ok(None);
    }
    let deployments: Api<Deployment> = Api::namespaced(context.client.clone(), &instance.namespace);
    deployments.get_opt(name).await.map_err(Error::read(object))
}

/// What is to be done about one wanted object.
#[derive(Debug)]
pub enum Finding {
    /// It is as wanted.
    Good,
    /// It is not there.
    Absent,
    /// It is ours and differs: this very object, by uid, is to be put right.
    Differs {
        /// The uid.
        uid: String,
        /// Whether this very instance has made it: then it may be removed to be made again.
        own: bool,
    },
    /// It is somebody else's.
    Foreign(Foreign),
    /// It is on its way out, and is made again when it is gone.
    Leaving {
        /// What it waits for.
        why: String,
    },
}

/// Finds out about each wanted object. Reads only those that the watches saw changed since they were last proven.
pub async fn survey(
    context: &Context,
    instance: &JamInstance,
    objects: &Objects<Desired>,
) -> Result<Vec<Finding>, Error> {
    try_join_all(objects.items.iter().map(|desired| find(context, instance, desired))).await
}

async fn find(context: &Context, instance: &JamInstance, desired: &Desired) -> Result<Finding, Error> {
    let (key, object) = (Key::of(instance), &desired.object);
    if let Some(mark) = context.children.mark(&key, object)
        && context.memory.is_proven(&key, object, &desired.hash, &mark)
    {
        return Ok(Finding::Good);
    }
    let api = api_of(context, object.kind, &key.namespace);
    let Some(live) = api.get_opt(&object.name).await.map_err(Error::read(object))? else { return Ok(Finding::Absent) };
    let uid = instance.metadata.uid.as_deref().unwrap_or_default();
    if let Some(why) = leaving(&live.metadata, &key.name, uid) {
        return Ok(Finding::Leaving { why });
    }
    if let Some(foreign) = Foreign::judge(object, &live.metadata, &key.name, uid) {
        return Ok(Finding::Foreign(foreign));
    }
    let own = live.owner_references().iter().any(|owner| owner.uid == uid);
    let good = match desired.write {
        Write::CreateOnce => {
            let stays = serde_json::to_value(&live).is_ok_and(|mut live: Value| {
                if is_queued(&live) {
                    live["spec"]["suspend"] = false.into();
                }
                holds(&what_stays(&desired.body), &live)
            });
            // It would be removed and made again.
            stays || !own
        }
        Write::Apply => serde_json::to_value(&live).is_ok_and(|live: Value| {
            let holds = holds(&desired.body, &live) && !is_taken(&desired.body, &live);
            holds && stranger::removal(&desired.body, &live).is_none()
        }),
    };
    if !good || is_owned_unasked(instance, desired, &live.metadata) {
        return Ok(Finding::Differs { uid: live.uid().unwrap_or_default(), own });
    }
    context.memory.prove(&key, object, &desired.hash, Mark::of(&live.metadata));
    Ok(Finding::Good)
}

/// What nobody may change of an object that is written once: the labels by which it is found, and that it runs. Nothing of
/// what another release would render otherwise: a migration is not begun again for an upgrade.
pub fn what_stays(body: &Value) -> Value {
    let labels = body["metadata"]["labels"].as_object().into_iter().flatten();
    let found_by = [names::MANAGED_BY.0, names::INSTANCE, names::MIGRATION_KEY, names::MIGRATION_PREVIEW];
    let labels: serde_json::Map<_, _> = labels
        .filter(|(key, _)| found_by.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    json!({"metadata": {"labels": labels}, "spec": {"suspend": false}})
}

/// What an object waits for that is on its way out, or was left by an instance of the same name that is gone.
fn leaving(metadata: &ObjectMeta, instance: &str, uid: &str) -> Option<String> {
    let orphan = is_orphan(metadata, instance, uid);
    match (&metadata.deletion_timestamp, metadata.finalizers.as_deref().unwrap_or_default()) {
        (Some(_), []) => Some("its end".into()),
        (Some(_), finalizers) => Some(format!("its finalizers {}", finalizers.join(", "))),
        (None, _) => orphan.then(|| "the garbage collector: its JamInstance is gone".into()),
    }
}

/// Whether it was left by an instance of the same name that is gone.
fn is_orphan(metadata: &ObjectMeta, instance: &str, uid: &str) -> bool {
    metadata.owner_references.iter().flatten().any(|owner| {
        owner.controller == Some(true)
            && owner.kind == jam_plan::crd::KIND
            && owner.name == instance
            && owner.uid != uid
    })
}

/// What is still to be done when everything that could be was: objects of before have to go first.
pub fn still_leaving(objects: &Objects<Desired>, findings: &[Finding]) -> Result<(), Error> {
    let leaving = objects.items.iter().zip(findings).filter_map(|(desired, finding)| match finding {
        Finding::Leaving { why } => Some(format!("{} waits for {why}", desired.object)),
        Finding::Good | Finding::Absent | Finding::Differs { .. } | Finding::Foreign(_) => None,
    });
    let told: Vec<String> = leaving.collect();
    if told.is_empty() { Ok(()) } else { Err(Error::Leaving { what: told.join("; ") }) }
}

/// The same where the Secret of a consumer could not be written.
pub fn still_held(observed: &Observed) -> Result<(), Error> {
    let told = observed.held.iter().map(|(consumer, held)| format!("the Secret of consumer {consumer}: {}", held.why));
    let told: Vec<String> = told.collect();
    if told.is_empty() { Ok(()) } else { Err(Error::Held { what: format!("cannot be written: {}", told.join("; ")) }) }
}

/// The interface to one kind of child in a namespace.
pub fn api_of(context: &Context, kind: Kind, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(context.client.clone(), namespace, &resource_of(kind))
}

/// A kind of child as the client names it.
pub fn resource_of(kind: Kind) -> ApiResource {
    let (group, version, word, plural) = kind.coordinates();
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, word), plural)
}
