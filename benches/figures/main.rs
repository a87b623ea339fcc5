//! `make bench` and `make soak`: the shipped `jam-api` against its limits, as lines `name value unit limit ratio`.

mod amount;
mod audit;
mod blobs;
mod chain;
mod cleanup;
mod database;
mod drain;
mod floor;
mod http;
mod idle;
mod lists;
mod program;
mod soak;
mod status;
mod stored;
mod submit;
mod table;

// The same private PostgreSQL as the tests have; not every function of theirs is needed here.
#[allow(dead_code, clippy::unwrap_used)]
#[path = "../../tests/it/support/postgres.rs"]
mod postgres;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::amount::Amount;
use crate::database::Database;
use crate::soak::Soak;
use crate::table::Table;

/// The groups of figures, in the order in which they are taken.
const GROUPS: [&str; 8] = ["status", "blobs", "submit", "idle", "drain", "chain", "stored", "cleanup"];

/// What is asked for on the command line.
struct Wish {
    api: PathBuf,
    amount: Amount,
    groups: Vec<String>,
    /// Instead of the groups: mixed load.
    soak: Option<Soak>,
}

impl Wish {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let api = PathBuf::from("target/release/jam-api");
        let mut wish = Self { api, amount: Amount::Usual, groups: Vec::new(), soak: None };
        let mut arguments = arguments.skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--full" => wish.amount = Amount::Full,
                "--brief" => wish.amount = Amount::Brief,
                "--soak" => {
                    let minutes = arguments.next().as_deref().and_then(soak::lasting);
                    let lasting = minutes.ok_or_else(|| format!("--soak needs minutes, 1 to {}", soak::LONGEST))?;
                    let slctl = arguments.next().ok_or("--soak needs minutes and the path of slctl")?.into();
                    wish.soak = Some(Soak { lasting, slctl, files: false });
                }
                "--files" => wish.soak.as_mut().ok_or("--files comes after --soak")?.files = true,
                "--api" => wish.api = arguments.next().ok_or("--api needs a path")?.into(),
                group if GROUPS.contains(&group) => wish.groups.push(group.to_owned()),
                other => {
                    return Err(format!(
                        "{other}: known are --full, --brief, --api PATH, --soak MINUTES SLCTL [--files] and the groups {}",
                        GROUPS.join(", ")
                    ));
                }
            }
        }
        if !wish.api.exists() {
            return Err(format!("{} is not there: run it by `make bench`", wish.api.display()));
        }
        Ok(wish)
    }

    fn wants(&self, group: &str) -> bool {
        self.groups.is_empty() || self.groups.iter().any(|wanted| wanted == group)
    }
}

// One thread makes the load, as one thread of wrk would: on two cores a second one would only take from the server.
#[tokio::main(flavor = "current_thread")]
#[allow(clippy::print_stderr)] // a refusal is not a figure
async fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("floor") {
        return floor::serve();
    }
    match Wish::parse(std::env::args()) {
        Ok(wish) => measure(&wish).await,
        Err(line) => {
            eprintln!("figures: {line}");
            ExitCode::from(2)
        }
    }
}

async fn measure(wish: &Wish) -> ExitCode {
    let mut table = Table::begin();
    if let Some(soak) = &wish.soak {
        soak::measure(&wish.api, soak, &Database::start().await, &mut table).await;
        return table.end();
    }
    if wish.wants("status") {
        status::measure(&wish.api, wish.amount, &mut table).await;
    }
    let database = Database::start().await;
    if wish.wants("blobs") {
        blobs::measure(&wish.api, &database, wish.amount, &mut table).await;
    }
    if wish.wants("submit") {
        submit::measure(&wish.api, &database, wish.amount, &mut table).await;
    }
    if wish.wants("idle") {
        idle::measure(&wish.api, &database, wish.amount, &mut table).await;
    }
    if wish.wants("drain") {
        drain::measure(&wish.api, &database, wish.amount, &mut table).await;
    }
    if wish.wants("chain") {
        chain::measure(&wish.api, &database, wish.amount, &mut table).await;
    }
    if wish.wants("stored") {
        stored::measure(&wish.api, &database, wish.amount, &mut table).await;
    }
    if wish.wants("cleanup") {
        cleanup::measure(&wish.api, &database, wish.amount, &mut table).await;
    }
    table.end()
}
