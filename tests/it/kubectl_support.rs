//! What the tests of `kubectl jam` share: the real kubectl finds the plugin on PATH and runs it against the real API server.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cli_support::Ran;
use crate::support::cluster::ControlPlane;

/// Where the cached kubectl is.
fn kubectl_folder() -> PathBuf {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/cluster/build");
    let told = Command::new(build).args(["--print-path", "kube"]).output().unwrap().stdout;
    PathBuf::from(String::from_utf8(told).unwrap().trim())
}

/// kubectl's folder and the plugin's.
fn path() -> OsString {
    let plugin = Path::new(env!("CARGO_BIN_EXE_kubectl-jam")).parent().unwrap();
    std::env::join_paths([kubectl_folder().as_path(), plugin]).unwrap()
}

/// Runs `kubectl jam …` with this kubeconfig. Not blocking: what the tests play goes on meanwhile.
pub async fn jam_as(kubeconfig: &Path, arguments: &[&str], input: &str) -> Ran {
    let mut command = tokio::process::Command::new(kubectl_folder().join("kubectl"));
    command.arg("jam").args(arguments).env_clear().env("PATH", path()).env("KUBECONFIG", kubeconfig);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may have ended without reading.
    let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_bytes()).await;
    drop(stdin);
    let ended = child.wait_with_output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).expect("it prints UTF-8");
    Ran { code: ended.status.code().unwrap(), out: text(ended.stdout), err: text(ended.stderr) }
}

/// The same as the administrator, in a namespace.
pub async fn jam(plane: &ControlPlane, namespace: &str, arguments: &[&str]) -> Ran {
    jam_as(&plane.kubeconfig, &[arguments, &["-n", namespace]].concat(), "").await
}

/// The same, wanting success and nothing on stderr; gives stdout.
pub async fn done(plane: &ControlPlane, namespace: &str, arguments: &[&str]) -> String {
    let ran = jam(plane, namespace, arguments).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "kubectl jam {arguments:?}: {}", ran.out);
    ran.out
}

/// The same, wanting this exit code, nothing on stdout, and one line on stderr with each of these words.
pub async fn refused(plane: &ControlPlane, namespace: &str, arguments: &[&str], code: i32, words: &[&str]) {
    let ran = jam(plane, namespace, arguments).await;
    assert_eq!((ran.code, ran.out.as_str(), ran.err.lines().count()), (code, "", 1), "{arguments:?}: {ran:?}");
    for word in words {
        assert!(ran.err.contains(word), "{arguments:?}: {word:?} in {}", ran.err);
    }
}

/// Each of these in the text.
#[track_caller]
pub fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} in {text}");
    }
}
