//! What an instance's pods are told beside what it needs: on real pods, under traffic, and refused by name where it would break them.

use serde_json::{Value, json};

use crate::database::names_and_restarts;
use crate::path::memory_spec;
use crate::support::{Instance, eventually, kubectl};
use crate::traffic::Load;

/// One of everything that may be told.
fn told() -> Value {
    let soft = json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": {
        "topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"team": "blue"}},
    }}]});
    json!({
        "labels": {"team": "blue"}, "annotations": {"example.com/note": "kept"},
        "resources": {"requests": {"cpu": "20m"}, "limits": {"memory": "768Mi"}},
        "env": [{"name": "GREETING", "value": "hello"}],
        "nodeSelector": {"kubernetes.io/hostname": "node2"}, "affinity": {"podAntiAffinity": soft},
        "tolerations": [{"key": "example.com/only", "operator": "Exists", "effect": "NoSchedule"}],
        "priorityClassName": "system-cluster-critical", "terminationGracePeriodSeconds": 45,
    })
}

/// What is in the pod that was made so.
fn is_followed(pod: &Value) {
    let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
    let container = &spec["containers"][0];
    assert_eq!(
        (&metadata["labels"]["team"], &metadata["annotations"]["example.com/note"]),
        (&json!("blue"), &json!("kept"))
    );
    assert_eq!(metadata["labels"]["app.kubernetes.io/instance"], "jam", "beside the instance's own");
    assert_eq!(container["resources"]["requests"]["cpu"], "20m");
    assert_eq!(container["resources"]["requests"]["memory"], "64Mi", "what is not told is as it was");
    assert_eq!(container["resources"]["limits"]["memory"], "768Mi");
    assert_eq!(container["env"], json!([{"name": "GREETING", "value": "hello"}]));
    assert_eq!((&spec["nodeName"], &spec["priorityClassName"]), (&json!("node2"), &json!("system-cluster-critical")));
    let tolerations = spec["tolerations"].as_array().expect("every pod has some");
    assert!(tolerations.iter().any(|toleration| toleration["key"] == "example.com/only"), "{tolerations:?}");
    assert!(spec["affinity"]["podAntiAffinity"].is_object() && spec["terminationGracePeriodSeconds"] == 45, "{spec}");
    assert_eq!(
        (&spec["securityContext"]["runAsNonRoot"], &container["securityContext"]["readOnlyRootFilesystem"]),
        (&json!(true), &json!(true))
    );
    assert!(spec["topologySpreadConstraints"].is_array(), "{spec}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overrides_are_in_real_pods_beside_what_the_instance_needs_and_what_would_break_it_is_refused_by_name() {
    let instance = Instance::applied("overrides", &memory_spec());
    instance.wait_ready().await;
    let load = Load::on(&instance).await;
    let first = names_and_restarts(&instance);
    instance.patch(&json!({"spec": {"podTemplate": told()}}));
    instance.wait_ready().await;
    eventually("the pod of before to be gone", || async { (instance.pods().len() == 1).then_some(()) }).await;
    is_followed(&instance.pods()[0]);
    let second = names_and_restarts(&instance);
    assert_ne!(first, second);

    let variable = |name: &str| json!({"env": [{"name": name, "value": "x"}]});
    for (template, named) in [
        (variable("JAM_STORE"), "spec.podTemplate.env: Invalid value: variables that begin with JAM_"),
        (
            json!({"labels": {"app.kubernetes.io/name": "x"}}),
            "spec.podTemplate.labels: Invalid value: labels of jam.network/ and app.kubernetes.io/",
        ),
        (
            json!({"annotations": {"jam.network/dsn-hash": "x"}}),
            "spec.podTemplate.annotations: Invalid value: annotations of jam.network/",
        ),
    ] {
        let change = json!({"spec": {"podTemplate": template}}).to_string();
        let patch = ["patch", "jam", "jam", "--type", "merge", "-p", &change];
        let refused = kubectl(&[["-n", instance.namespace.as_str()].as_slice(), &patch].concat());
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains(named), "{named}: {said}");
    }
    // What no schema can know, the API server says when the pods are to be made.
    let never = json!([{"key": "a", "operator": "Exists", "value": "b"}]);
    instance.patch(&json!({"spec": {"podTemplate": {"tolerations": never}}}));
    let said = instance.says("Stalled", "True", "InvalidObject").await;
    assert!(said.contains("tolerations"), "{said}");
    instance.is_told("Failed").await;
    assert_eq!(names_and_restarts(&instance), second, "those of before serve");

    instance.patch(&json!({"spec": {"podTemplate": null}}));
    instance.wait_ready().await;
    load.all_answered().await;
}
