//! `slctl jam admin` against the real server, from the first look to the last line.

use serde_json::{Value, json};

use crate::api_support::token_file;
use crate::cli_support::{Server, blur, refused};
use jam_domain::token::TokenHash;

const ROOT: &str = "a-token-of-an-administrator";

/// The office of one server: what its administrator says, and what comes back.
struct Desk {
    server: Server,
    _dir: tempfile::TempDir,
}

impl Desk {
    fn open() -> Self {
        Self::with(&[("JAM_RATE_LIMIT_PER_MINUTE", "100")])
    }

    fn with(settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admins.json");
        std::fs::write(&path, token_file(&[(ROOT, None, None)])).unwrap();
        let always = [("JAM_ADMIN_TOKENS_FILE", path.to_str().unwrap())];
        let server = Server::with(&[&always, settings].concat());
        Self { server, _dir: dir }
    }

    fn admin(&self, args: &[&str]) -> Value {
        self.server.json(&[&["jam", "admin", "--admin-token", ROOT], args].concat())
    }

    fn done(&self, args: &[&str]) {
        assert_eq!(self.server.ok(&[&["jam", "admin", "--admin-token", ROOT], args].concat()), "done\n");
    }

    fn refused(&self, args: &[&str], code: i32, line: &str) {
        refused(&self.server.slctl(&[&["jam", "admin", "--admin-token", ROOT], args].concat()), code, line);
    }
}

#[test]
fn an_administrator_walks_through_every_command() {
    let desk = Desk::open();
    assert_eq!(desk.admin(&["toggles"])["items"], json!([]));
    let set = desk.admin(&["toggles", "--set", "max_pending_packages=7"]);
    assert_eq!(
        (&set["key"], &set["value"], &set["overrode"]),
        (&json!("max_pending_packages"), &json!(7), &json!(100))
    );
    assert!(desk.server.ok(&["jam", "status"]).contains("max_pending_packages=7"));
    assert!(desk.server.ok(&["jam", "status"]).contains("overrides "), "shown to everybody");
    desk.done(&["toggles", "--delete", "max_pending_packages"]);
    desk.refused(&["toggles", "--delete", "enabled"], 3, "there is no such override (jam_admin_not_found)");
    assert_eq!(desk.admin(&["cleanup"])["last"], Value::Null);
    assert_eq!(desk.admin(&["cleanup", "--run", "--dry-run"])["dry_run"], true);
    assert_eq!(desk.admin(&["cleanup", "--run"])["dry_run"], false);
    assert_eq!(desk.admin(&["cleanup"])["last"]["result"], "ok");
    let hash = TokenHash::of("the-delegate").to_string();
    let of_service = |args: &[&str]| desk.admin(&[&["delegates", "--service", "a:b"], args].concat());
    assert_eq!(of_service(&["--add", &hash])["sha256"], hash.as_str());
    assert_eq!(of_service(&[])["items"][0]["id"], hash[..8]);
    desk.done(&["delegates", "--service", "a:b", "--remove", &hash]);
    let key = desk.admin(&["rate-limits"])["items"][0]["key"].as_str().unwrap().to_owned();
    assert!(key.starts_with("token:"));
    desk.done(&["rate-limits", "--reset", &key]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_ends_a_dispute_with_a_report_or_without() {
    let desk = Desk::with(&[("JAM_ATTESTATION_THRESHOLD", "2")]);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let nowhere = "01890a5d-ac96-774b-bcce-b302099a8057";
    desk.refused(&["disputes", "--package", nowhere], 3, "there is no such dispute (jam_admin_not_found)");
    for accept in [true, false] {
        let package = desk.server.json(&["jam", "package", "--service", "s", "--kind", "k", "--params-hash", "p"]);
        desk.server.ok(&["jam", "process"]);
        let id = package["id"].as_str().unwrap();
        let report = desk.server.json(&["jam", "report", "--package", id])["report"]["id"].clone();
        let word = json!({"worker_id": "w", "signature": "YQ==", "refine_output_hash": "ab".repeat(32)});
        let path = format!("{}/jam/reports/{}/attestations", desk.server.addr, report.as_str().unwrap());
        let said = http.post(path).bearer_auth(crate::cli_support::TOKEN).json(&word).send().await.unwrap();
        assert_eq!(said.status(), 201);
        let dispute = desk.admin(&["disputes", "--package", id]);
        assert_eq!((&dispute["package"]["status"], &dispute["resolution"]), (&json!("disputed"), &Value::Null));
        assert_eq!(
            (&dispute["reports"][0]["report"]["id"], dispute["reports"].as_array().unwrap().len()),
            (&report, 2)
        );
        let (how, status) = if accept {
            (vec!["--accept", report.as_str().unwrap()], "applied")
        } else {
            (vec!["--reject"], "disputed")
        };
        let ended = desk.admin(&[&["disputes", "--package", id], &how[..]].concat());
        assert_eq!(ended["package"]["status"], status);
        let line = "this dispute was ended before (jam_admin_conflict)";
        desk.refused(&["disputes", "--package", id, "--reject"], 1, line);
    }
    desk.server.ok(&["jam", "verify", "--service", "s"]);
}

#[test]
fn a_token_that_is_none_of_an_administrators_is_told_so() {
    let desk = Desk::open();
    let line = "this needs an administrator's token, one of admin_tokens_file (jam_admin_forbidden)";
    refused(&desk.server.slctl(&["jam", "admin", "toggles"]), 1, line);
    desk.refused(&["toggles", "--set", "enabled=7"], 1, "value: must be true or false (jam_admin_validation_error)");
    let with = |token: &str| desk.server.slctl(&["jam", "admin", "--admin-token", token, "toggles"]);
    let line =
        "this token is not known (any more); set --admin-token to a token of an administrator (jam_admin_auth_missing)";
    refused(&with("bad"), 1, line);
    refused(&with(""), 2, "--admin-token is empty (usage)");
    let plain = Server::start();
    refused(&plain.slctl(&["jam", "admin", "toggles"]), 3, "there is no such path (jam_not_found)");
}

#[test]
fn what_an_administrator_lists_has_columns_and_names() {
    let desk = Desk::open();
    let shown = |args: &[&str], form: &str| {
        blur(&desk.server.ok(&[&["jam", "admin", "--admin-token", ROOT, "--output", form], args].concat()))
    };
    desk.admin(&["toggles", "--set", "max_pending_packages=7"]);
    let by = TokenHash::of(ROOT).id().to_string();
    let table = format!("KEY VALUE OVERRODE SET BY\nmax_pending_packages 7 100 <time> {by}\n");
    assert_eq!(shown(&["toggles"], "table"), table);
    assert_eq!(shown(&["toggles"], "name"), "max_pending_packages\n");
    assert_eq!(shown(&["toggles", "--set", "max_pending_packages=8"], "name"), "max_pending_packages\n");
    // The API takes upper case, so slctl does.
    let hash = TokenHash::of("the-delegate").to_string();
    desk.admin(&["delegates", "--service", "s", "--add", &hash.to_uppercase()]);
    let table = format!("SHA256 ID NAME SET BY\n<hash> {} - <time> {by}\n", &hash[..8]);
    assert_eq!(shown(&["delegates", "--service", "s"], "table"), table);
    let names = ["jam", "admin", "--admin-token", ROOT, "--output", "name", "delegates", "--service", "s"];
    assert_eq!(desk.server.ok(&names), format!("{hash}\n"));
    let wrong = desk.server.slctl(&["jam", "admin", "delegates", "--service", "s", "--add", "x"]);
    assert!(wrong.code == 2 && wrong.err.contains("SHA-256 of the token"), "{wrong:?}");
    assert!(shown(&["rate-limits"], "table").starts_with("KEY LIMIT REMAINING RESET\ntoken:"));
    let doctor = desk.server.ok(&["doctor", "--output", "table"]);
    assert!(blur(&doctor).starts_with("CHECK STATE CLASS DETAIL NEXT\nresolve ok - the host has an address -\n"));
    assert!(desk.server.ok(&["doctor", "--output", "name"]).starts_with("resolve\nconnect\n"));
}

#[test]
fn jam_switched_off_by_an_administrator_is_told_with_what_switches_it_on() {
    let desk = Desk::open();
    desk.admin(&["toggles", "--set", "enabled=false"]);
    let why = "an administrator switched it off; `slctl jam admin toggles --delete enabled` switches it on again";
    let line = format!("JAM is not enabled at {}: {why} (jam_not_found)", desk.server.addr);
    let stat = ["jam", "preimage", "--stat", "--hash", &"0".repeat(64)];
    for args in [&["jam", "status"][..], &["jam", "packages"], &stat] {
        refused(&desk.server.slctl(args), 3, &line);
    }
    let doctor = desk.server.slctl(&["doctor"]);
    assert!(doctor.out.contains("JAM is not enabled: an administrator switched it off\n"), "{doctor:?}");
    assert!(doctor.out.contains("next: `slctl jam admin toggles --delete enabled`"), "{doctor:?}");
    assert_eq!(doctor.code, 1);
    desk.done(&["toggles", "--delete", "enabled"]);
    desk.server.ok(&["doctor"]);
}
