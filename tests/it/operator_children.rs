//! What the operator writes, counted in the API server's audit log: once, never again, and again when somebody else did.

use std::collections::BTreeMap;

use jam_plan::JamInstance;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::operator_support::{Account, Kubelet, apply, condition, eventually, tally};
use crate::support::cluster::control_plane;

const QUIET: &[&str] = &["--leader-election", "false"];

fn counts(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect()
}

fn in_memory() -> serde_json::Value {
    json!({"runtime": {"jam": {"enabled": true, "store": "memory"}}, "tokens": {"consumers": [{"name": "demo"}]}})
}

#[tokio::test]
async fn an_instance_costs_one_write_per_child_and_two_of_status_and_nothing_after_that() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    operator.ready().await;
    apply(&client, &namespace, "main", in_memory()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    let created = counts(&[
        ("patch serviceaccounts", 1),
        ("patch configmaps", 2),
        ("create secrets", 1),
        ("patch secrets", 1),
        ("patch services", 1),
        ("patch deployments", 1),
        ("patch jaminstances/status", 2),
    ]);
    assert_eq!(operator.tally(), created);

    let token = token_of(&client, &namespace, "main-token-demo").await;
    assert_eq!(token.len(), 64);
    let (ended_well, log) = operator.stop().await;
    assert!(ended_well && log.contains("stopped"), "it stops in order");
    assert!(!log.contains(&token), "the token is in the log");

    let again = account.start(plane, QUIET);
    again.ready().await;
    again.quiet().await;
    assert_eq!(again.tally(), created, "a restart with nothing changed writes nothing");

    toggle(&client, &namespace, false).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    again.quiet().await;
    let mut toggled = again.writes().split_off(9);
    toggled.retain(|asked| asked.resource != "jaminstances/status");
    let wanted = counts(&[("patch configmaps", 2), ("patch deployments", 1), ("delete configmaps", 1)]);
    assert_eq!(tally(&toggled), wanted, "a toggle is a revision with its ConfigMap, the Deployment, the old map's end");
    assert!(again.tally()["patch jaminstances/status"] <= 4, "and at most two words about it");
    assert_eq!(token_of(&client, &namespace, "main-token-demo").await, token, "the token stays");
    assert!(again.forbidden().is_empty(), "{:?}", again.forbidden());
}

async fn token_of(client: &kube::Client, namespace: &str, name: &str) -> String {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let data = secrets.get(name).await.unwrap().data.unwrap();
    String::from_utf8(data["token"].0.clone()).unwrap()
}

async fn toggle(client: &kube::Client, namespace: &str, enabled: bool) {
    let api: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    let body = json!({"spec": {"runtime": {"jam": {"enabled": enabled}}}});
    api.patch("main", &PatchParams::default(), &Patch::Merge(body)).await.unwrap();
}

#[tokio::test]
async fn a_child_that_was_changed_or_deleted_by_hand_is_put_right() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    apply(&client, &namespace, "main", in_memory()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;

    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "jam", "image": "stranger"}]}}}});
    deployments.patch("main", &PatchParams::default(), &Patch::Strategic(image)).await.unwrap();
    deployments
        .patch_metadata(
            "main",
            &PatchParams::default(),
            &Patch::Merge(json!({"metadata": {
                "labels": {"app.kubernetes.io/part-of": "stranger", "their": "own"},
            }})),
        )
        .await
        .unwrap();
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    services.delete("main", &DeleteParams::default()).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let emptied = json!({"data": {"tokens.json": "W10="}});
    secrets.patch("main-token-hashes", &PatchParams::default(), &Patch::Merge(emptied)).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let ours = ListParams::default().labels("jam.network/instance=main");
    let map = maps.list(&ours).await.unwrap().items.remove(0).name_any();
    maps.delete(&map, &DeleteParams::default()).await.unwrap();

    eventually("everything is as it was", async || {
        let deployment = deployments.get("main").await.ok()?;
        let right = deployment.spec.as_ref()?.template.spec.as_ref()?.containers[0].image.as_deref()
            == Some("localhost/jam-api:dev")
            && deployment.labels()["app.kubernetes.io/part-of"] == "jam"
            && services.get_opt("main").await.ok()?.is_some()
            && maps.get_opt(&map).await.ok()?.is_some()
            && secrets.get("main-token-hashes").await.ok()?.data?["tokens.json"].0 != b"[]";
        right.then_some(())
    })
    .await;
    assert_eq!(deployments.get("main").await.unwrap().labels()["their"], "own", "what is not ours is left alone");
    operator.quiet().await;
    let writes = operator.writes().len();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(operator.writes().len(), writes, "and then there is rest");

    let deleted = secrets.delete("main-token-demo", &DeleteParams::default()).await;
    deleted.unwrap();
    eventually("a lost token is replaced", async || secrets.get_opt("main-token-demo").await.ok()?).await;
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn what_is_no_longer_wanted_goes_and_what_is_wanted_again_comes_back() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let mut spec = in_memory();
    spec["networkPolicy"] = json!({"enabled": true});
    spec["tokens"]["consumers"] = json!([{"name": "demo"}, {"name": "other"}]);
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let policies: Api<k8s_openapi::api::networking::v1::NetworkPolicy> = Api::namespaced(client.clone(), &namespace);
    assert!(secrets.get_opt("main-token-other").await.unwrap().is_some());
    assert!(policies.get_opt("main").await.unwrap().is_some());
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), &namespace);
    let stranger = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {
        "name": "stranger", "labels": {"app.kubernetes.io/managed-by": "jam-operator", "jam.network/instance": "main"},
    }});
    budgets.create(&PostParams::default(), &serde_json::from_value(stranger).unwrap()).await.unwrap();

    apply(&client, &namespace, "main", in_memory()).await;
    eventually("the consumer and the policy are gone", async || {
        let gone =
            secrets.get_opt("main-token-other").await.ok()?.is_none() && policies.get_opt("main").await.ok()?.is_none();
        gone.then_some(())
    })
    .await;
    operator.quiet().await;
    assert!(budgets.get_opt("stranger").await.unwrap().is_some(), "labels alone do not make it ours");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_copy_of_a_token_secret_is_left_alone_and_the_consumers_own_goes_with_it() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let mut spec = in_memory();
    spec["tokens"]["consumers"] = json!([{"name": "demo"}, {"name": "other"}]);
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    // As `kubectl get -o yaml`, a new name and `kubectl create` do it.
    for (from, to) in [("main-token-demo", "my-backup"), ("main-token-hashes", "my-hashes")] {
        let mut copy = secrets.get(from).await.unwrap();
        copy.metadata.name = Some(to.into());
        (copy.metadata.uid, copy.metadata.resource_version, copy.metadata.managed_fields) = (None, None, None);
        secrets.create(&PostParams::default(), &copy).await.unwrap();
    }
    apply(&client, &namespace, "main", in_memory()).await;
    eventually("the Secret of the consumer that went is gone", async || {
        secrets.get_opt("main-token-other").await.ok()?.is_none().then_some(())
    })
    .await;
    operator.quiet().await;
    for copy in ["my-backup", "my-hashes"] {
        assert!(secrets.get_opt(copy).await.unwrap().is_some(), "{copy}: labels alone do not make it ours");
    }
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_child_that_hangs_in_its_deletion_holds_up_nothing_but_itself() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let mut spec = in_memory();
    spec["ingress"] = json!({"enabled": true, "host": "jam.example"});
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    let ingresses: Api<Ingress> = Api::namespaced(client.clone(), &namespace);
    let held = |held: bool| Patch::Merge(json!({"metadata": {"finalizers": held.then_some(["it.test/nobody"])}}));
    ingresses.patch("main", &PatchParams::default(), &held(true)).await.unwrap();
    ingresses.delete("main", &DeleteParams::default()).await.unwrap();
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    services.delete("main", &DeleteParams::default()).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let leaked =
        String::from_utf8(secrets.get("main-token-demo").await.unwrap().data.unwrap()["id"].0.clone()).unwrap();
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let revoke = json!({"metadata": {"annotations": {"jam.network/revoke": leaked.as_str()}}});
    instances.patch("main", &PatchParams::default(), &Patch::Merge(revoke)).await.unwrap();
    toggle(&client, &namespace, false).await;

    let told = condition(&client, &namespace, "main", "Reconciling", "True", "ApplyFailed").await;
    assert!(told.contains("Ingress main waits for its finalizers it.test/nobody"), "{told}");
    eventually("the Service is made again", async || services.get_opt("main").await.ok()?).await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    eventually("the toggle is rolled out", async || {
        let template = json!(deployments.get("main").await.ok()?.spec?.template);
        let volumes = template.pointer("/spec/volumes")?.as_array()?.clone();
        let map = volumes.iter().find_map(|volume| volume.pointer("/configMap/name")?.as_str())?.to_owned();
        let file = maps.get(&map).await.ok()?.data?.remove("config.yaml")?;
        file.contains("enabled: false").then_some(())
    })
    .await;
    eventually("the leaked token is ended", async || {
        let hashes = secrets.get("main-token-hashes").await.ok()?.data?.remove("tokens.json")?;
        (!String::from_utf8(hashes.0).unwrap().contains(&leaked)).then_some(())
    })
    .await;
    ingresses.patch("main", &PatchParams::default(), &held(false)).await.unwrap();
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let made_again = ingresses.get("main").await.unwrap();
    assert!(made_again.metadata.deletion_timestamp.is_none());
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn what_contradicts_the_spec_in_our_container_is_taken_out_and_what_injectors_add_stays() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    apply(&client, &namespace, "main", in_memory()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let pods = async || json!(deployments.get("main").await.unwrap().spec.unwrap().template.spec);
    let before = pods().await;
    // As `kubectl set env`, `kubectl edit` and an injector do it, each in one go with the others.
    let by_hand = json!({"spec": {"template": {"spec": {
        "hostNetwork": true, "hostPID": true,
        "securityContext": {"supplementalGroups": [0]},
        "containers": [
            {"name": "jam", "securityContext": {"runAsUser": 0, "runAsNonRoot": false},
             "env": [{"name": "JAM_ENABLED", "value": "false"}, {"name": "HTTPS_PROXY", "value": "http://proxy"}]},
            {"name": "proxy", "image": "proxy:1", "env": [{"name": "JAM_ENABLED", "value": "theirs"}]},
        ],
    }}}});
    deployments.patch("main", &PatchParams::default(), &Patch::Strategic(by_hand)).await.unwrap();
    eventually("what is not to be there is gone", async || {
        let now = pods().await.to_string();
        (!now.contains("hostPID") && !now.contains(r#""runAsUser":0"#)).then_some(())
    })
    .await;
    operator.quiet().await;
    let now = pods().await;
    let container = |name: &str| {
        let all = now["containers"].as_array().unwrap();
        all.iter()
            .find(|container| container["name"] == name)
            .unwrap_or_else(|| panic!("{name} is gone: {now}"))
            .clone()
    };
    let ours = container("jam");
    assert_eq!(ours["env"], json!([{"name": "HTTPS_PROXY", "value": "http://proxy"}]));
    for field in ["securityContext", "ports"] {
        assert_eq!(ours[field], before["containers"][0][field]);
    }
    assert_eq!((&now["securityContext"], now.get("hostNetwork")), (&before["securityContext"], None));
    assert_eq!(container("proxy")["env"], json!([{"name": "JAM_ENABLED", "value": "theirs"}]));
    let writes = operator.writes().len();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(operator.writes().len(), writes, "and then there is rest");
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}
