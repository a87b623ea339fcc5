//! A bad rollout: the last good revision comes back after the deadline, with evidence, and stays until the spec changes.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use jam_plan::JamInstance;
use jam_plan::crd::RolloutPhase;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::kubelet::{FATE, LAST_WORDS};
use crate::operator_support::{Account, Kubelet, Operator, apply, condition, eventually, kstatus, quota};
use crate::support::cluster::control_plane;

const HASTY: &[&str] = &["--leader-election", "false", "--progress-deadline", "5"];

fn in_memory(fate: Option<&str>) -> Value {
    let mut spec = json!({"runtime": {"jam": {"enabled": true, "store": "memory"}}});
    if let Some(fate) = fate {
        spec["podTemplate"] = json!({"env": [{"name": FATE, "value": fate}]});
        // Another settings file as well: the one before it must still be there on the way back.
        spec["runtime"]["jam"]["rateLimitPerMinute"] = 7.into();
    }
    spec
}

async fn template(client: &Client, namespace: &str, name: &str) -> Value {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    json!(deployments.get(name).await.unwrap().spec.unwrap().template)
}

/// The evidence that the status of an instance names.
async fn evidence(client: &Client, namespace: &str, name: &str) -> String {
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    let rollout = instances.get(name).await.unwrap().status.unwrap().rollout.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = maps.get(&rollout.evidence.expect("evidence is named")).await.unwrap();
    let data = map.data.unwrap();
    assert!(data.values().all(|text| text.len() <= 8192), "the evidence is bounded");
    data.values().cloned().collect::<Vec<_>>().join("\n")
}

fn writes_of(operator: &Operator, resource: &str) -> usize {
    operator.writes().iter().filter(|asked| asked.resource == resource).count()
}

#[tokio::test]
async fn a_bad_rollout_goes_back_with_evidence_and_is_not_tried_again_until_the_spec_changes() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, HASTY);
    apply(&client, &namespace, "main", in_memory(None)).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    let before = template(&client, &namespace, "main").await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let hashes = secrets.get("main-token-hashes").await.unwrap().data;

    apply(&client, &namespace, "main", in_memory(Some("crash"))).await;
    let told = condition(&client, &namespace, "main", "Ready", "False", "RolledBack").await;
    assert!(told.contains(LAST_WORDS) && told.contains("until the spec changes"), "{told}");
    condition(&client, &namespace, "main", "Stalled", "True", "RolledBack").await;
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    assert_eq!(kstatus(&instances.get("main").await.unwrap()), "Failed");
    eventually("the last good template is back", async || {
        (template(&client, &namespace, "main").await == before).then_some(())
    })
    .await;
    operator.quiet().await;
    let kept = evidence(&client, &namespace, "main").await;
    for words in ["CrashLoopBackOff", "exit code 1", LAST_WORDS, "last log lines", "generation: 2"] {
        assert!(kept.contains(words), "{words}: {kept}");
    }
    assert_eq!(secrets.get("main-token-hashes").await.unwrap().data, hashes);
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let told = events.list(&ListParams::default()).await.unwrap().items;
    let told: Vec<_> = told.iter().filter(|event| event.reason.as_deref() == Some("RolledBack")).collect();
    assert_eq!(told.len(), 1, "one event, with the evidence in it");
    assert!(told[0].note.as_deref().unwrap().contains(LAST_WORDS));

    // Longer than the deadline, and by another process: nothing forgets it.
    let writes = operator.writes();
    tokio::time::sleep(std::time::Duration::from_secs(7)).await;
    assert_eq!(operator.writes(), writes, "it is not tried again");
    operator.stop().await;
    let operator = account.start(plane, HASTY);
    operator.ready().await;
    operator.quiet().await;
    assert_eq!(operator.writes(), writes, "nor after a restart");
    let map = before.pointer("/spec/volumes/0/configMap/name").and_then(Value::as_str).unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    maps.delete(map, &kube::api::DeleteParams::default()).await.unwrap();
    eventually("what the good pods mount is put right", async || maps.get_opt(map).await.ok()?).await;

    let mut spec = in_memory(Some("fine"));
    spec["replicas"] = 1.into();
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    evidence(&client, &namespace, "main").await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn every_way_to_be_bad_goes_back() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    // Time enough to flap three times, on a busy machine as well.
    let operator = account.start(plane, &["--leader-election", "false", "--progress-deadline", "20"]);
    let fates =
        [("never", "has timed out progressing"), ("pull", "no such image"), ("flap", "readiness was lost 3 times")];
    for (fate, _) in fates {
        apply(&client, &namespace, fate, in_memory(None)).await;
    }
    for (fate, _) in fates {
        condition(&client, &namespace, fate, "Ready", "True", "Serving").await;
        apply(&client, &namespace, fate, in_memory(Some(fate))).await;
    }
    for (fate, words) in fates {
        let told = condition(&client, &namespace, fate, "Ready", "False", "RolledBack").await;
        assert!(told.contains(words), "{fate}: {told}");
        eventually("the last good pods are back", async || {
            let template = template(&client, &namespace, fate).await;
            template.pointer("/spec/containers/0/env").is_none().then_some(())
        })
        .await;
    }
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn what_crashes_on_trial_while_the_operator_is_away_goes_back_once_it_is_there_again() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let runs = Arc::new(AtomicBool::new(true));
    let _kubelet = Kubelet::play_at(&client, &namespace, (0, ""), Some(("127.61.4.11", Arc::clone(&runs))));
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let patient = ["--leader-election", "false", "--progress-deadline", "15"];
    let operator = account.start(plane, &patient);
    apply(&client, &namespace, "main", in_memory(None)).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let good = template(&client, &namespace, "main").await;
    apply(&client, &namespace, "main", in_memory(Some("falls"))).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.stop().await;
    runs.store(false, std::sync::atomic::Ordering::SeqCst);
    tokio::time::sleep(std::time::Duration::from_secs(17)).await;

    let operator = account.start(plane, &patient);
    let told = condition(&client, &namespace, "main", "Ready", "False", "RolledBack").await;
    assert!(told.contains("it served, and no pod is ready") && told.contains(LAST_WORDS), "{told}");
    eventually("the last good template is back", async || {
        (template(&client, &namespace, "main").await == good).then_some(())
    })
    .await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn evictions_right_after_a_rollout_are_no_flapping() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false", "--progress-deadline", "600"]);
    apply(&client, &namespace, "main", in_memory(None)).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    apply(&client, &namespace, "main", in_memory(Some("slow"))).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    for _ in 0..4 {
        // What `kubectl drain` does. With one replica each eviction takes the last ready pod.
        for pod in pods.list(&ListParams::default()).await.unwrap().items {
            pods.evict(pod.metadata.name.as_deref().unwrap(), &EvictParams::default()).await.unwrap();
        }
        condition(&client, &namespace, "main", "Ready", "False", "PodsNotReady").await;
        condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    }
    operator.quiet().await;
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let rollout = instances.get("main").await.unwrap().status.unwrap().rollout.unwrap();
    assert_eq!(
        (rollout.phase, rollout.losses),
        (RolloutPhase::Serving, 0),
        "a pod that was taken away lost no readiness"
    );
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

async fn dsn(client: &Client, namespace: &str, dsn: &str) {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "stringData": {"dsn": dsn}});
    secrets.patch("db", &PatchParams::apply("jam-tests").force(), &Patch::Apply(secret)).await.unwrap();
}

/// Waits until every pod is of a template with another DSN than `before`, and returns that template without its hash.
async fn with_new_password(client: &Client, namespace: &str, before: &Value) -> (Value, Value) {
    const HASH: &str = "jam.network/dsn-hash";
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    eventually("the good pods have the new password", async || {
        let deployment = deployments.get("main").await.ok()?;
        let status = deployment.status.clone()?;
        let mut template = json!(deployment.spec.as_ref()?.template);
        let hash = template["metadata"]["annotations"].as_object_mut()?.remove(HASH)?;
        let rolled = status.observed_generation == deployment.metadata.generation
            && (status.replicas, status.updated_replicas, status.ready_replicas) == (Some(1), Some(1), Some(1));
        (rolled && hash != *before).then_some((template, hash))
    })
    .await
}

#[tokio::test]
async fn neither_evidence_nor_condition_nor_event_of_a_bad_rollout_tells_the_password_that_its_pods_printed() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, HASTY);
    // A word of what the pods say last.
    dsn(&client, &namespace, "postgres://jam:purpose@db/jam").await;
    let mut spec = json!({
        "runtime": {"jam": {"enabled": true, "store": "postgres"}},
        "database": {"dsnSecretRef": {"name": "db", "key": "dsn"}},
    });
    apply(&client, &namespace, "main", spec.clone()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    spec["podTemplate"] = json!({"env": [{"name": FATE, "value": "crash"}]});
    apply(&client, &namespace, "main", spec).await;
    let told = condition(&client, &namespace, "main", "Ready", "False", "RolledBack").await;
    assert!(told.contains("broken on (redacted)"), "{told}");
    let kept = evidence(&client, &namespace, "main").await;
    assert!(kept.contains("broken on (redacted)") && !kept.contains("purpose"), "{kept}");
    operator.quiet().await;
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let events = events.list(&ListParams::default()).await.unwrap().items;
    let all = json!([instances.get("main").await.unwrap().status, events]).to_string();
    assert!(all.contains("broken on") && !all.contains("purpose"), "{all}");
    assert!(!operator.logged().contains("purpose"));
}

#[tokio::test]
async fn a_new_password_reaches_the_good_pods_and_the_bad_spec_is_not_tried_again() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, HASTY);
    dsn(&client, &namespace, "postgres://jam:old@db/jam").await;
    let mut spec = json!({
        "runtime": {"jam": {"enabled": true, "store": "postgres"}},
        "database": {"dsnSecretRef": {"name": "db", "key": "dsn"}},
        "image": {"tag": "good"},
    });
    apply(&client, &namespace, "main", spec.clone()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let (good, first) = with_new_password(&client, &namespace, &Value::Null).await;
    spec["image"]["tag"] = "bad".into();
    spec["podTemplate"] = json!({"env": [{"name": FATE, "value": "crash"}]});
    apply(&client, &namespace, "main", spec.clone()).await;
    condition(&client, &namespace, "main", "Ready", "False", "RolledBack").await;
    with_new_password(&client, &namespace, &Value::Null).await;
    operator.quiet().await;
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let decided = instances.get("main").await.unwrap().status.unwrap().rollout.unwrap();
    let tried = bad_sets(&client, &namespace).await;

    dsn(&client, &namespace, "postgres://jam:new@db/jam").await;
    let (now, second) = with_new_password(&client, &namespace, &first).await;
    assert_eq!(now, good, "the last good pods, but for the password");
    condition(&client, &namespace, "main", "Stalled", "True", "RolledBack").await;
    // And back again: nothing that was said on the way counts as a try.
    dsn(&client, &namespace, "postgres://jam:old@db/jam").await;
    assert_eq!(with_new_password(&client, &namespace, &second).await, (good, first));
    condition(&client, &namespace, "main", "Stalled", "True", "RolledBack").await;
    operator.quiet().await;
    let status = instances.get("main").await.unwrap().status.unwrap();
    assert_eq!(status.rollout.unwrap(), decided, "the decision stands");
    assert_eq!(status.last_good.unwrap().image.as_deref(), Some("localhost/jam-api:good"));
    assert_eq!(bad_sets(&client, &namespace).await, tried, "no pod and no Job of the bad image was made again");

    spec.as_object_mut().unwrap().remove("podTemplate");
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_rollout_is_given_up_only_when_its_evidence_is_kept() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false", "--progress-deadline", "12"]);
    apply(&client, &namespace, "main", in_memory(None)).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    apply(&client, &namespace, "main", in_memory(Some("crash"))).await;
    eventually("the bad revision is rolled out", async || {
        template(&client, &namespace, "main").await.to_string().contains(FATE).then_some(())
    })
    .await;
    let quotas = quota(&client, &namespace, json!({"count/configmaps": "0"})).await;
    let told = condition(&client, &namespace, "main", "Reconciling", "True", "ApplyFailed").await;
    assert!(told.contains("ConfigMap main-rollback-") && told.contains("quota"), "{told}");
    operator.quiet().await;
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let rollout = instances.get("main").await.unwrap().status.unwrap().rollout.unwrap();
    assert_eq!((rollout.phase == RolloutPhase::RolledBack, rollout.evidence), (false, None), "nothing is decided yet");

    quotas.delete("none", &DeleteParams::default()).await.unwrap();
    condition(&client, &namespace, "main", "Ready", "False", "RolledBack").await;
    assert!(evidence(&client, &namespace, "main").await.contains(LAST_WORDS));
    assert!(operator.forbidden().iter().all(|asked| asked.resource == "configmaps"), "{:?}", operator.forbidden());
}

/// What runs the bad image or did: Jobs, and ReplicaSets with the generation that each was scaled to.
async fn bad_sets(client: &Client, namespace: &str) -> Vec<(String, Option<i64>)> {
    let is_bad =
        |template: &Value| template.pointer("/spec/containers/0/image") == Some(&json!("localhost/jam-api:bad"));
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    let sets = sets.list(&ListParams::default()).await.unwrap().items;
    let jobs = jobs.list(&ListParams::default()).await.unwrap().items;
    let sets = sets.into_iter().map(|set| (json!(set.spec.unwrap().template), set.metadata));
    let jobs = jobs.into_iter().map(|job| (json!(job.spec.unwrap().template), job.metadata));
    let bad = sets.chain(jobs).filter(|(template, _)| is_bad(template));
    let mut bad: Vec<_> = bad.map(|(_, metadata)| (metadata.name.unwrap(), metadata.generation)).collect();
    bad.sort();
    bad
}

#[tokio::test]
async fn there_is_no_way_back_past_the_schema() {
    const ADDRESS: &str = "127.61.4.9";
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let found = Arc::new(std::sync::atomic::AtomicI64::new(3));
    answer_for_pods(ADDRESS, Arc::clone(&found)).await;
    let _kubelet = Kubelet::play_at(&client, &namespace, (0, ""), Some((ADDRESS, Arc::new(AtomicBool::new(true)))));
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, HASTY);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let dsn = json!({"metadata": {"name": "db"}, "stringData": {"dsn": "postgres://jam@db/jam"}});
    secrets.create(&PostParams::default(), &serde_json::from_value(dsn).unwrap()).await.unwrap();
    let mut spec = json!({
        "runtime": {"jam": {"enabled": true, "store": "postgres"}},
        "database": {"dsnSecretRef": {"name": "db", "key": "dsn"}},
    });
    apply(&client, &namespace, "main", spec.clone()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    eventually("the schema of the good revision is known", async || {
        (instances.get("main").await.ok()?.status?.last_good?.schema == Some(3)).then_some(())
    })
    .await;

    // The migration of the next image raised the schema; the pods that still run say so.
    found.store(4, std::sync::atomic::Ordering::SeqCst);
    spec["image"] = json!({"tag": "next"});
    spec["podTemplate"] = json!({"env": [{"name": FATE, "value": "crash"}]});
    apply(&client, &namespace, "main", spec.clone()).await;
    let told = condition(&client, &namespace, "main", "Ready", "False", "RollbackRefused").await;
    assert!(told.contains("schema 3") && told.contains("at 4") && told.contains(LAST_WORDS), "{told}");
    operator.quiet().await;
    let rollout = instances.get("main").await.unwrap().status.unwrap().rollout.unwrap();
    assert_eq!(rollout.phase, RolloutPhase::Progressing);
    let image = template(&client, &namespace, "main").await.pointer("/spec/containers/0/image").cloned();
    assert_eq!(image, Some(json!("localhost/jam-api:next")), "the new revision stays");
    let tried = writes_of(&operator, "deployments");
    let fixed = json!({"spec": {"podTemplate": {"env": null}}});
    instances.patch("main", &PatchParams::default(), &Patch::Merge(fixed)).await.unwrap();
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    assert_eq!(writes_of(&operator, "deployments"), tried + 1);
}

/// Answers for the pods at an address of this machine with the schema that they find.
async fn answer_for_pods(address: &str, found: Arc<std::sync::atomic::AtomicI64>) {
    let listener = tokio::net::TcpListener::bind((address, 8080)).await.unwrap();
    let readyz = axum::routing::get(move || {
        let found = found.load(std::sync::atomic::Ordering::SeqCst);
        async move { axum::Json(json!({"checks": {"store": {"ok": true}, "schema": {"found": found, "wanted": 3}}})) }
    });
    let router = axum::Router::new().route("/readyz", readyz);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
}
