//! Two replicas: one writes, and the other takes over, at once when the first says goodbye, in seconds when it dies.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

use crate::operator_support::{Account, Kubelet, apply, condition, eventually};
use crate::support::cluster::control_plane;

#[tokio::test]
async fn of_two_replicas_one_writes_and_the_other_takes_over() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let mut replicas = Vec::new();
    for name in ["one", "two", "three"] {
        let account = Account::new(plane, &client, &namespace, name).await;
        let replica = account.start(plane, &["--identity", name]);
        replica.ready().await;
        if name == "one" {
            eventually("it leads", async || (replica.answer("/readyz").await.1 == "leading\n").then_some(())).await;
        }
        replicas.push(replica);
    }
    apply(&client, &namespace, "main", json!({"runtime": {"jam": {"enabled": true, "store": "memory"}}})).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    assert!(!replicas[0].writes().is_empty());
    assert!(replicas[1..].iter().all(|replica| replica.writes().is_empty()), "never two writers");
    assert_eq!(replicas[1].answer("/readyz").await, (200, "standing by\n".into()));

    let (ended_well, log) = replicas.remove(0).stop().await;
    assert!(ended_well && log.contains("released"));
    let goodbye = Instant::now();
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    services.delete("main", &DeleteParams::default()).await.unwrap();
    eventually("the next one mends it", async || services.get_opt("main").await.ok()?).await;
    assert!(goodbye.elapsed() < Duration::from_secs(12), "a lease that was given back is free at once");

    let leading = replicas.iter().position(|replica| !replica.writes().is_empty()).unwrap();
    replicas.remove(leading).kill();
    let death = Instant::now();
    services.delete("main", &DeleteParams::default()).await.unwrap();
    eventually("the last one mends it", async || services.get_opt("main").await.ok()?).await;
    assert!(death.elapsed() < Duration::from_secs(30), "a lease that nobody renews is free after its time");
    assert!(replicas[0].forbidden().is_empty(), "{:?}", replicas[0].forbidden());
}
