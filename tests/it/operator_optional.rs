//! Kinds whose definition comes with an add-on: left out and said, made when it comes, kept right, and no trouble when it goes.

use jam_plan::Kind;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::operator_kinds::children;
use crate::operator_resource::plane_of_its_own;
use crate::operator_support::{Account, Kubelet, apply, condition, eventually};
use crate::support::cluster::install;

fn spec() -> Value {
    json!({
        "runtime": {"jam": {"enabled": true, "store": "memory"}},
        "httpRoute": {"enabled": true, "hostnames": ["jam.example"], "parentRefs": [{"name": "g"}]},
        "monitoring": {"serviceMonitor": true, "prometheusRule": true, "dashboard": true},
    })
}

const OPTIONAL: [Kind; 3] = [Kind::HttpRoute, Kind::ServiceMonitor, Kind::PrometheusRule];

/// Takes a definition away, and with it every object of its kind.
async fn remove(client: &kube::Client, definition: &str) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.delete(definition, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn an_optional_kind_is_left_out_until_its_definition_comes_and_is_then_a_child_like_any_other() {
    let plane = plane_of_its_own("optional");
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(&plane, &client, &namespace, "operator").await;
    let operator = account.start(&plane, &["--leader-election", "false"]);
    apply(&client, &namespace, "main", spec()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let told = condition(&client, &namespace, "main", "OptionalKindsServed", "False", "KindNotServed").await;
    assert!(OPTIONAL.iter().all(|kind| told.contains(kind.as_str())), "{told}");
    let dashboard = children(&client, &namespace, Kind::ConfigMap).get_opt("main-dashboard").await.unwrap();
    assert!(dashboard.is_some(), "what needs no definition is there");

    let route = install(&client, "httproutes").await;
    install(&client, "servicemonitors").await;
    install(&client, "prometheusrules").await;
    condition(&client, &namespace, "main", "OptionalKindsServed", "True", "KindsServed").await;
    for kind in OPTIONAL {
        let api = children(&client, &namespace, kind);
        eventually(&format!("{kind:?} is made"), async || api.get_opt("main").await.ok()?).await;
    }
    operator.quiet().await;

    let routes = children(&client, &namespace, Kind::HttpRoute);
    let edit = json!({"spec": {"hostnames": ["stranger.example"]}});
    routes.patch("main", &PatchParams::default(), &Patch::Merge(edit)).await.unwrap();
    let rules = children(&client, &namespace, Kind::PrometheusRule);
    rules.delete("main", &DeleteParams::default()).await.unwrap();
    eventually("the edit is undone and the rule is back", async || {
        let right = routes.get("main").await.ok()?.data["spec"]["hostnames"] == json!(["jam.example"]);
        (right && rules.get_opt("main").await.ok()?.is_some()).then_some(())
    })
    .await;

    let mut less = spec();
    less["monitoring"] = json!({"dashboard": true});
    apply(&client, &namespace, "main", less).await;
    let monitors = children(&client, &namespace, Kind::ServiceMonitor);
    let services = children(&client, &namespace, Kind::Service);
    eventually("what is no longer wanted is gone", async || {
        let left = [monitors.get_opt("main").await.ok()?, rules.get_opt("main").await.ok()?];
        let service = services.get_opt("main-metrics").await.ok()?;
        (left.iter().all(Option::is_none) && service.is_none()).then_some(())
    })
    .await;

    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());

    remove(&client, &route).await;
    condition(&client, &namespace, "main", "OptionalKindsServed", "False", "KindNotServed").await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    assert_eq!((operator.answer("/livez").await.0, operator.answer("/readyz").await.0), (200, 200));
    install(&client, "httproutes").await;
    eventually("the route is made again", async || routes.get_opt("main").await.ok()?).await;
}
