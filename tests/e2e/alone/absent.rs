//! Instances while the operator or their definition is away: what is deleted goes, tokens stay, and who comes back goes on with them.

use serde_json::{Value, json};

use crate::hold::Hold;
use crate::path::memory_spec;
use crate::removal::names;
use crate::rollouts::{packages, serving};
use crate::support::{Instance, eventually, kubectl, kubectl_ok, object, objects};
use crate::traffic::Load;

const CRD: &str = "jaminstances.jam.network";
const OURS: &str = "app.kubernetes.io/instance=jam";

/// Brings what was taken away back, also when the test fails in between.
struct Away(Value);

impl Away {
    /// The operator, with as many replicas as it had.
    fn operator() -> Self {
        let operator = object("jam-system", "deployment", "jam-operator").expect("the operator is installed");
        let spec = json!({"spec": {"replicas": operator["spec"]["replicas"]}});
        kubectl_ok(&["-n", "jam-system", "scale", "deployment", "jam-operator", "--replicas=0"]);
        Self(spec)
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let change = self.0.to_string();
        kubectl(&["-n", "jam-system", "patch", "deployment", "jam-operator", "--type", "merge", "-p", &change]);
        kubectl(&["-n", "jam-system", "rollout", "status", "deployment", "jam-operator", "--timeout=90s"]);
    }
}

/// The definition, put back as it was.
pub struct Definition(Value);

impl Definition {
    /// As it is now.
    pub fn remembered() -> Self {
        let mut crd = object("default", "crd", CRD).expect("it is installed");
        let metadata = ["annotations", "labels"].map(|field| (field.to_owned(), crd["metadata"][field].clone()));
        crd["metadata"] = metadata.into_iter().chain([("name".to_owned(), json!(CRD))]).collect();
        crd.as_object_mut().expect("an object").remove("status");
        Self(crd)
    }

    /// As it was.
    pub fn put_back(&self) {
        put(&self.0);
    }

    /// It lets through any spec, until it is put back: so an instance gets in that cannot be read.
    pub fn loosen(&self) {
        let mut crd = self.0.clone();
        let version = &mut crd["spec"]["versions"][0];
        let schema = &mut version["schema"]["openAPIV3Schema"];
        schema["properties"]["spec"] = json!({
            "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"replicas": {"x-kubernetes-preserve-unknown-fields": true}},
        });
        schema.as_object_mut().expect("a schema").remove("x-kubernetes-validations");
        version.as_object_mut().expect("a version").remove("selectableFields");
        version["subresources"] = json!({"status": {}});
        put(&crd);
    }
}

/// As helm, which made it: its next upgrade would find it in another's hands.
fn put(crd: &Value) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("crd.json");
    std::fs::write(&file, crd.to_string()).expect("a file can be written there");
    let how = ["apply", "--server-side", "--force-conflicts", "--field-manager=helm", "-f"];
    let output = kubectl(&[how.as_slice(), &[&*file.to_string_lossy()]].concat());
    assert!(output.status.success() || std::thread::panicking(), "{}", String::from_utf8_lossy(&output.stderr));
}

impl Drop for Definition {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // On its way out it would take what is put back along.
            let goes = object("default", "crd", CRD).is_some_and(|crd| !crd["metadata"]["deletionTimestamp"].is_null());
            goes.then(|| kubectl(&["wait", "--for=delete", "crd", CRD, "--timeout=60s"]));
        }
        self.put_back();
    }
}

/// Each pod of the operator with how often it was restarted.
fn operator_pods() -> Vec<(String, String)> {
    let of = |pod: &Value| {
        (pod["metadata"]["uid"].to_string(), pod["status"]["containerStatuses"][0]["restartCount"].to_string())
    };
    objects("jam-system", "pods", "app.kubernetes.io/name=jam-operator").iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_no_operator_runs_pods_serve_a_deletion_ends_and_the_next_instance_has_its_tokens_when_one_is_back() {
    let serves = Instance::in_new_namespace("served");
    let instance = Instance::applied("absent", &memory_spec());
    serving(&serves).await;
    instance.wait_ready().await;
    let token = instance.token();
    let load = Load::on(&serves).await;

    let away = Away::operator();
    eventually("no operator to be there", || async { operator_pods().is_empty().then_some(()) }).await;
    kubectl_ok(&["-n", &instance.namespace, "delete", "jam", "jam", "--timeout=30s"]);
    eventually("all but the token to be gone", || async {
        (names(&instance, OURS) == ["Secret/jam-token-demo"]).then_some(())
    })
    .await;
    instance.apply(&memory_spec());
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(
        (instance.kstatus(), names(&instance, OURS).len()),
        ("InProgress", 1),
        "nobody is there to make anything"
    );

    drop(away);
    instance.wait_ready().await;
    assert_eq!(instance.token(), token, "the next of its name takes the tokens over");
    let submitted = load.all_answered().await;
    assert_eq!(packages(&serves), submitted, "what was accepted without an operator is there, once");
    serves.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_that_hangs_in_its_end_stops_no_pod_and_when_it_is_back_so_are_instances_with_their_tokens() {
    let instance = Instance::applied("undefined", &memory_spec());
    instance.wait_ready().await;
    let (token, operator) = (instance.token(), operator_pods());
    let load = Load::on(&instance).await;
    let definition = Definition::remembered();
    let hold = Hold::on(&instance, "jam");
    kubectl_ok(&["delete", "crd", CRD, "--wait=false"]);
    eventually("the definition to hang in its end", || async {
        let conditions = object("default", "crd", CRD)?["status"]["conditions"].as_array()?.clone();
        let hangs = |told: &Value| told["type"] == "Terminating" && told["status"] == "True";
        (conditions.iter().any(hangs) && instance.kstatus() == "Terminating").then_some(())
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    load.all_answered().await;

    drop(hold);
    eventually("the definition to be gone", || async { object("default", "crd", CRD).is_none().then_some(()) }).await;
    eventually("all but the token to be gone", || async {
        (names(&instance, OURS) == ["Secret/jam-token-demo"]).then_some(())
    })
    .await;
    definition.put_back();
    eventually("it to be served again", || async { kubectl(&["get", "jam", "-A"]).status.success().then_some(()) })
        .await;
    instance.apply(&memory_spec());
    instance.wait_ready().await;
    assert_eq!(instance.token(), token, "the next of its name takes the tokens over");
    assert_eq!(operator_pods(), operator, "the operator waited, it did not crash");
}
