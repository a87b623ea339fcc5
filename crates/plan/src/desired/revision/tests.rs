//! Laws of revisions: pinned to the spec, kept word for word, and the way back after a bad rollout.

mod back;
mod kept;
mod model;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use super::*;
use crate::crd::{JamInstance, RolloutPhase};
use crate::desired::{ObjectRef, Objects, desired};
use crate::fixtures::{at, but, defaults, in_memory, job, on_postgres, resolved, settled_cluster_for};
use crate::observed::{DeploymentState, JobState, Observed, SecretKey};
use crate::resolve::{Defaults, MigrationStep, resolve};
use crate::{Reason, Verdict, status};

/// The operator's next release: it renders differently and brings another image.
fn newer() -> Defaults {
    Defaults { render_revision: 2, tag: "2.0.0".into(), ..defaults() }
}

/// The instance with the status that a reconcile in this cluster leaves.
fn told(instance: &JamInstance, cluster: &Observed, defaults: &Defaults) -> JamInstance {
    let resolved = resolve(instance, cluster, defaults).unwrap();
    let status = status(instance, Verdict::Applied(&resolved), cluster, cluster.at);
    JamInstance { status: Some(status), ..instance.clone() }
}

/// The instance with another spec under the same generation, as if it had been so from the beginning.
fn but_keep(instance: &JamInstance, changes: serde_json::Value) -> JamInstance {
    let mut other = but(instance, changes);
    other.metadata.generation = instance.metadata.generation;
    other
}

/// The revision that the record among these objects holds.
fn stored(objects: &Objects<Desired>) -> Revision {
    let maps = objects.items.iter().filter(|item| item.object.kind == Kind::ConfigMap);
    let mut maps = maps.map(|item| serde_json::from_value::<ConfigMap>(item.body.clone()).unwrap());
    maps.find_map(|map| Revision::of(&map, "main")).expect("a record is among the objects")
}

fn templates(objects: &Objects<Desired>) -> BTreeSet<String> {
    let all = objects.items.iter().filter(|item| item.object.kind == Kind::Deployment);
    all.map(|item| item.body["spec"]["template"].to_string()).collect()
}

#[test]
fn a_record_holds_the_revision_word_for_word_and_a_tampered_one_holds_none() {
    let instance = but(&on_postgres(), json!({"workers": {"replicas": 1}}));
    let resolved = resolved(&instance, &settled_cluster_for(&instance));
    let body = record(&resolved).body;
    let map: ConfigMap = serde_json::from_value(body).unwrap();
    assert_eq!(Revision::of(&map, "main").as_ref(), Some(&resolved.revision));
    for key in [CONFIG, API, WORKER] {
        let mut tampered = map.clone();
        tampered.data.as_mut().unwrap().insert(key.into(), "{}".into());
        assert_eq!(Revision::of(&tampered, "main"), None, "{key}");
        tampered.data.as_mut().unwrap().remove(key);
        assert_eq!(Revision::of(&tampered, "main"), None, "{key}");
    }
}

#[test]
fn a_newer_operator_leaves_the_pods_as_they_are_until_the_spec_changes() {
    for instance in [in_memory(), but(&on_postgres(), json!({"workers": {"replicas": 1}}))] {
        let mut cluster = settled_cluster_for(&instance);
        let before = desired(&resolved(&instance, &cluster));
        let instance = told(&instance, &cluster, &defaults());
        let anew = resolve(&instance, &cluster, &newer()).unwrap();
        assert_eq!(anew.lacks, [stored(&before).name()], "the stored revision is to be read first");
        cluster.revisions = vec![stored(&before)];
        let after = resolve(&instance, &cluster, &newer()).unwrap();
        assert_eq!((after.lacks.len(), after.migration.is_complete()), (0, true), "nor is there another migration");
        assert_eq!(templates(&desired(&after)), templates(&before));
        assert_eq!(desired(&after).items, before.items, "nothing else is written either");
        let said = told(&instance, &cluster, &newer()).status.unwrap();
        assert_eq!((said.render_revision, &said.revision), (Some(1), &instance.status.as_ref().unwrap().revision));

        let moved = but(&instance, json!({"runtime": {"jam": {"rateLimitPerMinute": 7}}}));
        let moved = resolve(&moved, &cluster, &newer()).unwrap();
        assert_eq!((moved.known[0].render_revision(), moved.wanted.generation), (Some(2), 2));
        assert_eq!(moved.known[0].name(), moved.wanted.name);
        assert_eq!(moved.image.reference, "registry.example/jam-api:2.0.0");
    }
}

#[test]
fn another_dsn_is_another_revision() {
    let instance = on_postgres();
    let cluster = settled_cluster_for(&instance);
    let instance = told(&instance, &cluster, &defaults());
    let moved = Observed { dsn: Some(SecretKey::Present { hash: "dsn-hash-2".into() }), ..cluster };
    let moved = resolve(&instance, &moved, &newer()).unwrap();
    let good = instance.status.unwrap().last_good.unwrap().revision.unwrap();
    assert_eq!((moved.revision.render_revision(), moved.lacks), (Some(2), vec![good]), "only what runs is asked for");
}

/// The Deployments among these objects all make pods of this revision, and are `count`.
fn are_of(objects: &Objects<Desired>, revision: &Revision, count: usize) {
    let deployments: Vec<_> = objects.items.iter().filter(|item| item.object.kind == Kind::Deployment).collect();
    assert_eq!(deployments.len(), count);
    for item in deployments {
        assert_eq!(item.body["metadata"]["annotations"][names::REVISION], revision.name());
        let map = config::name("main", revision.config());
        assert_eq!(item.body["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"], map.as_str());
    }
    let file = config::name("main", revision.config());
    assert_eq!(count > 0, objects.items.iter().any(|item| item.object.name == file), "what they mount is there");
}

#[test]
fn the_toggle_reaches_the_good_pods_while_what_else_is_wanted_waits_for_its_migration() {
    let first = but(
        &on_postgres(),
        json!({"workers": {"replicas": 1}, "migrations": {"mode": "Manual"}, "cleanup": {"schedule": "17 3 * * *"}}),
    );
    let mut cluster = settled_cluster_for(&but_keep(&first, json!({"migrations": {"mode": "Auto"}})));
    let good = stored(&desired(&resolved(&first, &cluster)));
    cluster.worker = cluster.api.clone();
    let first = told(&first, &cluster, &defaults());
    assert_eq!(first.status.as_ref().unwrap().enabled, Some(true));
    cluster.migration_jobs.clear();
    cluster.revisions = vec![good.clone()];
    let next = but(&first, json!({"image": {"tag": "next"}, "runtime": {"jam": {"rateLimitPerMinute": 7}}}));
    let next = told(&next, &cluster, &defaults());
    are_of(&desired(&resolved(&next, &cluster)), &good, 2);
    let said = next.status.as_ref().unwrap();
    assert_eq!(
        (said.migration.as_ref().unwrap().image.as_str(), said.enabled),
        ("registry.example/jam-api:next", Some(true))
    );

    let off = but(&next, json!({"runtime": {"jam": {"enabled": false}}}));
    let decided = resolved(&off, &cluster);
    let objects = desired(&decided);
    are_of(&objects, &decided.revision, 2);
    assert_eq!((decided.revision.enabled(), decided.revision.image()), (Some(false), good.image()));
    assert_eq!(decided.revision.clone().with_enabled("main", true), good, "nothing else about them is another");
    assert!(!decided.migration.is_complete());
    let cron = objects.items.iter().find(|item| item.object.kind == Kind::CronJob).unwrap();
    let image = "/spec/jobTemplate/spec/template/spec/containers/0/image";
    assert_eq!(cron.body.pointer(image).unwrap(), good.image(), "the cleanup waits as well");
    let off = told(&off, &cluster, &defaults());
    assert_eq!(off.status.as_ref().unwrap().enabled, Some(true), "no pod has heard of it yet");

    for deployment in [&mut cluster.api, &mut cluster.worker].into_iter().flatten() {
        deployment.revision = Some(decided.revision.name().into());
    }
    let off = told(&off, &cluster, &defaults());
    let said = off.status.as_ref().unwrap();
    assert_eq!((said.enabled, said.last_good.as_ref().unwrap().revision.as_deref()), (Some(false), Some(good.name())));
    assert_eq!(told(&off, &cluster, &defaults()), off, "and there it stays");
    are_of(&desired(&resolved(&off, &cluster)), &decided.revision, 2);

    let on = but(&off, json!({"runtime": {"jam": {"enabled": true}}}));
    are_of(&desired(&resolved(&on, &cluster)), &good, 2);
}

#[test]
fn the_toggle_reaches_the_good_pods_at_once_after_a_bad_rollout() {
    let (instance, mut cluster, good) = bad_rollout();
    cluster.revisions = vec![good.clone()];
    let bad = told(&instance, &cluster, &defaults());
    let off = but(&bad, json!({"runtime": {"jam": {"enabled": false}}}));
    let decided = resolved(&off, &cluster);
    assert_eq!((decided.given_up, decided.revision.clone().with_enabled("main", true)), (false, good.clone()));
    are_of(&desired(&decided), &decided.revision, 1);
    let off = told(&off, &cluster, &defaults());
    let rollout = off.status.as_ref().unwrap().rollout.as_ref().unwrap();
    assert_eq!((rollout.phase, rollout.generation), (RolloutPhase::RolledBack, 3), "the rest is not tried again");
    let api = cluster.api.as_mut().unwrap();
    (api.deadline_exceeded, api.updated, api.replicas) = (None, 2, 2);
    api.revision = Some(good.name().into());
    assert_eq!(told(&off, &cluster, &defaults()).status.unwrap().enabled, Some(true), "these pods serve it still");
    cluster.api.as_mut().unwrap().revision = Some(decided.revision.name().into());
    let off = told(&off, &cluster, &defaults());
    assert_eq!(off.status.as_ref().unwrap().enabled, Some(false));
    assert_eq!(resolved(&off, &cluster).revision, decided.revision, "and there it stays");
    let moved = resolved(&but(&off, json!({"service": {"port": 81}})), &cluster);
    assert_eq!(moved.rollout_status.phase, RolloutPhase::Progressing, "whatever else changes is tried");
}

#[test]
fn the_toggle_is_one_line_of_a_settings_file_and_no_other_byte() {
    let settings = |enabled: bool| json!({"runtime": {"jam": {"enabled": enabled}}});
    let file = |enabled: bool| {
        let instance = but(&on_postgres(), settings(enabled));
        resolved(&instance, &settled_cluster_for(&instance)).revision.config().to_owned()
    };
    for enabled in [true, false] {
        assert_eq!(config::enabled(&file(enabled)), Some(enabled));
        assert_eq!(config::with_enabled(&file(!enabled), enabled), file(enabled));
        assert_eq!(config::with_enabled(&file(enabled), enabled), file(enabled));
    }
    assert_eq!(config::enabled("nothing: true"), None);
}

#[test]
fn a_change_that_concerns_no_pod_is_no_other_revision() {
    let instance = on_postgres();
    let cluster = settled_cluster_for(&instance);
    let name = |instance: &JamInstance| resolved(instance, &cluster).wanted.name;
    for change in [json!({"replicas": 5}), json!({"service": {"port": 81}}), json!({"networkPolicy": {}})] {
        assert_eq!(name(&but(&instance, change)), name(&instance));
    }
    assert_ne!(name(&but(&instance, json!({"runtime": {"jam": {"enabled": false}}}))), name(&instance));
}

/// An instance whose second revision makes no progress past its deadline, and the cluster that it is in.
fn bad_rollout() -> (JamInstance, Observed, Revision) {
    let first = on_postgres();
    let cluster = settled_cluster_for(&first);
    let good = stored(&desired(&resolved(&first, &cluster)));
    let first = told(&first, &cluster, &defaults());
    assert_eq!(first.status.as_ref().unwrap().last_good.as_ref().unwrap().revision.as_deref(), Some(good.name()));
    let second = but(&first, json!({"podTemplate": {"env": [{"name": "A", "value": "b"}]}}));
    let second = told(&second, &Observed { at: at(5000), ..cluster.clone() }, &defaults());
    let name = resolved(&second, &cluster).wanted.name;
    let api = DeploymentState {
        revision: Some(name),
        updated: 1,
        replicas: 3,
        deadline_exceeded: Some("progress deadline".into()),
        ..cluster.api.clone().unwrap()
    };
    let trouble = Some("pod main-1: CrashLoopBackOff: no".into());
    (second, Observed { at: at(6000), api: Some(api), trouble, ..cluster }, good)
}

#[test]
fn a_bad_rollout_is_stored_first_and_then_the_last_good_revision_is_back() {
    let (instance, mut cluster, good) = bad_rollout();
    assert_eq!(resolved(&instance, &cluster).lacks, [good.name()]);
    cluster.revisions = vec![good.clone()];
    let decided = resolved(&instance, &cluster);
    assert!(decided.given_up);
    assert_eq!(decided.revision, good);
    let kept: BTreeSet<_> = desired(&decided).keep.into_iter().map(|ObjectRef { kind: _, name }| name).collect();
    let evidence = decided.rollout_status.evidence.clone().unwrap();
    assert!(kept.contains(&evidence));

    let instance = told(&instance, &cluster, &defaults());
    let said = instance.status.as_ref().unwrap();
    assert_eq!(said.rollout.as_ref().unwrap().phase, RolloutPhase::RolledBack);
    let ready = said.conditions.iter().find(|told| told.type_ == "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", Reason::RolledBack.as_str()));
    for word in ["CrashLoopBackOff: no", &evidence, "until the spec changes in more than runtime.jam.enabled"] {
        assert!(ready.message.contains(word), "{word}: {}", ready.message);
    }
    let api = cluster.api.as_mut().unwrap();
    (api.revision, api.deadline_exceeded, api.updated, api.replicas) = (Some(good.name().into()), None, 2, 2);
    cluster.trouble = None;
    let back = resolved(&instance, &cluster);
    assert_eq!((back.given_up, back.revision.name()), (false, good.name()));
    let again = told(&instance, &cluster, &defaults());
    assert_eq!(again.status.as_ref().unwrap().last_good.as_ref().unwrap().revision.as_deref(), Some(good.name()));
    assert_eq!(told(&again, &cluster, &defaults()), again, "and there it stays");
    let upgraded = resolve(&again, &cluster, &newer()).unwrap();
    assert_eq!(upgraded.revision, good, "a newer operator does not try it either");
    cluster.revisions.clear();
    let lost = desired(&resolved(&again, &cluster));
    assert!(lost.items.iter().all(|item| item.object.kind != Kind::Deployment), "what runs is left as it is");
}

#[test]
fn without_the_record_of_the_last_good_revision_there_is_no_way_back() {
    let (instance, cluster, good) = bad_rollout();
    let said = told(&instance, &cluster, &defaults()).status.unwrap();
    let ready = said.conditions.iter().find(|told| told.type_ == "Ready").unwrap();
    assert_eq!(ready.reason, Reason::RollbackRefused.as_str());
    assert!(ready.message.contains(good.name()), "{}", ready.message);
    assert_eq!(said.rollout.unwrap().phase, RolloutPhase::Progressing);
}

#[test]
fn another_dsn_reaches_the_good_pods_and_what_was_given_up_stays_so() {
    let (instance, mut cluster, good) = bad_rollout();
    cluster.revisions = vec![good.clone()];
    let mut given_up = told(&instance, &cluster, &defaults());
    let status = given_up.status.as_mut().unwrap();
    // It was of another image, whose migration went well.
    status.revision.as_mut().unwrap().image = "registry.example/jam-api:bad".into();
    status.migration.as_mut().unwrap().image = "registry.example/jam-api:bad".into();
    let before = given_up.status.clone().unwrap();
    assert_eq!(before.rollout.as_ref().unwrap().phase, RolloutPhase::RolledBack);

    cluster.dsn = Some(SecretKey::Present { hash: "dsn-hash-2".into() });
    let first = resolved(&given_up, &cluster);
    let MigrationStep::Run { job: _ } = &first.migration.step else { panic!("{:?}", first.migration.step) };
    assert_eq!(first.image.reference, good.image(), "the good image's migration, never the bad one's");
    cluster.migration_jobs.push(job(&given_up, &cluster, JobState::Complete));
    let changed = resolved(&given_up, &cluster);
    assert_eq!((changed.revision.dsn_hash(), changed.revision.image()), ("dsn-hash-2", good.image()));
    assert_eq!(
        changed.revision.clone().with_secrets("main", Some("dsn-hash-1"), None),
        good,
        "nothing else about it is another"
    );
    assert!(templates(&desired(&changed)).iter().all(|template| template.contains("dsn-hash-2")));
    let kept = desired(&changed).keep.into_iter().map(|ObjectRef { kind: _, name }| name).collect::<Vec<_>>();
    assert!(kept.contains(&good.name().to_owned()), "the way back is kept: {kept:?}");
    let said = told(&given_up, &cluster, &defaults());
    let now = said.status.clone().unwrap();
    assert_eq!((&now.rollout, &now.revision, &now.last_good), (&before.rollout, &before.revision, &before.last_good));
    assert_eq!(told(&said, &cluster, &defaults()), said, "and there it stays");

    cluster.dsn = Some(SecretKey::Present { hash: "dsn-hash-1".into() });
    assert_eq!(resolved(&said, &cluster).image.reference, good.image(), "nor does the first DSN bring it back");
}

#[test]
fn pods_that_differ_in_their_dsn_only_are_never_given_up_and_follow_the_next_one() {
    let first = on_postgres();
    let mut cluster = settled_cluster_for(&first);
    cluster.revisions = vec![stored(&desired(&resolved(&first, &cluster)))];
    let first = told(&first, &cluster, &defaults());
    let rotate = |instance: &JamInstance, cluster: &mut Observed, hash: &str| {
        cluster.dsn = Some(SecretKey::Present { hash: hash.into() });
        let job = job(instance, cluster, JobState::Complete);
        cluster.migration_jobs.push(job);
        let now = told(instance, cluster, &defaults());
        let name = resolved(&now, cluster).wanted.name;
        let api = cluster.api.as_mut().unwrap();
        (api.revision, api.updated, api.replicas) = (Some(name), 1, 3);
        now
    };
    let second = rotate(&first, &mut cluster, "dsn-hash-2");
    let wanted = resolved(&second, &cluster).wanted;
    cluster.at = at(9000);
    cluster.api.as_mut().unwrap().deadline_exceeded = Some("no room".into());
    let late = resolved(&second, &cluster);
    assert_eq!((late.given_up, &late.course, &late.wanted), (false, &crate::rollout::Course::Forward, &wanted));
    let stuck = told(&second, &cluster, &defaults());
    let reason = |instance: &JamInstance| {
        let conditions = &instance.status.as_ref().unwrap().conditions;
        conditions.iter().find(|told| told.type_ == "Ready").unwrap().reason.clone()
    };
    assert_eq!(reason(&stuck), Reason::RolloutStuck.as_str());
    assert_eq!(told(&stuck, &cluster, &defaults()), stuck, "and nothing moves until something else does");

    // A release before this one did give it up: the decision is of no use.
    let mut given_up = stuck.clone();
    given_up.status.as_mut().unwrap().rollout.as_mut().unwrap().phase = RolloutPhase::RolledBack;
    let freed = told(&given_up, &cluster, &defaults()).status.unwrap().rollout.unwrap();
    assert_eq!((freed.phase, &freed.revision), (RolloutPhase::Progressing, &wanted.name));
    let third = rotate(&given_up, &mut cluster, "dsn-hash-3");
    assert_eq!(third.status.as_ref().unwrap().rollout.as_ref().unwrap().phase, RolloutPhase::Progressing);
    for instance in [&stuck, &third] {
        let mut room = cluster.clone();
        let name = resolved(instance, &room).wanted.name;
        let api = room.api.as_mut().unwrap();
        (api.revision, api.updated, api.replicas, api.deadline_exceeded) = (Some(name), 2, 2, None);
        assert_eq!(reason(&told(instance, &room, &defaults())), Reason::Serving.as_str(), "it heals by itself");
    }
}

#[test]
fn what_runs_is_adopted_only_where_just_this_spec_was_applied() {
    let instance = on_postgres();
    let cluster = settled_cluster_for(&instance);
    let running = resolved(&instance, &cluster).revision;
    let mut older = told(&instance, &cluster, &defaults());
    let status = older.status.as_mut().unwrap();
    (status.revision, status.rollout, status.last_good, status.render_revision) = (None, None, None, None);
    let cluster = Observed { adoptable: Some(running.clone()), ..cluster };
    let of = |instance: &JamInstance, cluster: &Observed| resolve(instance, cluster, &newer()).unwrap().revision;
    assert_eq!(of(&older, &cluster), running);
    let pinned = resolve(&older, &cluster, &newer()).unwrap();
    assert_eq!((pinned.wanted.name.as_str(), pinned.migration.is_complete()), (running.name(), true));

    assert_ne!(of(&but(&older, json!({"replicas": 3})), &cluster), running, "another generation was never applied");
    let password = Observed { dsn: Some(SecretKey::Present { hash: "dsn-hash-2".into() }), ..cluster.clone() };
    assert_ne!(of(&older, &password), running);
    let mut refused = older.clone();
    refused.status.as_mut().unwrap().conditions.iter_mut().for_each(|told| told.reason = "Migrating".into());
    assert_ne!(of(&refused, &cluster), running, "what was said does not speak of these pods");
    assert_ne!(of(&but_keep(&older, json!({"workers": {"replicas": 1}})), &cluster), running);
    assert_ne!(of(&instance, &cluster), running, "without a status nothing can be told");
}
