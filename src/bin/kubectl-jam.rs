//! kubectl-jam: found on PATH by kubectl, it is `kubectl jam`.

use std::process::ExitCode;

use clap::Parser as _;
use jam::kubectl::{Cli, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    run(Cli::parse()).await
}
