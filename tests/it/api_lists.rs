//! Lists of large items, through the API alone: pages that end early, in every shape, and never more under way than there is room for.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::api_raw::{head, memory};
use crate::api_support::{Server, TOKEN, World, answer, laws};

laws!(
    a_page_of_large_packages_ends_early_and_both_ways_of_paging_find_them_all,
    a_bare_array_is_never_cut_short_but_refused_with_what_fits,
    a_list_that_nobody_takes_holds_its_room_until_its_reader_is_gone,
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
    assert_eq!(refused["details"]["field"], "limit");
    assert!(refused["error"].as_str().unwrap().contains("ask for 4 at most"), "{refused}");
    let mut found = Vec::new();
    for offset in [0, 4, 8] {
        let page = server.get(&format!("/jam/packages?limit=4&offset={offset}")).await.expect(200).json();
        found.extend(ids(&page));
    }
    assert_eq!((found.len(), found.into_iter().collect()), (MANY, all));
}

async fn a_list_that_nobody_takes_holds_its_room_until_its_reader_is_gone(world: World) {
    // A quarter is for lists, of which half is for one caller: a page takes all of that.
    let server = world.with(&[("JAM_MAX_BYTES_IN_FLIGHT", "1000000")]).await;
    submit_large(&server).await;
    let socket = TcpSocket::new_v4().unwrap();
    // What the kernel takes off our hands is no longer under way.
    socket.set_recv_buffer_size(4096).unwrap();
    let mut deaf = socket.connect(server.address.trim_start_matches("http://").parse().unwrap()).await.unwrap();
    deaf.write_all(head("GET", "/jam/packages", TOKEN, "").as_bytes()).await.unwrap();
    // The answer is on its way.
    deaf.peek(&mut [0]).await.unwrap();
    let mut waiting = tokio::spawn(answer(server.request("GET", "/jam/packages?limit=1")));
    assert!(timeout(Duration::from_secs(1), &mut waiting).await.is_err(), "there was room for both");
    // Whoever submits does not wait for lists.
    server.submit("s", "meanwhile").await;
    drop(deaf);
    waiting.await.unwrap().expect(200);
}
