//! What a cleanup costs, and what submitters notice of it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::amount::Amount;
use crate::audit::audit;
use crate::database::Database;
use crate::postgres::{execute, number};
use crate::program::Program;
use crate::stored::FILL;
use crate::submit::{CLIENTS, preimages, submissions, submit};
use crate::table::{Against, Table, float};

const ROUND: usize = 500;

/// Takes the figures; each package that is cleaned up has report, attestation and, staying, two receipts.
pub async fn measure(api: &Path, database: &Database, amount: Amount, table: &mut Table) {
    let ((old, at_most), round) = (amount.old(), amount.of(ROUND));
    let dsn = database.fresh().await;
    execute(&dsn, &FILL.replace("ROWS", &old.to_string()).replace("interval '1 day'", "interval '40 days'")).await;
    execute(&dsn, "vacuum").await;
    execute(&dsn, "checkpoint").await;
    let server = Program::api(api, Some(&Database::counted(&dsn)));
    // Somebody has to make room: the cap on pending packages holds here, too.
    let worker = Program::worker(api, &dsn);
    let hashes = preimages(&server).await;
    submit(&server, &hashes, CLIENTS, CLIENTS * 4, "ready").await;
    let started = Instant::now();
    let mut cleanup = Program::cleanup(api, &dsn, None);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    // By turns, because a machine is slower from one minute to the next: a cleanup that is stopped costs nothing.
    while runs(&mut cleanup) {
        beside.extend(submissions(&server, &hashes, CLIENTS, round, "beside").await.each);
        signal(&cleanup, "STOP");
        alone.extend(submissions(&server, &hashes, CLIENTS, round, "alone").await.each);
        signal(&cleanup, "CONT");
        if started.elapsed() > at_most {
            signal(&cleanup, "TERM");
        }
    }
    let took = started.elapsed();
    server.stop();
    worker.stop();
    let deleted = (old as u64)
        - number(&dsn, "select count(*) from packages where created_at < now() - interval '1 day'")
            .await
            .unsigned_abs();
    table.line("cleanup_rate", float(deleted) / took.as_secs_f64(), "packages/s", None);
    let (alone, beside) = (p99(alone), p99(beside));
    table.line("cleanup_submit_p99", beside, "ms", Against::cost(beside, alone));
    let left =
        number(&dsn, "select (select count(*) from archived_packages) + (select count(*) from archived_reports)");
    let left = left.await.unsigned_abs() + (old as u64).abs_diff(deleted);
    // What was stopped halfway has only to have left everything whole.
    let left = if at_most == Duration::MAX { left } else { 0 };
    table.must_be_none("cleanup_wrong", audit(&dsn).await.wrong() + left, "findings");
}

fn runs(child: &mut Child) -> bool {
    child.try_wait().expect("it is ours").is_none()
}

/// A program that has ended meanwhile needs none.
fn signal(child: &Child, name: &str) {
    let _ = Command::new("kill").args(["-s", name, &child.id().to_string()]).stderr(Stdio::null()).status();
}

fn p99(mut each: Vec<Duration>) -> f64 {
    each.sort_unstable();
    each.get(each.len() * 99 / 100).map_or(f64::NAN, |slow| slow.as_secs_f64() * 1e3)
}
