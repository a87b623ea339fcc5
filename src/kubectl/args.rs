//! The command line of `kubectl jam`, with kubectl's own flags where kubectl has them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::operator::{Colours, ImageArgs, Output, PlanArgs, RolloutArgs, RotationArgs};

/// What an SRE does with JAM instances on Kubernetes, one command each.
///
/// Results are printed on stdout, everything else on stderr. Exit codes: 0 done, 1 refused or ended badly, 2 usage, 3 not found,
/// 4 the cluster was not reached; `plan` has those of `kubectl diff`.
#[derive(Debug, Parser)]
#[command(name = "kubectl-jam", bin_name = "kubectl jam", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub(super) place: PlaceArgs,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Which cluster, and where in it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cluster")]
pub struct PlaceArgs {
    /// The namespace. Default: the one of the context
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// The context of the kubeconfig. Default: the current one
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// The kubeconfig. Default: $KUBECONFIG, ~/.kube/config, or the pod that this runs in
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows how instances are, and what to do next
    Status(StatusArgs),
    /// Says what is wrong, why, and what to do about it
    Explain(ExplainArgs),
    /// Shows what a manifest would change in the cluster, and whether pods would restart; changes nothing
    Plan(Box<DifferenceArgs>),
    /// Gives consumers new tokens; the old ones are accepted for the overlap
    Rotate(RotateArgs),
    /// Ends a leaked token at once, without overlap
    Revoke(RevokeArgs),
    /// Shows the migration that waits for approval, and approves it
    Migrate(MigrateArgs),
    /// Leaves everything of an instance as it is, until it is resumed
    Pause(SwitchArgs),
    /// Ends a pause
    Resume(SwitchArgs),
    /// Serves /jam/* again
    Enable(SwitchArgs),
    /// Answers 404 on /jam/*; health and system paths go on, data is kept
    Disable(SwitchArgs),
    /// Archives and deletes what is old now, without waiting for the schedule
    Cleanup(CleanupArgs),
    /// Collects what somebody needs who is to help, without any token, password or DSN
    SupportBundle(BundleArgs),
    /// Prints this reference as Markdown
    #[command(hide = true)]
    Reference,
}

/// The forms of `status` for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Indented JSON
    Json,
    /// YAML
    Yaml,
    /// Names only, one a line
    Name,
}

/// `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The instance. Default: a table of all in the namespace
    pub name: Option<String>,
    /// The instances of all namespaces
    #[arg(short = 'A', long, conflicts_with = "name")]
    pub all_namespaces: bool,
    /// A form for programs
    #[arg(short, long, value_enum)]
    pub output: Option<Form>,
}

/// `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// An instance, the reason of a condition such as RolledBack, or an alert such as JamRolledBack. Default: every instance of the namespace with something wrong
    pub what: Option<String>,
    /// Lists every reason with what it means
    #[arg(long, conflicts_with = "what")]
    pub reasons: bool,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct DifferenceArgs {
    /// The manifest; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// The namespace of the operator there, whose pods a NetworkPolicy lets in
    #[arg(long)]
    pub operator_namespace: Option<String>,
    /// How differences are printed
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// When differences have colours
    #[arg(long, value_enum, default_value_t = Colours::Auto)]
    pub color: Colours,
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    rollout: RolloutArgs,
    #[command(flatten)]
    rotation: RotationArgs,
}

impl DifferenceArgs {
    /// The same as `jam-operator plan --diff` takes it.
    pub fn into_plan(self) -> PlanArgs {
        let Self { file, operator_namespace, output, color, image, rollout, rotation } = self;
        PlanArgs { file, namespace: None, diff: true, operator_namespace, output, color, image, rollout, rotation }
    }
}

/// Whether to wait until it is so.
#[derive(Debug, Clone, Copy, Args)]
pub struct WaitArgs {
    /// Wait until it is so
    #[arg(short, long)]
    pub wait: bool,
    /// How long at most
    #[arg(long, value_name = "5m", default_value = "5m", value_parser = duration)]
    pub timeout: Duration,
}

/// `rotate`.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// The instance
    pub name: String,
    /// Only these consumers. Default: all
    #[arg(short, long, value_delimiter = ',')]
    pub consumer: Vec<String>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// The instance
    pub name: String,
    /// A consumer, all of whose tokens end, or the id of one token (8 hex digits: `token_hash` in logs), or `-` to read the leaked token from standard input
    #[arg(value_name = "CONSUMER|KEY_ID|-")]
    pub what: String,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The instance
    pub name: String,
    /// Only show what would be applied
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `pause`, `resume`, `enable`, `disable`.
#[derive(Debug, Args)]
pub struct SwitchArgs {
    /// The instance
    pub name: String,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `cleanup`.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// The instance
    pub name: String,
    /// Only count what would be archived and deleted
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `support-bundle`.
#[derive(Debug, Args)]
pub struct BundleArgs {
    /// The instance
    pub name: String,
    /// The archive. Default: jam-NAMESPACE-NAME.tar.gz
    #[arg(short, long, value_name = "FILE.tar.gz")]
    pub output: Option<PathBuf>,
    /// Lines of each log
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub tail: i64,
}

/// `5m`, `90s`, `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 90s or 5m");
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(parsed).ok().filter(|duration| !duration.is_zero()).ok_or_else(wrong)
}
