//! What serves is kept while something waits, and what was given up stays so.

use super::*;

#[test]
fn what_serves_is_put_right_and_scaled_while_what_else_is_wanted_waits_for_its_migration() {
    let first = on_postgres();
    let mut cluster = settled_cluster_for(&first);
    let good = stored(&desired(&resolved(&first, &cluster)));
    let first = told(&first, &cluster, &defaults());
    let never = cluster.migration_jobs.clone();
    (cluster.migration_jobs, cluster.revisions) = (Vec::new(), vec![good.clone()]);
    let next = but(&first, json!({"image": {"tag": "next"}, "migrations": {"mode": "Manual"}, "replicas": 5}));
    let next = told(&next, &cluster, &defaults());
    let of = |cluster: &Observed| {
        let decided = resolved(&next, cluster);
        assert!(!decided.migration.is_complete());
        desired(&decided)
    };
    are_of(&of(&cluster), &good, 1);
    let replicas = |objects: &Objects<Desired>| {
        let api = objects.items.iter().find(|item| item.object.kind == Kind::Deployment);
        api.map(|api| api.body["spec"]["replicas"].clone())
    };
    assert_eq!(replicas(&of(&cluster)), Some(json!(5)), "scaling waits for no migration");
    cluster.api = None;
    are_of(&of(&cluster), &good, 1);
    cluster.revisions.clear();
    let none = of(&cluster).items.iter().all(|item| item.object.kind != Kind::Deployment);
    assert!(none, "there is nothing to make it from");

    // After a restore the schema is behind: the same migration is run once more, and the pods that wait for it are kept as well.
    let mut restored = settled_cluster_for(&on_postgres());
    (restored.migration_jobs, restored.at) = (never, at(1_000_000));
    restored.pod_schema = Some(crate::observed::PodSchema { found: Some(1), wanted: 3 });
    let again = resolved(&first, &restored);
    assert!(!again.migration.is_complete(), "{:?}", again.migration.step);
    are_of(&desired(&again), &good, 1);
}

#[test]
fn what_was_given_up_stays_so_when_the_toggle_turns_after_another_dsn_or_under_a_newer_operator() {
    let (instance, mut cluster, good) = bad_rollout();
    cluster.revisions = vec![good.clone()];
    let bad = told(&instance, &cluster, &defaults());
    for (dsn, defaults) in [("dsn-hash-2", defaults()), ("dsn-hash-1", newer()), ("dsn-hash-2", newer())] {
        cluster.dsn = Some(SecretKey::Present { hash: dsn.into() });
        let bad = told(&bad, &cluster, &defaults);
        let off = but(&bad, json!({"runtime": {"jam": {"enabled": false}}}));
        let decided = resolve(&off, &cluster, &defaults).unwrap();
        assert_eq!((decided.rollout_status.phase, decided.given_up), (RolloutPhase::RolledBack, false), "{dsn}");
        assert_eq!(decided.image.reference, good.image());
        let off = told(&off, &cluster, &defaults);
        assert_eq!(told(&off, &cluster, &defaults), off, "and there it stays");
        let on = but(&off, json!({"runtime": {"jam": {"enabled": true}}}));
        assert_eq!(resolve(&on, &cluster, &defaults).unwrap().rollout_status.phase, RolloutPhase::RolledBack);
        let mended = but(&on, json!({"podTemplate": {"env": [{"name": "A", "value": "c"}]}}));
        let phase = resolve(&mended, &cluster, &defaults).unwrap().rollout_status.phase;
        assert_eq!(phase, RolloutPhase::Progressing, "another spec is tried");
    }
}

#[test]
fn another_dsn_makes_no_good_image_the_one_that_the_spec_wants() {
    let (first, mut cluster) = (on_postgres(), settled_cluster_for(&on_postgres()));
    cluster.revisions = vec![stored(&desired(&resolved(&first, &cluster)))];
    let first = told(&first, &cluster, &defaults());
    let second = but(&first, json!({"image": {"tag": "bad"}}));
    let done = job(&second, &cluster, JobState::Complete);
    cluster.migration_jobs.push(done);
    let second = told(&second, &Observed { at: at(5000), ..cluster.clone() }, &defaults());
    let api = cluster.api.as_mut().unwrap();
    api.revision = Some(second.status.as_ref().unwrap().revision.as_ref().unwrap().name.clone());
    (api.updated, api.replicas, api.deadline_exceeded) = (1, 3, Some("no progress".into()));
    cluster.at = at(6000);
    let bad = told(&second, &cluster, &defaults());
    let phase = |instance: &JamInstance| instance.status.as_ref().unwrap().rollout.as_ref().unwrap().phase;
    assert_eq!(phase(&bad), RolloutPhase::RolledBack);
    cluster.dsn = Some(SecretKey::Present { hash: "dsn-hash-2".into() });
    let done = job(&bad, &cluster, JobState::Complete);
    cluster.migration_jobs.push(done);
    assert_eq!(phase(&told(&bad, &cluster, &defaults())), RolloutPhase::RolledBack);
}
