//! One service's chain: batches of links against rows that are committed one by one, and many workers against one.

use std::path::Path;
use std::time::Instant;

use sqlx::{Executor as _, query};

use crate::amount::Amount;
use crate::audit::audit;
use crate::database::Database;
use crate::drain::{self, drained};
use crate::postgres::connect;
use crate::table::{Against, Table, float, median};

const PAIRS: usize = 3;
const WORKERS: usize = 16;
/// Rows that are committed one by one.
const ROWS: usize = 400;

/// Takes the figures, by turns.
pub async fn measure(api: &Path, database: &Database, amount: Amount, table: &mut Table) {
    let (mut one, mut many, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    let (mut against_rows, mut against_one, mut wrong) = (Vec::new(), Vec::new(), 0);
    for _ in 0..amount.of(PAIRS) {
        let mut rates = Vec::new();
        for workers in [1, WORKERS] {
            let dsn = database.fresh().await;
            rates.push(drained(api, database, &dsn, amount, (1, workers)).await.rate);
            let found = audit(&dsn).await;
            wrong += found.wrong() + found.packages.abs_diff(amount.of(drain::COUNT) as u64);
        }
        let raw = rows_a_second(&database.fresh().await, amount.of(ROWS)).await;
        against_rows.push(rates[0] / raw);
        against_one.push(rates[1] / rates[0]);
        one.push(rates[0]);
        many.push(rates[1]);
        rows.push(raw);
    }
    table.line("chain_1worker_rate", median(&one), "links/s", Against::pairs(&rows, &against_rows));
    table.line("chain_16workers_rate", median(&many), "links/s", Against::pairs(&one, &against_one));
    table.must_be_none("chain_wrong", wrong, "findings");
}

/// Rows a second where each is a transaction of its own.
async fn rows_a_second(dsn: &str, count: usize) -> f64 {
    let mut raw = connect(dsn).await;
    raw.execute("create table raw (n bigserial primary key, bytes bytea)").await.expect("a new table");
    let started = Instant::now();
    for _ in 0..count {
        query("insert into raw (bytes) values ($1)").bind(vec![7_u8; 100]).execute(&mut raw).await.expect("our table");
    }
    float(count as u64) / started.elapsed().as_secs_f64()
}
