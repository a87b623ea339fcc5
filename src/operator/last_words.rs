//! What is wrong with a pod and how it ended: in the kubelet's words, and in those of our container where they may be repeated.

use jam_domain::Timestamp;
use jam_plan::names;
use jam_plan::observed::{LastWords, left_out};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::context::Context;
use super::key::Key;
use super::pods::is_ready;
use super::words::Discretion;

/// What containers wait for that will start in a moment.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];
/// Seconds that the kubelet waits at most before it starts a container again, and a margin.
const LONGEST_BACKOFF: i64 = 330;
/// Seconds after which somebody else's container that is not ready is what keeps a pod from being ready.
const LATE: i64 = 60;
/// Bytes of a log's end that the kubelet makes a termination message of.
const KEPT: usize = 2048;
/// The label of a pod with the name of its Job.
pub const OF_JOB: &str = "batch.kubernetes.io/job-name";

/// What is wrong with a pod.
#[derive(Debug)]
struct Trouble<'a> {
    pod: &'a Pod,
    /// The container where it is, when that is none of ours.
    other: Option<&'a str>,
    reason: &'a str,
    /// What the kubelet or the scheduler says of it.
    message: Option<&'a str>,
    /// How our container ended. What others' containers say is theirs: nobody here knows what is secret in it.
    ended: Option<&'a ContainerStateTerminated>,
}

impl Trouble<'_> {
    /// The last line of what our container said.
    fn words(&self) -> Option<&str> {
        self.ended.and_then(|ended| last_line(ended.message.as_deref()?))
    }

    /// In one sentence, with its words unless there is a reason to leave them out.
    fn sentence(&self, silence: Option<&str>) -> String {
        let code = self.ended.map(|ended| ended.exit_code);
        let instead = silence.filter(|_| self.words().is_some()).map(|why| left_out(code, why));
        let container = self.other.map(|name| format!("container {name}: ")).unwrap_or_default();
        let words = instead.as_deref().or(self.words()).or(self.message);
        let words = words.map(|words| format!(": {words}")).unwrap_or_default();
        format!("pod {}: {container}{}{words}", self.pod.name_any(), self.reason)
    }
}

/// What is wrong with one of these pods: with one that waits, before one that runs again, before one whose neighbour is late.
pub async fn told_by(discretion: &Discretion<'_>, pods: &[Pod], at: Timestamp) -> Option<String> {
    let trouble = worst(pods, at)?;
    let silence = match trouble.words() {
        Some(_) => discretion.silence(trouble.pod).await,
        None => None,
    };
    Some(trouble.sentence(silence.as_deref()))
}

/// The same of pods with a readiness probe: one that is ready again is no trouble, whatever it went through.
pub async fn told_by_unready(discretion: &Discretion<'_>, pods: &[Pod], at: Timestamp) -> Option<String> {
    told_by(discretion, &unready(pods), at).await
}

fn unready(pods: &[Pod]) -> Vec<Pod> {
    pods.iter().filter(|pod| !is_ready(pod)).cloned().collect()
}

fn worst(pods: &[Pod], at: Timestamp) -> Option<Trouble<'_>> {
    let ended = || pods.iter().find_map(|pod| crashed(pod, at));
    pods.iter().find_map(waiting).or_else(ended).or_else(|| pods.iter().find_map(|pod| late_neighbour(pod, at)))
}

/// Whether a container of a pod that stays ended just now.
pub fn has_crashed(pod: &Pod, at: Timestamp) -> bool {
    crashed(pod, at).is_some()
}

/// How a container of a pod that stays ended just now. Between a crash and its next start, and after that, the kubelet says no more than this.
fn crashed(pod: &Pod, at: Timestamp) -> Option<Trouble<'_>> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    containers(pod).find_map(|(container, other)| {
        let ended = failures(container).next()?;
        let finished = Timestamp::from_jiff(ended.finished_at.as_ref()?.0);
        let reason = ended.reason.as_deref().unwrap_or("Error");
        let own = Some(ended).filter(|_| other.is_none());
        (at < finished.plus_seconds(LONGEST_BACKOFF)).then_some(Trouble {
            pod,
            other,
            reason,
            message: None,
            ended: own,
        })
    })
}

/// When our container of a pod ended by itself the last time that anybody knows of.
pub fn crashed_at(pod: &Pod) -> Option<Timestamp> {
    let ours = containers(pod).filter(|(_, other)| other.is_none());
    let ended = ours.flat_map(|(container, _)| failures(container));
    ended.filter_map(|ended| Some(Timestamp::from_jiff(ended.finished_at.as_ref()?.0))).max()
}

/// How a container failed, the last time first.
fn failures(container: &ContainerStatus) -> impl Iterator<Item = &ContainerStateTerminated> {
    let states = [&container.state, &container.last_state].into_iter().flatten();
    states.filter_map(|state| state.terminated.as_ref()).filter(|ended| ended.exit_code != 0)
}

/// Why a pod is not ready, in the kubelet's or the scheduler's words.
fn waiting(pod: &Pod) -> Option<Trouble<'_>> {
    let waits = containers(pod).find_map(|(container, other)| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().filter(|reason| !STARTING.contains(reason))?;
        let ended = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        let ended = ended.filter(|_| other.is_none());
        Some(Trouble { pod, other, reason, message: waiting.message.as_deref(), ended })
    });
    let unscheduled = || {
        let conditions = pod.status.as_ref()?.conditions.iter().flatten();
        let condition = conditions.into_iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
        let reason = condition.reason.as_deref().unwrap_or("PodScheduled");
        Some(Trouble { pod, other: None, reason, message: condition.message.as_deref(), ended: None })
    };
    waits.or_else(unscheduled)
}

/// Somebody else's container that keeps a pod unready whose own container is ready, and had its time.
fn late_neighbour(pod: &Pod, at: Timestamp) -> Option<Trouble<'_>> {
    let began = Timestamp::from_jiff(pod.metadata.creation_timestamp.as_ref()?.0);
    let own_is_ready = containers(pod).any(|(container, other)| other.is_none() && container.ready);
    if pod.metadata.deletion_timestamp.is_some() || !own_is_ready || at < began.plus_seconds(LATE) {
        return None;
    }
    let (_, other) = containers(pod).find(|(container, other)| other.is_some() && !container.ready)?;
    Some(Trouble { pod, other, reason: "it is not ready", message: None, ended: None })
}

/// The containers of a pod, ours first, each other with its name.
fn containers(pod: &Pod) -> impl Iterator<Item = (&ContainerStatus, Option<&str>)> {
    let status = pod.status.as_ref();
    let all = status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten();
    let before = status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten();
    let others = all.clone().filter(|container| !is_ours(container)).chain(before);
    let own = all.filter(|container| is_ours(container)).map(|container| (container, None));
    own.chain(others.map(|container| (container, Some(container.name.as_str()))))
}

/// Whether a container is ours: what is injected beside it belongs to others.
pub fn is_ours(container: &ContainerStatus) -> bool {
    container.name == names::CONTAINER
}

fn last_line(text: &str) -> Option<&str> {
    text.trim_end().lines().next_back().filter(|line| !line.is_empty())
}

/// How the last pod of a Job ended, and what it said.
pub async fn of_job(context: &Context, instance: &Key, job: &str, discretion: &Discretion<'_>) -> LastWords {
    all_of_job(context, instance, job, discretion).await.into_iter().next().unwrap_or_default()
}

/// The same of each of its pods, the newest first. One that the Job's end cut short has said nothing.
pub async fn all_of_job(context: &Context, instance: &Key, job: &str, discretion: &Discretion<'_>) -> Vec<LastWords> {
    let mut all = Vec::new();
    for pod in pods_of_job(context, instance, job).await.unwrap_or_default() {
        let Some((exit_code, text, ended_at)) = ended(&pod) else { continue };
        let silence = match &text {
            Some(_) => discretion.silence(&pod).await,
            None => None,
        };
        all.push(LastWords { exit_code: Some(exit_code), text, silence, ended_at });
    }
    all
}

/// How our container of a pod ended: its exit code, its termination message, which is the end of its log by the Job's
/// termination message policy, and when.
fn ended(pod: &Pod) -> Option<(i32, Option<String>, Option<Timestamp>)> {
    let own = containers(pod).find(|(_, other)| other.is_none()).map(|(container, _)| container)?;
    let ended = [&own.state, &own.last_state].into_iter().flatten().find_map(|state| state.terminated.as_ref())?;
    let text = ended.message.as_deref().map(|text| whole_lines(text).trim().to_owned());
    let ended_at = ended.finished_at.as_ref().map(|at| Timestamp::from_jiff(at.0));
    Some((ended.exit_code, text.filter(|text| !text.is_empty()), ended_at))
}

/// Without the line in whose middle the kubelet cut a log: half a secret is not known for one.
fn whole_lines(text: &str) -> &str {
    let rest = text.split_once('\n').map(|(_, rest)| rest).filter(|_| text.len() >= KEPT);
    rest.filter(|rest| !rest.trim().is_empty()).unwrap_or(text)
}

/// What is wrong with the newest pods of a Job that runs.
pub async fn trouble_of_job(
    context: &Context,
    instance: &Key,
    job: &str,
    discretion: &Discretion<'_>,
) -> Option<String> {
    let pods = pods_of_job(context, instance, job).await.ok()?;
    told_by(discretion, &pods, Timestamp::now()).await
}

/// The pods of a Job, the newest first.
async fn pods_of_job(context: &Context, instance: &Key, job: &str) -> Result<Vec<Pod>, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &instance.namespace);
    let mut found = pods.list(&ListParams::default().labels(&format!("{OF_JOB}={job}"))).await?.items;
    found.sort_by_key(|pod| std::cmp::Reverse(pod.metadata.creation_timestamp.clone()));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(pods: &[Pod], at: Timestamp, silence: Option<&str>) -> Option<String> {
        worst(pods, at).map(|trouble| trouble.sentence(silence))
    }

    #[test]
    fn a_line_that_the_kubelet_cut_in_its_middle_is_not_told() {
        let cut = format!("ret@db/jam\n{}the end", "a line\n".repeat(300));
        assert!(whole_lines(&cut).starts_with("a line\na line") && whole_lines(&cut).ends_with("the end"));
        assert_eq!(whole_lines("first\nsecond"), "first\nsecond", "a short one is whole");
        assert_eq!(whole_lines(&"x".repeat(3000)).len(), 3000, "one line is better than none");
    }

    fn container(name: &str, ready: bool, state: &Value, before: &Value) -> Value {
        json!({"name": name, "image": "x", "imageID": "", "ready": ready, "restartCount": 1, "state": state, "lastState": before})
    }

    fn pod(status: &Value) -> Pod {
        let metadata = json!({"name": "main-1", "creationTimestamp": "2026-01-01T00:00:00Z"});
        serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap()
    }

    fn begun(seconds: i64) -> Timestamp {
        Timestamp::from_jiff("2026-01-01T00:00:00Z".parse().unwrap()).plus_seconds(seconds)
    }

    #[test]
    fn trouble_is_told_in_the_kubelets_words() {
        let waits = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}});
        let ended = json!({"terminated": {"exitCode": 1, "message": "first\nJAM_PG_DSN is not a DSN\n"}});
        let pods = [pod(&json!({"containerStatuses": [container("jam", false, &waits, &ended)]}))];
        assert_eq!(told(&pods, begun(0), None).unwrap(), "pod main-1: CrashLoopBackOff: JAM_PG_DSN is not a DSN");
        let silent = told(&pods, begun(0), Some("it was given another DSN")).unwrap();
        assert_eq!(
            silent,
            "pod main-1: CrashLoopBackOff: exit code 1; what it said is left out: it was given another DSN"
        );
        let waits = json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}});
        let pods = [pod(&json!({"containerStatuses": [container("jam", false, &waits, &json!({}))]}))];
        let silent = told(&pods, begun(0), Some("it was given another DSN")).unwrap();
        assert_eq!(silent, "pod main-1: ErrImagePull: not found", "the kubelet knows no DSN");
    }

    #[test]
    fn of_others_containers_it_is_told_that_they_fail_and_never_what_they_say() {
        let (runs, none) = (json!({"running": {}}), json!({}));
        let waits = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
        let ended = json!({"terminated": {"exitCode": 7, "reason": "Error", "message": "the mesh's own secret",
            "finishedAt": "2026-01-01T00:00:10Z"}});
        let of = |other: Value| pod(&json!({"containerStatuses": [other, container("jam", true, &runs, &none)]}));
        let waiting = [of(container("mesh", false, &waits, &ended))];
        let told = |pods: &[Pod], seconds: i64| told(pods, begun(seconds), None);
        assert_eq!(told(&waiting, 0).unwrap(), "pod main-1: container mesh: CrashLoopBackOff: back-off 10s");
        let crashed = [of(container("mesh", false, &ended, &none))];
        assert_eq!(told(&crashed, 11).unwrap(), "pod main-1: container mesh: Error");
        let late = [of(container("mesh", false, &runs, &none))];
        assert_eq!(told(&late, LATE - 1), None, "it has just begun");
        assert_eq!(told(&late, LATE).unwrap(), "pod main-1: container mesh: it is not ready");
        let status = json!({"initContainerStatuses": [container("prepare", false, &waits, &ended)]});
        assert_eq!(told(&[pod(&status)], 0).unwrap(), "pod main-1: container prepare: CrashLoopBackOff: back-off 10s");
        let both = json!({"containerStatuses": [container("mesh", false, &ended, &none),
            container("jam", false, &json!({"terminated": {"exitCode": 3, "message": "ours\n"}}), &none)]});
        assert_eq!(
            super::ended(&pod(&both)),
            Some((3, Some("ours".into()), None)),
            "the Job is ours, its exit code as well"
        );
        let alone = json!({"containerStatuses": [container("mesh", false, &ended, &none)]});
        assert_eq!(super::ended(&pod(&alone)), None);
    }

    #[test]
    fn a_crash_is_told_also_while_the_container_runs_again_until_it_is_long_ago() {
        let ended = json!({"terminated": {"exitCode": 1, "reason": "Error", "message": "first\ncrashes late\n",
            "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:01:00Z"}});
        let running = json!({"running": {"startedAt": "2026-01-01T00:01:10Z"}});
        let told = |state: &Value, before: &Value, after: i64| {
            told(
                &[pod(&json!({"containerStatuses": [container("jam", true, state, before)]}))],
                begun(60 + after),
                None,
            )
        };
        let words = Some("pod main-1: Error: crashes late".to_owned());
        assert_eq!(told(&ended, &json!({}), 0), words);
        assert_eq!(told(&running, &ended, LONGEST_BACKOFF - 1), words);
        assert_eq!(told(&running, &ended, LONGEST_BACKOFF), None);
        let good = json!({"terminated": {"exitCode": 0, "finishedAt": "2026-01-01T00:01:00Z"}});
        assert_eq!(told(&running, &good, 0), None);
    }

    #[test]
    fn a_crash_of_a_pod_that_is_ready_again_or_on_its_way_out_is_no_trouble() {
        let killed =
            json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-01T00:01:00Z"}});
        let pod = |ready: &str, leaves: Option<&str>| {
            let running = container("jam", true, &json!({"running": {}}), &killed);
            let conditions = json!([{"type": "Ready", "status": ready}]);
            let mut pod = pod(&json!({"conditions": conditions, "containerStatuses": [running]}));
            pod.metadata.deletion_timestamp = leaves.map(|at| serde_json::from_value(json!(at)).unwrap());
            pod
        };
        let told_by_unready = |one: Pod| told(&unready(&[one]), begun(60), None);
        assert_eq!(told_by_unready(pod("True", None)), None);
        assert_eq!(told_by_unready(pod("False", Some("2026-01-01T00:01:01Z"))), None);
        let words = Some("pod main-1: OOMKilled".to_owned());
        assert_eq!(told_by_unready(pod("False", None)), words);
        assert_eq!(told(&[pod("True", None)], begun(60), None), words, "a worker has no readiness but that it runs");
    }
}
