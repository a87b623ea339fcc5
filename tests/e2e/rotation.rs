//! Claim 8: tokens are replaced under load without one 401, and the old one is refused by every pod.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::database::Postgres;
use crate::path::postgres_spec;
use crate::support::{Instance, apply, client, eventually, kubectl, kubectl_ok};

/// A consumer that reads its Secret again every second and calls the Service without a pause.
struct Consumer {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Consumer {
    fn of(namespace: String, url: String) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (good, refused) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (stopped, well, badly) = (Arc::clone(&stop), Arc::clone(&good), Arc::clone(&refused));
        let task = tokio::spawn(async move {
            let (client, mut token, mut read) = (client(), String::new(), None::<Instant>);
            while !stopped.load(Ordering::Relaxed) {
                if read.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
                    let output = kubectl(&[
                        "-n",
                        &namespace,
                        "get",
                        "secret",
                        "jam-token-demo",
                        "-o",
                        "go-template={{.data.token|base64decode}}",
                    ]);
                    if output.status.success() {
                        token = String::from_utf8_lossy(&output.stdout).into_owned();
                    }
                    read = Some(Instant::now());
                }
                match client.get(&url).bearer_auth(&token).send().await {
                    Ok(answer) if answer.status() == 401 => drop(badly.fetch_add(1, Ordering::Relaxed)),
                    Ok(answer) if answer.status().is_success() => drop(well.fetch_add(1, Ordering::Relaxed)),
                    Ok(_) | Err(_) => {}
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { stop, good, refused, task }
    }

    async fn counted(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the consumer does not panic");
        (self.good.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }
}

/// Ready, and not on its way out: a pod of a rollout may have an address before it listens.
fn is_serving(pod: &serde_json::Value) -> bool {
    let ready = |told: &serde_json::Value| told["type"] == "Ready" && told["status"] == "True";
    pod["metadata"]["deletionTimestamp"].is_null()
        && pod["status"]["conditions"].as_array().is_some_and(|conditions| conditions.iter().any(ready))
}

fn rotation(instance: &Instance) -> serde_json::Value {
    let text =
        kubectl_ok(&["-n", &instance.namespace, "get", "jam", instance.name, "-o", "jsonpath={.status.rotation}"]);
    serde_json::from_str(&text).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_replaced_under_load_during_a_rollout_and_an_operator_kill_without_one_401() {
    // dev/lib/suites.sh has told the operator that an hour of a rotation has two seconds.
    let instance = Instance::in_new_namespace("rotation");
    let database = Postgres::started(&instance.namespace).await;
    apply(&database.secret());
    let mut spec = postgres_spec();
    spec["tokens"]["rotation"] = json!({"intervalDays": 1, "overlapHours": 3});
    instance.apply(&spec);
    instance.wait_ready();
    let consumer = Consumer::of(instance.namespace.clone(), format!("{}/jam/status", instance.endpoint()));
    let mut tokens = BTreeSet::new();
    for round in 0..5 {
        let old = instance.token();
        let id = kubectl_ok(&[
            "-n",
            &instance.namespace,
            "get",
            "secret",
            "jam-token-demo",
            "-o",
            "go-template={{.data.id|base64decode}}",
        ]);
        let value = format!("jam.network/rotate=round-{round}");
        kubectl_ok(&["-n", &instance.namespace, "annotate", "jam", instance.name, &value, "--overwrite"]);
        match round {
            1 => drop(kubectl_ok(&[
                "-n",
                "jam-system",
                "delete",
                "pod",
                "-l",
                "app.kubernetes.io/name=jam-operator",
                "--force",
                "--grace-period=0",
            ])),
            2 => instance.patch(&json!({"spec": {"runtime": {"jam": {"retentionDays": 31}}}})),
            _ => {}
        }
        let proof = eventually("the old token is proven dead", || async {
            let refused = rotation(&instance)["refused"][0].clone();
            refused["keyIds"].as_array()?.iter().any(|known| *known == id.as_str()).then_some(refused)
        })
        .await;
        assert!(proof["pods"].as_u64() >= Some(2), "{proof}");
        for pod in instance.pods().iter().filter(|pod| is_serving(pod)) {
            let Some(address) = pod["status"]["podIP"].as_str() else { continue };
            let answer = client().get(format!("http://{address}:8080/system/status")).bearer_auth(&old).send().await;
            assert!(answer.is_ok_and(|answer| answer.status() == 401), "{address} refuses the retired token");
        }
        tokens.insert(old);
    }
    let (good, refused) = consumer.counted().await;
    assert!(good > 200, "the consumer was answered {good} times");
    assert_eq!(refused, 0, "of {} requests", good + refused);
    assert_eq!(tokens.len(), 5, "each round another token");
    let logs = kubectl_ok(&["-n", "jam-system", "logs", "-l", "app.kubernetes.io/name=jam-operator", "--tail=-1"]);
    let told = format!("{logs}{}", instance.describe());
    assert!(tokens.iter().all(|token| !told.contains(token.as_str())), "a token was told");
}
