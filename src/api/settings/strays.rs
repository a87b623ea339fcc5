//! Variables of the environment under our prefix that nobody reads: each is a mistake, and none falls back to a default.

use std::collections::BTreeSet;

use super::{Mistake, Source};

/// Where our variables begin.
const PREFIX: &str = "JAM_";
/// Letters that have to change, go or swap before a name is taken for another one.
const TYPING_ERRORS: usize = 2;

/// What of this environment stands under our prefix and is no setting.
pub fn strays(variables: impl Iterator<Item = (String, String)>, known: &BTreeSet<String>) -> Vec<Mistake> {
    let stray = |(name, value): &(String, String)| {
        name.starts_with(PREFIX) && !known.contains(name) && !is_service_link(name, value)
    };
    let mut mistakes: Vec<Mistake> = variables
        .filter(stray)
        .map(|(name, _)| {
            let problem = match meant(&name, known) {
                Some(meant) => format!("is not a setting; {meant} is"),
                None => "is not a setting of jam-api: take it out of the environment".into(),
            };
            Mistake::of(&name, problem, Some(Source::Variable))
        })
        .collect();
    mistakes.sort_by(|a, b| a.key.cmp(&b.key));
    mistakes
}

/// The setting that the name is nearly, or begins or goes on.
fn meant<'k>(name: &str, known: &'k BTreeSet<String>) -> Option<&'k String> {
    let nearly = known.iter().find(|key| strsim::osa_distance(key, name) <= TYPING_ERRORS);
    nearly.or_else(|| known.iter().find(|key| key.starts_with(name) && name.len() > PREFIX.len() + 3))
}

/// Kubernetes tells every pod of the Services in its namespace: one called `jam` gives JAM_SERVICE_HOST, JAM_PORT_80_TCP and more.
fn is_service_link(name: &str, value: &str) -> bool {
    let ports = |text: &str| text.starts_with(|first: char| first.is_ascii_digit());
    name.ends_with("_SERVICE_HOST")
        // Always an address, such as tcp://10.0.0.1:80.
        || (name.ends_with("_PORT") && value.contains("://"))
        || name.contains("_SERVICE_PORT")
        || name.split("_PORT_").skip(1).any(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_under_our_prefix_that_is_no_setting_is_refused() {
        let known =
            ["JAM_STORE", "JAM_LISTEN", "JAM_RATE_LIMIT_PER_MINUTE", "JAM_AUTH_REQUIRED"].map(String::from).into();
        let valued = |name: &str| {
            let value = if name == "JAM_PORT" { "tcp://10.0.0.1:80" } else { "9" };
            (name.to_owned(), value.to_owned())
        };
        let names = [
            "JAM_STOER",
            "JAM_STORE",
            "JAM_LISTNE",
            "JAM_TOKEN",
            "JAM_AUTH",
            "JAM_RATE_LIMIT_PER_MIN",
            "PATH",
            "JAM_SERVICE_HOST",
            "JAM_PORT",
            "JAM_LISTEN_PORT",
            "JAM_PORT_80_TCP_ADDR",
            "JAM_API_SERVICE_PORT_HTTP",
        ];
        let mistakes = strays(names.map(valued).into_iter(), &known);
        let lines: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "JAM_AUTH is not a setting; JAM_AUTH_REQUIRED is (environment)",
                "JAM_LISTEN_PORT is not a setting of jam-api: take it out of the environment (environment)",
                "JAM_LISTNE is not a setting; JAM_LISTEN is (environment)",
                "JAM_RATE_LIMIT_PER_MIN is not a setting; JAM_RATE_LIMIT_PER_MINUTE is (environment)",
                "JAM_STOER is not a setting; JAM_STORE is (environment)",
                "JAM_TOKEN is not a setting of jam-api: take it out of the environment (environment)"
            ]
        );
    }
}
