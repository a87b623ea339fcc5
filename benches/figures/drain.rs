//! What processing costs: pending packages of one or many services, drained by one or several `jam-api work`.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use jam_domain::digest::HashAlgorithm;
use jam_domain::refine::Engine;
use jam_domain::{ItemId, PackageId, PackageStatus, Timestamp, WorkItem, WorkPackage};
use jam_store::{NewPackage, Store as _};
use sqlx::query_as;

use crate::amount::Amount;
use crate::audit::{Audit, audit};
use crate::database::{Counters, Database, store};
use crate::postgres::{connect, number};
use crate::program::Program;
use crate::table::{Against, Table, float};

/// Packages that wait.
pub const COUNT: usize = 4000;
/// How long a drain may take before the run is given up.
const PATIENCE: Duration = Duration::from_mins(1);
/// Packages a second of River (guide/performance.md, Limits and peers: 34 to 36 thousand).
const RIVER: f64 = 35_000.0;
/// Flushes for each package (guide/performance.md, Targets).
const FSYNCS: f64 = 0.03;

/// Takes the figures.
pub async fn measure(api: &Path, database: &Database, amount: Amount, table: &mut Table) {
    let mut found = Audit::default();
    for (services, workers) in [(1, 1), (1, 4), (64, 1), (64, 4)] {
        let plural = |count: usize, word: &str| format!("{count}{word}{}", if count == 1 { "" } else { "s" });
        let name = format!("drain_{}_{}", plural(services, "service"), plural(workers, "worker"));
        let dsn = database.fresh().await;
        let drained = drained(api, database, &dsn, amount, (services, workers)).await;
        let Drained { counters, fsyncs, workers_cpu, database_cpu, rate } = drained;
        table.line(&format!("{name}_statements"), counters.statements, "per package", None);
        table.line(&format!("{name}_commits"), counters.commits, "per package", None);
        table.line(&format!("{name}_fsyncs"), fsyncs, "per package", Against::cost(fsyncs, FSYNCS));
        table.line(&format!("{name}_cpu_workers"), workers_cpu, "µs/package", None);
        table.line(&format!("{name}_cpu_database"), database_cpu, "µs/package", None);
        table.line(&format!("{name}_rate"), rate, "packages/s", Against::cost(rate, RIVER));
        let Audit { packages, duplicates, broken_links, refcounts } = audit(&dsn).await;
        assert_eq!(packages, amount.of(COUNT) as u64, "every package is there");
        found.duplicates += duplicates;
        found.broken_links += broken_links;
        found.refcounts += refcounts;
    }
    table.must_be_none("drain_duplicates", found.duplicates, "packages");
    table.must_be_none("drain_broken_links", found.broken_links, "links");
}

/// Packages that wait, accepted by the store itself, 256 at a time.
async fn fill(dsn: &str, services: usize, count: usize) {
    let store = store(dsn).await;
    let engine = Engine::hash_refiner(HashAlgorithm::Blake3, 1, true);
    let packages = (0..count).map(|n| new_package(&format!("service-{}", n % services)));
    futures::stream::iter(packages)
        .for_each_concurrent(256, async |package| {
            store.submit(package, &engine).await.expect("the store takes packages");
        })
        .await;
    store.close().await;
}

fn new_package(service: &str) -> NewPackage {
    let id = PackageId::new();
    let item = |memo: &str| WorkItem {
        id: ItemId::new(),
        package_id: id,
        kind: "figure".into(),
        params_hash: "00".repeat(32),
        preimage_hashes: None,
        max_fee: None,
        memo: Some(memo.into()),
    };
    let package = WorkPackage {
        id,
        service_id: service.parse().expect("a valid name"),
        items: vec![item("one"), item("two"), item("three")],
        created_by: "0badcafe".parse().expect("a valid id"),
        nonce: id.to_string(),
        expiry: None,
        signature: None,
        preimage_hashes: None,
        status: PackageStatus::Pending,
        created_at: Timestamp::now(),
    };
    NewPackage {
        package,
        fingerprint: [0; 32],
        id_from_client: false,
        idempotency_key: None,
        pending_cap: 0,
        service_pending_cap: 0,
    }
}

/// What draining came to.
pub struct Drained {
    counters: Counters,
    fsyncs: f64,
    workers_cpu: f64,
    database_cpu: f64,
    /// Packages a second.
    pub rate: f64,
}

/// Fills an empty database with packages of so many services, and lets so many workers process them.
pub async fn drained(
    api: &Path,
    database: &Database,
    dsn: &str,
    amount: Amount,
    (services, workers): (usize, usize),
) -> Drained {
    let count = amount.of(COUNT);
    fill(dsn, services, count).await;

    let flushed = database.fsyncs().await;
    let database_used = database.cpu();
    let programs: Vec<Program> = (0..workers).map(|_| Program::worker(api, &Database::counted(dsn))).collect();
    let started = Instant::now();
    while number(dsn, "select count(*) from packages where status = 'pending'").await > 0 {
        assert!(started.elapsed() < PATIENCE, "the workers do not come to an end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let each = |time: Duration| time.as_secs_f64() * 1e6 / float(count as u64);
    let workers_cpu = each(programs.iter().map(Program::cpu).sum());
    let database_cpu = each(database.cpu_since(&database_used));
    let counters = database.counters(dsn).await.since(Counters::default(), float(count as u64));
    programs.into_iter().for_each(Program::stop);
    let fsyncs = (database.fsyncs().await - flushed) / float(count as u64);
    Drained { counters, fsyncs, workers_cpu, database_cpu, rate: rate(dsn).await }
}

/// Packages a second between the first and the last report: without the start of the programs.
async fn rate(dsn: &str) -> f64 {
    let (count, seconds): (i64, f64) =
        query_as("select count(*), extract(epoch from max(created_at) - min(created_at))::float8 from reports")
            .fetch_one(&mut connect(dsn).await)
            .await
            .expect("reports can be counted");
    float(count.unsigned_abs()) / seconds
}
