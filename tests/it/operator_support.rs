//! The real program against the real API server: started with exactly the rights of its table, watched through the audit log.
//!
//! There are no nodes: [`Kubelet`] plays what makes pods run. Everything else (API server, garbage collection, Deployment
//! and Job controllers) is real.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jam::operator::rbac::{self, Scope};
use jam_plan::JamInstance;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ResourceQuota, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

pub use crate::kubelet::Kubelet;
use crate::support::cluster::{ControlPlane, TESTER};

/// How long anything may take on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the API server wrote down about one request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// The verb.
    pub verb: String,
    /// The resource, with its subresource.
    pub resource: String,
    /// The object.
    pub name: String,
    /// The answer.
    pub code: u64,
}

impl Asked {
    /// Whether it changed something, or would have.
    pub fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
            && !matches!(self.resource.as_str(), "leases" | "events")
    }
}

/// A running `jam-operator run`, whose user is a ServiceAccount of its own with exactly the rights of the table.
pub struct Operator {
    process: Child,
    user: String,
    audit_log: PathBuf,
    since: u64,
    output: PathBuf,
    /// Where it serves /livez, /readyz and /metrics.
    pub health: String,
    _files: tempfile::TempDir,
}

/// The account that an operator runs as.
pub struct Account {
    name: String,
    user: String,
    kubeconfig: String,
    watched: String,
    /// How long the audit log was when it was made.
    since: u64,
}

impl Account {
    /// An account of this name in the namespace, with the rights of the table there.
    pub async fn new(plane: &ControlPlane, client: &Client, namespace: &str, name: &str) -> Self {
        allow(client, namespace, name, false).await;
        Self::at_home(plane, client, namespace, namespace, name).await
    }

    /// An account that is at home in one namespace, has the table's rights in all, and watches `watched`.
    pub async fn everywhere(plane: &ControlPlane, client: &Client, home: &str, watched: &str, name: &str) -> Self {
        allow(client, home, name, true).await;
        Self::at_home(plane, client, home, watched, name).await
    }

    async fn at_home(plane: &ControlPlane, client: &Client, namespace: &str, watched: &str, name: &str) -> Self {
        let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        accounts.create(&PostParams::default(), &account).await.unwrap();
        let spec = TokenRequestSpec { expiration_seconds: Some(7200), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await.unwrap();
        let admin: Value = serde_saphyr::from_str(&fs::read_to_string(&plane.kubeconfig).unwrap()).unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "clusters": [{"name": "it", "cluster": admin["clusters"][0]["cluster"]}],
            "users": [{"name": "it", "user": {"token": answer.status.unwrap().token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": namespace}}],
        });
        let length = |log: &PathBuf| fs::metadata(log).map(|log| log.len()).unwrap_or_default();
        Self {
            name: name.into(),
            since: plane.audit_log.as_ref().map(length).unwrap_or_default(),
            user: format!("system:serviceaccount:{namespace}:{name}"),
            kubeconfig: kubeconfig.to_string(),
            watched: watched.into(),
        }
    }

    /// Starts the program as this account, watching the account's namespaces.
    pub fn start(&self, plane: &ControlPlane, arguments: &[&str]) -> Operator {
        let files = tempfile::tempdir().unwrap();
        let (kubeconfig, output) = (files.path().join("kubeconfig"), files.path().join("output"));
        fs::write(&kubeconfig, &self.kubeconfig).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let health = format!("127.0.0.1:{port}");
        let process = Command::new(env!("CARGO_BIN_EXE_jam-operator"))
            .args(["run", "--health-listen", &health, "--watch-namespaces", &self.watched, "--log-format", "json"])
            .args(["--api-image", "localhost/jam-api:dev", "--log", "debug,hyper=info,h2=info,rustls=info,tower=info"])
            .args(arguments)
            .env_clear()
            .env("KUBECONFIG", &kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&output).unwrap())
            .spawn()
            .unwrap();
        let audit_log = plane.audit_log.clone().expect("these tests read the audit log of their own control plane");
        let (user, since) = (self.user.clone(), self.since);
        Operator { process, user, audit_log, since, output, health, _files: files }
    }

    /// Gives it what it needs in one more namespace.
    pub async fn is_let_into(&self, client: &Client, namespace: &str) {
        let home = self.user.split(':').nth(2).unwrap();
        bind(client, namespace, &self.name, home, rules(false, false)).await;
    }
}

/// The table's rights of watched namespaces and of its own, or the others; all of them where it has them everywhere.
fn rules(everywhere: bool, of_cluster: bool) -> Vec<PolicyRule> {
    let allowed = |right: rbac::Right| PolicyRule {
        api_groups: Some(vec![right.group.into()]),
        resources: Some(vec![right.resource.into()]),
        resource_names: (!right.names.is_empty()).then(|| right.names.iter().map(|name| (*name).into()).collect()),
        verbs: right.verbs.iter().map(|verb| (*verb).into()).collect(),
        non_resource_urls: None,
    };
    let these = |right: &rbac::Right| (everywhere || right.scope == Scope::Cluster) == of_cluster;
    rbac::table().into_iter().filter(these).map(allowed).collect()
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: "rbac.authorization.k8s.io".into(), kind: kind.into(), name: name.into() }
}

fn account(home: &str, name: &str) -> Subject {
    Subject { kind: "ServiceAccount".into(), name: name.into(), namespace: Some(home.into()), api_group: None }
}

/// Gives the account the table's rights: those of watched namespaces and its own only in this one, or everywhere.
async fn allow(client: &Client, home: &str, name: &str, everywhere: bool) {
    let wide = format!("{home}-{name}");
    let create = PostParams::default();
    let role = ClusterRole { metadata: named(&wide), rules: Some(rules(everywhere, true)), aggregation_rule: None };
    Api::<ClusterRole>::all(client.clone()).create(&create, &role).await.unwrap();
    let (metadata, role_ref) = (named(&wide), role_ref("ClusterRole", &wide));
    let binding = ClusterRoleBinding { metadata, role_ref, subjects: Some(vec![account(home, name)]) };
    Api::<ClusterRoleBinding>::all(client.clone()).create(&create, &binding).await.unwrap();
    bind(client, home, name, home, rules(everywhere, false)).await;
}

/// Gives the account, which is at home elsewhere perhaps, these rights in one namespace.
async fn bind(client: &Client, namespace: &str, name: &str, home: &str, rules: Vec<PolicyRule>) {
    let create = PostParams::default();
    let role = Role { metadata: named(name), rules: Some(rules) };
    Api::<Role>::namespaced(client.clone(), namespace).create(&create, &role).await.unwrap();
    let role_ref = role_ref("Role", name);
    let binding = RoleBinding { metadata: named(name), role_ref, subjects: Some(vec![account(home, name)]) };
    Api::<RoleBinding>::namespaced(client.clone(), namespace).create(&create, &binding).await.unwrap();
}

impl Operator {
    /// Everything this operator asked of the API server so far.
    pub fn asked(&self) -> Vec<Asked> {
        let mut log = File::open(&self.audit_log).unwrap();
        // A log that became shorter was begun anew.
        let from = if log.metadata().unwrap().len() < self.since { 0 } else { self.since };
        log.seek(SeekFrom::Start(from)).unwrap();
        let log = std::io::read_to_string(log).unwrap();
        log.lines()
            .filter(|line| line.contains(&self.user))
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|event| event["user"]["username"] == self.user)
            .map(|event| {
                let object = &event["objectRef"];
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let mut resource = text(&object["resource"]);
                if let Some(sub) = object["subresource"].as_str() {
                    resource = format!("{resource}/{sub}");
                }
                let (verb, name) = (text(&event["verb"]), text(&object["name"]));
                Asked { verb, resource, name, code: event["responseStatus"]["code"].as_u64().unwrap_or_default() }
            })
            .collect()
    }

    /// Its writes so far, without leases and events.
    pub fn writes(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(Asked::is_write).collect()
    }

    /// Its writes so far, counted by verb and resource.
    pub fn tally(&self) -> BTreeMap<String, usize> {
        tally(&self.writes())
    }

    /// Waits until it has asked nothing new for two seconds.
    pub async fn quiet(&self) {
        let deadline = Instant::now() + PATIENCE;
        let (mut last, mut since) = (usize::MAX, Instant::now());
        while since.elapsed() < Duration::from_secs(2) {
            assert!(Instant::now() < deadline, "it never comes to rest: {:?}", self.tally());
            let now = self.asked().iter().filter(|asked| asked.resource != "leases").count();
            if now != last {
                (last, since) = (now, Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until /readyz answers 200.
    pub async fn ready(&self) {
        eventually("the operator is ready", async || {
            let answer = reqwest::get(format!("http://{}/readyz", self.health)).await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// The text of one of its health paths, with its status.
    pub async fn answer(&self, path: &str) -> (u16, String) {
        match reqwest::get(format!("http://{}{path}", self.health)).await {
            Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default()),
            Err(error) => (0, error.to_string()),
        }
    }

    /// Stops it as the kubelet would, and returns whether it ended well, and what it logged.
    pub async fn stop(mut self) -> (bool, String) {
        let pid = self.process.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        let status = eventually("the operator ends", async || self.process.try_wait().unwrap()).await;
        (status.success(), fs::read_to_string(&self.output).unwrap())
    }

    /// Kills it without a word.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Every request that was forbidden.
    pub fn forbidden(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.code == 403).collect()
    }

    /// What it logged so far.
    pub fn logged(&self) -> String {
        fs::read_to_string(&self.output).unwrap()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // Ended already, when a test stopped it.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = self.logged();
            let interesting = log.lines().filter(|line| !line.contains("\"level\":\"debug\""));
            let tail: Vec<_> = interesting.collect();
            let from = tail.len().saturating_sub(30);
            let _ = writeln!(std::io::stderr(), "the operator said:\n{}", tail[from..].join("\n"));
        }
    }
}

/// Requests counted by verb and resource.
pub fn tally(asked: &[Asked]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for Asked { verb, resource, name: _, code: _ } in asked {
        *counts.entry(format!("{verb} {resource}")).or_default() += 1;
    }
    counts
}

/// Asks until there is an answer.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not after {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A quota called `none` with these bounds, once it is in force.
pub async fn quota(client: &Client, namespace: &str, hard: Value) -> Api<ResourceQuota> {
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), namespace);
    let none = json!({"metadata": {"name": "none"}, "spec": {"hard": hard}});
    quotas.create(&PostParams::default(), &serde_json::from_value(none).unwrap()).await.unwrap();
    eventually("the quota is counted", async || {
        quotas.get("none").await.ok()?.status?.used.filter(|used| !used.is_empty())
    })
    .await;
    quotas
}

/// Applies a manifest's text, whatever it holds, and returns what the API server made of it.
pub async fn apply(client: &Client, namespace: &str, name: &str, spec: Value) -> JamInstance {
    let api: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    let body = json!({
        "apiVersion": "jam.network/v1alpha1",
        "kind": "JamInstance",
        "metadata": {"name": name},
        "spec": spec,
    });
    api.patch(name, &PatchParams::apply(TESTER).force(), &Patch::Apply(&body)).await.unwrap()
}

/// What kstatus makes of an instance.
pub fn kstatus(instance: &JamInstance) -> &'static str {
    crate::kstatus::kstatus(&json!(instance))
}

/// At every look of every test: what kstatus computes and what the conditions say is the same.
fn agrees_with_kstatus(instance: &JamInstance) {
    let Some(status) = &instance.status else { return };
    if status.observed_generation != instance.metadata.generation || instance.metadata.deletion_timestamp.is_some() {
        return;
    }
    let is = |kind: &str| status.conditions.iter().any(|told| told.type_ == kind && told.status == "True");
    let wanted = match (is("Ready"), is("Stalled")) {
        (true, false) if is("Reconciling") => "InProgress",
        (true, false) => "Current",
        (false, true) => "Failed",
        (false, false) => "InProgress",
        (true, true) => panic!("ready and stalled: {status:?}"),
    };
    assert_eq!(kstatus(instance), wanted, "{status:?}");
    if wanted == "Current" && !is("Paused") && instance.spec.autoscaling.is_none() {
        let pods = (status.replicas, status.ready_replicas);
        assert_eq!(
            pods,
            (Some(instance.spec.replicas), Some(instance.spec.replicas)),
            "current, and pods are not: {status:?}"
        );
    }
    assert!(!(is("Reconciling") && is("Stalled")), "{status:?}");
    assert!(
        is("Paused") || is("Ready") || is("Reconciling") || is("Stalled"),
        "nobody would wait for this: {status:?}"
    );
}

/// Waits until a condition of an instance is as given, for its newest generation, and returns its message.
pub async fn condition(client: &Client, namespace: &str, name: &str, kind: &str, status: &str, reason: &str) -> String {
    let api: Api<JamInstance> = Api::namespaced(client.clone(), namespace);
    let mut last = "nothing".to_owned();
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(instance) = api.get(name).await {
            agrees_with_kstatus(&instance);
            let said = instance.status.unwrap_or_default();
            let current = said.observed_generation == instance.metadata.generation;
            let found = said.conditions.iter().find(|condition| condition.type_ == kind);
            if let Some(found) = found.filter(|found| current && found.status == status && found.reason == reason) {
                return found.message.clone();
            }
            last = format!("{:?}, and of its rollout {:?}", said.conditions, said.rollout);
        }
        assert!(Instant::now() < deadline, "not after {PATIENCE:?}: {name}: {kind}={status} {reason}; it says {last}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
