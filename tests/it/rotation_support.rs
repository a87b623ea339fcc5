//! A node for rotation: each API pod is a real `jam-api` at an address of its own, whose token file follows the Secret of hashes.
//!
//! The kubelet is played; what answers for a pod is the program that would run in it, so a 401 here is a 401 there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jam_plan::JamInstance;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::operator_support::{Account, Operator, apply, condition, eventually};
use crate::support::cluster::control_plane;

static BLOCKS: AtomicU8 = AtomicU8::new(1);

/// One pod as it runs.
struct Running {
    process: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Plays the kubelet of one namespace with real API processes, until it is dropped.
pub struct Node {
    task: tokio::task::JoinHandle<()>,
    running: Arc<Mutex<BTreeMap<String, Running>>>,
    /// Pods whose file stays as it is.
    deaf: Arc<Mutex<BTreeSet<String>>>,
    logs: PathBuf,
    _folder: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
        self.running.lock().unwrap().clear();
    }
}

impl Node {
    /// Begins to run the pods of an instance.
    pub fn running(client: &Client, namespace: &str, instance: &'static str) -> Self {
        Self::of(client, namespace, instance, false)
    }

    /// The same with a kubelet that looks after a pod's files when the pod changes and, for as long as a test lasts, never else.
    pub fn sluggish(client: &Client, namespace: &str, instance: &'static str) -> Self {
        Self::of(client, namespace, instance, true)
    }

    fn of(client: &Client, namespace: &str, instance: &'static str, sluggish: bool) -> Self {
        // Any address of the loopback network is this machine's; a block of them belongs to each node.
        let block = BLOCKS.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().to_path_buf();
        let running = Arc::<Mutex<BTreeMap<String, Running>>>::default();
        let (client, namespace) = (client.clone(), namespace.to_owned());
        let (known, out) = (Arc::clone(&running), logs.clone());
        let deaf = Arc::<Mutex<BTreeSet<String>>>::default();
        let left_alone = Arc::clone(&deaf);
        let task = tokio::spawn(async move {
            let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
            let secrets: Api<Secret> = Api::namespaced(client, &namespace);
            let (mut number, mut seen) = (0, BTreeMap::new());
            loop {
                // As the kubelet does: what a pod was told is seen first, then what the Secret says.
                let listed = pods.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
                let hashes = secrets.get_opt(&format!("{instance}-token-hashes")).await.ok().flatten();
                let files = hashes.and_then(|secret| secret.data);
                let names: BTreeSet<String> = listed.iter().map(ResourceExt::name_any).collect();
                known.lock().unwrap().retain(|name, _| names.contains(name));
                for pod in listed.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
                    let name = pod.name_any();
                    if pod.labels().contains_key("batch.kubernetes.io/job-name") {
                        if pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending") {
                            tell(&pods, &name, json!({"phase": "Succeeded"})).await;
                        }
                    } else if let Some(files) = &files {
                        let is_new = !known.lock().unwrap().contains_key(&name);
                        if is_new {
                            number += 1;
                            let address = format!("127.62.{block}.{number}");
                            let process = start(&out, &name, &address, files);
                            known.lock().unwrap().insert(name.clone(), process);
                            listening(&address).await;
                            tell(&pods, &name, ready(&address)).await;
                        }
                        let told = pod.annotations().get("jam.network/tokens-told").cloned();
                        let changed = is_new || seen.insert(name.clone(), told.clone()) != Some(told);
                        if (changed || !sluggish) && !left_alone.lock().unwrap().contains(&name) {
                            put(&known.lock().unwrap()[&name].folder, files);
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
        });
        Self { task, running, deaf, logs, _folder: folder }
    }

    /// Where each pod answers.
    pub fn addresses(&self) -> BTreeMap<String, String> {
        let running = self.running.lock().unwrap();
        running.iter().map(|(pod, running)| (pod.clone(), running.address.clone())).collect()
    }

    /// From now on nobody brings this pod another token file: it can never agree.
    pub fn leave_alone(&self, pod: &str) {
        self.deaf.lock().unwrap().insert(pod.to_owned());
    }

    /// Sends a signal to a pod's process.
    pub fn signal(&self, pod: &str, signal: &str) {
        let pid = self.running.lock().unwrap()[pod].process.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Everything that the pods printed.
    pub fn printed(&self) -> String {
        let files = fs::read_dir(&self.logs).unwrap().flatten();
        files.map(|file| fs::read_to_string(file.path()).unwrap_or_default()).collect()
    }
}

fn start(logs: &std::path::Path, pod: &str, address: &str, files: &Files) -> Running {
    let folder = tempfile::tempdir().unwrap();
    put(&folder, files);
    let log = File::create(logs.join(format!("{pod}.log"))).unwrap();
    let process = Command::new(env!("CARGO_BIN_EXE_jam-api"))
        .args(["serve", "--enabled", "true", "--store", "memory", "--rate-limit-per-minute", "0"])
        .args(["--listen", &format!("{address}:8080"), "--metrics-listen", "", "--log", "debug"])
        .args(["--tokens-file".as_ref(), folder.path().join("tokens.json").as_os_str()])
        .args(["--admin-tokens-file".as_ref(), folder.path().join("admin-tokens.json").as_os_str()])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Running { process, address: address.to_owned(), folder }
}

/// What the Secret of hashes holds.
type Files = BTreeMap<String, ByteString>;

/// As the kubelet does: each file whole or not at all.
fn put(folder: &tempfile::TempDir, files: &Files) {
    for (name, ByteString(file)) in files {
        let (new, target) = (folder.path().join("new"), folder.path().join(name));
        if !fs::read(&target).is_ok_and(|there| there == *file) {
            fs::write(&new, file).unwrap();
            fs::rename(&new, &target).unwrap();
        }
    }
}

/// Not with `eventually`: what it takes cannot move between threads.
async fn listening(address: &str) {
    for _ in 0..600 {
        if reqwest::get(format!("http://{address}:8080/healthz")).await.is_ok_and(|answer| answer.status().is_success())
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{address} does not listen");
}

async fn tell(pods: &Api<Pod>, name: &str, status: Value) {
    // It may be gone by now.
    let _ = pods.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await;
}

fn ready(address: &str) -> Value {
    let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap().to_string();
    json!({
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}],
    })
}

/// What most tests of rotation begin with: a database, a node that runs the pods of `main`, and an operator.
pub struct Stage {
    pub client: Client,
    pub namespace: String,
    pub node: Node,
    pub operator: Operator,
}

impl Stage {
    pub async fn set() -> Self {
        let plane = control_plane();
        let (client, namespace) = plane.with_crd().await;
        database(&client, &namespace).await;
        let node = Node::running(&client, &namespace, "main");
        let operator = Account::new(plane, &client, &namespace, "operator").await.start(plane, SECONDS);
        Self { client, namespace, node, operator }
    }

    /// The same, and `main` serves its consumer demo.
    pub async fn serving() -> Self {
        let stage = Self::set().await;
        apply(&stage.client, &stage.namespace, "main", spec(&json!([{"name": "demo"}]))).await;
        condition(&stage.client, &stage.namespace, "main", "Ready", "True", "Serving").await;
        stage
    }
}

/// An instance of two pods whose overlaps last as many seconds as the spec says hours.
pub fn spec(consumers: &Value) -> Value {
    json!({
        "runtime": {"jam": {"enabled": true, "store": "postgres"}},
        "database": {"dsnSecretRef": {"name": "db", "key": "dsn"}},
        "replicas": 2,
        "tokens": {"consumers": consumers, "rotation": {"intervalDays": 3650, "overlapHours": 3}},
    })
}

/// The flags of an operator for which an hour of a rotation is a second.
pub const SECONDS: &[&str] =
    &["--leader-election", "false", "--rotation-hour-seconds", "1", "--kubelet-sync-seconds", "2"];

/// The Secret that `spec` refers to.
pub async fn database(client: &Client, namespace: &str) {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"},
        "stringData": {"dsn": "postgres://jam@db/jam"}});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
}

/// The text under a key of a consumer's Secret.
pub async fn key(client: &Client, namespace: &str, consumer: &str, key: &str) -> Option<String> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut data = secrets.get_opt(&format!("main-token-{consumer}")).await.ok()??.data?;
    String::from_utf8(data.remove(key)?.0).ok()
}

/// Annotates the instance as an SRE does.
pub async fn annotate(client: &Client, namespace: &str, note: &str, value: &str) {
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    let body = json!({"metadata": {"annotations": {note: value}}});
    instances.patch("main", &PatchParams::default(), &Patch::Merge(body)).await.unwrap();
}

/// Waits until the rotation stands at a stage, and returns `status.rotation`.
pub async fn at_stage(client: &Client, namespace: &str, stage: &str) -> jam_plan::crd::RotationStatus {
    let instances: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    eventually(&format!("stage {stage}"), async || {
        let rotation = instances.get("main").await.ok()?.status?.rotation?;
        (rotation.stage.as_deref() == Some(stage)).then_some(rotation)
    })
    .await
}

/// What a pod answers to a request that needs the scope `process`.
pub async fn process(address: &str, token: &str) -> u16 {
    let request = reqwest::Client::new().post(format!("http://{address}:8080/jam/process")).bearer_auth(token);
    request.send().await.map_or(0, |answer| answer.status().as_u16())
}

/// What a pod answers to a request with this token.
pub async fn answer(address: &str, token: &str) -> u16 {
    answer_of(address, "/jam/status", token).await
}

/// The same at another path.
pub async fn answer_of(address: &str, path: &str, token: &str) -> u16 {
    let request = reqwest::Client::new().get(format!("http://{address}:8080{path}")).bearer_auth(token);
    request.send().await.map_or(0, |answer| answer.status().as_u16())
}
