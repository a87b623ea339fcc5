//! What a request costs before it does anything: `/jam/status` with token, limiter and metrics against bare axum.

use std::path::Path;

use crate::amount::Amount;
use crate::http::{load, request};
use crate::program::Program;
use crate::table::{Against, Table, float, median};

const PAIRS: usize = 7;
const REQUESTS: usize = 6000;
const CLIENTS: usize = 16;

/// Takes the figure.
pub async fn measure(api: &Path, amount: Amount, table: &mut Table) {
    let (api, floor) = (Program::api(api, None), Program::floor());
    let (mut ours, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let requests = amount.of(REQUESTS);
    cost(&api, "/jam/status", requests).await;
    cost(&floor, "/status", requests).await;
    for _ in 0..amount.of(PAIRS) {
        let (ours_now, bare_now) = (cost(&api, "/jam/status", requests).await, cost(&floor, "/status", requests).await);
        ours.push(ours_now);
        bare.push(bare_now);
        ratios.push(ours_now / bare_now);
    }
    table.line("status_cpu", median(&ours), "µs/request", Against::pairs(&bare, &ratios));
    let idle = float(api.peak_memory()) / 1e6;
    table.line("status_peak_rss", idle, "MB", None);
}

/// Microseconds of the server's CPU for each request.
async fn cost(server: &Program, path: &'static str, requests: usize) -> f64 {
    let before = server.cpu();
    load(server.address(), CLIENTS, requests, 200, move |_| request("GET", path, "")).await;
    server.cpu_since(before).as_secs_f64() * 1e6 / float(requests as u64)
}
