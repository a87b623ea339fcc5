//! Rotation as its consumers see it: real API servers, a real control plane, an operator that is killed between its writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jam_plan::JamInstance;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::operator_support::{Account, apply, condition, eventually};
use crate::rotation_support::{Node, SECONDS, Stage, annotate, answer, at_stage, database, key, spec};
use crate::support::cluster::control_plane;

/// A consumer that reads its Secret again every half second and calls every pod without a pause.
struct Consumer {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    bad: Arc<Mutex<BTreeMap<String, u64>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Consumer {
    fn calls(client: &Client, namespace: &str, addresses: Vec<String>) -> Self {
        let (stop, good, bad) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<Mutex<BTreeMap<String, u64>>>::default());
        let (stopped, well, badly) = (Arc::clone(&stop), Arc::clone(&good), Arc::clone(&bad));
        let (client, namespace) = (client.clone(), namespace.to_owned());
        let task = tokio::spawn(async move {
            let (mut token, mut read) = (String::new(), None::<std::time::Instant>);
            while !stopped.load(Ordering::Relaxed) {
                if read.is_none_or(|at| at.elapsed() > Duration::from_millis(500)) {
                    token = key(&client, &namespace, "demo", "token").await.unwrap_or(token);
                    read = Some(std::time::Instant::now());
                }
                for address in &addresses {
                    match answer(address, &token).await {
                        200 => drop(well.fetch_add(1, Ordering::Relaxed)),
                        code => {
                            let about = format!("{code} at {address}");
                            *badly.lock().unwrap().entry(about).or_default() += 1;
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Self { stop, good, bad, task }
    }

    async fn counted(self) -> (u64, BTreeMap<String, u64>) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        let bad = self.bad.lock().unwrap().clone();
        (self.good.load(Ordering::Relaxed), bad)
    }
}

/// The keys of the consumer's Secret that there are: what a crash is to be tried after.
async fn keys(client: &Client, namespace: &str) -> BTreeSet<String> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let data = secrets.get("main-token-demo").await.unwrap().data.unwrap_or_default();
    data.into_keys().filter(|key| ["next", "previous", "retired"].contains(&key.as_str())).collect()
}

/// Waits for a write: until exactly this key beside the token is there, or none.
async fn reached(client: &Client, namespace: &str, wanted: Option<&str>) {
    let wanted: BTreeSet<String> = wanted.into_iter().map(str::to_owned).collect();
    eventually(&format!("{wanted:?}"), async || (keys(client, namespace).await == wanted).then_some(())).await;
}

/// Everything that was said about the instance: status, events, metrics; tokens are looked for in it.
async fn emitted(client: &Client, namespace: &str) -> String {
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    let events: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(client.clone(), namespace);
    let told = events.list(&ListParams::default()).await.unwrap().items;
    format!("{:?} {:?}", instances.get("main").await.unwrap(), told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_under_load_sees_not_one_401_while_the_operator_dies_after_each_write_and_no_token_is_told() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    database(&client, &namespace).await;
    let node = Node::running(&client, &namespace, "main");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let mut operator = account.start(plane, SECONDS);
    apply(&client, &namespace, "main", spec(&json!([{"name": "demo"}]))).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let pods: Vec<String> = node.addresses().into_values().collect();
    assert_eq!(pods.len(), 2);
    let consumer = Consumer::calls(&client, &namespace, pods.clone());
    let (mut logs, mut tokens) = (String::new(), Vec::new());
    for round in 0..2 {
        tokens.push(key(&client, &namespace, "demo", "token").await.unwrap());
        annotate(&client, &namespace, "jam.network/rotate", &format!("round {round}")).await;
        for write in [Some("next"), Some("previous"), Some("retired")] {
            reached(&client, &namespace, write).await;
            logs.push_str(&operator.logged());
            operator.kill();
            operator = account.start(plane, SECONDS);
        }
        reached(&client, &namespace, None).await;
        let rotation = at_stage(&client, &namespace, "Idle").await;
        let old = jam_domain::token::TokenHash::of(tokens.last().unwrap()).id().to_string();
        assert_eq!((&rotation.refused[0].key_ids, rotation.refused[0].pods), (&vec![old], 2), "proved by request");
        for address in &pods {
            assert_eq!(answer(address, tokens.last().unwrap()).await, 401, "refused by every pod");
        }
    }
    let (good, bad) = consumer.counted().await;
    assert!(good > 20 && bad.is_empty(), "{good} good, {bad:?}");
    operator.quiet().await;
    let writes = operator.writes().len();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(operator.writes().len(), writes, "and then there is rest");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());

    tokens.push(key(&client, &namespace, "demo", "token").await.unwrap());
    assert_eq!(tokens.iter().collect::<BTreeSet<_>>().len(), 3, "each is another");
    assert!(tokens.iter().all(|token| token.len() == 64));
    let audit = fs::read_to_string(plane.audit_log.as_ref().unwrap()).unwrap();
    let told = [
        emitted(&client, &namespace).await,
        operator.answer("/metrics").await.1,
        operator.answer("/readyz").await.1,
        node.printed(),
        logs + &operator.logged(),
        audit,
    ];
    for (what, text) in ["status and events", "metrics", "readyz", "pods", "log", "audit"].into_iter().zip(told) {
        assert!(!text.is_empty(), "{what} was looked at");
        assert!(tokens.iter().all(|token| !text.contains(token.as_str())), "a token is in {what}");
    }
}

#[tokio::test]
async fn a_pod_that_does_not_answer_holds_the_rotation_and_is_named() {
    let Stage { client, namespace, node, operator } = Stage::set().await;
    apply(&client, &namespace, "main", spec(&json!([{"name": "demo"}]))).await;
    condition(&client, &namespace, "main", "TokensReady", "True", "TokensIssued").await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let silent = node.addresses().into_keys().next().unwrap();
    let token = key(&client, &namespace, "demo", "token").await;
    node.signal(&silent, "-STOP");
    annotate(&client, &namespace, "jam.network/rotate", "demo").await;
    let told = condition(&client, &namespace, "main", "TokensReady", "False", "RotationHeld").await;
    assert!(told.contains(&silent) && told.starts_with("Verify of consumer demo"), "{told}");
    assert_eq!(at_stage(&client, &namespace, "Verify").await.waiting_for, std::slice::from_ref(&silent));
    assert_eq!(key(&client, &namespace, "demo", "token").await, token, "nobody is given what a pod may refuse");
    node.signal(&silent, "-CONT");
    condition(&client, &namespace, "main", "TokensReady", "True", "Rotating").await;
    condition(&client, &namespace, "main", "TokensReady", "True", "TokensIssued").await;
    assert_ne!(key(&client, &namespace, "demo", "token").await, token);
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_pod_that_can_never_agree_is_named_and_asked_ever_less_and_its_end_calls_at_once() {
    let Stage { client, namespace, node, operator } = Stage::serving().await;
    let token = key(&client, &namespace, "demo", "token").await;
    let deaf = node.addresses().into_keys().next().unwrap();
    node.leave_alone(&deaf);
    annotate(&client, &namespace, "jam.network/rotate", "demo").await;
    let told = condition(&client, &namespace, "main", "TokensReady", "False", "RotationHeld").await;
    let words = format!("Verify of consumer demo waits: pod {deaf} has not taken in the next token");
    assert_eq!(told, words);
    assert_eq!(at_stage(&client, &namespace, "Verify").await.waiting_for, std::slice::from_ref(&deaf));

    // As it would stand there after an hour: the next look is in five minutes.
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let hour = jiff::Timestamp::now().as_second() - 3600;
    let since = jiff::Timestamp::from_second(hour).unwrap().to_string();
    let noted = json!({"metadata": {"annotations": {"jam.network/tokens-changed-at": since}}});
    secrets.patch("main-token-demo", &PatchParams::default(), &Patch::Merge(noted)).await.unwrap();
    operator.quiet().await;
    let asked = async || operator.asked().iter().filter(|asked| asked.resource == "pods").count();
    let before = asked().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(asked().await, before, "it is left in peace");
    assert_eq!(key(&client, &namespace, "demo", "token").await, token, "nobody is given what a pod refuses");

    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client.clone(), &namespace);
    pods.delete(&deaf, &DeleteParams::default().grace_period(0)).await.unwrap();
    condition(&client, &namespace, "main", "TokensReady", "True", "TokensIssued").await;
    assert_ne!(key(&client, &namespace, "demo", "token").await, token, "sooner than the next look was due");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_revoked_token_is_refused_by_every_pod_at_once_and_other_consumers_keep_theirs() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    database(&client, &namespace).await;
    let node = Node::running(&client, &namespace, "main");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    // The overlap is an hour: a revocation must not wait for it.
    let operator = account.start(plane, &["--leader-election", "false"]);
    apply(&client, &namespace, "main", spec(&json!([{"name": "demo"}, {"name": "other"}]))).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let others = key(&client, &namespace, "other", "token").await.unwrap();
    for by in ["its consumer", "its id", "itself"] {
        let leaked = key(&client, &namespace, "demo", "token").await.unwrap();
        let value = match by {
            "its consumer" => "demo".to_owned(),
            "its id" => jam_domain::token::TokenHash::of(&leaked).id().to_string(),
            _ => leaked.clone(),
        };
        annotate(&client, &namespace, "jam.network/revoke", &value).await;
        for address in node.addresses().into_values() {
            eventually("it is refused", async || (answer(&address, &leaked).await == 401).then_some(())).await;
            assert_eq!(answer(&address, &others).await, 200, "another consumer's token");
        }
        reached(&client, &namespace, None).await;
        let rotation = at_stage(&client, &namespace, "Idle").await;
        assert_eq!(rotation.refused[0].pods, 2);
        let fresh = key(&client, &namespace, "demo", "token").await.unwrap();
        assert_ne!(fresh, leaked);
        for address in node.addresses().into_values() {
            assert_eq!(answer(&address, &fresh).await, 200);
        }
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
        for secret in secrets.list(&ListParams::default()).await.unwrap() {
            assert!(
                !format!("{:?}", secret.metadata).contains(&leaked),
                "{by}: noted as its id: {:?}",
                secret.metadata
            );
        }
        // The annotation is whose who wrote it.
        annotate(&client, &namespace, "jam.network/revoke", "").await;
        assert!(!emitted(&client, &namespace).await.contains(&leaked) && !operator.logged().contains(&leaked), "{by}");
    }
    annotate(&client, &namespace, "jam.network/revoke", "dmeo").await;
    eventually("a mistyped revocation is told", async || {
        let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
        let conditions = instances.get("main").await.ok()?.status?.conditions;
        conditions.iter().any(|c| c.type_ == "TokensReady" && c.message.contains("names dmeo")).then_some(())
    })
    .await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_revocation_does_not_wait_for_the_kubelets_sync_because_every_pod_is_told() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    database(&client, &namespace).await;
    let node = Node::sluggish(&client, &namespace, "main");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false"]);
    apply(&client, &namespace, "main", spec(&json!([{"name": "demo"}]))).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let leaked = key(&client, &namespace, "demo", "token").await.unwrap();
    annotate(&client, &namespace, "jam.network/revoke", "demo").await;
    let addresses = node.addresses();
    assert_eq!(addresses.len(), 2);
    for address in addresses.values() {
        eventually("it is refused", async || (answer(address, &leaked).await == 401).then_some(())).await;
    }
    at_stage(&client, &namespace, "Idle").await;
    operator.quiet().await;
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client.clone(), &namespace);
    for pod in addresses.keys() {
        let told = pods.get(pod).await.unwrap().metadata.annotations.unwrap_or_default();
        assert!(told.contains_key("jam.network/tokens-told"), "{told:?}");
    }
    let writes = operator.writes().iter().filter(|asked| asked.resource == "pods").count();
    assert!((2..=6).contains(&writes), "each pod once for each content: {writes}");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_secret_deleted_or_edited_by_hand_is_put_right_and_what_it_held_goes_on_being_accepted() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    database(&client, &namespace).await;
    let node = Node::running(&client, &namespace, "main");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false"]);
    apply(&client, &namespace, "main", spec(&json!([{"name": "demo"}]))).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let before = key(&client, &namespace, "demo", "token").await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    secrets.delete("main-token-demo", &DeleteParams::default()).await.unwrap();
    let again = eventually("a new token", async || key(&client, &namespace, "demo", "token").await).await;
    assert_ne!(again, before);
    for address in node.addresses().into_values() {
        assert_eq!(answer(&address, &again).await, 200, "handed out after every pod accepts it");
        assert_eq!(answer(&address, &before).await, 200, "whoever read the lost one is not locked out");
    }
    let mine = "a-token-that-somebody-typed-by-hand";
    let edit = json!({"stringData": {"token": mine, "authorization": "nonsense"}});
    secrets.patch("main-token-demo", &PatchParams::default(), &Patch::Merge(edit)).await.unwrap();
    eventually("what stands beside it is right again", async || {
        let header = key(&client, &namespace, "demo", "authorization").await?;
        (header == format!("Bearer {mine}")).then_some(())
    })
    .await;
    for address in node.addresses().into_values() {
        eventually("the edited token counts", async || (answer(&address, mine).await == 200).then_some(())).await;
        assert_eq!(answer(&address, &again).await, 200, "and the one that it displaced as well");
    }
    operator.quiet().await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn the_users_own_tokens_let_in_and_a_changed_secret_counts_by_itself() {
    let Stage { client, namespace, node, operator } = Stage::set().await;
    let mut own = spec(&json!([]));
    own["tokens"] = json!({"consumers": [], "allowedTokensSecretRef": {"name": "mine"}});
    apply(&client, &namespace, "main", own).await;
    let told = condition(&client, &namespace, "main", "Stalled", "True", "SecretMissing").await;
    assert!(told.contains("Secret mine") && told.contains("allowedTokensSecretRef"), "{told}");
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let put = async |tokens: serde_json::Value| {
        let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}, "stringData": tokens});
        secrets.patch("mine", &PatchParams::apply("somebody").force(), &Patch::Apply(body)).await.unwrap();
    };
    put(json!({"laptop": "a-token-of-my-own-1", "robot": "a-token-of-my-own-2\n"})).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    for address in node.addresses().into_values() {
        assert_eq!(answer(&address, "a-token-of-my-own-1").await, 200);
        assert_eq!(answer(&address, "a-token-of-my-own-2").await, 200);
    }
    put(json!({"laptop": "a-token-of-my-own-3", "robot": "a-token-of-my-own-2"})).await;
    for address in node.addresses().into_values() {
        let changed = async || (answer(&address, "a-token-of-my-own-3").await == 200).then_some(());
        eventually("the changed token counts", changed).await;
        assert_eq!(answer(&address, "a-token-of-my-own-1").await, 401);
    }
    assert!(operator.forbidden().is_empty() && !operator.logged().contains("a-token-of-my-own"));
}
