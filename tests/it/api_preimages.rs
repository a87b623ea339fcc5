//! Preimages: streaming both ways, limits early and late, parts, races, and uploads that break off.

use std::time::Duration;

use jam_domain::PreimageHash;
use reqwest::Body;
use sha2::Digest as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::api_raw::memory;
use crate::api_support::{TOKEN, World, answer, blob_laws, until};
use crate::support::objects::Place;

blob_laws!(
    a_blob_comes_back_as_it_went_in_and_is_stored_once,
    head_describes_what_get_would_send,
    a_known_blob_is_not_sent_again_and_a_part_is_sent_as_asked,
    too_large_is_refused_early_by_its_length_and_late_by_its_bytes,
    a_media_type_outside_the_list_is_refused,
    what_is_not_one_media_type_is_refused,
    bytes_of_another_hash_leave_nothing,
    a_hundred_uploads_of_one_blob_make_one_blob,
    an_upload_that_breaks_off_leaves_nothing,
    uploads_wait_for_their_turn_where_memory_is_short,
    a_referenced_blob_is_not_deleted,
    a_cap_of_0_is_no_cap,
    head_of_the_record_has_its_headers_and_no_body,
);

fn blob_of(size: usize) -> Vec<u8> {
    (0..size).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
}

fn path_of(bytes: &[u8]) -> String {
    format!("/jam/preimages/{}", PreimageHash::of(bytes))
}

/// A body without Content-Length.
fn chunked(bytes: &[u8]) -> Body {
    let parts: Vec<_> = bytes.chunks(10_000).map(|part| Ok::<_, std::io::Error>(part.to_vec())).collect();
    Body::wrap_stream(futures::stream::iter(parts))
}

async fn a_blob_comes_back_as_it_went_in_and_is_stored_once(world: World) {
    let server = world.serve().await;
    for bytes in [Vec::new(), b"x".to_vec(), blob_of(3_000_000)] {
        let path = path_of(&bytes);
        let put = || server.request("PUT", &path).header("content-type", "text/x-thing");
        let created = answer(put().body(bytes.clone())).await.expect(201).json();
        assert_eq!(
            (created["size"].as_u64(), &created["media_type"]),
            (Some(bytes.len() as u64), &"text/x-thing".into())
        );
        let again =
            answer(server.request("PUT", &path).header("content-type", "text/other").body(chunked(&bytes))).await;
        assert_eq!(again.expect(200).json(), created, "nothing is rewritten");
        let read = server.get(&path).await.expect(200);
        assert!(read.bytes == bytes);
        assert_eq!(server.get(&format!("{path}/meta")).await.expect(200).json(), created);
    }
    assert_eq!(server.metric("jam_preimage_bytes_total").await, Some(3_000_001.0));
    assert_eq!(server.metric("jam_preimage_put_total").await, Some(6.0));
}

async fn head_describes_what_get_would_send(world: World) {
    let server = world.serve().await;
    let bytes = blob_of(1000);
    let path = path_of(&bytes);
    server.upload(&bytes).await;
    let hash = PreimageHash::of(&bytes).to_string();
    for method in ["HEAD", "GET"] {
        let described = answer(server.request(method, &path)).await.expect(200);
        for (header, wanted) in [
            ("content-type", "application/octet-stream"),
            ("content-length", "1000"),
            ("etag", &format!("\"{hash}\"")),
            ("cache-control", "private, immutable"),
            ("x-preimage-hash", &hash),
            ("x-preimage-size", "1000"),
            ("x-preimage-media-type", "application/octet-stream"),
        ] {
            assert_eq!(described.header(header), wanted, "{method} {header}");
        }
    }
    assert_eq!(answer(server.request("HEAD", &format!("{path}/meta"))).await.expect(200).bytes.len(), 0);
    let nothing = answer(server.request("HEAD", &path_of(b"unknown"))).await;
    assert_eq!((nothing.status, nothing.bytes.len()), (404, 0));
}

async fn a_known_blob_is_not_sent_again_and_a_part_is_sent_as_asked(world: World) {
    let server = world.serve().await;
    let bytes = blob_of(600_000);
    let (path, hash) = (path_of(&bytes), PreimageHash::of(&bytes));
    server.upload(&bytes).await;
    let get = async |name: &str, value: &str| answer(server.request("GET", &path).header(name, value)).await;
    for known in [format!("\"{hash}\""), format!("\"x\", W/\"{hash}\""), "*".into()] {
        let unchanged = get("if-none-match", &known).await.expect(304);
        assert_eq!((unchanged.bytes.len(), unchanged.header("etag")), (0, format!("\"{hash}\"").as_str()));
    }
    get("if-none-match", "\"other\"").await.expect(200);
    for (range, from, to) in [
        ("0-9", 0, 10),
        ("599990-", 599_990, 600_000),
        ("-5", 599_995, 600_000),
        ("100-400000", 100, 400_001),
        ("599999-999999999", 599_999, 600_000),
    ] {
        let part = get("range", &format!("bytes={range}")).await.expect(206);
        assert!(part.bytes == bytes[from..to], "{range}");
        assert_eq!(part.header("content-range"), format!("bytes {from}-{}/600000", to - 1));
    }
    for range in ["bytes=600000-", "bytes=-0"] {
        let outside = get("range", range).await;
        assert_eq!((outside.status, outside.header("content-range")), (416, "bytes */600000"));
        assert_eq!(outside.json()["code"], "jam_validation_error");
    }
    let changed = answer(server.request("GET", &path).header("range", "bytes=0-1").header("if-range", "\"old\"")).await;
    assert_eq!(changed.expect(200).bytes.len(), 600_000);
}

async fn too_large_is_refused_early_by_its_length_and_late_by_its_bytes(world: World) {
    let server = world.with(&[("JAM_MAX_PREIMAGE_BYTES", "100000")]).await;
    let (fits, large) = (blob_of(100_000), blob_of(100_001));
    answer(server.request("PUT", &path_of(&fits)).body(fits.clone())).await.expect(201);
    let early = answer(server.request("PUT", &path_of(&large)).body(large.clone())).await;
    assert_eq!(early.refused(413, "jam_preimage_too_large")["details"]["limit"], 100_000);
    answer(server.request("PUT", &path_of(&large)).body(chunked(&large))).await.refused(413, "jam_preimage_too_large");
    // A client that is in the middle of sending far more hears the answer too.
    let huge = vec![0; 20_000_000];
    answer(server.request("PUT", &path_of(&huge)).body(huge.clone())).await.refused(413, "jam_preimage_too_large");
    answer(server.request("PUT", &path_of(&huge)).body(chunked(&huge))).await.refused(413, "jam_preimage_too_large");
    server.get(&path_of(&large)).await.refused(404, "jam_not_found");
    assert_eq!(server.metric("jam_preimage_quota_reject_total{reason=\"too_large\"").await, Some(4.0));
}

async fn a_media_type_outside_the_list_is_refused(world: World) {
    let server = world.with(&[("JAM_ALLOWED_MEDIA_TYPES", "text/*, application/json")]).await;
    let put = async |media_type: Option<&str>| {
        let request = server.request("PUT", &path_of(b"typed")).body("typed");
        answer(match media_type {
            Some(media_type) => request.header("content-type", media_type),
            None => request,
        })
        .await
    };
    for wrong in [None, Some("image/png"), Some("application/jsonx")] {
        put(wrong).await.refused(415, "jam_unsupported_media_type");
    }
    put(Some("nonsense")).await.refused(400, "jam_validation_error");
    put(Some("Text/Plain; charset=utf-8")).await.expect(201);
    assert_eq!(server.metric("jam_preimage_quota_reject_total{reason=\"unsupported_media\"").await, Some(3.0));
}

async fn what_is_not_one_media_type_is_refused(world: World) {
    let server = world.serve().await;
    for wrong in ["text/", "/plain", "a/b/c", "text/html, text/plain", "text/*", "text", ""] {
        let put = server.request("PUT", &path_of(b"typed")).header("content-type", wrong).body("typed");
        let refused = answer(put).await.refused(400, "jam_validation_error");
        assert_eq!(refused["details"]["field"], "Content-Type", "{wrong}");
    }
    let twice = server.request("PUT", &path_of(b"typed")).header("content-type", "text/html");
    answer(twice.header("content-type", "text/plain").body("typed")).await.refused(400, "jam_validation_error");
    let right = server.request("PUT", &path_of(b"typed")).header("content-type", "Text/vnd.x+y ; charset=utf-8");
    answer(right.body("typed")).await.expect(201);
}

async fn bytes_of_another_hash_leave_nothing(world: World) {
    let server = world.serve().await;
    let path = path_of(b"announced");
    let refused =
        answer(server.request("PUT", &path).body("something else")).await.refused(400, "jam_validation_error");
    assert_eq!(refused["details"]["field"], "hash");
    assert!(refused["error"].as_str().unwrap().contains(&PreimageHash::of(b"something else").to_string()));
    server.get(&path).await.refused(404, "jam_not_found");
    answer(server.request("PUT", &path).body("announced")).await.expect(201);
}

async fn a_hundred_uploads_of_one_blob_make_one_blob(world: World) {
    let server = world.serve().await;
    let bytes = blob_of(200_000);
    let path = path_of(&bytes);
    let uploads = (0..100).map(|_| answer(server.request("PUT", &path).body(bytes.clone())));
    let answers = futures::future::join_all(uploads).await;
    assert_eq!(answers.iter().filter(|a| a.status == 201).count(), 1);
    assert_eq!(answers.iter().filter(|a| a.status == 200).count(), 99);
    assert!(server.get(&path).await.expect(200).bytes == bytes);
}

async fn an_upload_that_breaks_off_leaves_nothing(world: World) {
    let server = world.serve().await;
    let bytes = blob_of(50_000);
    let host = server.address.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).await.unwrap();
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 50000\r\n\r\n",
        path_of(&bytes)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&bytes[..20_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    drop(stream);
    server.get(&path_of(&bytes)).await.refused(404, "jam_not_found");
    answer(server.request("PUT", &path_of(&bytes)).body(bytes.clone())).await.expect(201);
}

async fn uploads_wait_for_their_turn_where_memory_is_short(world: World) {
    // Room for one upload: the second is answered after the first has ended, and neither is refused.
    let server = world.with(&[("JAM_MAX_BYTES_IN_FLIGHT", "100000")]).await;
    let (first, second) = (blob_of(90_000), blob_of(95_000));
    let host = server.address.trim_start_matches("http://");
    let mut slow = TcpStream::connect(host).await.unwrap();
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 90000\r\n\r\n",
        path_of(&first)
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    slow.write_all(&first[..40_000]).await.unwrap();
    // The first holds the room once its upload has begun.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let path = path_of(&second);
    let mut waiting = tokio::spawn(answer(server.request("PUT", &path).body(second.clone())));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err());
    slow.write_all(&first[40_000..]).await.unwrap();
    let mut said = String::new();
    slow.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 201"), "{said}");
    waiting.await.unwrap().expect(201);
}

async fn a_referenced_blob_is_not_deleted(world: World) {
    let (_dir, path) =
        crate::api_support::file("t", &crate::api_support::token_file(&[("keeper", Some(&["admin"]), None)]));
    let server = world.with(&[("JAM_TOKENS_FILE", path.to_str().unwrap())]).await;
    let hash = server.upload(b"referenced").await;
    let mut package = crate::api_support::package("s", "");
    package["preimage_hashes"] = serde_json::json!([hash]);
    server.post("/jam/packages", &package).await.expect(201);
    let path = format!("/jam/preimages/{hash}");
    assert_eq!(server.get(&format!("{path}/meta")).await.json()["refcount"], 1);
    let delete = async |path: &str| answer(server.bare("DELETE", path).bearer_auth("keeper")).await;
    delete(&path).await.refused(409, "jam_conflict");
    let free = server.upload(b"free").await;
    delete(&format!("/jam/preimages/{free}")).await.expect(204);
    delete(&format!("/jam/preimages/{free}")).await.refused(404, "jam_not_found");
    until("the log", async || server.log().contains("preimage deleted").then_some(())).await;
}

async fn a_cap_of_0_is_no_cap(world: World) {
    let bytes = blob_of((10 << 20) + 1);
    let put = async |server: &crate::api_support::Server| {
        answer(server.request("PUT", &path_of(&bytes)).body(bytes.clone())).await
    };
    put(&world.serve().await).await.refused(413, "jam_preimage_too_large");
    put(&world.with(&[("JAM_MAX_PREIMAGE_BYTES", "0")]).await).await.expect(201);
}

async fn head_of_the_record_has_its_headers_and_no_body(world: World) {
    let server = world.serve().await;
    let meta = format!("/jam/preimages/{}/meta", server.upload(b"known").await);
    let (read, asked) = (server.get(&meta).await.expect(200), answer(server.request("HEAD", &meta)).await.expect(200));
    assert_eq!(asked.bytes.len(), 0);
    for header in ["content-type", "content-length"] {
        assert_eq!(asked.header(header), read.header(header));
    }
    let missing = answer(server.request("HEAD", &format!("{}/meta", path_of(b"unknown")))).await.expect(404);
    assert_eq!(missing.bytes.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_never_held_whole_in_memory_on_its_way_in_and_out() {
    never_held_whole(World::postgres().await, 96).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_on_its_way_into_and_out_of_a_blob_store() {
    // The server of the bucket is slow, and a part has 5 MiB, of which a few copies are on their way.
    never_held_whole(World::with_blobs(Place::files()).await, 48).await;
    never_held_whole(World::with_blobs(Place::bucket().await).await, 48).await;
}

async fn never_held_whole(world: World, mebibytes: usize) {
    let server = world.with(&[("JAM_MAX_PREIMAGE_BYTES", "0")]).await;
    server.upload(b"warm").await;
    let before = memory(&server.pid(), "VmHWM");
    let part = bytes::Bytes::from(vec![7; 1 << 20]);
    let parts = futures::stream::iter(std::iter::repeat_n(part.clone(), mebibytes).map(Ok::<_, std::io::Error>));
    let mut hasher = sha2::Sha256::new();
    (0..mebibytes).for_each(|_| hasher.update(&part));
    let path = format!("/jam/preimages/{}", hex::encode(hasher.finalize()));
    let created = answer(server.request("PUT", &path).body(Body::wrap_stream(parts))).await.expect(201).json();
    assert_eq!(created["size"], mebibytes << 20);
    let mut read = 0;
    let mut response = server.request("GET", &path).send().await.unwrap();
    while let Some(chunk) = response.chunk().await.unwrap() {
        read += chunk.len();
    }
    assert_eq!(read, mebibytes << 20);
    let grown = (memory(&server.pid(), "VmHWM") - before) >> 10;
    assert!(grown < 40, "{mebibytes} MiB in and out made the process grow by {grown} MiB");
}
