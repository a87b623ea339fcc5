//! What is refused because of who asks (the chart's ValidatingAdmissionPolicy), and what `kubectl get` shows.

use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind, Request};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use crate::crd_generated::repository;
use crate::operator_support::eventually;
use crate::support::cluster::{ControlPlane, TESTER, control_plane, instances};

/// A client of somebody who may write instances and read the one Secret that is named.
async fn author(plane: &ControlPlane, client: &Client, namespace: &str) -> Client {
    let rule = |group: &str, resource: &str, names: Option<Vec<String>>, verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![group.into()]),
        resources: Some(vec![resource.into()]),
        resource_names: names,
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        non_resource_urls: None,
    };
    let named = || ObjectMeta { name: Some("author".into()), ..ObjectMeta::default() };
    let rules = Some(vec![
        rule("jam.network", "jaminstances", None, &["get", "create", "patch"]),
        rule("", "secrets", Some(vec!["mine".into()]), &["get"]),
    ]);
    let create = PostParams::default();
    let granted = Role { metadata: named(), rules };
    Api::<Role>::namespaced(client.clone(), namespace).create(&create, &granted).await.unwrap();
    let group = "rbac.authorization.k8s.io".to_owned();
    let subject =
        Subject { kind: "User".into(), name: "author".into(), api_group: Some(group.clone()), namespace: None };
    let binding = RoleBinding {
        metadata: named(),
        role_ref: RoleRef { api_group: group, kind: "Role".into(), name: "author".into() },
        subjects: Some(vec![subject]),
    };
    Api::<RoleBinding>::namespaced(client.clone(), namespace).create(&create, &binding).await.unwrap();
    let kubeconfig = Kubeconfig::read_from(&plane.kubeconfig).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.auth_info.impersonate = Some("author".into());
    Client::try_from(config).unwrap()
}

/// Installs the policy of manifests/install.yaml for one namespace.
async fn install_policy(client: &Client, namespace: &str) {
    let text = std::fs::read_to_string(repository("manifests/install.yaml")).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let kinds = ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"];
    let mut installed = 0;
    for mut document in documents {
        let Some(kind) = kinds.iter().find(|kind| document["kind"] == **kind) else { continue };
        // Only here: the control plane is that of other tests as well.
        if *kind == kinds[1] {
            document["spec"]["matchResources"] =
                json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}});
        }
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind));
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let name = document["metadata"]["name"].as_str().unwrap().to_owned();
        let apply = PatchParams::apply(TESTER).force().validation_strict();
        let made = api.patch(&name, &apply, &Patch::Apply(&document)).await.unwrap();
        installed += 1;
        if *kind == kinds[0] {
            // The API server checks the expressions against the resource's schema, and says so in the status.
            let checked = eventually("the expressions are checked", async || {
                let now = api.get(&name).await.ok()?;
                let generation = now.data["status"]["observedGeneration"].as_i64();
                (generation >= made.metadata.generation).then(|| now.data["status"]["typeChecking"].clone())
            })
            .await;
            let warnings = checked["expressionWarnings"].as_array().cloned().unwrap_or_default();
            assert!(warnings.is_empty(), "{warnings:#?}");
        }
    }
    assert_eq!(installed, kinds.len());
}

fn on(secret: &str) -> Value {
    json!({"profile": "staging", "database": {"dsnSecretRef": {"name": secret}}})
}

#[tokio::test]
async fn nobody_gives_an_instance_a_secret_that_they_may_not_read_themselves() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    install_policy(&client, &namespace).await;
    let author = author(plane, &client, &namespace).await;
    let (theirs, ours) = (instances(&author, &namespace), instances(&client, &namespace));
    let write = async |api: &Api<DynamicObject>, name: &str, spec: Value| {
        let body = json!({"apiVersion": "jam.network/v1alpha1", "kind": "JamInstance", "metadata": {"name": name}, "spec": spec});
        let params = PatchParams::apply(TESTER).force();
        api.patch(name, &params, &Patch::Apply(body)).await.map(|_| ()).map_err(|error| error.to_string())
    };
    // A binding is in force some moments after it was made.
    let mut probes = 0;
    eventually("the policy is in force", async || {
        // A new one each time: what an instance has named before may stay.
        probes += 1;
        write(&theirs, &format!("probe{probes}"), on("others")).await.err()
    })
    .await;
    let said = write(&theirs, "main", on("others")).await.unwrap_err();
    assert!(
        said.contains("author may not read every Secret that the spec names: others")
            && said.contains("ask for the right"),
        "{said}"
    );
    write(&theirs, "main", on("mine")).await.unwrap();
    let mut env = on("mine");
    env["podTemplate"] =
        json!({"env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "others", "key": "k"}}}]});
    let said = write(&theirs, "main", env.clone()).await.unwrap_err();
    assert!(said.contains("the spec names: others"), "{said}");
    let said = write(&theirs, "pg", json!({"profile": "staging", "database": {"cluster": {"name": "pg"}}})).await;
    assert!(said.unwrap_err().contains("the spec names: pg-app"));

    write(&ours, "main", env.clone()).await.unwrap();
    env["paused"] = json!(true);
    write(&theirs, "main", env)
        .await
        .expect("what somebody else has named may stay: a toggle takes no right to Secrets");
}

/// What `kubectl get` asks for: the column names with their priority, and the cells of each row.
async fn table(client: &Client, namespace: &str) -> (Vec<(String, i64)>, Vec<Vec<Value>>) {
    let path = format!("/apis/jam.network/v1alpha1/namespaces/{namespace}/jaminstances");
    let mut request = Request::new(path).list(&kube::api::ListParams::default()).unwrap();
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io".parse().unwrap();
    request.headers_mut().insert("accept", accept);
    let answer: Value = client.request(request).await.unwrap();
    let columns = answer["columnDefinitions"].as_array().unwrap().iter();
    let columns = columns.map(|one| (one["name"].as_str().unwrap().to_owned(), one["priority"].as_i64().unwrap()));
    let rows = answer["rows"].as_array().unwrap().iter().map(|row| row["cells"].as_array().unwrap().clone());
    (columns.collect(), rows.collect())
}

#[tokio::test]
async fn kubectl_get_shows_what_an_operator_asks_first_and_wide_shows_the_message() {
    let (client, namespace) = control_plane().with_crd().await;
    let api = instances(&client, &namespace);
    let body =
        json!({"apiVersion": "jam.network/v1alpha1", "kind": "JamInstance", "metadata": {"name": "main"}, "spec": {}});
    api.create(&PostParams::default(), &serde_json::from_value(body).unwrap()).await.unwrap();
    let status = json!({"status": {
        "enabled": true, "store": "postgres", "readyReplicas": 2, "version": {"image": "jam-api:1"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "Serving", "message": "2 replicas are ready",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    }});
    api.patch_status("main", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    let (columns, rows) = table(&client, &namespace).await;
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Name", "Ready", "Enabled", "Store", "Replicas", "Version", "Age", "Message"]);
    let wide: Vec<&str> = columns.iter().filter(|(_, priority)| *priority > 0).map(|(name, _)| name.as_str()).collect();
    assert_eq!(wide, ["Message"]);
    let cells = &rows[0];
    let wanted = [json!("main"), json!("True"), json!(true), json!("postgres"), json!(2), json!("jam-api:1")];
    assert_eq!(cells[..6], wanted);
    assert_eq!(cells[7], "2 replicas are ready");
}
