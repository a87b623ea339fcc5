//! The Helm chart as helm renders it: what a value changes, what is refused, and that it says what the Rust sources say.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::crd_generated::{compare, repository};

/// Where helm is; it is built when it is not there.
pub fn helm() -> &'static str {
    static HELM: OnceLock<String> = OnceLock::new();
    HELM.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/cluster/build");
        let told = Command::new(script).args(["--print-path", "helm"]).output().unwrap();
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        format!("{}/helm", String::from_utf8(told.stdout).unwrap().trim())
    })
}

/// What the chart becomes with these values, by kind and name; or what helm says against it.
fn rendered(values: &[&str]) -> Result<BTreeMap<String, Value>, String> {
    let mut arguments = vec!["template", "jam", "charts/jam-operator", "--namespace", "system"];
    arguments.extend(values.iter().flat_map(|value| ["--set", value]));
    let told = Command::new(helm()).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    if !told.status.success() {
        return Err(String::from_utf8_lossy(&told.stderr).into_owned());
    }
    let documents: Vec<Value> = serde_saphyr::from_multiple(&String::from_utf8(told.stdout).unwrap()).unwrap();
    let name = |document: &Value| {
        let word = |path: &str| document.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let namespace = word("/metadata/namespace");
        let place = if namespace.is_empty() || namespace == "system" { String::new() } else { format!("{namespace}/") };
        format!("{} {place}{}", word("/kind"), word("/metadata/name"))
    };
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .map(|document| (name(&document), document))
        .collect())
}

#[test]
fn a_value_that_the_chart_does_not_know_is_refused_by_name() {
    for (value, named) in [
        ("replica=2", "replica"),
        ("metrics.serviceMonitor.enable=true", "enable"),
        ("admissionPolicy.enabled=maybe", "admissionPolicy"),
        ("concurrency=0", "concurrency"),
    ] {
        let said = rendered(&[value]).expect_err(value);
        assert!(said.contains(named), "{value}: {said}");
    }
}

#[test]
fn named_namespaces_get_a_role_each_and_the_cluster_none_of_their_rights() {
    let all = rendered(&["watchNamespaces={a,b}"]).unwrap();
    assert!(all.contains_key("Role a/jam-jam-operator") && all.contains_key("RoleBinding b/jam-jam-operator"));
    let wide = all["ClusterRole jam-jam-operator"]["rules"].to_string();
    assert!(!wide.contains("secrets") && wide.contains("customresourcedefinitions"), "{wide}");
    let binding = all["ValidatingAdmissionPolicyBinding jam-jam-operator"].to_string();
    assert!(binding.contains(r#""values":["a","b"]"#), "{binding}");
}

#[test]
fn there_is_no_webhook() {
    let all = rendered(&["metrics.serviceMonitor.enabled=true"]).unwrap();
    let hooks: Vec<_> = all.keys().filter(|name| name.contains("Webhook")).collect();
    assert!(all.len() > 8 && hooks.is_empty(), "{hooks:?}");
}

#[test]
fn what_needs_definitions_of_others_is_off_until_it_is_asked_for() {
    let plain = rendered(&[]).unwrap();
    let kinds: Vec<&str> = plain.keys().filter_map(|name| name.split(' ').next()).collect();
    assert!(!kinds.contains(&"ServiceMonitor") && !kinds.contains(&"PrometheusRule"), "{kinds:?}");
    let asked = rendered(&["metrics.serviceMonitor.enabled=true", "metrics.prometheusRule.enabled=true"]).unwrap();
    let rules = asked["PrometheusRule jam-jam-operator"].pointer("/spec/groups/0/rules").unwrap().as_array().unwrap();
    assert_eq!(rules.len(), jam_plan::alerts::OF_OPERATOR.len());
    for rule in rules {
        let expression = rule["expr"].as_str().unwrap();
        assert!(expression.contains(r#"{namespace="system",service="jam-jam-operator""#), "{expression}");
        assert!(!expression.contains('$'), "{expression}");
    }
    assert!(!rendered(&["admissionPolicy.enabled=false"]).unwrap().keys().any(|name| name.contains("Admission")));
}

#[test]
fn the_charts_alerts_and_dashboard_are_the_tables() {
    compare(&repository("charts/jam-operator/files/alerts.yaml"), &jam_plan::alerts::operator_yaml());
    compare(&repository("charts/jam-operator/files/dashboard.json"), &jam_plan::dashboards::of_operator());
}

#[test]
fn the_operators_dashboard_speaks_of_this_release_alone() {
    let all = rendered(&["metrics.dashboard.enabled=true"]).unwrap();
    let map = &all["ConfigMap jam-jam-operator-dashboard"];
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let dashboard: Value = serde_json::from_str(map["data"]["jam-operator.json"].as_str().unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() >= 4, "instances, reconciles, their time, watches");
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()) {
        let expression = target["expr"].as_str().unwrap();
        assert!(expression.contains(r#"{namespace="system",service="jam-jam-operator"}"#), "{expression}");
    }
}

#[test]
fn network_policies_find_the_operators_pods_by_their_label() {
    let all = rendered(&["nameOverride=other"]).unwrap();
    let deployment = all.iter().find(|(name, _)| name.starts_with("Deployment ")).unwrap().1;
    let (label, value) = jam_plan::names::OPERATOR;
    assert_eq!(deployment["spec"]["template"]["metadata"]["labels"][label], value);
}

#[test]
fn everything_that_is_installed_is_restricted() {
    for (name, object) in rendered(&["replicas=2"]).unwrap() {
        for path in ["/spec/template/spec", "/spec"] {
            let Some(pod) = object.pointer(path).filter(|pod| pod.get("containers").is_some()) else { continue };
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
            for container in pod["containers"].as_array().unwrap() {
                assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL", "{name}");
            }
        }
    }
}

#[test]
fn a_digest_alone_decides_what_is_pulled_and_further_variables_reach_the_operator() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let image = format!("image.digest={digest}");
    let values = [
        image.as_str(),
        "image.tag=v9",
        "extraEnv[0].name=HTTPS_PROXY",
        "extraEnv[0].value=http://p",
        "kubeletSyncSeconds=7",
    ];
    let all = rendered(&values).unwrap();
    let deployment = all.iter().find(|(name, _)| name.starts_with("Deployment ")).unwrap().1;
    let container = deployment.pointer("/spec/template/spec/containers/0").unwrap();
    assert_eq!(container["image"], format!("jam-operator@{digest}"));
    let variables = container["env"].as_array().unwrap();
    let value = |name: &str| variables.iter().find(|one| one["name"] == name).map(|one| one["value"].clone());
    assert_eq!(value("HTTPS_PROXY"), Some("http://p".into()));
    assert_eq!(value("JAM_KUBELET_SYNC_SECONDS"), Some("7".into()));
    assert!(rendered(&["image.digest=latest"]).is_err());
}

#[test]
fn the_digest_of_the_api_image_reaches_the_operator_and_a_wrong_one_is_refused() {
    let digest = format!("sha256:{}", "b".repeat(64));
    let api_image = |values: &[&str]| {
        let all = rendered(values).unwrap();
        let deployment = all.iter().find(|(name, _)| name.starts_with("Deployment ")).unwrap().1.clone();
        let variables = deployment.pointer("/spec/template/spec/containers/0/env").unwrap().as_array().unwrap().clone();
        variables.into_iter().find(|one| one["name"] == "JAM_API_IMAGE").unwrap()["value"].clone()
    };
    assert_eq!(api_image(&[&format!("api.image.digest={digest}"), "api.image.tag=v9"]), format!("jam-api@{digest}"));
    assert_eq!(api_image(&["api.image.tag=v9"]), "jam-api:v9");
    let refused = rendered(&["api.image.digest=latest"]).unwrap_err();
    assert!(refused.contains("digest"), "{refused}");
}
