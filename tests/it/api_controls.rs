//! What administrators set at run time: overrides, quotas, delegates and buckets, on one server and on several.

use futures::future::join_all;
use jam_domain::token::TokenHash;
use jam_store::{PostgresConfig, PostgresStore, Store};
use serde_json::{Value, json};

use crate::api_admin::{BOUND, Office, ROOT};
use crate::api_support::{Answer, Server, TOKEN, World, answer, file, laws, package, ran, token_file, until};
use crate::events_support::Stream;
use crate::store_fixture::{engine, package as old_package};

laws!(
    an_override_is_in_force_at_once_shown_and_taken_back,
    jam_that_an_override_turned_off_is_turned_on_again_by_its_administrators,
    a_wrong_override_is_refused_by_name,
    quotas_of_a_service_stand_in_front_of_the_settings_and_are_exact,
    uploads_count_for_the_service_that_the_token_is_bound_to,
    a_delegate_acts_for_its_services_only_and_no_longer_than_it_is_one,
    a_delegate_that_the_token_file_lists_ends_with_its_line_and_the_next_of_its_name_is_as_bound,
    buckets_in_use_are_shown_and_emptied,
);

const TOGGLES: &str = "/jam/admin/toggles";

impl Office {
    async fn toggle(&self, key: &str, value: Value) -> Value {
        self.call("POST", TOGGLES, &json!({"key": key, "value": value})).await.expect(200).json()
    }

    async fn status(&self) -> Value {
        self.server.get("/jam/status").await.expect(200).json()
    }
}

async fn as_token(server: &Server, token: &str, method: &str, path: &str, body: &Value) -> Answer {
    answer(server.bare(method, path).bearer_auth(token).body(body.to_string())).await
}

async fn an_override_is_in_force_at_once_shown_and_taken_back(world: World) {
    let office = Office::open(&world).await;
    assert_eq!(office.status().await["overrides"], json!([]));
    let set = office.toggle("max_preimage_bytes", json!(3)).await;
    assert_eq!(
        (&set["key"], &set["value"], &set["overrode"]),
        (&json!("max_preimage_bytes"), &json!(3), &json!(10_485_760))
    );
    office.toggle("max_pending_packages", json!(1.0)).await;
    let status = office.status().await;
    assert_eq!((&status["max_preimage_bytes"], &status["max_pending_packages"]), (&json!(3), &json!(1)));
    let items = office.get(TOGGLES).await.expect(200).json()["items"].take();
    assert_eq!((items.as_array().unwrap().len(), &items[1]), (2, &set));
    assert_eq!(status["overrides"], items);
    assert_eq!(office.server.get("/system/status").await.json()["jam"]["overrides"], items);
    let hash = jam_domain::PreimageHash::of(b"blob");
    let put = office.server.request("PUT", &format!("/jam/preimages/{hash}")).body("blob");
    answer(put).await.refused(413, "jam_preimage_too_large");
    office.server.submit("s", "1").await;
    office.server.post("/jam/packages", &package("s", "2")).await.refused(409, "jam_pending_limit");
    for key in ["max_preimage_bytes", "max_pending_packages"] {
        answer(office.request("DELETE", &format!("{TOGGLES}/{key}"))).await.expect(204);
        answer(office.request("DELETE", &format!("{TOGGLES}/{key}"))).await.refused(404, "jam_admin_not_found");
    }
    office.server.submit("s", "2").await;
    assert_eq!(office.status().await["overrides"], json!([]));
    let acts: Vec<String> = office.audit().await.into_iter().map(|(action, _)| action).collect();
    assert_eq!(acts, ["toggle.delete", "toggle.delete", "toggle.set", "toggle.set"]);
    office.toggle("rate_limit_per_minute", json!(1)).await;
    office.server.get("/jam/packages").await.expect(200);
    office.server.get("/jam/packages").await.refused(429, "jam_rate_limit");
}

async fn jam_that_an_override_turned_off_is_turned_on_again_by_its_administrators(world: World) {
    let office = Office::open(&world).await;
    office.toggle("enabled", json!(false)).await;
    for path in ["/jam/status", "/jam/packages", "/jam/nowhere"] {
        office.server.get(path).await.refused(404, "jam_not_found");
    }
    let jam = office.server.get("/system/status").await.expect(200).json()["jam"].take();
    assert_eq!((&jam["enabled"], &jam["overrides"][0]["key"]), (&json!(false), &json!("enabled")));
    answer(office.server.bare("GET", "/readyz")).await.expect(200);
    answer(office.request("DELETE", "/jam/admin/toggles/enabled")).await.expect(204);
    assert_eq!(office.status().await["enabled"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_events_hears_nothing_more_when_jam_is_turned_off() {
    let office = Office::open(&World::memory()).await;
    let mut stream = Stream::open(&office.server, "").await;
    office.server.submit("s", "1").await;
    assert_eq!(stream.events(2).await.len(), 2);
    office.toggle("enabled", json!(false)).await;
    // At the next word for it, which is a heartbeat at the latest.
    assert_eq!(stream.event().await, None);
    answer(office.request("DELETE", &format!("{TOGGLES}/enabled"))).await.expect(204);
    Stream::open(&office.server, "").await;
}

async fn a_wrong_override_is_refused_by_name(world: World) {
    let office = Office::open(&world).await;
    for (body, field) in [
        (json!({"key": "store", "value": "memory"}), "key"),
        (json!({"key": "enabled", "value": 1}), "value"),
        (json!({"key": "rate_limit_per_minute", "value": -1}), "value"),
        (json!({"key": "rate_limit_per_minute"}), "value"),
    ] {
        let refused = office.call("POST", TOGGLES, &body).await.refused(400, "jam_admin_validation_error");
        assert_eq!(refused["details"]["field"], field, "{body}");
    }
    for service in ["a%20b", "ü"] {
        let path = format!("/jam/admin/services/{service}/quotas");
        office.get(&path).await.refused(400, "jam_admin_validation_error");
    }
    assert_eq!(office.audit().await, []);
}

/// How many of so many submissions at once are accepted.
async fn accepted(servers: &[&Server], service: &str, count: usize) -> usize {
    let submissions = (0..count).map(|n| {
        let server = servers[n % servers.len()];
        let body = package(service, &format!("{service} {n} {:?}", std::time::Instant::now()));
        async move { server.post("/jam/packages", &body).await.status }
    });
    join_all(submissions).await.into_iter().filter(|status| *status == 201).count()
}

async fn quotas_of_a_service_stand_in_front_of_the_settings_and_are_exact(world: World) {
    let (_dir, services) = file("services.yaml", "- {id: mine, max_pending_packages: 2, max_packages_per_minute: 500}");
    let office = Office::with(&world, &[("JAM_SERVICES_FILE", services.to_str().unwrap())]).await;
    let path = "/jam/admin/services/mine/quotas";
    let read = async || office.get(path).await.expect(200).json();
    let settings = json!({"max_pending_packages": 2, "max_packages_per_minute": 500});
    assert_eq!(read().await, json!({"service_id": "mine", "quotas": {}, "in_force": settings}));
    let set = office.call("PUT", path, &json!({"max_pending_packages": 7})).await.expect(200).json();
    assert_eq!(set, read().await);
    assert_eq!(set["quotas"], json!({"max_pending_packages": 7}));
    assert_eq!(set["in_force"], json!({"max_pending_packages": 7, "max_packages_per_minute": 500}));
    // A second replica, where there can be one: the cap is one for both.
    let other = if world.dsn().is_some() { Some(Office::open(&world).await) } else { None };
    let servers: Vec<&Server> = [Some(&office), other.as_ref()].into_iter().flatten().map(|o| &o.server).collect();
    assert_eq!(accepted(&servers, "mine", 40).await, 7);
    assert_eq!(accepted(&servers, "yours", 9).await, 9);
    let busy = "/jam/admin/services/busy/quotas";
    office.call("PUT", busy, &json!({"max_packages_per_minute": 3})).await.expect(200);
    assert_eq!(accepted(&[&office.server], "busy", 20).await, 3, "a whole burst, and no more");
    let refused = office.server.post("/jam/packages", &package("busy", "more")).await;
    refused.refused(429, "jam_rate_limit");
    answer(office.server.bare("DELETE", path).bearer_auth(BOUND)).await.expect(204);
    assert_eq!(read().await["in_force"], settings);
    answer(office.request("DELETE", path)).await.refused(404, "jam_admin_not_found");
    let foreign = office.server.bare("DELETE", "/jam/admin/services/yours/quotas").bearer_auth(BOUND);
    answer(foreign).await.refused(403, "jam_admin_service_denied");
    let acts: Vec<String> = office.audit().await.into_iter().map(|(action, _)| action).collect();
    assert_eq!(acts, ["quota.delete", "quota.set", "quota.set"]);
}

async fn uploads_count_for_the_service_that_the_token_is_bound_to(world: World) {
    let (_dir, tokens) = file("tokens.json", &token_file(&[("of-mine", None, Some(&["mine"]))]));
    let office = Office::with(&world, &[("JAM_TOKENS_FILE", tokens.to_str().unwrap())]).await;
    let upload = async |token: &str, bytes: &'static [u8]| {
        let path = format!("/jam/preimages/{}", jam_domain::PreimageHash::of(bytes));
        answer(office.server.bare("PUT", &path).bearer_auth(token).body(bytes)).await
    };
    upload("of-mine", b"before").await.expect(201);
    let path = "/jam/admin/services/mine/quotas";
    office.call("PUT", path, &json!({"max_preimage_bytes": 3})).await.expect(200);
    let refused = upload("of-mine", b"1234").await.refused(413, "jam_preimage_too_large");
    assert_eq!(refused["details"], json!({"limit": 3}));
    upload("of-mine", b"123").await.expect(201);
    upload(TOKEN, b"1234").await.expect(201);
    office.toggle("max_preimage_bytes", json!(4)).await;
    upload(TOKEN, b"12345").await.refused(413, "jam_preimage_too_large");
    upload("of-mine", b"12345").await.refused(413, "jam_preimage_too_large");
    office.call("PUT", path, &json!({"max_preimage_bytes": 5})).await.expect(200);
    upload("of-mine", b"12345").await.expect(201);
}

async fn a_delegate_acts_for_its_services_only_and_no_longer_than_it_is_one(world: World) {
    let office = Office::open(&world).await;
    let (path, hash) = ("/jam/admin/services/mine/delegates", TokenHash::of("the-delegate"));
    let submit = async |service: &str| {
        as_token(&office.server, "the-delegate", "POST", "/jam/packages", &package(service, "")).await
    };
    submit("mine").await.refused(401, "jam_auth_missing");
    let body = json!({"sha256": hash, "name": "shop"});
    let added = office.call("POST", path, &body).await.expect(201).json();
    assert_eq!((&added["id"], &added["name"]), (&json!(hash.id()), &json!("shop")));
    office.call("POST", path, &body).await.expect(200);
    submit("mine").await.expect(201);
    submit("yours").await.refused(403, "jam_authz_service_denied");
    office.server.submit("yours", "").await;
    let listed =
        as_token(&office.server, "the-delegate", "GET", "/jam/packages", &Value::Null).await.expect(200).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "lists are narrowed");
    let admin = as_token(&office.server, "the-delegate", "GET", path, &Value::Null).await;
    admin.refused(403, "jam_admin_forbidden");
    let items = office.get(path).await.expect(200).json()["items"].take();
    assert_eq!((items.as_array().unwrap().len(), &items[0]["sha256"]), (1, &json!(hash)));
    assert_eq!(office.get("/jam/admin/services/mi%6Ee/delegates").await.json()["items"], items);
    assert_eq!(office.get("/jam/admin/services/yours/delegates").await.json()["items"], json!([]));
    office.call("POST", path, &json!({"token": "the-delegate"})).await.refused(400, "jam_admin_validation_error");
    office.call("DELETE", path, &json!({"sha256": hash})).await.expect(204);
    submit("mine").await.refused(401, "jam_auth_missing");
    office.call("DELETE", path, &json!({"sha256": hash})).await.refused(404, "jam_admin_not_found");
    assert_eq!(office.audit().await[0], ("delegate.remove".to_owned(), "mine".to_owned()));
    assert!(!office.server.log().contains(&hash.to_string()));
}

async fn a_delegate_that_the_token_file_lists_ends_with_its_line_and_the_next_of_its_name_is_as_bound(world: World) {
    let lists = |token: &str| {
        let hash = TokenHash::of(token);
        json!([{"id": hash.id(), "sha256": hash, "name": "demo"}]).to_string()
    };
    let (dir, path) = file("tokens.json", &lists("the-first"));
    let office = Office::with(&world, &[("JAM_TOKENS_FILE", path.to_str().unwrap())]).await;
    let (delegates, hash) = ("/jam/admin/services/mine/delegates", TokenHash::of("the-first"));
    let submit = async |token: &str, service: &str| {
        as_token(&office.server, token, "POST", "/jam/packages", &package(service, "")).await
    };
    submit("the-first", "yours").await.expect(201);
    office.call("POST", delegates, &json!({"sha256": hash})).await.expect(201);
    submit("the-first", "mine").await.expect(201);
    submit("the-first", "yours").await.refused(403, "jam_authz_service_denied");
    let next = dir.path().join("next");
    std::fs::write(&next, lists("the-second")).unwrap();
    std::fs::rename(&next, &path).unwrap();
    until("the next token", async || (submit("the-second", "mine").await.status != 401).then_some(())).await;
    submit("the-second", "yours").await.refused(403, "jam_authz_service_denied");
    let told = answer(office.server.bare("GET", "/readyz")).await.json()["key_ids"].take();
    assert!(!told.as_array().unwrap().contains(&json!(hash.id())), "{told}");
    submit("the-first", "mine").await.refused(401, "jam_auth_missing");
    // Whoever makes delegates by a script makes them again.
    office.call("POST", delegates, &json!({"sha256": hash})).await.expect(200);
    submit("the-first", "mine").await.refused(401, "jam_auth_missing");
    office.call("DELETE", delegates, &json!({"sha256": hash})).await.expect(204);
    submit("the-second", "yours").await.expect(201);
}

async fn buckets_in_use_are_shown_and_emptied(world: World) {
    let office = Office::with(&world, &[("JAM_RATE_LIMIT_PER_MINUTE", "2")]).await;
    let get = async || office.server.get("/jam/packages").await;
    for _ in 0..2 {
        get().await.expect(200);
    }
    get().await.refused(429, "jam_rate_limit");
    let key = format!("token:{}", TokenHash::of(TOKEN).id());
    let items = office.get("/jam/admin/rate-limits").await.expect(200).json()["items"].take();
    let mine = items.as_array().unwrap().iter().find(|bucket| bucket["key"] == key.as_str()).unwrap();
    assert_eq!((&mine["limit"], &mine["remaining"]), (&json!(2), &json!(0)));
    assert!(mine["reset"].as_u64().is_some_and(|seconds| (1..=120).contains(&seconds)), "{mine}");
    // This administrator has asked twice by now; the limit is his, too.
    office.call("POST", "/jam/admin/rate-limits", &json!({"key": key})).await.expect(204);
    until("room after the reset", async || (get().await.status == 200).then_some(())).await;
    let other = answer(office.server.bare("GET", "/jam/admin/audit").bearer_auth(BOUND)).await;
    other.refused(403, "jam_admin_service_denied");
}

/// Two replicas on one database.
async fn replicas() -> (World, Office, Office) {
    let world = World::postgres().await;
    let (one, other) = (Office::open(&world).await, Office::open(&world).await);
    (world, one, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_is_told_the_others_heed_soon_and_each_after_a_restart() {
    let (world, one, other) = replicas().await;
    let hash = TokenHash::of("the-delegate");
    one.toggle("max_pending_packages", json!(5)).await;
    one.call("PUT", "/jam/admin/services/mine/quotas", &json!({"max_pending_packages": 1})).await.expect(200);
    one.call("POST", "/jam/admin/services/mine/delegates", &json!({"sha256": hash})).await.expect(201);
    let heard = async |office: &Office| {
        let told = as_token(&office.server, "the-delegate", "GET", "/jam/packages", &Value::Null).await.status;
        (office.status().await["max_pending_packages"] == 5 && told == 200).then_some(())
    };
    until("the other replica", async || heard(&other).await).await;
    assert_eq!(accepted(&[&other.server], "mine", 5).await, 1);
    let third = Office::open(&world).await;
    assert!(heard(&third).await.is_some(), "from the first request on");
    answer(third.request("DELETE", "/jam/admin/toggles/max_pending_packages")).await.expect(204);
    third.call("DELETE", "/jam/admin/services/mine/delegates", &json!({"sha256": hash})).await.expect(204);
    for office in [&one, &other] {
        let unheard = async || {
            let told = as_token(&office.server, "the-delegate", "GET", "/jam/packages", &Value::Null).await.status;
            (office.status().await["max_pending_packages"] == 100 && told == 401).then_some(())
        };
        until("what was taken back", unheard).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_outlives_a_restart_and_ends_for_good_when_its_setting_changes() {
    let world = World::postgres().await;
    let with = async |pending: &str| Office::with(&world, &[("JAM_MAX_PENDING_PACKAGES", pending)]).await;
    with("50").await.toggle("max_pending_packages", json!(5)).await;
    let in_force = async |office: &Office| {
        let status = office.status().await;
        (status["max_pending_packages"].as_u64().unwrap(), status["overrides"].as_array().unwrap().len())
    };
    assert_eq!(in_force(&with("50").await).await, (5, 1));
    let changed = with("60").await;
    assert_eq!(in_force(&changed).await, (60, 0), "the last one to speak wins");
    assert_eq!(in_force(&with("50").await).await, (50, 0), "and the override does not come back with the old value");
    let line = changed.get("/jam/admin/audit?limit=1").await.expect(200).json()["items"][0].take();
    assert_eq!((&line["action"], &line["token_id"]), (&json!("toggle.end"), &json!("settings")));
    assert_eq!((&line["before"], &line["after"]), (&json!({"value": 5, "overrode": 50}), &Value::Null));
    assert!(changed.server.log().contains("an override ended"));
    changed.toggle("max_pending_packages", json!(7)).await;
    assert_eq!(in_force(&changed).await, (7, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_are_kept_for_the_days_of_the_quota_by_every_cleanup() {
    let world = World::postgres().await;
    let dsn = world.dsn().unwrap();
    let store = PostgresStore::connect(PostgresConfig::new(dsn)).await.unwrap();
    let mut new = old_package("mine");
    new.package.created_at = new.package.created_at.plus_seconds(-86_400 * 40);
    store.submit(new, &engine()).await.unwrap();
    store.process(1, &engine()).await.unwrap();
    let office = Office::open(&world).await;
    let path = "/jam/admin/services/mine/quotas";
    office.call("PUT", path, &json!({"retention_days": 0})).await.expect(200);
    let archived = async || {
        let ran = office.call("POST", "/jam/admin/cleanup/run", &Value::Null).await.expect(200).json();
        ran["archived"]["packages"].as_u64().unwrap()
    };
    assert_eq!(archived().await, 0);
    let (code, out, err) = ran(&["cleanup"], &[("JAM_STORE", "postgres"), ("JAM_PG_DSN", dsn)]).await;
    assert!(code == 0 && out.contains("\narchived 0 packages"), "{out}{err}");
    office.call("PUT", path, &json!({"retention_days": 41})).await.expect(200);
    assert_eq!(archived().await, 0);
    office.call("PUT", path, &json!({"retention_days": 39})).await.expect(200);
    assert_eq!(archived().await, 1);
    assert!(!office.server.log().contains(ROOT));
}
