//! Packages: submitted once however often they are sent, capped exactly, listed without a gap or a repeat.

use std::collections::BTreeSet;

use futures::future::join_all;
use jam_domain::{PackageId, Timestamp};
use serde_json::{Value, json};

use crate::api_support::{Answer, Server, World, answer, laws, package};
use crate::support::postgres;

laws!(
    a_package_is_stored_as_it_was_sent_with_what_the_server_adds,
    the_same_submission_is_answered_from_the_store,
    of_many_packages_under_one_id_or_key_exactly_one_is_stored,
    a_key_counts_for_its_token_only,
    an_expired_package_is_refused_and_a_fresh_one_kept,
    what_was_accepted_in_time_is_answered_from_the_store_after_its_expiry,
    a_list_neither_repeats_nor_skips_while_packages_come_and_go,
    the_pending_cap_is_exact_among_many_submitters,
    a_service_has_limits_of_its_own,
    paging_never_repeats_or_skips_in_any_shape,
    filters_narrow_a_list,
);

const ID: &str = "id";

fn id_of(package: &Value) -> String {
    package[ID].as_str().unwrap().to_owned()
}

fn ids(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(id_of).collect()
}

async fn keyed(server: &Server, key: &str, body: &Value) -> Answer {
    answer(server.request("POST", "/jam/packages").header("idempotency-key", key).body(body.to_string())).await
}

async fn a_package_is_stored_as_it_was_sent_with_what_the_server_adds(world: World) {
    let server = world.serve().await;
    let (one, two) = (server.upload(b"one").await, server.upload(b"two").await);
    let sent = json!({
        "id": PackageId::new(), "service_id": "svc:1", "nonce": "n", "signature": "c2ln", "expiry": "2999-01-01T01:00:00+01:00",
        "preimage_hashes": [one],
        "items": [
            {"kind": "b", "params_hash": "p1", "max_fee": 7, "memo": "ü", "preimage_hashes": [two, one]},
            {"kind": "a", "params_hash": "p2"},
        ],
    });
    let answered = server.post("/jam/packages?include_receipt=true", &sent).await.expect(201);
    let id = id_of(&sent);
    assert_eq!(answered.header("location"), format!("/jam/packages/{id}"));
    let (package, receipt) = (&answered.json()["package"], &answered.json()["receipt"]);
    for field in ["id", "service_id", "nonce", "signature", "preimage_hashes"] {
        assert_eq!(package[field], sent[field], "{field}");
    }
    assert_eq!(package["expiry"], "2999-01-01T00:00:00.000000Z");
    assert_eq!(package["status"], "pending");
    for (n, item) in package["items"].as_array().unwrap().iter().enumerate() {
        assert_eq!(item["package_id"], id.as_str());
        for (field, value) in sent["items"][n].as_object().unwrap() {
            assert_eq!(&item[field], value, "items[{n}].{field}");
        }
    }
    assert_eq!((&receipt["hash"], &receipt["seq"], &receipt["prev_root"]), (&json!(id), &json!(1), &json!("")));
    assert_eq!(&server.get(&format!("/jam/packages/{id}")).await.expect(200).json(), package);
    let with_receipt = server.get(&format!("/jam/packages/{id}?include_receipt=true")).await.expect(200).json();
    assert_eq!(with_receipt, json!({"package": package, "receipt": receipt}));
    let meta = |hash: String| format!("/jam/preimages/{hash}/meta");
    assert_eq!(server.get(&meta(one)).await.json()["refcount"], 1, "one package is one reference");
    assert_eq!(server.get(&meta(two)).await.json()["refcount"], 1);
}

async fn the_same_submission_is_answered_from_the_store(world: World) {
    let server = world.serve().await;
    let mut sent = package("s", "1");
    sent[ID] = json!(PackageId::new());
    let first = server.post("/jam/packages", &sent).await.expect(201).json();
    let again = server.post("/jam/packages", &sent).await.expect(200);
    assert_eq!((again.header("idempotency-replayed"), &again.json()), ("true", &first));
    sent["nonce"] = json!("2");
    server.post("/jam/packages", &sent).await.refused(409, "jam_conflict");
    let twins = join_all((0..16).map(|_| async { keyed(&server, "order 7", &package("s", "3")).await })).await;
    assert_eq!(twins.iter().filter(|twin| twin.status == 201).count(), 1);
    assert_eq!(twins.iter().filter(|twin| twin.header("idempotency-replayed") == "true").count(), 15);
    assert!(twins.iter().all(|twin| twin.json() == twins[0].json()));
    keyed(&server, "order 7", &package("s", "4")).await.refused(409, "jam_conflict");
    let mut named = package("s", "3");
    named[ID] = json!(PackageId::new());
    keyed(&server, "order 7", &named).await.refused(409, "jam_conflict");
    let twice = server.request("POST", "/jam/packages").header("idempotency-key", "a").header("idempotency-key", "b");
    answer(twice.body(package("s", "5").to_string())).await.refused(400, "jam_validation_error");
    for wrong in ["", &"k".repeat(129)] {
        keyed(&server, wrong, &package("s", "5")).await.refused(400, "jam_validation_error");
    }
    assert_eq!(server.get("/jam/packages").await.json()["items"].as_array().unwrap().len(), 2);
    assert_eq!(server.metric("jam_package_submit_total").await, Some(2.0));
}

async fn of_many_packages_under_one_id_or_key_exactly_one_is_stored(world: World) {
    let server = world.serve().await;
    let id = PackageId::new();
    let by_id = (0..16).map(|n| {
        let mut sent = package("s", &format!("id {n}"));
        sent[ID] = json!(id);
        (server.request("POST", "/jam/packages"), sent)
    });
    let by_key = (0..16).map(|n| {
        (
            server.request("POST", "/jam/packages").header("idempotency-key", "one key"),
            package("s", &format!("key {n}")),
        )
    });
    let sent = by_id.chain(by_key).map(|(request, sent)| answer(request.body(sent.to_string())));
    let answers = join_all(sent).await;
    for half in [&answers[..16], &answers[16..]] {
        assert_eq!(half.iter().filter(|one| one.status == 201).count(), 1);
        assert_eq!(half.iter().filter(|one| one.status == 409 && one.json()["code"] == "jam_conflict").count(), 15);
    }
    assert_eq!(server.get("/jam/packages").await.json()["items"].as_array().unwrap().len(), 2);
}

async fn a_key_counts_for_its_token_only(world: World) {
    let server = world.with(&[("JAM_ALLOWED_TOKENS", "token-one,token-two")]).await;
    let submit = async |token: &str| {
        let request = server.bare("POST", "/jam/packages").bearer_auth(token).header("idempotency-key", "k");
        id_of(&answer(request.body(package("s", "").to_string())).await.expect(201).json())
    };
    assert_ne!(submit("token-one").await, submit("token-two").await);
}

async fn an_expired_package_is_refused_and_a_fresh_one_kept(world: World) {
    let server = world.serve().await;
    let expiring = |seconds: i64| {
        let mut sent = package("s", &seconds.to_string());
        sent["expiry"] = json!(Timestamp::now().plus_seconds(seconds));
        sent
    };
    let refused = server.post("/jam/packages", &expiring(-1)).await.refused(400, "jam_validation_error");
    assert_eq!(refused["details"]["field"], "expiry");
    server.post("/jam/packages", &expiring(60)).await.expect(201);
}

async fn what_was_accepted_in_time_is_answered_from_the_store_after_its_expiry(world: World) {
    let server = world.serve().await;
    let expiry = Timestamp::now().plus_seconds(6);
    let mut sent = package("s", "in time");
    (sent[ID], sent["expiry"]) = (json!(PackageId::new()), json!(expiry));
    let first = keyed(&server, "in time", &sent).await.expect(201).json();
    let mut other = package("s", "late");
    other["expiry"] = json!(expiry);
    other[ID] = first[ID].clone();
    // While it has not expired the id is a conflict; afterwards it still is: what is known is judged before what is late.
    assert_eq!(server.post("/jam/packages", &other).await.status, 409);
    other[ID] = json!(PackageId::new());
    crate::api_support::until("the expiry", async || (Timestamp::now() > expiry).then_some(())).await;
    assert_eq!(server.post("/jam/packages", &other).await.status, 400);
    for _ in 0..2 {
        let again = keyed(&server, "in time", &sent).await.expect(200);
        assert_eq!((again.header("idempotency-replayed"), &again.json()), ("true", &first));
    }
}

async fn the_pending_cap_is_exact_among_many_submitters(world: World) {
    let server = world.with(&[("JAM_MAX_PENDING_PACKAGES", "10")]).await;
    let packages: Vec<Value> = (0..64).map(|n| package(&format!("s{}", n % 7), &n.to_string())).collect();
    let answers = join_all(packages.iter().map(|sent| server.post("/jam/packages", sent))).await;
    assert_eq!(answers.iter().filter(|a| a.status == 201).count(), 10);
    for refused in answers.into_iter().filter(|a| a.status != 201) {
        assert_eq!(refused.refused(409, "jam_pending_limit")["details"]["limit"], 10);
    }
    assert_eq!(server.metric("jam_pending_cap_hits_total").await, Some(54.0));
    assert_eq!(server.metric("jam_package_pending_gauge").await, Some(10.0));
    server.post("/jam/process?limit=3", &json!(null)).await.expect(200);
    let more = join_all(packages[..5].iter().map(|sent| server.post("/jam/packages", sent))).await;
    assert_eq!(more.iter().filter(|a| a.status == 201).count(), 3);
}

async fn a_service_has_limits_of_its_own(world: World) {
    let limits = "- {id: few, max_pending_packages: 1}\n- {id: slow, max_packages_per_minute: 1}";
    let (_dir, path) = crate::api_support::file("services.yaml", limits);
    let server = world.with(&[("JAM_SERVICES_FILE", path.to_str().unwrap())]).await;
    for service in ["few", "slow", "free", "free"] {
        server.submit(service, "").await;
    }
    server.post("/jam/packages", &package("few", "2")).await.refused(409, "jam_pending_limit");
    let refused = server.post("/jam/packages", &package("slow", "2")).await.refused(429, "jam_rate_limit");
    assert!((59..=60).contains(&refused["retry_after"].as_u64().unwrap()), "{refused}");
}

async fn paging_never_repeats_or_skips_in_any_shape(world: World) {
    let server = world.serve().await;
    let mut all = Vec::new();
    for n in 0..23 {
        all.insert(0, id_of(&server.submit("s", &n.to_string()).await));
    }
    for way in ["next_offset", "next_cursor"] {
        let (mut found, mut next) = (Vec::new(), String::new());
        loop {
            let page = server.get(&format!("/jam/packages?limit=5{next}")).await.expect(200).json();
            found.extend(ids(&page["items"]));
            next = match (&page[way], way) {
                (Value::Null, _) => break,
                (offset, "next_offset") => format!("&offset={offset}"),
                (cursor, _) => format!("&cursor={}", cursor.as_str().unwrap()),
            };
            // What comes in meanwhile is newer than any cursor, so that it disturbs nothing.
            if way == "next_cursor" {
                server.submit("later", &next).await;
            }
        }
        assert!(found == all, "{way}: {found:?}");
        if way == "next_offset" {
            let last = server.get("/jam/packages?limit=23").await.json();
            assert_eq!((&last["next_offset"], &last["next_cursor"]), (&Value::Null, &Value::Null));
        }
    }
    let receipts = server.get("/jam/packages?service_id=s&include_receipt=true&limit=200").await.json();
    assert_eq!(receipts["receipts"].as_array().unwrap().len(), 23);
    let legacy = world.with(&[("JAM_LEGACY_LIST_RESPONSE", "true")]).await;
    for path in ["/jam/packages", "/jam/reports", "/jam/receipts"] {
        assert!(legacy.get(path).await.expect(200).json().is_array(), "{path}");
    }
}

async fn filters_narrow_a_list(world: World) {
    let server = world.serve().await;
    let old = id_of(&server.submit("a", "1").await);
    server.post("/jam/process", &json!(null)).await.expect(200);
    let between = Timestamp::now();
    let new = id_of(&server.submit("b", "1").await);
    for (query, wanted) in [
        ("service_id=a", vec![&old]),
        ("status=pending", vec![&new]),
        ("status=applied", vec![&old]),
        ("status=disputed", vec![]),
        (&format!("created_after={between}"), vec![&new]),
        (&format!("created_before={between}"), vec![&old]),
        ("service_id=a&status=pending", vec![]),
        ("limit=1", vec![&new]),
        ("limit=1&offset=1", vec![&old]),
        ("offset=5", vec![]),
    ] {
        let list = server.get(&format!("/jam/packages?{query}")).await.expect(200).json();
        assert_eq!(ids(&list["items"]).iter().collect::<Vec<_>>(), wanted, "{query}");
    }
}

async fn a_list_neither_repeats_nor_skips_while_packages_come_and_go(world: World) {
    let server = world.serve().await;
    let mut kept: Vec<String> = Vec::new();
    for n in 0..30 {
        kept.push(server.submit("s", &n.to_string()).await[ID].as_str().unwrap().to_owned());
    }
    let (mut seen, mut path) = (Vec::new(), "/jam/packages?limit=4".to_owned());
    for page in 0.. {
        let list = server.get(&path).await.expect(200).json();
        seen.extend(list["items"].as_array().unwrap().iter().map(|item| item[ID].as_str().unwrap().to_owned()));
        // Between two pages one comes in front and, where a test can reach behind the API, two that were there go.
        server.submit("s", &format!("late {page}")).await;
        if let Some(dsn) = world.dsn() {
            for gone in [seen[seen.len() - 1].clone(), kept.remove(0)] {
                postgres::execute(dsn, &format!("delete from packages where id = '{gone}'")).await;
            }
        }
        let Some(cursor) = list["next_cursor"].as_str() else { break };
        path = format!("/jam/packages?limit=4&cursor={cursor}");
    }
    let distinct: BTreeSet<&String> = seen.iter().collect();
    assert_eq!(distinct.len(), seen.len(), "nothing came twice");
    assert!(kept.iter().all(|id| distinct.contains(id)), "nothing that stayed was skipped");
    assert!(distinct.len() <= 30, "what came later is not on later pages");
}
