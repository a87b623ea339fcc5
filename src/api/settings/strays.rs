//! Variables of the environment that nobody reads: one that is nearly a setting is a mistake, not a default.

use std::collections::BTreeSet;

use super::{Mistake, Source};

/// Where our variables begin.
const PREFIX: &str = "JAM_";
/// Letters that have to change, go or swap before a name is taken for another one.
const TYPING_ERRORS: usize = 2;

/// What is in the environment under our prefix and is no setting.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Strays {
    /// Nearly a setting: refused.
    pub mistakes: Vec<Mistake>,
    /// Something else: said once, and not read.
    pub unread: Vec<String>,
}

impl Strays {
    /// Looks through the names in the environment for what is not known.
    pub fn among(names: impl Iterator<Item = String>, known: &BTreeSet<String>) -> Self {
        let mut strays = Self::default();
        for name in names.filter(|name| name.starts_with(PREFIX) && !known.contains(name) && !is_service_link(name)) {
            match known.iter().find(|key| strsim::osa_distance(key, &name) <= TYPING_ERRORS) {
                Some(meant) => {
                    let problem = format!("is not a setting; {meant} is");
                    strays.mistakes.push(Mistake::of(&name, problem, Some(Source::Variable)));
                }
                None => strays.unread.push(name),
            }
        }
        strays.mistakes.sort_by(|a, b| a.key.cmp(&b.key));
        strays.unread.sort();
        strays
    }
}

/// Kubernetes tells every pod of the Services in its namespace: one called `jam` gives JAM_SERVICE_HOST, JAM_PORT_80_TCP and more.
fn is_service_link(name: &str) -> bool {
    let ports = |text: &str| text.starts_with(|first: char| first.is_ascii_digit());
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_PORT")
        || name.contains("_SERVICE_PORT")
        || name.split("_PORT_").skip(1).any(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_nearly_a_setting_is_refused_and_others_are_said() {
        let known = ["JAM_STORE", "JAM_LISTEN"].map(String::from).into();
        let names = [
            "JAM_STOER",
            "JAM_STORE",
            "JAM_LISTNE",
            "JAM_TOKEN",
            "PATH",
            "JAM_SERVICE_HOST",
            "JAM_PORT",
            "JAM_PORT_80_TCP_ADDR",
            "JAM_API_SERVICE_PORT_HTTP",
        ];
        let Strays { mistakes, unread } = Strays::among(names.map(String::from).into_iter(), &known);
        let lines: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "JAM_LISTNE is not a setting; JAM_LISTEN is (environment)",
                "JAM_STOER is not a setting; JAM_STORE is (environment)"
            ]
        );
        assert_eq!(unread, ["JAM_TOKEN"]);
    }
}
