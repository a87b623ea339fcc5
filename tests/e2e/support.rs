//! What the claims are told with: kubectl and slctl as users run them, and an instance in a namespace of its own.

use std::cell::Cell;
use std::future::Future;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::kstatus::kstatus;

/// How long a claim may take before it counts as broken. Generous: it bounds, it does not measure.
pub const PATIENCE: Duration = Duration::from_mins(3);
/// How long a client waits for one answer: longer than an instance takes to find out that its database is silent.
pub const PATIENT: Duration = Duration::from_secs(20);

/// How long after a pod is lost an instance may be told to be whole.
const LAG: Duration = Duration::from_secs(20);

/// Runs kubectl and hands back what it said.
pub fn kubectl(arguments: &[&str]) -> Output {
    Command::new("kubectl").args(arguments).output().expect("kubectl is on PATH inside dev/cluster/shell")
}

/// Runs kubectl, which must succeed, and hands back its standard output.
pub fn kubectl_ok(arguments: &[&str]) -> String {
    let output = kubectl(arguments);
    assert!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// One object as JSON, or `None` when it is not there.
pub fn object(namespace: &str, kind: &str, name: &str) -> Option<Value> {
    let output = kubectl(&["-n", namespace, "get", kind, name, "-o", "json"]);
    output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("kubectl prints JSON"))
}

/// The items of a list as JSON.
pub fn objects(namespace: &str, kinds: &str, selector: &str) -> Vec<Value> {
    let text = kubectl_ok(&["-n", namespace, "get", kinds, "-l", selector, "-o", "json"]);
    let list: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
    list["items"].as_array().cloned().unwrap_or_default()
}

/// Applies one object given as JSON.
pub fn apply(object: &Value) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("object.json");
    std::fs::write(&file, object.to_string()).expect("a file can be written there");
    kubectl_ok(&["apply", "-f", &file.to_string_lossy()]);
}

/// Asks again until the answer is there; says what it waited for when it never comes.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for: {what}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// A JamInstance in a namespace of its own, gone when the test ends.
pub struct Instance {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: &'static str,
}

impl Instance {
    /// Makes the namespace, enforcing the `restricted` pod security standard, and applies the instance.
    pub fn applied(purpose: &str, spec: &Value) -> Self {
        let instance = Self::in_new_namespace(purpose);
        instance.apply(spec);
        instance
    }

    /// Only the namespace, for claims that put something else there first.
    pub fn in_new_namespace(purpose: &str) -> Self {
        Self::named("jam", purpose)
    }

    /// The same for an instance of another name, where what is done selects pods of every namespace.
    pub fn named(name: &'static str, purpose: &str) -> Self {
        let namespace = format!("e2e-{purpose}-{:x}", std::process::id());
        apply(&json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }));
        Self { namespace, name }
    }

    /// Applies the instance with this spec.
    pub fn apply(&self, spec: &Value) {
        apply(&json!({
            "apiVersion": "jam.network/v1alpha1", "kind": "JamInstance",
            "metadata": {"name": self.name, "namespace": self.namespace}, "spec": spec,
        }));
    }

    /// Changes the instance as an SRE does.
    pub fn patch(&self, change: &Value) {
        kubectl_ok(&["-n", &self.namespace, "patch", "jam", self.name, "--type", "merge", "-p", &change.to_string()]);
    }

    /// Waits as a pipeline does: with kubectl, and with what knows kstatus alone.
    pub async fn wait_ready(&self) {
        let output = self.kubectl_wait("Ready", "180s");
        assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), self.describe());
        self.is_told("Current").await;
    }

    /// `kubectl wait --for=condition=…`.
    pub fn kubectl_wait(&self, condition: &str, timeout: &str) -> Output {
        let (condition, jam) = (format!("--for=condition={condition}"), format!("jam/{}", self.name));
        kubectl(&["-n", &self.namespace, "wait", &condition, &jam, &format!("--timeout={timeout}")])
    }

    /// Waits until kstatus comes to this, where kubectl and the pods themselves must come to the same: ready is what is `Current`, and
    /// nothing else is.
    pub async fn is_told(&self, wanted: &str) {
        let lag = Cell::new(None::<Instant>);
        eventually(&format!("kstatus {wanted} of {}", self.namespace), || async {
            let jam = object(&self.namespace, "jam", self.name)?;
            let (is_ready, is_whole) = (self.kubectl_wait("Ready", "0s").status.success(), self.is_whole());
            let again = object(&self.namespace, "jam", self.name)?;
            let unchanged = jam["metadata"]["resourceVersion"] == again["metadata"]["resourceVersion"];
            if !unchanged || kstatus(&jam) != wanted {
                return None;
            }
            assert_eq!(is_ready, wanted == "Current", "kubectl and kstatus disagree: {}", self.describe());
            if wanted == "Current" && !is_whole {
                // A pod that is lost is heard of a moment later.
                let since = lag.get().unwrap_or_else(Instant::now);
                lag.set(Some(since));
                assert!(since.elapsed() < LAG, "Current, and pods are not: {}", self.describe());
                return None;
            }
            Some(())
        })
        .await;
    }

    /// Whether every pod that is wanted is there, of the newest template and available, and no other: of the API and of the worker.
    fn is_whole(&self) -> bool {
        let all = objects(&self.namespace, "deployments", &format!("app.kubernetes.io/instance={}", self.name));
        let is_done = |deployment: &Value| {
            let (wanted, told) = (&deployment["spec"]["replicas"], &deployment["status"]);
            told["observedGeneration"] == deployment["metadata"]["generation"]
                && ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"]
                    .iter()
                    .all(|count| told[count] == *wanted)
        };
        !all.is_empty() && all.iter().all(is_done)
    }

    /// What a person would look at when it does not get ready.
    pub fn describe(&self) -> String {
        let get = kubectl(&["-n", &self.namespace, "get", "jam,deploy,job,pod", "-o", "wide"]);
        let status = kubectl(&["-n", &self.namespace, "get", "jam", self.name, "-o", "jsonpath={.status}"]);
        let events = kubectl(&["-n", &self.namespace, "get", "events", "--sort-by=.lastTimestamp"]);
        [get, status, events].map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).join("\n---\n")
    }

    /// The status of one condition: `True`, `False`, `Unknown`, or "" when it is not there.
    pub fn condition(&self, kind: &str) -> (String, String) {
        let object = object(&self.namespace, "jam", self.name).unwrap_or_default();
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default();
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"))
    }

    /// The message of a condition.
    pub fn message(&self, kind: &str) -> String {
        let template = format!("jsonpath={{.status.conditions[?(@.type==\"{kind}\")].message}}");
        let output = kubectl(&["-n", &self.namespace, "get", "jam", self.name, "-o", &template]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits for a condition and hands back its message.
    pub async fn says(&self, kind: &str, status: &str, reason: &str) -> String {
        eventually(&format!("{kind}={status} {reason} of {}", self.namespace), || async {
            (self.condition(kind) == (status.into(), reason.into())).then(|| self.message(kind))
        })
        .await
    }

    /// What kstatus, and with it `helm --wait`, Argo CD and Flux, makes of it now.
    pub fn kstatus(&self) -> &'static str {
        object(&self.namespace, "jam", self.name).map_or("NotFound", |jam| kstatus(&jam))
    }

    /// The token of the consumer `demo`, read from its Secret.
    pub fn token(&self) -> String {
        let secret = format!("{}-token-demo", self.name);
        kubectl_ok(&["-n", &self.namespace, "get", "secret", &secret, "-o", "go-template={{.data.token|base64decode}}"])
    }

    /// Where its Service is, as status says.
    pub fn endpoint(&self) -> String {
        kubectl_ok(&["-n", &self.namespace, "get", "jam", self.name, "-o", "jsonpath={.status.endpoint}"])
    }

    /// Runs slctl against it.
    pub fn slctl(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_slctl"))
            .args(["--addr", &self.endpoint(), "--token", &self.token()])
            .args(arguments)
            .output()
            .expect("slctl was built with the tests")
    }

    /// Runs slctl, which must succeed, and hands back its standard output.
    pub fn slctl_ok(&self, arguments: &[&str]) -> String {
        let output = self.slctl(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "slctl {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The pods of the API, as JSON.
    pub fn pods(&self) -> Vec<Value> {
        objects(
            &self.namespace,
            "pods",
            &format!("app.kubernetes.io/instance={},app.kubernetes.io/component=api", self.name),
        )
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.describe());
        }
        kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
    }
}

/// An HTTP client that keeps no connection, so that every request meets the Service anew.
pub fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .timeout(PATIENT)
        .build()
        .expect("a client without special settings can be built")
}

/// A file of the repository, as real input.
pub fn repository_file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}
