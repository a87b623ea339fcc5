//! Whether anything gets slower as packages are kept: submitting and listing at 0, 100,000 and, in a full run, 1,000,000.

use std::path::Path;

use crate::amount::Amount;
use crate::audit::audit;
use crate::database::Database;
use crate::lists;
use crate::postgres::execute;
use crate::program::Program;
use crate::submit::{CLIENTS, preimages, submit};
use crate::table::{Against, Table, float};

const COUNT: usize = 2000;

/// Fills in applied packages with all that belongs to them; the audit leaves services of their names out.
pub const FILL: &str = include_str!("../../tests/it/support/fill.sql");

/// What a submission cost.
struct Cost {
    cpu: f64,
    blocks: f64,
}

/// Takes the figures.
pub async fn measure(api: &Path, database: &Database, amount: Amount, table: &mut Table) {
    let mut empty: Option<Cost> = None;
    for stored in amount.levels() {
        let dsn = database.fresh().await;
        if *stored > 0 {
            execute(&dsn, &FILL.replace("ROWS", &stored.to_string())).await;
            execute(&dsn, "vacuum").await;
            execute(&dsn, "checkpoint").await;
        }
        let server = Program::api(api, Some(&Database::counted(&dsn)));
        let cost = submissions(&server, database, &dsn, amount.of(COUNT)).await;
        let against = |now: f64, first: fn(&Cost) -> f64| empty.as_ref().map(|empty| Against::cost(now, first(empty)));
        table.line(&format!("submit_cpu_at_{stored}"), cost.cpu, "µs/package", against(cost.cpu, |cost| cost.cpu));
        let blocks = against(cost.blocks, |cost| cost.blocks);
        table.line(&format!("submit_blocks_at_{stored}"), cost.blocks, "per package", blocks);
        lists::measure(&server, database, &dsn, (*stored, amount), table).await;
        server.stop();
        table.must_be_none(&format!("wrong_at_{stored}"), audit(&dsn).await.wrong(), "findings");
        empty.get_or_insert(cost);
    }
}

async fn submissions(server: &Program, database: &Database, dsn: &str, count: usize) -> Cost {
    let hashes = preimages(server).await;
    submit(server, &hashes, CLIENTS, CLIENTS * 4, "ready").await;
    let (before, used, database_used) = (database.counters(dsn).await, server.cpu(), database.cpu());
    submit(server, &hashes, CLIENTS, count, "stored").await;
    let cpu = server.cpu_since(used) + database.cpu_since(&database_used);
    let counters = database.counters(dsn).await.since(before, float(count as u64));
    Cost { cpu: cpu.as_secs_f64() * 1e6 / float(count as u64), blocks: counters.blocks }
}
