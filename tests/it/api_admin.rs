//! The admin plane: who is let in, what is there without it, the audit, archived packages, cleanup by hand.

use jam::api::action::{Permission, TABLE};
use jam_domain::Timestamp;
use jam_store::{PostgresConfig, PostgresStore, Store};
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::api_support::{Answer, Server, TOKEN, World, answer, file, laws, token_file, until};
use crate::store_fixture::{engine, package as old_package};
use crate::support::postgres;

/// The token of an administrator.
pub const ROOT: &str = "a-token-of-an-administrator";
/// The token of an administrator of the service `mine`.
pub const BOUND: &str = "a-token-of-an-administrator-of-mine";

laws!(
    without_admin_tokens_there_is_no_admin_plane,
    only_tokens_of_the_admin_file_are_let_in,
    an_administrators_token_that_expired_is_said_to_have_expired,
    an_administrator_of_some_services_gets_no_further_than_these,
    every_action_is_in_the_audit,
    a_cleanup_by_hand_says_what_it_did_and_stands_in_the_status,
);

/// A server with an admin plane, and the directory of its token file.
pub struct Office {
    pub server: Server,
    dir: tempfile::TempDir,
}

impl Office {
    pub async fn open(world: &World) -> Self {
        Self::with(world, &[]).await
    }

    pub async fn with(world: &World, settings: &[(&str, &str)]) -> Self {
        let tokens = token_file(&[(ROOT, None, None), (BOUND, None, Some(&["mine"]))]);
        let (dir, path) = file("admins.json", &tokens);
        let always = [("JAM_ADMIN_TOKENS_FILE", path.to_str().unwrap())];
        let server = world.with(&always.iter().chain(settings).copied().collect::<Vec<_>>()).await;
        Self { server, dir }
    }

    /// A request of the administrator.
    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.server.bare(method, path).bearer_auth(ROOT)
    }

    pub async fn get(&self, path: &str) -> Answer {
        answer(self.request("GET", path)).await
    }

    pub async fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        answer(self.request(method, path).body(body.to_string())).await
    }

    /// The newest lines of the audit: action, target.
    pub async fn audit(&self) -> Vec<(String, String)> {
        let page = self.get("/jam/admin/audit").await.expect(200).json();
        let text = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
        page["items"].as_array().unwrap().iter().map(|line| (text(line, "action"), text(line, "target"))).collect()
    }
}

/// Every call of administrators, with something where the path has a gap.
fn calls() -> Vec<(String, String)> {
    let rules = TABLE.iter().filter(|rule| rule.permission == Permission::Administers);
    rules.map(|rule| (rule.method.to_string(), rule.path.replace(['{', '}'], ""))).collect()
}

async fn without_admin_tokens_there_is_no_admin_plane(world: World) {
    let server = world.serve().await;
    assert!(calls().len() >= 4);
    for (method, path) in calls() {
        for token in [TOKEN, ROOT] {
            let refused = answer(server.bare(&method, &path).bearer_auth(token)).await;
            refused.refused(404, "jam_not_found");
        }
    }
    let off = Office::with(&world, &[("JAM_ENABLED", "false")]).await;
    for (method, path) in calls() {
        answer(off.request(&method, &path)).await.refused(404, "jam_not_found");
    }
}

async fn only_tokens_of_the_admin_file_are_let_in(world: World) {
    let (_dir, tokens) = file("tokens.json", &token_file(&[("keeper", Some(&["admin"]), None)]));
    let office = Office::with(&world, &[("JAM_TOKENS_FILE", tokens.to_str().unwrap())]).await;
    for (method, path) in calls() {
        let bare = || office.server.bare(&method, &path);
        let refused = answer(bare()).await;
        assert_eq!(refused.header("www-authenticate"), "Bearer");
        refused.refused(401, "jam_admin_auth_missing");
        answer(bare().bearer_auth("unknown")).await.refused(401, "jam_admin_auth_missing");
        // Not even one with the scope: that one may delete preimages and see what is archived.
        for token in [TOKEN, "keeper"] {
            answer(bare().bearer_auth(token)).await.refused(403, "jam_admin_forbidden");
        }
    }
    office.get("/jam/admin/audit").await.expect(200);
    answer(office.request("PATCH", "/jam/admin/audit")).await.refused(405, "jam_admin_method_not_allowed");
    office.get("/jam/admin/nowhere").await.refused(404, "jam_admin_not_found");
    // Being in the file carries every scope, elsewhere too.
    office.get("/jam/packages?archived=true").await.expect(200);
    answer(office.server.bare("GET", "/jam/packages?archived=true").bearer_auth("keeper"))
        .await
        .refused(403, "jam_auth_forbidden");
    assert!(!office.server.log().contains(ROOT));
    let open = Office::with(&world, &[("JAM_AUTH_REQUIRED", "false")]).await;
    answer(open.server.bare("GET", "/jam/admin/audit")).await.refused(401, "jam_admin_auth_missing");
}

async fn an_administrators_token_that_expired_is_said_to_have_expired(world: World) {
    let hash = jam_domain::token::TokenHash::of(ROOT);
    let ended = Timestamp::now().plus_seconds(-1);
    let (_dir, path) = file("admins.json", &json!([{"id": hash.id(), "sha256": hash, "not_after": ended}]).to_string());
    let server = world.with(&[("JAM_ADMIN_TOKENS_FILE", path.to_str().unwrap())]).await;
    for (path, code) in [("/jam/admin/audit", "jam_admin_auth_missing"), ("/jam/packages", "jam_auth_missing")] {
        let refused = answer(server.bare("GET", path).bearer_auth(ROOT)).await.refused(401, code);
        assert!(refused["error"].as_str().unwrap().contains("expired"), "{refused}");
    }
    assert_eq!(server.metric("jam_auth_failures_total{reason=\"expired\"").await, Some(2.0));
}

async fn an_administrator_of_some_services_gets_no_further_than_these(world: World) {
    let office = Office::open(&world).await;
    for (method, path) in
        [("GET", "/jam/admin/audit"), ("POST", "/jam/admin/cleanup/run"), ("GET", "/jam/admin/cleanup/status")]
    {
        let refused = answer(office.server.bare(method, path).bearer_auth(BOUND)).await;
        refused.refused(403, "jam_admin_service_denied");
    }
}

async fn every_action_is_in_the_audit(world: World) {
    let office = Office::open(&world).await;
    let hash = office.server.upload(b"blob").await;
    let path = format!("/jam/preimages/{hash}");
    answer(office.server.request("DELETE", &path)).await.refused(403, "jam_auth_forbidden");
    assert_eq!(office.audit().await, []);
    answer(office.request("DELETE", &path)).await.expect(204);
    office.call("POST", "/jam/admin/cleanup/run?dry_run=true", &Value::Null).await.expect(200);
    office.call("POST", "/jam/admin/cleanup/run", &Value::Null).await.expect(200);
    // What is many transactions is told before the first of them and after the last.
    let wanted = [("cleanup.run", ""), ("cleanup.run", ""), ("preimage.delete", hash.as_str())];
    assert_eq!(office.audit().await, wanted.map(|(action, target)| (action.to_owned(), target.to_owned())));
    let page = office.get("/jam/admin/audit?limit=2").await.expect(200).json();
    assert_eq!((&page["items"][0]["id"], &page["next_offset"]), (&json!(3), &json!(2)));
    let results = [0, 1].map(|line| page["items"][line]["after"]["result"].clone());
    assert_eq!(results, [json!("ok"), json!("asked")]);
    let cursor = page["next_cursor"].as_str().unwrap();
    let page = office.get(&format!("/jam/admin/audit?cursor={cursor}")).await.expect(200).json();
    let line = &page["items"][0];
    let id = jam_domain::token::TokenHash::of(ROOT).id();
    assert_eq!((line["token_id"].as_str(), line["before"]["size"].as_u64()), (Some(id.as_str()), Some(4)));
    assert_eq!((&line["after"], &page["next_cursor"]), (&Value::Null, &Value::Null));
    assert!(line["at"].as_str().is_some_and(|at| at.ends_with('Z')));
    office.get("/jam/admin/audit?cursor=x").await.refused(400, "jam_admin_validation_error");
}

async fn a_cleanup_by_hand_says_what_it_did_and_stands_in_the_status(world: World) {
    let office = Office::open(&world).await;
    let stands = async || office.get("/jam/admin/cleanup/status").await.expect(200).json();
    assert_eq!(stands().await, json!({"enabled": true, "ok": true, "last": null}));
    // As the contract writes it, and in full.
    for flag in ["dry_run", "dry_run=true"] {
        let path = format!("/jam/admin/cleanup/run?{flag}");
        let dry = office.call("POST", &path, &Value::Null).await.expect(200).json();
        assert_eq!((&dry["dry_run"], &dry["archived"]["packages"]), (&json!(true), &json!(0)), "{flag}");
    }
    let misspelt = office.call("POST", "/jam/admin/cleanup/run?dryrun=true", &Value::Null).await;
    let refused = misspelt.refused(400, "jam_admin_validation_error");
    assert!(refused["error"].as_str().unwrap().contains("dryrun"), "{refused}");
    assert_eq!(stands().await["last"], Value::Null, "neither a dry run nor a refused one is remembered");
    let ran = office.call("POST", "/jam/admin/cleanup/run", &Value::Null).await.expect(200).json();
    assert_eq!((&ran["dry_run"], &ran["deleted"]["preimages"]), (&json!(false), &json!(0)));
    let last = stands().await["last"].take();
    assert_eq!((&last["result"], &last["started_at"]), (&json!("ok"), &ran["started_at"]));
    assert_eq!(office.get("/system/status").await.json()["jam"]["cleanup"]["started_at"], ran["started_at"]);
}

/// A database with an old, finished package.
async fn with_an_old_package() -> (World, String) {
    let world = World::postgres().await;
    let store = PostgresStore::connect(PostgresConfig::new(world.dsn().unwrap())).await.unwrap();
    let mut new = old_package("mine");
    new.package.created_at = new.package.created_at.plus_seconds(-86_400 * 40);
    let id = store.submit(new, &engine()).await.unwrap().package.id;
    store.process(1, &engine()).await.unwrap();
    store.close().await;
    (world, id.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_whose_line_cannot_be_written_does_nothing() {
    let (world, id) = with_an_old_package().await;
    let office = Office::open(&world).await;
    let dsn = world.dsn().unwrap();
    postgres::execute(dsn, "alter table audit add constraint nothing check (false)").await;
    let refused = office.call("POST", "/jam/admin/cleanup/run", &Value::Null).await;
    assert_eq!(refused.status, 500);
    office.get(&format!("/jam/packages/{id}")).await.expect(200);
    postgres::execute(dsn, "alter table audit drop constraint nothing").await;
    let ran = office.call("POST", "/jam/admin/cleanup/run", &Value::Null).await.expect(200).json();
    assert_eq!(ran["archived"]["packages"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_package_is_seen_and_brought_back_by_administrators_only() {
    let (world, id) = with_an_old_package().await;
    let office = Office::open(&world).await;
    let (path, restore) = (format!("/jam/packages/{id}"), format!("/jam/admin/packages/{id}/restore"));
    let all = ["", "/report", "/attestations"].map(|part| format!("{path}{part}"));
    let live = office.get(&format!("{path}/report?include_receipt=true")).await.expect(200).json();
    let listed =
        async |query: &str| office.get(&format!("/jam/reports?include_receipt=true{query}")).await.expect(200).json();
    assert_eq!(listed("").await["receipts"], json!([live["receipt"]]));
    let ran = office.call("POST", "/jam/admin/cleanup/run", &Value::Null).await.expect(200).json();
    assert_eq!(ran["archived"], json!({"packages": 1, "reports": 1}));
    for part in &all {
        office.get(part).await.refused(404, "jam_not_found");
        let asked = format!("{part}?archived=true");
        office.server.get(&asked).await.refused(403, "jam_auth_forbidden");
        office.get(&asked).await.expect(200);
        answer(office.server.bare("GET", &asked).bearer_auth(BOUND)).await.expect(200);
    }
    let archived = office.get(&format!("{path}/report?include_receipt=true&archived=true")).await.expect(200).json();
    assert_eq!(archived, live);
    let with_receipt = office.get(&format!("{path}?include_receipt=true&archived=true")).await.expect(200).json();
    assert_eq!(with_receipt["receipt"]["hash"], id);
    for list in ["/jam/packages", "/jam/reports"] {
        assert_eq!(office.get(list).await.expect(200).json()["items"], json!([]));
        let asked = format!("{list}?archived=true&service_id=mine");
        office.server.get(&asked).await.refused(403, "jam_auth_forbidden");
        assert_eq!(office.get(&asked).await.expect(200).json()["items"].as_array().unwrap().len(), 1, "{list}");
        assert_eq!(office.get(&format!("{asked}&status=disputed")).await.json()["items"], json!([]));
    }
    assert_eq!(listed("&archived=true").await["receipts"], json!([live["receipt"]]));
    let packages = office.get("/jam/packages?archived=true&include_receipt=true").await.expect(200).json();
    assert_eq!(packages["receipts"][0]["hash"], id);
    answer(office.server.request("POST", &restore)).await.refused(403, "jam_admin_forbidden");
    assert_eq!(office.call("POST", &restore, &Value::Null).await.expect(200).json()["id"], id);
    for part in &all {
        office.server.get(part).await.expect(200);
    }
    assert_eq!(office.get("/jam/reports?archived=true").await.json()["items"], json!([]));
    office.call("POST", &restore, &Value::Null).await.refused(404, "jam_admin_not_found");
    assert_eq!(office.audit().await[0], ("package.restore".to_owned(), id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_admin_token_file_counts_within_two_seconds_and_a_broken_one_not_at_all() {
    let office = Office::open(&World::memory()).await;
    let path = office.dir.path().join("admins.json");
    let status =
        async |token: &str| answer(office.server.bare("GET", "/jam/admin/audit").bearer_auth(token)).await.status;
    std::fs::write(&path, token_file(&[("the-next-one", None, None)])).unwrap();
    until("the next token", async || (status("the-next-one").await == 200).then_some(())).await;
    assert_eq!(status(ROOT).await, 401);
    std::fs::write(&path, "- {id: x, sha256: short}").unwrap();
    let told = async || office.server.log().contains("admin_tokens_file").then_some(());
    until("a line in the log", told).await;
    assert_eq!(status("the-next-one").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rate_limit_counts_for_administrators_too() {
    let office = Office::with(&World::memory(), &[("JAM_RATE_LIMIT_PER_MINUTE", "1")]).await;
    office.get("/jam/admin/audit").await.expect(200);
    let refused = office.get("/jam/admin/audit").await;
    assert_eq!(refused.header("ratelimit-limit"), "1");
    refused.refused(429, "jam_admin_rate_limit");
}
