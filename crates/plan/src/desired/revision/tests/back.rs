//! Where the way back leads: to the pods of before, their database, their bucket and their place, and to no restart.

use super::*;
use crate::observed::BlobKeys;

fn keys(id: &str) -> BlobKeys {
    let present = |hash: &str| SecretKey::Present { hash: hash.into() };
    BlobKeys([present(id), present("key"), SecretKey::NoKey])
}

fn with_everything() -> JamInstance {
    let blobs =
        json!({"url": "s3://bucket", "endpoint": "http://minio:9000", "credentialsSecretRef": {"name": "keys"}});
    let cleanup = json!({"schedule": "17 3 * * *"});
    but(&on_postgres(), json!({"blobStore": blobs, "cleanup": cleanup, "workers": {"replicas": 1}}))
}

/// What is wanted while this instance serves, and the instance and its cluster after this change was given up.
fn given_up(change: serde_json::Value, dsn: &str, id: &str) -> (Objects<Desired>, JamInstance, Observed) {
    let mut cluster = Observed { blob_keys: Some(keys("id-1")), ..settled_cluster_for(&on_postgres()) };
    cluster.worker = cluster.api.clone();
    let rolled = |cluster: &mut Observed, instance: &JamInstance| {
        let name = resolved(instance, cluster).wanted.name;
        for deployment in [&mut cluster.api, &mut cluster.worker].into_iter().flatten() {
            deployment.revision = Some(name.clone());
        }
    };
    rolled(&mut cluster, &with_everything());
    let before = desired(&resolved(&with_everything(), &cluster));
    cluster.revisions = vec![stored(&before)];
    let first = told(&with_everything(), &cluster, &defaults());
    let second = but(&first, change);
    (cluster.at, cluster.blob_keys) = (at(5000), Some(keys(id)));
    cluster.dsn = Some(SecretKey::Present { hash: dsn.into() });
    if !resolved(&second, &cluster).migration.is_complete() {
        cluster.migration_jobs.push(job(&second, &cluster, JobState::Complete));
    }
    let second = told(&second, &cluster, &defaults());
    rolled(&mut cluster, &second);
    let api = cluster.api.as_mut().unwrap();
    (api.updated, api.replicas, api.deadline_exceeded) = (1, 3, Some("no progress".into()));
    cluster.at = at(6000);
    let bad = told(&second, &cluster, &defaults());
    assert_eq!(bad.status.as_ref().unwrap().rollout.as_ref().unwrap().phase, RolloutPhase::RolledBack);
    (before, bad, cluster)
}

/// The bodies of what makes pods for good.
fn of_pods(objects: &Objects<Desired>) -> Vec<Value> {
    let made = objects.items.iter().filter(|item| matches!(item.object.kind, Kind::Deployment | Kind::CronJob));
    made.map(|item| item.body.clone()).collect()
}

#[test]
fn after_a_bad_rollout_servers_workers_and_cleanup_are_what_they_were_whatever_the_spec_names_by_now() {
    let place = json!({
        "nodeSelector": {"no": "node"}, "tolerations": [{"key": "a", "operator": "Exists"}], "priorityClassName": "none",
        "labels": {"their": "label"}, "annotations": {"their": "note"}, "env": [{"name": "A", "value": "b"}],
        "resources": {"requests": {"cpu": "100"}}, "affinity": {"podAffinity": {}},
    });
    for (change, dsn, id) in [
        (json!({"database": {"dsnSecretRef": {"name": "jam-db-2"}}}), "dsn-hash-2", "id-1"),
        (json!({"database": {"dsnSecretRef": {"key": "other"}}}), "dsn-hash-2", "id-1"),
        (json!({"blobStore": {"credentialsSecretRef": {"name": "other"}}}), "dsn-hash-1", "id-2"),
        (json!({"blobStore": {"credentialsSecretRef": null}}), "dsn-hash-1", "id-1"),
        (
            json!({"blobStore": {"url": "s3://other", "endpoint": "https://s3:9443", "region": "eu-1"}}),
            "dsn-hash-1",
            "id-1",
        ),
        (json!({"monitoring": {"otlpEndpoint": "http://otel:4318"}}), "dsn-hash-1", "id-1"),
        (json!({"podTemplate": place}), "dsn-hash-1", "id-1"),
        (
            json!({"image": {"tag": "bad", "pullPolicy": "Always", "pullSecrets": [{"name": "none"}]}}),
            "dsn-hash-1",
            "id-1",
        ),
    ] {
        let (before, bad, cluster) = given_up(change.clone(), dsn, id);
        let back = resolved(&bad, &cluster);
        assert_eq!((of_pods(&before).len(), of_pods(&desired(&back))), (3, of_pods(&before)), "{change}");
        assert_eq!(told(&bad, &cluster, &defaults()), bad, "and there it stays");
    }
}

#[test]
fn a_password_and_keys_that_the_good_pods_take_from_the_same_secrets_reach_servers_workers_and_cleanup() {
    let (before, bad, mut cluster) = given_up(json!({"image": {"tag": "bad"}}), "dsn-hash-1", "id-1");
    (cluster.dsn, cluster.blob_keys) = (Some(SecretKey::Present { hash: "dsn-hash-2".into() }), Some(keys("id-2")));
    cluster.migration_jobs.push(job(&bad, &cluster, JobState::Complete));
    let now = resolved(&bad, &cluster);
    let hash = now.blobs.clone().unwrap().hash;
    let made = of_pods(&desired(&now));
    assert!(made.iter().all(|body| body.to_string().contains("dsn-hash-2") && body.to_string().contains(&hash)));
    assert_eq!(now.revision.image(), "registry.example/jam-api:1.0.0");
    assert_ne!(made, of_pods(&before));
}

#[test]
fn after_a_bad_rollout_from_the_memory_store_no_cron_job_is_there_to_fail() {
    let (_, bad, cluster) = given_up(json!({"image": {"tag": "bad"}}), "dsn-hash-1", "id-1");
    let of_memory = resolved(&in_memory(), &settled_cluster_for(&in_memory())).revision;
    let jobs = |back: &Resolved| desired(back).items.iter().filter(|item| item.object.kind == Kind::CronJob).count();
    let back = resolved(&bad, &cluster);
    assert_eq!((jobs(&back), jobs(&Resolved { revision: of_memory, ..back.clone() })), (1, 0));
}

/// The same instance once its good pods are back, and the good revision.
fn gone_back() -> (JamInstance, Observed, Revision) {
    let (before, bad, mut cluster) = given_up(json!({"image": {"tag": "bad"}}), "dsn-hash-1", "id-1");
    let good = stored(&before);
    cluster.worker.as_mut().unwrap().revision = Some(good.name().into());
    let api = cluster.api.as_mut().unwrap();
    (api.revision, api.updated, api.replicas, api.deadline_exceeded) = (Some(good.name().into()), 2, 2, None);
    cluster.trouble = None;
    let instance = told(&bad, &cluster, &defaults());
    cluster.revisions.clear();
    (instance, cluster, good)
}

/// As Kubernetes writes it.
fn in_other_words(good: &Revision) -> Revision {
    let mut api = good.api.clone();
    *api.pointer_mut("/spec/containers/0/resources/requests/cpu").unwrap() = "0.05".into();
    Revision { name: super::name("main", &good.config, &api, good.worker.as_ref()), api, ..good.clone() }
}

fn ready(instance: &JamInstance) -> (String, String) {
    let conditions = &instance.status.as_ref().unwrap().conditions;
    let ready = conditions.iter().find(|told| told.type_ == "Ready").unwrap();
    (ready.reason.clone(), ready.message.clone())
}

#[test]
fn a_good_revision_whose_record_is_gone_is_recorded_again_from_what_runs() {
    let (instance, cluster, good) = gone_back();
    let off = but(&instance, json!({"runtime": {"jam": {"enabled": false}}}));
    for (instance, runs, kept) in [
        (&instance, good.clone(), good.clone()),
        (&instance, in_other_words(&good), in_other_words(&good)),
        (&off, good.clone(), good.clone().with_enabled("main", false)),
    ] {
        let cluster = Observed { adoptable: Some(runs), ..cluster.clone() };
        let decided = resolved(instance, &cluster);
        let objects = desired(&decided);
        assert_eq!((&decided.revision, &stored(&objects)), (&kept, &kept));
        are_of(&objects, &kept, 2);
        let after = told(instance, &cluster, &defaults());
        assert_eq!(ready(&after).0, Reason::RolledBack.as_str());
        let status = after.status.clone().unwrap();
        for named in [status.rollout.unwrap().from, status.last_good] {
            assert_eq!(named.unwrap().revision.as_deref(), Some(kept.name()), "it is found by this name from now on");
        }
        let read = Observed { adoptable: None, revisions: vec![kept.clone()], ..cluster.clone() };
        assert_eq!(resolved(&after, &read).revision, kept);
        assert_eq!(told(&after, &read, &defaults()), after, "and there it stays");
    }
}

#[test]
fn what_was_given_up_is_never_taken_for_good_whatever_the_toggle_says_by_now() {
    let (before, mut bad, mut cluster) =
        given_up(json!({"podTemplate": {"env": [{"name": "A", "value": "b"}]}}), "dsn-hash-1", "id-1");
    // Stored, and not carried out yet when the good revision is lost: the bad pods have its image.
    let rendered = Revision::render(&resolved(&bad, &cluster));
    assert_eq!(cluster.api.as_ref().unwrap().revision.as_deref(), Some(rendered.name()));
    assert_eq!(rendered.image(), stored(&before).image());
    cluster.revisions.clear();
    cluster.adoptable = Some(rendered);
    let off = json!({"runtime": {"jam": {"enabled": false}}});
    for spec in [bad.status.as_ref().unwrap().rollout.as_ref().unwrap().spec.clone(), None] {
        // An earlier release did not keep the spec.
        bad.status.as_mut().unwrap().rollout.as_mut().unwrap().spec = spec;
        let turned = told(&but(&bad, off.clone()), &cluster, &defaults());
        for instance in [&bad, &but(&bad, off.clone()), &turned] {
            let made = of_pods(&desired(&resolved(instance, &cluster)));
            assert!(made.is_empty(), "{made:?}");
            assert_eq!(ready(&told(instance, &cluster, &defaults())).0, Reason::RollbackRefused.as_str());
        }
    }
}

#[test]
fn a_good_revision_that_nothing_is_left_of_is_told_and_what_runs_is_left_alone() {
    let (instance, cluster, good) = gone_back();
    let bad = instance.status.as_ref().unwrap().rollout.as_ref().unwrap().revision.clone();
    let adoptable = Some(good.clone());
    let others = |change: &dyn Fn(&mut Observed)| {
        let mut cluster = Observed { adoptable: adoptable.clone(), ..cluster.clone() };
        change(&mut cluster);
        cluster
    };
    for cluster in [
        others(&|cluster| cluster.adoptable = None),
        others(&|cluster| (cluster.adoptable, cluster.api) = (None, None)),
        others(&|cluster| cluster.api.as_mut().unwrap().revision = Some(bad.clone())),
        others(&|cluster| cluster.worker.as_mut().unwrap().revision = None),
        others(&|cluster| {
            cluster.adoptable = Some(Revision { worker: None, ..in_other_words(&good) });
        }),
        others(&|cluster| {
            *cluster.adoptable.as_mut().unwrap().api.pointer_mut("/spec/containers/0/image").unwrap() = "other".into();
        }),
    ] {
        let made = of_pods(&desired(&resolved(&instance, &cluster)));
        assert!(made.is_empty(), "{made:?}");
        let after = told(&instance, &cluster, &defaults());
        let (reason, why) = ready(&after);
        assert_eq!(reason, Reason::RollbackRefused.as_str(), "{why}");
        assert!(why.contains(good.name()) && why.contains("until the spec changes in more than"), "{why}");
        assert_eq!(after.status.as_ref().unwrap().rollout, instance.status.as_ref().unwrap().rollout);
        let restored = Observed { revisions: vec![good.clone()], ..cluster };
        assert_eq!(resolved(&after, &restored).revision, good, "who puts it back has it back");
    }
}

#[test]
fn the_next_change_after_a_return_by_hand_leads_back_to_what_was_returned_to_and_not_to_what_crashed() {
    let mut cluster = settled_cluster_for(&on_postgres());
    let good = stored(&desired(&resolved(&on_postgres(), &cluster)));
    cluster.revisions = vec![good.clone()];
    let first = told(&on_postgres(), &cluster, &defaults());
    let with = |instance: &JamInstance, value: &str| {
        but(instance, json!({"podTemplate": {"env": [{"name": "A", "value": value}]}}))
    };
    let mut walk = |instance: &JamInstance, ready: i32| {
        let revision = resolved(instance, &cluster).revision;
        let api = cluster.api.as_mut().unwrap();
        (api.revision, api.ready, api.available) = (Some(revision.name().into()), ready, ready);
        cluster.at = cluster.at.plus_seconds(10);
        cluster.lapsed = (ready < 2).then_some(cluster.at);
        told(instance, &cluster, &defaults())
    };
    let last_good = |instance: &JamInstance| instance.status.clone().unwrap().last_good.unwrap().revision.unwrap();
    let served = walk(&with(&first, "crashes late"), 2);
    assert_ne!(last_good(&served), good.name(), "for a moment it serves");
    let crashed = walk(&served, 0);
    let back = walk(&but(&crashed, json!({"podTemplate": null})), 0);
    assert_eq!(back.status.as_ref().unwrap().revision.as_ref().unwrap().name, good.name());
    assert_eq!(last_good(&back), good.name());
    let next = walk(&with(&back, "another"), 0);
    let from = next.status.as_ref().unwrap().rollout.as_ref().unwrap().from.as_ref().unwrap();
    assert_eq!(from.revision.as_deref(), Some(good.name()));
}
