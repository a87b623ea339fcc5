//! `jam-api work` killed, frozen and in company: what it held is pending again, and each package is processed once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use tokio::process::{Child, Command};

use crate::api_support::{Log, Server, jam_api, package, until};
use crate::crash_support::{Record, serve};
use crate::support::postgres;

/// A running `jam-api work`; killed when dropped.
struct Worker {
    child: Child,
    log: Log,
}

impl Worker {
    fn on(dsn: &str, settings: &[(&str, &str)]) -> Self {
        let mut command = jam_api(&["work", "--interval", "50ms", "--metrics-listen", ""]);
        command.env("JAM_STORE", "postgres").env("JAM_PG_DSN", dsn).envs(settings.iter().copied());
        let log = Log::of(&mut command);
        Self { child: command.spawn().unwrap(), log }
    }

    fn log(&self) -> String {
        self.log.text()
    }

    async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().await.unwrap().success());
    }
}

/// How often each package was processed, by the log of a program.
fn processed(log: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    // The last line may still be on its way.
    for line in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if line.to_string().contains("\"package processed\"") {
            let id = find(&line, "pkg_id").unwrap_or_else(|| panic!("{line}"));
            *counts.entry(id).or_default() += 1;
        }
    }
    counts
}

fn find(line: &Value, key: &str) -> Option<String> {
    let fields = line.as_object()?;
    let own = fields.get(key).and_then(Value::as_str).map(str::to_owned);
    own.or_else(|| fields.values().find_map(|field| find(field, key)))
}

/// Packages that were accepted, and a worker that has claimed them and waits within its transaction for the head of a chain,
/// which the test holds.
struct Held {
    dsn: String,
    server: Server,
    record: Record,
    victim: Worker,
    /// The user that the worker's sessions run as.
    user: String,
    head: PgConnection,
}

const PACKAGES: usize = 6;

impl Held {
    async fn by_a_worker(settings: &[(&str, &str)]) -> Self {
        let dsn = postgres::migrated_database().await;
        let (server, record) = (serve(&dsn).await, Record::default());
        for n in 0..PACKAGES {
            assert!(record.submit(&server, &n.to_string(), &package(&format!("s{}", n % 3), &n.to_string())).await);
        }
        let user = format!("victim_{}", dsn.rsplit('/').next().unwrap().split('?').next().unwrap());
        postgres::execute(&dsn, &format!("create role {user} superuser login")).await;
        let mut head = postgres::connect(&dsn).await;
        head.execute("begin; select from accumulators where service_id = 's1' for update").await.unwrap();
        let victim = Worker::on(&dsn.replace("postgres@", &format!("{user}@")), settings);
        let world = Self { dsn, server, record, victim, user, head };
        // Long before the end of its patience with that statement.
        world.sessions("state = 'active' and wait_event_type = 'Lock' and now() - query_start < '1 s'").await;
        world
    }

    /// Waits until one session of the worker is so.
    async fn sessions(&self, so: &str) {
        let Self { user, .. } = self;
        let sql = format!("select count(*) from pg_stat_activity where usename = '{user}' and {so}");
        until(so, async || {
            let mut connection = postgres::connect(&self.dsn).await;
            let count: i64 = sqlx::query_scalar(AssertSqlSafe(&*sql)).fetch_one(&mut connection).await.unwrap();
            (count == 1).then_some(())
        })
        .await;
    }

    /// Nobody else gets what is claimed, and nothing of it is done.
    async fn is_claimed(&self) {
        assert_eq!(self.server.post("/jam/process?limit=100", &Value::Null).await.status, 204, "it is claimed");
        let pending = postgres::number(&self.dsn, "select count(*) from packages where status = 'pending'").await;
        assert_eq!(usize::try_from(pending).unwrap(), PACKAGES);
    }

    async fn release_the_head(&mut self) {
        self.head.execute("rollback").await.unwrap();
    }

    /// Waits until nothing is pending, and checks that each package was processed once.
    async fn all_is_done_once(&self, by: &[&Worker]) {
        let left = "select count(*) from packages where status = 'pending'";
        until("nothing pending", async || (postgres::number(&self.dsn, left).await == 0).then_some(())).await;
        let logged = async || {
            let counts: Vec<usize> = by.iter().map(|worker| processed(&worker.log()).len()).collect();
            (counts.iter().sum::<usize>() == self.record.accepted()).then_some(())
        };
        until("a line for each package", logged).await;
        self.record.audit(&self.server, &self.dsn).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_held_when_it_was_killed_is_pending_again_and_done_once_by_another() {
    let mut held = Held::by_a_worker(&[]).await;
    held.victim.signal("KILL").await;
    held.victim.child.wait().await.unwrap();
    // The database notices when it has something to tell.
    held.is_claimed().await;
    held.release_the_head().await;
    let rescuer = Worker::on(&held.dsn, &[]);
    held.all_is_done_once(&[&rescuer]).await;
    assert_eq!(processed(&held.victim.log()), BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_frozen_worker_holds_is_taken_back_and_it_goes_on_when_it_thaws() {
    let mut held = Held::by_a_worker(&[("JAM_CLAIM_TIMEOUT", "5")]).await;
    held.victim.signal("STOP").await;
    held.release_the_head().await;
    held.sessions("state = 'idle in transaction'").await;
    held.is_claimed().await;
    let mut rescuer = Worker::on(&held.dsn, &[]);
    held.all_is_done_once(&[&rescuer]).await;
    rescuer.signal("TERM").await;
    assert!(rescuer.child.wait().await.unwrap().success());
    held.victim.signal("CONT").await;
    // Its late commit fails, says so, and does nothing; then it works as before.
    until("its word", async || held.victim.log().contains("processing failed; trying again").then_some(())).await;
    assert!(held.record.submit(&held.server, "later", &package("s1", "later")).await);
    held.all_is_done_once(&[&rescuer, &held.victim]).await;
    assert_eq!(processed(&held.victim.log()).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_workers_and_callers_of_process_do_each_package_once_and_keep_every_chain_whole() {
    let dsn = postgres::migrated_database().await;
    let (server, record) = (serve(&dsn).await, Record::default());
    let workers: Vec<Worker> =
        ["1", "7", "100"].iter().map(|size| Worker::on(&dsn, &[("JAM_WORK_BATCH", size)])).collect();
    let stop = AtomicBool::new(false);
    let enough = async {
        record.more(100).await;
        for log in [&workers[0].log, &workers[1].log, &workers[2].log] {
            let worked = async || log.text().contains("package processed").then_some(());
            until("work of each worker", worked).await;
        }
        until("work of a caller", async || server.log().contains("package processed").then_some(())).await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(record.load(&server, 0, &stop), enough);
    record.audit(&server, &dsn).await;
    let counted = async || {
        let logs = workers.iter().map(Worker::log).chain([server.log()]);
        let counts: Vec<_> = logs.map(|log| processed(&log)).collect();
        let all: usize = counts.iter().flat_map(BTreeMap::values).sum();
        (all >= record.accepted()).then_some(counts)
    };
    let counts = until("a line for each package", counted).await;
    let mut ids: Vec<&String> = counts.iter().flat_map(BTreeMap::keys).collect();
    ids.sort_unstable();
    ids.dedup();
    let all: usize = counts.iter().flat_map(BTreeMap::values).sum();
    assert_eq!((ids.len(), all), (record.accepted(), record.accepted()), "each once, by one of them");
}
