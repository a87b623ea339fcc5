//! slctl against the real server: from an uploaded file to a verified chain, and every form that results are printed in.

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::cli_support::{Fake, Reply, Server, blur, write};

/// The SHA-256 of "hello\n".
const HELLO: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

fn three_items() -> Vec<u8> {
    let item = |n: u8| json!({"kind": format!("k{n}"), "params_hash": format!("p{n}"), "preimage_hashes": [HELLO]});
    json!({"service_id": "demo", "nonce": "1", "items": [item(1), item(2), item(3)]}).to_string().into_bytes()
}

#[test]
fn a_file_becomes_work_and_the_work_a_chain_that_verifies() {
    let (server, directory) = (Server::start(), tempdir().unwrap());
    let hello = write(directory.path(), "hello.txt", b"hello\n");
    let package = write(directory.path(), "package.json", &three_items());

    let upload = ["jam", "preimage", "--file", &hello, "--content-type", "text/plain"];
    assert_eq!(server.ok(&upload), format!("uploaded preimage {HELLO}\n"));
    assert_eq!(server.ok(&upload), format!("preimage {HELLO} is already there\n"));

    let submitted = server.json(&["jam", "package", "--file", &package]);
    let id = submitted["id"].as_str().unwrap();
    assert_eq!((&submitted["status"], submitted["items"].as_array().unwrap().len()), (&json!("pending"), 3));
    let ran = server.slctl(&["jam", "report", "--package", id]);
    assert_eq!((ran.code, ran.out.as_str()), (3, ""));
    assert_eq!(
        ran.err,
        format!(
            "package {id} is pending: it has no report until it is processed; run `slctl jam process`, or wait for a worker (jam_not_found)\n"
        )
    );

    assert_eq!(server.ok(&["jam", "process"]), "processed 1 package\n");
    assert_eq!(server.ok(&["jam", "process"]), "nothing was pending\n");

    let report = server.json(&["jam", "report", "--package", id, "--include-receipt"]);
    assert_eq!((&report["report"]["status"], &report["report"]["package_id"]), (&json!("applied"), &json!(id)));
    assert_eq!(report["attestations"].as_array().unwrap().len(), 1);
    let receipt = server.json(&["jam", "receipt", report["receipt"]["hash"].as_str().unwrap()]);
    assert_eq!((&receipt, &receipt["seq"]), (&report["receipt"], &json!(2)));

    let root = receipt["new_root"].as_str().unwrap();
    let verified = server.ok(&["jam", "verify", "--service", "demo"]);
    assert_eq!(verified, format!("service demo: 2 receipts verified, root {root} (blake3-256)\n"));
}

#[test]
fn a_preimage_is_looked_at_and_comes_back_as_it_went() {
    let (server, directory) = (Server::start(), tempdir().unwrap());
    let hello = write(directory.path(), "hello.txt", b"hello\n");
    server.ok(&["jam", "preimage", "--file", &hello, "--hash", HELLO, "--content-type", "text/plain"]);
    let stat = server.ok(&["jam", "preimage", "--stat", "--hash", HELLO]);
    assert_eq!(stat, format!("hash={HELLO} size=6 media_type=text/plain\n"));
    let meta = server.json(&["jam", "preimage", "--meta", "--hash", HELLO]);
    assert_eq!((&meta["hash"], &meta["size"], &meta["refcount"]), (&json!(HELLO), &json!(6), &json!(0)));
    let copy = directory.path().join("copy");
    let saved = server.ok(&["jam", "preimage", "--get", "--hash", HELLO, "-o", copy.to_str().unwrap()]);
    assert_eq!(saved, format!("saved preimage {HELLO} to {} (6 bytes)\n", copy.display()));
    assert_eq!(std::fs::read(&copy).unwrap(), b"hello\n");
    assert_eq!(server.ok(&["jam", "preimage", "--get", "--hash", HELLO, "-o", "-"]), "hello\n");
}

#[test]
fn a_preimage_of_many_chunks_and_an_empty_one_come_back_as_they_went() {
    let (server, directory) = (Server::start(), tempdir().unwrap());
    let large: Vec<u8> = (0..3_000_001_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    for (name, bytes) in [("large", large), ("empty", Vec::new())] {
        let file = write(directory.path(), name, &bytes);
        let hash = server.ok(&["jam", "preimage", "--file", &file, "--output", "name"]);
        let copy = directory.path().join("copy");
        server.ok(&["jam", "preimage", "--get", "--hash", hash.trim(), "-o", copy.to_str().unwrap()]);
        assert!(std::fs::read(&copy).unwrap() == bytes, "{name}");
    }
}

#[test]
fn the_status_names_every_limit_and_the_roots() {
    let server = Server::with(&[("JAM_MAX_PENDING_PACKAGES", "7")]);
    let line = "JAM enabled=true store=memory rate_limit_per_minute=0 max_preimage_bytes=10485760 max_pending_packages=7 \
                auth_required=true legacy_list_response=false accumulators_enabled=true accumulator_hash=blake3-256 attestation_threshold=1";
    assert_eq!(server.ok(&["jam", "status"]).lines().next().unwrap(), line);
    server.submit("one", "p");
    server.submit("two", "p");
    let text = blur(&server.ok(&["jam", "status"]));
    assert_eq!(text, format!("{line}\nroot service=one seq=1 root=<hash>\nroot service=two seq=1 root=<hash>\n"));
    let text = blur(&server.ok(&["jam", "status", "--service", "two"]));
    assert_eq!(text, format!("{line}\nroot service=two seq=1 root=<hash>\n"));

    let whole = server.ok(&["status"]);
    let mut lines = whole.lines();
    assert_eq!(lines.next().unwrap(), format!("{} is ok", server.addr));
    assert!(lines.next().unwrap().starts_with(concat!("version ", env!("CARGO_PKG_VERSION"), " (commit ")), "{whole}");
    assert!(lines.next().unwrap().starts_with("JAM enabled=true store=memory"), "{whole}");
    let json = server.json(&["status", "--output", "json"]);
    assert_eq!(json["system"]["jam"]["enabled"], json!(true));
}

#[test]
fn lists_are_printed_as_json_as_a_table_or_as_names() {
    let server = Server::start();
    let older = server.submit("one", "p1");
    server.ok(&["jam", "process"]);
    let newer = server.submit("two", "p2");

    let list = server.json(&["jam", "packages"]);
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert_eq!(server.ok(&["jam", "packages", "--output", "name"]), format!("{newer}\n{older}\n"));
    assert_eq!(server.ok(&["jam", "packages", "--status", "pending", "--output", "name"]), format!("{newer}\n"));
    assert_eq!(server.ok(&["jam", "packages", "--service", "one", "--output", "name"]), format!("{older}\n"));
    let by = list["items"][0]["created_by"].as_str().unwrap();
    assert_eq!(
        blur(&server.ok(&["jam", "packages", "--table"])),
        format!("ID SERVICE STATUS ITEMS CREATED BY\n<id> two pending 1 <time> {by}\n<id> one applied 1 <time> {by}\n")
    );
    assert_eq!(
        blur(&server.ok(&["jam", "packages", "--table", "--include-receipt"])).lines().nth(1).unwrap(),
        format!("<id> two pending 1 <time> {by} 1")
    );
    assert_eq!(
        blur(&server.ok(&["jam", "reports", "--output", "table"])),
        "ID PACKAGE SERVICE STATUS OUTPUT CREATED\n<id> <id> one applied <hash> <time>\n"
    );
    assert_eq!(
        blur(&server.ok(&["jam", "reports", "--include-receipt", "--table"])),
        "ID PACKAGE SERVICE STATUS OUTPUT CREATED RECEIPT\n<id> <id> one applied <hash> <time> 2\n"
    );
    assert_eq!(
        blur(&server.ok(&["jam", "receipts", "--service", "one", "--table"])),
        "SERVICE SEQ TYPE STATUS HASH ROOT PROCESSED\none 2 report applied <hash> <hash> <time>\none 1 package pending <id> <hash> <time>\n"
    );
    assert_eq!(
        server.ok(&["jam", "packages", "--status", "disputed", "--table"]),
        "ID  SERVICE  STATUS  ITEMS  CREATED  BY\n"
    );
    let ran = server.slctl(&["jam", "packages", "--limit", "1", "--table"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, "more follow: --all shows every entry, --offset 1 the next page\n"));
}

#[test]
fn all_follows_the_list_to_its_end_in_both_shapes() {
    for legacy in ["false", "true"] {
        let server = Server::with(&[("JAM_LEGACY_LIST_RESPONSE", legacy)]);
        let mut ids: Vec<String> = (0..7).map(|n| server.submit("s", &format!("p{n}"))).collect();
        ids.reverse();
        let names = |args: &[&str]| -> Vec<String> {
            server.ok(&[&["jam", "packages", "--output", "name"], args].concat()).lines().map(Into::into).collect()
        };
        assert_eq!(names(&["--all", "--limit", "3"]), ids, "legacy {legacy}");
        assert_eq!(names(&["--all", "--limit", "7"]), ids, "legacy {legacy}");
        assert_eq!(names(&["--limit", "3", "--offset", "2"]), ids[2..5], "legacy {legacy}");
        let whole: Value = server.json(&["jam", "packages", "--all", "--limit", "3"]);
        let items = if legacy == "true" { &whole } else { &whole["items"] };
        assert_eq!(items.as_array().map(Vec::len), Some(7), "legacy {legacy}");
        let text = server.ok(&["jam", "verify", "--service", "s"]);
        assert!(text.starts_with("service s: 7 receipts verified"), "{text}");
    }
}

#[test]
fn process_all_goes_on_until_nothing_is_pending() {
    let server = Server::with(&[("JAM_MAX_PENDING_PACKAGES", "0")]);
    for n in 0..3 {
        server.submit("s", &format!("p{n}"));
    }
    assert_eq!(server.ok(&["jam", "process", "--limit", "2"]), "processed 2 packages\n");
    assert_eq!(server.ok(&["jam", "process", "--all"]), "processed 1 package\n");
    assert_eq!(
        server.json(&["jam", "process", "--all", "--output", "json"]),
        json!({"processed": false, "count": 0, "failed": 0})
    );
    let text = server.ok(&["jam", "verify", "--service", "s"]);
    assert!(text.starts_with("service s: 6 receipts verified"), "{text}");
}

#[test]
fn a_package_comes_with_its_receipt_and_is_submitted_once_per_key() {
    let server = Server::start();
    let submit = |params| {
        let package = ["jam", "package", "--service", "s", "--kind", "k", "--params-hash", params];
        server.slctl(&[&package[..], &["--include-receipt", "--idempotency-key", "key"]].concat())
    };
    let first = submit("p");
    let body: Value = serde_json::from_str(&first.out).unwrap();
    assert_eq!((&body["receipt"]["hash"], &body["receipt"]["seq"]), (&body["package"]["id"], &json!(1)));
    let second = submit("p");
    assert_eq!((second.code, &second.out), (0, &first.out));
    assert_eq!(second.err, "this package was submitted before: the stored one is shown\n");
    let other = submit("q");
    assert_eq!((other.code, other.out.as_str()), (1, ""));
    assert!(other.err.ends_with("(jam_conflict)\n"), "{other:?}");
}

#[test]
fn doctor_finds_a_healthy_server_well() {
    let server = Server::start();
    let text = server.ok(&["doctor"]);
    assert!(text.lines().all(|line| line.starts_with("ok ")), "{text}");
    let report = server.json(&["doctor", "--json"]);
    assert_eq!((&report["ok"], report["checks"].as_array().unwrap().len()), (&json!(true), 8));
}

#[test]
fn a_download_changes_its_own_file_alone_and_keeps_what_kind_of_file_it_is() {
    use std::os::unix::fs::PermissionsExt as _;
    let (server, directory) = (Server::start(), tempdir().unwrap());
    let hello = write(directory.path(), "hello.txt", b"hello\n");
    server.ok(&["jam", "preimage", "--file", &hello]);
    let at = |name: &str| directory.path().join(name);
    let get = |hash: &str, to: &str| {
        server.slctl(&["jam", "preimage", "--get", "--hash", hash, "-o", at(to).to_str().unwrap()]).code
    };
    let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
    let mode = |name: &str| std::fs::metadata(at(name)).unwrap().permissions().mode() & 0o777;

    write(directory.path(), "a.part", b"of the user");
    write(directory.path(), "b.part", b"of the user");
    assert_eq!((get(HELLO, "a"), get(&"0".repeat(64), "b")), (0, 3));
    assert_eq!((read("a").as_str(), at("b").exists()), ("hello\n", false));
    assert_eq!((read("a.part").as_str(), read("b.part").as_str()), ("of the user", "of the user"));

    std::fs::create_dir(at("deep")).unwrap();
    write(directory.path(), "deep/old", b"old");
    std::os::unix::fs::symlink("deep/old", at("link")).unwrap();
    std::os::unix::fs::symlink("deep/new", at("dangling")).unwrap();
    assert_eq!((get(HELLO, "link"), get(HELLO, "dangling")), (0, 0));
    assert!(at("link").is_symlink() && at("dangling").is_symlink());
    assert_eq!((read("deep/old").as_str(), read("deep/new").as_str()), ("hello\n", "hello\n"));

    write(directory.path(), "private", b"old");
    std::fs::set_permissions(at("private"), std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!((get(HELLO, "private"), mode("private"), read("private").as_str()), (0, 0o600, "hello\n"));
    assert_eq!(mode("a"), mode("hello.txt"), "a new file is as the umask says");

    assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    let pipe = at("pipe");
    let reader = std::thread::spawn(move || std::fs::read_to_string(pipe).unwrap());
    assert_eq!((get(HELLO, "pipe"), reader.join().unwrap().as_str()), (0, "hello\n"));
    assert!(!std::fs::metadata(at("pipe")).unwrap().is_file());

    assert_eq!(get(HELLO, "deep"), 2, "a directory is no file");
    let hidden = std::fs::read_dir(directory.path()).unwrap().flatten();
    assert_eq!(hidden.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')).count(), 0);
}

#[test]
fn reports_with_the_same_output_are_shown_with_their_own_receipts() {
    let report = |id: &str| {
        json!({"id": id, "package_id": "p", "service_id": "s", "status": "applied",
        "refine_output_hash": "same", "created_at": "now"})
    };
    let receipt = |seq: u64, id: &str| {
        json!({"hash": "same", "service_id": "s", "seq": seq,
        "extra": {"package_id": "p", "report_id": id}})
    };
    let page = json!({"items": [report("two"), report("one")], "next_offset": null, "next_cursor": null,
        "receipts": [receipt(2, "one"), receipt(4, "two")]});
    let fake = Fake::answering(move |_, head| {
        assert!(head.starts_with("GET /jam/reports?") && head.contains("include_receipt=true"), "{head}");
        Some(Reply::json(&page))
    });
    let ran = fake.slctl(&["jam", "reports", "--include-receipt", "--table"]);
    let rows = "ID PACKAGE SERVICE STATUS OUTPUT CREATED RECEIPT\n\
                two p s applied same now 4\none p s applied same now 2\n";
    assert_eq!((ran.code, blur(&ran.out).as_str()), (0, rows), "{ran:?}");
}

#[test]
fn receipts_that_slip_onto_the_next_page_are_shown_once() {
    let page = |seqs: &[u64]| -> Reply {
        let receipt = |seq: &u64| json!({"service_id": "s", "seq": seq, "hash": format!("h{seq}")});
        Reply::json(&seqs.iter().map(receipt).collect::<Vec<_>>().into())
    };
    let fake = Fake::answering(move |call, _| {
        Some(match call {
            0 => page(&[3, 2]),
            // Meanwhile one was added at the front.
            1 => page(&[2, 1]),
            _ => page(&[]),
        })
    });
    let ran = fake.slctl(&["jam", "receipts", "--all", "--limit", "2", "--output", "name"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "h3\nh2\nh1\n"), "{ran:?}");
}
