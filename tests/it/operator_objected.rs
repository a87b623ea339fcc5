//! One child that the API server refuses: the pods beside it run, are told of and judged as without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jam_plan::crd::{RolloutPhase, RolloutStatus};
use jam_plan::{JamInstance, Kind};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::kubelet::{FATE, LAST_WORDS};
use crate::operator_kinds::children;
use crate::operator_support::{Account, Kubelet, apply, condition, eventually, quota};
use crate::support::cluster::control_plane;

fn in_memory() -> Value {
    json!({"runtime": {"jam": {"enabled": true, "store": "memory"}}})
}

/// The same with an Ingress that the API server will not have.
fn refused() -> Value {
    let mut spec = in_memory();
    spec["ingress"] = json!({"enabled": true, "host": "jam.example", "annotations": {"bad key": "x"}});
    spec
}

async fn template(client: &Client, namespace: &str) -> Value {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    json!(deployments.get("main").await.unwrap().spec.unwrap().template)
}

#[tokio::test]
async fn what_serves_beside_a_refused_child_is_told_as_without_it() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false"]);
    apply(&client, &namespace, "main", refused()).await;
    let told = condition(&client, &namespace, "main", "Stalled", "True", "InvalidObject").await;
    assert!(told.contains("Ingress main") && told.contains("bad key"), "{told}");
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let status = eventually("its pods serve", async || {
        instances.get("main").await.ok()?.status.filter(|status| status.last_good.is_some())
    })
    .await;
    assert_eq!(status.endpoint, Some(format!("http://main.{namespace}.svc:80")));
    assert_eq!((status.enabled, status.ready_replicas), (Some(true), Some(1)));
    assert!(status.store.is_some() && status.selector.is_some() && status.revision.is_some(), "{status:?}");
    assert_eq!(status.tokens.len(), 1);
    for (kind, reason) in [("Migrated", "NotNeeded"), ("TokensReady", "TokensIssued")] {
        condition(&client, &namespace, "main", kind, "True", reason).await;
    }
    operator.quiet().await;
    let tried = operator.writes().iter().filter(|asked| asked.resource == "ingresses").count();
    assert_eq!(tried, 1, "what would be refused again is not tried again");

    let mended = json!({"spec": {"ingress": {"annotations": null}}});
    instances.patch("main", &PatchParams::default(), &Patch::Merge(mended)).await.unwrap();
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
}

#[tokio::test]
async fn a_bad_rollout_beside_a_refused_child_goes_back_all_the_same() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false", "--progress-deadline", "5"]);
    apply(&client, &namespace, "main", in_memory()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    let before = template(&client, &namespace).await;

    let mut bad = refused();
    bad["podTemplate"] = json!({"env": [{"name": FATE, "value": "crash"}]});
    apply(&client, &namespace, "main", bad).await;
    condition(&client, &namespace, "main", "Stalled", "True", "InvalidObject").await;
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let status = instances.get("main").await.unwrap().status.unwrap();
    let (rollout, good) = (status.rollout.unwrap(), status.last_good.unwrap());
    assert_ne!(Some(&rollout.revision), good.revision.as_ref(), "the rollout that is under way is told");
    assert_eq!((rollout.phase, rollout.from), (RolloutPhase::Progressing, Some(good)));
    let told = condition(&client, &namespace, "main", "Ready", "False", "RolledBack").await;
    assert!(told.contains(LAST_WORDS), "{told}");
    eventually("the last good template is back", async || {
        (template(&client, &namespace).await == before).then_some(())
    })
    .await;
    operator.quiet().await;
    let told = condition(&client, &namespace, "main", "Stalled", "True", "RolledBack").await;
    assert!(told.contains("InvalidObject: Ingress main"), "both are told: {told}");
    let writes = operator.writes();
    let poke = json!({"metadata": {"annotations": {"note": "hello"}}});
    instances.patch("main", &PatchParams::default(), &Patch::Merge(poke)).await.unwrap();
    operator.quiet().await;
    assert_eq!(operator.writes(), writes, "steady state costs no write");

    apply(&client, &namespace, "main", in_memory()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
}

/// Rolls out what serves, then crashes for good, beside a child that cannot be written: `reason` is what is said of that, and where.
async fn served_and_crashed(
    address: &'static str,
    beside: Value,
    hard: Option<Value>,
    (kind, status, reason): (&str, &str, &str),
) {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let well = Arc::new(AtomicBool::new(true));
    let _kubelet = Kubelet::play_at(&client, &namespace, (0, ""), Some((address, Arc::clone(&well))));
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let _operator = account.start(plane, &["--leader-election", "false", "--progress-deadline", "10"]);
    apply(&client, &namespace, "main", in_memory()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let before = template(&client, &namespace).await;
    if let Some(hard) = hard {
        quota(&client, &namespace, hard).await;
    }
    let mut bad = in_memory();
    json_patch::merge(&mut bad, &beside);
    bad["podTemplate"] = json!({"env": [{"name": FATE, "value": "falls"}]});
    let generation = apply(&client, &namespace, "main", bad).await.metadata.generation.unwrap();
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let rollout = async |is: fn(&RolloutStatus) -> bool| {
        let rollout = instances.get("main").await.ok()?.status?.rollout?;
        (rollout.generation == generation && is(&rollout)).then_some(rollout)
    };
    let rollout = async |what: &str, is| eventually(what, async || rollout(is).await).await;
    assert_eq!(rollout("it serves", |told| told.phase == RolloutPhase::Serving).await.down_since, None);
    condition(&client, &namespace, "main", kind, status, reason).await;
    well.store(false, Ordering::SeqCst);
    rollout("it is known since when it does not", |told| told.down_since.is_some()).await;
    eventually("what is wrong with the pods is told", async || {
        let told = instances.get("main").await.ok()?.status?.conditions;
        let ready = told.into_iter().find(|told| told.type_ == "Ready" && told.status == "False")?;
        (ready.reason != "RolledBack" && ready.message.contains(LAST_WORDS)).then_some(())
    })
    .await;
    let told = condition(&client, &namespace, "main", "Ready", "False", "RolledBack").await;
    assert!(told.contains("it served") && told.contains(LAST_WORDS), "{told}");
    eventually("the last good template is back", async || {
        (template(&client, &namespace).await == before).then_some(())
    })
    .await;
    well.store(true, Ordering::SeqCst);
    apply(&client, &namespace, "main", in_memory()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
}

#[tokio::test]
async fn what_served_and_crashes_beside_a_refused_child_is_told_and_goes_back() {
    served_and_crashed("127.61.4.21", refused(), None, ("Stalled", "True", "InvalidObject")).await;
}

#[tokio::test]
async fn what_served_and_crashes_beside_a_denied_child_is_told_and_goes_back() {
    let balanced = json!({"service": {"type": "LoadBalancer"}});
    let none = json!({"services.loadbalancers": "0"});
    served_and_crashed("127.61.4.22", balanced, Some(none), ("Reconciling", "True", "ApplyFailed")).await;
}

#[tokio::test]
async fn what_served_and_crashes_beside_a_consumer_without_a_secret_is_told_and_goes_back() {
    let consumers = json!({"tokens": {"consumers": [{"name": "default"}, {"name": "another"}]}});
    let none = json!({"count/secrets": "0"});
    served_and_crashed("127.61.4.23", consumers, Some(none), ("TokensReady", "False", "RotationHeld")).await;
}

#[tokio::test]
async fn beside_a_child_that_hangs_in_its_deletion_pods_that_crash_are_told() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let well = Arc::new(AtomicBool::new(true));
    let _kubelet = Kubelet::play_at(&client, &namespace, (0, ""), Some(("127.61.4.24", Arc::clone(&well))));
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false"]);
    let mut spec = in_memory();
    spec["podTemplate"] = json!({"env": [{"name": FATE, "value": "falls"}]});
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    let services = children(&client, &namespace, Kind::Service);
    let held = json!({"metadata": {"finalizers": ["it.jam.network/hold"]}});
    services.patch("main", &PatchParams::default(), &Patch::Merge(held)).await.unwrap();
    services.delete("main", &DeleteParams::default()).await.unwrap();
    let told = condition(&client, &namespace, "main", "Reconciling", "True", "ApplyFailed").await;
    assert!(told.contains("Service main") && told.contains("it.jam.network/hold"), "{told}");
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    well.store(false, Ordering::SeqCst);
    let told = condition(&client, &namespace, "main", "Ready", "False", "PodsNotReady").await;
    assert!(told.contains(LAST_WORDS), "{told}");
    well.store(true, Ordering::SeqCst);
    let free = json!({"metadata": {"finalizers": null}});
    services.patch("main", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    condition(&client, &namespace, "main", "Reconciling", "False", "Settled").await;
}
