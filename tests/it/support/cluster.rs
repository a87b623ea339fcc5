//! A real Kubernetes control plane (etcd, kube-apiserver, kube-controller-manager), started once for each test process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};

/// The field manager of what tests write.
pub const TESTER: &str = "jam-tests";

static CONTROL_PLANE: OnceLock<ControlPlane> = OnceLock::new();
static NAMESPACES: AtomicU32 = AtomicU32::new(0);

/// A control plane that this process started, or the one that `JAM_TEST_KUBECONFIG` names.
pub struct ControlPlane {
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The log of requests (audit, metadata level), where this process started the control plane.
    #[allow(dead_code, reason = "read by the tests that count what the operator writes")]
    pub audit_log: Option<PathBuf>,
}

/// The control plane of this test process. The first caller waits about 5 s for it.
///
/// It goes down with this process: `dev/cluster/control-plane` watches the process id it is given.
pub fn control_plane() -> &'static ControlPlane {
    CONTROL_PLANE.get_or_init(|| match std::env::var_os("JAM_TEST_KUBECONFIG") {
        Some(path) => ControlPlane { kubeconfig: path.into(), audit_log: None },
        None => start(),
    })
}

fn start() -> ControlPlane {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("control-plane-{}", std::process::id()));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/cluster/control-plane");
    let ended = Command::new(&script)
        .args(["up".as_ref(), dir.as_os_str()])
        .args(["--owner-pid", &std::process::id().to_string()])
        .output()
        .unwrap_or_else(|e| panic!("{} does not start: {e}", script.display()));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "the control plane did not come up: {said}");
    ControlPlane { kubeconfig: dir.join("admin.kubeconfig"), audit_log: Some(dir.join("audit.log")) }
}

impl ControlPlane {
    /// A client of the administrator. One for each test: a client lives in the runtime that made it.
    pub async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).expect("the kubeconfig can be read");
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        Client::try_from(config.expect("the kubeconfig is complete")).expect("the client can be built")
    }

    /// A client, and a namespace of its own whose pods must be `restricted`.
    pub async fn namespace(&self) -> (Client, String) {
        let client = self.client().await;
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}-{number}", std::process::id());
        let labels = [("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned())];
        let metadata = ObjectMeta { name: Some(name.clone()), labels: Some(labels.into()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        let api: Api<Namespace> = Api::all(client.clone());
        api.create(&PostParams::default(), &namespace).await.expect("a namespace can be made");
        (client, name)
    }

    /// A client and a namespace, with the definitions of others served: Gateway API, prometheus-operator, CloudNativePG.
    pub async fn with_add_ons(&self) -> (Client, String) {
        let (client, namespace) = self.namespace().await;
        for add_on in ADD_ONS {
            install(&client, add_on).await;
        }
        (client, namespace)
    }

    /// A client and a namespace, with the JamInstance CRD of this build served.
    pub async fn with_crd(&self) -> (Client, String) {
        let (client, namespace) = self.namespace().await;
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        let crd = jam_plan::crd::crd();
        let apply = PatchParams::apply(TESTER).force();
        crds.patch("jaminstances.jam.network", &apply, &Patch::Apply(&crd)).await.expect("the CRD is accepted");
        let api = instances(&client, &namespace);
        for _ in 0..100 {
            if api.list(&ListParams::default()).await.is_ok() {
                return (client, namespace);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the CRD is not served after 10 s");
    }
}

/// The definitions in tests/it/crds.
pub const ADD_ONS: [&str; 4] = ["httproutes", "servicemonitors", "prometheusrules", "clusters"];

/// Installs one of the definitions of others and waits until it is served. Returns its name.
pub async fn install(client: &Client, add_on: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/crds/{add_on}.json"));
    let definition: DynamicObject = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let name = definition.metadata.name.clone().unwrap();
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let definitions: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(&kind));
    let apply = PatchParams::apply(TESTER).force();
    definitions.patch(&name, &apply, &Patch::Apply(&definition)).await.expect("a published definition is accepted");
    for _ in 0..100 {
        let conditions = definitions.get(&name).await.unwrap().data["status"]["conditions"].clone();
        let served =
            |condition: &serde_json::Value| condition["type"] == "Established" && condition["status"] == "True";
        if conditions.as_array().is_some_and(|conditions| conditions.iter().any(served)) {
            return name;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{name} is not served after 10 s");
}

/// JamInstances as they come, for tests that send what the Rust type could not hold.
pub fn instances(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("jam.network", "v1alpha1", "JamInstance");
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk(&kind))
}
