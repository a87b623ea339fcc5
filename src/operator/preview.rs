//! `jam-operator plan`: what a manifest would become, without a cluster, or as a difference to what is in one.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};

use jam_plan::render;
use kube::Config;
use kube::config::Kubeconfig;

use super::args::{Output, PlanArgs};
use super::difference::{coloured, lines};
use super::forecast::{Action, Change, Preview};
use super::watch::chain;
use super::{Trouble, forecast, offline};

/// The exit code when something differs, as `kubectl diff` has it.
const DIFFERENT: u8 = 1;
/// The exit code when it cannot be told.
const UNKNOWN: u8 = 2;

/// Prints the plan for the cluster of the environment; returns the exit code.
pub async fn plan(args: &PlanArgs) -> Result<u8, Trouble> {
    let config = async || Config::infer().await.map_err(|error| format!("no cluster is configured: {}", chain(&error)));
    Box::pin(plan_in(args, config, None)).await
}

/// Prints the plan; returns the exit code. No secret can be in it: tokens are made in the cluster, and values of Secrets
/// are redacted. The cluster is asked for with `--diff` only; `namespace` is that of instances which name none.
pub async fn plan_in(
    args: &PlanArgs,
    config: impl AsyncFnOnce() -> Result<Config, String>,
    namespace: Option<&str>,
) -> Result<u8, Trouble> {
    let place = args.file.display();
    let code = if args.diff { UNKNOWN } else { 1 };
    let told = |sentence: String| Trouble { sentence: format!("{place}: {sentence}"), code };
    let text = read(args).map_err(|error| told(chain(&error)))?;
    let mut defaults = args.image.defaults(&args.rollout, &args.rotation);
    defaults.operator_namespace.clone_from(&args.operator_namespace);
    let mut documents = render::documents(&text).map_err(|error| told(error.to_string()))?;
    let context = namespace.map_or_else(of_context, str::to_owned);
    render::place(&mut documents, args.namespace.as_deref(), &context).map_err(|error| told(error.to_string()))?;
    documents.iter_mut().for_each(offline::without_nulls);
    if !args.diff {
        offline::refuse(&documents).map_err(|faults| told(format!("the API server would refuse it: {faults}")))?;
        let text = render::text(&documents, &defaults).map_err(|error| told(error.to_string()))?;
        super::print(&format!("{}{text}", offline::UNCHECKED))?;
        return Ok(0);
    }
    offline::unknown(&documents).map_err(|faults| told(format!("kubectl apply would refuse it: {faults}")))?;
    let config = config().await.map_err(told)?;
    let assumed = assumed(args);
    let mut previews = Box::pin(forecast::previews(config, &documents, defaults)).await.map_err(told)?;
    for preview in &mut previews {
        preview.notes.push(assumed.clone());
    }
    let shown = match args.output {
        Output::Text => previews.iter().map(shown).collect(),
        Output::Json => serde_json::to_string_pretty(&previews).map_err(|error| told(error.to_string()))? + "\n",
    };
    // Takes the colours away again where nobody would see them.
    let mut out = anstream::AutoStream::new(std::io::stdout(), args.color.into());
    out.write_all(shown.as_bytes()).map_err(|error| told(format!("standard output: {error}")))?;
    let different = previews.iter().any(|preview| !preview.changes.is_empty());
    Ok(if different { DIFFERENT } else { 0 })
}

/// The operator that the plan is of: nothing in the cluster says how the one there was started.
fn assumed(args: &PlanArgs) -> String {
    let (image, deadline) = (&args.image.api_image, args.rollout.progress_deadline);
    let namespace = args.operator_namespace.as_ref().map(|name| format!(" --operator-namespace {name}"));
    let namespace = namespace.unwrap_or_else(|| " and no --operator-namespace".into());
    format!("planned for an operator with --api-image {image} --progress-deadline {deadline}{namespace}")
}

/// The namespace of the kubeconfig's context; `default` where there is none, as with `kubectl`.
fn of_context() -> String {
    let namespace = Kubeconfig::read().ok().and_then(|config| {
        let current = config.current_context?;
        config.contexts.into_iter().find(|named| named.name == current)?.context?.namespace
    });
    namespace.unwrap_or_else(|| "default".into())
}

fn read(args: &PlanArgs) -> std::io::Result<String> {
    if args.file.as_os_str() != "-" {
        return std::fs::read_to_string(&args.file);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map(|_| text)
}

/// One instance for a person: the differences, and at the end what they come to.
fn shown(preview: &Preview) -> String {
    let Preview { namespace, name, notes, changes } = preview;
    let mut text = String::new();
    for change in changes {
        text.push_str(&coloured(&difference(change)));
    }
    // Writing to a String cannot fail.
    let _ = writeln!(text, "JamInstance {namespace}/{name}: {}", sum(changes));
    for note in notes {
        let _ = writeln!(text, "  {note}");
    }
    for change in changes.iter().filter(|change| !change.restarts.is_empty()) {
        let how = if change.remade { "all go at once" } else { "restart, one at a time" };
        let _ = writeln!(text, "  pods of {} {} {how}, because of", change.kind, change.name);
        for place in &change.restarts {
            let _ = writeln!(text, "    {place}");
        }
    }
    for Change { kind, name, .. } in changes.iter().filter(|change| change.remade && change.restarts.is_empty()) {
        let _ = writeln!(text, "  {kind} {name} is removed and made again");
    }
    text
}

fn sum(changes: &[Change]) -> String {
    let count = |action: Action| changes.iter().filter(|change| change.action == action).count();
    let restarts = changes.iter().any(|change| !change.restarts.is_empty());
    match (changes.is_empty(), restarts) {
        (true, _) => "nothing would change".into(),
        (false, restarts) => format!(
            "{} to create, {} to change, {} to remove; {}",
            count(Action::Create),
            count(Action::Change),
            count(Action::Remove),
            if restarts { "pods restart" } else { "no pod restarts" }
        ),
    }
}

fn difference(change: &Change) -> String {
    let Change { action: _, kind, name, remade: _, restarts: _, live, planned } = change;
    lines(&format!("{kind} {name}"), live, planned)
}
