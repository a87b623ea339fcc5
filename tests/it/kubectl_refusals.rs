//! What `kubectl jam` cannot do: each refusal names what is wrong, where, and what to do next.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli_support::{Fake, Reply};
use crate::crd_generated::{compare, repository};
use crate::kubectl_support::{jam, jam_as, refused, says};
use crate::operator_support::apply;
use crate::support::cluster::control_plane;

/// A kubeconfig for this address, in a folder of the test.
fn kubeconfig(folder: &Path, server: &str) -> PathBuf {
    let path = folder.join("kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": server}}],
        "users": [{"name": "it", "user": {"token": "x"}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": "here"}}],
    });
    std::fs::write(&path, text.to_string()).unwrap();
    path
}

#[tokio::test]
async fn an_instance_that_is_not_there_is_refused_with_the_names_that_are_near() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let ns = namespace.as_str();
    refused(
        plane,
        ns,
        &["status", "mian"],
        3,
        &["no JamInstance mian in namespace", "there is none in it", "(not_found)"],
    )
    .await;
    for name in ["main", "other"] {
        apply(&client, ns, name, json!({})).await;
    }
    for arguments in [
        &["status", "mian"][..],
        &["explain", "mian"],
        &["rotate", "mian"],
        &["revoke", "mian", "demo"],
        &["migrate", "mian"],
        &["pause", "mian"],
        &["resume", "mian"],
        &["enable", "mian"],
        &["disable", "mian"],
        &["cleanup", "mian"],
        &["support-bundle", "mian"],
    ] {
        refused(plane, ns, arguments, 3, &["no JamInstance mian", "there is main, other"]).await;
    }
    refused(plane, ns, &["rotate", "main"], 1, &["it has no token yet", "kubectl jam explain main -n", "(refused)"])
        .await;
    let waits = ["disable", "main", "--wait", "--timeout", "1s"];
    let late = jam(plane, ns, &waits).await;
    assert_eq!(late.code, 1);
    says(&late.err, &["waited 1 s for spec.runtime.jam.enabled=false to be in force, in vain", "(timeout)"]);
    for (field, secret) in [("allowedTokensSecretRef", "mine"), ("globalTokensSecretRef", "ours")] {
        apply(&client, ns, "other", json!({"tokens": {field: {"name": secret}}})).await;
        let words = [&format!("its tokens are your own, in Secret {secret}; change them there"), "(refused)"];
        for arguments in [&["rotate", "other"][..], &["revoke", "other", "demo"]] {
            refused(plane, ns, arguments, 1, &words).await;
        }
    }
}

#[tokio::test]
async fn who_may_not_is_told_which_right_is_missing() {
    let plane = control_plane();
    let (_client, namespace) = plane.with_crd().await;
    let ns = namespace.as_str();
    let folder = tempfile::tempdir().unwrap();
    let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(&plane.kubeconfig).unwrap()).unwrap();
    config["users"][0]["user"]["as"] = json!("eve");
    let path = folder.path().join("eve");
    std::fs::write(&path, config.to_string()).unwrap();
    for (arguments, words) in [
        (&["status", "-n", ns][..], "the right to list jaminstances.jam.network is missing: kubectl auth can-i list"),
        (&["status", "-A"], "kubectl auth can-i list jaminstances.jam.network -A"),
        (&["pause", "main", "-n", ns], "the right to get jaminstances.jam.network is missing"),
    ] {
        let ran = jam_as(&path, arguments, "").await;
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
        says(&ran.err, &[words, "(forbidden)"]);
    }
}

#[tokio::test]
async fn a_cluster_without_jaminstances_or_without_an_answer_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::answering(|_, _| Some(Reply("404 Not Found", String::new(), "404 page not found\n".into())));
    let path = kubeconfig(folder.path(), &fake.addr);
    for arguments in [&["status"][..], &["status", "main"], &["rotate", "main"]] {
        let ran = jam_as(&path, arguments, "").await;
        assert_eq!((ran.code, ran.out.as_str()), (3, ""), "{ran:?}");
        says(&ran.err, &["does not know JamInstances; install the operator: helm install", "(no_definition)"]);
    }
    let closed = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let ran = jam_as(&kubeconfig(folder.path(), &closed), &["status"], "").await;
    assert_eq!(ran.code, 4, "{ran:?}");
    says(&ran.err, &["cannot list JamInstances", "is the cluster up? kubectl cluster-info", "(unreachable)"]);
    let ran = jam_as(&kubeconfig(folder.path(), &closed), &["status", "--context", "elsewhere"], "").await;
    assert_eq!(ran.code, 2, "{ran:?}");
    says(&ran.err, &["no cluster is configured", "elsewhere", "--context", "(usage)"]);
    let ran = jam_as(Path::new("/"), &["status", "--kubeconfig", "no/such/file"], "").await;
    assert_eq!(ran.code, 2, "{ran:?}");
    says(&ran.err, &["no/such/file", "--kubeconfig or KUBECONFIG"]);
}

#[tokio::test]
async fn what_the_command_line_does_not_allow_is_usage() {
    for (arguments, words) in [
        (&["status", "main", "-A"][..], "cannot be used with"),
        (&["rotate"], "<NAME>"),
        (&["revoke", "main"], "<CONSUMER|KEY_ID|->"),
        (&["pause", "main", "--timeout", "soon"], "is not a duration such as 90s or 5m"),
        (&["support-bundle", "main", "--tail", "0"], "--tail"),
    ] {
        let ran = jam_as(Path::new("/"), arguments, "").await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        says(&ran.err, &[words]);
    }
}

#[tokio::test]
async fn the_reference_page_is_what_help_says() {
    let page = jam_as(Path::new("/"), &["reference"], "").await;
    compare(&repository("docs/kubectl-jam.md"), &page.out);
}
