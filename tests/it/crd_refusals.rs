//! Wrong manifests: a real API server refuses each, with the message that its author would want.

use kube::Client;
use kube::api::PostParams;
use kube::core::Request;
use serde_json::{Value, json};

use crate::support::cluster::{TESTER, control_plane};

/// Schedules that Kubernetes takes.
const SCHEDULES: [&str; 16] = [
    "00-59 9-10,03-03 09-31 01-dec sun-6",
    "0/15 ? 1-1/2 * 0-0",
    "17 3 * * *",
    "*/5 * * * *",
    "0 0 1 1 *",
    "0,30 8-18/2 * * 1-5",
    "0 4 * jan,JUL sun",
    "@daily",
    "@hourly",
    "0 22 * * MON-FRI",
    "0 0 1-7 * 0",
    "5 4 * JAN-MAR *",
    "0 0 29 2 *",
    "0 0 30 2 0",
    "0 0 30 2,3 *",
    "0 0 31 4-5 *",
];

/// Time zones that it takes.
const ZONES: [&str; 5] = ["Etc/UTC", "UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5"];

/// A manifest that is accepted.
fn right() -> Value {
    json!({
        "apiVersion": "jam.network/v1alpha1",
        "kind": "JamInstance",
        "metadata": {"name": "main"},
        "spec": {
            "runtime": {"jam": {"enabled": true, "store": "postgres"}},
            "database": {"dsnSecretRef": {"name": "jam-db"}},
            "tokens": {"consumers": [{"name": "demo"}]},
        },
    })
}

/// The manifest with changes merged into it; a null removes.
fn but(changes: Value) -> Value {
    fn merge(into: &mut Value, changes: Value) {
        match changes {
            Value::Object(fields) if into.is_object() => {
                for (key, change) in fields {
                    if change.is_null() {
                        into.as_object_mut().unwrap().remove(&key);
                    } else {
                        merge(&mut into[key], change);
                    }
                }
            }
            other => *into = other,
        }
    }
    let mut manifest = right();
    merge(&mut manifest, changes);
    manifest
}

/// What is written under `spec`, and what the refusal must say.
type Wrong = (Value, &'static [&'static str]);

fn wrong_settings() -> Vec<Wrong> {
    let jam = |block: Value| json!({"runtime": {"jam": block}});
    let many: Vec<_> = (0..65).map(|n| format!("type/{n}")).collect();
    vec![
        (jam(json!({"store": "redis"})), &["spec.runtime.jam.store", "redis", "memory", "postgres"]),
        (jam(json!({"enabled": "yes"})), &["spec.runtime.jam.enabled", "boolean"]),
        (
            jam(json!({"rateLimitPerMinute": -1})),
            &["spec.runtime.jam.rateLimitPerMinute", "greater than or equal to 0"],
        ),
        (jam(json!({"rateLimitPerMinute": "60"})), &["spec.runtime.jam.rateLimitPerMinute", "integer"]),
        (
            jam(json!({"maxPreimageBytes": 1_099_511_627_777_u64})),
            &["spec.runtime.jam.maxPreimageBytes", "less than or equal to"],
        ),
        (jam(json!({"retentionDays": 36_501})), &["spec.runtime.jam.retentionDays", "36500"]),
        (
            jam(json!({"attestationThreshold": 0})),
            &["spec.runtime.jam.attestationThreshold", "greater than or equal to 1"],
        ),
        (jam(json!({"accumulatorHash": "md5"})), &["spec.runtime.jam.accumulatorHash", "blake3-256", "sha256"]),
        (jam(json!({"allowedMediaTypes": ["text"]})), &["spec.runtime.jam.allowedMediaTypes[0]", "should match"]),
        (jam(json!({"allowedMediaTypes": many})), &["spec.runtime.jam.allowedMediaTypes", "64"]),
        (jam(json!({"allowedOrigins": ["example.com"]})), &["spec.runtime.jam.allowedOrigins[0]"]),
        (jam(json!({"allowedOrigins": ["https://a.example/path"]})), &["spec.runtime.jam.allowedOrigins[0]"]),
        (jam(json!({"services": [{"maxPendingPackages": 1}]})), &["spec.runtime.jam.services[0].id", "Required value"]),
        (jam(json!({"services": [{"id": "a b"}]})), &["spec.runtime.jam.services[0].id", "should match"]),
        (jam(json!({"maxPreimageByte": 5})), &["maxPreimageByte", "unknown field"]),
        (json!({"replica": 2}), &["replica", "unknown field"]),
        (json!({"profile": "prod"}), &["spec.profile", "local", "staging", "production"]),
    ]
}

fn wrong_combinations() -> Vec<Wrong> {
    let memory = json!({"jam": {"store": "memory"}});
    vec![
        (
            json!({"database": null}),
            &["store postgres needs a database", "spec.database.dsnSecretRef", "spec.database.cluster"],
        ),
        (json!({"database": {"dsnSecretRef": null}}), &["store postgres needs a database"]),
        (
            json!({"database": {"cluster": {"name": "pg"}}}),
            &["spec.database", "exactly one of dsnSecretRef and cluster, not both"],
        ),
        (
            json!({"profile": "staging", "runtime": {"jam": {"store": null}}, "database": null}),
            &["store postgres needs a database"],
        ),
        (json!({"profile": "production", "runtime": memory}), &["profile production refuses the memory store"]),
        (
            json!({"profile": "production", "runtime": {"jam": {"authRequired": false}}}),
            &["profile production refuses authRequired: false"],
        ),
        (
            json!({"profile": "production", "runtime": {"jam": {"allowedOrigins": ["https://a.example", "http://b.example"]}}}),
            &["profile production takes https origins only"],
        ),
        (json!({"replicas": 2, "runtime": memory}), &["spec.replicas", "at most 1", "one process"]),
        (json!({"autoscaling": {"maxReplicas": 2}, "runtime": memory}), &["without autoscaling"]),
        (json!({"workers": {"replicas": 1}, "runtime": memory}), &["spec.workers", "must be 0"]),
    ]
}

fn wrong_objects() -> Vec<Wrong> {
    vec![
        (json!({"tokens": {"consumers": []}}), &["spec.tokens", "lets nobody in"]),
        (
            json!({"tokens": {"allowedTokensSecretRef": {"name": "mine"}}}),
            &["spec.tokens", "either consumers or your own tokens", "not both"],
        ),
        (
            json!({"tokens": {"consumers": [{"name": "hashes"}]}}),
            &["spec.tokens.consumers", "no consumer may be named hashes"],
        ),
        (
            json!({"tokens": {"rotation": {"intervalDays": 1, "overlapHours": 24}}}),
            &["spec.tokens.rotation", "overlapHours must be shorter than the interval"],
        ),
        (
            json!({"tokens": {"consumers": [], "rotation": {}, "allowedTokensSecretRef": {"name": "mine"}}}),
            &["rotation replaces the tokens of consumers"],
        ),
        (
            json!({"autoscaling": {"minReplicas": 5, "maxReplicas": 2}}),
            &["spec.autoscaling", "minReplicas must not be greater"],
        ),
        (json!({"ingress": {"enabled": true}}), &["spec.ingress", "host is needed"]),
        (json!({"httpRoute": {"enabled": true}}), &["spec.httpRoute", "parentRefs needs at least one Gateway"]),
        (
            json!({"image": {"tag": "1", "digest": format!("sha256:{}", "a".repeat(64))}}),
            &["spec.image", "tag or digest, not both"],
        ),
        (
            json!({"podTemplate": {"labels": {"app.kubernetes.io/name": "x"}}}),
            &["spec.podTemplate.labels", "the operator's own"],
        ),
        (
            json!({"podTemplate": {"annotations": {"jam.network/x": "y"}}}),
            &["spec.podTemplate.annotations", "the operator's own"],
        ),
        (
            json!({"podTemplate": {"annotations": {"app.kubernetes.io/foo": "bar"}}}),
            &["spec.podTemplate.annotations", "the operator's own"],
        ),
        (
            json!({"podTemplate": {"env": [{"name": "JAM_PG_DSN", "value": "postgres://secret"}]}}),
            &["spec.podTemplate.env", "set from the spec's own fields"],
        ),
        (
            json!({"podTemplate": {"env": [{"name": "JAM_ENABLED", "value": "true"}]}}),
            &["spec.podTemplate.env", "set from the spec's own fields"],
        ),
        (
            json!({"podTemplate": {"env": [{"name": "DATABASE_URL", "value": "postgres://secret"}]}}),
            &["spec.podTemplate.env", "DATABASE_URL"],
        ),
    ]
}

fn wrong_fields() -> Vec<Wrong> {
    vec![
        (json!({"replicas": -1}), &["spec.replicas", "greater than or equal to 0"]),
        (json!({"replicas": 101}), &["spec.replicas", "less than or equal to 100"]),
        (json!({"workers": {"intervalSeconds": 0}}), &["spec.workers.intervalSeconds"]),
        (json!({"autoscaling": {}}), &["spec.autoscaling.maxReplicas", "Required value"]),
        (
            json!({"database": {"dsnSecretRef": {"name": "Jam_DB"}}}),
            &["spec.database.dsnSecretRef.name", "should match"],
        ),
        (json!({"database": {"dsnSecretRef": {"key": "a/b"}}}), &["spec.database.dsnSecretRef.key"]),
        (json!({"database": {"maxConnections": 0}}), &["spec.database.maxConnections"]),
        (json!({"database": {"dsn": "postgres://user:password@host/db"}}), &["dsn", "unknown field"]),
        (json!({"blobStore": {"url": "https://bucket"}}), &["spec.blobStore.url"]),
        (json!({"image": {"repository": "https://registry.example/jam"}}), &["spec.image.repository"]),
        (json!({"image": {"digest": "sha256:abc"}}), &["spec.image.digest"]),
        (json!({"image": {"pullPolicy": "Sometimes"}}), &["spec.image.pullPolicy", "IfNotPresent"]),
        (json!({"tokens": {"consumers": [{"name": "Demo"}]}}), &["spec.tokens.consumers[0].name"]),
        (json!({"tokens": {"consumers": [{"name": "a"}, {"name": "a"}]}}), &["spec.tokens.consumers", "a"]),
        (json!({"tokens": {"consumers": [{"name": "a", "scopes": ["write"]}]}}), &["scopes[0]", "submit"]),
        (json!({"tokens": {"consumers": [{"name": "a", "scopes": ["read", "read"]}]}}), &["scopes"]),
        (json!({"tokens": {"consumers": [{"name": "a", "services": ["a/b"]}]}}), &["services[0]"]),
        (json!({"tokens": {"rotation": {"intervalDays": 0}}}), &["spec.tokens.rotation.intervalDays"]),
        (json!({"migrations": {"mode": "Never"}}), &["spec.migrations.mode", "Auto", "Manual"]),
        (json!({"migrations": {"timeoutSeconds": 5}}), &["spec.migrations.timeoutSeconds"]),
        (json!({"cleanup": {"schedule": "every night"}}), &["spec.cleanup.schedule", "five cron fields"]),
        (json!({"cleanup": {"schedule": "61 3 * * *"}}), &["spec.cleanup.schedule"]),
        (json!({"cleanup": {"schedule": "1 24 * * *"}}), &["spec.cleanup.schedule"]),
        (json!({"cleanup": {"schedule": "CRON_TZ=UTC 1 1 * * *"}}), &["spec.cleanup.schedule"]),
        (json!({"cleanup": {"schedule": "1 1 * *"}}), &["spec.cleanup.schedule"]),
        (json!({"cleanup": {"schedule": "50-10 3 * * *"}}), &["spec.cleanup.schedule"]),
        (json!({"cleanup": {"schedule": "0 22-6 * * *"}}), &["spec.cleanup.schedule"]),
        (json!({"cleanup": {"schedule": "0 3 * * 0,fri-mon"}}), &["spec.cleanup.schedule"]),
        (json!({"cleanup": {"schedule": "0 3 * JUN-FEB *"}}), &["spec.cleanup.schedule"]),
        (json!({"cleanup": {"schedule": "0 0 30 2 *"}}), &["spec.cleanup.schedule", "never comes"]),
        (json!({"cleanup": {"schedule": "0 0 31-31,31/2 Feb,jun,09 */1"}}), &["spec.cleanup.schedule", "never comes"]),
        (json!({"cleanup": {"timeZone": "Local"}}), &["spec.cleanup.timeZone", "Local"]),
        (
            json!({"podTemplate": {"annotations": {"container.apparmor.security.beta.kubernetes.io/jam": "unconfined"}}}),
            &["spec.podTemplate.annotations", "AppArmor"],
        ),
        (json!({"cleanup": {"timeZone": "Mars/Olympus"}}), &["spec.cleanup.timeZone", "unknown time zone"]),
        (json!({"service": {"port": 0}}), &["spec.service.port"]),
        (json!({"service": {"port": 65_536}}), &["spec.service.port"]),
        (json!({"service": {"type": "ExternalName"}}), &["spec.service.type", "ClusterIP"]),
        (json!({"ingress": {"enabled": true, "host": "jam.example/path"}}), &["spec.ingress.host"]),
        (json!({"monitoring": {"otlpEndpoint": "collector:4317"}}), &["spec.monitoring.otlpEndpoint"]),
        (json!({"podTemplate": {"resource": {}}}), &["resource", "unknown field"]),
        (
            json!({"podTemplate": {"resources": {"limits": {"memory": true}}}}),
            &["spec.podTemplate.resources.limits.memory"],
        ),
        (
            json!({"podTemplate": {"terminationGracePeriodSeconds": 5}}),
            &["spec.podTemplate.terminationGracePeriodSeconds"],
        ),
        (json!({"deletionPolicy": "Orphan"}), &["spec.deletionPolicy", "Retain", "Delete"]),
        (json!({"paused": "true"}), &["spec.paused", "boolean"]),
    ]
}

/// Sends a manifest as `kubectl create --dry-run=server --validate=strict` does; the refusal, if there is one.
async fn refusal(client: &Client, namespace: &str, manifest: &Value) -> Option<String> {
    let path = format!("/apis/jam.network/v1alpha1/namespaces/{namespace}/jaminstances");
    let dry = PostParams { dry_run: true, field_manager: Some(TESTER.into()) };
    let mut request = Request::new(path).create(&dry, serde_json::to_vec(manifest).unwrap()).unwrap();
    *request.uri_mut() = format!("{}&fieldValidation=Strict", request.uri()).parse().unwrap();
    match client.request::<Value>(request).await {
        Ok(_) => None,
        Err(kube::Error::Api(status)) => Some(status.message),
        Err(other) => panic!("no answer: {other}"),
    }
}

#[tokio::test]
async fn a_wrong_manifest_is_refused_with_the_message_its_author_would_want() {
    let (client, namespace) = control_plane().with_crd().await;
    assert_eq!(refusal(&client, &namespace, &right()).await, None, "what the wrong ones are made from is right");
    let table = [wrong_settings(), wrong_combinations(), wrong_objects(), wrong_fields()].concat();
    assert!(table.len() >= 40, "{}", table.len());
    let mut faults = Vec::new();
    for (spec, words) in table {
        match refusal(&client, &namespace, &but(json!({"spec": spec}))).await {
            None => faults.push(format!("{spec} is accepted")),
            Some(said) => {
                if std::env::var_os("JAM_SHOW").is_some() {
                    println!("{spec}\n    {said}");
                }
                faults.extend(
                    words
                        .iter()
                        .filter(|word| !said.contains(**word))
                        .map(|word| format!("{spec}: no {word:?} in: {said}")),
                );
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Plans a manifest without a cluster: what is said against it, or nothing.
fn refusal_of_plan(manifest: &Value) -> Option<String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, manifest.to_string().as_bytes()).unwrap();
    let mut plan = std::process::Command::new(env!("CARGO_BIN_EXE_jam-operator"));
    let ended = plan.args(["plan", "-f"]).arg(file.path()).env_clear().output().unwrap();
    if ended.status.success() {
        assert!(
            String::from_utf8_lossy(&ended.stdout).contains("# Planned without a cluster"),
            "it says what it could not check"
        );
        return None;
    }
    assert_eq!((ended.status.code(), ended.stdout.len()), (Some(1), 0));
    Some(String::from_utf8_lossy(&ended.stderr).into_owned())
}

#[test]
fn a_wrong_manifest_is_refused_by_plan_without_a_cluster_too() {
    assert_eq!(refusal_of_plan(&right()), None);
    let table = [wrong_settings(), wrong_combinations(), wrong_objects(), wrong_fields()].concat();
    let mut faults = Vec::new();
    for (spec, words) in table {
        let Some(said) = refusal_of_plan(&but(json!({"spec": spec}))) else {
            faults.push(format!("{spec} is accepted"));
            continue;
        };
        // The words differ, the place is the same.
        let field = words[0].rsplit('.').next().unwrap().split('[').next().unwrap();
        if words[0].starts_with("spec.") && !said.contains(field) {
            faults.push(format!("{spec}: no {field:?} in: {said}"));
        }
    }
    for name in ["1st", "a.b", &"a".repeat(41)] {
        if refusal_of_plan(&but(json!({"metadata": {"name": name}}))).is_none() {
            faults.push(format!("the name {name} is accepted"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_manifest_that_the_api_server_takes_is_taken_by_plan_without_a_cluster() {
    for (name, text) in crate::plan_snapshots::manifests() {
        let documents = jam_plan::render::documents(&text).unwrap();
        assert_eq!(jam::operator::offline::refuse(&documents), Ok(()), "{name}");
    }
    for (schedule, zone) in SCHEDULES.iter().flat_map(|schedule| ZONES.map(|zone| (schedule, zone))) {
        let manifest = but(json!({"spec": {"cleanup": {"schedule": schedule, "timeZone": zone}}}));
        assert_eq!(jam::operator::offline::refuse(&[manifest]), Ok(()), "{schedule} {zone}");
    }
}

#[tokio::test]
async fn a_name_that_the_service_could_not_have_is_refused() {
    let (client, namespace) = control_plane().with_crd().await;
    for name in ["1st", "a.b", &"a".repeat(41)] {
        let said = refusal(&client, &namespace, &but(json!({"metadata": {"name": name}}))).await.unwrap_or_default();
        assert!(said.contains("metadata.name must have at most 40 characters"), "{name}: {said}");
    }
}

#[tokio::test]
async fn every_way_to_write_a_schedule_is_accepted() {
    let (client, namespace) = control_plane().with_crd().await;
    for schedule in SCHEDULES {
        let said = refusal(&client, &namespace, &but(json!({"spec": {"cleanup": {"schedule": schedule}}}))).await;
        assert_eq!(said, None, "{schedule}");
    }
    for zone in ZONES {
        assert_eq!(
            refusal(&client, &namespace, &but(json!({"spec": {"cleanup": {"timeZone": zone}}}))).await,
            None,
            "{zone}"
        );
    }
    let by_hand = but(json!({"spec": {"cleanup": {"schedule": "0 0 31 2 *", "suspend": true}}}));
    assert_eq!(refusal(&client, &namespace, &by_hand).await, None, "by hand alone");
    assert_eq!(jam::operator::offline::refuse(&[by_hand]), Ok(()));
}
