//! Every manifest has its plan as a reviewed snapshot, and a real API server accepts every object of it.

use jam_plan::desired::Desired;
use jam_plan::render::{self, documents, render};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};

use crate::crd_generated::{compare, repository};
use crate::support::cluster::{TESTER, control_plane};

/// The operator's defaults in snapshots: they do not change with a release.
pub fn defaults() -> jam_plan::Defaults {
    let (repository, tag, digest) = ("jam-api".into(), "test".into(), None);
    let operator_namespace = Some("jam-system".into());
    let pace = jam_plan::rotation::Pace::default();
    jam_plan::Defaults { repository, tag, digest, pace, operator_namespace, progress_deadline: 300, render_revision: 1 }
}

/// Every manifest with a JamInstance: its name without `.yaml`, and its text.
pub fn manifests() -> Vec<(String, String)> {
    let mut found: Vec<_> = std::fs::read_dir(repository("manifests"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(path).unwrap()))
        .filter(|(_, text)| text.contains("\nkind: JamInstance\n"))
        .collect();
    found.sort();
    assert!(found.len() >= 10, "one for each use: {found:?}");
    found
}

#[test]
fn the_plan_of_every_manifest_is_its_snapshot() {
    for (name, text) in manifests() {
        let plan = documents(&text).and_then(|all| render::text(&all, &defaults()));
        let plan = plan.unwrap_or_else(|e| panic!("{name}: {e}"));
        compare(&repository(&format!("tests/it/snapshots/{name}.yaml")), &plan);
    }
}

#[test]
fn no_snapshot_is_left_without_its_manifest() {
    let names: Vec<_> = manifests().into_iter().map(|(name, _)| format!("{name}.yaml")).collect();
    for entry in std::fs::read_dir(repository("tests/it/snapshots")).unwrap() {
        let file = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(names.contains(&file), "{file} has no manifest");
    }
}

/// Sends an object as server-side apply would, without keeping it, with strict validation of its fields.
async fn dry_run(client: &kube::Client, namespace: &str, desired: &Desired) -> kube::Result<DynamicObject> {
    let (group, version, kind, plural) = desired.object.kind.coordinates();
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let mut body = desired.body.clone();
    body["metadata"]["namespace"] = namespace.into();
    let apply = PatchParams::apply(TESTER).dry_run().validation_strict();
    api.patch(&desired.object.name, &apply, &Patch::Apply(body)).await
}

#[tokio::test]
async fn a_real_api_server_accepts_every_object_of_every_plan() {
    let (client, namespace) = control_plane().with_add_ons().await;
    for (name, text) in manifests() {
        for desired in render(&text, &defaults()).unwrap() {
            let answer = dry_run(&client, &namespace, &desired).await;
            answer.unwrap_or_else(|e| panic!("{name}: {}: {e}", desired.object));
        }
    }
}

/// What a server adds to an applied object is defaults; what was applied stays as it was.
fn contains(answer: &serde_json::Value, applied: &serde_json::Value, path: &str) {
    match applied {
        serde_json::Value::Object(fields) => {
            fields.iter().for_each(|(key, field)| contains(&answer[key], field, &format!("{path}.{key}")));
        }
        serde_json::Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, item)| contains(&answer[n], item, &format!("{path}[{n}]")));
        }
        // The API server leaves out what is off.
        serde_json::Value::Bool(false) if answer.is_null() => {}
        scalar => assert_eq!(&answer, &scalar, "{path}"),
    }
}

#[tokio::test]
async fn the_api_server_keeps_what_was_applied_as_it_was() {
    let (client, namespace) = control_plane().with_add_ons().await;
    for (_, text) in manifests() {
        for desired in render(&text, &defaults()).unwrap() {
            let answer = dry_run(&client, &namespace, &desired).await.unwrap();
            let mut applied = desired.body.clone();
            applied["metadata"]["namespace"] = namespace.as_str().into();
            let answer = serde_json::to_value(answer).unwrap();
            contains(&answer, &applied, &desired.object.to_string());
        }
    }
}
