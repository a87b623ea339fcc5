//! The command line: every command and flag, as clap reads them.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use jam_domain::{PackageId, PreimageHash, ServiceId};

use crate::cli::admin::AdminArgs;
use crate::cli::connection::ConnectionArgs;

/// The client of the JAM API.
///
/// Results are printed on stdout, everything else on stderr.
/// Exit codes: 0 done, 1 the server refused, 2 usage, 3 not found, 4 unreachable.
#[derive(Debug, Parser)]
#[command(name = "slctl", version, override_usage = "slctl [OPTIONS] <COMMAND>")]
pub struct Cli {
    /// What to print instead of the command's own form
    #[arg(long, global = true, value_enum)]
    pub(super) output: Option<Format>,
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
    /// Without one, help is printed: clap would do that only when no variable is set either.
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

/// The forms a result can be printed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Indented JSON
    Json,
    /// Columns
    Table,
    /// Ids only, one a line
    Name,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Preimages, packages, reports and receipts
    Jam {
        #[command(subcommand)]
        command: Box<JamCommand>,
    },
    /// Health, version and the JAM block of the server
    Status,
    /// Reaches the server, authenticates, checks every prerequisite and says what to try next
    Doctor(DoctorArgs),
    /// Prints the completion script of a shell
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: ShellName,
    },
    /// Prints this reference as Markdown
    #[command(hide = true)]
    Reference,
}

/// The commands under `jam`.
#[derive(Debug, Subcommand)]
pub enum JamCommand {
    /// Shows whether JAM is enabled, its limits and the accumulator roots
    Status(StatusArgs),
    /// Uploads, inspects or downloads a preimage
    Preimage(PreimageArgs),
    /// Submits a work package
    Package(PackageArgs),
    /// Lists packages, newest first
    Packages(ListArgs),
    /// Shows the report of a package and its attestations
    Report(ReportArgs),
    /// Lists reports, newest first
    Reports(ListArgs),
    /// Processes pending packages, oldest first
    Process(ProcessArgs),
    /// Shows the latest receipt with a hash
    Receipt(ReceiptArgs),
    /// Lists receipts
    Receipts(ReceiptsArgs),
    /// Recomputes a service's whole receipt chain and says where it breaks, if it does
    Verify(VerifyArgs),
    /// Runs the server: limits, overrides, cleanup, disputes and delegates
    Admin(AdminArgs),
}

/// `completion`: for whom.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ShellName {
    /// GNU bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

/// `doctor`.
#[derive(Debug, Clone, Copy, Args)]
pub struct DoctorArgs {
    /// The same as --output json
    #[arg(long)]
    pub json: bool,
}

/// `jam status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Show only this service's root
    #[arg(long)]
    pub service: Option<ServiceId>,
}

/// `jam preimage`: exactly one of upload, stat, meta and get.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("action").required(true).args(["file", "stat", "meta", "get"]))]
pub struct PreimageArgs {
    /// Upload this file; it is hashed first, then streamed
    #[arg(long, value_name = "F")]
    pub file: Option<PathBuf>,
    /// The preimage; with --file: what the file must hash to
    #[arg(long, value_name = "H")]
    pub hash: Option<PreimageHash>,
    /// The media type to store the upload with [default: application/octet-stream]
    #[arg(long, value_name = "T", requires = "file")]
    pub content_type: Option<String>,
    /// Print hash, size and media type, from the headers alone
    #[arg(long, requires = "hash")]
    pub stat: bool,
    /// Print the whole record
    #[arg(long, requires = "hash")]
    pub meta: bool,
    /// Download the bytes and check them against the hash
    #[arg(long, requires = "hash", requires = "destination")]
    pub get: bool,
    /// Where --get writes to; - is stdout
    #[arg(short = 'o', value_name = "FILE", requires = "get")]
    pub destination: Option<PathBuf>,
}

/// `jam package`: one item from flags, or a whole package from a file.
#[derive(Debug, Args)]
pub struct PackageArgs {
    /// The service
    #[arg(long, value_name = "S", required_unless_present = "file")]
    pub service: Option<ServiceId>,
    /// What is to be done
    #[arg(long, value_name = "K", required_unless_present = "file")]
    pub kind: Option<String>,
    /// Hash of the parameters
    #[arg(long, value_name = "H", required_unless_present = "file")]
    pub params_hash: Option<String>,
    /// Preimages that the item refers to
    #[arg(long, value_name = "H,H", value_delimiter = ',')]
    pub preimages: Vec<PreimageHash>,
    /// A package as JSON, with any number of items; - is stdin
    #[arg(long, value_name = "F", conflicts_with_all = ["service", "kind", "params_hash", "preimages"])]
    pub file: Option<PathBuf>,
    /// Print the package's receipt too
    #[arg(long)]
    pub include_receipt: bool,
    /// Makes the submission repeatable: the same key never gives a second package [default: a new one each time]
    #[arg(long, value_name = "K")]
    pub idempotency_key: Option<String>,
}

/// `jam packages` and `jam reports`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only with this status
    #[arg(long, value_parser = PossibleValuesParser::new(["pending", "refined", "disputed", "applied"]))]
    pub status: Option<String>,
    /// Only of this service
    #[arg(long, value_name = "S")]
    pub service: Option<ServiceId>,
    /// Print the receipts too
    #[arg(long)]
    pub include_receipt: bool,
    #[command(flatten)]
    pub paging: PagingArgs,
}

/// Which part of a list.
#[derive(Debug, Args)]
pub struct PagingArgs {
    /// Entries at most, 200 at once; 0 is the default of 50
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub limit: Option<u32>,
    /// Skip so many entries
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub offset: u64,
    /// Every entry: asks for page after page
    #[arg(long)]
    pub all: bool,
    /// The same as --output table
    #[arg(long)]
    pub table: bool,
}

/// `jam report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The package
    #[arg(long, value_name = "ID")]
    pub package: PackageId,
    /// Print the report's receipt too
    #[arg(long)]
    pub include_receipt: bool,
}

/// `jam process`.
#[derive(Debug, Args)]
pub struct ProcessArgs {
    /// Packages at most
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100), allow_negative_numbers = true)]
    pub limit: u32,
    /// Go on until nothing is pending
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
}

/// `jam receipt`.
#[derive(Debug, Args)]
pub struct ReceiptArgs {
    /// A package id, or a report's refine_output_hash
    #[arg(value_name = "H", value_parser = receipt_hash)]
    pub hash: String,
}

/// `jam receipts`.
#[derive(Debug, Args)]
pub struct ReceiptsArgs {
    /// Only of this service
    #[arg(long, value_name = "S")]
    pub service: Option<ServiceId>,
    #[command(flatten)]
    pub paging: PagingArgs,
}

/// `jam verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The owner of the chain
    #[arg(long, value_name = "S")]
    pub service: ServiceId,
    /// Also read every preimage that a listed package names, and compare its bytes with its hash
    #[arg(long)]
    pub preimages: bool,
}

/// What a receipt is found by: hex digits and hyphens. It becomes a part of a path, so nothing else gets through.
fn receipt_hash(text: &str) -> Result<String, String> {
    let plain = (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if plain {
        Ok(text.to_owned())
    } else {
        Err("a receipt's hash is a package id or a refine_output_hash: hex digits and hyphens".into())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_receipt_is_never_asked_for_with_a_path() {
        assert!(receipt_hash("01890a5d-ac96-774b-bcce-b302099a8057").is_ok());
        for wrong in ["", "..", "a/b", "%2e", &"a".repeat(129)] {
            assert!(receipt_hash(wrong).is_err(), "{wrong:?}");
        }
    }
}
