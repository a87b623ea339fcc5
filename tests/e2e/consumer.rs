//! Pods that call: a consumer whose Secret is mounted and read again for each request, and others without a token.

use serde_json::{Value, json};

use crate::support::{Instance, apply, eventually, kubectl_ok, object};

/// A pod that calls fifty times a second and counts what it is answered.
pub struct Consumer {
    namespace: String,
    name: String,
}

/// What a consumer was answered so far.
#[derive(Debug)]
pub struct Answers {
    /// 2xx.
    pub good: u64,
    /// 401.
    pub unauthorized: u64,
    /// Other statuses.
    pub other: u64,
    /// No answer at all.
    pub unanswered: u64,
    /// How many tokens the file has held.
    pub tokens: u64,
}

impl Consumer {
    /// Starts it on this node and waits for its first good answer.
    pub async fn started(instance: &Instance, node: &str) -> Self {
        let service = object(&instance.namespace, "service", instance.name).unwrap_or_default();
        let address = service["spec"]["clusterIP"].as_str().expect("a Service has an address").to_owned();
        let port = service["spec"]["ports"][0]["port"].to_string();
        let mut pod = pod(&format!("consumer-{node}"), &instance.namespace, [&address, &port, "/jam/status"]);
        pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        pod["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "token", "mountPath": "/var/run/jam", "readOnly": true}]);
        pod["spec"]["volumes"] =
            json!([{"name": "token", "secret": {"secretName": format!("{}-token-demo", instance.name)}}]);
        let consumer = Self::of(&pod);
        eventually("the consumer to be answered", || async { consumer.answers().filter(|answers| answers.good > 0) })
            .await;
        consumer
    }

    /// Starts a pod with these labels and no token that calls an address, a port and a path.
    pub fn labelled(namespace: &str, name: &str, labels: &Value, what: [&str; 3]) -> Self {
        let mut pod = pod(name, namespace, what);
        pod["metadata"]["labels"] = labels.clone();
        Self::of(&pod)
    }

    fn of(pod: &Value) -> Self {
        apply(pod);
        let text = |key: &str| pod["metadata"][key].as_str().unwrap_or_default().to_owned();
        Self { namespace: text("namespace"), name: text("name") }
    }

    /// What it was answered up to a second ago.
    pub fn answers(&self) -> Option<Answers> {
        let line = crate::support::kubectl(&["-n", &self.namespace, "logs", &self.name, "--tail=1"]);
        let said: Value = serde_json::from_slice(&line.stdout).ok()?;
        let count = |key: &str| said[key].as_u64();
        Some(Answers {
            good: count("good")?,
            unauthorized: count("unauthorized")?,
            other: count("other")?,
            unanswered: count("unanswered")?,
            tokens: count("tokens")?,
        })
    }

    /// All that it has said: also what it is not to say.
    pub fn log(&self) -> String {
        kubectl_ok(&["-n", &self.namespace, "logs", &self.name])
    }
}

/// A pod that calls and has no token yet.
fn pod(name: &str, namespace: &str, [address, port, path]: [&str; 3]) -> Value {
    let restricted =
        json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 2,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "consumer", "image": "localhost/jam-consumer:dev", "imagePullPolicy": "IfNotPresent",
                "args": [address, port, path, "/var/run/jam/authorization"], "securityContext": restricted,
            }],
        },
    })
}
