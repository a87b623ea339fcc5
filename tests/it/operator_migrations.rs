//! Migrations on the real Job controller: before the pods, one at a time, and what becomes of the old version when one fails.

use jam_plan::JamInstance;
use jam_plan::crd::MigrationState;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::operator_kinds::on_postgres;
use crate::operator_support::{Account, Kubelet, apply, condition, eventually};
use crate::support::cluster::control_plane;

const QUIET: &[&str] = &["--leader-election", "false"];

/// The Jobs of the migration, by name.
async fn jobs(client: &Client, namespace: &str) -> Vec<String> {
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    let mut names: Vec<_> =
        jobs.list(&ListParams::default()).await.unwrap().items.iter().map(ResourceExt::name_any).collect();
    names.sort();
    names
}

/// What the pods are made from: image and hash of the DSN.
async fn pods(client: &Client, namespace: &str) -> (String, String) {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let template = json!(deployments.get("main").await.unwrap().spec.unwrap().template);
    let text = |path: &str| template.pointer(path).and_then(Value::as_str).unwrap().to_owned();
    (text("/spec/containers/0/image"), text("/metadata/annotations/jam.network~1dsn-hash"))
}

async fn patch(client: &Client, namespace: &str, change: Value) {
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    instances.patch("main", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
}

async fn instance(client: &Client, namespace: &str) -> JamInstance {
    Api::<JamInstance>::namespaced(client.clone(), namespace).get("main").await.unwrap()
}

#[tokio::test]
async fn a_failed_migration_keeps_the_old_version_says_why_and_is_tried_again_by_itself() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let mut spec = on_postgres(&client, &namespace).await;
    // Pods that fail are tried again by the Job itself; here one is enough.
    spec["migrations"] = json!({"backoffLimit": 0});
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let before = pods(&client, &namespace).await;
    let first = jobs(&client, &namespace).await;

    drop(kubelet);
    let words = format!("{}error: the lock of table packages is taken", "a line of the log\n".repeat(100));
    let kubelet = Kubelet::play(&client, &namespace, 1, words.leak());
    patch(&client, &namespace, json!({"spec": {"image": {"tag": "next"}}})).await;
    let told = condition(&client, &namespace, "main", "Migrated", "False", "MigrationFailed").await;
    let migration = instance(&client, &namespace).await.status.unwrap().migration.unwrap();
    assert!(told.contains(&migration.job) && told.ends_with("the lock of table packages is taken"), "{told}");
    assert!(told.len() < 1024, "the last lines, not all of them");
    assert_eq!((migration.state, migration.attempt), (MigrationState::Failed, 0));
    assert!(migration.retry_at > migration.finished_at && migration.retry_at.is_some());
    operator.quiet().await;
    assert_eq!(pods(&client, &namespace).await, before, "the old version stays");
    assert_eq!(jobs(&client, &namespace).await.len(), first.len() + 1, "not at once again");

    drop(kubelet);
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    eventually("the next attempt", async || {
        let told = instance(&client, &namespace).await.status?.migration?;
        (told.attempt == 1 && told.state == MigrationState::Complete).then_some(())
    })
    .await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    assert_eq!(pods(&client, &namespace).await.0, "localhost/jam-api:next");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_migration_whose_time_is_up_has_its_last_words_in_status_and_no_second_pod() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let words = "jam-api: gave up after 540 s, applying 4 admin, which waits for process 4711 of other";
    let _kubelet = Kubelet::play(&client, &namespace, 124, words);
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    apply(&client, &namespace, "main", on_postgres(&client, &namespace).await).await;
    let told = condition(&client, &namespace, "main", "Migrated", "False", "MigrationFailed").await;
    let migration = instance(&client, &namespace).await.status.unwrap().migration.unwrap();
    assert!(told.contains(&migration.job) && told.contains(words), "{told}");
    assert_eq!((migration.state, migration.message.as_deref()), (MigrationState::Failed, Some(words)));
    assert!(migration.retry_at > migration.finished_at, "it is tried again by itself");
    operator.quiet().await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let made = pods.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(made.len(), 1, "the deadline would cut a second one short");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_migration_whose_image_cannot_be_pulled_says_so_while_it_waits() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    apply(&client, &namespace, "main", on_postgres(&client, &namespace).await).await;
    let pod = eventually("a pod", async || unfinished(&client, &namespace).await.pop()).await.0;
    let waiting = json!({"reason": "ErrImagePull", "message": "jam-api:nowhere: not found"});
    let container = json!({"name": "jam", "image": "x", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": waiting}});
    let status = json!({"status": {"phase": "Pending", "containerStatuses": [container]}});
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    pods.patch_status(&pod, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    for kind in ["Ready", "Migrated"] {
        eventually("it is told why nothing goes on", async || {
            let told = condition(&client, &namespace, "main", kind, "False", "Migrating").await;
            told.contains(&format!("runs: pod {pod}: ErrImagePull: jam-api:nowhere: not found")).then_some(())
        })
        .await;
    }
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

/// What a program says that cares for no secret: the password p@ss-w0rd/x in the ways of URLs, of libpq, of JSON, and a token.
const INDISCREET: &str = r#"connecting to postgres://jam:p%40ss-w0rd%2Fx@db:5432/jam
host=db user=jam password=p@ss-w0rd/x dbname=jam
{"pg_dsn":"postgres:\/\/jam:p%40ss-w0rd%2Fx@db","password":"p@ss-w0rd\/x"}
neither p@ss-w0rd/x nor p%40ss%2Dw0rd%2Fx nor cEBzcy13MHJkL3g= was right
Authorization: Bearer 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
the end of it"#;

#[tokio::test]
async fn no_word_of_a_failed_migration_tells_a_password_or_a_token_however_it_is_written() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 1, INDISCREET);
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let mut spec = on_postgres(&client, &namespace).await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let filled = json!({"stringData": {"dsn": "postgres://jam:p%40ss-w0rd%2Fx@db:5432/jam"}});
    secrets.patch("db", &PatchParams::default(), &Patch::Merge(filled)).await.unwrap();
    spec["migrations"] = json!({"backoffLimit": 0});
    apply(&client, &namespace, "main", spec.clone()).await;
    let told = condition(&client, &namespace, "main", "Migrated", "False", "MigrationFailed").await;
    assert!(told.ends_with("the end of it") && told.contains("db:5432/jam"), "what helps is told: {told}");
    spec["migrations"] = json!({"mode": "Manual"});
    spec["image"] = json!({"tag": "next"});
    apply(&client, &namespace, "main", spec).await;
    eventually("the dry run's words", async || {
        let told = condition(&client, &namespace, "main", "Migrated", "False", "ApprovalNeeded").await;
        told.contains("the end of it").then_some(())
    })
    .await;
    operator.quiet().await;
    let events: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(client.clone(), &namespace);
    let events = events.list(&ListParams::default()).await.unwrap().items;
    let all = json!([instance(&client, &namespace).await.status, events]).to_string() + &operator.logged();
    assert!(all.contains("the end of it"), "{all}");
    for part in ["w0rd", "cEBzcy13MHJkL3g", "0123456789abcdef"] {
        assert!(!all.contains(part), "{part}: {all}");
    }
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn exit_code_3_keeps_the_old_version_and_waits_for_a_change_also_after_a_restart() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    apply(&client, &namespace, "main", on_postgres(&client, &namespace).await).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let before = pods(&client, &namespace).await;

    drop(kubelet);
    let kubelet = Kubelet::play(&client, &namespace, 3, "error: schema 9 is newer than this build");
    patch(&client, &namespace, json!({"spec": {"image": {"tag": "older"}}})).await;
    let told = condition(&client, &namespace, "main", "Migrated", "False", "MigrationImpossible").await;
    assert!(told.contains("schema 9 is newer"), "{told}");
    operator.quiet().await;
    assert_eq!(pods(&client, &namespace).await, before, "the old version stays");
    let tried = jobs(&client, &namespace).await;

    // Its time to live is over, and the operator is another process.
    operator.stop().await;
    let all: Api<Job> = Api::namespaced(client.clone(), &namespace);
    for name in &tried {
        all.delete(name, &DeleteParams::background()).await.unwrap();
    }
    let operator = account.start(plane, QUIET);
    operator.ready().await;
    operator.quiet().await;
    assert!(jobs(&client, &namespace).await.is_empty(), "nothing changed, so nothing is tried");
    assert_eq!(pods(&client, &namespace).await, before);

    drop(kubelet);
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    patch(&client, &namespace, json!({"spec": {"image": {"tag": "newer"}}})).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    assert_eq!(pods(&client, &namespace).await.0, "localhost/jam-api:newer");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_new_dsn_is_migrated_before_any_pod_moves_and_a_job_that_is_gone_is_not_run_again() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    apply(&client, &namespace, "main", on_postgres(&client, &namespace).await).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let before = pods(&client, &namespace).await;
    let all: Api<Job> = Api::namespaced(client.clone(), &namespace);
    let first = jobs(&client, &namespace).await;
    all.delete(&first[0], &DeleteParams::background()).await.unwrap();
    eventually("its time to live is over", async || jobs(&client, &namespace).await.is_empty().then_some(())).await;
    operator.quiet().await;
    assert!(jobs(&client, &namespace).await.is_empty(), "what is complete is not run again");

    // Nobody runs the Job for now.
    drop(kubelet);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let moved = json!({"stringData": {"dsn": "postgres://jam@elsewhere/jam"}});
    secrets.patch("db", &PatchParams::default(), &Patch::Merge(moved)).await.unwrap();
    let told = condition(&client, &namespace, "main", "Migrated", "False", "Migrating").await;
    assert!(told.contains("main-migrate-"), "{told}");
    operator.quiet().await;
    assert_eq!(pods(&client, &namespace).await, before, "no pod moves before its database is migrated");
    let second = jobs(&client, &namespace).await;
    assert!(second.len() == 1 && second != first, "another database is another migration: {second:?}");

    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let after = pods(&client, &namespace).await;
    assert_eq!((&after.0, after.1 != before.1), (&before.0, true), "the same image, the new database");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_manual_migration_says_what_would_be_applied_and_runs_when_it_is_approved() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "would apply: 4 admin\nwould apply: 5 events\n");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let mut spec = on_postgres(&client, &namespace).await;
    spec["migrations"] = json!({"mode": "Manual"});
    apply(&client, &namespace, "main", spec).await;
    let told = eventually("what would be applied", async || {
        let told = condition(&client, &namespace, "main", "Migrated", "False", "ApprovalNeeded").await;
        told.contains("(would apply: 4 admin; would apply: 5 events)").then_some(told)
    })
    .await;
    let migration = instance(&client, &namespace).await.status.unwrap().migration.unwrap();
    assert!(told.contains(&format!("jam.network/approve-migration={} --overwrite", migration.key)), "{told}");
    let dry = jobs(&client, &namespace).await;
    assert!(dry.len() == 1 && dry[0].ends_with("-dry"), "nothing is applied: {dry:?}");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    assert!(deployments.get_opt("main").await.unwrap().is_none());

    let all: Api<Job> = Api::namespaced(client.clone(), &namespace);
    all.delete(&dry[0], &DeleteParams::background()).await.unwrap();
    eventually("its time to live is over", async || jobs(&client, &namespace).await.is_empty().then_some(())).await;
    operator.quiet().await;
    assert!(jobs(&client, &namespace).await.is_empty(), "what was said is remembered");
    patch(&client, &namespace, json!({"metadata": {"annotations": {"jam.network/approve-migration": "another"}}}))
        .await;
    operator.quiet().await;
    assert!(jobs(&client, &namespace).await.is_empty(), "an approval is for one migration");
    let approval = json!({"metadata": {"annotations": {"jam.network/approve-migration": migration.key}}});
    patch(&client, &namespace, approval).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    assert_eq!(jobs(&client, &namespace).await, [migration.job]);
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_new_password_of_the_same_database_needs_no_approval_because_nothing_would_be_applied() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let kubelet = Kubelet::play(&client, &namespace, 0, "would apply: 4 admin\n");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let mut spec = on_postgres(&client, &namespace).await;
    apply(&client, &namespace, "main", spec.clone()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    spec["migrations"] = json!({"mode": "Manual"});
    apply(&client, &namespace, "main", spec).await;
    let (image, before) = pods(&client, &namespace).await;

    drop(kubelet);
    let kubelet = Kubelet::play(&client, &namespace, 0, "nothing would apply\n");
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let filled = |dsn: &str| Patch::Merge(json!({"stringData": {"dsn": dsn}}));
    let rotated = filled("postgres://jam:another@db:6432/jam");
    secrets.patch("db", &PatchParams::default(), &rotated).await.unwrap();
    eventually("the pods have the new password", async || (pods(&client, &namespace).await.1 != before).then_some(()))
        .await;
    condition(&client, &namespace, "main", "Migrated", "True", "MigrationComplete").await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let (same, second) = pods(&client, &namespace).await;
    assert_eq!(same, image);

    drop(kubelet);
    let _kubelet = Kubelet::play(&client, &namespace, 0, "would apply: 1 initial\n");
    let moved = filled("postgres://jam:another@elsewhere:6432/jam");
    secrets.patch("db", &PatchParams::default(), &moved).await.unwrap();
    let told = condition(&client, &namespace, "main", "Migrated", "False", "ApprovalNeeded").await;
    operator.quiet().await;
    assert_eq!(pods(&client, &namespace).await.1, second, "a database to be migrated waits: {told}");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

/// The migration's pods that have not ended: name, and whether they are on their way out.
pub async fn unfinished(client: &Client, namespace: &str) -> Vec<(String, bool)> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = pods.list(&ListParams::default().labels("app.kubernetes.io/component=migration")).await.unwrap();
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    let left = list.items.iter().filter(|pod| !["Succeeded", "Failed"].contains(&phase(pod).as_str()));
    left.map(|pod| (pod.name_any(), pod.metadata.deletion_timestamp.is_some())).collect()
}

/// Holds a pod where it is, as a node does that has not stopped it yet or is dead; or lets go of it.
async fn hold(client: &Client, namespace: &str, pod: &str, held: bool) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    // Its Job's controller may write its own in between.
    eventually("the finalizers are written", async || {
        let mut all = pods.get(pod).await.ok()?;
        all.finalizers_mut().retain(|name| name != "it.test/node");
        if held {
            all.finalizers_mut().push("it.test/node".into());
        }
        pods.replace(pod, &PostParams::default(), &all).await.ok()
    })
    .await;
}

#[tokio::test]
async fn no_migration_begins_before_every_pod_of_an_earlier_one_has_ended() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    apply(&client, &namespace, "main", on_postgres(&client, &namespace).await).await;
    let one = async || {
        eventually("a migration has a pod", async || {
            let pods = unfinished(&client, &namespace).await;
            assert!(pods.len() < 2, "two at once: {pods:?}");
            pods.into_iter().find(|(_, leaving)| !leaving).map(|(name, _)| name)
        })
        .await
    };
    let first = one().await;
    hold(&client, &namespace, &first, true).await;
    patch(&client, &namespace, json!({"spec": {"image": {"tag": "next"}}})).await;
    eventually("the earlier Job is stopped", async || {
        let pods = unfinished(&client, &namespace).await;
        assert!(pods.len() < 2, "two at once: {pods:?}");
        pods.iter().any(|(_, leaving)| *leaving).then_some(())
    })
    .await;
    eventually("what is waited for is said", async || {
        let told = condition(&client, &namespace, "main", "Migrated", "False", "Migrating").await;
        told.contains("earlier migration: Job main-migrate-").then_some(())
    })
    .await;
    operator.quiet().await;
    assert_eq!(unfinished(&client, &namespace).await, [(first.clone(), true)], "its Job stays for as long as it does");
    hold(&client, &namespace, &first, false).await;
    let second = one().await;

    hold(&client, &namespace, &second, true).await;
    let all: Api<Job> = Api::namespaced(client.clone(), &namespace);
    for job in jobs(&client, &namespace).await {
        all.delete(&job, &DeleteParams::background()).await.unwrap();
    }
    // Words about a generation are not said at every step; about a new one they are.
    patch(&client, &namespace, json!({"spec": {"replicas": 3}})).await;
    eventually("the pod without a Job is named", async || {
        let told = condition(&client, &namespace, "main", "Migrated", "False", "Migrating").await;
        told.contains(&format!("earlier migration: pod {second} (on its way out")).then_some(())
    })
    .await;
    operator.quiet().await;
    assert_eq!(unfinished(&client, &namespace).await, [(second.clone(), true)]);
    assert!(jobs(&client, &namespace).await.is_empty(), "and no Job waits to make another");
    hold(&client, &namespace, &second, false).await;
    one().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}
