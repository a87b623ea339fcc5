//! slctl: the command-line client of the JAM API.

use std::process::ExitCode;

use clap::Parser as _;
use jam::cli::{Cli, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    run(Cli::parse()).await
}
