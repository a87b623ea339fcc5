//! The programs that are measured: started on loopback, their CPU and memory read from /proc, ended with the figure.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::http::TOKEN;

/// A running program; killed when dropped.
pub struct Program {
    child: Child,
    // Kept open, so that the program can go on printing.
    _stdout: Option<BufReader<ChildStdout>>,
    address: Option<SocketAddr>,
}

impl Program {
    /// `jam-api serve` as it is shipped: token, limiter and metrics on, logs down to warnings, on the database or in memory.
    pub fn api(path: &Path, dsn: Option<&str>) -> Self {
        let mut command = jam_api(path, dsn);
        command.arg("serve").env("JAM_LISTEN", "127.0.0.1:0").env("JAM_RATE_LIMIT_PER_MINUTE", "10000000");
        // A cap that is never reached, but counted up to, as in production.
        command.env("JAM_MAX_PENDING_PACKAGES", "10000");
        Self::listening(command)
    }

    /// One of several servers of a database, with a file of tokens that it watches, as the operator runs them; with a URL the
    /// blobs are there.
    pub fn replica(path: &Path, dsn: &str, tokens: &Path, blobs: Option<&str>) -> Self {
        let mut command = jam_api(path, Some(dsn));
        command.envs(blobs.map(|url| ("JAM_BLOB_STORE", url)));
        command.arg("serve").env("JAM_LISTEN", "127.0.0.1:0").env("JAM_RATE_LIMIT_PER_MINUTE", "10000000");
        command.env("JAM_MAX_PENDING_PACKAGES", "10000").env_remove("JAM_ALLOWED_TOKENS");
        command.arg("--tokens-file").arg(tokens);
        Self::listening(command)
    }

    /// `jam-api work`, batches of 100.
    pub fn worker(path: &Path, dsn: &str) -> Self {
        let mut command = jam_api(path, Some(dsn));
        command.arg("work").stdout(Stdio::null());
        Self { child: command.spawn().expect("jam-api starts"), _stdout: None, address: None }
    }

    /// `jam-api cleanup` of everything that is finished and older than a day, archive included, and of blobs where this URL says.
    pub fn cleanup(path: &Path, dsn: &str, blobs: Option<&str>) -> Child {
        let mut command = jam_api(path, Some(dsn));
        command.envs(blobs.map(|url| ("JAM_BLOB_STORE", url)));
        command.args(["cleanup", "--retention-days", "1", "--archive-days", "0"]).stdout(Stdio::null());
        command.spawn().expect("jam-api starts")
    }

    /// The floor: bare axum.
    pub fn floor() -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.arg("floor").stdin(Stdio::null()).stdout(Stdio::piped());
        Self::listening(command)
    }

    fn listening(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the program starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("the program prints text");
        let address = line.trim().strip_prefix("listening on ").and_then(|address| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("{command:?} does not say where it listens: {line:?}"));
        Self { child, _stdout: Some(stdout), address: Some(address) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("workers are not asked for their address")
    }

    /// CPU that it has used.
    pub fn cpu(&self) -> Duration {
        cpu(self.child.id())
    }

    /// CPU that it has used since an earlier reading.
    pub fn cpu_since(&self, earlier: Duration) -> Duration {
        self.cpu().saturating_sub(earlier)
    }

    /// The most memory it ever had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel keeps VmHWM");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024
    }

    /// The memory that it has now, in bytes; none when it is gone.
    pub fn memory(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
    }

    /// Ends it politely, so that its database connections report what they have counted.
    pub fn stop(mut self) {
        let _ = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn jam_api(path: &Path, dsn: Option<&str>) -> Command {
    let mut command = Command::new(path);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped());
    command.env("JAM_ENABLED", "true").env("JAM_ALLOWED_TOKENS", TOKEN).env("JAM_LOG", "warn");
    command.env("JAM_METRICS_LISTEN", "127.0.0.1:0");
    match dsn {
        Some(dsn) => command.env("JAM_STORE", "postgres").env("JAM_PG_DSN", dsn),
        None => command.env("JAM_STORE", "memory"),
    };
    command
}

/// CPU of a process: of its threads to the nanosecond where the scheduler tells, else utime + stime in ticks of 10 ms.
pub fn cpu(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let precise: u64 = threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next().and_then(|nanos| nanos.parse::<u64>().ok()))
        .sum();
    if precise > 0 {
        return Duration::from_nanos(precise);
    }
    let fields = stat(pid);
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or_default();
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// The parent of a process.
pub fn parent(pid: u32) -> Option<u32> {
    stat(pid).get(1)?.parse().ok()
}

/// The fields of /proc/PID/stat after the name.
fn stat(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text.rsplit_once(") ").map_or("", |(_, fields)| fields);
    fields.split_whitespace().map(ToOwned::to_owned).collect()
}

/// CPU of all children of a process, by id.
pub fn children_cpu(parent_pid: u32) -> Vec<(u32, Duration)> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    ids.filter(|id| parent(*id) == Some(parent_pid)).map(|id| (id, cpu(id))).collect()
}
