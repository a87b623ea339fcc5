//! Claim 8: pods that mount their Secret live through fifty rotations without one 401, and no old token is let in afterwards.

use std::collections::BTreeSet;

use serde_json::json;

use crate::consumer::Consumer;
use crate::database::Postgres;
use crate::path::postgres_spec;
use crate::support::{Instance, apply, client, eventually, kubectl, kubectl_ok};

/// How often the token is replaced.
const ROUNDS: usize = 50;

/// Ready, and not on its way out: a pod of a rollout may have an address before it listens.
fn is_serving(pod: &serde_json::Value) -> bool {
    let ready = |told: &serde_json::Value| told["type"] == "Ready" && told["status"] == "True";
    pod["metadata"]["deletionTimestamp"].is_null()
        && pod["status"]["conditions"].as_array().is_some_and(|conditions| conditions.iter().any(ready))
}

/// The id of the token that is in the Secret.
fn key_id(instance: &Instance) -> String {
    let template = "go-template={{.data.id|base64decode}}";
    kubectl_ok(&["-n", &instance.namespace, "get", "secret", "jam-token-demo", "-o", template])
}

/// Waits for the record in status that every pod refused this token.
fn proven_dead(instance: &Instance, id: &str) {
    let told = format!("--for=jsonpath={{.status.rotation.refused[0].keyIds[0]}}={id}");
    let waited = kubectl(&["-n", &instance.namespace, "wait", "jam", instance.name, &told, "--timeout=180s"]);
    assert!(waited.status.success(), "{}\n{}", String::from_utf8_lossy(&waited.stderr), instance.describe());
}

/// Every serving pod refuses every one of these tokens; how many pods were asked.
async fn refused_by_every_pod(instance: &Instance, tokens: &BTreeSet<String>) -> usize {
    let pods: Vec<_> = instance.pods().into_iter().filter(is_serving).collect();
    for address in pods.iter().filter_map(|pod| pod["status"]["podIP"].as_str()) {
        for token in tokens {
            let answer = client().get(format!("http://{address}:8080/system/status")).bearer_auth(token).send().await;
            assert!(answer.is_ok_and(|answer| answer.status() == 401), "{address} refuses a retired token");
        }
    }
    pods.len()
}

/// What else happens meanwhile.
fn disturb(instance: &Instance, round: usize) {
    match round {
        // Before others that run beside it wait for what they have just seen go wrong.
        1 => {
            let operator = ["-l", "app.kubernetes.io/name=jam-operator", "--force", "--grace-period=0"];
            kubectl_ok(&[&["-n", "jam-system", "delete", "pod"], &operator[..]].concat());
        }
        20 => instance.patch(&json!({"spec": {"runtime": {"jam": {"retentionDays": 31}}}})),
        30 => instance.patch(&json!({"spec": {"image": {"tag": "next"}}})),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_mount_their_secret_see_fifty_rotations_a_rollout_and_an_operator_kill_without_one_401() {
    // dev/lib/suites.sh has told the operator that an hour of a rotation has one second, and the kubelet to look every second.
    let instance = Instance::in_new_namespace("rotation");
    let database = Postgres::started(&instance.namespace).await;
    apply(&database.secret());
    let mut spec = postgres_spec();
    spec["tokens"]["rotation"] = json!({"intervalDays": 1, "overlapHours": 5});
    instance.apply(&spec);
    instance.wait_ready().await;
    let consumers = [Consumer::started(&instance, "node1").await, Consumer::started(&instance, "node2").await];
    let mut retired = BTreeSet::new();
    for round in 0..ROUNDS {
        let (token, id) = (instance.token(), key_id(&instance));
        let value = format!("jam.network/rotate=round-{round}");
        kubectl_ok(&["-n", &instance.namespace, "annotate", "jam", instance.name, &value, "--overwrite"]);
        disturb(&instance, round);
        proven_dead(&instance, &id);
        assert!(retired.insert(token), "each round another token");
        if round % 10 == 0 {
            refused_by_every_pod(&instance, &retired).await;
        }
    }
    instance.wait_ready().await;
    assert_eq!(refused_by_every_pod(&instance, &retired).await, 2);
    for consumer in consumers {
        let answers = eventually("the last token in the file", || async {
            consumer.answers().filter(|answers| answers.tokens > ROUNDS as u64)
        })
        .await;
        println!("{answers:?}");
        assert!(answers.good > 5_000, "{answers:?}");
        assert_eq!((answers.unauthorized, answers.other, answers.unanswered), (0, 0, 0), "{answers:?}");
        let said = consumer.log();
        assert!(retired.iter().all(|token| !said.contains(token.as_str())), "the consumer of the test told a token");
    }
}
