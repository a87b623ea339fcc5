//! The shape of the house, kept by a test: arrows between rooms, length of files and functions, no module that nothing reaches.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

const LONGEST_FILE: usize = 400;
const LONGEST_FUNCTION: usize = 60;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file that is ours.
fn rust_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["src", "crates", "tests", "benches", "dev"] {
        walk(&root().join(folder), &mut found);
    }
    assert!(found.len() > 20, "the walk found only {} files", found.len());
    found
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_file_has_at_most_400_lines_and_opens_with_one_sentence() {
    let mut wrong = Vec::new();
    for path in rust_files() {
        let text = read(&path);
        let lines = text.lines().count();
        if lines > LONGEST_FILE {
            wrong.push(format!("{}: {lines} lines", path.display()));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{}: does not open with //!", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_function_has_at_most_60_lines() {
    let mut wrong = Vec::new();
    for path in rust_files() {
        for (line, length) in functions(&read(&path)) {
            if length > LONGEST_FUNCTION {
                wrong.push(format!("{}:{line}: {length} lines", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// First line and length of every function body, found by indentation as rustfmt leaves it.
fn functions(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let head = code.trim_start_matches("pub ").trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
        if !(head.starts_with("fn ") || head.starts_with("async fn ") || head.starts_with("const fn ")) {
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        // In a macro that repeats a function, the repetition closes on the same line.
        let repeated = format!("{end})*");
        if let Some(length) = lines[at..].iter().position(|l| *l == end || *l == repeated) {
            found.push((at + 1, length + 1));
        }
    }
    found
}

#[test]
fn every_rust_file_is_reached_by_a_mod_line() {
    let manifest = read(&root().join("Cargo.toml"));
    let mut reached = BTreeSet::new();
    let mut open: Vec<PathBuf> =
        ["src/lib.rs", "build.rs", "benches/figures/main.rs", "benches/tests/bench.rs", "benches/tests/soak.rs"]
            .map(|file| root().join(file))
            .into();
    for room in ["domain", "plan", "store"] {
        open.extend(["src/lib.rs", "build.rs"].map(|file| root().join(format!("crates/{room}/{file}"))));
    }
    open.extend(
        manifest
            .lines()
            .filter_map(|line| line.strip_prefix("path = \""))
            .map(|rest| root().join(rest.trim_end_matches('"'))),
    );
    while let Some(file) = open.pop() {
        if file.exists() && reached.insert(file.clone()) {
            open.extend(modules(&file));
        }
    }
    let orphans: Vec<_> = rust_files().into_iter().filter(|file| !reached.contains(file)).collect();
    assert!(orphans.is_empty(), "no `mod` reaches {orphans:#?}");
}

/// Where the `mod name;` lines of a file point to.
fn modules(file: &Path) -> Vec<PathBuf> {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
    let inside = if ["lib", "main", "mod"].contains(&stem.as_str()) { folder } else { folder.join(stem) };
    let mut found = Vec::new();
    for line in read(file).lines() {
        let code =
            line.trim().trim_start_matches("pub ").trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
        if let Some(name) = code.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            found.push(inside.join(format!("{name}.rs")));
            found.push(inside.join(name).join("mod.rs"));
        }
    }
    found
}

#[test]
fn arrows_point_down_only() {
    let forbidden: [(&str, &[&str]); 8] = [
        ("crates/domain", &["jam_plan::", "jam_store::", "kube::", "sqlx", "tokio", "axum"]),
        ("crates/plan", &["jam_store::", "sqlx", "tokio", "axum", "kube::Client", "kube::client"]),
        ("crates/store", &["jam_plan::", "kube::", "axum"]),
        ("src/operator", &["crate::api", "crate::cli", "crate::kubectl", "jam_store::", "sqlx"]),
        // It stands on the operator for `plan`, which must be the same one (docs/adr/0034-the-plugin-stands-on-the-operator.md).
        ("src/kubectl", &["crate::api", "crate::cli", "jam_store::", "sqlx"]),
        ("src/api", &["crate::operator", "crate::cli", "crate::kubectl", "sqlx", "kube::Client"]),
        ("src/cli", &["crate::operator", "crate::api", "crate::kubectl", "jam_store::", "jam_plan::", "sqlx"]),
        ("src/bin", &["jam_domain::", "jam_plan::", "jam_store::", "kube::", "axum"]),
    ];
    let mut wrong = Vec::new();
    for (room, words) in forbidden {
        let mut files = Vec::new();
        walk(&root().join(room), &mut files);
        assert!(!files.is_empty(), "{room} has no files");
        for file in files {
            for (number, line) in read(&file).lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                for word in words.iter().filter(|word| code.contains(**word)) {
                    wrong.push(format!("{}:{}: {room} may not use {word}", file.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn sql_is_in_the_store_only() {
    let mut wrong = Vec::new();
    for room in ["src", "crates/domain", "crates/plan"] {
        let mut files = Vec::new();
        walk(&root().join(room), &mut files);
        for file in files {
            let text = read(&file);
            if ["insert into ", "delete from ", "sqlx::"].iter().any(|word| text.contains(word)) {
                wrong.push(file);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_program_is_at_most_25_lines() {
    let mut files = Vec::new();
    walk(&root().join("src/bin"), &mut files);
    for file in files {
        assert!(read(&file).lines().count() <= 25, "{}", file.display());
    }
}

#[test]
fn architecture_names_every_file_of_the_three_walks_and_they_exist() {
    let page = read(&root().join("docs/ARCHITECTURE.md"));
    let mut named = 0;
    for word in page.split('`') {
        let is_path = ["src/", "crates/", "tests/", "dev/", "docs/"].iter().any(|start| word.starts_with(start));
        if is_path && !word.contains([' ', '*', '<', '{']) {
            named += 1;
            assert!(root().join(word).exists(), "docs/ARCHITECTURE.md names {word}, which is not there");
        }
    }
    assert!(named >= 15, "docs/ARCHITECTURE.md names only {named} files");
}

#[test]
fn no_crate_that_deny_toml_bans_is_in_the_lock_file_and_all_come_from_one_registry() {
    let (deny, lock) = (read(&root().join("deny.toml")), read(&root().join("Cargo.lock")));
    let banned: Vec<&str> = deny.split("crate = \"").skip(1).collect();
    assert!(banned.iter().any(|rest| rest.starts_with("serde_yaml\"")), "{banned:?}");
    for rest in banned {
        let name = rest.split('"').next().unwrap_or_default();
        // Those that may bring it along all the same.
        let wrappers = rest.lines().next().and_then(|line| line.split_once("wrappers = [")?.1.split(']').next());
        match wrappers {
            None => assert!(!lock.contains(&format!("name = \"{name}\"\n")), "{name} is banned by deny.toml"),
            Some(wrappers) => {
                let needs =
                    |package: &&str| package.lines().any(|line| line.trim().starts_with(&format!("\"{name}\"")));
                for package in lock.split("[[package]]").filter(needs) {
                    let user = package.split('"').nth(1).unwrap_or_default();
                    assert!(wrappers.contains(&format!("\"{user}\"")), "{name} is banned by deny.toml, {user} has it");
                }
            }
        }
    }
    let sources: HashSet<_> = lock.lines().filter(|line| line.starts_with("source = ")).collect();
    assert_eq!(sources.len(), 1, "{sources:?}");
}
