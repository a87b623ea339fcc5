//! Children that cannot be written, each for another reason: what does without them goes on, and what can be mended is.

use jam_plan::{JamInstance, Kind};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::operator_kinds::{children, on_postgres};
use crate::operator_support::{Account, Kubelet, Operator, apply, condition, eventually, quota};
use crate::support::cluster::control_plane;

pub const QUIET: &[&str] = &["--leader-election", "false"];

pub fn in_memory(enabled: bool) -> Value {
    json!({"runtime": {"jam": {"enabled": enabled, "store": "memory"}}})
}

pub fn with(mut spec: Value, key: &str, value: Value) -> Value {
    spec[key] = value;
    spec
}

/// Waits until every pod is of a revision with this toggle.
async fn serves(client: &Client, namespace: &str, enabled: bool) {
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    eventually(&format!("enabled is {enabled}"), async || {
        (instances.get("main").await.ok()?.status?.enabled == Some(enabled)).then_some(())
    })
    .await;
}

/// Waits until there is another object of this name, and returns it.
pub async fn another(api: &Api<DynamicObject>, before: &DynamicObject) -> DynamicObject {
    let name = before.name_any();
    eventually(&format!("{name} is made again"), async || {
        let now = api.get_opt(&name).await.ok()??;
        (now.uid() != before.uid() && now.metadata.deletion_timestamp.is_none()).then_some(now)
    })
    .await
}

/// How often it tried to write objects of these kinds.
fn tried(operator: &Operator, resource: &str) -> usize {
    operator.writes().iter().filter(|asked| asked.resource == resource).count()
}

/// An operator whose instance serves and that has nothing left to do.
pub async fn at_rest(account: &Account, client: &Client, namespace: &str) -> Operator {
    let operator = account.start(control_plane(), QUIET);
    apply(client, namespace, "main", in_memory(true)).await;
    condition(client, namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    operator
}

#[tokio::test]
async fn refused_children_hold_back_no_pod_and_each_is_tried_once() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let refused = |enabled: bool| {
        let spec = with(in_memory(enabled), "service", json!({"annotations": {"bad key": "x"}}));
        with(spec, "ingress", json!({"enabled": true, "host": "jam.example", "annotations": {"bad key": "x"}}))
    };
    apply(&client, &namespace, "main", refused(true)).await;
    let told = condition(&client, &namespace, "main", "Stalled", "True", "InvalidObject").await;
    assert!(told.contains("Service main: ") && told.contains("bad key"), "{told}");
    assert!(told.ends_with("(nor can Ingress main)"), "both are told: {told}");
    serves(&client, &namespace, true).await;
    apply(&client, &namespace, "main", refused(false)).await;
    serves(&client, &namespace, false).await;
    let deployments = children(&client, &namespace, Kind::Deployment);
    let before = deployments.get("main").await.unwrap();
    deployments.delete("main", &DeleteParams::default()).await.unwrap();
    let again = another(&deployments, &before).await;
    let accounts = children(&client, &namespace, Kind::ServiceAccount);
    let former = accounts.get("main").await.unwrap();
    accounts.delete("main", &DeleteParams::default()).await.unwrap();
    another(&accounts, &former).await;
    operator.quiet().await;
    assert_eq!((tried(&operator, "services"), tried(&operator, "ingresses")), (1, 1), "none is tried again");

    operator.stop().await;
    deployments.delete("main", &DeleteParams::default()).await.unwrap();
    let operator = account.start(plane, QUIET);
    another(&deployments, &again).await;
    operator.quiet().await;
    assert_eq!((tried(&operator, "services"), tried(&operator, "ingresses")), (2, 2), "once by each process");
    apply(&client, &namespace, "main", in_memory(false)).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
}

#[tokio::test]
async fn a_child_that_a_quota_denies_holds_back_no_pod_and_is_made_when_the_quota_goes() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let quotas = quota(&client, &namespace, json!({"services.loadbalancers": "0"})).await;
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let balanced = |enabled: bool| with(in_memory(enabled), "service", json!({"type": "LoadBalancer"}));
    apply(&client, &namespace, "main", balanced(true)).await;
    let told = condition(&client, &namespace, "main", "Reconciling", "True", "ApplyFailed").await;
    assert!(told.contains("Service main") && told.contains("exceeded quota"), "{told}");
    serves(&client, &namespace, true).await;
    let told = condition(&client, &namespace, "main", "Ready", "False", "ApplyFailed").await;
    assert!(told.contains("Service main"), "the pods are ready and the Service is not there: {told}");
    apply(&client, &namespace, "main", balanced(false)).await;
    serves(&client, &namespace, false).await;
    let deployments = children(&client, &namespace, Kind::Deployment);
    let before = deployments.get("main").await.unwrap();
    deployments.delete("main", &DeleteParams::default()).await.unwrap();
    another(&deployments, &before).await;
    quotas.delete("none", &DeleteParams::default()).await.unwrap();
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    assert!(operator.forbidden().iter().all(|asked| asked.resource == "services"), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn pods_wait_for_a_config_map_that_cannot_be_made_and_nothing_else_does() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let quotas = quota(&client, &namespace, json!({"count/configmaps": "0"})).await;
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let spec = with(in_memory(true), "ingress", json!({"enabled": true, "host": "jam.example"}));
    apply(&client, &namespace, "main", spec).await;
    let told = condition(&client, &namespace, "main", "Reconciling", "True", "ApplyFailed").await;
    assert!(told.contains("ConfigMap main-config-") && told.contains("exceeded quota"), "{told}");
    for kind in [Kind::Service, Kind::Ingress] {
        let api = children(&client, &namespace, kind);
        eventually(&format!("{kind:?} is made"), async || api.get_opt("main").await.ok()?).await;
    }
    assert_eq!(tried(&operator, "deployments"), 0, "its pods would wait for what they mount");
    quotas.delete("none", &DeleteParams::default()).await.unwrap();
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
}

#[tokio::test]
async fn a_secret_that_cannot_be_put_right_is_never_removed() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = at_rest(&account, &client, &namespace).await;
    let secrets = children(&client, &namespace, Kind::Secret);
    let frozen = json!({"immutable": true, "data": {"tokens.json": "W10="}});
    let before = secrets.patch("main-token-hashes", &PatchParams::default(), &Patch::Merge(frozen)).await.unwrap();
    let told = condition(&client, &namespace, "main", "Reconciling", "True", "ApplyFailed").await;
    assert!(told.contains("Secret main-token-hashes") && told.contains("immutable"), "{told}");
    let writes = operator.writes();
    assert!(writes.iter().all(|asked| asked.verb != "delete"), "{writes:?}");
    secrets.delete("main-token-hashes", &DeleteParams::default()).await.unwrap();
    another(&secrets, &before).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
}

#[tokio::test]
async fn a_mistake_that_the_server_answers_with_500_stalls_and_is_tried_once() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let spread = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
    let mistakes = [
        ("lots", json!({"resources": {"requests": {"cpu": "lots"}}}), "quantities"),
        ("twice", json!({"topologySpreadConstraints": [spread, spread]}), "topologySpreadConstraints"),
    ];
    for (name, template, _) in &mistakes {
        apply(&client, &namespace, name, with(in_memory(true), "podTemplate", template.clone())).await;
    }
    for (name, _, words) in &mistakes {
        let told = condition(&client, &namespace, name, "Stalled", "True", "InvalidObject").await;
        assert!(told.contains(&format!("Deployment {name}")) && told.contains(words), "{told}");
    }
    operator.quiet().await;
    let answers: Vec<_> = operator.writes().into_iter().filter(|asked| asked.resource == "deployments").collect();
    assert!(answers.len() == mistakes.len() && answers.iter().all(|asked| asked.code == 500), "{answers:?}");
}

/// A policy that lets nobody write objects of this kind in this namespace, such as `probe`.
pub async fn forbid(
    client: &Client,
    namespace: &str,
    kind: Kind,
    probe: &DynamicObject,
) -> Api<ValidatingAdmissionPolicyBinding> {
    let (policies, bindings): (Api<ValidatingAdmissionPolicy>, Api<ValidatingAdmissionPolicyBinding>) =
        (Api::all(client.clone()), Api::all(client.clone()));
    let (group, version, _, plural) = kind.coordinates();
    let resources = json!([{"apiGroups": [group], "apiVersions": [version], "operations": ["CREATE", "UPDATE"],
        "resources": [plural]}]);
    let policy = json!({"metadata": {"name": namespace}, "spec": {
        "matchConstraints": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "resourceRules": resources,
        },
        "validations": [{"expression": "false", "message": "ask the network team"}],
    }});
    let binding =
        json!({"metadata": {"name": namespace}, "spec": {"policyName": namespace, "validationActions": ["Deny"]}});
    policies.create(&PostParams::default(), &serde_json::from_value(policy).unwrap()).await.unwrap();
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
    let api = children(client, namespace, kind);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    eventually("the policy is in force", async || api.create(&dry, probe).await.is_err().then_some(())).await;
    bindings
}

/// The same of NetworkPolicies.
async fn forbid_policies(client: &Client, namespace: &str) -> Api<ValidatingAdmissionPolicyBinding> {
    let body = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "probe"},
        "spec": {"podSelector": {}}});
    forbid(client, namespace, Kind::NetworkPolicy, &serde_json::from_value(body).unwrap()).await
}

#[tokio::test]
async fn what_an_admission_denies_is_looked_at_again_until_the_admission_is_gone() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let bindings = forbid_policies(&client, &namespace).await;
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let _operator = account.start(plane, QUIET);
    let closed = json!({"allowFrom": [{"podSelector": {"matchLabels": {"app": "a"}}}]});
    apply(&client, &namespace, "main", with(in_memory(true), "networkPolicy", closed)).await;
    let told = condition(&client, &namespace, "main", "Ready", "False", "ApplyFailed").await;
    assert!(told.contains("NetworkPolicy main") && told.contains("ask the network team"), "{told}");
    serves(&client, &namespace, true).await;
    condition(&client, &namespace, "main", "Stalled", "False", "Settled").await;
    bindings.delete(&namespace, &DeleteParams::default()).await.unwrap();
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    Api::<ValidatingAdmissionPolicy>::all(client).delete(&namespace, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn beside_a_refused_child_nothing_goes_on_that_is_no_longer_wanted_and_pods_wait_for_a_policy_that_shuts_them_out()
 {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let _operator = account.start(plane, QUIET);
    let base = on_postgres(&client, &namespace).await;
    let spec = |enabled: bool, port: u16| {
        let spec = with(base.clone(), "networkPolicy", json!({"egressPorts": [port]}));
        with(spec, "runtime", json!({"jam": {"enabled": enabled, "store": "postgres"}}))
    };
    let scaled = with(spec(true, 7000), "autoscaling", json!({"minReplicas": 2, "maxReplicas": 3}));
    apply(&client, &namespace, "main", scaled).await;
    let scalers = children(&client, &namespace, Kind::HorizontalPodAutoscaler);
    eventually("an autoscaler", async || scalers.get_opt("main").await.ok()?).await;
    serves(&client, &namespace, true).await;
    let refused = with(spec(true, 7000), "service", json!({"annotations": {"bad key": "x"}}));
    apply(&client, &namespace, "main", refused).await;
    condition(&client, &namespace, "main", "Stalled", "True", "InvalidObject").await;
    eventually("no autoscaler", async || scalers.get_opt("main").await.ok()?.is_none().then_some(())).await;

    let bindings = forbid_policies(&client, &namespace).await;
    let policies = children(&client, &namespace, Kind::NetworkPolicy);
    let before = policies.get("main").await.unwrap();
    apply(&client, &namespace, "main", spec(false, 8000)).await;
    condition(&client, &namespace, "main", "Ready", "False", "ApplyFailed").await;
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let enabled = instances.get("main").await.unwrap().status.unwrap().enabled;
    assert_eq!(enabled, Some(true), "new pods would not reach port 8000");
    assert_eq!(policies.get("main").await.unwrap().data["spec"], before.data["spec"]);
    apply(&client, &namespace, "main", spec(false, 7000)).await;
    serves(&client, &namespace, false).await;
    bindings.delete(&namespace, &DeleteParams::default()).await.unwrap();
    eventually("it is settled when it is looked at", async || {
        // By now the next try by itself may be minutes away.
        let called =
            json!({"metadata": {"annotations": {"it.jam.network/called": jiff::Timestamp::now().to_string()}}});
        let main = instances.patch("main", &PatchParams::default(), &Patch::Merge(called)).await.unwrap();
        let told = main.status?.conditions.into_iter().find(|told| told.type_ == "Reconciling")?;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        (told.reason == "Settled").then_some(())
    })
    .await;
    Api::<ValidatingAdmissionPolicy>::all(client).delete(&namespace, &DeleteParams::default()).await.unwrap();
}
