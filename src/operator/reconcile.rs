//! Walk 1, from a manifest to running pods: one page, and how its end is told.

use std::sync::Arc;
use std::time::Duration;

use jam_plan::crd::{JamInstance, RolloutPhase};
use jam_plan::observed::DeploymentState;
use jam_plan::resolve::{MigrationStep, Preview};
use jam_plan::rollout::Course;
use jam_plan::rotation::{Distribution, Stage, look_again};
use jam_plan::{Desired, Objects, Observed, Refusal, Resolved, Verdict, desired, resolve};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use tokio::time::{Instant, timeout};

use super::apply;
use super::context::Context;
use super::error::{Error, Retry};
use super::key::Key;
use super::observe::{self, Finding};
use super::publish::{self, Said};
use super::token_pods::{self, Proof};
use super::watch::chain;
use super::{evidence, malformed, migrations, tokens, turn};

/// How long one reconcile may take; every single request is bounded as well.
pub const LIMIT: Duration = Duration::from_secs(90);
/// How often an instance that is well is looked at without any reason.
const RESYNC: Duration = Duration::from_mins(10);
/// How often one that waits for something which no watch reports is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// The same for one that is stalled by something outside.
const LOOK_OUTSIDE: Duration = Duration::from_secs(30);
/// How often the pods of an instance with administrators are asked what they have set at run time.
const LOOK_AT_OVERRIDES: Duration = Duration::from_secs(30);
/// When what was just stored is to be carried out.
const AT_ONCE: Duration = Duration::from_millis(50);
/// However near a deadline is.
const SOONEST: Duration = Duration::from_millis(200);
/// When somebody else was faster.
const SOON: Duration = Duration::from_secs(2);

/// An instance, or what could not be read as one.
pub type Guarded = DeserializeGuard<JamInstance>;

/// What a walk has learnt so far; it is told also when the walk ends early.
struct Learnt {
    observed: Observed,
    resolved: Option<Resolved>,
}

/// How a walk ends when nothing fails.
enum Ending {
    /// Everything is as wanted.
    Applied,
    /// The resource is refused.
    Refused(Refusal),
    /// The API server refuses a child. What does without it was applied, and goes its way.
    Objected(Refusal),
    /// A rollout was given up: that is stored before anything is applied.
    GivenUp,
    /// It is paused.
    Paused,
}

/// Brings the cluster to what one instance says.
async fn walk(context: &Context, instance: &JamInstance, learnt: &mut Learnt) -> Result<Ending, Error> {
    if instance.spec.paused {
        return Ok(Ending::Paused);
    }
    // Reads.
    learnt.observed = Box::pin(observe::cluster(context, instance, Proof::Asked)).await?;
    // Writes a note on each pod that has not read its token file; before anything that can fail.
    token_pods::tell(context, instance, &learnt.observed).await;
    if let Some(refusal) = bars_moves(context, instance, &mut learnt.observed).await? {
        return Ok(Ending::Refused(refusal));
    }
    // Writes only into token Secrets, one move of each rotation; new Secrets are prepared in memory.
    let minted = tokens::make(context, instance, &mut learnt.observed).await?;
    // Reads a revision that status refers to, where another is rendered now.
    let mut resolved = match in_force(context, instance, &mut learnt.observed).await? {
        Ok(resolved) => &*learnt.resolved.insert(resolved),
        Err(refusal) => return Ok(Ending::Refused(refusal)),
    };
    if resolved.given_up {
        // Writes what is known of the pods, before they are gone.
        let kept = evidence::keep(context, instance, resolved).await;
        if kept.is_err() {
            // Nothing is decided before its evidence is there: the next walk gives up again.
            learnt.resolved = None;
        }
        return kept.map(|()| Ending::GivenUp);
    }
    // Reads, only of what the watches saw changed.
    let (mut objects, mut findings) = surveyed(context, instance, resolved, &learnt.observed).await?;
    learnt.observed.foreign = foreign(&findings);
    if !learnt.observed.foreign.is_empty()
        && let Err(refusal) = resolve(instance, &learnt.observed, &context.defaults)
    {
        return Ok(Ending::Refused(refusal));
    }
    // Writes.
    let key = Key::of(instance);
    apply::newcomers(context, &key, &objects, &mut findings, &minted, &mut learnt.observed).await?;
    if learnt.observed.held.values().any(|held| !held.made) {
        // Without the hashes that nobody has a token for. Reads what differs from before.
        resolved = match in_force(context, instance, &mut learnt.observed).await? {
            Ok(again) => &*learnt.resolved.insert(again),
            Err(refusal) => return Ok(Ending::Refused(refusal)),
        };
        (objects, findings) = surveyed(context, instance, resolved, &learnt.observed).await?;
    }
    let (needs, observed) = (&resolved.egress.needs, &mut learnt.observed);
    let setbacks = apply::all(context, instance, &objects, &findings, needs, &minted, observed).await?;
    let pruned = apply::prune(context, instance, &objects, observed, setbacks.is_none()).await;
    if let Some(refusal) = setbacks.told()? {
        return pruned.map(|()| Ending::Objected(refusal));
    }
    pruned?;
    observe::still_leaving(&objects, &findings)?;
    observe::still_held(observed)?;
    Ok(Ending::Applied)
}

/// Every object that is wanted, and how each stands in the cluster.
async fn surveyed(
    context: &Context,
    instance: &JamInstance,
    resolved: &Resolved,
    observed: &Observed,
) -> Result<(Objects<Desired>, Vec<Finding>), Error> {
    let objects = desired(resolved);
    let mut findings = observe::survey(context, instance, &objects).await?;
    migrations::hold_back(resolved, observed, &objects, &mut findings);
    Ok((objects, findings))
}

/// What refuses the instance, a taken name included, looked for before a token is moved: the hashes of one that is refused
/// would not follow, and its consumer would be locked out.
async fn bars_moves(
    context: &Context,
    instance: &JamInstance,
    observed: &mut Observed,
) -> Result<Option<Refusal>, Error> {
    if !tokens::moves(context, instance, observed) {
        return Ok(None);
    }
    match in_force(context, instance, observed).await? {
        Ok(resolved) => {
            observed.foreign = foreign(&observe::survey(context, instance, &desired(&resolved)).await?);
            Ok(resolve(instance, observed, &context.defaults).err())
        }
        Err(refusal) => Ok(Some(refusal).filter(|refusal| refusal.reason != jam_plan::Reason::TokensPending)),
    }
}

/// Resolves an instance with everything that has to be read for it: stored revisions, and what earlier migrations left.
pub async fn in_force(
    context: &Context,
    instance: &JamInstance,
    observed: &mut Observed,
) -> Result<Result<Resolved, Refusal>, Error> {
    let resolved = with_revisions(context, instance, observed).await?;
    if let Some(job) = resolved.as_ref().ok().and_then(|resolved| resolved.migration.begins(observed)) {
        observed.migration_pods = migrations::unfinished(context, &Key::of(instance), job).await?;
        if !observed.migration_pods.is_empty() {
            return Ok(resolve(instance, observed, &context.defaults));
        }
    }
    Ok(resolved)
}

/// Resolves an instance, with the stored revision in force where that is not the one that is rendered now.
async fn with_revisions(
    context: &Context,
    instance: &JamInstance,
    observed: &mut Observed,
) -> Result<Result<Resolved, Refusal>, Error> {
    let resolved = resolve(instance, observed, &context.defaults);
    match &resolved {
        Ok(resolved) if !resolved.lacks.is_empty() => {
            observed.revisions = observe::revisions(context, instance, &resolved.lacks).await?;
        }
        Ok(_) | Err(_) => return Ok(resolved),
    }
    let again = resolve(instance, observed, &context.defaults);
    // What could be read may lead to what is lacking now: a pinned revision that turns out to be bad.
    if let Ok(resolved) = &again
        && resolved.lacks.iter().any(|name| observed.revisions.iter().all(|revision| revision.name() != name))
    {
        observed.revisions.extend(observe::revisions(context, instance, &resolved.lacks).await?);
        return Ok(resolve(instance, observed, &context.defaults));
    }
    Ok(again)
}

fn foreign(findings: &[Finding]) -> Vec<jam_plan::observed::Foreign> {
    let foreign = |finding: &Finding| match finding {
        Finding::Foreign(foreign) => Some(foreign.clone()),
        Finding::Good | Finding::Absent | Finding::Differs { .. } | Finding::Leaving { .. } => None,
    };
    findings.iter().filter_map(foreign).collect()
}

/// One reconcile: the walk, then what is to be said about its end, also when it failed.
pub async fn reconcile(instance: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    let key = Key::of(&*instance);
    let (_running, Some(instance)) = turn::begin(&context.instruments, &context.instances, &instance) else {
        return Ok(Action::await_change());
    };
    let instance = match &instance.0 {
        Ok(instance) => context.memory.freshest(instance),
        Err(invalid) => return malformed::tell(&context, invalid).await,
    };
    if instance.metadata.deletion_timestamp.is_some() {
        // The garbage collector takes the children by their owner; there is nothing to hold it up for.
        return Ok(Action::await_change());
    }
    let mut learnt = Learnt { observed: Observed::nothing(jam_domain::Timestamp::now()), resolved: None };
    let started = Instant::now();
    let ended = timeout(LIMIT, walk(&context, &instance, &mut learnt)).await.unwrap_or(Err(Error::Slow(LIMIT)));
    let text = ended.as_ref().err().map(|error| chain(error)).unwrap_or_default();
    let verdict = match (&ended, &learnt.resolved) {
        (Ok(Ending::Applied | Ending::GivenUp), Some(resolved)) => Verdict::Applied(resolved),
        (Ok(Ending::Objected(refusal)) | Err(Error::Denied { refused: Some(refusal), .. }), Some(resolved)) => {
            Verdict::Objected(resolved, refusal)
        }
        (Ok(Ending::Refused(refusal) | Ending::Objected(refusal)), _) => Verdict::Refused(refusal),
        (Ok(Ending::Paused), _) => Verdict::Paused,
        (Err(Error::Held { .. }), Some(resolved)) => Verdict::Held(resolved, &text),
        // What is on its way out says as little about the pods as what a rule is in the way of.
        (Err(Error::Denied { refused: None, .. } | Error::Leaving { .. }), Some(resolved)) => {
            Verdict::Denied(resolved, &text)
        }
        (Ok(Ending::Applied | Ending::GivenUp) | Err(_), resolved) => Verdict::Interrupted(resolved.as_ref(), &text),
    };
    let told = timeout(LIMIT, publish::outcome(&context, &instance, verdict, &learnt.observed)).await;
    let told = told.unwrap_or(Err(Error::Slow(LIMIT)));
    let outcome = ended.and_then(|ending| Ok((ending, told?)));
    context.instruments.ended(&key, &outcome.as_ref().map(|(ending, _)| result_of(ending)), started);
    match outcome {
        Ok((ending, told)) => Ok(next(&ending, &told, &learnt)),
        // What goes on beside it has its deadlines all the same.
        Err(error @ (Error::Held { .. } | Error::Denied { .. } | Error::Leaving { .. })) => {
            let pause = pause_after(&key, &error, &context);
            Ok(Action::requeue(pause.min(due(&learnt).unwrap_or(RESYNC))))
        }
        Err(error) => Err(error),
    }
}

/// The word for an ending, for the metrics.
fn result_of(ending: &Ending) -> &'static str {
    match ending {
        Ending::Applied => "applied",
        Ending::GivenUp => "given_up",
        Ending::Refused(refusal) | Ending::Objected(refusal) => refusal.reason.as_str(),
        Ending::Paused => "paused",
    }
}

/// When to look again without being called: what the watches report needs no look.
fn next(ending: &Ending, told: &Said, learnt: &Learnt) -> Action {
    let (status, at_most) = match told {
        Said::All(status) => (status, RESYNC),
        Said::Later(status, pause) => (status, *pause),
    };
    let is = |kind: &str| status.conditions.iter().any(|c| c.type_ == kind && c.status == "True");
    let pause = match ending {
        Ending::Refused(refusal) if refusal.heals_from_outside() => LOOK_OUTSIDE,
        Ending::Refused(refusal) if refusal.reason == jam_plan::Reason::TokensPending => SOON,
        Ending::GivenUp => AT_ONCE,
        Ending::Objected(_) => return beside(learnt).map_or_else(Action::await_change, Action::requeue),
        Ending::Paused | Ending::Refused(_) => return Action::await_change(),
        Ending::Applied if asks_what_to_approve(learnt) || learnt.observed.lingers => LOOK_AGAIN,
        Ending::Applied if is("Ready") || is("Stalled") => RESYNC,
        Ending::Applied => migration_due(learnt).unwrap_or(LOOK_AGAIN),
    };
    let overrides = if learnt.observed.overrides.is_some() { LOOK_AT_OVERRIDES } else { RESYNC };
    Action::requeue(pause.min(at_most).min(overrides).min(rotation_due(learnt).unwrap_or(RESYNC)))
}

/// The next deadline of what goes on beside a child that could not be written, or when to look again without one.
fn beside(learnt: &Learnt) -> Option<Duration> {
    let looks = asks_what_to_approve(learnt) || learnt.observed.lingers;
    [due(learnt), looks.then_some(LOOK_AGAIN)].into_iter().flatten().min()
}

/// The next deadline alone: at each look what was denied is asked for again, and that has growing pauses.
fn due(learnt: &Learnt) -> Option<Duration> {
    let is_away = learnt.observed.database.as_ref().is_some_and(|probe| !probe.reachable);
    let looks = (is_judged(learnt) && !is_away).then_some(LOOK_AGAIN);
    [rotation_due(learnt), migration_due(learnt), looks].into_iter().flatten().min()
}

/// When a migration that failed is run again, or one that waits for pods looks whether they have ended.
fn migration_due(learnt: &Learnt) -> Option<Duration> {
    match &learnt.resolved.as_ref()?.migration.step {
        MigrationStep::Retry { at } => Some(until(*at, learnt.observed.at)),
        MigrationStep::Wait { .. } => Some(LOOK_AGAIN),
        MigrationStep::NotNeeded
        | MigrationStep::Complete
        | MigrationStep::Run { .. }
        | MigrationStep::AwaitApproval { .. }
        | MigrationStep::Never => None,
    }
}

/// Whether a dry run is to say what a migration would apply: nothing but its pod says why it cannot begin.
fn asks_what_to_approve(learnt: &Learnt) -> bool {
    let step = learnt.resolved.as_ref().map(|resolved| &resolved.migration.step);
    matches!(step, Some(MigrationStep::AwaitApproval { key: _, preview: Preview::Asks { .. } }))
}

/// Whether a rollout is under way whose pods may still be given up: that has a deadline.
fn is_judged(learnt: &Learnt) -> bool {
    let Learnt { observed, resolved: Some(resolved) } = learnt else { return false };
    let runs = |api: &DeploymentState| api.wanted > 0 && api.revision.as_ref() == Some(&resolved.wanted.name);
    let runs = observed.api.as_ref().is_some_and(runs);
    runs && resolved.course == Course::Forward && resolved.rollout_status.phase == RolloutPhase::Progressing
}

/// The next deadline of a rotation, to the second: no watch reports it.
fn rotation_due(learnt: &Learnt) -> Option<Duration> {
    let Observed { hashes, distribution, .. } = &learnt.observed;
    let is_new = |there: &Distribution| hashes.as_ref().is_some_and(|book| book.word != there.word);
    if distribution.as_ref().is_some_and(is_new) {
        // What was just written is to be told to every pod.
        return Some(SOONEST);
    }
    let Resolved { consumers, remembered, .. } = learnt.resolved.as_ref()?;
    let rotates = look_again(consumers.iter().map(|consumer| &consumer.outlook));
    // A rotation that waits for the same pods looks at its own pace, ever less often.
    let asks = consumers.iter().any(|consumer| matches!(consumer.outlook.stage, Stage::Verify | Stage::Prove));
    let lags = distribution.as_ref().filter(|_| !asks).and_then(|there| there.next);
    let at = [rotates, lags, remembered.own.next].into_iter().flatten().min()?;
    let micros = at.as_micros().saturating_sub(learnt.observed.at.as_micros());
    Some(Duration::from_micros(u64::try_from(micros).unwrap_or_default()).max(SOONEST))
}

fn until(at: jam_domain::Timestamp, now: jam_domain::Timestamp) -> Duration {
    let micros = at.as_micros().saturating_sub(now.as_micros());
    Duration::from_micros(u64::try_from(micros).unwrap_or_default()) + Duration::from_secs(1)
}

/// When an instance that failed is tried again.
pub fn retry(instance: &Guarded, error: &Error, context: &Context) -> Action {
    Action::requeue(pause_after(&Key::of(instance), error, context))
}

/// How long to wait after an error, which is logged here, once.
fn pause_after(key: &Key, error: &Error, context: &Context) -> Duration {
    let pause = match error.retry() {
        Retry::Soon => SOON,
        Retry::Backoff => context.instruments.retries.pause(key),
    };
    if error.is_not_found() {
        tracing::debug!(instance = %key, error = chain(error), "gone meanwhile");
    } else {
        tracing::warn!(instance = %key, code = error.code(), ?pause, error = chain(error), "reconcile failed");
    }
    pause
}
