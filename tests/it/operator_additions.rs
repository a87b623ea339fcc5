//! What a hand adds within a list of ours shows in no field that we write: it is taken out all the same.

use jam_plan::Kind;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::operator_kinds::{children, on_postgres, with_everything};
use crate::operator_support::{Account, Kubelet, apply, condition, eventually};
use crate::support::cluster::control_plane;

/// What is added, and where: nothing of what was there is changed.
fn additions() -> Vec<(Kind, &'static str, Value)> {
    let nobody = json!([{"podSelector": {"matchLabels": {"app": "nobody"}}}]);
    vec![
        (Kind::NetworkPolicy, "/spec/ingress/1/from", nobody.clone()),
        (Kind::NetworkPolicy, "/spec/egress/0/to", nobody),
        (Kind::NetworkPolicy, "/spec/egress/1/ports/0/endPort", json!(65535)),
        (Kind::HttpRoute, "/spec/rules/0/timeouts", json!({"request": "1ms"})),
        (Kind::ServiceMonitor, "/spec/endpoints/0/honorLabels", json!(true)),
        (Kind::Deployment, "/spec/paused", json!(true)),
    ]
}

#[tokio::test]
async fn what_a_hand_adds_within_a_list_of_ours_and_a_pause_of_the_rollout_are_taken_out_again() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    plane.with_add_ons().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, &["--leader-election", "false"]);
    let spec = with_everything(on_postgres(&client, &namespace).await);
    apply(&client, &namespace, "main", spec).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    condition(&client, &namespace, "main", "OptionalKindsServed", "True", "KindsServed").await;
    operator.quiet().await;
    let before = operator.writes().len();
    for (kind, path, value) in additions() {
        let api = children(&client, &namespace, kind);
        let mut object = api.get("main").await.unwrap();
        let (parent, name) = path.rsplit_once('/').unwrap();
        object.data.pointer_mut(parent).unwrap_or_else(|| panic!("{path}"))[name] = value.clone();
        let change = json!({"spec": object.data["spec"]});
        let edited = api.patch("main", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
        assert_eq!(edited.data.pointer(path), Some(&value), "the hand did nothing");
        eventually(&format!("{kind:?}: {path} is gone"), async || {
            let now = api.get("main").await.ok()?.data;
            now.pointer(path).is_none_or(|left| *left == json!(false)).then_some(())
        })
        .await;
    }
    operator.quiet().await;
    let writes = operator.writes().split_off(before);
    let of_children = writes.iter().filter(|write| write.resource != "jaminstances/status").count();
    assert_eq!(of_children, additions().len(), "one write each, and then peace: {writes:?}");
}
