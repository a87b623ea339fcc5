//! A newer operator: it renders differently, and no pod is restarted before the spec changes.

use jam_plan::JamInstance;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::operator_kinds::on_postgres;
use crate::operator_support::{Account, Kubelet, apply, condition, eventually, tally};
use crate::support::cluster::control_plane;

const OLD: &[&str] = &["--leader-election", "false"];
/// The next release: it makes other pods of the same spec.
const NEW: &[&str] = &["--leader-election", "false", "--render-revision", "2"];
const RENDERED_BY: &str = "jam.network/render-revision";

fn in_memory() -> Value {
    json!({"runtime": {"jam": {"enabled": true, "store": "memory"}}})
}

fn rendered_by(deployment: &Deployment) -> String {
    let template = &deployment.spec.as_ref().unwrap().template;
    template.metadata.as_ref().unwrap().annotations.as_ref().unwrap()[RENDERED_BY].clone()
}

#[tokio::test]
async fn a_newer_operator_restarts_no_pod_and_a_changed_spec_is_one_rollout() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, OLD);
    apply(&client, &namespace, "main", in_memory()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    operator.stop().await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let before = deployments.get("main").await.unwrap();
    assert_eq!(rendered_by(&before), "1");

    let upgraded = account.start(plane, NEW);
    upgraded.ready().await;
    upgraded.quiet().await;
    let at_upgrade = upgraded.writes().len();
    let now = deployments.get("main").await.unwrap();
    assert_eq!((now.metadata.generation, &now.spec), (before.metadata.generation, &before.spec), "the pods stay");
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    assert_eq!(instances.get("main").await.unwrap().status.unwrap().render_revision, Some(1), "pinned in status");

    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "jam", "image": "stranger"}]}}}});
    deployments.patch("main", &PatchParams::default(), &Patch::Strategic(image)).await.unwrap();
    eventually("the pinned template is put right", async || {
        let now = deployments.get("main").await.ok()?;
        (now.spec.as_ref()?.template == before.spec.as_ref()?.template).then_some(())
    })
    .await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    upgraded.quiet().await;
    let repaired = upgraded.writes().split_off(at_upgrade);
    assert_eq!(tally(&repaired)["patch deployments"], 1, "{repaired:?}");

    let since = upgraded.writes().len();
    let change = json!({"spec": {"runtime": {"jam": {"rateLimitPerMinute": 7}}}});
    instances.patch("main", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    upgraded.quiet().await;
    let after = deployments.get("main").await.unwrap();
    assert_eq!(rendered_by(&after), "2");
    assert_eq!(instances.get("main").await.unwrap().status.unwrap().render_revision, Some(2));
    assert_eq!(tally(&upgraded.writes()[since..])["patch deployments"], 1, "exactly one rollout");
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), &namespace);
    let ours = ListParams::default().labels("app.kubernetes.io/instance=main");
    let sets = sets.list(&ours).await.unwrap().items;
    let images =
        |set: &ReplicaSet| set.spec.as_ref()?.template.as_ref()?.spec.as_ref()?.containers.first()?.image.clone();
    let of_ours = sets.iter().filter(|set| images(set).as_deref() != Some("stranger")).count();
    assert_eq!(of_ours, 2, "{:?}", sets.iter().map(ResourceExt::name_any).collect::<Vec<_>>());
    assert!(upgraded.forbidden().is_empty(), "{:?}", upgraded.forbidden());
}

/// The status and the Deployment as a release from before revisions left them.
async fn forget_revisions(client: &kube::Client, namespace: &str) {
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    let older = json!({"status": {"revision": null, "rollout": null, "lastGood": null, "renderRevision": null}});
    instances.patch_status("main", &PatchParams::default(), &Patch::Merge(older)).await.unwrap();
    let older = json!({"metadata": {"annotations": {"jam.network/revision": null}}});
    for deployment in ["main", "main-worker"] {
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        deployments.patch(deployment, &PatchParams::default(), &Patch::Merge(older.clone())).await.unwrap();
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    for map in maps.list(&ListParams::default()).await.unwrap().items {
        if map.name_any().starts_with("main-revision-") {
            maps.delete(&map.name_any(), &DeleteParams::default()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_runs_under_a_status_without_a_revision_is_adopted_and_not_restarted() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, OLD);
    let mut spec = on_postgres(&client, &namespace).await;
    spec["workers"] = json!({"replicas": 1});
    spec["podTemplate"] =
        json!({"resources": {"requests": {"cpu": "0.5"}}, "tolerations": [{"key": "a", "operator": "Exists"}]});
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    operator.stop().await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    // What others put into the pods is theirs and stays out of the revision.
    let sidecar = json!({"spec": {"template": {"metadata": {"annotations": {"their": "own"}}}}});
    deployments.patch("main", &PatchParams::default(), &Patch::Strategic(sidecar)).await.unwrap();
    forget_revisions(&client, &namespace).await;
    let before = [deployments.get("main").await.unwrap(), deployments.get("main-worker").await.unwrap()];

    let upgraded = account.start(plane, NEW);
    upgraded.ready().await;
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let told = eventually("the revision is pinned", async || instances.get("main").await.ok()?.status?.revision).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    upgraded.quiet().await;
    for before in before {
        let now = deployments.get(&before.name_any()).await.unwrap();
        assert_eq!(now.spec, before.spec, "the pods stay as they are");
        assert_eq!(now.annotations()["jam.network/revision"], told.name);
    }
    let status = instances.get("main").await.unwrap().status.unwrap();
    assert_eq!((status.render_revision, status.last_good.unwrap().revision), (Some(1), Some(told.name.clone())));
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let stored = maps.get(&told.name).await.unwrap().data.unwrap();
    assert!(!stored["api.json"].contains("their"), "{}", stored["api.json"]);

    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "jam", "image": "stranger"}]}}}});
    deployments.patch("main", &PatchParams::default(), &Patch::Strategic(image)).await.unwrap();
    eventually("what was adopted is put right", async || {
        let now = deployments.get("main").await.ok()?;
        let image = now.spec.as_ref()?.template.spec.as_ref()?.containers[0].image.clone();
        (image.as_deref() == Some("localhost/jam-api:dev")).then_some(())
    })
    .await;
    assert!(upgraded.forbidden().is_empty(), "{:?}", upgraded.forbidden());
}
