//! Places for objects: a folder, or a bucket of a real S3 server in this process that can stall, or be away.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use jam_store::Objects;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

/// The keys of the bucket; the second must be in no output.
pub const KEY_ID: &str = "key-of-the-tests";
pub const SECRET: &str = "secret-of-the-tests";
const BUCKET: &str = "blobs";

/// A folder or a bucket.
pub enum Place {
    Files(TempDir),
    Bucket(Bucket),
}

impl Place {
    pub fn files() -> Self {
        Self::Files(tempfile::tempdir().unwrap())
    }

    pub async fn bucket() -> Self {
        Self::Bucket(Bucket::start().await)
    }

    pub fn url(&self) -> String {
        match self {
            Self::Files(folder) => format!("file://{}", folder.path().display()),
            Self::Bucket(_) => format!("s3://{BUCKET}/a/prefix"),
        }
    }

    /// The variables of a process that uses it.
    pub fn variables(&self) -> Vec<(String, String)> {
        match self {
            Self::Files(_) => Vec::new(),
            Self::Bucket(bucket) => variables(&format!("http://{}", bucket.address), KEY_ID, SECRET),
        }
    }

    pub fn open(&self) -> Objects {
        Objects::open(&self.url(), self.variables()).unwrap()
    }

    pub fn class(&self) -> &'static str {
        match self {
            Self::Files(_) => "file",
            Self::Bucket(_) => "s3",
        }
    }

    /// Every file that is there on behalf of objects, parts of unfinished ones included.
    pub fn found(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        match self {
            Self::Files(folder) => walk(folder.path(), &mut found),
            Self::Bucket(bucket) => {
                walk(&bucket.root.path().join(BUCKET), &mut found);
                // Parts of uploads lie beside the buckets.
                let beside = std::fs::read_dir(bucket.root.path()).unwrap().map(|entry| entry.unwrap().path());
                let is_part = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().contains(".part-");
                found.extend(beside.filter(|path| path.is_file() && is_part(path)));
            }
        }
        found.sort();
        found
    }

    pub fn the_bucket(&self) -> &Bucket {
        match self {
            Self::Bucket(bucket) => bucket,
            Self::Files(_) => panic!("it is a folder"),
        }
    }
}

/// The variables for this endpoint and these keys.
pub fn variables(endpoint: &str, key_id: &str, secret: &str) -> Vec<(String, String)> {
    [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", key_id),
        ("AWS_SECRET_ACCESS_KEY", secret),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    // What is there may go while it is looked at.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() { walk(&entry.path(), found) } else { found.push(entry.path()) }
    }
}

/// A bucket of an S3 server.
pub struct Bucket {
    root: TempDir,
    address: SocketAddr,
    way: Arc<Way>,
}

/// What is between the clients and the server.
#[derive(Default)]
struct Way {
    away: Mutex<bool>,
    stalled: Mutex<Option<Method>>,
    asked: Mutex<Vec<(Method, String)>>,
}

impl Bucket {
    async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut server = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        server.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        let (service, way) = (server.build(), Arc::new(Way::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn({
            let way = Arc::clone(&way);
            async move {
                while let Ok((socket, _)) = listener.accept().await {
                    tokio::spawn(serve(socket, service.clone(), Arc::clone(&way)));
                }
            }
        });
        Self { root, address, way }
    }

    /// Every connection breaks from now on, or no more.
    pub fn away(&self, away: bool) {
        *self.way.away.lock().unwrap() = away;
    }

    /// Requests with this method get no answer and do nothing.
    pub fn stall(&self, method: Option<Method>) {
        *self.way.stalled.lock().unwrap() = method;
    }

    /// What was asked since this was called last: the method, and the range or the query.
    pub fn asked(&self) -> Vec<(Method, String)> {
        std::mem::take(&mut *self.way.asked.lock().unwrap())
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn serve(socket: TcpStream, service: S3Service, way: Arc<Way>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let (service, way) = (service.clone(), Arc::clone(&way));
        async move {
            let range = request.headers().get("range").map(|range| range.to_str().unwrap().to_owned());
            let query = request.uri().query().unwrap_or_default().to_owned();
            way.asked.lock().unwrap().push((request.method().clone(), range.unwrap_or(query)));
            let stalled = way.stalled.lock().unwrap().as_ref() == Some(request.method());
            if stalled {
                std::future::pending::<Infallible>().await;
            }
            if *way.away.lock().unwrap() {
                return Err("away".to_owned());
            }
            Service::call(&service, request).await.map_err(|error| format!("{error:?}"))
        }
    });
    // A client that goes away is its own business.
    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
}
