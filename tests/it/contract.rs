//! docs/CONTRACT.md is held to the tree: every test it names is there and runs, every gap names the issue that closes it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A row: where it stands, the sentence, the tests, what is missing.
struct Row {
    line: usize,
    sentence: String,
    tests: Vec<String>,
    missing: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rows() -> Vec<Row> {
    let page = fs::read_to_string(root().join("docs/CONTRACT.md")).unwrap();
    let cells = |line: &str| -> Vec<String> {
        let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
        inner.replace("\\|", "\u{1}").split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
    };
    let table = page.lines().enumerate().filter(|(_, line)| line.starts_with("| ") && !line.starts_with("| sentence"));
    table
        .map(|(at, line)| {
            let cells = cells(line);
            assert_eq!(cells.len(), 3, "line {}: sentence, tests, missing", at + 1);
            let tests = cells[1].split('`').skip(1).step_by(2).map(str::to_owned).collect();
            Row { line: at + 1, sentence: cells[0].clone(), tests, missing: cells[2].clone() }
        })
        .collect()
}

/// Every test of the tree as `module::name`: `api_packages::…` for tests/it, `domain::receipt::…`, `api::query::…`, `e2e::path::…`.
pub fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (folder, prefix) in [
        ("tests/it", ""),
        ("tests/e2e", "e2e::"),
        ("benches/tests", "figures::"),
        ("src", ""),
        ("crates/domain/src", "domain::"),
        ("crates/plan/src", "plan::"),
        ("crates/store/src", "store::"),
    ] {
        walk(&root().join(folder), prefix, &mut found);
    }
    found
}

fn walk(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            walk(&path, &format!("{prefix}{stem}::"), found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module =
                if stem == "mod" { prefix.trim_end_matches("::").to_owned() } else { format!("{prefix}{stem}") };
            let text = fs::read_to_string(&path).unwrap();
            found.extend(names(&text).into_iter().map(|name| format!("{module}::{name}")));
        }
    }
}

/// The tests of a file: functions under a test attribute, and the laws that a `laws!` list runs on both stores.
fn names(text: &str) -> Vec<String> {
    let (mut names, mut attributed, mut listed) = (Vec::new(), false, false);
    for line in text.lines().map(str::trim) {
        let law_list =
            line.strip_prefix("blob_").unwrap_or(line).strip_prefix("laws!(").or_else(|| listed.then_some(line));
        if let Some(laws) = law_list {
            listed = !laws.contains(')');
            let laws = laws.split(')').next().unwrap_or_default().split(',').map(str::trim);
            names.extend(laws.filter(|law| !law.is_empty()).map(str::to_owned));
        } else if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            attributed = true;
        } else if let Some(rest) = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "))
            && std::mem::take(&mut attributed)
        {
            names.push(rest.split(['(', '<']).next().unwrap_or_default().to_owned());
        }
    }
    names
}

#[test]
fn every_test_that_the_contract_names_is_in_the_tree() {
    let tests = tests();
    assert!(tests.len() > 250, "the walk found only {} tests", tests.len());
    let gone: Vec<String> = rows()
        .iter()
        .flat_map(|row| row.tests.iter().map(move |test| (row.line, test)))
        .filter(|(_, test)| !tests.contains(*test))
        .map(|(line, test)| format!("line {line}: {test}"))
        .collect();
    assert!(gone.is_empty(), "docs/CONTRACT.md names tests that are not there: {gone:#?}");
}

#[test]
fn a_sentence_has_a_test_or_says_which_issue_brings_it() {
    let rows = rows();
    assert!(rows.len() > 150, "only {} rows", rows.len());
    for Row { line, sentence, tests, missing } in rows {
        assert!(!sentence.is_empty(), "line {line}: no sentence");
        assert!(!tests.is_empty() || !missing.is_empty(), "line {line}: neither a test nor `missing`: {sentence}");
        let names_issue = missing.split('#').skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        assert!(missing.is_empty() || names_issue, "line {line}: a gap names its issue, `#4`: {missing}");
        assert!(missing.is_empty() || missing.starts_with("missing"), "line {line}: {missing}");
    }
}

#[test]
fn no_sentence_stands_there_twice() {
    let mut seen = BTreeSet::new();
    for Row { line, sentence, tests, missing } in rows() {
        assert!(seen.insert((sentence.clone(), tests, missing)), "line {line}: {sentence} is there already");
    }
}

#[test]
fn the_count_at_the_top_is_true() {
    let rows = rows();
    let whole = rows.iter().filter(|row| row.missing.is_empty()).count();
    let part = rows.iter().filter(|row| !row.missing.is_empty() && !row.tests.is_empty()).count();
    let none = rows.iter().filter(|row| row.tests.is_empty()).count();
    let said = format!("{} sentences: {whole} tested, {part} tested in part, {none} missing.", rows.len());
    let page = fs::read_to_string(root().join("docs/CONTRACT.md")).unwrap();
    assert!(page.contains(&said), "docs/CONTRACT.md must say: {said}");
}

#[test]
fn every_status_and_code_of_the_api_is_in_the_contract() {
    let page = fs::read_to_string(root().join("docs/CONTRACT.md")).unwrap();
    for code in jam_domain::Code::ALL {
        assert!(page.contains(code.as_str()), "{} has no row", code.as_str());
    }
}
