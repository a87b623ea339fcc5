//! `make soak`: mixed load for many minutes on three servers of one database, while tokens rotate and cleanups run, and an audit of what is left.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use jam_domain::token::TokenEntry;
use sha2::{Digest as _, Sha256};
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::sleep;

use crate::audit::audit;
use crate::database::Database;
use crate::http::{Answer, Client, head_as};
use crate::postgres::{execute, number};
use crate::program::Program;
use crate::stored::FILL;
use crate::submit::package;
use crate::table::{Against, Table, float, median};

/// More minutes than this are another kind of test, and more rows than a laptop should keep.
pub const LONGEST: u64 = 120;
const SERVERS: usize = 3;
const WORKERS: usize = 4;
const CLIENTS: usize = 6;
const SERVICES: usize = 4;
/// Between two rounds of a client: the load is steady, not as much as the machine can.
const PAUSE: Duration = Duration::from_millis(100);
/// Memory and latency are looked at over this long.
const WINDOW: Duration = Duration::from_secs(10);
/// Between two tokens.
const ROTATE: Duration = Duration::from_secs(20);
/// A changed file counts within two seconds; a client that has read the new token may still have a request with the old one under way.
const SETTLE: Duration = Duration::from_secs(4);
const CLEANUP: Duration = Duration::from_mins(1);
/// Packages beyond their retention that each cleanup finds.
const OLD: u32 = 2000;
/// What a process may have more at the end than after its first quarter, and be flat all the same.
const GROWTH: f64 = 1.25;
const SLACK: f64 = 8e6;
/// What a submission may take more at the end than in the second quarter, and be as quick all the same: half, and some ms of a busy machine.
const SLOWER: f64 = 1.5;
const SLOWER_MS: f64 = 5.0;
/// Every so many blobs one is a mebibyte, which comes in several pieces.
const LARGE: u64 = 100;
/// How long the workers may take for what is left.
const DRAIN: Duration = Duration::from_mins(2);

/// What is asked for.
pub struct Soak {
    /// How long the load lasts.
    pub lasting: Duration,
    /// The program that verifies the chains.
    pub slctl: PathBuf,
    /// Whether the blobs are files of a blob store instead of rows.
    pub files: bool,
}

/// So many minutes, or so many seconds with an `s`: seconds are for the test.
pub fn lasting(text: &str) -> Option<Duration> {
    let (number, unit) = text.strip_suffix('s').map_or((text, 60), |number| (number, 1));
    let seconds = number.parse::<u64>().ok()?.checked_mul(unit)?;
    (1..=LONGEST * 60).contains(&seconds).then(|| Duration::from_secs(seconds))
}

/// What the parts of the load share.
struct Shared {
    stop: Cell<bool>,
    token: RefCell<String>,
    tokens_file: PathBuf,
    /// Where the blobs are, when it is not the database.
    blobs: Option<PathBuf>,
    answers: RefCell<BTreeMap<u16, u64>>,
    /// The first words of answers that nobody wants.
    odd: RefCell<Vec<String>>,
    submitted: Cell<u64>,
    latencies: RefCell<Vec<Duration>>,
    rotations: Cell<u64>,
    cleanups: Cell<u64>,
    filled: Cell<u32>,
}

/// What was seen of one window: the memory of each process, and the latencies of submissions in ms.
struct Window {
    memory: Vec<Option<u64>>,
    p50: f64,
    p99: f64,
}

/// Takes the figures.
pub async fn measure(api: &Path, soak: &Soak, database: &Database, table: &mut Table) {
    let dsn = database.fresh().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shared = Rc::new(Shared::new(folder.path(), soak.files));
    shared.accept(&[shared.token.borrow().clone()]);
    let blobs = shared.blob_store();
    let server = |_| Program::replica(api, &dsn, &shared.tokens_file, blobs.as_deref());
    let servers: Vec<Program> = (0..SERVERS).map(server).collect();
    let workers: Vec<Program> = (0..WORKERS).map(|_| Program::worker(api, &dsn)).collect();
    let local = LocalSet::new();
    let addresses: Vec<SocketAddr> = servers.iter().map(Program::address).collect();
    let mut parts: Vec<JoinHandle<()>> = (0..CLIENTS)
        .map(|client| local.spawn_local(submit(shared.clone(), client, addresses[client % SERVERS])))
        .collect();
    parts.push(local.spawn_local(rotate(shared.clone())));
    parts.push(local.spawn_local(clean(shared.clone(), api.to_owned(), dsn.clone())));
    let all: Vec<&Program> = servers.iter().chain(&workers).collect();
    let windows = local.run_until(watch(&shared, &all, soak.lasting)).await;
    let mut broken = 0;
    local
        .run_until(async {
            for part in parts {
                broken += u64::from(part.await.is_err());
            }
        })
        .await;
    drain(&dsn).await;
    told(&shared, &windows, broken, table);
    let verified = verified(&soak.slctl, addresses[0], &shared.token.borrow());
    workers.into_iter().chain(servers).for_each(Program::stop);
    audited(&dsn, &shared, verified, table).await;
}

impl Shared {
    fn new(folder: &Path, files: bool) -> Self {
        let blobs = files.then(|| folder.join("blobs"));
        if let Some(blobs) = &blobs {
            fs::create_dir(blobs).expect("our own folder");
        }
        Self {
            stop: Cell::new(false),
            token: RefCell::new(fresh_token()),
            tokens_file: folder.join("tokens.json"),
            blobs,
            answers: RefCell::default(),
            odd: RefCell::default(),
            submitted: Cell::new(0),
            latencies: RefCell::default(),
            rotations: Cell::new(0),
            cleanups: Cell::new(0),
            filled: Cell::new(0),
        }
    }

    /// The setting that puts the blobs where they are.
    fn blob_store(&self) -> Option<String> {
        self.blobs.as_ref().map(|blobs| format!("file://{}", blobs.display()))
    }

    /// Writes the file of tokens as a kubelet does: whole or not at all.
    fn accept(&self, tokens: &[String]) {
        let entries: Vec<TokenEntry> = tokens.iter().map(|token| TokenEntry::of_plain(token)).collect();
        let text = serde_json::json!(entries).to_string();
        let new = self.tokens_file.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &self.tokens_file)).expect("our own folder");
    }

    /// Counts an answer, and keeps the words of one that is not wanted.
    fn count(&self, what: &str, answer: &Answer, wanted: &[u16]) {
        *self.answers.borrow_mut().entry(answer.status).or_default() += 1;
        let mut odd = self.odd.borrow_mut();
        if !wanted.contains(&answer.status) && odd.len() < 5 {
            odd.push(format!("{what}: {} {}", answer.status, String::from_utf8_lossy(&answer.body)));
        }
    }

    /// Sleeps, but not beyond the end.
    async fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.stop.get() && Instant::now() < until {
            sleep((until - Instant::now()).min(PAUSE)).await;
        }
    }
}

fn fresh_token() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

/// One client: a blob, a package that refers to it, and now and then what readers ask for.
async fn submit(shared: Rc<Shared>, number: usize, address: SocketAddr) {
    let mut client = Client::connect(address).await;
    let mut turn = 0_u64;
    while !shared.stop.get() {
        turn += 1;
        // Every blob comes three times: twice there is nothing to store.
        let blob = turn / 3;
        let times =
            if blob.is_multiple_of(LARGE) { 131_072 } else { 1 + usize::try_from(blob % 2000).unwrap_or_default() };
        let bytes = format!("{number:02} {blob:04} ").repeat(times);
        let hash = hex::encode(Sha256::digest(&bytes));
        let token = shared.token.borrow().clone();
        let path = format!("/jam/preimages/{hash}");
        let put = client.send(&head_as(&token, "PUT", &path, bytes.len()), bytes.as_bytes()).await;
        shared.count("PUT preimage", &put, &[200, 201]);
        let nonce = format!("soak-{number}-{turn}");
        let body = package(usize::try_from(turn).unwrap_or_default() % SERVICES, &nonce, &[hash]);
        let sent = Instant::now();
        let made = client.send(&head_as(&token, "POST", "/jam/packages", body.len()), body.as_bytes()).await;
        shared.latencies.borrow_mut().push(sent.elapsed());
        shared.count("POST package", &made, &[201]);
        shared.submitted.set(shared.submitted.get() + u64::from(made.status == 201));
        if turn.is_multiple_of(5) {
            for path in [&path, "/jam/packages?limit=20", "/jam/reports?limit=20", "/jam/status", "/readyz"] {
                let read = client.send(&head_as(&token, "GET", path, 0), &[]).await;
                shared.count(path, &read, &[200]);
            }
        }
        shared.pause(PAUSE).await;
    }
}

/// Replaces the token as the operator does: both are accepted, then clients read the new one, then the old one is gone.
async fn rotate(shared: Rc<Shared>) {
    loop {
        shared.pause(ROTATE).await;
        if shared.stop.get() {
            return;
        }
        let (old, new) = (shared.token.borrow().clone(), fresh_token());
        shared.accept(&[old, new.clone()]);
        sleep(SETTLE).await;
        shared.token.replace(new.clone());
        sleep(SETTLE).await;
        shared.accept(&[new]);
        shared.rotations.set(shared.rotations.get() + 1);
    }
}

/// A cleanup every minute, each with something to do.
async fn clean(shared: Rc<Shared>, api: PathBuf, dsn: String) {
    loop {
        let (from, to) = (shared.filled.get() + 1, shared.filled.get() + OLD);
        let fill = FILL.replace("generate_series(1, ROWS)", &format!("generate_series({from}, {to})"));
        let fill = fill.replace("from fill group by service;", "from fill group by service on conflict do nothing;");
        execute(&dsn, &fill.replace("ROWS", &to.to_string()).replace("interval '1 day'", "interval '40 days'")).await;
        shared.filled.set(to);
        let mut run = Program::cleanup(&api, &dsn, shared.blob_store().as_deref());
        let ended = loop {
            match run.try_wait().expect("it is ours") {
                Some(ended) => break ended,
                None => sleep(PAUSE).await,
            }
        };
        assert!(ended.success(), "a cleanup failed: {ended}");
        shared.cleanups.set(shared.cleanups.get() + 1);
        shared.pause(CLEANUP).await;
        if shared.stop.get() {
            return;
        }
    }
}

/// Looks at every window until the time is over or somebody presses Ctrl-C, and ends the load.
async fn watch(shared: &Rc<Shared>, programs: &[&Program], lasting: Duration) -> Vec<Window> {
    let end = Instant::now() + lasting;
    let mut windows = Vec::new();
    while Instant::now() < end {
        tokio::select! {
            () = sleep(WINDOW.min(end - Instant::now())) => {}
            _ = tokio::signal::ctrl_c() => break,
        }
        let mut each = shared.latencies.take();
        each.sort_unstable();
        let at =
            |hundredth: usize| each.get(each.len() * hundredth / 100).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
        let memory = programs.iter().map(|program| program.memory()).collect();
        windows.push(Window { memory, p50: at(50), p99: at(99) });
    }
    shared.stop.set(true);
    windows
}

/// Waits until nothing is pending.
async fn drain(dsn: &str) {
    let until = Instant::now() + DRAIN;
    while Instant::now() < until && number(dsn, "select count(*) from packages where status = 'pending'").await > 0 {
        sleep(PAUSE).await;
    }
}

/// The second quarter of the windows, after the first in which everything warms up, and the last one.
fn quarters(windows: &[Window]) -> (&[Window], &[Window]) {
    let quarter = (windows.len() / 4).max(1);
    let second = &windows[quarter.min(windows.len() - 1)..(2 * quarter).clamp(1, windows.len())];
    (if second.is_empty() { windows } else { second }, &windows[windows.len() - quarter..])
}

fn told(shared: &Shared, windows: &[Window], broken: u64, table: &mut Table) {
    let answers = shared.answers.borrow();
    let of = |wanted: fn(u16) -> bool| answers.iter().filter(|(code, _)| wanted(**code)).map(|(_, n)| n).sum::<u64>();
    table.line("soak_windows", float(windows.len() as u64), "of 10 s", None);
    table.line("soak_requests", float(of(|_| true)), "requests", None);
    table.line("soak_packages", float(shared.submitted.get()), "packages", None);
    table.line("soak_rotations", float(shared.rotations.get()), "rotations", None);
    table.line("soak_cleanups", float(shared.cleanups.get()), "runs", None);
    table.must_be_none("soak_5xx", of(|code| code >= 500), "answers");
    table.must_be_none("soak_4xx", of(|code| (400..500).contains(&code)), "answers");
    table.must_be_none("soak_broken", broken, "clients");
    shared.odd.borrow().iter().for_each(|words| println!("# {words}"));
    let (second, last) = quarters(windows);
    let p50 = |windows: &[Window]| median(&windows.iter().map(|window| window.p50).collect::<Vec<_>>());
    let p99 = |windows: &[Window]| median(&windows.iter().map(|window| window.p99).collect::<Vec<_>>());
    table.line("soak_submit_p50_early", p50(second), "ms", None);
    table.line("soak_submit_p50_late", p50(last), "ms", Against::cost(p50(last), p50(second)));
    let slower = p50(last) > p50(second) * SLOWER + SLOWER_MS;
    table.must_be_none("soak_latency_not_flat", u64::from(slower), "figures");
    table.line("soak_submit_p99_early", p99(second), "ms", None);
    table.line("soak_submit_p99_late", p99(last), "ms", Against::cost(p99(last), p99(second)));
    let mut grown = 0;
    for process in 0..SERVERS + WORKERS {
        let memory = |windows: &[Window]| {
            let each = windows.iter().filter_map(|window| window.memory[process].map(float)).collect::<Vec<_>>();
            median(&each)
        };
        let (early, late) = (memory(second), memory(last));
        let name = if process < SERVERS { "server" } else { "worker" };
        let number = if process < SERVERS { process } else { process - SERVERS };
        table.line(&format!("soak_memory_{name}_{number}"), late / 1e6, "MB", Against::cost(late / 1e6, early / 1e6));
        // A process that is gone has none, and is not flat.
        let flat = late <= early * GROWTH + SLACK;
        grown += u64::from(!flat);
    }
    table.must_be_none("soak_memory_not_flat", grown, "processes");
}

/// How many chains `slctl jam verify` finds whole.
fn verified(slctl: &Path, address: SocketAddr, token: &str) -> usize {
    let whole = |service: &usize| {
        let mut command = Command::new(slctl);
        command.env_clear().env("SERVICE_LAYER_ADDR", format!("http://{address}")).env("SERVICE_LAYER_TOKEN", token);
        command.args(["--timeout", "60s", "jam", "verify", "--service", &format!("service-{service}")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    (0..SERVICES).filter(whole).count()
}

/// What must hold afterwards: everything that was accepted is there, applied, reported once and in its chain.
async fn audited(dsn: &str, shared: &Shared, verified: usize, table: &mut Table) {
    table.must_be_none("soak_chains_not_verified", (SERVICES - verified) as u64, "services");
    let counts = [
        (
            "soak_packages_wrong",
            "select count(*) from packages where service_id like 'service-%' and status = 'applied'",
        ),
        ("soak_reports_wrong", "select count(*) from reports where service_id like 'service-%'"),
        ("soak_receipts_wrong", "select count(*) / 2 from receipts where service_id like 'service-%'"),
    ];
    for (name, sql) in counts {
        let there = number(dsn, sql).await.unsigned_abs();
        table.must_be_none(name, there.abs_diff(shared.submitted.get()), "findings");
    }
    let rows = number(dsn, "select count(*) from preimages where storage_class <> 'database'").await.unsigned_abs();
    let objects = shared.blobs.as_ref().map_or(0, |blobs| fs::read_dir(blobs).expect("our own folder").count() as u64);
    table.line("soak_objects", float(objects), "files", None);
    table.must_be_none("soak_objects_wrong", objects.abs_diff(rows), "findings");
    let old = number(dsn, "select count(*) from packages where service_id like 'stored-%'").await.unsigned_abs();
    table.line("soak_cleaned", float(u64::from(shared.filled.get()) - old), "packages", None);
    table.must_be_none("soak_not_cleaned", old, "packages");
    table.must_be_none("soak_wrong", audit(dsn).await.wrong(), "findings");
}
