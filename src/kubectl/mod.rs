//! kubectl-jam: what an SRE does with instances, each step in the words of the resource, so that kubectl alone could do it too.

mod args;
mod bundle;
mod change;
mod cleanup;
mod cluster;
mod explain;
mod fault;
mod migrate;
mod runbook;
mod status;
mod tokens;
mod wait;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::operator;

pub use args::Cli;
use args::{Command, DifferenceArgs, PlaceArgs};
use change::Switch;
use fault::Fault;

/// The exit code of `plan` when it cannot be told, as `kubectl diff` has it.
const UNKNOWN: u8 = 2;

/// Runs one command: the result on stdout, everything else on stderr.
pub async fn run(cli: Cli) -> ExitCode {
    let Cli { place, command } = cli;
    let fault = match command {
        Command::Plan(args) => return plan(&place, *args).await,
        command => answer(&place, command).await.and_then(|text| print(&text)).err(),
    };
    match fault {
        // `kubectl jam status | head -1`: the reader has what it wanted.
        Some(Fault::Output(cause)) if cause.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Some(fault) => {
            // Nothing is left to tell when standard error itself is closed.
            let _ = writeln!(io::stderr(), "{}", fault.line());
            ExitCode::from(fault.exit())
        }
        None => ExitCode::SUCCESS,
    }
}

async fn answer(place: &PlaceArgs, command: Command) -> Result<String, Fault> {
    // What needs no cluster.
    match &command {
        Command::Reference => {
            return Ok(crate::reference::markdown(Cli::command(), "kubectl jam", "kubectl-jam reference"));
        }
        Command::Explain(args) => {
            if let Some(text) = explain::word(args)? {
                return Ok(text);
            }
        }
        _ => {}
    }
    let cluster = &place.cluster().await?;
    match command {
        Command::Status(args) => status::show(cluster, &args).await,
        Command::Explain(args) => explain::instances(cluster, &args).await,
        Command::Rotate(args) => tokens::rotate(cluster, &args).await,
        Command::Revoke(args) => tokens::revoke(cluster, &args).await,
        Command::Migrate(args) => migrate::approve(cluster, &args).await,
        Command::Pause(args) => change::switch(cluster, &args, Switch::Pause).await,
        Command::Resume(args) => change::switch(cluster, &args, Switch::Resume).await,
        Command::Enable(args) => change::switch(cluster, &args, Switch::Enable).await,
        Command::Disable(args) => change::switch(cluster, &args, Switch::Disable).await,
        Command::Cleanup(args) => cleanup::start(cluster, &args).await,
        Command::SupportBundle(args) => bundle::collect(cluster, &args).await,
        Command::Plan(_) | Command::Reference => Ok(String::new()),
    }
}

/// The same as `jam-operator plan --diff`, in the cluster and namespace of kubectl's flags.
async fn plan(place: &PlaceArgs, args: DifferenceArgs) -> ExitCode {
    let args = args.into_plan();
    let outcome = match place.config().await {
        Ok(config) => {
            let namespace = config.default_namespace.clone();
            Box::pin(operator::plan_in(&args, async || Ok(config), Some(&namespace))).await
        }
        Err(fault) => Err(operator::Trouble { sentence: fault.line(), code: UNKNOWN }),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(operator::Trouble { sentence, code }) => {
            let _ = writeln!(io::stderr(), "{sentence}");
            ExitCode::from(code)
        }
    }
}

fn print(text: &str) -> Result<(), Fault> {
    io::stdout().lock().write_all(text.as_bytes()).map_err(Fault::Output)
}

/// What people are told beside the result.
fn note(text: &str) {
    // Nothing is left to tell when standard error itself is closed.
    let _ = writeln!(io::stderr(), "{text}");
}
