//! jam-operator: watches JamInstances and brings the cluster to what they say.

mod accepted;
mod apply;
mod args;
mod backoff;
mod check;
mod children;
mod cleanup;
mod client;
mod context;
pub mod creation;
pub mod difference;
mod drift;
mod error;
mod evidence;
#[cfg(test)]
mod fake;
mod farewell;
mod forecast;
mod health;
mod instruments;
mod key;
mod last_words;
mod lease;
mod malformed;
mod memory;
mod metrics;
mod migrations;
mod observe;
pub mod offline;
mod overrides;
mod pods;
mod preview;
mod publish;
mod queue;
pub mod rbac;
mod reconcile;
mod resource;
mod run;
mod served;
mod setbacks;
mod stranger;
mod token_pods;
mod tokens;
mod turn;
mod watch;
mod watches;
mod words;

use std::io::Write as _;

pub use args::{
    CheckArgs, Colours, Command, ImageArgs, Namespaces, OperatorArgs, Output, PlanArgs, RbacArgs, RolloutArgs,
    RotationArgs, RunArgs,
};
pub use preview::plan_in;
pub use run::{Failure, Program};
pub use watch::chain;

use crate::{shutdown, telemetry};

/// What to tell a person, and the program that called.
#[derive(Debug)]
pub struct Trouble {
    /// One sentence.
    pub sentence: String,
    /// The exit code.
    pub code: u8,
}

impl From<String> for Trouble {
    fn from(sentence: String) -> Self {
        Self { sentence, code: 1 }
    }
}

/// Does what the command line says. Returns the exit code, or what to tell when it cannot.
pub async fn main(args: OperatorArgs) -> Result<u8, Trouble> {
    match args.command {
        Command::Run(args) => {
            telemetry::start(&args.telemetry)?;
            let stop = shutdown::on_signal().map_err(|error| format!("signals cannot be heard: {error}"))?;
            let program = Program::prepare(&args).await.map_err(|failure| failure.told())?;
            program.run(stop).await.map_err(|failure| failure.told())?;
        }
        Command::Crd => print(&jam_plan::crd::crd_yaml())?,
        Command::Rbac(args) => print(&args.rules.map_or_else(rbac::manifest, rbac::rules))?,
        Command::Alerts => print(&jam_plan::alerts::operator_yaml())?,
        Command::Dashboard => print(&jam_plan::dashboards::of_operator())?,
        Command::Plan(args) => return Box::pin(preview::plan(&args)).await,
        Command::Check(args) => check::ask(&args.url).await?,
    }
    Ok(0)
}

fn print(text: &str) -> Result<(), String> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| format!("standard output: {error}"))
}
