//! The support bundle: secrets are planted wherever one could stand, and not one byte of the archive shows any of them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::kubectl_support::{done, jam, jam_as, says};
use crate::operator_support::apply;
use crate::support::cluster::{ControlPlane, control_plane, instances};

/// What was planted: a consumer's tokens, the user's own, the administrator's, a DSN with a password that is percent-encoded, values of
/// variables, keys of a blob store, and what is known from no Secret.
const PLANTED: [&str; 13] = [
    "4f1d0c5b2a39687796a5b4c3d2e1f00112233445566778899aabbccddeeff001",
    "5f1d0c5b2a39687796a5b4c3d2e1f00112233445566778899aabbccddeeff002",
    "6f1d0c5b2a39687796a5b4c3d2e1f00112233445566778899aabbccddeeff003",
    "own-Token_of.the~user/1",
    "administrator speaks friend",
    "p@ss/w0rd",
    "p%40ss%2Fw0rd",
    "value-of-a-variable",
    "value of a sidecar",
    "AKIAIOSFODNN7EXAMPLE",
    "wJalrXUtnFEMI/K7MDENG",
    "only-in-a-log-9281",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJqYW0ifQ.c2lnbmF0dXJl",
];
const DSN: &str = "postgres://jam:p%40ss%2Fw0rd@db:5432/jam";

/// Every form in which a secret could still be read.
fn forms(secret: &str) -> Vec<String> {
    let json = json!(secret).to_string();
    vec![
        secret.into(),
        STANDARD.encode(secret),
        STANDARD.encode(format!("{secret}\n")),
        hex::encode(secret),
        json.trim_matches('"').into(),
    ]
}

/// Lines with every secret, as programs write them.
fn careless() -> String {
    let lines: Vec<String> =
        PLANTED[..11].iter().map(|secret| format!("saw {secret} and base64 {}", STANDARD.encode(secret))).collect();
    let [.., logged, jwt] = PLANTED;
    format!(
        "{}\ncannot connect to {DSN}\npassword={logged}\n{{\"token\":\"{logged}\",\"token_hash\":\"0a1b2c3d\"}}\nAuthorization: Bearer {logged}\nkey {jwt}\nlast line of the log\n",
        lines.join("\n")
    )
}

/// A kubelet's log endpoint with the API server's own certificate, in the standard library of Python; ends with the test.
struct Logs {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Logs {
    fn serving(plane: &ControlPlane, text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("log"), text).unwrap();
        let program = "
import http.server, ssl, sys
log = open(sys.argv[3], 'rb').read()
class Kubelet(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(log)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Kubelet)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
";
        let pki = plane.kubeconfig.parent().unwrap().join("pki");
        let mut process = Command::new("python3")
            .args(["-c", program])
            .args([pki.join("apiserver.crt"), pki.join("apiserver.key"), folder.path().join("log")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = std::io::BufReader::new(process.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        Self { process, port: line.trim().parse().unwrap(), _folder: folder }
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn make(client: &Client, namespace: Option<&str>, version: &str, kind: &str, body: Value) -> Value {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    json!(api.create(&PostParams::default(), &serde_json::from_value(body).unwrap()).await.unwrap())
}

/// A node whose kubelet answers at this port. No pod is scheduled to it.
async fn node(client: &Client, name: &str, port: u16) {
    let body = json!({"metadata": {"name": name}, "spec": {"unschedulable": true}});
    make(client, None, "v1", "Node", body).await;
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

fn labels(extra: Value) -> Value {
    let mut all = json!({
        "app.kubernetes.io/name": "jam", "app.kubernetes.io/instance": "main", "app.kubernetes.io/managed-by": "jam-operator",
        "jam.network/instance": "main",
    });
    if let Value::Object(extra) = extra {
        all.as_object_mut().unwrap().extend(extra);
    }
    all
}

fn pod(name: &str, node: &str, labels: &Value) -> Value {
    let security = json!({"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"}});
    json!({
        "metadata": {"name": name, "labels": labels, "annotations": {"note": format!("uses {DSN}"),
            "kubectl.kubernetes.io/last-applied-configuration": careless()}},
        "spec": {"nodeName": node, "containers": [{
            "name": "jam", "image": "localhost/jam-api:dev", "securityContext": security,
            "args": ["--admin-token", PLANTED[11], "--log", "debug"],
            "env": [{"name": "SIDECAR", "value": PLANTED[8]}, {"name": "OWN", "value": PLANTED[7]}, {"name": "JAM_LOG", "value": "info"}],
        }]},
    })
}

/// An instance with everything that it has in a cluster, and a secret in each place that holds text.
async fn plant(client: &Client, ns: &str, node: &str) {
    let secret = |name: &str, extra: Value, data: Value| json!({"metadata": {"name": name, "labels": labels(extra)}, "stringData": data});
    let header = format!("Bearer {}", PLANTED[0]);
    let tokens = json!({"id": "0a1b2c3d", "token": PLANTED[0], "authorization": header, "next": PLANTED[1], "previous": PLANTED[2]});
    for body in [
        secret("main-token-demo", json!({"jam.network/consumer": "demo"}), tokens),
        json!({"metadata": {"name": "db"}, "stringData": {"dsn": DSN}}),
        json!({"metadata": {"name": "mine"}, "stringData": {"one": PLANTED[3]}}),
        json!({"metadata": {"name": "admins"}, "stringData": {"root": format!("{}\n", PLANTED[4])}}),
        json!({"metadata": {"name": "blobs"}, "stringData": {"id": PLANTED[9], "key": PLANTED[10]}}),
    ] {
        make(client, Some(ns), "v1", "Secret", body).await;
    }
    let spec = json!({
        "runtime": {"jam": {"store": "postgres"}}, "database": {"dsnSecretRef": {"name": "db", "key": "dsn"}},
        "tokens": {"allowedTokensSecretRef": {"name": "mine"}, "adminTokensSecretRef": {"name": "admins"}},
        "blobStore": {"url": "s3://bucket/prefix", "credentialsSecretRef": {"name": "blobs"}},
        "podTemplate": {"env": [{"name": "OWN", "value": PLANTED[7]}]},
    });
    apply(client, ns, "main", spec).await;
    let now = "2026-11-21T12:00:00Z";
    let condition = json!({"type": "Ready", "status": "False", "reason": "PodsNotReady", "message": careless(),
        "lastTransitionTime": now});
    let status = json!({"metadata": {"annotations": {"jam.network/revoke": PLANTED[2]}},
        "status": {"conditions": [condition], "tokens": [{"consumer": "demo", "keyId": "0a1b2c3d"}]}});
    let api = instances(client, ns);
    api.patch("main", &PatchParams::default(), &Patch::Merge(status.clone())).await.unwrap();
    api.patch_status("main", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let settings = json!({"metadata": {"name": "main-config-1", "labels": labels(json!({}))}, "data": {"config.yaml": careless()}});
    make(client, Some(ns), "v1", "ConfigMap", settings).await;
    let event = json!({"metadata": {"name": "main.1"}, "reason": "PodsNotReady", "type": "Warning", "message": careless(),
        "involvedObject": {"kind": "JamInstance", "name": "main", "namespace": ns}, "lastTimestamp": now});
    make(client, Some(ns), "v1", "Event", event).await;
    make(client, Some(ns), "v1", "Pod", pod("main-1", node, &labels(json!({})))).await;
    make(client, Some(ns), "v1", "Pod", pod("jam-operator-1", node, &json!({"jam.network/component": "operator"})))
        .await;
}

/// The files of an archive.
fn unpacked(archive: &Path) -> Vec<(String, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    assert!(Command::new("tar").arg("xzf").arg(archive).arg("-C").arg(folder.path()).status().unwrap().success());
    let (mut files, mut open) = (Vec::new(), vec![folder.path().to_path_buf()]);
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let name: PathBuf = path.strip_prefix(folder.path()).unwrap().components().skip(1).collect();
            files.push((name.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_of_a_bundle_shows_a_secret_and_what_helps_is_in_it() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let ns = namespace.as_str();
    let logs = Logs::serving(plane, &careless());
    let machine = format!("{ns}-node");
    node(&client, &machine, logs.port).await;
    plant(&client, ns, &machine).await;
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("bundle.tar.gz");
    let file = archive.to_str().unwrap();
    let said = done(plane, ns, &["support-bundle", "main", "--output", file]).await;
    let again = jam(plane, ns, &["support-bundle", "main", "--output", file]).await;
    assert_eq!(again.code, 2, "never over a file that is there");
    says(&again.err, &["is there already; move it, or choose another name by --output (usage)"]);

    let files = unpacked(&archive);
    for secret in PLANTED.into_iter().chain([DSN]) {
        for form in forms(secret) {
            for (name, bytes) in &files {
                let shown = bytes.windows(form.len()).any(|window| window == form.as_bytes());
                assert!(!shown && !name.contains(&form), "{name} shows {form}:\n{}", String::from_utf8_lossy(bytes));
            }
            assert!(!said.contains(&form), "{said}");
        }
    }
    let text = |name: &str| {
        let (_, bytes) = files.iter().find(|(file, _)| file == name).unwrap_or_else(|| panic!("no {name}: {files:?}"));
        String::from_utf8(bytes.clone()).unwrap()
    };
    says(&text("README.txt"), &[&format!("JamInstance {ns}/main"), "nothing that was looked for"]);
    says(&text("instance.yaml"), &["kind: JamInstance", "name: OWN", "dsnSecretRef"]);
    says(&text("status.txt"), &["PodsNotReady"]);
    says(&text("explain.txt"), &["Mitigation"]);
    says(&text("events.txt"), &["Warning PodsNotReady JamInstance main", "last line of the log"]);
    says(&text("children/ConfigMap-main-config-1.yaml"), &["cannot connect to postgres://(redacted)@db:5432/jam"]);
    says(&text("children/Secret-main-token-demo.yaml"), &["jam.network/consumer: demo"]);
    says(&text("pods/main-1.yaml"), &["image: localhost/jam-api:dev", "name: SIDECAR", "name: JAM_LOG"]);
    for log in ["pods/main-1.jam.log", "operator/jam-operator-1.jam.log"] {
        says(&text(log), &["cannot connect to", "0a1b2c3d", "last line of the log"]);
    }
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    nodes.delete(&machine, &kube::api::DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn what_may_not_be_read_is_named_and_the_rest_is_collected() {
    let plane = control_plane();
    let (client, namespace) = plane.with_crd().await;
    let ns = namespace.as_str();
    apply(&client, ns, "main", json!({"tokens": {"allowedTokensSecretRef": {"name": "mine"}}})).await;
    let rule = json!([{"apiGroups": ["jam.network"], "resources": ["jaminstances"], "verbs": ["get", "list"]}]);
    make(
        &client,
        Some(ns),
        "rbac.authorization.k8s.io/v1",
        "Role",
        json!({"metadata": {"name": "look"}, "rules": rule}),
    )
    .await;
    let binding = json!({"metadata": {"name": "look"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "look"},
        "subjects": [{"kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io"}]});
    make(&client, Some(ns), "rbac.authorization.k8s.io/v1", "RoleBinding", binding).await;
    let folder = tempfile::tempdir().unwrap();
    let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(&plane.kubeconfig).unwrap()).unwrap();
    config["users"][0]["user"]["as"] = json!("eve");
    let kubeconfig = folder.path().join("eve");
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let archive = folder.path().join("bundle.tar.gz");
    let arguments = ["support-bundle", "main", "-n", ns, "-o", archive.to_str().unwrap()];
    let ran = jam_as(&kubeconfig, &arguments, "").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for missing in ["list the pods", "list events", "look for what Secret mine holds", "find the operator's pods"] {
        says(&ran.err, &[&format!("not in it: cannot {missing}: ")]);
    }
    let files = unpacked(&archive);
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert!(["instance.yaml", "status.txt", "README.txt"].iter().all(|name| names.contains(name)), "{names:?}");
    let readme = files.iter().find(|(name, _)| name == "README.txt").unwrap();
    says(&String::from_utf8_lossy(&readme.1), &["kubectl auth can-i list pods"]);
}
