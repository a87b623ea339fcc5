//! `jam-operator plan --diff` against a real API server: what it says is what the operator then does.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Output};

use jam::operator::difference::{essence, redact};
use jam_plan::JamInstance;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::operator_support::{Account, Kubelet, Operator, apply, condition};
use crate::plan_aftermath::meddle_while_paused;
use crate::support::cluster::{ControlPlane, control_plane};

pub const QUIET: &[&str] = &["--leader-election", "false"];
/// Specs that are planned and applied one after the other, on two instances.
const CASES: usize = 10;

pub fn manifest(namespace: &str, name: &str, spec: &Value) -> String {
    let metadata = json!({"name": name, "namespace": namespace});
    json!({"apiVersion": "jam.network/v1alpha1", "kind": "JamInstance", "metadata": metadata, "spec": spec}).to_string()
}

/// Runs `plan --diff` as the administrator of the control plane.
pub fn plan(plane: &ControlPlane, text: &str, arguments: &[&str]) -> Output {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Command::new(env!("CARGO_BIN_EXE_jam-operator"))
        .args(["plan", "--diff", "--api-image", "localhost/jam-api:dev", "-f"])
        .arg(file.path())
        .args(arguments)
        .env_clear()
        .env("KUBECONFIG", &plane.kubeconfig)
        .output()
        .unwrap()
}

pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The changes of the only instance of a plan.
pub fn changes(output: &Output) -> Vec<Value> {
    let previews: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(output)));
    previews[0]["changes"].as_array().unwrap().clone()
}

prop_compose! {
    /// Specs without a store, which an instance keeps for life.
    fn specs()(
        enabled in any::<bool>(),
        rate in 1..4_u32,
        others in proptest::collection::btree_set("[a-c]", 0..3),
        port in 80..82_u16,
        exposed in any::<bool>(),
        variable in proptest::option::of("[xy]"),
        replicas in 1..=3_i32,
        workers in 0..=1_i32,
        deletion in prop_oneof![Just("Retain"), Just("Delete")],
    ) -> Value {
        let consumers: Vec<Value> = others.iter().map(String::as_str).chain(["demo"]).map(|n| json!({"name": n})).collect();
        let mut spec = json!({
            "runtime": {"jam": {"enabled": enabled, "rateLimitPerMinute": rate}},
            "tokens": {"consumers": consumers},
            "service": {"port": port},
            "replicas": replicas,
            "workers": {"replicas": workers},
            "deletionPolicy": deletion,
            "paused": false,
        });
        if exposed {
            spec["networkPolicy"] = json!({"enabled": true});
            spec["ingress"] = json!({"enabled": true, "host": "jam.example"});
        }
        if let Some(value) = variable {
            spec["podTemplate"] = json!({"env": [{"name": "A", "value": value}]});
        }
        spec
    }
}

prop_compose! {
    /// The same with what comes and goes as a whole, and with images.
    fn further()(
        mut spec in specs(),
        scaled in any::<bool>(),
        cleaned in any::<bool>(),
        shown in any::<bool>(),
        [scraped, alerted, routed] in any::<[bool; 3]>(),
        tag in proptest::option::of("[ab]"),
    ) -> Value {
        if scaled {
            spec["autoscaling"] = json!({"minReplicas": 2, "maxReplicas": 4});
        }
        if cleaned {
            spec["cleanup"] = json!({"schedule": "0 0 29 2 *"});
        }
        spec["monitoring"] = json!({"dashboard": shown, "serviceMonitor": scraped, "prometheusRule": alerted});
        if routed {
            spec["httpRoute"] = json!({"enabled": true, "hostnames": ["jam.example"], "parentRefs": [{"name": "g"}]});
        }
        if let Some(tag) = tag {
            spec["image"] = json!({"tag": tag});
        }
        spec
    }
}

/// The spec on the store of its instance.
fn stored(mut spec: Value, postgres: bool) -> Value {
    spec["runtime"]["jam"]["store"] = if postgres { "postgres" } else { "memory" }.into();
    if postgres {
        spec["database"] = json!({"dsnSecretRef": {"name": "db", "key": "dsn"}});
    } else {
        (spec["replicas"], spec["workers"]["replicas"]) = (1.into(), 0.into());
        spec.as_object_mut().unwrap().remove("autoscaling");
    }
    spec
}

fn plural(kind: &str) -> String {
    let all = jam_plan::Kind::ALL.iter().map(|kind| kind.coordinates());
    all.filter(|(_, _, word, _)| *word == kind).map(|(_, _, _, plural)| plural.to_owned()).next().unwrap()
}

pub async fn live(client: &Client, namespace: &str, kind: &str, name: &str) -> Option<Value> {
    let kind = jam_plan::Kind::ALL.iter().find(|other| other.as_str() == kind).unwrap();
    let (group, version, word, plural) = kind.coordinates();
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, word), plural);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    api.get_opt(name).await.unwrap().map(|object| essence(json!(object)))
}

/// The number of the Deployment's rollout, as its controller counts.
async fn rollout(client: &Client, namespace: &str, name: &str) -> Option<String> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let found = deployments.get_opt(name).await.unwrap()?;
    found.annotations().get("deployment.kubernetes.io/revision").cloned()
}

/// What the operator wrote since: removed or written, resource and name.
fn done(operator: &Operator, since: usize) -> BTreeSet<(bool, String, String)> {
    let writes = operator.writes().split_off(since);
    let children = writes.into_iter().filter(|asked| asked.resource != "jaminstances/status");
    children.map(|asked| (asked.verb == "delete", asked.resource, asked.name)).collect()
}

/// Without what comes and goes: while a new version waits for its migration the pods of before hear of the toggle (adr/0036).
fn lasting(done: &BTreeSet<(bool, String, String)>, planned: &[Value]) -> BTreeSet<(bool, String, String)> {
    let migrates = planned.iter().any(|change| change["kind"] == "Job");
    let both = |resource: &str, name: &str| {
        [false, true].into_iter().all(|gone| done.contains(&(gone, resource.to_owned(), name.to_owned())))
    };
    // Settings are made for that while alone; a worker that is to go was there before.
    let comes = |one: &&(bool, String, String)| one.1 == "configmaps" || !one.0;
    let lasts = |one: &&(bool, String, String)| !(migrates && both(&one.1, &one.2) && comes(one));
    done.iter().filter(lasts).cloned().collect()
}

#[tokio::test]
async fn what_plan_says_is_what_the_operator_then_does() {
    plans_are_kept(specs()).await;
}

#[tokio::test]
async fn what_plan_says_is_what_the_operator_then_does_where_more_comes_and_goes() {
    plans_are_kept(further()).await;
}

fn text_of(change: &Value, key: &str) -> String {
    change[key].as_str().unwrap().to_owned()
}

/// An object is as the plan said it would be.
async fn came_true(client: &Client, namespace: &str, change: &Value, case: &str) {
    let (kind, child) = (text_of(change, "kind"), text_of(change, "name"));
    let mut now = live(client, namespace, &kind, &child).await.unwrap_or_default();
    redact(&mut Value::Null, &mut now);
    let mut planned = change["planned"].clone();
    redact(&mut Value::Null, &mut planned);
    if kind == "Secret" && change["action"] == "create" {
        // Its token is made when it is written.
        (now, planned) = (now["metadata"]["labels"].take(), planned["metadata"]["labels"].take());
    }
    assert_eq!(now, planned, "{kind} {child}: {case}");
}

async fn plans_are_kept(specs: impl Strategy<Value = Value>) {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    plane.with_add_ons().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let dsn = json!({"metadata": {"name": "db"}, "stringData": {"dsn": "postgres://jam@db/jam"}});
    secrets.create(&PostParams::default(), &serde_json::from_value(dsn).unwrap()).await.unwrap();
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    operator.ready().await;
    let mut runner = TestRunner::deterministic();
    // What somebody puts into our container while nobody looks: one contradicts the spec, the other stays.
    let specs = (specs, proptest::option::of(prop_oneof![Just("JAM_ENABLED"), Just("THEIRS")]));
    for case in 0..CASES {
        let name = if case % 2 == 0 { "pg" } else { "mem" };
        let (spec, variable) = specs.new_tree(&mut runner).unwrap().current();
        let spec = stored(spec, case % 2 == 0);
        if let Some(variable) = variable.filter(|_| case > 1) {
            meddle_while_paused(&client, &namespace, name, (variable, &case.to_string())).await;
            operator.quiet().await;
        }
        let text = manifest(&namespace, name, &spec);
        let (since, before) = (operator.writes().len(), rollout(&client, &namespace, name).await);
        let here = ["--operator-namespace", namespace.as_str()];
        let output = plan(plane, &text, &[here[0], here[1], "--output", "json"]);
        let planned = changes(&output);
        assert_eq!(output.status.code(), Some(i32::from(!planned.is_empty())), "{}", said(&output));
        assert_eq!(operator.writes().len(), since, "asking changes nothing");

        apply(&client, &namespace, name, spec.clone()).await;
        condition(&client, &namespace, name, "Ready", "True", "Serving").await;
        operator.quiet().await;
        let foretold: BTreeSet<_> = planned
            .iter()
            .map(|change| (change["action"] == "remove", plural(&text_of(change, "kind")), text_of(change, "name")))
            .collect();
        // The hash of a DSN is salted with the uid, which an instance on PostgreSQL has only once it is there.
        let salted = before.is_none() && name == "pg";
        let gist = |all: BTreeSet<(bool, String, String)>| -> BTreeSet<_> {
            let short = |name: &str| {
                if salted { name.trim_end_matches(|c: char| c.is_ascii_hexdigit()) } else { name }.to_owned()
            };
            all.into_iter().map(|(gone, resource, name)| (gone, resource, short(&name))).collect()
        };
        assert_eq!(gist(lasting(&done(&operator, since), &planned)), gist(foretold), "case {case}: {spec}");
        for change in planned.iter().filter(|change| change["kind"] != "Job" && !salted) {
            came_true(&client, &namespace, change, &format!("case {case}: {spec}")).await;
        }
        let foretold = planned.iter().any(|c| c["name"] == name && !c["restarts"].as_array().unwrap().is_empty());
        let restarted = before.is_some() && before != rollout(&client, &namespace, name).await;
        assert_eq!(restarted, foretold, "case {case}: {spec}");
        let again = plan(plane, &text, &here);
        assert!(again.status.success() && said(&again).contains("nothing would change"), "{}", said(&again));
    }
    assert!(operator.forbidden().is_empty(), "{:?}", operator.forbidden());
}

#[tokio::test]
async fn a_difference_is_readable_and_names_the_settings_that_restart_pods() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let spec =
        |rate: u32| json!({"runtime": {"jam": {"enabled": true, "store": "memory", "rateLimitPerMinute": rate}}});
    let text = manifest(&namespace, "main", &spec(60));
    let new = plan(plane, &text, &["--color", "always"]);
    assert_eq!(new.status.code(), Some(1), "{}", said(&new));
    for words in
        ["+++ planned/Deployment main", "\u{1b}[32m+  name: main", "a token is made in Secret main-token-default"]
    {
        assert!(said(&new).contains(words), "{words}: {}", said(&new));
    }
    assert!(said(&new).contains("0 to change, 0 to remove; no pod restarts"), "{}", said(&new));

    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    apply(&client, &namespace, "main", spec(60)).await;
    condition(&client, &namespace, "main", "Ready", "True", "Serving").await;
    operator.quiet().await;
    let same = plan(plane, &text, &[]);
    assert_eq!((same.status.code(), said(&same).lines().count()), (Some(0), 2), "{}", said(&same));
    let assumed = "planned for an operator with --api-image localhost/jam-api:dev --progress-deadline 300 and no --operator-namespace";
    assert!(said(&same).contains(assumed), "who guessed another operator sees it: {}", said(&same));

    let other = plan(plane, &manifest(&namespace, "main", &spec(7)), &[]);
    assert_eq!(other.status.code(), Some(1));
    let told = said(&other);
    for words in [
        "pods of Deployment main restart, one at a time, because of",
        "settings: runtime.jam.rate_limit_per_minute: 60 -> 7",
        "spec.volumes[config].configMap.name: main-config-",
        "--- live/ConfigMap main-config-",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(!told.contains('\u{1b}'), "no colours where nobody sees them");
    let mut paused = spec(7);
    paused["paused"] = json!(true);
    let paused = plan(plane, &manifest(&namespace, "main", &paused), &[]);
    assert!(paused.status.success() && said(&paused).contains("it is paused"), "{}", said(&paused));

    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let token = secrets.get("main-token-default").await.unwrap().data.unwrap()["token"].0.clone();
    let mut fewer = spec(60);
    fewer["tokens"] = json!({"consumers": [{"name": "other"}]});
    let removed = said(&plan(plane, &manifest(&namespace, "main", &fewer), &[]));
    let token = base64(&token);
    assert!(removed.contains("-  token: (redacted)") && !removed.contains(&token), "{removed}");
}

fn base64(bytes: &[u8]) -> String {
    json!(k8s_openapi::ByteString(bytes.to_vec())).as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_cannot_be_planned_is_told_with_exit_code_2() {
    let plane = control_plane();
    let (_client, namespace) = plane.with_crd().await;
    let refused = json!({"runtime": {"jam": {"store": "postgres"}}});
    let contradictory = json!({"blobStore": {"url": "s3://bucket/prefix"}});
    let no_secret = json!({"profile": "staging", "database": {"dsnSecretRef": {"name": "db", "key": "dsn"}}});
    for (spec, words) in [(refused, "exactly one"), (contradictory, "InvalidSettings"), (no_secret, "SecretMissing")] {
        let output = plan(plane, &manifest(&namespace, "main", &spec), &[]);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
    let nobody = Command::new(env!("CARGO_BIN_EXE_jam-operator"))
        .args(["plan", "--diff", "-f", "manifests/quickstart.yaml"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(2));
    assert!(said(&nobody).contains("no cluster is configured"), "{}", said(&nobody));
}

#[tokio::test]
async fn what_was_set_by_hand_and_the_manifest_leaves_out_is_planned_as_apply_would_leave_it() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let _kubelet = Kubelet::play(&client, &namespace, 0, "");
    let account = Account::new(plane, &client, &namespace, "operator").await;
    let operator = account.start(plane, QUIET);
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), &namespace);
    let here = ["--operator-namespace", namespace.as_str()];
    let spec = json!({"runtime": {"jam": {"store": "memory", "rateLimitPerMinute": 5}}});
    // One was applied as `kubectl apply` does it, the other with --server-side.
    let mut applied: Value = serde_json::from_str(&manifest(&namespace, "client", &spec)).unwrap();
    let noted = json!({"kubectl.kubernetes.io/last-applied-configuration": applied.to_string()});
    applied["metadata"]["annotations"] = noted;
    instances.create(&PostParams::default(), &serde_json::from_value(applied).unwrap()).await.unwrap();
    apply(&client, &namespace, "server", spec.clone()).await;
    for name in ["client", "server"] {
        condition(&client, &namespace, name, "Ready", "True", "Serving").await;
        let toggle = json!({"spec": {"runtime": {"jam": {"enabled": false}}, "service": {"port": 81}}});
        instances.patch(name, &PatchParams::default(), &Patch::Merge(toggle)).await.unwrap();
        condition(&client, &namespace, name, "Ready", "True", "Serving").await;
        operator.quiet().await;
        let same = plan(plane, &manifest(&namespace, name, &spec), &here);
        assert!(same.status.success() && said(&same).contains("nothing would change"), "{name}: {}", said(&same));
        // What the manifest said before and does not say any more goes.
        let fewer = json!({"runtime": {"jam": {"store": "memory"}}});
        let told = said(&plan(plane, &manifest(&namespace, name, &fewer), &here));
        assert!(told.contains("settings: runtime.jam.rate_limit_per_minute: 5 -> 60"), "{name}: {told}");
        assert!(!told.contains("runtime.jam.enabled"), "{name}: {told}");
    }
}

#[tokio::test]
async fn an_instance_without_a_namespace_is_planned_where_apply_would_put_it() {
    let plane = control_plane();
    let (_client, namespace) = plane.with_crd().await;
    let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(&plane.kubeconfig).unwrap()).unwrap();
    config["contexts"][0]["context"]["namespace"] = namespace.as_str().into();
    let (folder, spec) = (tempfile::tempdir().unwrap(), json!({"runtime": {"jam": {"store": "memory"}}}));
    let mut bare: Value = serde_json::from_str(&manifest(&namespace, "main", &spec)).unwrap();
    bare["metadata"].as_object_mut().unwrap().remove("namespace");
    let [kubeconfig, file] = [("kubeconfig", config), ("manifest", bare)].map(|(name, content)| {
        let path = folder.path().join(name);
        std::fs::write(&path, content.to_string()).unwrap();
        path
    });
    let asked = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jam-operator"));
        command.arg("plan").arg("-f").arg(&file).args(arguments).env_clear().env("KUBECONFIG", &kubeconfig);
        command.output().unwrap()
    };
    let here = format!("JamInstance {namespace}/main: ");
    for (arguments, words) in [
        (vec!["--diff"], here.as_str()),
        (vec!["--diff", "-n", "default"], "JamInstance default/main: "),
        (vec![], &format!("namespace: {namespace}")),
        (vec!["-n", "elsewhere"], "namespace: elsewhere"),
    ] {
        let output = asked(&arguments);
        assert!(said(&output).contains(words), "{arguments:?}: {}", said(&output));
    }
    let placed = plan(plane, &manifest(&namespace, "main", &spec), &["-n", "elsewhere"]);
    assert_eq!(placed.status.code(), Some(2), "{}", said(&placed));
    assert!(said(&placed).contains(&format!("is of namespace {namespace}, not of elsewhere")), "{}", said(&placed));
}
