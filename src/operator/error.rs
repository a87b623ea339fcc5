//! Why a reconcile did not reach its end, by cause. A refused resource is no error: it is an ending.

use std::time::Duration;

use jam_plan::Refusal;
use kube::core::Status;

use super::client::NotLeading;
use super::publish::UNKNOWN_FIELD;

/// Why a reconcile did not reach its end. It is tried again, each instance at its own pace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be read.
    #[error("{what} cannot be read")]
    Read {
        /// Kind and name.
        what: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// Something could not be written.
    #[error("{what} cannot be written")]
    Write {
        /// Kind and name.
        what: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// Objects of wanted names are on their way out, or will be; everything else was done.
    #[error("to be deleted, and made again after that: {what}")]
    Leaving {
        /// Each object and what it waits for.
        what: String,
    },
    /// Secrets of consumers could not be written; everything else was done.
    #[error("{what}")]
    Held {
        /// Each consumer and what the API server said.
        what: String,
    },
    /// A rule is in the way of children, such as a quota or an admission; everything that does without them was done.
    #[error("{what}")]
    Denied {
        /// The first child, and which others.
        what: String,
        /// What is refused for good beside them, which is the graver word.
        refused: Option<Refusal>,
        /// What the API server said of the first.
        source: kube::Error,
    },
    /// The whole took too long.
    #[error("it took longer than {0:?}")]
    Slow(Duration),
    /// The operating system gave no random numbers.
    #[error("no random numbers: {0}")]
    NoRandom(String),
}

impl Error {
    /// A read that failed.
    pub fn read(what: impl ToString) -> impl FnOnce(kube::Error) -> Self {
        move |source| Error::Read { what: what.to_string(), source }
    }

    /// A write that failed.
    pub fn write(what: impl ToString) -> impl FnOnce(kube::Error) -> Self {
        move |source| Error::Write { what: what.to_string(), source }
    }

    /// The cause as a word, for metrics and logs: a bounded set.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Read { source, .. } | Error::Write { source, .. } | Error::Denied { source, .. } => code_of(source),
            Error::Leaving { .. } => "leaving",
            Error::Held { .. } => "held",
            Error::Slow(_) => "slow",
            Error::NoRandom(_) => "no_random",
        }
    }

    /// What the API server has against the very object that was to be written.
    pub fn objection(&self) -> Option<String> {
        match self {
            Error::Write { source, .. } => objection(source),
            Error::Read { .. }
            | Error::Leaving { .. }
            | Error::Held { .. }
            | Error::Denied { .. }
            | Error::Slow(_)
            | Error::NoRandom(_) => None,
        }
    }

    /// When it is tried again.
    pub fn retry(&self) -> Retry {
        match self {
            Error::Read { source, .. } | Error::Write { source, .. } if status_of(source) == Some(409) => Retry::Soon,
            // Its end is reported by the watch; the pause is for what never ends, such as a finalizer that nobody serves.
            Error::Leaving { .. }
            | Error::Held { .. }
            | Error::Denied { .. }
            | Error::Read { .. }
            | Error::Write { .. }
            | Error::Slow(_)
            | Error::NoRandom(_) => Retry::Backoff,
        }
    }

    /// Whether the instance itself is no longer there: there is nobody to tell.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Write { source, .. } | Error::Read { source, .. } if status_of(source) == Some(404))
    }
}

/// Why the API server did not take an object, where neither the server nor the time is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objection {
    /// It is wrong, or the server does not know its fields: the same object gets the same answer.
    Object,
    /// A rule beside it is in the way: a quota, an admission, a right. It may go, and nothing reports that.
    Rule,
}

impl Objection {
    /// What kind of objection an answer is, if it is one.
    pub fn of(error: &kube::Error) -> Option<(Self, &str)> {
        let kube::Error::Api(status) = error else { return None };
        let Status { code, message, .. } = &**status;
        let kind = match code {
            _ if is_of_the_end(status) => return None,
            400..=500 if is_admission(message) => Objection::Rule,
            403 => Objection::Rule,
            500 if message.contains("webhook") => Objection::Rule,
            400 | 422 => Objection::Object,
            500 if MISREAD.iter().any(|words| message.contains(words)) => Objection::Object,
            _ => return None,
        };
        Some((kind, message))
    }
}

/// Whether the namespace is going: nothing can be made in it any more, so the first answer speaks for every other object.
fn is_of_the_end(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// Begins of what the API server answers with 500 where the object cannot be read or merged as what it says it is.
const MISREAD: [&str; 3] =
    [UNKNOWN_FIELD, "failed to create typed patch object", "unable to convert unstructured object"];

/// Whether an admission speaks, whatever code it has chosen.
fn is_admission(message: &str) -> bool {
    ["AdmissionPolicy '", "admission webhook \""].iter().any(|words| message.contains(words))
}

/// What the API server has against this very object, where it is not the server or the time that is wrong: a quota, an admission.
pub fn objection(error: &kube::Error) -> Option<String> {
    Objection::of(error).map(|(_, words)| words.to_owned())
}

/// Whether nothing but fields that nobody may change keeps an object from being put right, and all of them are among these.
pub fn is_immutable(error: &kube::Error, fields: &[&str]) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    let fixed = |field: &str, message: &str| fields.contains(&field) && message.contains("field is immutable");
    status.code == 422 && !causes.is_empty() && causes.iter().all(|cause| fixed(&cause.field, &cause.message))
}

/// When something that failed is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// In a second or two: somebody else was faster.
    Soon,
    /// After a pause that grows with each failure.
    Backoff,
}

fn status_of(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

fn code_of(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) => match status.code {
            403 => "api_forbidden",
            404 => "api_not_found",
            409 => "api_conflict",
            429 => "api_throttled",
            400..=499 => "api_refused",
            _ => "api_failed",
        },
        kube::Error::Service(cause) if cause.is::<NotLeading>() => "not_leading",
        kube::Error::Service(cause) if cause.is::<tower::timeout::error::Elapsed>() => "api_timeout",
        kube::Error::SerdeError(_) => "api_unreadable",
        _ => "api_unreachable",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answer(code: u16, message: &str) -> kube::Error {
        kube::Error::Api(Status::failure(message, "").with_code(code).boxed())
    }

    #[test]
    fn whose_fault_an_answer_is() {
        use Objection::{Object, Rule};
        for (code, message, wanted) in [
            (422, "Deployment is invalid", Some(Object)),
            (400, "unknown", Some(Object)),
            (500, ".spec.template.spec.foo: field not declared in schema", Some(Object)),
            (
                500,
                "failed to create typed patch object (a/b; apps/v1, Kind=Deployment): duplicate entries",
                Some(Object),
            ),
            (
                500,
                "unable to convert unstructured object to apps/v1, Kind=Deployment: quantities must match",
                Some(Object),
            ),
            (403, "exceeded quota", Some(Rule)),
            (422, "x is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no", Some(Rule)),
            (422, "admission webhook \"a.b\" denied the request: no", Some(Rule)),
            (409, "admission webhook \"a.b\" denied the request: no", Some(Rule)),
            (500, "failed calling webhook \"a.b\": no route", Some(Rule)),
            (409, "conflict", None),
            (500, "etcd", None),
            (429, "", None),
            (404, "namespace", None),
        ] {
            assert_eq!(Objection::of(&answer(code, message)).map(|(kind, _)| kind), wanted, "{code} {message}");
        }
    }

    #[test]
    fn that_the_namespace_is_going_ends_a_walk_and_is_no_rule_beside_one_object() {
        let cause = json!({"reason": "NamespaceTerminating", "message": "namespace a is being terminated"});
        let status = json!({"code": 403, "message": "forbidden", "details": {"causes": [cause]}});
        let going = kube::Error::Api(serde_json::from_value::<Status>(status).unwrap().boxed());
        assert!(Objection::of(&going).is_none());
        assert!(Objection::of(&answer(403, "forbidden")).is_some());
    }

    #[test]
    fn only_where_nothing_else_is_wrong_an_object_is_to_be_made_anew() {
        let cause = |field: &str, message: &str| json!({"field": field, "message": message});
        let refused = |causes: Vec<Value>| {
            let status = json!({"code": 422, "details": {"causes": causes}});
            kube::Error::Api(serde_json::from_value::<Status>(status).unwrap().boxed())
        };
        let fixed = cause("spec.selector", "Invalid value: {}: field is immutable");
        let wrong = cause("spec.template.spec.containers[0].env[0].name", "Invalid value: \"field is immutable\"");
        assert!(is_immutable(&refused(vec![fixed.clone()]), &["spec.selector"]));
        assert!(!is_immutable(&refused(vec![fixed.clone()]), &[]));
        assert!(!is_immutable(&refused(vec![fixed, wrong.clone()]), &["spec.selector"]), "it could not be made again");
        assert!(!is_immutable(&refused(vec![wrong]), &["spec.selector"]));
        assert!(!is_immutable(&refused(Vec::new()), &["spec.selector"]));
    }
}
