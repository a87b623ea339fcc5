//! Consumers come, go and change while pods serve; administrators' tokens are kept apart from theirs.

use std::time::Duration;

use jam_domain::token::{TokenBook, TokenEntry, TokenHash};
use jam_plan::JamInstance;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::operator_support::{apply, condition, eventually, quota};
use crate::rotation_support::{Stage, annotate, answer, answer_of, at_stage, key, process, spec};

#[tokio::test]
async fn consumers_are_added_rescoped_renamed_and_removed_while_pods_serve() {
    let Stage { client, namespace, node, operator } = Stage::serving().await;
    let demo = key(&client, &namespace, "demo", "token").await.unwrap();
    let told = async |name: &str| key(&client, &namespace, "demo", name).await.unwrap();
    assert_eq!(told("authorization").await, format!("Bearer {demo}"), "ready to be sent");
    assert_eq!(told("id").await, TokenHash::of(&demo).id().as_str());
    let end: jiff::Timestamp = told("not-after").await.parse().unwrap();
    assert!(end > jiff::Timestamp::now(), "an interval and an overlap from now");

    apply(&client, &namespace, "main", spec(&json!([{"name": "demo"}, {"name": "late"}]))).await;
    let late = eventually("the new one has its token", async || key(&client, &namespace, "late", "token").await).await;
    for address in node.addresses().into_values() {
        assert_eq!(answer(&address, &late).await, 200, "it is handed out after every pod accepts it");
    }
    let narrowed = json!([{"name": "demo", "scopes": ["read"]}, {"name": "renamed"}]);
    apply(&client, &namespace, "main", spec(&narrowed)).await;
    let renamed = eventually("the renamed one", async || key(&client, &namespace, "renamed", "token").await).await;
    assert_ne!(renamed, late);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    eventually("the old name's Secret goes", async || {
        secrets.get_opt("main-token-late").await.ok()?.is_none().then_some(())
    })
    .await;
    for address in node.addresses().into_values() {
        eventually("its token goes", async || (answer(&address, &late).await == 401).then_some(())).await;
        eventually("the scope counts", async || (process(&address, &demo).await == 403).then_some(())).await;
        assert_eq!(answer(&address, &demo).await, 200, "the token stays");
        assert!([200, 204].contains(&process(&address, &renamed).await));
    }
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn an_instance_made_again_takes_its_tokens_over_in_the_middle_of_a_rotation() {
    let Stage { client, namespace, node, operator: _operator } = Stage::serving().await;
    let first = key(&client, &namespace, "demo", "token").await.unwrap();
    annotate(&client, &namespace, "jam.network/rotate", "now").await;
    eventually("the overlap", async || key(&client, &namespace, "demo", "previous").await).await;
    let second = key(&client, &namespace, "demo", "token").await.unwrap();
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    instances.delete("main", &DeleteParams::default()).await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    eventually("the pods go", async || deployments.get_opt("main").await.ok()?.is_none().then_some(())).await;

    apply(&client, &namespace, "main", spec(&json!([{"name": "demo"}]))).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    assert_eq!(key(&client, &namespace, "demo", "token").await.unwrap(), second, "the consumer keeps its token");
    eventually("the rotation ends", async || {
        (key(&client, &namespace, "demo", "retired").await.is_none()
            && key(&client, &namespace, "demo", "previous").await.is_none())
        .then_some(())
    })
    .await;
    at_stage(&client, &namespace, "Idle").await;
    for address in node.addresses().into_values() {
        assert_eq!((answer(&address, &second).await, answer(&address, &first).await), (200, 401));
    }
}

#[tokio::test]
async fn no_token_moves_while_the_instance_is_stalled_because_its_hashes_would_not_follow() {
    let Stage { client, namespace, node, operator } = Stage::set().await;
    let good = spec(&json!([{"name": "demo"}]));
    apply(&client, &namespace, "main", good.clone()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let token = key(&client, &namespace, "demo", "token").await.unwrap();
    let mut refused = good.clone();
    refused["blobStore"] = json!({"url": "s3://bucket/prefix", "credentialsSecretRef": {"name": "nowhere"}});
    apply(&client, &namespace, "main", refused).await;
    condition(&client, &namespace, "main", "Stalled", "True", "SecretMissing").await;
    annotate(&client, &namespace, "jam.network/revoke", "demo").await;
    let told = condition(&client, &namespace, "main", "TokensReady", "False", "RotationHeld").await;
    assert!(told.contains("the revocation for consumer demo waits") && told.contains("SecretMissing"), "{told}");
    operator.quiet().await;
    assert_eq!(key(&client, &namespace, "demo", "token").await.unwrap(), token, "the consumer keeps what pods accept");
    apply(&client, &namespace, "main", good).await;
    for address in node.addresses().into_values() {
        eventually("then it is revoked", async || (answer(&address, &token).await == 401).then_some(())).await;
    }
}

#[tokio::test]
async fn a_revocation_reaches_the_pods_while_another_child_cannot_be_written() {
    let Stage { client, namespace, node, operator: _operator } = Stage::set().await;
    let mut wanted = spec(&json!([{"name": "demo"}]));
    apply(&client, &namespace, "main", wanted.clone()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let token = key(&client, &namespace, "demo", "token").await.unwrap();
    quota(&client, &namespace, json!({"count/configmaps": "0"})).await;
    wanted["runtime"]["jam"]["rateLimitPerMinute"] = json!(77);
    apply(&client, &namespace, "main", wanted).await;
    condition(&client, &namespace, "main", "Reconciling", "True", "ApplyFailed").await;
    annotate(&client, &namespace, "jam.network/revoke", TokenHash::of(&token).id().as_str()).await;
    let fresh = async || key(&client, &namespace, "demo", "token").await.filter(|now| *now != token);
    let fresh = eventually("the consumer has another token", fresh).await;
    for address in node.addresses().into_values() {
        eventually("the leaked one ends", async || (answer(&address, &token).await == 401).then_some(())).await;
        assert_ne!(answer(&address, &fresh).await, 401, "its consumer is not locked out");
    }
}

#[tokio::test]
async fn a_consumer_whose_secret_cannot_be_written_is_named_and_holds_up_nobody_else() {
    let Stage { client, namespace, node, operator } = Stage::serving().await;
    let token = key(&client, &namespace, "demo", "token").await.unwrap();
    // What is there stays and may change; another one is too many.
    let quotas = quota(&client, &namespace, json!({"count/secrets": "1"})).await;
    apply(&client, &namespace, "main", spec(&json!([{"name": "late"}, {"name": "demo"}]))).await;
    let told = condition(&client, &namespace, "main", "TokensReady", "False", "RotationHeld").await;
    assert!(told.contains("Secret main-token-late of consumer late") && told.contains("exceeded quota"), "{told}");
    annotate(&client, &namespace, "jam.network/revoke", "demo").await;
    let fresh = async || key(&client, &namespace, "demo", "token").await.filter(|now| *now != token);
    let fresh = eventually("the other consumer goes on", fresh).await;
    for address in node.addresses().into_values() {
        eventually("its leaked one ends", async || (answer(&address, &token).await == 401).then_some(())).await;
        eventually("its new one is accepted", async || (answer(&address, &fresh).await == 200).then_some(())).await;
    }
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let book = secrets.get("main-token-hashes").await.unwrap().data.unwrap();
    let entries: serde_json::Value = serde_json::from_slice(&book["tokens.json"].0).unwrap();
    let named = |name: &str| entries.as_array().unwrap().iter().any(|entry| entry["name"] == name);
    assert!(named("demo") && !named("late"), "no hash of a token that nobody has: {entries}");

    quotas.delete("none", &DeleteParams::default()).await.unwrap();
    let late = eventually("it has its token", async || key(&client, &namespace, "late", "token").await).await;
    for address in node.addresses().into_values() {
        eventually("every pod accepts it", async || (answer(&address, &late).await == 200).then_some(())).await;
    }
    condition(&client, &namespace, "main", "TokensReady", "True", "TokensIssued").await;
    assert!(operator.forbidden().iter().all(|asked| asked.resource == "secrets"), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_secret_that_refuses_what_is_due_is_tried_again_with_pauses_and_goes_on_when_it_is_made_anew() {
    let Stage { client, namespace, node: _node, operator } = Stage::serving().await;
    let token = key(&client, &namespace, "demo", "token").await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let annotations = json!({"jam.network/issued-at": "2001-01-01T00:00:00Z"});
    let due = json!({"metadata": {"annotations": annotations}, "immutable": true});
    secrets.patch("main-token-demo", &PatchParams::default(), &Patch::Merge(due)).await.unwrap();
    let told = condition(&client, &namespace, "main", "TokensReady", "False", "RotationHeld").await;
    assert!(told.contains("Secret main-token-demo of consumer demo") && told.contains("immutable"), "{told}");
    let tries =
        || operator.writes().iter().filter(|asked| asked.name == "main-token-demo" && asked.code == 422).count();
    let before = tries();
    tokio::time::sleep(Duration::from_secs(10)).await;
    // Pauses are drawn at random: ten are seldom, more hardly ever. A loop without pauses makes hundreds.
    assert!(before > 0 && tries() < before + 13, "{before}, and {} ten seconds later", tries());
    assert_eq!(key(&client, &namespace, "demo", "token").await.unwrap(), token);
    secrets.delete("main-token-demo", &DeleteParams::default()).await.unwrap();
    let fresh = eventually("it is made anew", async || key(&client, &namespace, "demo", "token").await).await;
    assert_ne!(fresh, token);
    condition(&client, &namespace, "main", "TokensReady", "True", "TokensIssued").await;
}

#[tokio::test]
async fn a_secret_that_goes_with_an_instance_of_before_is_waited_for_and_taken_for_nobody_elses() {
    let Stage { client, namespace, node: _node, operator } = Stage::set().await;
    let mut wanted = spec(&json!([{"name": "demo"}]));
    wanted["deletionPolicy"] = json!("Delete");
    apply(&client, &namespace, "main", wanted.clone()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let before = key(&client, &namespace, "demo", "token").await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let hold = async |finalizers: serde_json::Value| {
        let body = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
        secrets.patch("main-token-demo", &PatchParams::default(), &body).await.unwrap();
    };
    // The garbage collector is never so slow that a test can rely on it.
    hold(json!(["example.org/slowly"])).await;
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    instances.delete("main", &DeleteParams::default()).await.unwrap();
    eventually("the instance goes", async || instances.get_opt("main").await.ok()?.is_none().then_some(())).await;

    apply(&client, &namespace, "main", wanted).await;
    let told = condition(&client, &namespace, "main", "Reconciling", "True", "TokensPending").await;
    assert!(told.contains("consumer demo"), "{told}");
    assert_eq!(key(&client, &namespace, "demo", "token").await.as_ref(), Some(&before), "nobody touched it");
    hold(json!(null)).await;
    let fresh = async || key(&client, &namespace, "demo", "token").await.filter(|token| *token != before);
    eventually("it is made when that one is gone", fresh).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let told = events.list(&ListParams::default()).await.unwrap().items;
    assert!(told.iter().all(|event| event.reason.as_deref() != Some("NameTaken")), "{told:?}");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn administrators_tokens_reach_the_pods_as_hashes_and_a_changed_secret_counts_by_itself() {
    let Stage { client, namespace, node, operator } = Stage::set().await;
    let mut wanted = spec(&json!([{"name": "demo"}]));
    wanted["tokens"]["adminTokensSecretRef"] = json!({"name": "admins"});
    apply(&client, &namespace, "main", wanted).await;
    let told = condition(&client, &namespace, "main", "Stalled", "True", "SecretMissing").await;
    assert!(told.contains("Secret admins") && told.contains("adminTokensSecretRef"), "{told}");
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let put = async |tokens: serde_json::Value| {
        let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "admins"}, "stringData": tokens});
        secrets.patch("admins", &PatchParams::apply("somebody").force(), &Patch::Apply(body)).await.unwrap();
    };
    // As the server reads it.
    let listed = async || {
        let mut data = secrets.get("main-token-hashes").await.ok()?.data?;
        let entries: Vec<TokenEntry> = serde_json::from_slice(&data.remove("admin-tokens.json")?.0).ok()?;
        Some(TokenBook::new(entries).unwrap())
    };
    put(json!({"alice": "an-administrators-token-1", "bob": "an-administrators-token-2\n"})).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let book = listed().await.expect("the hashes are there before any pod");
    let knows = |book: &TokenBook, token: &str| book.decide(token, jam_domain::Timestamp::now()).is_ok();
    assert!(knows(&book, "an-administrators-token-1") && knows(&book, "an-administrators-token-2"));
    let demo = key(&client, &namespace, "demo", "token").await.unwrap();
    assert!(!knows(&book, &demo), "no consumer is an administrator");
    for address in node.addresses().into_values() {
        let audit = async |token: &str| answer_of(&address, "/jam/admin/audit", token).await;
        assert_eq!((audit("an-administrators-token-1").await, audit("an-administrators-token-2").await), (200, 200));
        assert_eq!((answer(&address, &demo).await, audit(&demo).await), (200, 403), "no consumer administers");
    }
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let generation = async || deployments.get("main").await.unwrap().metadata.generation;
    let before = generation().await;
    put(json!({"alice": "an-administrators-token-3", "bob": "an-administrators-token-2"})).await;
    eventually("the changed token counts", async || {
        let book = listed().await?;
        (knows(&book, "an-administrators-token-3") && !knows(&book, "an-administrators-token-1")).then_some(())
    })
    .await;
    for address in node.addresses().into_values() {
        let audit = async |token: &str| answer_of(&address, "/jam/admin/audit", token).await;
        eventually("it is let in", async || (audit("an-administrators-token-3").await == 200).then_some(())).await;
        assert_eq!(audit("an-administrators-token-1").await, 401, "what is no longer there is not");
    }
    operator.quiet().await;
    assert_eq!(generation().await, before, "no pod is replaced for a token");
    assert!(operator.forbidden().is_empty() && !operator.logged().contains("an-administrators-token"));
}
