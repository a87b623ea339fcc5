//! What the tests of the API share: the real `jam-api` on a free port, requests to it, and its log.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use jam_domain::PreimageHash;
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::support::objects::Place;
use crate::support::postgres;

/// The token that every server takes unless a test says otherwise.
pub const TOKEN: &str = "a-token-of-the-api-tests";
/// How long anything may take before the test fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running `jam-api serve`; killed when dropped.
pub struct Server {
    child: Child,
    pub address: String,
    pub metrics: String,
    log: Log,
    http: Client,
}

/// A store for servers to share: each law of the API is tried on both.
pub struct World {
    dsn: Option<String>,
    place: Option<Place>,
}

impl World {
    pub fn memory() -> Self {
        Self { dsn: None, place: None }
    }

    pub async fn postgres() -> Self {
        Self { dsn: Some(postgres::migrated_database().await), place: None }
    }

    /// The database behind the API, when there is one.
    pub fn dsn(&self) -> Option<&str> {
        self.dsn.as_deref()
    }

    pub fn on(dsn: &str) -> Self {
        Self { dsn: Some(dsn.to_owned()), place: None }
    }

    /// A database whose blobs are in this place.
    pub async fn with_blobs(place: Place) -> Self {
        Self { dsn: Some(postgres::migrated_database().await), place: Some(place) }
    }

    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// What every process of this world is told.
    pub fn settings(&self) -> Vec<(String, String)> {
        let told = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let store = self.dsn.iter().flat_map(|dsn| [told("JAM_STORE", "postgres"), told("JAM_PG_DSN", dsn)]);
        let blobs = self.place.iter().flat_map(|place| {
            let mut all = place.variables();
            all.push(told("JAM_BLOB_STORE", &place.url()));
            all
        });
        store.chain(blobs).collect()
    }

    /// The store's name in statuses, labels and logs.
    pub fn store(&self) -> &'static str {
        if self.dsn.is_some() { "postgres" } else { "memory" }
    }

    /// A server on this store.
    pub async fn serve(&self) -> Server {
        self.with(&[]).await
    }

    /// A server on this store with these settings.
    pub async fn with(&self, settings: &[(&str, &str)]) -> Server {
        let own = self.settings();
        let own = own.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Server::with(&own.chain(settings.iter().copied()).collect::<Vec<_>>()).await
    }
}

/// Tries each law on both stores.
macro_rules! laws {
    ($($law:ident),* $(,)?) => {
        mod on_memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $law() {
                super::$law(crate::api_support::World::memory()).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $law() {
                super::$law(crate::api_support::World::postgres().await).await;
            })*
        }
    };
}
pub(crate) use laws;

/// Tries each law about blobs on both stores, and with the bytes in files and in a bucket.
macro_rules! blob_laws {
    ($($law:ident),* $(,)?) => {
        crate::api_support::laws!($($law),*);
        mod on_postgres_and_files {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $law() {
                let place = crate::support::objects::Place::files();
                super::$law(crate::api_support::World::with_blobs(place).await).await;
            })*
        }
        mod on_postgres_and_a_bucket {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $law() {
                let place = crate::support::objects::Place::bucket().await;
                super::$law(crate::api_support::World::with_blobs(place).await).await;
            })*
        }
    };
}
pub(crate) use blob_laws;

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The answer, which must have this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// The answer, which must be an error in the one shape, with this status and code.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/json");
        let body = self.json();
        assert_eq!(body["code"], code, "{body}");
        assert!(body["error"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
        for key in body.as_object().unwrap().keys() {
            assert!(["error", "code", "retry_after", "details"].contains(&key.as_str()), "{body}");
        }
        body
    }
}

/// A `jam-api` command without anything of this process's environment.
pub fn jam_api(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jam-api"));
    command.args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    command
}

/// Runs a `jam-api` command to its end: exit code, stdout, stderr.
pub async fn ran(arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = jam_api(arguments);
    command.envs(environment.iter().copied());
    let output = timeout(PATIENCE, command.output()).await.expect("it ends in time").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

impl Server {
    /// A server with JAM on, no rate limit, the memory store, and these settings besides.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        let mut command = jam_api(&["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
        command.env("JAM_ENABLED", "true").env("JAM_ALLOWED_TOKENS", TOKEN).env("JAM_RATE_LIMIT_PER_MINUTE", "0");
        command.envs(settings.iter().copied());
        Self::of(command).await
    }

    /// The server that this command starts.
    pub async fn of(mut command: Command) -> Self {
        let log = Log::of(&mut command);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = async |prefix: &str| {
            let line = timeout(PATIENCE, lines.next_line()).await.expect("it says where it listens").unwrap();
            let line = line.unwrap_or_else(|| panic!("it ended: {}", log.text()));
            format!("http://{}", line.strip_prefix(prefix).unwrap_or_else(|| panic!("{line}")))
        };
        let address = said("listening on ").await;
        let metrics = said("metrics on ").await;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder().timeout(PATIENCE).no_proxy().build().unwrap();
        Self { child, address, metrics, log, http }
    }

    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A request with the token of [`TOKEN`].
    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.bare(method, path).bearer_auth(TOKEN)
    }

    /// A request without a token.
    pub fn bare(&self, method: &str, path: &str) -> RequestBuilder {
        self.http.request(Method::from_bytes(method.as_bytes()).unwrap(), format!("{}{path}", self.address))
    }

    pub async fn get(&self, path: &str) -> Answer {
        answer(self.request("GET", path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        answer(self.request("POST", path).body(body.to_string())).await
    }

    /// Uploads a blob and gives its hash.
    pub async fn upload(&self, bytes: &[u8]) -> String {
        let hash = PreimageHash::of(bytes).to_string();
        let put = self.request("PUT", &format!("/jam/preimages/{hash}")).body(bytes.to_vec());
        let status = answer(put).await.status;
        assert!(status == 201 || status == 200, "{status}");
        hash
    }

    /// Submits a package for the service and gives it back.
    pub async fn submit(&self, service: &str, nonce: &str) -> Value {
        self.post("/jam/packages", &package(service, nonce)).await.expect(201).json()
    }

    /// The value of a metric line that begins with this.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.http.get(format!("{}/metrics", self.metrics)).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find(|line| line.starts_with(series))?;
        Some(line.rsplit_once(' ').unwrap().1.parse().unwrap())
    }

    /// Everything that was logged so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    pub fn pid(&self) -> String {
        self.child.id().expect("it runs").to_string()
    }

    /// Sends it a signal, by name.
    pub async fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid()]).status().await.unwrap();
        assert!(sent.success());
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("it ends in time").unwrap()
    }
}

/// What a program says on stderr, in a file: a line that it wrote before it answered is there when the answer is.
pub struct Log(tempfile::NamedTempFile);

impl Log {
    /// Of the program that this command is to start.
    pub fn of(command: &mut Command) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        command.stderr(file.reopen().unwrap());
        Self(file)
    }

    /// All of it so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.0.path()).unwrap()).into_owned()
    }
}

/// Sends a request and reads the answer whole; of a stream of events, which has no end, what comes first.
pub async fn answer(request: RequestBuilder) -> Answer {
    let mut response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let endless = headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
    let bytes =
        if endless { response.chunk().await.unwrap().unwrap_or_default() } else { response.bytes().await.unwrap() };
    Answer { status: StatusCode::as_u16(&status), headers, bytes: bytes.to_vec() }
}

/// The smallest package of a service.
pub fn package(service: &str, nonce: &str) -> Value {
    json!({"service_id": service, "nonce": nonce, "items": [{"kind": "k", "params_hash": "p"}]})
}

/// A directory with one file of this name and text.
pub fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

/// An entry of a token file: token, scopes, services.
pub type Entry<'a> = (&'a str, Option<&'a [&'a str]>, Option<&'a [&'a str]>);

/// A token file with these entries.
pub fn token_file(entries: &[Entry<'_>]) -> String {
    use jam_domain::token::TokenHash;
    let listed: Vec<Value> = entries
        .iter()
        .map(|(token, scopes, services)| {
            let hash = TokenHash::of(token);
            let mut entry = json!({"id": hash.id(), "sha256": hash});
            if let Some(scopes) = scopes {
                entry["scopes"] = json!(scopes);
            }
            if let Some(services) = services {
                entry["services"] = json!(services);
            }
            entry
        })
        .collect();
    json!(listed).to_string()
}

/// Asks until the answer pleases, for as long as the patience lasts.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let asking = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{what} in time"))
}
