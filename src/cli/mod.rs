//! slctl: the command line's words, the calls they make and what is printed of the answers.

mod admin;
mod answer;
mod args;
mod client;
mod connection;
mod destination;
mod doctor;
mod fault;
mod lists;
mod named;
mod outage;
mod package;
mod preimage;
mod process;
mod progress;
mod receipt;
mod records;
mod report;
mod standing;
mod status;
mod verify;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::{Generator, Shell};

pub use args::Cli;
use args::{Command, JamCommand, ShellName};

use answer::Answer;
use client::Client;
use connection::ConnectionArgs;
use fault::Fault;

/// Runs one command: asks the server, prints the result on stdout and everything else on stderr.
pub async fn run(cli: Cli) -> ExitCode {
    let Cli { connection, output: format, command } = cli;
    let Some(command) = command else {
        // Nothing is left to tell when stderr itself is closed.
        let _ = write!(io::stderr(), "{}", Cli::command().render_help());
        return ExitCode::from(2);
    };
    let outcome = match answer(&connection, command).await {
        Ok(answer) => answer.print(format, &mut io::stdout().lock(), &mut io::stderr().lock()),
        Err(fault) => Err(fault),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // `slctl jam packages | head -1`: the reader has what it wanted.
        Err(Fault::Output(cause)) if cause.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(fault) => {
            // Nothing is left to tell when stderr itself is closed.
            let _ = writeln!(io::stderr(), "{}", fault.line());
            ExitCode::from(fault.exit())
        }
    }
}

async fn answer(connection: &ConnectionArgs, command: Command) -> Result<Answer, Fault> {
    match command {
        Command::Completion { shell } => Ok(completion(shell)),
        Command::Reference => Ok(Answer::text(crate::reference::markdown(Cli::command(), "slctl", "slctl reference"))),
        Command::Status => status::system(&connection.client()?).await,
        Command::Doctor(args) => doctor::examine(connection, args).await,
        Command::Jam { command } => jam(&connection.client()?, *command).await,
    }
}

async fn jam(client: &Client, command: JamCommand) -> Result<Answer, Fault> {
    // What administrators ask for is there while JAM is off, too.
    let of_jam = !matches!(command, JamCommand::Admin(_));
    match dispatch(client, command).await {
        Err(fault) if of_jam => Err(status::explain_missing(client, fault).await),
        outcome => outcome,
    }
}

async fn dispatch(client: &Client, command: JamCommand) -> Result<Answer, Fault> {
    match command {
        JamCommand::Status(args) => status::jam(client, args).await,
        JamCommand::Preimage(args) => preimage::run(client, args).await,
        JamCommand::Package(args) => package::submit(client, args).await,
        JamCommand::Packages(args) => package::list(client, args).await,
        JamCommand::Report(args) => report::show(client, args).await,
        JamCommand::Reports(args) => report::list(client, args).await,
        JamCommand::Process(args) => process::run(client, args).await,
        JamCommand::Receipt(args) => receipt::show(client, args).await,
        JamCommand::Receipts(args) => receipt::list(client, args).await,
        JamCommand::Verify(args) => verify::run(client, args).await,
        JamCommand::Admin(args) => admin::run(client, args).await,
    }
}

fn completion(shell: ShellName) -> Answer {
    let shell = match shell {
        ShellName::Bash => Shell::Bash,
        ShellName::Zsh => Shell::Zsh,
        ShellName::Fish => Shell::Fish,
    };
    let mut command = Cli::command();
    command.set_bin_name("slctl");
    command.build();
    let mut script = Vec::new();
    shell.generate(&command, &mut script);
    Answer::text(String::from_utf8_lossy(&script).into_owned())
}
