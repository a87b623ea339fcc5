//! A short `make soak`: whether it does what it says, and its audit finds nothing; how flat anything is takes longer.
#![allow(clippy::unwrap_used, reason = "in a test, nothing where something must be is the failure")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The figures of a run by name.
fn soak(more: &[&str]) -> BTreeMap<String, f64> {
    let figures = Path::new(env!("CARGO_BIN_EXE_figures"));
    let program = |name: &str| {
        let path = figures.with_file_name(name);
        assert!(path.exists(), "{name} is built by `cargo test --workspace`");
        path
    };
    let mut command = Command::new(figures);
    command.arg("--api").arg(program("jam-api")).args(["--soak", "40s"]).arg(program("slctl")).args(more);
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}{err}");
    let figure = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    out.lines().filter(|line| !line.starts_with('#')).filter_map(figure).collect()
}

/// What must be nothing whatever the machine is busy with.
const NOTHING: [&str; 10] = [
    "soak_5xx",
    "soak_4xx",
    "soak_broken",
    "soak_chains_not_verified",
    "soak_packages_wrong",
    "soak_reports_wrong",
    "soak_receipts_wrong",
    "soak_objects_wrong",
    "soak_not_cleaned",
    "soak_wrong",
];

#[test]
fn a_soak_rotates_tokens_and_cleans_under_load_loses_nothing_and_prints_its_figures() {
    let figures = soak(&["--files"]);
    for name in NOTHING {
        assert_eq!(figures.get(name), Some(&0.0), "{name}");
    }
    for name in ["requests", "packages", "rotations", "cleanups", "cleaned", "objects"] {
        assert!(figures[&format!("soak_{name}")] >= 1.0, "soak_{name}");
    }
    let processes = (0..3).map(|n| format!("server_{n}")).chain((0..4).map(|n| format!("worker_{n}")));
    for process in processes {
        assert!(figures[&format!("soak_memory_{process}")] > 1.0, "{process} was there to the end");
    }
    for name in ["soak_submit_p50_late", "soak_submit_p99_late", "soak_latency_not_flat", "soak_memory_not_flat"] {
        assert!(figures.contains_key(name), "{name}");
    }
}
