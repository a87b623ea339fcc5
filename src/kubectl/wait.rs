//! Waiting until an instance is as it was asked to be, with an end, and a reason when it does not come.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tokio::time::Instant;

use super::args::WaitArgs;
use super::cluster::{Cluster, Instance, place, told};
use super::explain;
use super::fault::Fault;

/// How often the API server is asked.
const PACE: Duration = Duration::from_millis(500);

/// A condition of an instance.
pub fn condition(instance: &Instance, kind: &str) -> Option<Condition> {
    told(instance).conditions.into_iter().find(|condition| condition.type_ == kind)
}

/// Whether a condition is `True`.
pub fn is(instance: &Instance, kind: &str) -> bool {
    condition(instance, kind).is_some_and(|condition| condition.status == "True")
}

/// Whether the status speaks of the newest spec.
pub fn is_current(instance: &Instance) -> bool {
    told(instance).observed_generation.is_some_and(|seen| Some(seen) == instance.metadata.generation)
}

/// `Ready=False RolledBack: …`.
pub fn words(condition: &Condition) -> String {
    let Condition { type_, status, reason, message, last_transition_time: _, observed_generation: _ } = condition;
    format!("{type_}={status} {reason}: {message}")
}

/// Asks until `look` has something, or refuses, or the time is over. `what` completes "waited for".
pub async fn until<T>(
    cluster: &Cluster,
    name: &str,
    args: WaitArgs,
    what: &str,
    look: impl Fn(&Instance) -> Result<Option<T>, Fault>,
) -> Result<T, Fault> {
    let deadline = Instant::now() + args.timeout;
    loop {
        let instance = match cluster.instance(name).await {
            Ok(instance) => Some(instance),
            // The API server may be replaced meanwhile; nobody wants to begin again for that.
            Err(Fault::Unreachable(_)) if Instant::now() < deadline => None,
            Err(fault) => return Err(fault),
        };
        if let Some(instance) = &instance {
            if let Some(found) = look(instance)? {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                return Err(Fault::Timeout(late(instance, args, what)));
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

fn late(instance: &Instance, args: WaitArgs, what: &str) -> String {
    // What is wrong says more than that it is ready all the same, as during a rotation.
    let telling =
        explain::ills(instance).into_iter().map(|(ill, _)| ill).next().or_else(|| condition(instance, "Ready"));
    let standing = telling.map_or_else(|| "it has no status yet".into(), |condition| words(&condition));
    let name = instance.metadata.name.clone().unwrap_or_default();
    format!(
        "{}: waited {} s for {what}, in vain; {standing}; look with: kubectl jam explain {name} -n {}",
        place(instance),
        args.timeout.as_secs(),
        instance.metadata.namespace.clone().unwrap_or_default()
    )
}

/// Refuses when nothing more will happen by itself: `Stalled=True` for the newest spec.
pub fn unless_stalled(instance: &Instance) -> Result<(), Fault> {
    match condition(instance, "Stalled").filter(|stalled| stalled.status == "True" && is_current(instance)) {
        Some(stalled) => Err(Fault::Ended(format!("{}: {}", place(instance), words(&stalled)))),
        None => Ok(()),
    }
}
