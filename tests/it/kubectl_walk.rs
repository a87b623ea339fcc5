//! `kubectl jam` in the hands of an SRE: each command on the real API server, with the real operator behind it.

use jam_domain::token::TokenHash;
use jam_plan::{JamInstance, Reason};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::crd_generated::repository;
use crate::kubectl_support::{done, jam, jam_as, refused, says};
use crate::operator_kinds::on_postgres;
use crate::operator_support::{Account, Kubelet, apply, condition, eventually};
use crate::rotation_support::{Node, SECONDS, answer, database, key, spec};
use crate::support::cluster::control_plane;

const COUNTED: &str = r#"{"dry_run":true,"archived":{"packages":5},"deleted":{"packages":3}}"#;

async fn instance(client: &kube::Client, namespace: &str) -> JamInstance {
    Api::namespaced(client.clone(), namespace).get("main").await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_shown_paused_resumed_switched_off_and_on() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let ns = namespace.as_str();
    let none = jam(plane, ns, &["status"]).await;
    assert_eq!((none.code, none.out.as_str()), (0, ""));
    says(&none.err, &["no JamInstance in namespace", "-A shows all"]);

    let _kubelet = Kubelet::play(&client, ns, 0, "");
    let spec = on_postgres(&client, ns).await;
    apply(&client, ns, "main", spec).await;
    let unseen = done(plane, ns, &["status", "main"]).await;
    says(&unseen, &["(generation 1, seen none)", "next: the operator has not seen this yet: kubectl get pods -A -l"]);
    let account = Account::new(plane, &client, ns, "operator").await;
    let _operator = account.start(plane, &["--leader-election", "false"]);
    condition(&client, ns, "main", "Ready", "True", "Serving").await;

    let all = done(plane, ns, &["status"]).await;
    let row: Vec<&str> = all.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, [ns, "main", "True", "yes", "postgres", "2/2", "1", "nothing", "to", "do"], "{all}");
    let page = done(plane, ns, &["status", "main"]).await;
    says(&page, &["jam        enabled yes, store postgres", "revision   main-revision-", "of generation 1, Serving"]);
    says(&page, &["token      default ", "migration  Complete, Job main-migrate-", "Ready", "next: nothing to do"]);
    let record: Value = serde_json::from_str(&done(plane, ns, &["status", "main", "-o", "json"]).await).unwrap();
    assert_eq!((&record["name"], &record["status"]["readyReplicas"]), (&json!("main"), &json!(2)));
    let list = done(plane, ns, &["status", "-o", "yaml"]).await;
    says(&list, &["items:", "name: main"]);
    assert_eq!(done(plane, ns, &["status", "-o", "name"]).await, "jaminstance.jam.network/main\n");
    let everywhere = jam(plane, ns, &["status", "-A"]).await;
    says(&everywhere.out, &[ns]);

    let paused = done(plane, ns, &["pause", "main", "--wait", "--timeout", "60s"]).await;
    says(&paused, &[": spec.paused: false -> true", "in force"]);
    says(&done(plane, ns, &["status"]).await, &[&format!("kubectl jam resume main -n {ns}")]);
    says(&done(plane, ns, &["pause", "main"]).await, &["spec.paused is true already, nothing is changed"]);
    let meanwhile = jam(plane, ns, &["disable", "main", "--wait"]).await;
    assert_eq!(meanwhile.code, 0);
    says(&meanwhile.out, &["spec.runtime.jam.enabled: true -> false", "every /jam/* path answers 404"]);
    says(&meanwhile.err, &["is paused: nothing happens until kubectl jam resume main"]);
    let why = done(plane, ns, &["explain", "main"]).await;
    says(&why, &["Paused=True PausedBySpec", "Set it to false."]);
    done(plane, ns, &["resume", "main", "--wait", "--timeout", "60s"]).await;
    condition(&client, ns, "main", "Ready", "True", "Serving").await;
    assert_eq!(instance(&client, ns).await.status.unwrap().enabled, Some(false), "what came in the pause is done");
    let on = done(plane, ns, &["enable", "main", "--wait", "--timeout", "60s"]).await;
    says(&on, &["spec.runtime.jam.enabled: false -> true", "in force"]);
    assert_eq!(instance(&client, ns).await.status.unwrap().enabled, Some(true));
    says(&done(plane, ns, &["explain"]).await, &["nothing is wrong with the 1 instances in namespace"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_is_shown_and_approved_and_a_cleanup_runs_now() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let ns = namespace.as_str();
    let kubelet = Kubelet::play(&client, ns, 0, "would apply: 4 admin");
    let account = Account::new(plane, &client, ns, "operator").await;
    let _operator = account.start(plane, &["--leader-election", "false"]);
    let mut spec = on_postgres(&client, ns).await;
    apply(&client, ns, "main", spec.clone()).await;
    condition(&client, ns, "main", "Ready", "True", "Serving").await;
    refused(plane, ns, &["migrate", "main"], 1, &["no migration waits for approval; Migrated=True"]).await;
    refused(plane, ns, &["cleanup", "main"], 1, &["no cleanup is set", "kubectl patch jam main -n"]).await;

    spec["migrations"] = json!({"mode": "Manual"});
    spec["image"] = json!({"tag": "next"});
    spec["cleanup"] = json!({"schedule": "0 0 29 2 *"});
    apply(&client, ns, "main", spec.clone()).await;
    condition(&client, ns, "main", "Migrated", "False", "ApprovalNeeded").await;
    says(&done(plane, ns, &["status"]).await, &[&format!("kubectl jam migrate main -n {ns}")]);
    says(&done(plane, ns, &["explain", "main"]).await, &["ApprovalNeeded", "Mitigation: Run it"]);
    crate::operator_support::eventually("the dry run", async || {
        let shown = jam(plane, ns, &["migrate", "main", "--dry-run"]).await;
        shown.out.contains("would apply: 4 admin").then_some(())
    })
    .await;
    let stalled = jam(plane, ns, &["enable", "main", "--wait", "--timeout", "20s"]).await;
    assert_eq!(stalled.code, 1, "{stalled:?}");
    says(&stalled.err, &["Stalled=True ApprovalNeeded", "(failed)"]);
    let approved = done(plane, ns, &["migrate", "main", "--wait", "--timeout", "60s"]).await;
    says(
        &approved,
        &["would apply: 4 admin", "approved; pods of the old version serve", "complete: Job main-migrate-"],
    );
    condition(&client, ns, "main", "Ready", "True", "Serving").await;

    drop(kubelet);
    let kubelet = Kubelet::play(&client, ns, 0, COUNTED);
    let counted = done(plane, ns, &["cleanup", "main", "--dry-run", "--wait", "--timeout", "60s"]).await;
    says(&counted, &["counts what would be archived and deleted", r#""archived":{"packages":5}"#]);
    let jobs: Api<Job> = Api::namespaced(client.clone(), ns);
    let label = ListParams::default().labels("app.kubernetes.io/component=cleanup");
    let job = json!(jobs.list(&label).await.unwrap().items[0]);
    assert!(
        job.pointer("/spec/template/spec/containers/0/args").unwrap().as_array().unwrap().contains(&json!("--dry-run"))
    );
    assert_eq!(job.pointer("/metadata/ownerReferences/0/name"), Some(&json!("main-cleanup")));
    drop(kubelet);
    let running = done(plane, ns, &["cleanup", "main"]).await;
    says(&running, &["cleans up", "follow it with: kubectl logs -f job/main-cleanup-manual-"]);
    refused(plane, ns, &["cleanup", "main"], 1, &["is cleaning up now, never two at once"]).await;
    let _kubelet = Kubelet::play(&client, ns, 0, r#"{"dry_run":false,"deleted":{"packages":3}}"#);
    condition(&client, ns, "main", "CleanupScheduled", "True", "Scheduled").await;
    says(&done(plane, ns, &["status", "main"]).await, &["cleanup    "]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_rotated_and_revoked_and_the_wait_ends_when_every_pod_has_followed() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let ns = namespace.as_str();
    database(&client, ns).await;
    let node = Node::running(&client, ns, "main");
    let account = Account::new(plane, &client, ns, "operator").await;
    let _operator = account.start(plane, SECONDS);
    apply(&client, ns, "main", spec(&json!([{"name": "demo"}, {"name": "other"}]))).await;
    condition(&client, ns, "main", "Ready", "True", "Serving").await;
    refused(plane, ns, &["rotate", "main", "--consumer", "dmeo"], 3, &["no consumer dmeo; it has demo, other"]).await;
    refused(plane, ns, &["revoke", "main", "dmeo"], 3, &["nothing is revoked", "demo, other"]).await;

    let before = key(&client, ns, "demo", "id").await.unwrap();
    let other = key(&client, ns, "other", "id").await.unwrap();
    let rotated = done(plane, ns, &["rotate", "main", "--consumer", "demo", "--wait", "--timeout", "180s"]).await;
    says(&rotated, &["new tokens for demo\n", &format!("demo: {before} -> "), "accepted until"]);
    assert_ne!(key(&client, ns, "demo", "id").await.unwrap(), before);
    assert_eq!(key(&client, ns, "other", "id").await.unwrap(), other, "only whom it was asked for");

    let leaked = key(&client, ns, "demo", "token").await.unwrap();
    let id = TokenHash::of(&leaked).id().to_string();
    let arguments = ["revoke", "main", "-", "--wait", "--timeout", "180s", "-n", ns];
    let revoked = jam_as(&plane.kubeconfig, &arguments, &leaked).await;
    assert_eq!((revoked.code, revoked.err.as_str()), (0, ""), "{revoked:?}");
    says(&revoked.out, &[&format!("revoked {id}"), "refused with 401 by 2 pods"]);
    for address in node.addresses().into_values() {
        assert_eq!(answer(&address, &leaked).await, 401);
    }
    let annotations = instance(&client, ns).await.metadata.annotations.unwrap();
    assert!(annotations.values().all(|value| !value.contains(&leaked)), "the token itself is sent nowhere");
    for _ in 0..2 {
        // The same word twice in a row is two revocations.
        let now = key(&client, ns, "other", "id").await.unwrap();
        done(plane, ns, &["revoke", "main", "other", "--wait", "--timeout", "180s"]).await;
        assert_ne!(key(&client, ns, "other", "id").await.unwrap(), now);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_two_consumers_have_is_named_when_it_is_revoked_for_one_and_its_id_ends_it_everywhere() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let ns = namespace.as_str();
    database(&client, ns).await;
    let node = Node::running(&client, ns, "main");
    let account = Account::new(plane, &client, ns, "operator").await;
    let _operator = account.start(plane, &["--leader-election", "false"]);
    apply(&client, ns, "main", spec(&json!([{"name": "demo"}, {"name": "other"}]))).await;
    condition(&client, ns, "main", "Ready", "True", "Serving").await;
    let leaked = key(&client, ns, "demo", "token").await.unwrap();
    let id = TokenHash::of(&leaked).id().to_string();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), ns);
    let typed = Patch::Merge(json!({"stringData": {"token": leaked}}));
    secrets.patch("main-token-other", &PatchParams::default(), &typed).await.unwrap();
    eventually("it is the other one's token as well", async || {
        let tokens = instance(&client, ns).await.status?.tokens;
        tokens.iter().any(|token| token.consumer == "other" && token.key_id == id).then_some(())
    })
    .await;

    let held = format!(
        "{id} is over for consumer demo and accepted still: Secret main-token-other of consumer other holds it as well"
    );
    let ends = format!("kubectl jam revoke main {id} -n {ns}");
    refused(plane, ns, &["revoke", "main", "demo", "--wait", "--timeout", "180s"], 1, &[&held, &ends]).await;
    let told = condition(&client, ns, "main", "TokensReady", "False", "RotationHeld").await;
    says(&told, &[&held, &format!("jam.network/revoke={id} ends it everywhere")]);
    for (pod, address) in node.addresses() {
        assert!(!told.contains(&pod), "it is no pod's fault: {told}");
        assert_eq!(answer(&address, &leaked).await, 200);
    }
    let ended = done(plane, ns, &["revoke", "main", &id, "--wait", "--timeout", "180s"]).await;
    says(&ended, &["refused with 401 by 2 pods"]);
    condition(&client, ns, "main", "TokensReady", "True", "TokensIssued").await;
    for address in node.addresses().into_values() {
        assert_eq!(answer(&address, &leaked).await, 401);
        for consumer in ["demo", "other"] {
            assert_eq!(answer(&address, &key(&client, ns, consumer, "token").await.unwrap()).await, 200, "{consumer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_ones_own_is_revoked_by_its_id_and_the_wait_ends_when_every_pod_refused_it() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let ns = namespace.as_str();
    database(&client, ns).await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), ns);
    for (name, token) in [("mine", "a-token-of-my-own-1"), ("admins", "an-administrators-token-1")] {
        let body = json!({"metadata": {"name": name}, "stringData": {"a": token, "b": format!("{token}-b")}});
        secrets.create(&PostParams::default(), &serde_json::from_value(body).unwrap()).await.unwrap();
    }
    let node = Node::running(&client, ns, "main");
    let account = Account::new(plane, &client, ns, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false"]);
    let mut own = spec(&json!([]));
    own["tokens"] = json!({"allowedTokensSecretRef": {"name": "mine"}, "adminTokensSecretRef": {"name": "admins"}});
    apply(&client, ns, "main", own).await;
    condition(&client, ns, "main", "Ready", "True", "Serving").await;
    for leaked in ["an-administrators-token-1", "a-token-of-my-own-1"] {
        let id = TokenHash::of(leaked).id().to_string();
        let revoked = done(plane, ns, &["revoke", "main", &id, "--wait", "--timeout", "180s"]).await;
        says(&revoked, &["is to be replaced in its Secret", "refused with 401 by 2 pods"]);
        for address in node.addresses().into_values() {
            assert_eq!(answer(&address, leaked).await, 401);
            assert_eq!(answer(&address, &format!("{leaked}-b")).await, 200);
        }
    }
    condition(&client, ns, "main", "TokensReady", "True", "TokensIssued").await;
    let nobodys = ["revoke", "main", "0a1b2c3d", "--wait", "--timeout", "180s"];
    refused(plane, ns, &nobodys, 1, &["0a1b2c3d is the id of no token that is known", "nothing is revoked"]).await;
    let name = ["revoke", "main", "mine"];
    refused(plane, ns, &name, 1, &["its tokens are your own, in Secret mine", "kubectl jam revoke main KEY-ID"]).await;
    operator.quiet().await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn plan_says_what_a_manifest_would_change_in_the_namespace_of_the_flag() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let ns = namespace.as_str();
    let _kubelet = Kubelet::play(&client, ns, 0, "");
    let account = Account::new(plane, &client, ns, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false"]);
    let spec = |rate: u32| {
        let jam = json!({"enabled": true, "store": "memory", "rateLimitPerMinute": rate});
        json!({"runtime": {"jam": jam}, "networkPolicy": {"allowFrom": [{"podSelector": {"matchLabels": {"app": "a"}}}]}})
    };
    apply(&client, ns, "main", spec(60)).await;
    condition(&client, ns, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    let plan = async |rate: u32| {
        // It names no namespace.
        let head = json!({"apiVersion": "jam.network/v1alpha1", "kind": "JamInstance", "metadata": {"name": "main"}});
        let mut manifest = head;
        manifest["spec"] = spec(rate);
        let arguments =
            ["plan", "-f", "-", "--api-image", "localhost/jam-api:dev", "--operator-namespace", ns, "-n", ns];
        jam_as(&plane.kubeconfig, &arguments, &manifest.to_string()).await
    };
    let same = plan(60).await;
    let assumed = format!("--api-image localhost/jam-api:dev --progress-deadline 300 --operator-namespace {ns}");
    let whole = format!("JamInstance {ns}/main: nothing would change\n  planned for an operator with {assumed}\n");
    assert_eq!((same.code, same.out.as_str()), (0, whole.as_str()), "a wrong guess is seen in the plan itself");
    let other = plan(7).await;
    assert_eq!(other.code, 1, "{other:?}");
    says(&other.out, &["settings: runtime.jam.rate_limit_per_minute: 60 -> 7", "pods of Deployment main restart"]);
    let refused = jam_as(&plane.kubeconfig, &["plan", "-f", "-"], "kind: Pod").await;
    assert_eq!(refused.code, 2);
    says(&refused.err, &["the manifest has no JamInstance"]);
}

#[tokio::test]
async fn every_reason_and_every_alert_is_explained_without_a_cluster() {
    let nowhere = repository("no/such/kubeconfig");
    for reason in Reason::ALL {
        let ran = jam_as(&nowhere, &["explain", reason.as_str()], "").await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{reason}");
        says(&ran.out, &[reason.explanation()]);
        assert!(!reason.is_warning() || ran.out.contains("Mitigation: "), "{reason}: {}", ran.out);
        assert!(!ran.out.contains(".md)"), "{reason}: {}", ran.out);
    }
    let all = jam_as(&nowhere, &["explain", "--reasons"], "").await;
    assert_eq!(all.out.lines().count(), Reason::ALL.len());
    says(&jam_as(&nowhere, &["explain", "JamRolledBack"], "").await.out, &["# JamRolledBack", "Mitigation"]);
    let near = jam_as(&nowhere, &["explain", "RoledBack"], "").await;
    assert_eq!((near.code, near.out.as_str()), (3, ""));
    says(&near.err, &["RoledBack is no reason and no alert, perhaps RolledBack", "(not_found)"]);
}
