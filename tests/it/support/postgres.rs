//! A real PostgreSQL 15 on loopback, in a temporary directory, gone when the test process is gone, however it ends.

use std::fs::{self, File, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use jam_store::{PostgresConfig, migrate};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection};

/// Stops the server and removes its directory as soon as its standard input ends: when the [`Server`] is dropped, and when
/// the test process dies in any way, because the kernel closes the pipe.
const WATCHDOG: &str = r#"
    read -r _
    pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
    if [ -n "$pid" ]; then
        kill -QUIT "$pid" 2>/dev/null
        while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
    fi
    umount "$1/disk" 2>/dev/null
    rm -rf "$1"
"#;

/// Small, but as durable as in production.
const SETTINGS: &str = "-c listen_addresses=127.0.0.1 -c unix_socket_directories= -c shared_buffers=32MB \
    -c max_connections=250 -c wal_level=minimal -c max_wal_senders=0 -c max_wal_size=256MB -c logging_collector=off";

/// One server.
pub struct Server {
    directory: PathBuf,
    port: u16,
    watchdog: Child,
    databases: AtomicU32,
    settings: String,
}

/// The server of this test process; started when first asked for.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::private)
}

/// An empty database on the server of this test process.
pub async fn fresh_database() -> String {
    server().empty_database().await
}

/// A database with the schema of this build on the server of this test process.
pub async fn migrated_database() -> String {
    server().migrated_database().await
}

/// A connection with nothing between the test and the database.
pub async fn connect(dsn: &str) -> PgConnection {
    PgConnection::connect(dsn).await.unwrap_or_else(|error| panic!("can't connect to {dsn}: {error}"))
}

impl Server {
    /// A server of the caller's own, to be stopped and started at will.
    pub fn private() -> Self {
        Self::tuned("")
    }

    /// A server of the caller's own with further settings, `-c key=value` each; the last word on a key wins.
    pub fn tuned(settings: &str) -> Self {
        let server = Self::prepared(settings);
        server.initialise(&[]);
        server
    }

    /// A server of the caller's own whose log has a disk of its own at `disk`, so small that it is soon full.
    pub fn with_its_log_on_a_small_disk() -> Self {
        // No segment is used again: what is written takes room.
        let server = Self::prepared("-c wal_keep_size=1GB");
        let disk = server.small_disk();
        server.initialise(&["--wal-segsize=1", "--waldir", &disk.join("log").display().to_string()]);
        server
    }

    /// A disk of 24 MB at `disk`, which the server may write to; it goes with the server.
    ///
    /// It is a mount, which needs root: a test that passed without it would say nothing.
    pub fn small_disk(&self) -> PathBuf {
        let place = self.place("disk");
        assert!(
            is_root(),
            "a disk of its own is a mount, and only root may mount: run the tests as root, or leave these out with `--skip disk`"
        );
        fs::create_dir_all(&place).expect("our own directory");
        let mount = ["-t", "tmpfs", "-o", "size=24m,mode=755", "tmpfs"];
        let mounted = Command::new("mount").args(mount).arg(&place).status().expect("mount starts");
        assert!(mounted.success(), "no small disk can be mounted at {}", place.display());
        self.own(&place);
        place
    }

    fn prepared(settings: &str) -> Self {
        let directory =
            tempfile::Builder::new().prefix("jam-postgres-").tempdir().expect("a temporary directory").keep();
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // an interrupt of the test run must not end it before its work
            .spawn()
            .expect("sh starts");
        let server = Self {
            directory,
            port: free_port(),
            watchdog,
            databases: AtomicU32::new(0),
            settings: format!("{SETTINGS} {settings}"),
        };
        if is_root() {
            let postgres = fs::metadata("/var/lib/postgresql").expect("the package postgresql-15 is installed");
            chown(&server.directory, Some(postgres.uid()), Some(postgres.gid())).expect("root may chown");
        }
        fs::set_permissions(&server.directory, Permissions::from_mode(0o755)).expect("our own directory");
        server
    }

    fn initialise(&self, further: &[&str]) {
        let data = self.data();
        let initdb = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "-D"];
        self.run("initdb", &[&initdb[..], &[data.as_str()], further].concat());
        self.start();
    }

    /// The address of one of its databases.
    pub fn dsn(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// A place for files that go with it; a small disk may be mounted at `disk`.
    pub fn place(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Gives a file or directory to the user that it runs as.
    pub fn own(&self, path: &Path) {
        if is_root() {
            let owner = fs::metadata(&self.directory).expect("our own directory");
            chown(path, Some(owner.uid()), Some(owner.gid())).expect("root may chown");
        }
    }

    /// Starts it and waits until it takes connections.
    pub fn start(&self) {
        let options = format!("{} -p {}", self.settings, self.port);
        self.run("pg_ctl", &["start", "-w", "-t", "60", "-D", &self.data(), "-o", &options]);
    }

    /// What it has said since it was made.
    pub fn log(&self) -> String {
        fs::read_to_string(self.place("pg_ctl.log")).unwrap_or_default()
    }

    /// Starts it as a supervisor does, if it has ended.
    pub fn start_again(&self) {
        let running = Command::new(binaries().join("pg_ctl")).args(["status", "-D", &self.data()]).output();
        if !running.expect("pg_ctl starts").status.success() {
            self.start();
        }
    }

    /// Stops it as a power cut would: no checkpoint, no word to the clients.
    pub fn crash(&self) {
        self.run("pg_ctl", &["stop", "-m", "immediate", "-w", "-D", &self.data()]);
    }

    /// Kills every process of it with SIGKILL, the first one first, and waits until all are gone.
    pub async fn kill(&self) {
        let file = fs::read_to_string(Path::new(&self.data()).join("postmaster.pid")).expect("it runs");
        let postmaster = file.lines().next().expect("its first line is the process id").to_owned();
        let children = Command::new("ps").args(["-o", "pid=", "--ppid", &postmaster]).output().expect("ps runs").stdout;
        let mut all = vec![postmaster];
        all.extend(String::from_utf8_lossy(&children).split_whitespace().map(str::to_owned));
        for pid in &all {
            // A child may have gone with its parent already.
            let _ = Command::new("kill").args(["-KILL", pid]).stderr(Stdio::null()).status();
        }
        let runs = |pid: &String| {
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !state.is_empty() && !state.contains(") Z ")
        };
        while all.iter().any(runs) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        // Where nobody reaps orphans the dead first process keeps its id, and the next server would take it for alive.
        fs::remove_file(Path::new(&self.data()).join("postmaster.pid")).expect("a killed server leaves it");
    }

    /// Stops it politely.
    pub fn stop(&self) {
        self.run("pg_ctl", &["stop", "-m", "fast", "-w", "-D", &self.data()]);
    }

    /// A new database with nothing in it.
    pub async fn empty_database(&self) -> String {
        self.create().await
    }

    /// A new database with the schema of this build.
    pub async fn migrated_database(&self) -> String {
        let dsn = self.create().await;
        migrate::apply(&PostgresConfig::new(&dsn)).await.expect("an empty database is migrated");
        dsn
    }

    async fn create(&self) -> String {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = connect(&self.dsn("postgres")).await;
        let sql = format!("create database {name}");
        connection.execute(AssertSqlSafe(sql)).await.expect("the superuser may create databases");
        self.dsn(&name)
    }

    fn data(&self) -> String {
        self.directory.join("data").display().to_string()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let log = self.directory.join(format!("{program}.log"));
        let path = binaries().join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        let output = |file: &Path| File::options().create(true).append(true).open(file).expect("our own directory");
        let status = command
            .args(arguments)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(output(&log))
            .stderr(output(&log))
            .status()
            .unwrap_or_else(|error| panic!("{program} does not start: {error}"));
        assert!(status.success(), "{program} failed: {}", fs::read_to_string(&log).unwrap_or_default());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// Terminates every other connection to the database, as a failing network or an administrator would.
pub async fn terminate_connections(dsn: &str) -> i64 {
    sqlx::query_scalar(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()",
    )
    .fetch_one(&mut connect(dsn).await)
    .await
    .expect("the superuser may terminate")
}

/// The one number that the statement returns.
pub async fn number(dsn: &str, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&mut connect(dsn).await).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Runs statements that return nothing.
pub async fn execute(dsn: &str, sql: &str) {
    let mut options: sqlx::postgres::PgConnectOptions = dsn.parse().expect("a DSN of ours");
    options = options.application_name("test");
    let mut connection = options.connect().await.expect("the server is there");
    connection.execute(AssertSqlSafe(sql)).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn binaries() -> PathBuf {
    let debian = PathBuf::from("/usr/lib/postgresql/15/bin");
    if debian.join("initdb").exists() {
        return debian;
    }
    let asked = Command::new("pg_config").arg("--bindir").output();
    let bindir = asked.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    assert!(Path::new(&bindir).join("initdb").exists(), "no PostgreSQL server found: apt-get install postgresql-15");
    bindir.into()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}
