//! One malformed, one stalled and one failing instance among fifty: the others converge as if those were not there.

use std::time::{Duration, Instant};

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::operator_resource::{apply_malformed, define_loosely, plane_of_its_own};
use crate::operator_support::{Account, Asked, Kubelet, apply, condition, quota, tally};
use crate::support::cluster::{control_plane, instances};

fn in_memory() -> Value {
    json!({"runtime": {"jam": {"enabled": true, "store": "memory"}}})
}

/// What of these requests is about an instance or its children.
fn about<'a>(asked: &'a [Asked], name: &str) -> Vec<&'a Asked> {
    asked.iter().filter(|asked| asked.name == name || asked.name.starts_with(&format!("{name}-"))).collect()
}

#[tokio::test]
async fn three_bad_instances_among_fifty_cost_the_others_nothing() {
    let plane = plane_of_its_own("isolation");
    let (client, namespace) = plane.namespace().await;
    define_loosely(&client).await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let quotas = quota(&client, &namespace, json!({"count/ingresses.networking.k8s.io": "0"})).await;
    let account = Account::new(&plane, &client, &namespace, "operator").await;
    let operator = account.start(&plane, &["--leader-election", "false"]);
    apply_malformed(&client, &namespace).await;
    let (mut stalled, mut failing) = (in_memory(), in_memory());
    stalled["blobStore"] = json!({"url": "s3://bucket/prefix"});
    failing["ingress"] = json!({"enabled": true, "host": "jam.example"});
    apply(&client, &namespace, "stalled", stalled).await;
    apply(&client, &namespace, "failing", failing).await;
    let good: Vec<String> = (1..=47).map(|number| format!("good{number}")).collect();
    let begun = Instant::now();
    for name in &good {
        apply(&client, &namespace, name, in_memory()).await;
    }

    for name in &good {
        condition(&client, &namespace, name, "Ready", "True", "Serving").await;
    }
    // Other words are told after ten seconds: fifty at once may take so long.
    let words = 2 + usize::try_from(begun.elapsed().as_secs() / 10).unwrap();
    condition(&client, &namespace, "stalled", "Stalled", "True", "InvalidSettings").await;
    let told = condition(&client, &namespace, "failing", "Reconciling", "True", "ApplyFailed").await;
    assert!(told.contains("exceeded quota"), "{told}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let writes = operator.writes();
    for name in &good {
        let mut children = tally(&about(&writes, name).into_iter().cloned().collect::<Vec<_>>());
        let said = children.remove("patch jaminstances/status").unwrap_or_default();
        assert!(said <= words, "{name}: {said} words about it");
        assert_eq!(children.values().sum::<usize>(), 7, "{name}: {children:?}");
    }
    assert_eq!((about(&writes, "stalled").len(), about(&writes, "malformed").len()), (1, 1), "a word each");

    // From here on nothing happens but the retries of the one that fails, further and further apart.
    let before = operator.asked();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let since = operator.asked().split_off(before.len());
    for name in ["stalled", "malformed"] {
        assert_eq!(about(&since, name), Vec::<&Asked>::new(), "not even a read until it changes");
    }
    let others =
        since.iter().filter(|asked| asked.is_write() && about(std::slice::from_ref(asked), "failing").is_empty());
    assert_eq!(others.count(), 0, "{since:?}");
    let metrics = operator.answer("/metrics").await.1;
    assert!(metrics.contains("jam_operator_queue_depth 0"), "nobody waits in the queue");

    let mended = json!({"spec": {"blobStore": null}});
    let all = instances(&client, &namespace);
    all.patch("stalled", &PatchParams::default(), &Patch::Merge(mended)).await.unwrap();
    condition(&client, &namespace, "stalled", "Ready", "True", "Serving").await;
    quotas.delete("none", &DeleteParams::default()).await.unwrap();
    condition(&client, &namespace, "failing", "Ready", "True", "Serving").await;
    assert!(operator.forbidden().iter().all(|asked| asked.resource == "ingresses"), "only the quota forbade");
}

#[tokio::test]
async fn a_namespace_whose_rights_are_gone_is_named_and_holds_up_no_other() {
    let plane = control_plane();
    let (client, ours) = plane.with_crd().await;
    let (_, theirs) = plane.with_crd().await;
    let _kubelets = [&ours, &theirs].map(|namespace| Kubelet::play(&client, namespace, 0, ""));
    let account = Account::new(plane, &client, &ours, "operator").await;
    for namespace in [&ours, &theirs] {
        apply(&client, namespace, "main", in_memory()).await;
    }
    let operator = account.start(plane, &["--leader-election", "false", "--watch-namespaces", &theirs]);
    condition(&client, &ours, "main", "Ready", "True", "Serving").await;
    let (status, said) = operator.answer("/readyz").await;
    assert!(status == 503 && said.contains(&format!("jaminstances of namespace {theirs}")), "{said}");
    assert!(!said.contains(&ours), "{said}");
    let untold = instances(&client, &theirs).get("main").await.unwrap();
    assert!(untold.data["status"]["conditions"].is_null(), "nobody may look there: {untold:?}");

    account.is_let_into(&client, &theirs).await;
    condition(&client, &theirs, "main", "Ready", "True", "Serving").await;
    operator.ready().await;
    for namespace in [&ours, &theirs] {
        let disabled = json!({"spec": {"runtime": {"jam": {"enabled": false}}}});
        instances(&client, namespace).patch("main", &PatchParams::default(), &Patch::Merge(disabled)).await.unwrap();
        condition(&client, namespace, "main", "Ready", "True", "Serving").await;
    }
    assert!(operator.answer("/readyz").await.1.contains("leading"));
}
