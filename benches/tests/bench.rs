//! A group of `make bench`: what it prints, and that it looks at the state it leaves. How good the figures are is not asked here.
#![allow(clippy::unwrap_used, reason = "in a test, nothing where something must be is the failure")]

use std::path::Path;
use std::process::Command;

#[test]
fn a_bench_prints_name_value_unit_limit_and_ratio_and_verifies_the_state() {
    let figures = Path::new(env!("CARGO_BIN_EXE_figures"));
    let api = figures.with_file_name("jam-api");
    assert!(api.exists(), "jam-api is built by `cargo test --workspace`");
    let output = Command::new(figures).arg("--api").arg(api).arg("submit").output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    let mut lines = out.lines();
    let head: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["#", "name", "value", "unit", "limit", "ratio"]);
    let (short, figures): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with('#'));
    assert!(short.iter().all(|line| line.starts_with("# short: submit_") && line.contains(", wanted ")), "{short:?}");
    let figure = |name: &str| {
        let line = figures.iter().find(|line| line.split(' ').next() == Some(name)).unwrap_or_else(|| panic!("{out}"));
        // A unit may be two words.
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |word: &str| if word == "-" { None } else { Some(word.parse::<f64>().unwrap()) };
        let [.., limit, ratio] = words[..] else { panic!("{line}") };
        assert!(words.len() >= 5, "{line}");
        (number(words[1]).unwrap(), number(limit), number(ratio))
    };
    assert_eq!(figure("submit_alone_commits"), (1.0, Some(1.0), Some(1.0)));
    assert_eq!(figure("submit_statements").1, None, "what has no limit says so");
    let (rate, limit, ratio) = figure("submit_rate");
    assert!(rate > 1.0 && limit == Some(2000.0) && ratio.is_some());
    assert_eq!(figure("submit_wrong"), (0.0, Some(0.0), Some(0.0)));
}
