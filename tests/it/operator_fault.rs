//! Killed at any point, the operator comes back by itself and ends in the same objects.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jam_plan::JamInstance;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::operator_kinds::{all_of, ours};
use crate::operator_support::{Account, Kubelet, apply, condition};
use crate::support::cluster::control_plane;

const QUIET: &[&str] = &["--leader-election", "false"];
/// Kills in one life, at most.
const KILLS: usize = 60;

fn spec() -> Value {
    json!({
        "runtime": {"jam": {"enabled": true, "store": "memory"}},
        "tokens": {"consumers": [{"name": "demo"}, {"name": "other"}]},
        "ingress": {"enabled": true, "host": "jam.example"},
        "networkPolicy": {"allowFrom": [{"podSelector": {"matchLabels": {"app": "a"}}}]},
        "monitoring": {"dashboard": true},
    })
}

/// Everything of the instance as it is, without what only this life of it has.
async fn picture(client: &Client, namespace: &str) -> BTreeMap<String, String> {
    let all = all_of(client, namespace).await.into_iter().map(|(kind, object)| {
        let mut says = ours(&object);
        for owner in says["owners"].as_array_mut().unwrap() {
            owner.as_object_mut().unwrap().remove("uid");
        }
        (format!("{} {}", kind.as_str(), object.name_any()), says.to_string().replace(namespace, "NAMESPACE"))
    });
    all.collect()
}

async fn serves(client: &Client, namespace: &str) -> bool {
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    let Some(status) = instances.get("main").await.unwrap().status else { return false };
    status.observed_generation.is_some()
        && status.conditions.iter().any(|told| told.type_ == "Ready" && told.status == "True")
}

/// Starts the operator again and again and kills it as soon as it has written something. Returns how often it was killed.
async fn killed_after_each_write(client: &Client, namespace: &str, account: &Account) -> usize {
    for kills in 0..KILLS {
        let operator = account.start(control_plane(), QUIET);
        let (before, started) = (operator.writes().len(), Instant::now());
        while operator.writes().len() == before {
            if started.elapsed() > Duration::from_secs(4) && serves(client, namespace).await {
                return kills;
            }
            assert!(started.elapsed() < Duration::from_secs(40), "it writes nothing and nothing is served");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        operator.kill();
    }
    panic!("it never comes to its end");
}

#[tokio::test]
async fn an_operator_that_is_killed_after_each_write_ends_in_the_same_objects() {
    let plane = control_plane();
    let (client, undisturbed) = plane.with_crd().await;
    let (_, disturbed) = plane.namespace().await;
    let _kubelets = [Kubelet::play(&client, &undisturbed, 0, ""), Kubelet::play(&client, &disturbed, 0, "")];
    let account = Account::new(plane, &client, &undisturbed, "operator").await;
    let operator = account.start(plane, QUIET);
    apply(&client, &undisturbed, "main", spec()).await;
    condition(&client, &undisturbed, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;

    let account = Account::new(plane, &client, &disturbed, "operator").await;
    apply(&client, &disturbed, "main", spec()).await;
    let kills = killed_after_each_write(&client, &disturbed, &account).await;
    assert!(kills >= 3, "it was killed {kills} times only");
    let last = account.start(plane, QUIET);
    last.ready().await;
    condition(&client, &disturbed, "main", "Ready", "True", "Serving").await;
    last.quiet().await;
    let (wanted, found) = (picture(&client, &undisturbed).await, picture(&client, &disturbed).await);
    assert!(wanted.len() > 8, "{:?}", wanted.keys());
    assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (name, right) in wanted {
        assert_eq!(found[&name], right, "{name}");
    }
    assert!(last.forbidden().is_empty(), "{:?}", last.forbidden());
}
