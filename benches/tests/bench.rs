//! A brief `make bench`: what it prints, and that it looks at the state it leaves. How good the figures are is not asked here.
#![allow(clippy::unwrap_used, reason = "in a test, nothing where something must be is the failure")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// A line: value, limit, ratio.
type Figure = (f64, Option<f64>, Option<f64>);

/// What a brief run of these groups, or of all, printed: the figures by name, and what is short of its target.
fn bench(groups: &[&str]) -> (BTreeMap<String, Figure>, Vec<String>) {
    let figures = Path::new(env!("CARGO_BIN_EXE_figures"));
    let api = figures.with_file_name("jam-api");
    assert!(api.exists(), "jam-api is built by `cargo test --workspace`");
    let output = Command::new(figures).arg("--api").arg(api).arg("--brief").args(groups).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    let mut lines = out.lines();
    let head: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["#", "name", "value", "unit", "limit", "ratio"]);
    let (short, lines): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with('#'));
    (lines.into_iter().map(figure).collect(), short.into_iter().map(str::to_owned).collect())
}

fn figure(line: &str) -> (String, Figure) {
    // A unit may be two words.
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |word: &str| if word == "-" { None } else { Some(word.parse::<f64>().unwrap()) };
    assert!(words.len() >= 5, "{line}");
    let [name, value, .., limit, ratio] = words[..] else { panic!("{line}") };
    let figure = (number(value).unwrap(), number(limit), number(ratio));
    assert!(figure.0.is_finite() && figure.2.is_none_or(f64::is_finite), "{line}");
    (name.to_owned(), figure)
}

#[test]
fn a_bench_prints_name_value_unit_limit_and_ratio_and_verifies_the_state() {
    let (figures, short) = bench(&["submit"]);
    assert!(short.iter().all(|line| line.starts_with("# short: submit_") && line.contains(", wanted ")), "{short:?}");
    assert_eq!(figures["submit_alone_commits"], (1.0, Some(1.0), Some(1.0)));
    assert_eq!(figures["submit_statements"].1, None, "what has no limit says so");
    let (rate, limit, ratio) = figures["submit_rate"];
    assert!(rate > 1.0 && limit == Some(2000.0) && ratio.is_some());
    assert_eq!(figures["submit_wrong"], (0.0, Some(0.0), Some(0.0)));
}

/// What the guide or the issue wants a figure of, beside those of each drain and of each number of stored packages.
const WANTED: [&str; 18] = [
    "status_cpu",
    "put_10mib_memory_cpu",
    "put_10mib_again_cpu",
    "get_10mib_postgres_cpu",
    "put_10mib_postgres_statements",
    "put_10mib_postgres_time",
    "put_1mib_postgres_time",
    "put_4x10mib_peak_rss",
    "submit_statements",
    "submit_commits",
    "submit_fsyncs",
    "submit_rate",
    "idle_submit_applied",
    "chain_1worker_rate",
    "chain_16workers_rate",
    "list_deep_cpu",
    "cleanup_rate",
    "cleanup_submit_p99",
];

/// What each group finds wrong in the state that it leaves.
const NOTHING: [&str; 10] = [
    "put_wrong",
    "submit_wrong",
    "idle_wrong",
    "drain_duplicates",
    "drain_broken_links",
    "chain_wrong",
    "wrong_at_0",
    "wrong_at_1000",
    "wrong_at_10000",
    "cleanup_wrong",
];

#[test]
fn every_group_of_the_bench_prints_its_figures_and_finds_nothing_wrong_in_the_state_it_leaves() {
    let (figures, _) = bench(&[]);
    for name in NOTHING {
        assert_eq!(figures.get(name), Some(&(0.0, Some(0.0), Some(0.0))), "{name}");
    }
    let drains = ["1service_1worker", "1service_4workers", "64services_1worker", "64services_4workers"];
    let drained = drains
        .iter()
        .flat_map(|drain| ["statements", "commits", "fsyncs", "rate"].map(|figure| format!("drain_{drain}_{figure}")));
    // The levels of a brief run stand for 0, 100,000 and 1,000,000.
    let stored = [0, 1000, 10_000].into_iter().flat_map(|stored| {
        ["submit_cpu_at", "submit_blocks_at", "list_first_cpu_at", "list_first_blocks_at"]
            .map(|figure| format!("{figure}_{stored}"))
    });
    for name in WANTED.into_iter().map(str::to_owned).chain(drained).chain(stored) {
        assert!(figures.get(&name).is_some_and(|(value, ..)| *value > 0.0), "{name}: {:?}", figures.get(&name));
    }
    assert_eq!(figures["idle_commits"], (2.0, Some(3.0), Some(0.67)), "one to accept, one to apply");
}
