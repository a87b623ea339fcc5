//! The operator installed, upgraded and taken away by helm: definition and instances stay, and what runs goes on running.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::database::restarts;
use crate::databases::rollouts;
use crate::path::memory_spec;
use crate::rollouts::serving;
use crate::support::{Instance, eventually, kubectl, kubectl_ok, object, objects, repository_file};
use crate::traffic::Load;

const CRD: &str = "jaminstances.jam.network";

fn helm(arguments: &[&str]) -> String {
    let arguments = [arguments, &["--namespace", "jam-system"]].concat();
    let output = Command::new("helm").args(&arguments).output().expect("helm is on PATH inside dev/cluster/shell");
    assert!(output.status.success(), "helm {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Installs or upgrades to a chart with the values of the first installation.
fn to(chart: &Path, values: &Path) {
    let (chart, values) = (chart.to_string_lossy(), values.to_string_lossy());
    helm(&["upgrade", "--install", "jam-operator", &chart, "--values", &values, "--wait", "--timeout", "120s"]);
}

/// A file with the values of the first installation.
fn first_values(folder: &Path) -> PathBuf {
    let file = folder.join("values.json");
    std::fs::write(&file, helm(&["get", "values", "jam-operator", "--output", "json"])).expect("a file can be written");
    file
}

/// The chart as an earlier release had it: with a definition that calls a column otherwise.
fn earlier(folder: &Path) {
    let copied = Command::new("cp").arg("-r").arg(repository_file("charts/jam-operator")).arg(folder).status();
    assert!(copied.is_ok_and(|status| status.success()));
    let file = folder.join("jam-operator/files/crd.yaml");
    let now = std::fs::read_to_string(&file).expect("the chart carries the definition");
    assert!(now.contains("name: Enabled"), "a column that can be renamed");
    std::fs::write(&file, now.replace("name: Enabled", "name: Formerly")).expect("a file can be written there");
}

fn columns() -> String {
    let all = kubectl_ok(&["get", "crd", CRD, "-o", "jsonpath={.spec.versions[0].additionalPrinterColumns[*].name}"]);
    all.trim().to_owned()
}

fn operator_is_there() -> bool {
    kubectl(&["-n", "jam-system", "get", "deployment", "jam-operator"]).status.success()
}

/// The operator has seen a change of the spec.
async fn is_kept(instance: &Instance, days: u32) {
    instance.patch(&json!({"metadata": {"annotations": {"e2e": days.to_string()}}, "spec": {"cleanup": {"suspend": days % 2 == 1}}}));
    eventually("the change to be observed", || async {
        let jam = object(&instance.namespace, "jam", instance.name)?;
        (jam["status"]["observedGeneration"] == jam["metadata"]["generation"]).then_some(())
    })
    .await;
    instance.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helm_upgrades_the_definition_and_an_uninstall_keeps_it_with_every_instance_serving() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let values = first_values(folder.path());
    let chart = repository_file("charts/jam-operator");
    let instance = Instance::applied("helm", &memory_spec());
    instance.wait_ready().await;
    let pod = instance.pods()[0]["metadata"]["uid"].clone();
    let load = Load::on(&instance).await;

    earlier(folder.path());
    to(&folder.path().join("jam-operator"), &values);
    assert!(columns().contains("Formerly"), "{}", columns());
    to(&chart, &values);
    assert!(columns().contains("Enabled") && !columns().contains("Formerly"), "{}", columns());
    is_kept(&instance, 1).await;
    helm(&["test", "jam-operator", "--timeout", "60s"]);

    helm(&["uninstall", "jam-operator", "--wait", "--timeout", "60s"]);
    assert!(!operator_is_there());
    assert!(columns().contains("Enabled"), "the definition is kept");
    assert!(
        object(&instance.namespace, "jam", instance.name)
            .is_some_and(|jam| jam["metadata"]["deletionTimestamp"].is_null())
    );

    to(&chart, &values);
    is_kept(&instance, 2).await;
    let pods = instance.pods();
    assert!(pods.len() == 1 && pods[0]["metadata"]["uid"] == pod, "the same pod all the while: {pods:#?}");
    load.all_answered().await;
}

/// The values of the first installation again, also when the test fails in between.
struct AsItWas<'a>(&'a Path, &'a Path);

impl Drop for AsItWas<'_> {
    fn drop(&mut self) {
        to(self.0, self.1);
    }
}

/// The same values for a release that makes other pods of the same spec.
fn renders_as(revision: &str, values: &Path, folder: &Path) -> PathBuf {
    let text = std::fs::read_to_string(values).expect("it was written");
    let mut newer: Value = serde_json::from_str(&text).expect("helm prints JSON");
    let variable = json!({"name": "JAM_RENDER_REVISION", "value": revision});
    newer["extraEnv"].as_array_mut().expect("short hours are told by a variable").push(variable);
    let file = folder.join("newer.json");
    std::fs::write(&file, newer.to_string()).expect("a file can be written there");
    file
}

/// The revision of the rendering that status pins, and those of the templates of API and worker.
fn rendered(instance: &Instance) -> Vec<String> {
    let jam = object(&instance.namespace, "jam", instance.name).unwrap_or_default();
    let template = |name: &str| {
        let deployment = object(&instance.namespace, "deployment", name).unwrap_or_default();
        let told = deployment.pointer("/spec/template/metadata/annotations/jam.network~1render-revision");
        told.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    vec![jam["status"]["renderRevision"].to_string(), template("jam"), template("jam-worker")]
}

/// The operator of now has looked at the instance: it puts right what somebody has taken off its Service.
async fn is_looked_after(instance: &Instance) {
    kubectl_ok(&["-n", &instance.namespace, "label", "service", "jam", "app.kubernetes.io/part-of-"]);
    eventually("the label to be put back", || async {
        let service = object(&instance.namespace, "service", "jam")?;
        (service["metadata"]["labels"]["app.kubernetes.io/part-of"] == "jam").then_some(())
    })
    .await;
    instance.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_to_an_operator_that_renders_differently_restarts_no_pod_and_the_next_change_is_one_rollout() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (chart, values) = (repository_file("charts/jam-operator"), first_values(folder.path()));
    let instance = Instance::in_new_namespace("rendered");
    serving(&instance).await;
    let ours = "app.kubernetes.io/instance=jam,app.kubernetes.io/component in (api,worker)";
    let everybody = || restarts(&objects(&instance.namespace, "pods", ours));
    let (before, load) = (everybody(), Load::on(&instance).await);
    assert_eq!((rendered(&instance), rollouts(&instance).as_str()), (vec!["1".to_owned(); 3], "1"));

    let back = AsItWas(&chart, &values);
    to(&chart, &renders_as("2", &values, folder.path()));
    is_looked_after(&instance).await;
    assert_eq!(everybody(), before, "an upgrade of the operator restarts no pod by itself");
    assert_eq!((rendered(&instance), rollouts(&instance).as_str()), (vec!["1".to_owned(); 3], "1"), "pinned in status");

    instance.patch(&json!({"spec": {"cleanup": {"schedule": "0 3 * * *", "suspend": true}}}));
    instance.is_told("InProgress").await;
    instance.wait_ready().await;
    is_looked_after(&instance).await;
    assert_eq!(
        (rendered(&instance), rollouts(&instance).as_str()),
        (vec!["2".to_owned(); 3], "2"),
        "exactly one rollout"
    );
    let new =
        |now: BTreeMap<String, u64>| (now.len() == 3 && !now.keys().any(|pod| before.contains_key(pod))).then_some(now);
    let after = eventually("the pods of before to be gone", || async { new(everybody()) }).await;

    // Back to the release before it: that is no change of the spec either.
    drop(back);
    is_looked_after(&instance).await;
    assert_eq!((everybody(), rendered(&instance)), (after, vec!["2".to_owned(); 3]));
    load.all_answered().await;
}
