//! Lists of large items, through the API alone: pages that end early, in every shape, and never more under way than there is room for.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use crate::api_admin::{BOUND, Office, ROOT};
use crate::api_raw::{head, memory, read_to_end};
use crate::api_support::{PATIENCE, Server, TOKEN, World, answer, laws, until};
use crate::cli_support::{Ran, slctl_with};
use crate::support::postgres;

laws!(
    a_page_of_large_packages_ends_early_and_both_ways_of_paging_find_them_all,
    a_bare_array_is_never_cut_short_but_refused_with_what_fits,
    a_list_that_nobody_takes_holds_its_room_until_its_reader_is_gone,
    lists_that_two_tokens_do_not_read_keep_no_other_token_waiting,
    who_does_not_take_a_list_is_given_up_in_a_third_of_the_time,
    a_page_of_reports_with_many_words_ends_early_and_the_cursor_finds_them_all,
);

const MIB: usize = 1 << 20;
const MANY: usize = 12;

/// Submits packages of almost a megabyte, and gives their ids.
async fn submit_large(server: &Server) -> BTreeSet<String> {
    let item = json!({"kind": "k", "params_hash": "p", "memo": "m".repeat(1000)});
    let mut ids = BTreeSet::new();
    for n in 0..MANY {
        let package = json!({"service_id": "s", "nonce": n.to_string(), "items": vec![&item; 850]});
        let stored = server.post("/jam/packages", &package).await.expect(201).json();
        ids.insert(stored["id"].as_str().unwrap().to_owned());
    }
    ids
}

fn ids(page: &Value) -> Vec<String> {
    page.as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

async fn a_page_of_large_packages_ends_early_and_both_ways_of_paging_find_them_all(world: World) {
    let server = world.serve().await;
    let all = submit_large(&server).await;
    let before = memory(&server.pid(), "VmHWM");
    for way in ["cursor", "offset"] {
        let (mut found, mut next, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let path = format!("/jam/packages?limit=200&include_receipt=true{next}");
            let page = server.get(&path).await.expect(200);
            assert!(page.bytes.len() < 4 * MIB + 200_000, "{}", page.bytes.len());
            assert_eq!(page.header("content-length"), page.bytes.len().to_string());
            let page = page.json();
            let here = ids(&page["items"]);
            assert_eq!(here.len(), page["receipts"].as_array().unwrap().len());
            assert!(!here.is_empty());
            (found, pages) = ([found, here].concat(), pages + 1);
            next = match &page[format!("next_{way}")] {
                Value::Null => break,
                Value::String(cursor) => format!("&{way}={cursor}"),
                number => format!("&{way}={number}"),
            };
        }
        assert_eq!((found.len(), pages), (MANY, 3), "{way}");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), all, "{way}");
    }
    let grown = memory(&server.pid(), "VmHWM").saturating_sub(before) / 1024;
    assert!(grown < 64, "pages of 4 MiB have the process grow by {grown} MiB");
}

async fn a_bare_array_is_never_cut_short_but_refused_with_what_fits(world: World) {
    let server = world.with(&[("JAM_LEGACY_LIST_RESPONSE", "true")]).await;
    let all = submit_large(&server).await;
    let refused = server.get("/jam/packages").await.refused(400, "jam_validation_error");
    assert_eq!(refused["details"], json!({"field": "limit", "limit": 4}));
    assert!(refused["error"].as_str().unwrap().contains("ask for 4 at most"), "{refused}");
    let mut found = Vec::new();
    for offset in [0, 4, 8] {
        let page = server.get(&format!("/jam/packages?limit=4&offset={offset}")).await.expect(200).json();
        found.extend(ids(&page));
    }
    assert_eq!((found.len(), found.into_iter().collect()), (MANY, all.clone()));
    // Who walks the whole list goes on with what fits; who asks for one page is told.
    let token = [("SERVICE_LAYER_ADDR", server.address.as_str()), ("SERVICE_LAYER_TOKEN", TOKEN)];
    let ran = slctl_with(&token, &["jam", "packages", "--all", "--output", "name"]);
    assert_eq!(ran.out.lines().map(str::to_owned).collect::<BTreeSet<_>>(), all, "{}", ran.err);
    let ran = slctl_with(&token, &["jam", "verify", "--service", "s"]);
    assert!(ran.out.starts_with("service s: 12 receipts verified"), "{ran:?}");
    let ran = slctl_with(&token, &["jam", "packages"]);
    assert!(ran.code == 1 && ran.err.contains("ask for 4 at most"), "{}", ran.err);
}

/// One who asks for a page, and does not read it.
async fn deaf(server: &Server, token: &str) -> TcpStream {
    deaf_to(server, token, "/jam/packages").await
}

/// The same of any answer.
async fn deaf_to(server: &Server, token: &str, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    // What the kernel takes off our hands is no longer under way.
    socket.set_recv_buffer_size(4096).unwrap();
    let mut deaf = socket.connect(server.address.trim_start_matches("http://").parse().unwrap()).await.unwrap();
    deaf.write_all(head("GET", path, token, "").as_bytes()).await.unwrap();
    deaf
}

async fn a_list_that_nobody_takes_holds_its_room_until_its_reader_is_gone(world: World) {
    // A quarter is for lists, of which half is for one caller: a page takes all of that.
    let server = world.with(&[("JAM_MAX_BYTES_IN_FLIGHT", "1000000")]).await;
    submit_large(&server).await;
    let deaf = deaf(&server, TOKEN).await;
    // The answer is on its way.
    deaf.peek(&mut [0]).await.unwrap();
    let mut waiting = tokio::spawn(answer(server.request("GET", "/jam/packages?limit=1")));
    assert!(timeout(Duration::from_secs(1), &mut waiting).await.is_err(), "there was room for both");
    // Whoever submits does not wait for lists.
    server.submit("s", "meanwhile").await;
    drop(deaf);
    waiting.await.unwrap().expect(200);
}

async fn lists_that_two_tokens_do_not_read_keep_no_other_token_waiting(world: World) {
    let tokens = format!("first,second,{TOKEN}");
    let server = world.with(&[("JAM_ALLOWED_TOKENS", &tokens), ("JAM_CLIENT_TIMEOUT", "300")]).await;
    submit_large(&server).await;
    let mut open = Vec::new();
    for token in ["first", "second"] {
        let under_way = deaf(&server, token).await;
        under_way.peek(&mut [0]).await.unwrap();
        open.extend([under_way, deaf(&server, token).await]);
    }
    for _ in 0..10 {
        let listed = timeout(Duration::from_secs(10), server.get("/jam/packages"));
        assert!(listed.await.expect("it waits for nobody").expect(200).bytes.len() > 3 * MIB);
    }
}

async fn who_does_not_take_a_list_is_given_up_in_a_third_of_the_time(world: World) {
    let server = world.with(&[("JAM_CLIENT_TIMEOUT", "18")]).await;
    submit_large(&server).await;
    let deaf = deaf(&server, TOKEN).await;
    deaf.peek(&mut [0]).await.unwrap();
    let began = Instant::now();
    server.get("/jam/packages").await.expect(200);
    assert!(began.elapsed() < Duration::from_secs(15), "the first one still held the room of both");
}

/// Packages that are refined, each with so many words of the largest kind, and their reports.
async fn submit_wordy(server: &Server, packages: usize, words: usize) -> BTreeSet<String> {
    for n in 0..packages {
        server.submit("s", &n.to_string()).await;
    }
    server.post("/jam/process?limit=100", &Value::Null).await.expect(200);
    let all = ids(&server.get("/jam/reports?limit=200").await.expect(200).json()["items"]);
    let attest = async |report: &String| {
        for n in 0..words {
            let word = json!({"worker_id": format!("w{n}"), "signature": "A".repeat(4096)});
            server.post(&format!("/jam/reports/{report}/attestations"), &word).await.expect(201);
        }
    };
    stream::iter(&all).for_each_concurrent(4, attest).await;
    all.into_iter().collect()
}

/// Puts words of this signature beside those of a report.
async fn write_words(world: &World, report: &str, words: usize, signature: &str) {
    let sql = format!(
        "insert into attestations (report_id, worker_id, weight, created_at, body)
         select '{report}', 'w' || n, 1, now(), '{{\"signature\":\"{signature}\",\"engine\":\"e\",\"engine_version\":\"1\"}}'
         from generate_series(1, {words}) n"
    );
    postgres::execute(world.dsn().unwrap(), &sql).await;
}

async fn a_page_of_reports_with_many_words_ends_early_and_the_cursor_finds_them_all(world: World) {
    let server = world.serve().await;
    let all = submit_wordy(&server, 100, 10).await;
    for way in ["cursor", "offset"] {
        let (mut found, mut next, mut sizes) = (Vec::new(), String::new(), Vec::new());
        loop {
            let page = server.get(&format!("/jam/reports?limit=200&include_attestations=true{next}")).await.expect(200);
            assert!(page.bytes.len() < 4 * MIB, "{}", page.bytes.len());
            let page = page.json();
            let here = ids(&page["items"]);
            let words = page["attestations"].as_array().unwrap();
            assert!(words.len() == here.len() && words.iter().all(|words| words.as_array().unwrap().len() == 11));
            sizes.push(here.len());
            found.extend(here);
            next = match &page[format!("next_{way}")] {
                Value::Null => break,
                Value::String(cursor) => format!("&{way}={cursor}"),
                number => format!("&{way}={number}"),
            };
        }
        assert_eq!(sizes, [96, 4], "{way}");
        assert_eq!((found.len(), found.into_iter().collect::<BTreeSet<_>>()), (100, all.clone()), "{way}");
    }
    // A bare array carries no words, and is not made shorter by them.
    let bare = world.with(&[("JAM_LEGACY_LIST_RESPONSE", "true")]).await;
    if world.dsn().is_some() {
        let page = bare.get("/jam/reports?limit=200&include_attestations=true").await.expect(200).json();
        assert_eq!(ids(&page).into_iter().collect::<BTreeSet<_>>(), all);
    }
}

/// How many of many requests get their answer, which nobody reads; the others are refused at once. All of them stay open.
async fn unread(server: &Server, token: &str, path: &str, many: usize) -> (usize, Vec<TcpStream>) {
    let (mut under_way, mut open) = (0, Vec::new());
    for _ in 0..many {
        let mut stream = deaf_to(server, token, path).await;
        let mut status = [0; 12];
        while timeout(PATIENCE, stream.peek(&mut status)).await.expect("it waits for nobody").unwrap() < status.len() {}
        if status.ends_with(b"200") {
            under_way += 1;
        } else {
            let refused = read_to_end(&mut stream).await;
            assert_eq!(refused.status, 503, "{}", refused.head);
            assert!(refused.head.contains("retry-after: 1\r\n"), "{}", refused.head);
            assert!(refused.code().ends_with("_store_unavailable"), "{}", refused.body);
        }
        open.push(stream);
    }
    (under_way, open)
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_that_a_caller_does_not_read_are_refused_where_its_room_ends_and_nobody_elses_are() {
    let world = World::postgres().await;
    let settings = [("JAM_CLIENT_TIMEOUT", "300"), ("JAM_ATTESTATION_THRESHOLD", "1000")];
    let Office { server, .. } = &Office::with(&world, &settings).await;
    let id = server.submit("mine", "n").await["id"].as_str().unwrap().to_owned();
    server.post("/jam/process", &Value::Null).await.expect(200);
    let report = ids(&server.get("/jam/reports").await.expect(200).json()["items"]).remove(0);
    write_words(&world, &report, 990, &"A".repeat(4096)).await;
    // Larger than any that is let in: the kernel takes what is of a megabyte off our hands.
    let sql =
        "update packages set body = jsonb_set(body::jsonb, '{items,0,memo}', to_jsonb(repeat('m', 4000000)))::json";
    postgres::execute(world.dsn().unwrap(), sql).await;
    let of_package =
        ["", "?include_receipt=true", "/report", "/attestations"].map(|part| format!("/jam/packages/{id}{part}"));
    for path in of_package.into_iter().chain([format!("/jam/admin/disputes/{id}")]) {
        if path.contains("disputes") {
            let other = json!({"worker_id": "w", "signature": "YQ==", "refine_output_hash": "ab".repeat(32)});
            server.post(&format!("/jam/reports/{report}/attestations"), &other).await.expect(201);
        }
        let honest = async || answer(server.bare("GET", &path).bearer_auth(BOUND)).await;
        let whole = honest().await.expect(200).bytes;
        assert!(whole.len() > 3 * MIB, "{path}: {}", whole.len());
        let before = memory(&server.pid(), "VmRSS");
        // Once so many that the process would grow by 100 MB: each is read and written whole before it is refused.
        let many = if path.ends_with("/report") { 25 } else { 7 };
        let (under_way, open) = unread(server, ROOT, &path, many).await;
        let grown = memory(&server.pid(), "VmRSS").saturating_sub(before) / 1024;
        assert!((1..7).contains(&under_way) && grown < 96, "{path}: {under_way} answers under way, {grown} MiB more");
        let read = timeout(Duration::from_secs(10), honest()).await.expect("it waits for nobody");
        assert!(read.expect(200).bytes == whole, "{path}");
        drop(open);
        let again = async || (answer(server.bare("GET", &path).bearer_auth(ROOT)).await.status == 200).then_some(());
        until("the room is given back", again).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_too_many_is_a_conflict_that_says_so() {
    let world = World::postgres().await;
    let server = world.serve().await;
    let report = submit_wordy(&server, 1, 0).await.pop_first().unwrap();
    write_words(&world, &report, 998, "c2ln").await;
    let path = format!("/jam/reports/{report}/attestations");
    let spoken = |worker: &str| json!({"worker_id": worker, "signature": "c2ln"});
    server.post(&path, &spoken("last")).await.expect(201);
    let refused = server.post(&path, &spoken("later")).await.refused(409, "jam_conflict");
    assert!(refused["error"].as_str().unwrap().starts_with("a report takes 1000 attestations at most"), "{refused}");
    let bundle = server.get("/jam/packages?limit=1").await.json();
    let package = bundle["items"][0]["id"].as_str().unwrap();
    let said = server.get(&format!("/jam/packages/{package}/attestations")).await.expect(200).json();
    assert_eq!(said["items"].as_array().unwrap().len(), 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_cannot_be_read_ends_a_page_and_the_list_goes_on_behind_it() {
    let world = World::postgres().await;
    let server = world.serve().await;
    for n in 0..6 {
        server.submit("s", &n.to_string()).await;
    }
    server.post("/jam/process?limit=100", &Value::Null).await.expect(200);
    for list in ["packages", "reports"] {
        let all = ids(&server.get(&format!("/jam/{list}")).await.expect(200).json()["items"]);
        let break_row = async |at: usize| {
            postgres::execute(world.dsn().unwrap(), &format!("update {list} set body = '[]' where id = '{}'", all[at]))
                .await;
        };
        break_row(2).await;
        break_row(3).await;
        let page = server.get(&format!("/jam/{list}")).await.expect(200).json();
        assert_eq!((ids(&page["items"]), &page["next_offset"]), (all[..2].to_vec(), &json!(2)));
        // Each of them is a fault that names the place behind it, and in the log the row.
        let mut next = page["next_cursor"].as_str().unwrap().to_owned();
        for at in [2, 3] {
            let fault = server.get(&format!("/jam/{list}?cursor={next}")).await.refused(500, "jam_internal");
            next = fault["details"]["next_cursor"].as_str().unwrap().to_owned();
            until("the log names it", async || server.log().contains(&all[at]).then_some(())).await;
            server.get(&format!("/jam/{list}?offset={at}")).await.refused(500, "jam_internal");
        }
        for way in [format!("cursor={next}"), "offset=4".into()] {
            let rest = server.get(&format!("/jam/{list}?{way}")).await.expect(200).json();
            assert_eq!((ids(&rest["items"]), &rest["next_cursor"]), (all[4..].to_vec(), &Value::Null));
        }
        // The newest of all.
        break_row(0).await;
        let fault = server.get(&format!("/jam/{list}?limit=1")).await.refused(500, "jam_internal");
        let path = format!("/jam/{list}?cursor={}", fault["details"]["next_cursor"].as_str().unwrap());
        assert_eq!(ids(&server.get(&path).await.expect(200).json()["items"]), all[1..2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slctl_goes_on_behind_what_the_server_cannot_read_and_says_how_much_is_missing() {
    let world = World::postgres().await;
    let (server, bare) = (world.serve().await, world.with(&[("JAM_LEGACY_LIST_RESPONSE", "true")]).await);
    for n in 0..6 {
        server.submit("s", &n.to_string()).await;
    }
    let all = ids(&server.get("/jam/packages").await.expect(200).json()["items"]);
    for at in [0, 3, 4] {
        let sql = format!("update packages set body = '[]' where id = '{}'", all[at]);
        postgres::execute(world.dsn().unwrap(), &sql).await;
    }
    for server in [&server, &bare] {
        let token = [("SERVICE_LAYER_ADDR", server.address.as_str()), ("SERVICE_LAYER_TOKEN", TOKEN)];
        let run = |more: &[&str]| slctl_with(&token, &[&["jam", "packages", "--output", "name"], more].concat());
        for paging in [&["--all"][..], &["--all", "--limit", "1"]] {
            let out = format!("{}\n{}\n{}\n", all[1], all[2], all[5]);
            let err = format!(
                "at the beginning: 1 entry could not be read\nafter {}: 2 entries could not be read\n\
                 3 entries could not be read: the server's log names them (jam_internal)\n",
                all[2]
            );
            assert_eq!(run(paging), Ran { code: 1, out, err });
        }
        let line = "the entry at offset 3 can't be read, the server's log names it: --offset 4 begins behind it, --all leaves it out";
        assert_eq!(
            run(&["--offset", "3"]),
            Ran { code: 1, out: String::new(), err: format!("{line} (jam_internal)\n") }
        );
        assert_eq!(run(&["--offset", "5"]), Ran { code: 0, out: format!("{}\n", all[5]), err: String::new() });
    }
}
