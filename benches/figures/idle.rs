//! How long one package takes from its submission until it is applied where nothing else is going on.

use std::path::Path;
use std::time::Instant;

use sqlx::{Executor as _, query};

use crate::amount::Amount;
use crate::audit::audit;
use crate::database::Database;
use crate::http::{Client, request};
use crate::postgres::{connect, number};
use crate::program::Program;
use crate::submit::{package, preimages};
use crate::table::{Against, Table, float, median};

const TURNS: usize = 200;
/// Commits that wait for the disk, and milliseconds beyond (guide/performance.md, Targets).
const FLUSHES: f64 = 3.0;
const BEYOND: f64 = 1.5;

/// Takes the figures: a package is submitted and processed by a call each, between two rows that are committed alone.
pub async fn measure(api: &Path, database: &Database, amount: Amount, table: &mut Table) {
    let dsn = database.fresh().await;
    let server = Program::api(api, Some(&Database::counted(&dsn)));
    let hashes = preimages(&server).await;
    let mut client = Client::connect(server.address()).await;
    let mut raw = connect(&dsn).await;
    raw.execute("create table raw (n bigserial primary key, bytes bytea)").await.expect("a new table");
    let turns = amount.of(TURNS);
    let (mut ours, mut limits, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let before = database.counters(&dsn).await;
    for turn in 0..turns {
        let submission = request("POST", "/jam/packages", &package(0, &format!("idle-{turn}"), &hashes));
        let started = Instant::now();
        client.send(&submission, &[]).await.expect(201);
        client.send(&request("POST", "/jam/process", ""), &[]).await.expect(200);
        let took = started.elapsed().as_secs_f64() * 1e3;
        let started = Instant::now();
        query("insert into raw (bytes) values ($1)").bind(vec![7_u8; 100]).execute(&mut raw).await.expect("our table");
        let limit = FLUSHES * started.elapsed().as_secs_f64() * 1e3 + BEYOND;
        ours.push(took);
        limits.push(limit);
        ratios.push(took / limit);
    }
    let counters = database.counters(&dsn).await.since(before, float(turns as u64));
    server.stop();
    table.line("idle_submit_applied", median(&ours), "ms", Against::pairs(&limits, &ratios));
    table.line("idle_commits", counters.commits, "per package", Against::cost(counters.commits, FLUSHES));
    let left = number(&dsn, "select count(*) from packages where status <> 'applied'").await.unsigned_abs();
    let found = audit(&dsn).await;
    let wrong = found.wrong() + left + found.packages.abs_diff(turns as u64);
    table.must_be_none("idle_wrong", wrong, "findings");
}
