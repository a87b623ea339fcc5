//! What a page of packages costs, the first one and one at depth 50,000.

use serde_json::Value;

use crate::amount::Amount;
use crate::database::Database;
use crate::http::{Client, load, request};
use crate::program::Program;
use crate::table::{Against, Table, float, median};

const DEPTH: usize = 50_000;
const PAIRS: usize = 5;
const PAGES: usize = 50;

/// What pages cost, each.
struct Cost {
    cpu: f64,
    blocks: f64,
}

/// Takes the figures: the first page, and the deep one where there are so many packages.
pub async fn measure(
    server: &Program,
    database: &Database,
    dsn: &str,
    (stored, amount): (usize, Amount),
    table: &mut Table,
) {
    let depth = amount.of(DEPTH);
    let deep = if stored >= depth { Some(cursor_at_depth(server, depth).await) } else { None };
    let (mut first_cpu, mut deep_cpu, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut first_blocks, mut deep_blocks) = (0.0, 0.0);
    for _ in 0..amount.of(PAIRS) {
        let first = cost(server, database, dsn, "/jam/packages".into()).await;
        first_cpu.push(first.cpu);
        first_blocks = first.blocks;
        if let Some(cursor) = &deep {
            let deep = cost(server, database, dsn, format!("/jam/packages?cursor={cursor}")).await;
            deep_cpu.push(deep.cpu);
            ratios.push(deep.cpu / first.cpu);
            deep_blocks = deep.blocks;
        }
    }
    table.line(&format!("list_first_cpu_at_{stored}"), median(&first_cpu), "µs/page", None);
    table.line(&format!("list_first_blocks_at_{stored}"), first_blocks, "per page", None);
    if deep.is_some() {
        table.line("list_deep_cpu", median(&deep_cpu), "µs/page", Against::pairs(&first_cpu, &ratios));
        table.line("list_deep_blocks", deep_blocks, "per page", Against::cost(deep_blocks, first_blocks));
    }
}

/// Server and database together.
async fn cost(server: &Program, database: &Database, dsn: &str, path: String) -> Cost {
    let (before, used, database_used) = (database.counters(dsn).await, server.cpu(), database.cpu());
    load(server.address(), 1, PAGES, 200, move |_| request("GET", &path, "")).await;
    let cpu = server.cpu_since(used) + database.cpu_since(&database_used);
    let blocks = database.counters(dsn).await.since(before, float(PAGES as u64)).blocks;
    Cost { cpu: cpu.as_secs_f64() * 1e6 / float(PAGES as u64), blocks }
}

async fn cursor_at_depth(server: &Program, depth: usize) -> String {
    let path = format!("/jam/packages?limit=1&offset={}", depth - 1);
    let body = Client::connect(server.address()).await.send(&request("GET", &path, ""), &[]).await.expect(200);
    let page: Value = serde_json::from_slice(&body).expect("the server answers JSON");
    page["next_cursor"].as_str().expect("more packages follow").to_owned()
}
