//! `support-bundle`: what somebody needs who is to help, in one archive, each byte through the redactor.

mod archive;
mod parts;
mod secrets;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::Value;

use super::args::BundleArgs;
use super::cluster::{Cluster, place};
use super::fault::Fault;
use super::{explain, note, status};
use crate::redact::Redactor;

/// What is collected: files by name, and what could not be read.
pub struct Bundle {
    redactor: Redactor,
    files: BTreeMap<String, String>,
    missing: Vec<String>,
}

impl Bundle {
    /// Adds a text. There is no other way in than through the redactor.
    fn text(&mut self, name: &str, text: &str) {
        self.files.insert(self.redactor.text(name), self.redactor.text(text));
    }

    /// Adds an object as YAML, without what only the API server needs.
    fn object(&mut self, name: &str, mut object: Value) {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        // Holds the whole of an object once more, of a Secret as well.
        if let Some(notes) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
            notes.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        // Before it is YAML: there, a long value could be folded over lines.
        self.redactor.value(&mut object);
        let text = serde_saphyr::to_string(&object).unwrap_or_else(|error| format!("not written: {error}\n"));
        self.text(name, &text);
    }

    /// Notes what is not in it, and goes on: half a bundle helps more than none.
    fn lacks(&mut self, fault: &Fault) {
        let line = self.redactor.text(&fault.line());
        if !self.missing.contains(&line) {
            self.missing.push(line);
        }
    }
}

/// Collects and writes the archive.
pub async fn collect(cluster: &Cluster, args: &BundleArgs) -> Result<String, Fault> {
    let BundleArgs { name, output, tail } = args;
    let instance = cluster.instance(name).await?;
    let file = output.clone().unwrap_or_else(|| PathBuf::from(format!("jam-{}-{name}.tar.gz", cluster.namespace)));
    // Refused before the work.
    let target = archive::create(&file)?;
    let (known, unread) = secrets::known(cluster, &instance).await;
    let mut bundle = Bundle { redactor: Redactor::knowing(known), files: BTreeMap::new(), missing: Vec::new() };
    for fault in &unread {
        bundle.lacks(fault);
    }
    bundle.text("status.txt", &status::page(&instance));
    bundle.text("explain.txt", &explain::of(&instance));
    bundle.object("instance.yaml", serde_json::json!(instance));
    parts::children(cluster, name, &mut bundle).await;
    parts::pods(cluster, name, *tail, &mut bundle).await;
    parts::events(cluster, name, &mut bundle).await;
    parts::operator(cluster, *tail, &mut bundle).await;
    let readme = readme(cluster, &place(&instance), &bundle).await;
    bundle.text("README.txt", &readme);
    let folder = format!("jam-{}-{name}", cluster.namespace);
    let size = archive::write(target, &folder, &bundle.files)?;
    for missing in &bundle.missing {
        note(&format!("not in it: {missing}"));
    }
    Ok(format!(
        "{}: {} files, {size} bytes; no token, password or DSN is in it, but look before you send it: tar tzf {}\n",
        file.display(),
        bundle.files.len(),
        file.display()
    ))
}

async fn readme(cluster: &Cluster, at: &str, bundle: &Bundle) -> String {
    let server = cluster.client.apiserver_version().await.map(|version| version.git_version);
    let mut text = format!(
        "JamInstance {at}, {}\nkubectl-jam {}, Kubernetes {}\n\n\
         Secrets are here by name only. What the instance's Secrets hold was replaced by (redacted) wherever it stood, and so was\n\
         everything that looks like a password, a token, a DSN or a private key.\n\nNot in it:\n",
        jiff::Timestamp::now(),
        env!("CARGO_PKG_VERSION"),
        server.unwrap_or_else(|_| "unknown".into()),
    );
    for missing in &bundle.missing {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {missing}");
    }
    if bundle.missing.is_empty() {
        text.push_str("  nothing that was looked for\n");
    }
    text
}
