//! `jam-operator plan --diff` of instances that are not as they were applied: changed behind the operator's back, or rolled back.

use jam::operator::difference::essence;
use jam_plan::JamInstance;
use jam_plan::names::MIGRATION_KEY;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::kubelet::{FATE, LAST_WORDS};
use crate::operator_kinds::on_postgres;
use crate::operator_support::{Account, Kubelet, apply, condition, eventually};
use crate::plan_diff::{QUIET, changes, live, manifest, plan, said};
use crate::support::cluster::control_plane;

/// Puts a variable into the container of the API pods, as `kubectl set env` does, and waits until every pod has it.
async fn meddle(client: &Client, namespace: &str, name: &str, (variable, value): (&str, &str)) {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let container = json!({"name": "jam", "env": [{"name": variable, "value": value}]});
    let theirs = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
    deployments.patch(name, &PatchParams::default(), &Patch::Strategic(theirs)).await.unwrap();
    eventually("its pods are replaced", async || {
        let deployment = deployments.get(name).await.ok()?;
        let (generation, status) = (deployment.metadata.generation, deployment.status?);
        let seen = status.observed_generation == generation;
        let all = deployment.spec?.replicas;
        (seen && [status.replicas, status.updated_replicas, status.available_replicas] == [all; 3]).then_some(())
    })
    .await;
}

/// The same with an operator that keeps its hands off until `spec.paused` is false.
pub async fn meddle_while_paused(client: &Client, namespace: &str, name: &str, variable: (&str, &str)) {
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    let paused = json!({"spec": {"paused": true}});
    instances.patch(name, &PatchParams::default(), &Patch::Merge(paused)).await.unwrap();
    condition(client, namespace, name, "Paused", "True", "PausedBySpec").await;
    meddle(client, namespace, name, variable).await;
}

fn in_memory(deletion: &str) -> Value {
    json!({"runtime": {"jam": {"enabled": true, "store": "memory"}}, "deletionPolicy": deletion})
}

#[tokio::test]
async fn what_an_apply_does_not_take_back_is_planned_as_the_second_write_takes_it() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    apply(&client, &namespace, "main", in_memory("Delete")).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    operator.stop().await;
    meddle(&client, &namespace, "main", ("JAM_ENABLED", "false")).await;

    let text = manifest(&namespace, "main", &in_memory("Retain"));
    let told = plan(plane, &text, &[]);
    for words in ["pods of Deployment main restart", "containers[jam].env", "JAM_ENABLED", "-  ownerReferences:"] {
        assert!(told.status.code() == Some(1) && said(&told).contains(words), "{words}: {}", said(&told));
    }
    let planned = changes(&plan(plane, &text, &["--output", "json"]));
    let names: Vec<_> = planned.iter().map(|change| change["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["main-token-default", "main"]);
    let operator = account.start(plane, QUIET);
    apply(&client, &namespace, "main", in_memory("Retain")).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    for change in planned.iter().filter(|change| change["kind"] != "Secret") {
        let (kind, name) = (change["kind"].as_str().unwrap(), change["name"].as_str().unwrap());
        assert_eq!(live(&client, &namespace, kind, name).await.unwrap(), change["planned"]);
    }
    let secret = live(&client, &namespace, "Secret", "main-token-default").await.unwrap();
    assert_eq!(essence(secret)["metadata"], planned[0]["planned"]["metadata"]);
    let again = plan(plane, &text, &[]);
    assert!(again.status.success() && said(&again).contains("nothing would change"), "{}", said(&again));
}

#[tokio::test]
async fn a_plan_of_a_spec_that_was_rolled_back_says_so_and_when_it_is_tried_again() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let hasty = ["--progress-deadline", "5"];
    let operator = account.start(plane, &[QUIET, &hasty].concat());
    let good = in_memory("Retain");
    apply(&client, &namespace, "main", good.clone()).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    let mut bad = good.clone();
    bad["podTemplate"] = json!({"env": [{"name": FATE, "value": "crash"}]});
    apply(&client, &namespace, "main", bad.clone()).await;
    condition(&client, &namespace, "main", "Ready", "False", "RolledBack").await;
    operator.quiet().await;
    let same = plan(plane, &manifest(&namespace, "main", &bad), &hasty);
    for words in ["nothing would change", "rolled back to generation 1", LAST_WORDS, "until the spec changes"] {
        assert!(same.status.success() && said(&same).contains(words), "{words}: {}", said(&same));
    }
    bad["podTemplate"]["env"][0]["value"] = "fine".into();
    let other = plan(plane, &manifest(&namespace, "main", &bad), &hasty);
    assert!(other.status.code() == Some(1) && !said(&other).contains("rolled back"), "{}", said(&other));
}

#[tokio::test]
async fn a_migration_job_that_a_hand_changed_is_planned_as_removed_and_made_again() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let spec = on_postgres(&client, &namespace).await;
    apply(&client, &namespace, "main", spec.clone()).await;
    let jobs: Api<Job> = Api::namespaced(client.clone(), &namespace);
    let other = async |uid: Option<String>| {
        eventually("another Job is made", async || {
            let found = jobs.list(&ListParams::default()).await.ok()?.items.into_iter().next()?;
            (found.metadata.deletion_timestamp.is_none() && found.uid() != uid).then_some(found)
        })
        .await
    };
    let text = manifest(&namespace, "main", &spec);
    for change in [json!({"spec": {"suspend": true}}), json!({"metadata": {"labels": {MIGRATION_KEY: null}}})] {
        let operator = account.start(plane, QUIET);
        let made = other(None).await;
        operator.quiet().await;
        operator.stop().await;
        let name = made.name_any();
        jobs.patch(&name, &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
        let told = plan(plane, &text, &[]);
        let words = format!("Job {name} is removed and made again");
        assert!(told.status.code() == Some(1) && said(&told).contains(&words), "{change}: {}", said(&told));
        let planned = changes(&plan(plane, &text, &["--output", "json"]));
        let job = planned.iter().find(|change| change["kind"] == "Job").unwrap();
        assert_eq!((&job["action"], &job["remade"]), (&json!("change"), &json!(true)));

        let operator = account.start(plane, QUIET);
        let again = other(made.uid()).await;
        operator.quiet().await;
        for place in ["/spec/suspend", "/spec/template/spec/containers", "/metadata/labels/jam.network~1migration"] {
            assert_eq!(json!(again).pointer(place), job["planned"].pointer(place), "{place}");
        }
        operator.stop().await;
    }
}
