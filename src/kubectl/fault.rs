//! What can go wrong: each fault says what, where and what to do next, and has a code and an exit.

use std::fmt;
use std::io;

use kube::core::Status;

use crate::operator::chain;
use crate::table::plain_line;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Fault {
    /// The command line, or the kubeconfig that it names, cannot be used.
    Usage(String),
    /// The API server did not answer.
    Unreachable(String),
    /// The cluster does not know JamInstances.
    NoDefinition,
    /// What was named is not there.
    NotFound(String),
    /// Whoever asks may not.
    Forbidden(String),
    /// It cannot be done as things are.
    Refused(String),
    /// It was waited for, and ended otherwise.
    Ended(String),
    /// It was waited for, and has not come.
    Timeout(String),
    /// A result can't be written.
    Output(io::Error),
}

impl Fault {
    /// What the API server said when it was asked for this: `doing` is a verb and its object.
    pub fn of(doing: &str, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::answered(doing, &status),
            other => Self::Unreachable(format!(
                "cannot {doing}: {}; is the cluster up? kubectl cluster-info asks the same one",
                chain(&other)
            )),
        }
    }

    fn answered(doing: &str, status: &Status) -> Self {
        let said = &status.message;
        match status.code {
            401 => Self::Forbidden(format!(
                "cannot {doing}: the cluster does not know who asks; log in again, or choose another --context"
            )),
            403 => Self::Forbidden(format!("cannot {doing}: {said}; {}", missing_right(said))),
            404 => Self::NotFound(format!("cannot {doing}: {said}")),
            _ => Self::Refused(format!("cannot {doing}: {said}")),
        }
    }

    /// The word in parentheses.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Usage(_) => "usage",
            Self::Unreachable(_) => "unreachable",
            Self::NoDefinition => "no_definition",
            Self::NotFound(_) => "not_found",
            Self::Forbidden(_) => "forbidden",
            Self::Refused(_) => "refused",
            Self::Ended(_) => "failed",
            Self::Timeout(_) => "timeout",
            Self::Output(_) => "output",
        }
    }

    /// The exit code: 1 refused or ended badly, 2 usage, 3 not found, 4 unreachable.
    pub fn exit(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::NoDefinition | Self::NotFound(_) => 3,
            Self::Unreachable(_) => 4,
            Self::Forbidden(_) | Self::Refused(_) | Self::Ended(_) | Self::Timeout(_) | Self::Output(_) => 1,
        }
    }

    /// `error (code)`, in one line whatever the server wrote.
    pub fn line(&self) -> String {
        plain_line(&format!("{self} ({})", self.code()))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(said)
            | Self::Unreachable(said)
            | Self::NotFound(said)
            | Self::Forbidden(said)
            | Self::Refused(said)
            | Self::Ended(said)
            | Self::Timeout(said) => f.write_str(said),
            Self::NoDefinition => f.write_str(
                "this cluster does not know JamInstances; install the operator: \
                 helm install jam-operator charts/jam-operator -n jam-system --create-namespace, \
                 or kubectl apply --server-side -f manifests/install.yaml",
            ),
            Self::Output(cause) => write!(f, "the result cannot be written: {cause}"),
        }
    }
}

/// Which right to ask for, out of the API server's sentence: `… cannot list resource "pods" in API group "" in the namespace "jam"`.
fn missing_right(said: &str) -> String {
    let quoted = |after: &str| said.split_once(after)?.1.split('"').next();
    let verb = said.split_once(" cannot ").and_then(|(_, rest)| rest.split(' ').next());
    let (Some(verb), Some(resource)) = (verb, quoted("resource \"")) else {
        return "ask whoever gives out rights in this cluster".into();
    };
    let group = quoted("API group \"").filter(|group| !group.is_empty());
    let what = group.map_or_else(|| resource.to_owned(), |group| format!("{resource}.{group}"));
    let place = quoted("in the namespace \"").map_or_else(|| " -A".into(), |namespace| format!(" -n {namespace}"));
    format!("the right to {verb} {what} is missing: kubectl auth can-i {verb} {what}{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_the_api_server_names_the_right_that_is_missing() {
        let said =
            "pods is forbidden: User \"eve\" cannot list resource \"pods\" in API group \"\" in the namespace \"jam\"";
        assert_eq!(missing_right(said), "the right to list pods is missing: kubectl auth can-i list pods -n jam");
        let said = "jaminstances.jam.network is forbidden: User \"eve\" cannot list resource \"jaminstances\" in API group \"jam.network\" at the cluster scope";
        assert!(missing_right(said).ends_with("kubectl auth can-i list jaminstances.jam.network -A"));
        assert_eq!(missing_right("no"), "ask whoever gives out rights in this cluster");
    }
}
