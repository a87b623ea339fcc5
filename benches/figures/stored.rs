//! Whether anything gets slower as packages are kept: submitting and listing at 0, 100,000 and, with `--full`, 1,000,000.

use std::path::Path;

use crate::audit::audit;
use crate::database::Database;
use crate::lists;
use crate::postgres::execute;
use crate::program::Program;
use crate::submit::{CLIENTS, preimages, submit};
use crate::table::{Against, Table, float};

const COUNT: usize = 2000;

/// Fills in applied packages with report, attestation and both receipts. Links come in the order in which a chain grows:
/// filled in kind by kind, every page keeps a hole that a smaller row fits into, and each submission writes one more cold
/// page. Their roots are made up: the audit leaves services of this name out.
pub const FILL: &str = "
    create temporary table fill as
        select n, md5('package' || n)::uuid as package, md5('report' || n)::uuid as report, 'stored-' || n % 50 as service,
            now() - interval '1 day' + n * interval '10 milliseconds' as at, md5(n::text) || md5('x' || n) as hash
        from generate_series(1, ROWS) as n;
    insert into packages (id, service_id, status, created_at, created_by, fingerprint, receipt_seq, body)
        select package, service, 'applied', at, '0badcafe', decode(hash, 'hex'), 2 * n - 1,
            json_build_object('items', json_build_array(json_build_object('id', report, 'package_id', package,
                'kind', 'figure', 'params_hash', hash)), 'nonce', n::text) from fill order by n;
    insert into reports (id, package_id, service_id, status, created_at, receipt_seq, body)
        select report, package, service, 'applied', at, 2 * n,
            json_build_object('refine_output_hash', hash, 'refine_output_compact', hash) from fill order by n;
    insert into attestations (report_id, worker_id, weight, created_at, body)
        select report, 'local', 1, at, json_build_object('signature', hash, 'engine', 'hash-refiner') from fill order by n;
    insert into receipts
            (service_id, seq, entry_type, hash, prev_root, new_root, metadata_hash, status, processed_at, extra)
        select service, 2 * n - 1 + k, entry, case k when 0 then package::text else hash end, decode(hash, 'hex'),
            decode(hash, 'hex'), decode(hash, 'hex'), status, at,
            case k when 1 then json_build_object('package_id', package, 'report_id', report) end
        from fill cross join (values (0, 'package', 'pending'), (1, 'report', 'applied')) as e(k, entry, status)
        order by n, k;
    insert into accumulators (service_id, seq, root, updated_at)
        select service, 2 * ROWS, decode(min(hash), 'hex'), now() from fill group by service;
    drop table fill;
    analyze";

/// What a submission cost.
struct Cost {
    cpu: f64,
    blocks: f64,
}

/// Takes the figures.
pub async fn measure(api: &Path, database: &Database, full: bool, table: &mut Table) {
    let levels: &[u32] = if full { &[0, 100_000, 1_000_000] } else { &[0, 100_000] };
    let mut empty: Option<Cost> = None;
    for stored in levels {
        let dsn = database.fresh().await;
        if *stored > 0 {
            execute(&dsn, &FILL.replace("ROWS", &stored.to_string())).await;
            execute(&dsn, "vacuum").await;
            execute(&dsn, "checkpoint").await;
        }
        let server = Program::api(api, Some(&Database::counted(&dsn)));
        let cost = submissions(&server, database, &dsn).await;
        let against = |now: f64, first: fn(&Cost) -> f64| empty.as_ref().map(|empty| Against::cost(now, first(empty)));
        table.line(&format!("submit_cpu_at_{stored}"), cost.cpu, "µs/package", against(cost.cpu, |cost| cost.cpu));
        let blocks = against(cost.blocks, |cost| cost.blocks);
        table.line(&format!("submit_blocks_at_{stored}"), cost.blocks, "per package", blocks);
        lists::measure(&server, database, &dsn, *stored, table).await;
        server.stop();
        table.must_be_none(&format!("wrong_at_{stored}"), audit(&dsn).await.wrong(), "findings");
        empty.get_or_insert(cost);
    }
}

async fn submissions(server: &Program, database: &Database, dsn: &str) -> Cost {
    let hashes = preimages(server).await;
    submit(server, &hashes, CLIENTS, CLIENTS * 4, "ready").await;
    let (before, used, database_used) = (database.counters(dsn).await, server.cpu(), database.cpu());
    submit(server, &hashes, CLIENTS, COUNT, "stored").await;
    let cpu = server.cpu_since(used) + database.cpu_since(&database_used);
    let counters = database.counters(dsn).await.since(before, float(COUNT as u64));
    Cost { cpu: cpu.as_secs_f64() * 1e6 / float(COUNT as u64), blocks: counters.blocks }
}
