//! What a blob costs on its way in and out, against hashing and against a raw INSERT of the same bytes.

use std::path::Path;
use std::time::Instant;

use sha2::{Digest as _, Sha256};
use sqlx::{Executor as _, PgConnection, query};

use crate::amount::Amount;
use crate::audit::audit;
use crate::database::Database;
use crate::http::{Client, head};
use crate::postgres::connect;
use crate::program::Program;
use crate::table::{Against, Table, float, median};

/// A large blob.
pub const LARGE: usize = 10 << 20;
/// A blob that is one row.
const SMALL: usize = 1 << 20;
/// A blob as most are.
const TINY: usize = 16 << 10;
const PAIRS: usize = 5;
/// Transfers in a row.
const ROW: u64 = 5;

/// Blobs that no compression makes smaller, each another.
struct Blobs {
    noise: Vec<u8>,
    made: u64,
    amount: Amount,
}

impl Blobs {
    fn new(amount: Amount) -> Self {
        // xorshift64: any noise will do, as long as it is the same in every run.
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let words = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        Self { noise: words.take(LARGE / 8).flatten().collect(), made: 0, amount }
    }

    fn next(&mut self, size: usize) -> Vec<u8> {
        self.made += 1;
        let mut bytes = self.noise[..size].to_vec();
        bytes[..8].copy_from_slice(&self.made.to_le_bytes());
        bytes
    }
}

fn path_of(bytes: &[u8]) -> String {
    format!("/jam/preimages/{}", hex::encode(Sha256::digest(bytes)))
}

/// Takes the figures.
pub async fn measure(api: &Path, database: &Database, amount: Amount, table: &mut Table) {
    let mut blobs = Blobs::new(amount);
    in_memory(api, &mut blobs, table).await;
    let dsn = database.fresh().await;
    let server = Program::api(api, Some(&Database::counted(&dsn)));
    again_and_back(&server, &mut blobs, table).await;
    for (name, size, count) in
        [("put_10mib_postgres", LARGE, 2), ("put_1mib_postgres", SMALL, 8), ("put_16kib_postgres", TINY, 40)]
    {
        against_insert(name, (&server, database, &dsn), (size, count), &mut blobs, table).await;
    }
    server.stop();
    let fresh = Program::api(api, Some(&Database::counted(&dsn)));
    memory_in_flight(&fresh, &mut blobs, table).await;
    fresh.stop();
    table.must_be_none("put_wrong", audit(&dsn).await.wrong(), "refcounts");
}

/// Milliseconds of the server's CPU for one transfer.
async fn cost(server: &Program, head: &[u8], body: &[u8], status: u16) -> f64 {
    let mut client = Client::connect(server.address()).await;
    let before = server.cpu();
    client.send(head, body).await.expect(status);
    server.cpu_since(before).as_secs_f64() * 1e3
}

/// The same for one transfer of several in a row: a single one pays for cold caches and the connection as well.
async fn steady(server: &Program, head: &[u8], body: &[u8]) -> f64 {
    let mut client = Client::connect(server.address()).await;
    client.send(head, body).await.expect(200);
    let before = server.cpu();
    for _ in 0..ROW {
        client.send(head, body).await.expect(200);
    }
    server.cpu_since(before).as_secs_f64() * 1e3 / float(ROW)
}

async fn in_memory(api: &Path, blobs: &mut Blobs, table: &mut Table) {
    let (api, floor) = (Program::api(api, None), Program::floor());
    let (mut ours, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..blobs.amount.of(PAIRS * 2) {
        let blob = blobs.next(LARGE);
        let put = cost(&api, &head("PUT", &path_of(&blob), LARGE), &blob, 201).await;
        let keep = cost(&floor, &head("PUT", "/keep", LARGE), &blob, 200).await;
        ours.push(put);
        bare.push(keep);
        ratios.push(keep / put);
    }
    table.line("put_10mib_memory_cpu", median(&ours), "ms/put", Against::pairs(&bare, &ratios));
}

/// The same blob again, and back: on Postgres, where it is not in memory.
async fn again_and_back(server: &Program, blobs: &mut Blobs, table: &mut Table) {
    let floor = Program::floor();
    let blob = blobs.next(LARGE);
    let (put, get) = (head("PUT", &path_of(&blob), LARGE), head("GET", &path_of(&blob), 0));
    cost(server, &put, &blob, 201).await;
    let (mut again, mut hash, mut again_ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut back, mut sent, mut back_ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..blobs.amount.of(PAIRS * 2) {
        let twice = steady(server, &put, &blob).await;
        let hashed = steady(&floor, &head("PUT", "/hash", LARGE), &blob).await;
        let read = steady(server, &get, &[]).await;
        let bare = steady(&floor, &head("GET", "/blob", 0), &[]).await;
        again.push(twice);
        hash.push(hashed);
        again_ratios.push(hashed / twice);
        back.push(read);
        sent.push(bare);
        back_ratios.push(bare / read);
    }
    table.line("put_10mib_again_cpu", median(&again), "ms/put", Against::pairs(&hash, &again_ratios));
    table.line("get_10mib_postgres_cpu", median(&back), "ms/get", Against::pairs(&sent, &back_ratios));
}

/// A PUT against one durable INSERT of the same bytes into one row: time, and the write-ahead log that both leave.
async fn against_insert(
    name: &str,
    (server, database, dsn): (&Program, &Database, &str),
    (size, count): (usize, usize),
    blobs: &mut Blobs,
    table: &mut Table,
) {
    let mut raw = connect(dsn).await;
    let sql = "create table if not exists raw (n bigserial primary key, bytes bytea compression lz4)";
    raw.execute(sql).await.expect("a new table");
    let mut client = Client::connect(server.address()).await;
    let (mut ours, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ours_log, mut bare_log) = (0.0, 0.0);
    let before = database.counters(dsn).await;
    for _ in 0..blobs.amount.of(PAIRS) {
        let some: Vec<Vec<u8>> = (0..count).map(|_| blobs.next(size)).collect();
        let heads: Vec<Vec<u8>> = some.iter().map(|blob| head("PUT", &path_of(blob), size)).collect();
        let from = database.log_position().await;
        let started = Instant::now();
        for (head, blob) in heads.iter().zip(&some) {
            client.send(head, blob).await.expect(201);
        }
        let put = started.elapsed().as_secs_f64();
        let middle = database.log_position().await;
        let insert = insert(&mut raw, &some).await;
        ours_log += middle - from;
        bare_log += database.log_position().await - middle;
        ours.push(put * 1e3 / float(count as u64));
        bare.push(insert * 1e3 / float(count as u64));
        ratios.push(insert / put);
    }
    raw.execute("truncate raw").await.expect("our table");
    let puts = float((blobs.amount.of(PAIRS) * count) as u64);
    let statements = database.counters(dsn).await.since(before, puts).statements;
    table.line(&format!("{name}_statements"), statements, "per put", None);
    table.line(&format!("{name}_time"), median(&ours), "ms/put", Against::pairs(&bare, &ratios));
    let bytes = puts * float(size as u64);
    let against = Against { limit: bare_log / bytes, ratio: ours_log / bare_log };
    table.line(&format!("{name}_wal"), ours_log / bytes, "byte/byte", against);
}

async fn insert(raw: &mut PgConnection, blobs: &[Vec<u8>]) -> f64 {
    let started = Instant::now();
    for blob in blobs {
        query("insert into raw (bytes) values ($1)").bind(blob).execute(&mut *raw).await.expect("our table");
    }
    started.elapsed().as_secs_f64()
}

/// Peak memory of a server that has done nothing but take four large blobs at once.
async fn memory_in_flight(server: &Program, blobs: &mut Blobs, table: &mut Table) {
    let four: Vec<Vec<u8>> = (0..4).map(|_| blobs.next(LARGE)).collect();
    let address = server.address();
    futures::future::join_all(four.iter().map(|blob| async move {
        let mut client = Client::connect(address).await;
        client.send(&head("PUT", &path_of(blob), LARGE), blob).await.expect(201);
    }))
    .await;
    let peak = float(server.peak_memory()) / 1e6;
    let limit = 20.0 + 1.2 * float(4 * LARGE as u64) / 1e6;
    table.line("put_4x10mib_peak_rss", peak, "MB", Against::cost(peak, limit));
}
