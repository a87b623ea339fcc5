//! Who waits for an instance with kubectl or Helm, whose `--wait` is kstatus, learns what is true.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use jam_plan::JamInstance;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::chart::helm;
use crate::kubelet::FATE;
use crate::operator_support::{Account, Kubelet, apply, condition, kstatus};
use crate::support::cluster::{ControlPlane, control_plane};

fn in_memory() -> Value {
    json!({"runtime": {"jam": {"enabled": true, "store": "memory"}}})
}

/// Runs a program of the cluster's tools as the administrator.
async fn run(plane: &ControlPlane, namespace: &str, program: &str, arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = tokio::process::Command::new(program);
    command.args(["-n", namespace]).args(arguments).env("KUBECONFIG", &plane.kubeconfig).env("HOME", home.path());
    command.stdin(Stdio::null()).output().await.unwrap()
}

fn kubectl() -> String {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/cluster/build");
    let told = Command::new(build).args(["--print-path", "kube"]).output().unwrap();
    format!("{}/kubectl", String::from_utf8(told.stdout).unwrap().trim())
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn now(client: &Client, namespace: &str) -> JamInstance {
    Api::<JamInstance>::namespaced(client.clone(), namespace).get("main").await.unwrap()
}

#[tokio::test]
async fn kubectl_wait_returns_when_the_newest_spec_is_served_and_not_before() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let _operator = account.start(plane, &["--leader-election", "false"]);
    let program = kubectl();
    let wait = async |what: &str, seconds: &str| {
        let (what, seconds) = (format!("--for=condition={what}"), format!("--timeout={seconds}s"));
        run(plane, &namespace, &program, &["wait", &what, "jam/main", &seconds]).await
    };
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    apply(&client, &namespace, "main", in_memory()).await;
    for rate in 1..=3 {
        // Asked at once, while the status still says that the spec before it is ready.
        let change = json!({"spec": {"runtime": {"jam": {"rateLimitPerMinute": rate}}}});
        instances.patch("main", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
        let waited = wait("Ready", "60").await;
        assert!(waited.status.success(), "{}", said(&waited));
        let there = now(&client, &namespace).await;
        assert_eq!(kstatus(&there), "Current");
        let status = there.status.unwrap();
        assert_eq!((status.observed_generation, status.revision.unwrap().generation), (Some(rate + 1), rate + 1));
    }
    let stalled = json!({"spec": {"blobStore": {"url": "s3://bucket/prefix"}}});
    instances.patch("main", &PatchParams::default(), &Patch::Merge(stalled)).await.unwrap();
    assert!(wait("Stalled", "60").await.status.success());
    let waited = wait("Ready", "2").await;
    assert!(!waited.status.success() && said(&waited).contains("timed out"), "{}", said(&waited));
    assert!(wait("Ready=False", "60").await.status.success());
}

#[test]
fn kstatus_decides_by_its_published_rules_in_their_order() {
    let told = |kind: &str, status: &str| json!({"type": kind, "status": status});
    let of = |observed: &Value, conditions: &[Value]| {
        let mut object = json!({"metadata": {"generation": 2}, "status": {"conditions": conditions}});
        if !observed.is_null() {
            object["status"]["observedGeneration"] = observed.clone();
        }
        crate::kstatus::kstatus(&object)
    };
    let (ready, unready, unknown) = (told("Ready", "True"), told("Ready", "False"), told("Ready", "Unknown"));
    let (reconciling, stalled) = (told("Reconciling", "True"), told("Stalled", "True"));
    let (seen, unseen, silent) = (json!(2), json!(1), Value::Null);
    assert_eq!(of(&seen, &[ready.clone(), told("Stalled", "False")]), "Current");
    assert_eq!(of(&unseen, std::slice::from_ref(&ready)), "InProgress", "a generation that nobody has seen");
    assert_eq!(of(&json!(-1), &[]), "InProgress", "as the schema's default says");
    assert_eq!(of(&silent, std::slice::from_ref(&ready)), "Current", "it asks for no generation that is not told");
    assert_eq!(of(&silent, &[]), "Current", "what tells it nothing is finished");
    assert_eq!(of(&seen, std::slice::from_ref(&unready)), "InProgress");
    assert_eq!(of(&seen, &[unknown]), "InProgress");
    assert_eq!(of(&seen, &[ready.clone(), reconciling.clone()]), "InProgress");
    assert_eq!(of(&seen, &[unready, stalled.clone()]), "Failed");
    assert_eq!(
        (of(&seen, &[stalled.clone(), reconciling.clone()]), of(&seen, &[reconciling, stalled])),
        ("Failed", "InProgress")
    );
    let going = json!({"metadata": {"generation": 2, "deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"conditions": [ready]}});
    assert_eq!(crate::kstatus::kstatus(&going), "Terminating");
}

/// A chart of somebody's application with an instance in it.
fn chart(folder: &Path, spec: &Value) {
    std::fs::create_dir_all(folder.join("templates")).unwrap();
    std::fs::write(folder.join("Chart.yaml"), "apiVersion: v2\nname: application\nversion: 1.0.0\n").unwrap();
    let instance = json!({"apiVersion": "jam.network/v1alpha1", "kind": "JamInstance", "metadata": {"name": "main"}, "spec": spec});
    std::fs::write(folder.join("templates/instance.yaml"), instance.to_string()).unwrap();
}

#[tokio::test]
async fn helm_waits_for_an_instance_and_tells_a_stalled_one_and_a_bad_rollout_from_a_good_one() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let _operator = account.start(plane, &["--leader-election", "false", "--progress-deadline", "5"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let upgrade = async |spec: &Value| {
        chart(folder.path(), spec);
        run(plane, &namespace, helm(), &["upgrade", "--install", "app", path, "--wait", "--timeout", "60s"]).await
    };
    let installed = upgrade(&in_memory()).await;
    assert!(installed.status.success(), "{}", said(&installed));
    assert_eq!(kstatus(&now(&client, &namespace).await), "Current", "it waited");

    let mut spec = in_memory();
    spec["blobStore"] = json!({"url": "s3://bucket/prefix"});
    let stalled = upgrade(&spec).await;
    assert!(!stalled.status.success(), "{}", said(&stalled));
    assert_eq!(kstatus(&now(&client, &namespace).await), "Failed", "helm knew what is so");

    let mut spec = in_memory();
    spec["podTemplate"] = json!({"env": [{"name": FATE, "value": "crash"}]});
    let bad = upgrade(&spec).await;
    assert!(!bad.status.success(), "{}", said(&bad));
    condition(&client, &namespace, "main", "Ready", "False", "RolledBack").await;

    let mended = upgrade(&in_memory()).await;
    assert!(mended.status.success(), "{}", said(&mended));
    assert_eq!(kstatus(&now(&client, &namespace).await), "Current");
    let gone = run(plane, &namespace, helm(), &["uninstall", "app", "--wait", "--timeout", "60s"]).await;
    assert!(gone.status.success(), "{}", said(&gone));
    assert!(Api::<JamInstance>::namespaced(client, &namespace).get_opt("main").await.unwrap().is_none());
}
