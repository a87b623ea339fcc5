//! Kinds that come with an add-on, by their published definitions, installed and taken away while the operator runs and traffic flows.

use serde_json::{Value, json};

use crate::database::names_and_restarts;
use crate::path::memory_spec;
use crate::support::{Instance, eventually, kubectl, kubectl_ok, object, repository_file};
use crate::traffic::Load;

/// The definition of each kind, and its file in tests/it/crds.
const KINDS: [(&str, &str); 3] = [
    ("httproutes.gateway.networking.k8s.io", "httproutes"),
    ("servicemonitors.monitoring.coreos.com", "servicemonitors"),
    ("prometheusrules.monitoring.coreos.com", "prometheusrules"),
];

/// The definitions, gone when the test ends.
struct Definitions;

impl Definitions {
    fn installed() -> Self {
        for (_, file) in KINDS {
            let path = repository_file(&format!("tests/it/crds/{file}.json"));
            kubectl_ok(&["apply", "--server-side", "-f", &path.to_string_lossy()]);
        }
        Self
    }
}

impl Drop for Definitions {
    fn drop(&mut self) {
        let names = KINDS.map(|(name, _)| name);
        kubectl(&[["delete", "crd", "--timeout=60s"].as_slice(), &names].concat());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn optional_kinds_appear_when_their_published_definitions_do_and_none_of_it_is_noticed_by_who_calls() {
    let mut spec = memory_spec();
    spec["httpRoute"] = json!({"enabled": true, "hostnames": ["jam.example.com"], "parentRefs": [{"name": "gateway"}]});
    spec["monitoring"] = json!({"serviceMonitor": true, "prometheusRule": true, "dashboard": true});
    let instance = Instance::applied("optional", &spec);
    instance.wait_ready().await;
    let told = instance.says("OptionalKindsServed", "False", "KindNotServed").await;
    assert!(["HTTPRoute", "ServiceMonitor", "PrometheusRule"].iter().all(|kind| told.contains(kind)), "{told}");
    assert!(object(&instance.namespace, "configmap", "jam-dashboard").is_some(), "what needs no definition is there");
    let (pods, load) = (names_and_restarts(&instance), Load::on(&instance).await);

    let definitions = Definitions::installed();
    instance.says("OptionalKindsServed", "True", "KindsServed").await;
    let child = |kind: &str| object(&instance.namespace, kind, instance.name);
    for (kind, _) in KINDS {
        eventually(&format!("one of {kind}"), || async { child(kind) }).await;
    }
    instance.wait_ready().await;
    let (route, rules) = (KINDS[0].0, KINDS[2].0);
    let edit = json!({"spec": {"hostnames": ["stranger.example.com"]}}).to_string();
    kubectl_ok(&["-n", &instance.namespace, "patch", route, "jam", "--type", "merge", "-p", &edit]);
    kubectl_ok(&["-n", &instance.namespace, "delete", rules, "jam"]);
    eventually("the edit to be undone and the rules to be back", || async {
        let right = child(route)?["spec"]["hostnames"] == json!(["jam.example.com"]);
        child(rules).filter(|_| right)
    })
    .await;
    instance.patch(&json!({"spec": {"monitoring": {"serviceMonitor": false}}}));
    eventually("no ServiceMonitor any more", || async { child(KINDS[1].0).is_none().then_some(()) }).await;
    instance.wait_ready().await;

    drop(definitions);
    let told = instance.says("OptionalKindsServed", "False", "KindNotServed").await;
    assert!(told.contains("HTTPRoute") && !told.contains("ServiceMonitor"), "{told}");
    instance.wait_ready().await;
    load.all_answered().await;
    assert_eq!(names_and_restarts(&instance), pods, "nothing of it is a reason to replace a pod");
    let restarts = operator_restarts();
    assert!(restarts.iter().all(|count| *count == 0), "{restarts:?}");
}

/// How often the operator's containers were restarted.
fn operator_restarts() -> Vec<i64> {
    let pods = crate::support::objects("jam-system", "pods", "app.kubernetes.io/name=jam-operator");
    let count = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap_or_default();
    pods.iter().map(count).collect()
}
