//! A transcript of each command of slctl and of each refusal: what is added without one fails here.

use std::collections::BTreeSet;

use clap::CommandFactory as _;
use jam_domain::Code;
use jam_domain::token::TokenHash;
use serde_json::json;

use crate::cli_support::{Fake, Reply, Server, TOKEN, blur, refused, slctl, slctl_with, write};
use crate::crd_generated::repository;

const ROOT: &str = "a-token-of-an-administrator";

/// What is typed, and what is printed; in both `ID` stands for the package's id. What changes from run to run is blurred.
type Line = (&'static str, &'static str);

/// One walk past every command, in this order on one server.
const WALK: [Line; 19] = [
    ("jam preimage --file hello.txt", "uploaded preimage <hash>\n"),
    (
        "jam package --service demo --kind k --params-hash p --output table",
        "ID SERVICE STATUS ITEMS CREATED BY\n<id> demo pending 1 <time> c7355b97\n",
    ),
    ("jam packages --output name", "<id>\n"),
    ("jam process", "processed 1 package\n"),
    (
        "jam report --package ID --output table",
        "ID PACKAGE SERVICE STATUS OUTPUT CREATED\n<id> <id> demo applied <hash> <time>\n",
    ),
    ("jam reports --table", "ID PACKAGE SERVICE STATUS OUTPUT CREATED\n<id> <id> demo applied <hash> <time>\n"),
    (
        "jam receipt ID --output table",
        "SERVICE SEQ TYPE STATUS HASH ROOT PROCESSED\ndemo 1 package pending <id> <hash> <time>\n",
    ),
    (
        "jam receipts --service demo --table",
        "SERVICE SEQ TYPE STATUS HASH ROOT PROCESSED\n\
         demo 2 report applied <hash> <hash> <time>\n\
         demo 1 package pending <id> <hash> <time>\n",
    ),
    ("jam verify --service demo", "service demo: 2 receipts verified, root <hash> (blake3-256)\n"),
    (
        "jam status",
        "JAM enabled=true store=memory rate_limit_per_minute=0 max_preimage_bytes=10485760 max_pending_packages=100 \
         auth_required=true legacy_list_response=false accumulators_enabled=true accumulator_hash=blake3-256 \
         attestation_threshold=1\nroot service=demo seq=2 root=<hash>\n",
    ),
    (
        "status",
        "ADDR is ok\nversion VERSION\nJAM enabled=true store=memory rate_limit_per_minute=0 max_preimage_bytes=10485760 \
         max_pending_packages=100 auth_required=true legacy_list_response=false accumulators_enabled=true \
         accumulator_hash=blake3-256 attestation_threshold=1 cleanup_enabled=true\nroot service=demo seq=2 root=<hash>\n\
         health cleanup_ok=true last_cleanup=- store_ok=true\n",
    ),
    (
        "doctor",
        "ok resolve the host has an address\nok connect the server takes connections\nok alive GET /healthz answers\n\
         ok ready GET /readyz answers: it takes work\nok authorized the token is taken, or none is needed\n\
         ok enabled JAM is enabled\nok store store memory\nok cleanup nothing is overdue\n",
    ),
    ("jam admin --admin-token ROOT rate-limits", "{\n\"items\": []\n}\n"),
    (
        "jam admin --admin-token ROOT toggles --set max_pending_packages=7",
        "{\n\"key\": \"max_pending_packages\",\n\"overrode\": 100,\n\"set_at\": \"<time>\",\n\"set_by\": \"c853506a\",\n\
         \"value\": 7\n}\n",
    ),
    ("jam admin --admin-token ROOT toggles --delete max_pending_packages", "done\n"),
    ("jam admin --admin-token ROOT cleanup", "{\n\"enabled\": true,\n\"last\": null,\n\"ok\": true\n}\n"),
    ("jam admin --admin-token ROOT delegates --service demo", "{\n\"items\": []\n}\n"),
    ("completion bash", "_slctl() {\n"),
    ("jam admin --admin-token ROOT disputes --package ID", "there is no such dispute (jam_admin_not_found)\n"),
];

/// The commands that ask for nothing further, as they are typed.
fn leaves(command: &clap::Command, typed: &str, found: &mut BTreeSet<String>) {
    let children: Vec<_> = command.get_subcommands().filter(|child| !child.is_hide_set()).collect();
    if children.is_empty() {
        found.insert(typed.to_owned());
    }
    for child in children {
        leaves(child, format!("{typed} {}", child.get_name()).trim_start(), found);
    }
}

fn all_leaves() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    leaves(&jam::cli::Cli::command(), "", &mut found);
    found
}

/// A token file's entries: each token with its scopes and services.
fn entries(tokens: &[(&str, serde_json::Value)]) -> Vec<u8> {
    let one = |(token, more): &(&str, serde_json::Value)| {
        let hash = TokenHash::of(token);
        let mut entry = json!({"id": hash.id().to_string(), "sha256": hash.to_string()});
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        entry
    };
    json!(tokens.iter().map(one).collect::<Vec<_>>()).to_string().into_bytes()
}

#[test]
fn every_command_has_a_transcript() {
    let directory = tempfile::tempdir().unwrap();
    let admins = write(directory.path(), "admins", &entries(&[(ROOT, json!({}))]));
    let hello = write(directory.path(), "hello.txt", b"hello\n");
    let server = Server::with(&[("JAM_ADMIN_TOKENS_FILE", &admins)]);
    let (mut walked, mut id) = (BTreeSet::new(), String::new());
    let all = all_leaves();
    for (typed, printed) in WALK {
        let said = typed.replace("--admin-token ROOT ", "");
        walked.extend(all.iter().filter(|leaf| format!("{said} ").starts_with(&format!("{leaf} "))).cloned());
        let words: Vec<&str> = typed.split(' ').collect();
        let words: Vec<&str> = words
            .into_iter()
            .map(|word| match word {
                "hello.txt" => hello.as_str(),
                "ROOT" => ROOT,
                "ID" => id.as_str(),
                other => other,
            })
            .collect();
        let ran = server.slctl(&words);
        let told = blur(&format!("{}{}", ran.out, ran.err)).replace(&server.addr, "ADDR");
        let version = told.lines().find_map(|line| line.strip_prefix("version ")).unwrap_or("VERSION").to_owned();
        let told = told.replace(&version, "VERSION");
        match typed {
            // Of a script the first line is enough.
            "completion bash" => assert!(told.starts_with(printed), "{typed}"),
            _ => assert_eq!(told, printed, "{typed}"),
        }
        let wanted = if printed.contains("not_found") { 3 } else { 0 };
        assert_eq!(ran.code, wanted, "{typed}");
        if typed == "jam packages --output name" {
            ran.out.trim().clone_into(&mut id);
        }
    }
    assert_eq!(walked, all, "a command without a transcript");
}

/// What the server says no with: the code, a command that may hear it, its exit code, and what slctl adds to the server's words.
const CODES: [(&str, &str, i32, &str); 30] = [
    ("jam_bad_request", "jam packages", 1, ""),
    ("jam_validation_error", "jam packages", 1, ""),
    ("jam_auth_missing", "jam packages", 1, "; set --token, --token-file or SERVICE_LAYER_TOKEN"),
    ("jam_auth_forbidden", "jam packages", 1, ""),
    ("jam_authz_service_denied", "jam packages", 1, ""),
    ("jam_not_found", "jam packages", 3, ""),
    ("jam_method_not_allowed", "jam packages", 1, ""),
    ("jam_pending_limit", "jam packages", 1, ""),
    ("jam_conflict", "jam packages", 1, ""),
    ("jam_preimage_too_large", "jam packages", 1, ""),
    ("jam_unsupported_media_type", "jam packages", 1, ""),
    ("jam_events_gone", "jam packages", 1, ""),
    ("jam_rate_limit", "jam packages", 1, "; try again in 60 s"),
    ("jam_internal", "jam packages", 1, ""),
    ("jam_store_unavailable", "jam packages", 1, "; try again in 60 s"),
    ("jam_admin_bad_request", "jam admin toggles", 1, ""),
    ("jam_admin_validation_error", "jam admin toggles", 1, ""),
    ("jam_admin_auth_missing", "jam admin toggles", 1, "; set --admin-token to a token of an administrator"),
    ("jam_admin_forbidden", "jam admin toggles", 1, ""),
    ("jam_admin_service_denied", "jam admin toggles", 1, ""),
    ("jam_admin_not_found", "jam admin toggles", 3, ""),
    ("jam_admin_method_not_allowed", "jam admin toggles", 1, ""),
    ("jam_admin_pending_limit", "jam admin toggles", 1, ""),
    ("jam_admin_conflict", "jam admin toggles", 1, ""),
    ("jam_admin_body_too_large", "jam admin toggles", 1, ""),
    ("jam_admin_unsupported_media_type", "jam admin toggles", 1, ""),
    ("jam_admin_events_gone", "jam admin toggles", 1, ""),
    ("jam_admin_rate_limit", "jam admin toggles", 1, "; try again in 60 s"),
    ("jam_admin_internal", "jam admin toggles", 1, ""),
    ("jam_admin_store_unavailable", "jam admin toggles", 1, "; try again in 60 s"),
];

#[test]
fn every_code_of_the_api_is_told_in_one_line_with_its_exit_code() {
    let known: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let known: Vec<&str> = known.into_iter().chain(Code::ALL.iter().map(|code| code.admin_str())).collect();
    assert_eq!(CODES.map(|(code, ..)| code).to_vec(), known, "a code without a transcript");
    for (at, (code, command, exit, more)) in CODES.into_iter().enumerate() {
        let status = Code::ALL[at % Code::ALL.len()].status();
        let fake = Fake::answering(move |_, _| {
            let mut body = json!({"error": "the words of the server", "code": code});
            if [429, 503].contains(&status) {
                body["retry_after"] = json!(60);
            }
            let line: &'static str = Box::leak(format!("{status} No").into_boxed_str());
            Some(Reply(line, "content-type: application/json\r\n".into(), body.to_string()))
        });
        let ran = fake.slctl(&command.split(' ').collect::<Vec<_>>());
        refused(&ran, exit, &format!("the words of the server{more} ({code})"));
    }
}

#[test]
fn what_a_token_may_not_do_and_what_contradicts_itself_is_told_by_the_real_server() {
    let directory = tempfile::tempdir().unwrap();
    let admins = write(directory.path(), "admins", &entries(&[(ROOT, json!({}))]));
    let tokens = entries(&[
        (TOKEN, json!({})),
        ("reader", json!({"scopes": ["read"]})),
        ("narrow", json!({"services": ["mine"]})),
    ]);
    let tokens = write(directory.path(), "tokens", &tokens);
    let server = Server::with(&[("JAM_ADMIN_TOKENS_FILE", &admins), ("JAM_TOKENS_FILE", &tokens)]);
    let submit =
        |kind| format!("jam package --service demo --params-hash p --idempotency-key one --output name --kind {kind}");
    let long = format!("{} --idempotency-key {}", submit("k").replace(" --idempotency-key one", ""), "a".repeat(129));
    assert_eq!(server.slctl(&submit("k").split(' ').collect::<Vec<_>>()).code, 0);
    let denied = "this token may not touch service demo, only mine (jam_authz_service_denied)";
    let cases: [(&str, &str, &str); 12] = [
        ("reader", "jam process", "this needs a token with scope process (jam_auth_forbidden)"),
        ("reader", &submit("k"), "this needs a token with scope submit (jam_auth_forbidden)"),
        ("narrow", &submit("k"), denied),
        ("narrow", "jam packages --service demo", denied),
        ("narrow", "jam verify --service demo", denied),
        ("narrow", "jam status --service demo", denied),
        (TOKEN, &submit("other"), "this Idempotency-Key was used for a different package (jam_conflict)"),
        (TOKEN, &long, "Idempotency-Key: must be 1 to 128 visible ASCII characters (jam_validation_error)"),
        (
            TOKEN,
            "jam admin toggles",
            "this needs an administrator's token, one of admin_tokens_file (jam_admin_forbidden)",
        ),
        (
            ROOT,
            "jam admin toggles --set rate=5",
            "key: \"rate\" is not one of enabled, rate_limit_per_minute, max_preimage_bytes, max_pending_packages (jam_admin_validation_error)",
        ),
        (ROOT, "jam admin toggles --set enabled=5", "value: must be true or false (jam_admin_validation_error)"),
        (
            "nobody",
            "jam admin toggles",
            "this token is not known (any more); set --admin-token to a token of an administrator (jam_admin_auth_missing)",
        ),
    ];
    for (token, typed, line) in cases {
        let environment = [("SERVICE_LAYER_ADDR", server.addr.as_str()), ("SERVICE_LAYER_TOKEN", token)];
        refused(&slctl_with(&environment, &typed.split(' ').collect::<Vec<_>>()), 1, line);
    }
}

/// slctl's own words for what it refuses, and the file of tests that has its transcript with this word.
const OWN: [(&str, &str); 13] = [
    ("usage", "cli_reference"),
    ("file", "cli_reference"),
    ("unexpected_answer", "cli_outages"),
    ("hash_mismatch", "cli_outages"),
    ("chain_broken", "cli_outages"),
    ("output", "cli_transcripts"),
    ("dns_resolution", "cli_outages"),
    ("timeout", "cli_outages"),
    ("network_unreachable", "cli_outages"),
    ("tls", "cli_outages"),
    ("unauthorized", "cli_refusals"),
    ("provider_unavailable", "cli_outages"),
    ("http_418", "cli_outages"),
];

/// The words in quotes of the function that begins with this line.
fn words_of(file: &str, function: &str) -> Vec<String> {
    let text = std::fs::read_to_string(repository(file)).unwrap();
    let body = text.split_once(function).unwrap_or_else(|| panic!("{file} has {function}")).1;
    let body = body.split_once("\n    }\n").unwrap().0;
    body.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_word_of_slctls_own_refusals_is_in_a_transcript() {
    let mut known = words_of("src/cli/fault.rs", "pub fn code(&self) -> &str {");
    known.extend(words_of("src/cli/outage.rs", "pub fn as_str(self) -> &'static str {"));
    known.push("http_418".into());
    assert_eq!(OWN.map(|(word, _)| word).to_vec(), known, "a word without a transcript");
    for (word, module) in OWN {
        let text = std::fs::read_to_string(repository(&format!("tests/it/{module}.rs"))).unwrap();
        let told = [format!("({word})"), format!(" {word}\".into()"), format!("Some(\"{word}\")")];
        assert!(told.iter().any(|told| text.contains(told)), "{word} in {module}");
    }
}

#[test]
fn a_result_that_cannot_be_written_is_told() {
    let fake = Fake::answering(|_, _| Some(Reply::json(&json!({"enabled": true}))));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_slctl"))
        .env_clear()
        .env("SERVICE_LAYER_ADDR", &fake.addr)
        .args(["jam", "status"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let line = "cannot write the result: No space left on device (os error 28) (output)\n";
    assert_eq!(String::from_utf8(output.stderr).unwrap(), line);
}

#[test]
fn every_command_refuses_what_it_does_not_know_and_every_flag_what_it_cannot_take() {
    let command = jam::cli::Cli::command();
    for leaf in all_leaves() {
        let words: Vec<&str> = leaf.split(' ').collect();
        let usage = |more: &[&str], why: &str| {
            let ran = slctl("http://unused", &[&words, more].concat());
            assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{leaf} {more:?}");
            assert!(ran.err.starts_with("error: ") && ran.err.contains(why), "{leaf} {more:?}: {}", ran.err);
        };
        usage(&["--no-such-flag"], "unexpected argument '--no-such-flag'");
        usage(&["too", "much", "of", "it"], "error: ");
        let mut last = &command;
        for word in &words {
            last = last.find_subcommand(word).unwrap();
        }
        for flag in last.get_arguments().filter(|flag| flag.get_action().takes_values()) {
            let Some(name) = flag.get_long() else { continue };
            usage(&[&format!("--{name}")], &format!("'--{name}"));
        }
    }
}
