//! What a cleanup costs, and what submitters notice of it.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::audit::audit;
use crate::database::Database;
use crate::postgres::{execute, number};
use crate::program::Program;
use crate::stored::FILL;
use crate::submit::{CLIENTS, preimages, submissions, submit};
use crate::table::{Against, Table, float};

/// Packages that are cleaned up; each with report, attestation and, staying, two receipts.
const OLD: u32 = 100_000;
const COUNT: usize = 4000;
const ROUND: usize = 500;

/// Takes the figures.
pub async fn measure(api: &Path, database: &Database, table: &mut Table) {
    let dsn = database.fresh().await;
    execute(&dsn, &FILL.replace("ROWS", &OLD.to_string()).replace("interval '1 day'", "interval '40 days'")).await;
    execute(&dsn, "vacuum").await;
    execute(&dsn, "checkpoint").await;
    let server = Program::api(api, Some(&Database::counted(&dsn)));
    // Somebody has to make room: the cap on pending packages holds here, too.
    let worker = Program::worker(api, &dsn);
    let hashes = preimages(&server).await;
    submit(&server, &hashes, CLIENTS, CLIENTS * 4, "ready").await;
    let alone = p99(submissions(&server, &hashes, CLIENTS, COUNT, "alone").await.each);
    let started = Instant::now();
    let mut cleanup = Program::cleanup(api, &dsn, None);
    let mut beside = Vec::new();
    while runs(&mut cleanup) {
        beside.extend(submissions(&server, &hashes, CLIENTS, ROUND, "beside").await.each);
    }
    let took = started.elapsed();
    server.stop();
    worker.stop();
    let deleted = u64::from(OLD)
        - number(&dsn, "select count(*) from packages where created_at < now() - interval '1 day'")
            .await
            .unsigned_abs();
    table.line("cleanup_rate", float(deleted) / took.as_secs_f64(), "packages/s", None);
    let beside = p99(beside);
    table.line("cleanup_submit_p99", beside, "ms", Against::cost(beside, alone));
    let left =
        number(&dsn, "select (select count(*) from archived_packages) + (select count(*) from archived_reports)");
    let left = left.await.unsigned_abs() + u64::from(OLD).abs_diff(deleted);
    table.must_be_none("cleanup_wrong", audit(&dsn).await.wrong() + left, "findings");
}

fn runs(child: &mut Child) -> bool {
    child.try_wait().expect("it is ours").is_none()
}

fn p99(mut each: Vec<Duration>) -> f64 {
    each.sort_unstable();
    each.get(each.len() * 99 / 100).map_or(f64::NAN, |slow| slow.as_secs_f64() * 1e3)
}
