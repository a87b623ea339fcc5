//! Deleted instances: gone whatever else is gone or going beneath them; token Secrets stay or go as the policy says.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jam_plan::{JamInstance, Kind};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::operator_kinds::{children, on_postgres};
use crate::operator_postgres::answer_for_pods;
use crate::operator_resource::plane_of_its_own;
use crate::operator_support::{Account, Kubelet, apply, condition, eventually};
use crate::support::cluster::{ControlPlane, control_plane};

const QUIET: &[&str] = &["--leader-election", "false"];

fn in_memory(policy: &str) -> Value {
    json!({
        "runtime": {"jam": {"enabled": true, "store": "memory"}},
        "tokens": {"consumers": [{"name": "demo"}]},
        "deletionPolicy": policy,
    })
}

async fn serving(client: &Client, namespace: &str, name: &str, policy: &str) {
    apply(client, namespace, name, in_memory(policy)).await;
    condition(client, namespace, name, "Ready", "True", "Serving").await;
}

async fn delete(client: &Client, namespace: &str, name: &str) {
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    instances.delete(name, &DeleteParams::default()).await.unwrap();
    eventually(&format!("{name} is gone"), async || instances.get_opt(name).await.ok()?.is_none().then_some(())).await;
}

/// The children of an instance that are there, as `Kind name`.
async fn left(client: &Client, namespace: &str, instance: &str) -> Option<Vec<String>> {
    let ours = ListParams::default().labels(&format!("jam.network/instance={instance}"));
    let mut found = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_optional()) {
        let list = children(client, namespace, kind).list(&ours).await.ok()?;
        found.extend(list.items.iter().map(|object| format!("{} {}", kind.as_str(), object.name_any())));
    }
    Some(found)
}

/// Waits until no child of an instance is left but these.
async fn leaves(client: &Client, namespace: &str, instance: &str, wanted: &[&str]) {
    eventually(&format!("{instance} leaves {wanted:?}"), async || {
        (left(client, namespace, instance).await? == wanted).then_some(())
    })
    .await;
}

async fn token(client: &Client, namespace: &str, name: &str) -> Secret {
    Api::<Secret>::namespaced(client.clone(), namespace).get(name).await.unwrap()
}

/// The notes of the events that tell what a deleted instance leaves.
async fn farewells(client: &Client, namespace: &str) -> Vec<String> {
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let told = events.list(&ListParams::default()).await.unwrap().items;
    let told = told.into_iter().filter(|event| event.reason.as_deref() == Some("Deleting"));
    told.filter_map(|event| event.note).collect()
}

#[tokio::test]
async fn retain_keeps_the_token_secrets_and_says_so_and_delete_removes_them() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    for (name, policy) in [("keep", "Retain"), ("drop", "Delete"), ("tokeep", "Delete"), ("todrop", "Retain")] {
        serving(&client, &namespace, name, policy).await;
    }
    // The policy that counts is the last one.
    let owned = async |name: &str| {
        token(&client, &namespace, &format!("{name}-token-demo")).await.metadata.owner_references.is_some()
    };
    apply(&client, &namespace, "tokeep", in_memory("Retain")).await;
    apply(&client, &namespace, "todrop", in_memory("Delete")).await;
    eventually("nobody takes it along", async || (!owned("tokeep").await).then_some(())).await;
    eventually("it is taken along", async || owned("todrop").await.then_some(())).await;

    let before = token(&client, &namespace, "keep-token-demo").await;
    let description = &before.annotations()["kubernetes.io/description"];
    assert!(description.contains("Kept when the instance is deleted"), "{description}");
    for name in ["keep", "drop", "tokeep", "todrop"] {
        delete(&client, &namespace, name).await;
    }
    leaves(&client, &namespace, "keep", &["Secret keep-token-demo"]).await;
    leaves(&client, &namespace, "tokeep", &["Secret tokeep-token-demo"]).await;
    leaves(&client, &namespace, "drop", &[]).await;
    leaves(&client, &namespace, "todrop", &[]).await;
    eventually("it is said", async || (farewells(&client, &namespace).await.len() >= 2).then_some(())).await;
    operator.quiet().await;
    let mut told = farewells(&client, &namespace).await;
    told.sort();
    assert_eq!(told.len(), 2, "once for each instance that leaves something: {told:?}");
    assert!(told[0].contains(": keep-token-demo.") && told[1].contains(": tokeep-token-demo."), "{told:?}");

    serving(&client, &namespace, "keep", "Retain").await;
    assert_eq!(
        token(&client, &namespace, "keep-token-demo").await.data,
        before.data,
        "the next instance takes it over"
    );
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn what_was_deleted_while_nobody_watched_is_gone_and_its_tokens_wait_for_the_next() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    for name in ["gone", "again", "stays"] {
        serving(&client, &namespace, name, "Retain").await;
    }
    operator.quiet().await;
    let writes = operator.writes().len();
    operator.stop().await;
    let before =
        [token(&client, &namespace, "gone-token-demo").await, token(&client, &namespace, "again-token-demo").await];
    delete(&client, &namespace, "gone").await;
    leaves(&client, &namespace, "gone", &["Secret gone-token-demo"]).await;
    delete(&client, &namespace, "again").await;
    apply(&client, &namespace, "again", in_memory("Retain")).await;

    let back = account.start(plane, QUIET);
    back.ready().await;
    condition(&client, &namespace, "again", "Ready", "True", "Serving").await;
    condition(&client, &namespace, "stays", "Ready", "True", "Serving").await;
    back.quiet().await;
    let since = back.writes().split_off(writes);
    assert!(since.iter().all(|asked| asked.name.starts_with("again")), "what is gone is left alone: {since:?}");
    for before in before {
        assert_eq!(token(&client, &namespace, &before.name_any()).await.data, before.data, "no token is lost");
    }
    leaves(&client, &namespace, "gone", &["Secret gone-token-demo"]).await;
    serving(&client, &namespace, "gone", "Delete").await;
    delete(&client, &namespace, "gone").await;
    leaves(&client, &namespace, "gone", &[]).await;
    assert!(back.forbidden().is_empty(), "{:?}", back.forbidden());
}

#[tokio::test]
async fn a_namespace_that_goes_takes_its_instances_along_and_the_others_go_on() {
    let plane = control_plane();
    let (client, home) = plane.with_crd().await;
    let (_, going) = plane.namespace().await;
    let _kubelets = [Kubelet::play(&client, &home, 0, ""), Kubelet::play(&client, &going, 0, "")];
    let watched = format!("{home},{going}");
    let account = Account::everywhere(plane, &client, &home, &watched, "operator").await;
    let operator = account.start(plane, QUIET);
    serving(&client, &home, "stays", "Retain").await;
    for name in ["one", "two"] {
        serving(&client, &going, name, "Retain").await;
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.delete(&going, &DeleteParams::default()).await.unwrap();
    eventually("the namespace is gone", async || namespaces.get_opt(&going).await.ok()?.is_none().then_some(())).await;

    children(&client, &home, Kind::Service).delete("stays", &DeleteParams::default()).await.unwrap();
    let services = children(&client, &home, Kind::Service);
    eventually("the others are looked after", async || services.get_opt("stays").await.ok()?).await;
    operator.quiet().await;
    let before = operator.asked().len();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let since = operator.asked().split_off(before);
    assert!(since.iter().all(|asked| !asked.is_write()), "nobody writes into a namespace that is gone: {since:?}");
    assert_eq!((operator.answer("/livez").await.0, operator.answer("/readyz").await.0), (200, 200));
}

#[tokio::test]
async fn a_database_that_is_away_holds_up_no_deletion() {
    const ADDRESS: &str = "127.61.4.10";
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let healthy = Arc::new(AtomicBool::new(true));
    answer_for_pods(ADDRESS, Arc::clone(&healthy)).await;
    let pods = Some((ADDRESS, Arc::clone(&healthy)));
    let kubelet = Kubelet::play_at(&client, &namespace, (0, ""), pods.clone());
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let mut spec = on_postgres(&client, &namespace).await;
    spec["cleanup"] = json!({});
    spec["workers"] = json!({"replicas": 1});
    spec["deletionPolicy"] = "Delete".into();
    spec["migrations"] = json!({"backoffLimit": 0});
    apply(&client, &namespace, "served", spec.clone()).await;
    condition(&client, &namespace, "served", "Ready", "True", "Serving").await;
    healthy.store(false, Ordering::SeqCst);
    condition(&client, &namespace, "served", "DatabaseReachable", "False", "DatabaseUnreachable").await;
    drop(kubelet);
    // A migration that cannot reach it either.
    let _kubelet = Kubelet::play_at(&client, &namespace, (1, "error: connection refused"), pods);
    apply(&client, &namespace, "unmigrated", spec.clone()).await;
    condition(&client, &namespace, "unmigrated", "Migrated", "False", "MigrationFailed").await;
    // Nor is there a Secret that says where it is.
    children(&client, &namespace, Kind::Secret).delete("db", &DeleteParams::default()).await.unwrap();
    condition(&client, &namespace, "served", "Stalled", "True", "SecretMissing").await;
    for name in ["served", "unmigrated"] {
        delete(&client, &namespace, name).await;
        leaves(&client, &namespace, name, &[]).await;
    }
    operator.quiet().await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

/// An API server that takes connections and answers nothing, until this is dropped.
struct Stalled(String);

impl Stalled {
    fn now(plane: &ControlPlane) -> Self {
        let file: PathBuf = plane.kubeconfig.with_file_name("apiserver.pid");
        let pid = std::fs::read_to_string(file).unwrap().trim().to_owned();
        assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
        Self(pid)
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        // It may be gone with its test.
        let _ = Command::new("kill").args(["-CONT", &self.0]).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_stalls_in_the_middle_holds_up_no_deletion_for_longer_than_it_stalls() {
    let plane = plane_of_its_own("stalled");
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(&plane, &client, &namespace, "operator").await;
    let operator = account.start(&plane, QUIET);
    for name in ["gone", "stays"] {
        serving(&client, &namespace, name, "Delete").await;
    }
    operator.quiet().await;
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    // In the middle: the operator has just been called for both.
    let settings = json!({"spec": {"runtime": {"jam": {"rateLimitPerMinute": 7}}}});
    for name in ["gone", "stays"] {
        instances.patch(name, &PatchParams::default(), &Patch::Merge(settings.clone())).await.unwrap();
    }
    let stalled = Stalled::now(&plane);
    let asked = tokio::spawn({
        let instances = instances.clone();
        async move { instances.delete("gone", &DeleteParams::default()).await }
    });
    // Longer than any request of the operator waits for an answer.
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert_eq!(operator.answer("/livez").await.0, 200, "it waits, it is not stuck");
    drop(stalled);
    if asked.await.unwrap().is_err() {
        // Whoever asked gave up in time, and asks again.
        let _ = instances.delete("gone", &DeleteParams::default()).await;
    }
    leaves(&client, &namespace, "gone", &[]).await;
    condition(&client, &namespace, "stays", "Ready", "True", "Serving").await;
    operator.quiet().await;
    assert_eq!(operator.answer("/livez").await.0, 200, "the same process goes on");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_definition_that_goes_takes_its_instances_along_and_is_served_again_when_it_is_back() {
    let plane = plane_of_its_own("definition");
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(&plane, &client, &namespace, "operator").await;
    let operator = account.start(&plane, QUIET);
    serving(&client, &namespace, "main", "Retain").await;
    let before = token(&client, &namespace, "main-token-demo").await;
    // The garbage collector follows a new definition after half a minute; from then on it knows owners.
    serving(&client, &namespace, "first", "Delete").await;
    delete(&client, &namespace, "first").await;
    leaves(&client, &namespace, "first", &[]).await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.delete("jaminstances.jam.network", &DeleteParams::default()).await.unwrap();
    eventually("the definition is gone", async || {
        definitions.get_opt("jaminstances.jam.network").await.ok()?.is_none().then_some(())
    })
    .await;
    leaves(&client, &namespace, "main", &["Secret main-token-demo"]).await;
    assert_eq!(operator.answer("/livez").await.0, 200, "it waits, it does not crash");
    eventually("the missing definition is named", async || {
        let (status, said) = operator.answer("/readyz").await;
        (status == 503 && said.contains("CustomResourceDefinition jaminstances.jam.network is missing")).then_some(())
    })
    .await;

    let apply = PatchParams::apply("jam-tests").force();
    let crd = jam_plan::crd::crd();
    definitions.patch("jaminstances.jam.network", &apply, &Patch::Apply(&crd)).await.unwrap();
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    eventually("it is served again", async || instances.list(&ListParams::default()).await.ok()).await;
    serving(&client, &namespace, "main", "Retain").await;
    assert_eq!(operator.answer("/readyz").await, (200, "leading\n".into()));
    assert_eq!(token(&client, &namespace, "main-token-demo").await.data, before.data);
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}
