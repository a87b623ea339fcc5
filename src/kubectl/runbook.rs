//! The runbooks, as they are in docs/runbooks: what a page says is what `explain` says.

const REASONS: &str = include_str!("../../docs/runbooks/README.md");

macro_rules! pages {
    ($($name:literal),+ $(,)?) => {
        /// The page of each alert.
        pub const PAGES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../docs/runbooks/", $name, ".md")))),+];
    };
}

pages! {
    "JamCleanupFailing", "JamCleanupOverdue", "JamDatabaseUnreachable", "JamInstanceNotReady", "JamInstanceStalled",
    "JamKindNotServed", "JamMigrationFailed", "JamOperatorDown", "JamOperatorReconcileErrors", "JamOperatorWatchStalled",
    "JamPendingQueueHigh", "JamProcessFailureRateHigh", "JamRateLimitSustained", "JamRolledBack", "JamTokenRotationOverdue",
}

/// What stands under the heading of a reason.
pub fn of_reason(reason: &str) -> Option<&'static str> {
    section(REASONS, reason)
}

/// The page of an alert.
pub fn of_alert(alert: &str) -> Option<&'static str> {
    PAGES.iter().find(|(name, _)| *name == alert).map(|(_, page)| *page)
}

/// What stands under one of a page's headings.
pub fn section<'a>(page: &'a str, heading: &str) -> Option<&'a str> {
    let (_, rest) = page.split_once(&format!("\n## {heading}\n"))?;
    Some(rest.split("\n#").next().unwrap_or_default().trim())
}

/// The pages that a text refers to, as `[JamRolledBack](JamRolledBack.md)`.
pub fn linked(text: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    PAGES.iter().copied().filter(move |(name, _)| text.contains(&format!("({name}.md)")))
}

/// Markdown as a terminal shows it: without marks of emphasis and links.
pub fn plain(text: &str) -> String {
    let mut plain = text.replace("**", "");
    for (name, _) in PAGES {
        plain = plain.replace(&format!("[{name}]({name}.md)"), name);
    }
    plain
}

#[cfg(test)]
mod tests {
    use jam_plan::{Reason, alerts};

    use super::*;

    #[test]
    fn every_reason_and_every_alert_can_be_explained() {
        for reason in Reason::ALL {
            assert!(of_reason(reason.as_str()).is_some_and(|text| text.len() > 30), "{reason}");
        }
        for alert in alerts::OF_INSTANCE.iter().chain(&alerts::OF_OPERATOR) {
            assert!(of_alert(alert.name).is_some_and(|page| section(page, "Mitigation").is_some()), "{}", alert.name);
        }
    }

    #[test]
    fn no_link_of_the_runbooks_leads_out_of_the_program() {
        for reason in Reason::ALL {
            let text = of_reason(reason.as_str()).unwrap_or_default();
            assert_eq!(text.matches(".md)").count(), linked(text).count(), "{reason}");
        }
        assert_eq!(
            plain("- **Mitigation**: See [JamRolledBack](JamRolledBack.md)."),
            "- Mitigation: See JamRolledBack."
        );
    }
}
