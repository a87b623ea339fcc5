//! What must not make an incident worse: the toggle reaches the pods that serve, and good versions stay while something outside is bad.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jam_plan::JamInstance;
use jam_plan::crd::{JamInstanceStatus, RolloutPhase, RolloutStatus};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::kubelet::{FATE, LAST_WORDS, by_hand, say};
use crate::operator_kinds::on_postgres;
use crate::operator_support::{Account, Kubelet, apply, condition, eventually};
use crate::support::cluster::control_plane;

const SECOND: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);
const HASTY: &[&str] = &["--leader-election", "false", "--progress-deadline", "5"];

async fn patch(client: &Client, namespace: &str, change: Value) {
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    instances.patch("main", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
}

async fn status(client: &Client, namespace: &str) -> JamInstanceStatus {
    Api::<JamInstance>::namespaced(client.clone(), namespace).get("main").await.unwrap().status.unwrap()
}

async fn rollout(client: &Client, namespace: &str) -> RolloutStatus {
    status(client, namespace).await.rollout.unwrap()
}

fn toggle(enabled: bool) -> Value {
    json!({"spec": {"runtime": {"jam": {"enabled": enabled}}}})
}

fn with_fate(mut spec: Value, fate: &str) -> Value {
    spec["podTemplate"] = json!({"env": [{"name": FATE, "value": fate}]});
    spec
}

/// What the API Deployment's pods are made from: their image and their settings file. Whether all of them are is the last word.
async fn pods(client: &Client, namespace: &str) -> (String, String, bool) {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let deployment = deployments.get("main").await.unwrap();
    let template = json!(deployment.spec.as_ref().unwrap().template);
    let text = |path: &str| template.pointer(path).and_then(Value::as_str).unwrap().to_owned();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = maps.get(&text("/spec/volumes/0/configMap/name")).await.unwrap();
    let status = deployment.status.unwrap_or_default();
    let wanted = deployment.spec.unwrap().replicas;
    let all = status.observed_generation == deployment.metadata.generation
        && [status.replicas, status.updated_replicas, status.available_replicas].iter().all(|count| *count == wanted);
    (text("/spec/containers/0/image"), map.data.unwrap()["config.yaml"].clone(), all)
}

/// Waits until every pod has this toggle, and the status says so; until then it does not.
async fn follows(client: &Client, namespace: &str, enabled: bool) -> String {
    let line = format!("    enabled: {enabled}\n");
    let image = eventually(&format!("every pod is told that enabled is {enabled}"), async || {
        let told = status(client, namespace).await.enabled;
        let (image, file, all) = pods(client, namespace).await;
        let know = all && file.contains(&line);
        assert!(know || told != Some(enabled), "the status says what no pod knows");
        know.then_some(image)
    })
    .await;
    eventually("the status says so", async || (status(client, namespace).await.enabled == Some(enabled)).then_some(()))
        .await;
    image
}

#[tokio::test]
async fn a_toggle_reaches_the_pods_that_serve_while_the_next_version_waits_for_its_migration() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "would apply: 4 admin\n");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false"]);
    let mut spec = on_postgres(&client, &namespace).await;
    spec["cleanup"] = json!({"schedule": "0 0 29 2 *"});
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    assert_eq!(follows(&client, &namespace, true).await, "localhost/jam-api:dev");
    let next = json!({"spec": {"image": {"tag": "next"}, "migrations": {"mode": "Manual"}}});
    patch(&client, &namespace, next).await;
    condition(&client, &namespace, "main", "Migrated", "False", "ApprovalNeeded").await;
    for enabled in [false, true, false] {
        patch(&client, &namespace, toggle(enabled)).await;
        assert_eq!(follows(&client, &namespace, enabled).await, "localhost/jam-api:dev", "nothing else changes");
        condition(&client, &namespace, "main", "Ready", "False", "ApprovalNeeded").await;
    }
    operator.quiet().await;
    let key = status(&client, &namespace).await.migration.unwrap().key;
    patch(&client, &namespace, json!({"metadata": {"annotations": {"jam.network/approve-migration": key}}})).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    assert_eq!(follows(&client, &namespace, false).await, "localhost/jam-api:next");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_toggle_reaches_the_good_pods_after_a_bad_rollout_and_is_no_reason_to_try_it_again() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, HASTY);
    let spec = on_postgres(&client, &namespace).await;
    apply(&client, &namespace, "main", spec.clone()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    apply(&client, &namespace, "main", with_fate(spec, "crash")).await;
    condition(&client, &namespace, "main", "Ready", "False", "RolledBack").await;
    for enabled in [false, true] {
        let before = status(&client, &namespace).await.rollout.unwrap();
        patch(&client, &namespace, toggle(enabled)).await;
        follows(&client, &namespace, enabled).await;
        condition(&client, &namespace, "main", "Ready", "False", "RolledBack").await;
        let now = status(&client, &namespace).await.rollout.unwrap();
        assert_eq!((now.since, now.evidence), (before.since, before.evidence), "it was not tried again");
    }
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

/// Answers for the pods at an address of this machine.
async fn answer_for_pods(address: &str, answer: Arc<Mutex<Value>>) {
    let listener = tokio::net::TcpListener::bind((address, 8080)).await.unwrap();
    let readyz = axum::routing::get(move || {
        let answer = answer.lock().unwrap().clone();
        async move {
            // As a pod does that waits for its store.
            tokio::time::sleep(Duration::from_millis(answer["waits"].as_u64().unwrap_or_default())).await;
            axum::Json(answer)
        }
    });
    let router = axum::Router::new().route("/readyz", readyz);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
}

fn says(store: &Value) -> Arc<Mutex<Value>> {
    Arc::new(Mutex::new(json!({"checks": {"store": store, "schema": {"found": 3, "wanted": 3}}})))
}

#[tokio::test]
async fn a_worker_that_never_gets_ready_or_crashes_later_goes_back_although_the_api_serves() {
    const ADDRESS: &str = "127.61.5.1";
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    answer_for_pods(ADDRESS, says(&json!({"ok": true}))).await;
    let _kubelet = Kubelet::play_at(&client, &namespace, (0, ""), Some((ADDRESS, Arc::new(AtomicBool::new(true)))));
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false", "--progress-deadline", "20"]);
    let mut spec = on_postgres(&client, &namespace).await;
    spec["workers"] = json!({"replicas": 1});
    apply(&client, &namespace, "main", spec.clone()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let good = eventually("the schema of the good revision is known", async || {
        status(&client, &namespace).await.last_good.filter(|good| good.schema == Some(3))
    })
    .await;
    for (tag, fate, words) in
        [("next", "bad-worker", "has timed out"), ("later", "late-worker", "no worker is ready after")]
    {
        let mut bad = with_fate(spec.clone(), fate);
        bad["image"] = json!({"tag": tag});
        apply(&client, &namespace, "main", bad).await;
        let told = condition(&client, &namespace, "main", "Ready", "False", "RolledBack").await;
        assert!(told.contains(words), "{fate}: {told}");
        assert_eq!(status(&client, &namespace).await.last_good.unwrap().revision, good.revision);
    }
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_database_that_takes_pods_one_after_the_other_is_no_fault_of_the_version() {
    const ADDRESS: &str = "127.61.5.2";
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let answer = says(&json!({"ok": true}));
    answer_for_pods(ADDRESS, Arc::clone(&answer)).await;
    let _kubelet = Kubelet::play_at(&client, &namespace, (0, ""), Some((ADDRESS, Arc::new(AtomicBool::new(true)))));
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false", "--progress-deadline", "120"]);
    let spec = on_postgres(&client, &namespace).await;
    apply(&client, &namespace, "main", spec.clone()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    *answer.lock().unwrap() = json!({"checks": {"store": {"ok": false, "reason": "away"}, "schema": {"ok": false}}});
    apply(&client, &namespace, "main", with_fate(spec, "one-flaps")).await;
    eventually("it served", async || {
        (status(&client, &namespace).await.rollout?.phase == RolloutPhase::Serving).then_some(())
    })
    .await;
    for blip in 0..4 {
        condition(&client, &namespace, "main", "Ready", "False", "PodsNotReady").await;
        condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
        let rollout = status(&client, &namespace).await.rollout.unwrap();
        assert_eq!((rollout.phase, rollout.losses), (RolloutPhase::Serving, 0), "blip {blip}");
    }
    // The same with a database that is there: it is the version.
    *answer.lock().unwrap() = says(&json!({"ok": true})).lock().unwrap().clone();
    condition(&client, &namespace, "main", "Ready", "False", "RolledBack").await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

/// Rolls out pods of the fate `by-hand`, and says since when they have served.
async fn served_by_hand(client: &Client, namespace: &str, spec: Value) -> jiff::Timestamp {
    let before = rollout(client, namespace).await.revision;
    apply(client, namespace, "main", with_fate(spec, "by-hand")).await;
    eventually("it serves", async || {
        let now = rollout(client, namespace).await;
        (now.revision != before && now.phase == RolloutPhase::Serving).then_some(now.since.0)
    })
    .await
}

/// Waits until the operator has seen that a pod fell.
async fn fall(client: &Client, namespace: &str) -> jiff::Timestamp {
    eventually("the fall is seen", async || rollout(client, namespace).await.down_since).await.0
}

/// The play goes on when the operator has seen what came before, and in each of its moments a pod is ready and another is not. Three
/// turns have to be seen within the deadline.
#[tokio::test]
async fn pods_that_serve_once_and_then_crash_in_turns_go_back_although_one_of_them_is_ready_at_every_look() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false", "--progress-deadline", "60"]);
    let mut spec = on_postgres(&client, &namespace).await;
    spec["replicas"] = json!(3);
    apply(&client, &namespace, "main", spec.clone()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let good = pods(&client, &namespace).await.1;
    let served = served_by_hand(&client, &namespace, spec).await;
    let names = by_hand(&client, &namespace).await;
    let turn = async |n: usize, ready, since| say(&client, &namespace, &names[n % names.len()], ready, since).await;
    turn(0, false, served + SECOND).await;
    let fell = fall(&client, &namespace).await;
    // From now on each one falls, and only then the one before it is back.
    for n in 1.. {
        assert!(n < 180, "it is never given up: {:?}", rollout(&client, &namespace).await);
        let since = jiff::Timestamp::now().max(fell + SECOND);
        turn(n, false, since).await;
        turn(n - 1, true, since).await;
        if rollout(&client, &namespace).await.phase == RolloutPhase::RolledBack {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let told = condition(&client, &namespace, "main", "Ready", "False", "RolledBack").await;
    assert!(told.contains("it served, and no pod stays ready after"), "{told}");
    condition(&client, &namespace, "main", "Stalled", "True", "RolledBack").await;
    let evidence = rollout(&client, &namespace).await.evidence.unwrap();
    let evidence = Api::<ConfigMap>::namespaced(client.clone(), &namespace).get(&evidence).await.unwrap();
    assert!(json!(evidence.data).to_string().contains(LAST_WORDS), "{:?}", evidence.data);
    eventually("the good pods are back", async || {
        let (_, file, all) = pods(&client, &namespace).await;
        (all && file == good && by_hand(&client, &namespace).await.is_empty()).then_some(())
    })
    .await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn one_pod_that_is_ill_on_trial_is_not_held_against_a_version_whose_other_pods_come_by_a_scale_up_and_stand() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false", "--progress-deadline", "20"]);
    let mut spec = on_postgres(&client, &namespace).await;
    spec["replicas"] = json!(1);
    apply(&client, &namespace, "main", spec.clone()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let served = served_by_hand(&client, &namespace, spec.clone()).await;
    let ill = by_hand(&client, &namespace).await.remove(0);
    say(&client, &namespace, &ill, false, served + SECOND).await;
    let fell = fall(&client, &namespace).await;
    spec["replicas"] = json!(3);
    apply(&client, &namespace, "main", with_fate(spec, "by-hand")).await;
    let all =
        eventually("three pods", async || Some(by_hand(&client, &namespace).await).filter(|all| all.len() == 3)).await;
    for other in all.iter().filter(|name| **name != ill) {
        let first = jiff::Timestamp::now().max(fell + SECOND);
        say(&client, &namespace, other, true, first).await;
    }
    let ended = eventually("the trial is over", async || {
        let now = rollout(&client, &namespace).await;
        let over = now.down_since.is_none() && jiff::Timestamp::now() > served + 45 * SECOND;
        (over || now.phase == RolloutPhase::RolledBack).then_some(now)
    })
    .await;
    assert_eq!((ended.phase, ended.message), (RolloutPhase::Progressing, None));
    let told = condition(&client, &namespace, "main", "Ready", "False", "PodsNotReady").await;
    assert!(told.contains(&ill) && told.contains(LAST_WORDS), "{told}");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_pod_that_waits_for_a_database_that_hangs_is_heard() {
    const ADDRESS: &str = "127.61.5.4";
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let answer = json!({"waits": 3000, "checks": {"store": {"ok": false, "reason": "it did not answer within 2 s"}}});
    answer_for_pods(ADDRESS, Arc::new(Mutex::new(answer))).await;
    let _kubelet = Kubelet::play_at(&client, &namespace, (0, ""), Some((ADDRESS, Arc::new(AtomicBool::new(false)))));
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, HASTY);
    apply(&client, &namespace, "main", on_postgres(&client, &namespace).await).await;
    let told = condition(&client, &namespace, "main", "DatabaseReachable", "False", "DatabaseUnreachable").await;
    assert!(told.contains("within 2 s"), "{told}");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn pods_with_another_password_that_find_no_room_are_not_given_up_and_serve_when_they_do() {
    const ADDRESS: &str = "127.61.5.3";
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    answer_for_pods(ADDRESS, says(&json!({"ok": true}))).await;
    let room = Arc::new(AtomicBool::new(false));
    let _kubelet = Kubelet::play_at(&client, &namespace, (0, ""), Some((ADDRESS, Arc::clone(&room))));
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, HASTY);
    let spec = with_fate(on_postgres(&client, &namespace).await, "no-room");
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let rotated = json!({"stringData": {"dsn": "postgres://jam:new@db:6432/jam"}});
    secrets.patch("db", &PatchParams::default(), &Patch::Merge(rotated)).await.unwrap();
    condition(&client, &namespace, "main", "Ready", "False", "RolloutStuck").await;
    operator.quiet().await;
    let rollout = status(&client, &namespace).await.rollout.unwrap();
    assert_eq!((rollout.phase, rollout.message), (RolloutPhase::Progressing, None));
    room.store(true, Ordering::SeqCst);
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}
