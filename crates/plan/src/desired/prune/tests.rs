//! Laws of pruning: what is wanted, foreign, finished or still mounted stays.

use k8s_openapi::api::batch::v1::CronJob;
use serde_json::{Value, json};

use super::*;
use crate::ObjectRef;
use crate::fixtures::{but, job, objects, on_postgres, settled_cluster_for};
use crate::observed::{CleanupState, MigrationPreview};

fn child(kind: Kind, name: &str) -> Child {
    Child {
        object: ObjectRef { kind, name: name.into() },
        uid: format!("uid-of-{name}"),
        controller: Some("uid-1".into()),
        rendered: Some("hash".into()),
        egress: std::collections::BTreeSet::new(),
        consumer: name.strip_prefix("main-token-").map(str::to_owned),
        deleting: false,
    }
}

/// The names that go, where these children are in the settled cluster of the instance.
fn pruned(children: &[Child], change: impl FnOnce(&mut Observed, &Objects<Desired>)) -> Vec<String> {
    let instance = on_postgres();
    let mut cluster = settled_cluster_for(&instance);
    let wanted = objects(&instance, &cluster);
    let api = wanted.items.iter().find(|item| item.object.kind == Kind::Deployment).unwrap();
    cluster.api.as_mut().unwrap().rendered = Some(api.hash.clone());
    cluster.children = children.to_vec();
    cluster.children.extend(wanted.items.iter().map(|item| child(item.object.kind, &item.object.name)));
    change(&mut cluster, &wanted);
    prunable("main", &wanted, &cluster, "uid-1").iter().map(|child| child.object.name.clone()).collect()
}

#[test]
fn what_is_no_longer_wanted_goes_and_nothing_else() {
    let stale = [
        child(Kind::Deployment, "main-worker"),
        child(Kind::Ingress, "main"),
        child(Kind::NetworkPolicy, "main"),
        child(Kind::HorizontalPodAutoscaler, "main"),
        child(Kind::Secret, "main-token-former"),
        child(Kind::ConfigMap, "main-config-old"),
    ];
    let names: Vec<_> = stale.iter().map(|child| child.object.name.clone()).collect();
    assert_eq!(pruned(&stale, |_, _| ()), names);
    assert_eq!(pruned(&[], |_, _| ()), Vec::<String>::new());
}

#[test]
fn what_another_controller_has_or_what_is_leaving_is_left() {
    let mut foreign = child(Kind::Ingress, "theirs");
    foreign.controller = Some("another".into());
    let mut orphan = child(Kind::Ingress, "orphan");
    orphan.controller = None;
    let mut secret = child(Kind::Secret, "main-token-theirs");
    secret.controller = Some("another".into());
    let mut leaving = child(Kind::Ingress, "leaving");
    leaving.deleting = true;
    assert_eq!(pruned(&[foreign, orphan, secret, leaving], |_, _| ()), Vec::<String>::new());
}

#[test]
fn a_retained_token_goes_with_its_consumer() {
    let mut retained = child(Kind::Secret, "main-token-former");
    retained.controller = None;
    assert_eq!(pruned(&[retained], |_, _| ()), ["main-token-former"]);
}

#[test]
fn a_config_map_stays_until_every_pod_has_left_it() {
    let old = [child(Kind::ConfigMap, "main-config-old")];
    let none = Vec::<String>::new();
    assert_eq!(pruned(&old, |cluster, _| cluster.api.as_mut().unwrap().updated = 1), none);
    assert_eq!(pruned(&old, |cluster, _| cluster.api.as_mut().unwrap().replicas = 3), none);
    assert_eq!(pruned(&old, |cluster, _| cluster.api.as_mut().unwrap().rendered = Some("before".into())), none);
    assert_eq!(pruned(&old, |cluster, _| cluster.api = None), none);
    let busy_worker = |cluster: &mut Observed, _: &Objects<Desired>| {
        cluster.worker = Some(DeploymentState { wanted: 1, ..DeploymentState::default() });
    };
    assert_eq!(pruned(&old, busy_worker), none);
}

#[test]
fn a_finished_job_is_left_to_its_time_to_live_and_a_running_one_is_stopped() {
    let instance = on_postgres();
    let newer = but(&instance, json!({"image": {"tag": "2"}}));
    for (state, goes) in [
        (JobState::Running, true),
        (JobState::Complete, false),
        (JobState::Failed { exit_code: None, message: String::new() }, false),
    ] {
        let mut cluster = settled_cluster_for(&instance);
        cluster.migration_jobs.clear();
        let old = job(&instance, &cluster, state);
        cluster.children = vec![child(Kind::Job, &old.name)];
        cluster.migration_jobs = vec![old.clone()];
        let wanted = objects(&newer, &cluster);
        assert_eq!(prunable("main", &wanted, &cluster, "uid-1").len(), usize::from(goes), "{:?}", old.state);
    }
}

#[test]
fn a_dry_run_that_nobody_waits_for_is_stopped_and_a_finished_one_left_to_its_time_to_live() {
    let instance = on_postgres();
    let words = || String::from("words");
    for (said, goes) in
        [(PreviewSaid::Nothing, true), (PreviewSaid::Would(words()), false), (PreviewSaid::Failed(words()), false)]
    {
        let mut cluster = settled_cluster_for(&instance);
        cluster.children = vec![child(Kind::Job, "dry")];
        cluster.migration_previews = vec![MigrationPreview { job: "dry".into(), said, trouble: None }];
        let wanted = objects(&instance, &cluster);
        assert_eq!(
            prunable("main", &wanted, &cluster, "uid-1").len(),
            usize::from(goes),
            "{:?}",
            cluster.migration_previews
        );
    }
}

#[test]
fn the_deployments_stay_while_a_migration_runs() {
    let instance = but(&on_postgres(), json!({"image": {"tag": "2"}, "workers": {"replicas": 1}}));
    let mut cluster = settled_cluster_for(&on_postgres());
    cluster.children = vec![child(Kind::Deployment, "main"), child(Kind::Deployment, "main-worker")];
    let wanted = objects(&instance, &cluster);
    assert_eq!(wanted.keep.len(), 2);
    assert_eq!(prunable("main", &wanted, &cluster, "uid-1"), Vec::<&Child>::new());
}

#[test]
fn a_secret_that_only_looks_like_a_token_of_ours_is_left() {
    let copy = |controller: Option<&str>| Child {
        controller: controller.map(str::to_owned),
        object: ObjectRef { kind: Kind::Secret, name: "my-backup".into() },
        ..child(Kind::Secret, "main-token-former")
    };
    let mut by_hand = child(Kind::Secret, "main-token-theirs");
    (by_hand.controller, by_hand.rendered) = (None, None);
    let mut other = child(Kind::Secret, "main-token-other");
    (other.controller, other.consumer) = (None, Some("third".into()));
    let mut plain = child(Kind::Secret, "main-token-plain");
    plain.consumer = None;
    assert_eq!(pruned(&[copy(None), copy(Some("uid-1")), by_hand, other, plain], |_, _| ()), Vec::<String>::new());
}

#[test]
fn a_config_map_stays_while_a_run_of_the_cleanup_mounts_it() {
    let job = |finished: bool| {
        let volumes = json!([{"name": "config", "configMap": {"name": "main-config-old"}}]);
        let conditions = json!([{"type": "Complete", "status": "True"}]);
        serde_json::from_value(json!({
            "metadata": {"name": "run"},
            "spec": {"template": {"spec": {"containers": [], "volumes": volumes}}},
            "status": {"conditions": if finished { conditions } else { Value::Null }},
        }))
        .unwrap()
    };
    let old = [child(Kind::ConfigMap, "main-config-old")];
    for (finished, gone) in [(false, vec![]), (true, vec!["main-config-old"])] {
        let went = pruned(&old, |cluster, _| {
            cluster.cleanup = Some(CleanupState::of(&CronJob::default()).with_runs(&[job(finished)]));
        });
        assert_eq!(went, gone, "the run has ended: {finished}");
    }
}
