//! One enum of reasons: each has its place in the runbooks, and its alert with a page when somebody should know.

use std::fs;

use jam_plan::{Reason, alerts};

use crate::crd_generated::repository;

fn page(name: &str) -> String {
    let path = repository(&format!("docs/runbooks/{name}.md"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text under a heading, up to the next one.
fn section<'a>(page: &'a str, heading: &str) -> Option<&'a str> {
    let (_, rest) = page.split_once(&format!("\n## {heading}\n"))?;
    Some(rest.split("\n#").next().unwrap_or_default().trim())
}

#[test]
fn every_reason_has_its_runbook() {
    let all = page("README");
    for reason in Reason::ALL {
        let said =
            section(&all, reason.as_str()).unwrap_or_else(|| panic!("docs/runbooks/README.md lacks ## {reason}"));
        assert!(said.len() > 30, "{reason}: {said}");
        if reason.is_warning() {
            for part in ["Meaning", "Impact", "Diagnosis", "Mitigation"] {
                assert!(said.contains(&format!("- **{part}**: ")), "{reason} lacks {part}");
            }
        }
    }
}

#[test]
fn every_alert_has_a_page_that_says_what_to_do_and_no_page_is_left_over() {
    let all: Vec<&str> = alerts::OF_INSTANCE.iter().chain(&alerts::OF_OPERATOR).map(|alert| alert.name).collect();
    let index = page("README");
    for name in &all {
        let page = page(name);
        for part in ["Meaning", "Impact", "Diagnosis", "Mitigation"] {
            assert!(section(&page, part).is_some_and(|said| said.len() > 20), "{name} lacks {part}");
        }
        assert!(index.contains(&format!("[{name}]({name}.md)")), "{name} is not in the index");
    }
    for entry in fs::read_dir(repository("docs/runbooks")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().trim_end_matches(".md").to_owned();
        assert!(name == "README" || all.contains(&name.as_str()), "{name} is the page of no alert");
    }
}

#[test]
fn alerts_and_panels_speak_of_metrics_that_there_are() {
    let text = ["src/api/metrics.rs", "src/operator/metrics.rs", "src/api/work.rs"]
        .map(|path| fs::read_to_string(repository(path)).unwrap())
        .concat();
    let dashboard = fs::read_to_string(repository("crates/plan/src/dashboards.rs")).unwrap();
    let expressions = alerts::OF_INSTANCE.iter().chain(&alerts::OF_OPERATOR).map(|alert| alert.expression);
    let mut seen = 0;
    for expression in expressions.chain([dashboard.as_str()]) {
        for word in expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            let metric = word.strip_suffix("_bucket").unwrap_or(word);
            if metric.starts_with("jam_") {
                seen += 1;
                assert!(text.contains(&format!("\"{metric}\"")), "{metric} is counted nowhere");
            }
        }
    }
    assert!(seen > 20, "{seen}");
}
