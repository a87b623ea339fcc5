//! The program `jam-api`: its commands, and what it exits with.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use super::settings::{self, Loaded, Purpose, SettingsArgs, strays};
use super::{build, cleanup, openapi, serve, store, work};
use crate::shutdown;
use crate::telemetry::{self, TelemetryArgs};

/// The JAM API server. Exits with 0 when done, 1 when it failed, 2 when it refuses its flags or settings, 3 when a
/// migration can never succeed, 124 when a migration's or a cleanup's time was up.
#[derive(Parser)]
#[command(name = "jam-api", version = build::VERSION)]
pub struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API.
    Serve(ServeArgs),
    /// Process pending packages continuously.
    Work(WorkArgs),
    /// Bring the database to the schema that this build needs; safe to run twice and in parallel.
    Migrate(MigrateArgs),
    /// Print the OpenAPI document of this build.
    Openapi,
    /// Archive and delete what is past its retention, once; on the memory store `serve` does it by itself.
    Cleanup(CleanupArgs),
    /// Print the settings in force, where each came from, and every mistake at once.
    CheckConfig(CheckArgs),
}

#[derive(Args)]
struct ServeArgs {
    /// Pause between cleanups of the memory store, e.g. 30m or 1h; 0 = never.
    #[arg(long, env = "JAM_CLEANUP_INTERVAL", default_value = "1h", value_parser = duration)]
    cleanup_interval: Duration,
    /// How long after the last good cleanup the next one is overdue for /jam/healthz: more than the pause between two;
    /// 0 = never.
    #[arg(long, env = "JAM_CLEANUP_STALE_AFTER", default_value = "50h", value_parser = duration)]
    cleanup_stale_after: Duration,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

#[derive(Args)]
struct WorkArgs {
    /// Pause after the queue was found empty, e.g. 1, 500ms or 2s.
    #[arg(long, env = "JAM_WORK_INTERVAL", default_value = "1s", value_parser = duration)]
    interval: Duration,
    /// Packages that are taken at once.
    #[arg(long, env = "JAM_WORK_BATCH", default_value_t = super::process::MOST, value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch: u32,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

#[derive(Args)]
struct MigrateArgs {
    /// Only say which version is there and which is needed; exit 1 when they differ.
    #[arg(long, conflicts_with = "dry_run")]
    status: bool,
    /// Only say what would be applied.
    #[arg(long)]
    dry_run: bool,
    /// Also write what is said here: in a pod, the file of its termination message.
    #[arg(long, env = "JAM_MIGRATE_RESULT_FILE", value_name = "FILE", conflicts_with = "status")]
    result_file: Option<PathBuf>,
    /// Give up after this time, e.g. 30s or 9m, say what it was at and exit with 124; 0 = never.
    #[arg(long, env = "JAM_MIGRATE_TIMEOUT", default_value = "0", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

#[derive(Args)]
struct CleanupArgs {
    /// Only count what would be archived and deleted.
    #[arg(long)]
    dry_run: bool,
    /// Also write what was done here, as JSON: in a pod, the file of its termination message.
    #[arg(long, env = "JAM_CLEANUP_RESULT_FILE", value_name = "FILE")]
    result_file: Option<PathBuf>,
    /// Stop after this time, e.g. 30m or 6h, and exit with 124; what is done stays done. 0 = never.
    #[arg(long, env = "JAM_CLEANUP_TIMEOUT", default_value = "0", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

#[derive(Args)]
struct CheckArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// The exit code of what took too long, as of the command `timeout`.
const BY_TIMEOUT: u8 = 124;
/// The exit code of what SIGTERM ends: 1 would say that the database does not answer.
const BY_SIGTERM: u8 = 128 + 15;

/// Why the program ends otherwise than well, and what it exits with.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    /// It failed; the sentence says at what.
    Failed(String),
    /// It refuses its settings: one line for each mistake.
    Refused(Vec<String>),
    /// A migration that can't succeed by being tried again.
    Never(String),
    /// It was told to stop before it was done.
    Stopped(String),
    /// It was not done in the time that it was given.
    Late(String),
}

impl Ending {
    fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Refused(_) => 2,
            Self::Never(_) => 3,
            Self::Stopped(_) => BY_SIGTERM,
            Self::Late(_) => BY_TIMEOUT,
        }
    }

    fn lines(&self) -> Vec<&str> {
        match self {
            Self::Failed(line) | Self::Never(line) | Self::Stopped(line) | Self::Late(line) => vec![line],
            Self::Refused(lines) => lines.iter().map(String::as_str).collect(),
        }
    }
}

/// Runs the program on this process's arguments.
pub fn main() -> ExitCode {
    match run(Program::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(ending) => {
            complain(&ending);
            ExitCode::from(ending.code())
        }
    }
}

#[allow(clippy::print_stderr)] // a refusal to start is for whoever started it, logs or not
fn complain(ending: &Ending) {
    for line in ending.lines() {
        eprintln!("jam-api: {line}");
    }
}

fn run(program: Program) -> Result<(), Ending> {
    match program.command {
        Command::Serve(ServeArgs { cleanup_interval, cleanup_stale_after, settings, telemetry }) => {
            start_logs(&telemetry)?;
            let loaded = load(&settings, Purpose::Serve)?;
            let pauses = serve::Pauses { cleanup: some(cleanup_interval), stale: some(cleanup_stale_after) };
            runtime()?.block_on(serve::serve(loaded, pauses))
        }
        Command::Work(WorkArgs { interval, batch, settings, telemetry }) => {
            start_logs(&telemetry)?;
            let loaded = load(&settings, Purpose::Work)?;
            runtime()?.block_on(work::work(loaded, interval, batch))
        }
        Command::Migrate(arguments) => migrate(arguments),
        Command::Openapi => {
            print!("{}", openapi::text());
            Ok(())
        }
        Command::Cleanup(CleanupArgs { dry_run, result_file, timeout, settings, telemetry }) => {
            start_logs(&telemetry)?;
            let loaded = load(&settings, Purpose::Work)?;
            let order = cleanup::Order { dry_run, result_file: result_file.as_deref(), limit: some(timeout) };
            runtime()?.block_on(cleanup::cleanup(loaded, order))
        }
        Command::CheckConfig(CheckArgs { settings }) => {
            print!("{}", settings::show(&load(&settings, Purpose::Serve)?));
            Ok(())
        }
    }
}

/// Migrates, looking out for the stop signal: the first process of a container is not ended by one that it does not listen to.
fn migrate(arguments: MigrateArgs) -> Result<(), Ending> {
    let MigrateArgs { status, dry_run, result_file, timeout, settings, telemetry } = arguments;
    start_logs(&telemetry)?;
    let loaded = load(&settings, Purpose::Work)?;
    let migration = store::Migration::of(status, dry_run);
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let stop = shutdown::on_signal().map_err(|e| Ending::Failed(format!("no signals: {e}")))?;
        let bounds = store::Bounds { limit: some(timeout), stop };
        store::migrate(&loaded, migration, result_file.as_deref(), &bounds).await
    });
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    ended
}

/// A pause or a limit of 0 is none.
fn some(time: Duration) -> Option<Duration> {
    Some(time).filter(|time| !time.is_zero())
}

fn load(args: &SettingsArgs, purpose: Purpose) -> Result<Loaded, Ending> {
    let mistakes = strays(variables(), &known_variables());
    match settings::load(args, purpose) {
        Ok(loaded) if mistakes.is_empty() => Ok(loaded),
        loaded => {
            let wrong = mistakes.into_iter().chain(loaded.err().into_iter().flatten());
            Err(Ending::Refused(wrong.map(|mistake| mistake.to_string()).collect()))
        }
    }
}

/// The environment, as far as its names are text: another is no setting of ours.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
}

/// The variables that any command of this program reads.
fn known_variables() -> BTreeSet<String> {
    let program = Program::command();
    let arguments = program.get_subcommands().flat_map(clap::Command::get_arguments);
    arguments.filter_map(|argument| argument.get_env()?.to_str().map(str::to_owned)).collect()
}

fn start_logs(args: &TelemetryArgs) -> Result<(), Ending> {
    telemetry::start(args).map_err(|line| Ending::Refused(vec![line]))
}

fn runtime() -> Result<tokio::runtime::Runtime, Ending> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|e| Ending::Failed(format!("no runtime: {e}")))
}

/// A duration such as `2s`, `500ms` or plain seconds.
fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let wrong = |_| format!("{text:?} is not a duration such as 1, 500ms or 2s");
    text.parse::<jiff::SignedDuration>().map_err(wrong)?.try_into().map_err(|_| format!("{text:?} is negative"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Program::command().debug_assert();
    }

    #[test]
    fn a_duration_is_plain_seconds_or_carries_its_unit() {
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("soon").is_err() && duration("-1s").is_err());
    }
}
