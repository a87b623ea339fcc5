//! An instance at rest costs nothing: the audit log of the API server is asked what the operator wrote for it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::audit::writes_of_the_operator;
use crate::database::Postgres;
use crate::path::postgres_spec;
use crate::support::{Instance, apply, eventually};

/// How long nothing must happen.
const WINDOW: Duration = Duration::from_mins(10);
/// How long nothing has happened when an instance counts as at rest.
const REST: Duration = Duration::from_secs(20);

/// The ten minutes; `JAM_STEADY_SECONDS` shortens them where somebody waits.
fn window() -> Duration {
    let wished = std::env::var_os("JAM_STEADY_SECONDS");
    let seconds = wished.map(|text| text.to_string_lossy().parse().expect("JAM_STEADY_SECONDS is a number of seconds"));
    seconds.map_or(WINDOW, Duration::from_secs)
}

/// Everything that can be asked for and that does nothing by itself: the cleanup is there and suspended.
fn everything() -> Value {
    let mut spec = postgres_spec();
    spec["workers"] = json!({"replicas": 1});
    spec["networkPolicy"] = json!({"enabled": true});
    spec["ingress"] = json!({"enabled": true, "host": "jam.example.com"});
    spec["cleanup"] = json!({"schedule": "0 3 * * *", "suspend": true});
    spec["tokens"]["rotation"] = json!({"intervalDays": 3650, "overlapHours": 24});
    spec
}

#[tokio::test]
async fn for_ten_minutes_the_operator_writes_nothing_about_an_instance_at_rest() {
    let instance = Instance::in_new_namespace("steady");
    let database = Postgres::started(&instance.namespace).await;
    apply(&database.secret());
    instance.apply(&everything());
    instance.wait_ready().await;
    let ours = |since| {
        let writes = writes_of_the_operator(since).into_iter();
        writes.filter(|write| write.namespace == instance.namespace).collect::<Vec<_>>()
    };
    let begun = ours(jiff::Timestamp::UNIX_EPOCH);
    assert!(begun.len() > 10, "the log shows what making the instance cost: {begun:?}");
    eventually("the instance to be at rest", || async {
        let since = jiff::Timestamp::now().checked_sub(REST).expect("not in 1970");
        ours(since).is_empty().then_some(())
    })
    .await;

    let since = jiff::Timestamp::now();
    tokio::time::sleep(window()).await;
    assert_eq!(ours(since), Vec::new(), "{}", instance.describe());
    let writes = writes_of_the_operator(since);
    let lease = |namespace: &str, what: &str| namespace == "jam-system" && what.contains(" leases ");
    // Other instances have their own tests at the same time; nothing else is written but the lease.
    let elsewhere: Vec<_> = writes
        .iter()
        .filter(|write| !write.namespace.starts_with("e2e-") && !lease(&write.namespace, &write.what))
        .collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    assert!(writes.iter().any(|write| lease(&write.namespace, &write.what)), "the operator ran: {}", writes.len());
    instance.wait_ready().await;
}
