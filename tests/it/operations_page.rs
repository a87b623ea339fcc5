//! docs/OPERATIONS.md is tried as it stands: every block of commands is run against the real API server.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::operator_kinds::on_postgres;
use crate::operator_support::{Account, Kubelet, apply, condition};
use crate::rotation_support::{Node, SECONDS, database, key, spec};
use crate::support::cluster::{ControlPlane, control_plane};

/// The sections with commands that are tried, in the order of the page.
const TRIED: [&str; 6] = [
    "Migrate",
    "When a migration fails",
    "When a migration can never succeed",
    "Rotate tokens",
    "Revoke a leaked token",
    "Clean up",
];

fn page() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATIONS.md")).unwrap()
}

/// Each section of the page with the commands in it: the blocks marked `sh`.
fn sections(page: &str) -> Vec<(String, String)> {
    let section = |text: &str| {
        let blocks = text.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
        (text.lines().next().unwrap_or_default().to_owned(), blocks.collect::<String>())
    };
    page.split("\n## ").skip(1).map(section).collect()
}

/// Runs the commands of a section in this namespace; any that fails is a failure. Returns what they printed.
async fn walk(plane: &ControlPlane, namespace: &str, section: &str) -> String {
    walk_for(plane, namespace, section, "demo").await
}

/// The same for another consumer than the one on the page.
async fn walk_for(plane: &ControlPlane, namespace: &str, section: &str, consumer: &str) -> String {
    let all = sections(&page());
    let (_, commands) = all.iter().find(|(name, _)| name == section).unwrap_or_else(|| panic!("no section {section}"));
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/cluster/build");
    let bin = Command::new(build).args(["--print-path", "kube"]).output().unwrap().stdout;
    let path = format!("export PATH={}:$PATH\n", String::from_utf8(bin).unwrap().trim());
    let script = path + &commands.replace("-n jam ", &format!("-n {namespace} ")).replace("demo", consumer);
    let mut shell = tokio::process::Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", &script]).env("KUBECONFIG", &plane.kubeconfig);
    let ended = shell.output().await.unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{section}:\n{script}\n{said}");
    said
}

#[test]
fn every_block_of_commands_is_tried() {
    let page = page();
    let with: Vec<String> =
        sections(&page).into_iter().filter(|(_, commands)| !commands.is_empty()).map(|(name, _)| name).collect();
    assert_eq!(with, TRIED);
    let fences = page.lines().filter(|line| line.starts_with("```")).count();
    assert_eq!(fences, page.matches("```sh\n").count() * 2, "no block is of another kind");
    assert!(page.matches("kubectl").count() > 20 && !page.contains("slctl"), "kubectl alone");
}

#[test]
fn no_command_waits_for_ever() {
    let waits = |line: &&str| line.contains(" wait ") || line.contains("rollout status");
    let sections = sections(&page());
    let lines: Vec<&str> = sections.iter().flat_map(|(_, commands)| commands.lines()).collect();
    let endless: Vec<_> = lines.iter().filter(|line| waits(line) && !line.contains(" --timeout=")).collect();
    let loops: Vec<_> = lines.iter().filter(|line| line.contains("; do ") || line.contains(" -w")).collect();
    assert!(endless.is_empty() && loops.is_empty(), "{endless:?} {loops:?}");
    assert!(lines.iter().filter(|line| waits(line)).count() > 20, "there are waits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotate_and_revoke_work_as_they_are_written() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    database(&client, &namespace).await;
    let _node = Node::running(&client, &namespace, "main");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let _operator = account.start(plane, SECONDS);
    // What is said of the first consumer is not what is said of the one on the page.
    apply(&client, &namespace, "main", spec(&json!([{"name": "alpha"}, {"name": "demo"}]))).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    walk_for(plane, &namespace, "Rotate tokens", "alpha").await;
    for section in ["Rotate tokens", "Revoke a leaked token"] {
        let before = key(&client, &namespace, "demo", "token").await;
        let said = walk(plane, &namespace, section).await;
        assert_ne!(key(&client, &namespace, "demo", "token").await, before, "{section}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrate_and_clean_up_work_as_they_are_written() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let kubelet = Kubelet::play(&client, &namespace, 0, "would apply: 4 admin");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let _operator = account.start(plane, &["--leader-election", "false"]);
    let mut spec = on_postgres(&client, &namespace).await;
    spec["cleanup"] = json!({"schedule": "0 0 29 2 *"});
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let said = walk(plane, &namespace, "Migrate").await;
    assert!(said.contains("would apply: 4 admin"), "{said}");
    let instances: kube::Api<jam_plan::JamInstance> = kube::Api::namespaced(client.clone(), &namespace);
    let version = instances.get("main").await.unwrap().status.unwrap().version.unwrap();
    assert_eq!(version.image.as_deref(), Some("localhost/jam-api:next"), "{said}");

    drop(kubelet);
    let words = r#"{"dry_run":true,"cutoff":"2026-10-22T03:17:00Z","duration_ms":12,"archived":{"packages":5},
        "deleted":{"packages":3}}"#;
    let _kubelet = Kubelet::play(&client, &namespace, 0, words);
    let said = walk(plane, &namespace, "Clean up").await;
    assert!(said.contains(r#""archived":{"packages":5},"cutoff":"2026-10-22T03:17:00Z""#), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_failed_and_one_that_never_can_succeed_are_put_right_as_it_is_written() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let mut kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let _operator = account.start(plane, &["--leader-election", "false"]);
    let mut spec = on_postgres(&client, &namespace).await;
    spec["migrations"] = json!({"backoffLimit": 0});
    apply(&client, &namespace, "main", spec.clone()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    for (exit_code, reason, section) in [
        (1, "MigrationFailed", "When a migration fails"),
        (3, "MigrationImpossible", "When a migration can never succeed"),
    ] {
        drop(kubelet);
        let kubelet_of_old = Kubelet::play(&client, &namespace, exit_code, "permission denied for schema public");
        spec["image"] = json!({"tag": format!("after-{exit_code}")});
        apply(&client, &namespace, "main", spec.clone()).await;
        let put_right = async {
            condition(&client, &namespace, "main", "Migrated", "False", reason).await;
            // Long enough for the page to see it where it is tried again by itself; at once where the page has it tried again.
            tokio::time::sleep(std::time::Duration::from_secs(if exit_code == 3 { 0 } else { 3 })).await;
            drop(kubelet_of_old);
            Kubelet::play(&client, &namespace, 0, "")
        };
        let (said, now) = tokio::join!(walk(plane, &namespace, section), put_right);
        kubelet = now;
        assert!(said.contains("permission denied for schema public"), "{section}: {said}");
        let instances: kube::Api<jam_plan::JamInstance> = kube::Api::namespaced(client.clone(), &namespace);
        let version = instances.get("main").await.unwrap().status.unwrap().version.unwrap();
        assert_eq!(version.image, Some(format!("localhost/jam-api:after-{exit_code}")), "{section}: {said}");
    }
    drop(kubelet);
}
