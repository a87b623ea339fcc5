//! The command line of jam-operator.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::rbac::Scope;
use crate::telemetry::TelemetryArgs;

/// Runs JAM APIs on Kubernetes, as their JamInstances say.
#[derive(Debug, Parser)]
#[command(name = "jam-operator", version)]
pub struct OperatorArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watches JamInstances and brings the cluster to what they say, until it is told to stop.
    Run(Box<RunArgs>),
    /// Prints the CustomResourceDefinition.
    Crd,
    /// Prints the roles that `run` needs.
    Rbac(RbacArgs),
    /// Prints the alerts on the operator's own metrics, as the chart has them.
    #[command(hide = true)]
    Alerts,
    /// Prints the Grafana dashboard of the operator's own metrics, as the chart has it.
    #[command(hide = true)]
    Dashboard,
    /// Prints the objects that a manifest would become; with --diff, how that differs from what is in the cluster.
    Plan(PlanArgs),
    /// Asks an address once and succeeds when it answers 200: for `helm test`, where an image has no other program.
    #[command(hide = true)]
    Check(CheckArgs),
}

/// Which rights to print.
#[derive(Debug, Clone, Args)]
pub struct RbacArgs {
    /// Only the rules of one scope, as they stand under `rules:`.
    #[arg(long, value_enum)]
    pub rules: Option<Scope>,
}

/// What to ask.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// The address, such as `http://jam-operator.jam-system.svc:8080/readyz`.
    pub url: String,
}

/// How to run.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Namespaces to watch, separated by commas; none means all.
    #[arg(long, env = "JAM_WATCH_NAMESPACES", value_delimiter = ',', conflicts_with = "own_namespace")]
    pub watch_namespaces: Vec<String>,
    /// Watch only the namespace that the operator runs in.
    #[arg(long, env = "JAM_WATCH_OWN_NAMESPACE")]
    pub own_namespace: bool,
    /// Reconciles that run at once.
    #[arg(long, env = "JAM_CONCURRENCY", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// Whether replicas elect the one that writes; without it there must be only one.
    #[arg(long, env = "JAM_LEADER_ELECTION", default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_election: bool,
    /// Name of the Lease.
    #[arg(long, env = "JAM_LEASE_NAME", default_value = "jam-operator")]
    pub lease_name: String,
    /// The operator's own namespace, where the Lease is. Default: the namespace of the kubeconfig or the pod.
    #[arg(long, env = "JAM_NAMESPACE")]
    pub namespace: Option<String>,
    /// What this replica calls itself in the Lease and in events. Default: the host's name.
    #[arg(long, env = "JAM_IDENTITY")]
    pub identity: Option<String>,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "JAM_HEALTH_LISTEN", default_value = "0.0.0.0:8080")]
    pub health_listen: SocketAddr,
    /// What instances run that name no image.
    #[command(flatten)]
    pub image: ImageArgs,
    /// How pods are replaced.
    #[command(flatten)]
    pub rollout: RolloutArgs,
    /// How tokens are rotated.
    #[command(flatten)]
    pub rotation: RotationArgs,
    /// How to log.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// What instances run that name no image.
#[derive(Debug, Clone, Args)]
pub struct ImageArgs {
    /// Image of the API, `repository:tag` or `repository@digest`; an instance that names only a repository or only a version gets the other from here.
    #[arg(long, env = "JAM_API_IMAGE", default_value = concat!("jam-api:", env!("CARGO_PKG_VERSION")))]
    pub api_image: String,
}

/// How pods are replaced.
#[derive(Debug, Clone, Args)]
pub struct RolloutArgs {
    /// Seconds without progress after which a rollout is given up and the last good revision is back.
    #[arg(long, env = "JAM_PROGRESS_DEADLINE", default_value_t = 300, value_parser = clap::value_parser!(i32).range(5..=86_400))]
    pub progress_deadline: i32,
    /// Render as another release would: for tests of an upgrade.
    #[arg(long, env = "JAM_RENDER_REVISION", hide = true, default_value_t = jam_plan::resolve::RENDER_REVISION)]
    pub render_revision: i32,
}

/// How tokens are rotated.
#[derive(Debug, Clone, Args)]
pub struct RotationArgs {
    /// Seconds that a kubelet may take to bring a changed Secret to a pod; an overlap of two tokens that is shorter is refused.
    #[arg(long, env = "JAM_KUBELET_SYNC_SECONDS", default_value_t = jam_plan::rotation::Pace::default().kubelet_sync)]
    pub kubelet_sync_seconds: u32,
    /// Seconds in an hour of spec.tokens.rotation: for tests, which see whole rotations in seconds (adr/0020).
    #[arg(long, env = "JAM_ROTATION_HOUR_SECONDS", hide = true, default_value_t = jam_plan::rotation::Pace::default().hour)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub rotation_hour_seconds: u32,
}

impl RotationArgs {
    /// How long the hours of a rotation last.
    pub fn pace(&self) -> jam_plan::rotation::Pace {
        jam_plan::rotation::Pace { hour: self.rotation_hour_seconds, kubelet_sync: self.kubelet_sync_seconds }
    }
}

/// What to plan.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// The manifest; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// The namespace of instances that name none. Default: the one of the kubeconfig's context.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Ask the cluster of the kubeconfig, without changing anything, what would differ and whether pods would restart. Exit code 0: nothing, 1: something, 2: it cannot be told. Give --api-image, --progress-deadline and --operator-namespace as the operator there has them.
    #[arg(long)]
    pub diff: bool,
    /// The namespace of the operator there, whose pods a NetworkPolicy lets in.
    #[arg(long, requires = "diff")]
    pub operator_namespace: Option<String>,
    /// How differences are printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text, requires = "diff")]
    pub output: Output,
    /// When differences have colours.
    #[arg(long, value_enum, default_value_t = Colours::Auto, requires = "diff")]
    pub color: Colours,
    /// What instances run that name no image.
    #[command(flatten)]
    pub image: ImageArgs,
    /// How pods are replaced.
    #[command(flatten)]
    pub rollout: RolloutArgs,
    /// How tokens are rotated.
    #[command(flatten)]
    pub rotation: RotationArgs,
}

/// How differences are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// When there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Colours {
    /// On a terminal that shows them.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl From<Colours> for anstream::ColorChoice {
    fn from(colours: Colours) -> Self {
        match colours {
            Colours::Auto => anstream::ColorChoice::Auto,
            Colours::Always => anstream::ColorChoice::Always,
            Colours::Never => anstream::ColorChoice::Never,
        }
    }
}

/// The namespaces whose instances are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespaces {
    /// Every one.
    All,
    /// These.
    These(Vec<String>),
}

impl RunArgs {
    /// What is watched, when `own` is the operator's namespace.
    pub fn namespaces(&self, own: &str) -> Namespaces {
        let mut named: Vec<String> =
            self.watch_namespaces.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
        named.sort();
        named.dedup();
        match (self.own_namespace, named.is_empty()) {
            (true, _) => Namespaces::These(vec![own.to_owned()]),
            (false, true) => Namespaces::All,
            (false, false) => Namespaces::These(named),
        }
    }
}

impl ImageArgs {
    /// Repository, tag and digest. A colon in the last part of the path begins the tag; a registry's port does not.
    fn parts(&self) -> (String, String, Option<String>) {
        let (image, digest) = match self.api_image.split_once('@') {
            Some((image, digest)) => (image, Some(digest.to_owned())),
            None => (self.api_image.as_str(), None),
        };
        let name = image.rfind('/').map_or(0, |slash| slash + 1);
        match image[name..].find(':') {
            Some(colon) => {
                let (repository, tag) = image.split_at(name + colon);
                (repository.into(), tag[1..].into(), digest)
            }
            None => (image.into(), env!("CARGO_PKG_VERSION").into(), digest),
        }
    }

    /// What the operator fills in where a resource says nothing.
    pub fn defaults(&self, rollout: &RolloutArgs, rotation: &RotationArgs) -> jam_plan::Defaults {
        let (repository, tag, digest) = self.parts();
        let RolloutArgs { progress_deadline, render_revision } = *rollout;
        let pace = rotation.pace();
        jam_plan::Defaults {
            repository,
            tag,
            digest,
            pace,
            operator_namespace: None,
            progress_deadline,
            render_revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_a_registry_is_not_a_tag() {
        let split = |image: &str| ImageArgs { api_image: image.into() }.parts();
        assert_eq!(split("localhost/jam-api:dev"), ("localhost/jam-api".into(), "dev".into(), None));
        assert_eq!(split("host:5000/jam-api"), ("host:5000/jam-api".into(), env!("CARGO_PKG_VERSION").into(), None));
        assert_eq!(split("host:5000/jam-api:1"), ("host:5000/jam-api".into(), "1".into(), None));
    }

    #[test]
    fn a_digest_is_not_a_tag() {
        let split = |image: &str| ImageArgs { api_image: image.into() }.parts();
        let digest = Some("sha256:ab".to_owned());
        let version = env!("CARGO_PKG_VERSION").to_owned();
        assert_eq!(split("host:5000/jam-api@sha256:ab"), ("host:5000/jam-api".into(), version, digest.clone()));
        assert_eq!(split("jam-api:1@sha256:ab"), ("jam-api".into(), "1".into(), digest));
    }

    #[test]
    fn no_namespace_means_all_and_one_twice_is_watched_once() {
        let run = |words: &[&str]| match OperatorArgs::try_parse_from([&["jam-operator", "run"], words].concat()) {
            Ok(OperatorArgs { command: Command::Run(args) }) => args.namespaces("own"),
            other => panic!("{other:?}"),
        };
        assert_eq!(run(&[]), Namespaces::All);
        assert_eq!(run(&["--own-namespace"]), Namespaces::These(vec!["own".into()]));
        assert_eq!(run(&["--watch-namespaces", "b,a,b"]), Namespaces::These(vec!["a".into(), "b".into()]));
    }
}
