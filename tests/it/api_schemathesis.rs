//! schemathesis against the OpenAPI document on a real server: all of its checks, the same cases every time, no finding.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::api_support::{TOKEN, World, file, laws, token_file};

/// How long it may take before the test fails instead of hanging; it takes half a minute on two cores.
const WITHIN: Duration = Duration::from_mins(4);

laws!(the_server_is_what_its_document_says);

async fn the_server_is_what_its_document_says(world: World) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/schemathesis");
    let installed = Command::new(folder.join("install")).stderr(Stdio::inherit()).output().await.unwrap();
    assert!(installed.status.success(), "dev/schemathesis/install failed");
    let program = String::from_utf8(installed.stdout).unwrap();
    let scopes: &[&str] = &["read", "submit", "process", "admin"];
    let (_tokens, tokens) = file("tokens.json", &token_file(&[(TOKEN, Some(scopes), None)]));
    let (_admins, admins) = file("admins.json", &token_file(&[(TOKEN, None, None)]));
    let server = world
        .with(&[
            ("JAM_ALLOWED_TOKENS", ""),
            ("JAM_TOKENS_FILE", tokens.to_str().unwrap()),
            ("JAM_ADMIN_TOKENS_FILE", admins.to_str().unwrap()),
        ])
        .await;
    let scratch = tempfile::tempdir().unwrap();
    let mut command = Command::new(program.trim());
    command.arg("--no-color").arg("--config-file").arg(folder.join("schemathesis.toml"));
    command.arg("run").arg(format!("{}/openapi.json", server.address));
    command.current_dir(&scratch).stdin(Stdio::null()).kill_on_drop(true);
    command.env("SCHEMATHESIS_HOOKS", folder.join("hooks.py")).env("SCHEMATHESIS_TOKEN", TOKEN).env("NO_PROXY", "*");
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let said = timeout(WITHIN, command.output()).await.expect("it ends in time").unwrap();
    let report = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{report}\n{}", String::from_utf8_lossy(&said.stderr));
    let generated = report.lines().find_map(|line| line.trim().split_once(" generated")?.0.parse::<u32>().ok());
    assert!(generated.is_some_and(|cases| cases > 1200), "{report}");
    assert!(!server.log().contains("\"level\":\"error\""), "{}", server.log());
}
