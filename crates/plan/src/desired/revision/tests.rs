//! Laws of revisions: pinned to the spec, kept word for word, and the way back after a bad rollout.

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
        assert_eq!((moved.revision.render_revision(), moved.wanted.generation), (Some(2), 2));
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
    assert_eq!((moved.revision.render_revision(), moved.lacks.len()), (Some(2), 0));
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
    for word in ["CrashLoopBackOff: no", &evidence, "until the spec changes"] {
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
        changed.revision.clone().with_secrets("main", "dsn-hash-1", None),
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
