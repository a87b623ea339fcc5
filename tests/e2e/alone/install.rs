//! The operator installed, upgraded and taken away by helm: definition and instances stay, and what runs goes on running.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::path::memory_spec;
use crate::support::{Instance, eventually, kubectl, kubectl_ok, object, repository_file};
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
