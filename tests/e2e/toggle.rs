//! Claim 5: JAM switched off with one patch answers 404, the other paths never fail meanwhile, and on again has its data.

use serde_json::{Value, json};

use crate::database::Postgres;
use crate::path::{first_package, postgres_spec};
use crate::support::{Instance, apply, client, eventually};
use crate::traffic::Load;

#[tokio::test]
async fn a_disabled_instance_answers_404_without_a_failed_request_and_comes_back_with_its_data() {
    let instance = Instance::in_new_namespace("toggle");
    let database = Postgres::started(&instance.namespace).await;
    apply(&database.secret());
    instance.apply(&postgres_spec());
    instance.wait_ready().await;
    first_package(&instance).await;
    let load = Load::beside_jam(&instance).await;

    instance.patch(&json!({"spec": {"runtime": {"jam": {"enabled": false}}}}));
    instance.is_told("InProgress").await;
    settled(&instance, 404).await;
    for pod in instance.pods() {
        let url = format!("http://{}:8080/system/status", pod["status"]["podIP"].as_str().expect("it is ready"));
        let answer = client().get(url).bearer_auth(instance.token()).send().await.expect("the other paths answer");
        let status: Value = answer.json().await.expect("a status is JSON");
        assert_eq!(status["jam"]["enabled"], false, "{pod}");
    }

    instance.patch(&json!({"spec": {"runtime": {"jam": {"enabled": true}}}}));
    instance.is_told("InProgress").await;
    settled(&instance, 200).await;
    load.all_answered().await;
    instance.slctl_ok(&["jam", "verify", "--service", "demo"]);
}

/// Waits until the roll-out is over and every pod answers `/jam/status` with this status.
async fn settled(instance: &Instance, wanted: u16) {
    let token = instance.token();
    eventually(&format!("every pod to answer {wanted}"), || async {
        let pods = instance.pods();
        if pods.len() != 2 {
            return None;
        }
        for pod in pods {
            let url = format!("http://{}:8080/jam/status", pod["status"]["podIP"].as_str()?);
            let answer = client().get(url).bearer_auth(&token).send().await.ok()?;
            if answer.status().as_u16() != wanted {
                return None;
            }
        }
        Some(())
    })
    .await;
    instance.wait_ready().await;
}
