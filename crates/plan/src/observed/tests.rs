//! Laws of reading: what Kubernetes objects say, and that no secret is kept.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};

use super::deployment::is_scaled_by_others;
use super::*;
use crate::{Kind, ObjectRef};

fn secret(data: &[(&str, &str)]) -> Secret {
    let data = data.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
    Secret { data: Some(data.collect()), ..Secret::default() }
}

#[test]
fn a_secret_key_is_missing_empty_or_a_hash() {
    let filled = secret(&[("dsn", "postgres://a"), ("empty", ""), ("blank", " \n")]);
    assert_eq!(SecretKey::of(None, "dsn", "u"), SecretKey::NoSecret);
    assert_eq!(SecretKey::of(Some(&filled), "other", "u"), SecretKey::NoKey);
    assert_eq!(SecretKey::of(Some(&Secret::default()), "dsn", "u"), SecretKey::NoKey);
    assert_eq!(SecretKey::of(Some(&filled), "empty", "u"), SecretKey::Empty);
    assert_eq!(SecretKey::of(Some(&filled), "blank", "u"), SecretKey::Empty);
    let present = SecretKey::of(Some(&filled), "dsn", "u");
    assert!(!format!("{present:?}").contains("postgres"));
    assert_ne!(present, SecretKey::of(Some(&filled), "dsn", "another instance"));
    // `kubectl create secret --from-file` keeps the newline at the end of a file.
    assert_eq!(present, SecretKey::of(Some(&secret(&[("dsn", "postgres://a\n")])), "dsn", "u"));
}

#[test]
fn a_token_is_kept_as_its_hash_and_its_companions_are_checked() {
    let token = "0123456789abcdef0123456789abcdef";
    let matching = |data: &[(&str, &str)]| TokenSecret::of("demo", &secret(data)).holding.matching;
    let hash = jam_domain::token::TokenHash::of(token);
    let (id, bearer) = (hash.id().to_string(), format!("Bearer {token}"));
    assert!(matching(&[("token", token), ("id", &id), ("authorization", &bearer)]));
    assert!(!matching(&[("token", token), ("id", "00000000"), ("authorization", &bearer)]));
    assert!(!matching(&[("token", token)]));
    let read = TokenSecret::of("demo", &secret(&[("token", token), ("previous", token), ("retired", token)]));
    assert_eq!(read.holding.slots.token, Some(hash));
    assert!(!format!("{read:?}").contains(token));
}

#[test]
fn the_users_own_tokens_are_kept_as_hashes_and_a_newline_is_no_part_of_them() {
    let tokens = secret(&[("a", "0123456789abcdef\n"), ("b", "short")]);
    let own = OwnTokens::of("mine", Some(&tokens));
    let hash = jam_domain::token::TokenHash::of("0123456789abcdef");
    assert_eq!((own.hashes, own.unusable), (vec![("a".to_owned(), hash)], vec!["b".to_owned()]));
    assert!(!OwnTokens::of("mine", None).exists);
}

#[test]
fn a_job_is_over_when_a_condition_says_so() {
    let job = |conditions: Value| -> Job {
        serde_json::from_value(json!({
            "metadata": {"name": "j", "labels": {"jam.network/migration": "k"}, "annotations": {"jam.network/migration-attempt": "2"}},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    };
    let ended = |kind: &str| {
        json!([{"type": kind, "status": "True", "reason": "BackoffLimitExceeded", "message": "too many",
        "lastTransitionTime": "1970-01-01T00:00:07Z"}])
    };
    assert_eq!(MigrationJob::of(&job(json!([])), None).state, JobState::Running);
    // A Job whose pods are still ending is not over: another one must not start.
    assert_eq!(MigrationJob::of(&job(ended("FailureTarget")), None).state, JobState::Running);
    let complete = MigrationJob::of(&job(ended("Complete")), None);
    assert_eq!((complete.state, complete.attempt, complete.key.as_str()), (JobState::Complete, 2, "k"));
    assert_eq!(complete.finished_at, Some(Timestamp::from_micros(7_000_000)));
    let failed = |words: Option<&str>| MigrationJob::of(&job(ended("Failed")), Some(&pod(1, words, None))).state;
    assert_eq!(failed(None), JobState::Failed { exit_code: Some(1), message: "BackoffLimitExceeded: too many".into() });
    assert_eq!(failed(Some("no route")), JobState::Failed { exit_code: Some(1), message: "no route".into() });
}

#[test]
fn a_job_that_its_failure_policy_ended_is_final_also_when_its_pod_is_gone() {
    let ended = |reason: &str| -> Job {
        serde_json::from_value(json!({
            "metadata": {"name": "j"},
            "status": {"conditions": [{"type": "Failed", "status": "True", "reason": reason, "message": "code 3",
                "lastTransitionTime": "1970-01-01T00:00:07Z"}]},
        }))
        .unwrap()
    };
    for (reason, code) in [("PodFailurePolicy", Some(3)), ("BackoffLimitExceeded", None)] {
        let state = MigrationJob::of(&ended(reason), None).state;
        assert_eq!(state, JobState::Failed { exit_code: code, message: format!("{reason}: code 3") });
    }
    let mut late = ended("PodFailurePolicy");
    let told = "Container jam for pod jam/x failed with exit code 124 matching FailJob rule at index 1";
    late.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].message = Some(told.into());
    let state = MigrationJob::of(&late, None).state;
    assert!(matches!(state, JobState::Failed { exit_code: Some(124), message: _ }), "its time was up: {state:?}");
}

fn pod(exit_code: i32, words: Option<&str>, ended: Option<i64>) -> LastWords {
    let ended_at = ended.map(|at| Timestamp::from_micros(at * 1_000_000));
    LastWords { exit_code: Some(exit_code), text: words.map(str::to_owned), silence: None, ended_at }
}

/// A Job whose deadline was at 700.
fn cut_short(failed: i32) -> Job {
    serde_json::from_value(json!({
        "metadata": {"name": "j"},
        "spec": {"activeDeadlineSeconds": 600, "template": {}},
        "status": {"startTime": "1970-01-01T00:01:40Z", "failed": failed, "conditions": [{"type": "Failed", "status": "True",
            "reason": "DeadlineExceeded", "message": "Job was active longer than specified deadline"}]},
    }))
    .unwrap()
}

#[test]
fn a_cleanup_that_its_deadline_ended_tells_no_word_of_an_earlier_pod_as_its_own_and_what_that_one_did() {
    let words = r#"{"dry_run":false,"error":"no route","archived":{"packages":5},"deleted":{}}"#;
    let said = "DeadlineExceeded: Job was active longer than specified deadline of 600 s";
    let earlier = "its last pod had 240 s of that and left no words; a pod before it said: no route";
    for (words, archived) in [(words, Some(5)), ("no route", None)] {
        let run = CleanupState::ended(&[cut_short(2)]).remove(0).with_words(&[pod(1, Some(words), Some(460))]);
        assert_eq!(run.failure, Some(format!("{said}; {earlier}")));
        assert_eq!(run.outcome.map(|did| did.archived["packages"]), archived);
    }
    let none = CleanupState::ended(&[cut_short(1)]).remove(0).with_words(&[]);
    assert_eq!(none.failure, Some(format!("{said}; its last pod left no words")));
}

#[test]
fn a_job_that_its_deadline_ended_tells_how_much_of_the_time_its_last_pod_had_and_no_word_of_another_as_its_own() {
    let told = |failed: i32, pod: Option<LastWords>| match MigrationJob::of(&cut_short(failed), pod.as_ref()).state {
        JobState::Failed { exit_code: None, message } => message,
        other => panic!("{other:?}"),
    };
    let said = "DeadlineExceeded: Job was active longer than specified deadline of 600 s";
    for (failed, pod, rest) in [
        (1, None, "its last pod left no words"),
        (2, None, "its last pod left no words, nor did one before it"),
        (2, Some(pod(1, Some("no route"), None)), "its last pod left no words; a pod before it said: no route"),
        (
            2,
            Some(pod(1, Some("no route"), Some(460))),
            "its last pod had 240 s of that and left no words; a pod before it said: no route",
        ),
        (2, Some(pod(137, None, Some(460))), "its last pod had 240 s of that and left no words, nor did one before it"),
        (1, Some(pod(143, Some("told to stop"), Some(701))), "its pod said: told to stop"),
    ] {
        assert_eq!(told(failed, pod), format!("{said}; {rest}"));
    }
}

#[test]
fn a_dry_run_says_what_would_be_applied_or_why_it_could_not() {
    let job = |kind: &str| -> Job {
        serde_json::from_value(json!({
            "metadata": {"name": "dry"},
            "status": {"conditions": [{"type": kind, "status": "True", "reason": "R", "message": "m"}]},
        }))
        .unwrap()
    };
    let said = |kind: &str, words: Option<&str>| MigrationPreview::of(&job(kind), Some(&pod(0, words, None))).said;
    assert_eq!(said("Suspended", None), PreviewSaid::Nothing);
    assert_eq!(said("Complete", Some("would apply: 4 x")), PreviewSaid::Would("would apply: 4 x".into()));
    assert_eq!(said("Failed", Some("no route")), PreviewSaid::Failed("no route".into()));
    assert_eq!(said("Failed", None), PreviewSaid::Failed("R: m".into()));
}

#[test]
fn why_pods_cannot_be_made_is_read_while_it_is_so() {
    let failure = |status: &str| {
        let told = serde_json::json!({"type": "ReplicaFailure", "status": status, "reason": "FailedCreate", "message": "no PriorityClass"});
        let deployment = serde_json::json!({"metadata": {"name": "main"}, "status": {"conditions": [told]}});
        DeploymentState::of(&serde_json::from_value(deployment).unwrap()).create_failure
    };
    assert_eq!((failure("True").as_deref(), failure("False")), (Some("no PriorityClass"), None));
}

#[test]
fn a_deployment_is_settled_when_only_wanted_pods_are_left_and_available() {
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"generation": 3, "annotations": {"jam.network/rendered": "h"}},
        "spec": {"replicas": 2, "selector": {}, "template": {"spec": {
            "containers": [{"name": "jam", "image": "jam:1"}],
            "volumes": [{"name": "config", "configMap": {"name": "main-config-1"}}],
        }}},
        "status": {"observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2,
            "conditions": [{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}]},
    }))
    .unwrap();
    let settled = DeploymentState::of(&deployment);
    assert!(settled.is_settled() && settled.deadline_exceeded.is_none());
    assert_eq!((settled.image.as_deref(), settled.config.as_deref()), (Some("jam:1"), Some("main-config-1")));
    assert_eq!(settled.rendered.as_deref(), Some("h"));
    for unsettled in [
        DeploymentState { generation: 4, ..settled.clone() },
        DeploymentState { updated: 1, ..settled.clone() },
        DeploymentState { replicas: 3, ..settled.clone() },
        DeploymentState { available: 1, ..settled.clone() },
    ] {
        assert!(!unsettled.is_settled(), "{unsettled:?}");
    }
}

#[test]
fn replicas_are_taken_over_by_whoever_else_wrote_them() {
    let with = |manager: &str, subresource: Option<&str>, owns: bool| {
        let fields = if owns { json!({"f:spec": {"f:replicas": {}}}) } else { json!({"f:spec": {"f:paused": {}}}) };
        let entry = json!({"manager": manager, "operation": "Update", "subresource": subresource, "fieldsV1": fields});
        let metadata = serde_json::from_value(json!({"managedFields": [entry]})).unwrap();
        is_scaled_by_others(&metadata)
    };
    assert!(with("kube-controller-manager", Some("scale"), true));
    assert!(with("kubectl", None, true) && with("jam-operator", Some("scale"), true));
    assert!(!with("jam-operator", None, true) && !with("kubectl", None, false));
}

#[test]
fn an_object_is_ours_by_its_controller_and_a_kept_one_by_its_labels() {
    let object = ObjectRef { kind: Kind::Secret, name: "main-token-demo".into() };
    let judge = |metadata: Value| {
        Foreign::judge(&object, &serde_json::from_value(metadata).unwrap(), "main", "uid-1")
            .map(|foreign| foreign.owner)
    };
    let owner = |uid: &str| json!([{"apiVersion": "v1", "kind": "JamInstance", "name": "main", "uid": uid, "controller": true}]);
    let labels =
        |instance: &str| json!({"app.kubernetes.io/managed-by": "jam-operator", "jam.network/instance": instance});
    assert_eq!(judge(json!({"ownerReferences": owner("uid-1")})), None);
    assert_eq!(judge(json!({"labels": labels("main")})), None);
    assert_eq!(
        judge(json!({"ownerReferences": owner("uid-2"), "labels": labels("main")})),
        Some("JamInstance main".into())
    );
    assert_eq!(
        judge(json!({"labels": labels("other")})),
        Some("JamInstance other, by its label jam.network/instance".into())
    );
    assert_eq!(judge(json!({"labels": {"app.kubernetes.io/managed-by": "Helm"}})), Some("Helm, by its label".into()));
    assert_eq!(judge(json!({})), Some("nobody that it names".into()));
}

#[test]
fn what_is_wrong_with_servers_and_with_workers_is_told_of_both_and_cut_only_then() {
    let told = |servers: Option<&str>, workers: Option<&str>| {
        let (trouble, worker_trouble) = (servers.map(str::to_owned), workers.map(str::to_owned));
        Observed { trouble, worker_trouble, ..Observed::nothing(crate::fixtures::at(0)) }.told_trouble()
    };
    assert_eq!(told(None, None), None);
    assert_eq!(told(Some("a"), None).as_deref(), Some("a"));
    assert_eq!(told(None, Some("b")).as_deref(), Some("b"));
    assert_eq!(told(Some("a"), Some("b")).as_deref(), Some("a; b"));
    assert_eq!(told(Some("no room"), Some("no room")).as_deref(), Some("no room"));
    let long = "ü".repeat(300);
    assert_eq!(told(Some(&long), None), Some(long.clone()));
    let both = told(Some(&long), Some("of a worker")).unwrap();
    assert!(both.starts_with(&"ü".repeat(200)) && both.ends_with("ü…; of a worker"), "{both}");
}
