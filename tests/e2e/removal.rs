//! Claim 7: a deleted instance leaves nothing, or with `deletionPolicy: Retain` its token Secrets alone.

use serde_json::Value;

use crate::path::memory_spec;
use crate::support::{Instance, eventually, kubectl_ok, objects};

const KINDS: &str = "deploy,rs,po,svc,sa,cm,secret,job,cj,pdb,hpa,netpol,ing";

#[tokio::test]
async fn a_deleted_instance_leaves_nothing_with_policy_delete() {
    let mut spec = memory_spec();
    spec["deletionPolicy"] = "Delete".into();
    let left = left_after_deletion("delete", &spec).await;
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test]
async fn a_deleted_instance_leaves_only_token_secrets_with_policy_retain() {
    let mut spec = memory_spec();
    spec["deletionPolicy"] = "Retain".into();
    let left = left_after_deletion("retain", &spec).await;
    assert!(left.contains(&"Secret/jam-token-demo".to_owned()), "{left:?}");
    assert!(left.iter().all(|name| name.starts_with("Secret/jam-token")), "{left:?}");
}

/// Makes an instance, deletes it, waits until only Secrets can be left, and names what is left.
async fn left_after_deletion(purpose: &str, spec: &Value) -> Vec<String> {
    let instance = Instance::applied(purpose, spec);
    instance.wait_ready().await;
    let selector = format!("app.kubernetes.io/instance={}", instance.name);
    assert!(names(&instance, &selector).len() > 5, "{:?}", names(&instance, &selector));
    kubectl_ok(&["-n", &instance.namespace, "delete", "jam", instance.name, "--timeout=60s"]);
    let keeps_secrets = spec["deletionPolicy"] == "Retain";
    eventually("everything to be gone", || async {
        let left = names(&instance, &selector);
        left.iter().all(|name| keeps_secrets && name.starts_with("Secret/")).then_some(left)
    })
    .await
}

/// Everything that is there with these labels.
pub fn names(instance: &Instance, selector: &str) -> Vec<String> {
    objects(&instance.namespace, KINDS, selector)
        .iter()
        .map(|object| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]))
        })
        .collect()
}
