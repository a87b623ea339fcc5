//! What accepting a package costs: statements, commits and flushes for each, from 64 clients and from one.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::amount::Amount;
use crate::audit::audit;
use crate::database::Database;
use crate::http::{Client, Load, head, load, request};
use crate::program::Program;
use crate::table::{Against, Table, float};

/// Clients at once.
pub const CLIENTS: usize = 64;
const COUNT: usize = 4000;
const ALONE: usize = 100;
const SERVICES: usize = 8;
/// Packages a second of the prior Go server (guide/performance.md, Limits and peers).
const PRIOR: f64 = 2000.0;
/// Flushes for each package (guide/performance.md, Targets).
const FSYNCS: f64 = 0.1;

/// Stores the preimages that packages refer to.
pub async fn preimages(server: &Program) -> Vec<String> {
    let mut client = Client::connect(server.address()).await;
    let mut hashes = Vec::new();
    for n in 0..4_u8 {
        let bytes = vec![n; 1000];
        let hash = hex::encode(Sha256::digest(&bytes));
        let sent = client.send(&head("PUT", &format!("/jam/preimages/{hash}"), bytes.len()), &bytes).await;
        assert!([200, 201].contains(&sent.status), "{}", sent.status);
        hashes.push(hash);
    }
    hashes
}

/// A package of three items that refer to preimages.
pub fn package(service: usize, nonce: &str, hashes: &[String]) -> String {
    let item = |n: usize| {
        let hash = &hashes[n % hashes.len()];
        format!(r#"{{"kind":"figure","params_hash":"{hash}","preimage_hashes":["{hash}"],"memo":"item {n}"}}"#)
    };
    let items = [item(service), item(service + 1), item(service)].join(",");
    format!(r#"{{"service_id":"service-{service}","nonce":"{nonce}","items":[{items}]}}"#)
}

/// Submits so many packages; returns how many a second. The name keeps their nonces apart from other runs'.
pub async fn submit(server: &Program, hashes: &[String], clients: usize, count: usize, name: &'static str) -> f64 {
    float(count as u64) / submissions(server, hashes, clients, count, name).await.took.as_secs_f64()
}

/// Submits so many packages.
pub async fn submissions(
    server: &Program,
    hashes: &[String],
    clients: usize,
    count: usize,
    name: &'static str,
) -> Load {
    let hashes = hashes.to_vec();
    load(server.address(), clients, count, 201, move |turn| {
        request("POST", "/jam/packages", &package(turn % SERVICES, &format!("{name}-{turn}"), &hashes))
    })
    .await
}

/// Takes the figures.
pub async fn measure(api: &Path, database: &Database, amount: Amount, table: &mut Table) {
    let dsn = database.fresh().await;
    let server = Program::api(api, Some(&Database::counted(&dsn)));
    let hashes = preimages(&server).await;
    submit(&server, &hashes, 1, 20, "warm").await;

    let before = database.counters(&dsn).await;
    submit(&server, &hashes, 1, ALONE, "alone").await;
    let alone = database.counters(&dsn).await.since(before, float(ALONE as u64));
    table.line("submit_alone_statements", alone.statements, "per package", None);
    table.line("submit_alone_commits", alone.commits, "per package", Against::cost(alone.commits, 1.0));
    server.stop();

    let server = Program::api(api, Some(&Database::counted(&dsn)));
    let count = amount.of(COUNT);
    let flushed = database.fsyncs().await;
    submit(&server, &hashes, CLIENTS, CLIENTS * 4, "ready").await;
    let (before, used, database_used) = (database.counters(&dsn).await, server.cpu(), database.cpu());
    let rate = submit(&server, &hashes, CLIENTS, count, "many").await;
    let each = |seconds: f64| seconds * 1e6 / float(count as u64);
    let cpu = each(server.cpu_since(used).as_secs_f64());
    let database_cpu = each(database.cpu_since(&database_used).as_secs_f64());
    let many = database.counters(&dsn).await.since(before, float(count as u64));
    server.stop();
    let fsyncs = (database.fsyncs().await - flushed) / float((count + CLIENTS * 4) as u64);

    table.line("submit_statements", many.statements, "per package", None);
    table.line("submit_commits", many.commits, "per package", None);
    table.line("submit_fsyncs", fsyncs, "per package", Against::cost(fsyncs, FSYNCS));
    table.line("submit_wal", many.wal, "byte/package", None);
    table.line("submit_cpu_server", cpu, "µs/package", None);
    table.line("submit_cpu_database", database_cpu, "µs/package", None);
    table.line("submit_rate", rate, "packages/s", Against::cost(rate, PRIOR));
    let audit = audit(&dsn).await;
    let lost = ((20 + ALONE + CLIENTS * 4 + count) as u64).abs_diff(audit.packages);
    table.must_be_none("submit_wrong", audit.wrong() + lost, "findings");
}
