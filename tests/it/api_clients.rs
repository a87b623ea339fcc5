//! Slow, broken and hostile clients: each gets an answer or is hung up on, and nothing of them stays.

use std::time::Duration;

use jam_domain::PreimageHash;
use tokio::io::AsyncWriteExt as _;
use tokio::time::sleep;

use crate::api_early::first_answer;
use crate::api_raw::{RawAnswer, broken_chunk, connect, head, raw, read_to_end};
use crate::api_support::{Server, TOKEN, World, answer, laws, package};

laws!(
    a_head_that_does_not_come_and_a_connection_that_idles_are_hung_up_on,
    a_body_that_stalls_or_trickles_is_answered_with_400,
    an_upload_of_many_pauses_that_goes_on_is_not_too_slow,
    a_client_that_does_not_read_gives_its_place_to_others,
    a_client_that_closes_its_side_after_the_request_still_gets_the_answer,
    a_body_that_the_call_has_no_use_for_is_passed_over_and_the_connection_goes_on,
    hostile_bytes_are_answered_and_the_server_goes_on,
);

/// A second of patience instead of thirty, so that clients who must fail do so soon.
pub const SHORT: (&str, &str) = ("JAM_CLIENT_TIMEOUT", "1");
/// For those who must succeed, however busy the machine is.
const LONG: (&str, &str) = ("JAM_CLIENT_TIMEOUT", "5");

pub fn put_path(bytes: &[u8]) -> String {
    format!("/jam/preimages/{}", PreimageHash::of(bytes))
}

async fn a_head_that_does_not_come_and_a_connection_that_idles_are_hung_up_on(world: World) {
    let server = world.with(&[SHORT]).await;
    for (sent, status) in [
        ("", 0),
        ("GET /heal", 0),
        ("GET /healthz HTTP/1.1\r\nhost: x\r\n", 0),
        // Answered, and then nothing more is asked for.
        ("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", 200),
    ] {
        let mut stream = connect(&server.address).await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        assert_eq!(read_to_end(&mut stream).await.status, status, "{sent:?}");
    }
    let mut stream = connect(&server.address).await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nx: ").await.unwrap();
    let trickled = async {
        while stream.write_all(b"a").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), trickled)
        .await
        .expect("a head that trickles is not waited for either");
}

/// Sends a request's head and a byte of its body now and then, or none at all, until there is an answer.
async fn trickled(server: &Server, method: &str, path: &str, pause: Option<Duration>) -> RawAnswer {
    let mut stream = connect(&server.address).await;
    let head = head(method, path, TOKEN, "content-length: 100000\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(b"{").await.unwrap();
    let (mut from, mut to) = stream.into_split();
    let writing = tokio::spawn(async move {
        while let Some(pause) = pause {
            sleep(pause).await;
            if to.write_all(b" ").await.is_err() {
                break;
            }
        }
        to
    });
    let mut bytes = Vec::new();
    let reading = tokio::io::AsyncReadExt::read_to_end(&mut from, &mut bytes);
    let _ = tokio::time::timeout(Duration::from_secs(15), reading).await.expect("an answer in time");
    writing.abort();
    RawAnswer::of(&bytes)
}

async fn a_body_that_stalls_or_trickles_is_answered_with_400(world: World) {
    let server = world.with(&[SHORT]).await;
    let path = put_path(b"never whole");
    for (method, path) in [("POST", "/jam/packages"), ("PUT", path.as_str())] {
        for pause in [None, Some(Duration::from_millis(20))] {
            let answered = trickled(&server, method, path, pause).await;
            assert_eq!((answered.status, answered.code().as_str()), (400, "jam_bad_request"), "{answered:?}");
            assert!(answered.body.contains("too slowly: less than 64 KiB in 1 s"), "{answered:?}");
        }
    }
    server.get(&path).await.refused(404, "jam_not_found");
}

async fn an_upload_of_many_pauses_that_goes_on_is_not_too_slow(world: World) {
    let server = world.with(&[LONG]).await;
    let bytes = vec![7; 20 * (64 << 10)];
    let mut stream = connect(&server.address).await;
    let head = head("PUT", &put_path(&bytes), TOKEN, &format!("content-length: {}\r\n", bytes.len()));
    stream.write_all(head.as_bytes()).await.unwrap();
    // Longer than the patience in all, but 64 KiB at a time.
    for part in bytes.chunks(64 << 10) {
        stream.write_all(part).await.unwrap();
        sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(read_to_end(&mut stream).await.status, 201);
}

async fn a_client_that_does_not_read_gives_its_place_to_others(world: World) {
    // Room for one transfer at a time.
    let server = world.with(&[LONG, ("JAM_MAX_BYTES_IN_FLIGHT", "1000000")]).await;
    let path = format!("/jam/preimages/{}", server.upload(&vec![7; 10 << 20]).await);
    let mut deaf = connect(&server.address).await;
    deaf.write_all(head("GET", &path, TOKEN, "").as_bytes()).await.unwrap();
    sleep(Duration::from_millis(300)).await;
    assert_eq!(server.get(&path).await.expect(200).bytes.len(), 10 << 20);
}

async fn a_client_that_closes_its_side_after_the_request_still_gets_the_answer(world: World) {
    let server = world.serve().await;
    let body = package("s", "half").to_string();
    let submit = head("POST", "/jam/packages", TOKEN, &format!("content-length: {}\r\n", body.len())) + &body;
    let keep_alive = format!("GET /jam/packages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
    for (request, status) in [(submit, 201), (head("GET", "/jam/packages", TOKEN, ""), 200), (keep_alive, 200)] {
        let mut stream = connect(&server.address).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut stream).await.status, status, "{request}");
    }
    let mut stream = connect(&server.address).await;
    stream.write_all((head("POST", "/jam/packages", TOKEN, "content-length: 100\r\n") + "{").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let half = read_to_end(&mut stream).await;
    assert_eq!((half.status, half.code().as_str()), (400, "jam_bad_request"), "{half:?}");
    assert_eq!(server.get("/jam/packages").await.json()["items"].as_array().unwrap().len(), 1);
}

async fn a_body_that_the_call_has_no_use_for_is_passed_over_and_the_connection_goes_on(world: World) {
    let server = world.with(&[LONG]).await;
    for (method, path, status) in
        [("POST", "/jam/process", 204), ("GET", "/jam/packages", 200), ("GET", "/healthz", 200)]
    {
        for chunked in [false, true] {
            let mut stream = connect(&server.address).await;
            let framing = if chunked { "transfer-encoding: chunked" } else { "content-length: 400000" };
            let head = |method: &str, path: &str, more: &str| {
                format!("{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n{more}\r\n")
            };
            let begin = head(method, path, &format!("{framing}\r\n")) + if chunked { "61a80\r\n" } else { "" };
            stream.write_all(begin.as_bytes()).await.unwrap();
            stream.write_all(&vec![b'x'; 100_000]).await.unwrap();
            // The answer does not wait for the rest.
            let answered = first_answer(&mut stream).await;
            assert_eq!(answered.status, status, "{answered:?}");
            stream.write_all(&vec![b'x'; 300_000]).await.unwrap();
            stream.write_all(if chunked { b"\r\n0\r\n\r\n" } else { b"" }).await.unwrap();
            stream.write_all(head("GET", "/jam/status", "").as_bytes()).await.unwrap();
            let next = first_answer(&mut stream).await;
            assert_eq!(next.status, 200, "{method} {path}, {framing}: {next:?}");
        }
    }
}

pub fn request(method: &str, path: &str, headers: &str) -> Vec<u8> {
    head(method, path, TOKEN, headers).into_bytes()
}

/// The same bytes, with 0xff for each question mark.
fn unreadable(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| if *byte == b'?' { 0xff } else { *byte }).collect()
}

/// What follows a path.
const REST: &[u8] = b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// Bytes that no proper client sends, and the statuses that may answer them.
pub fn hostile() -> Vec<(&'static str, Vec<u8>, &'static [u16])> {
    let with = |start: &[u8], bytes: &[u8], end: &[u8]| [start, bytes, end].concat();
    let chunked =
        |rest: &str| [request("POST", "/jam/packages", "transfer-encoding: chunked\r\n"), rest.into()].concat();
    let posted = |body: &str| {
        let head = request("POST", "/jam/packages", &format!("content-length: {}\r\n", body.len()));
        [head, body.as_bytes().to_vec()].concat()
    };
    let lines = (0..10_000).map(|n| format!("x-{n}: 1\r\n")).collect::<Vec<_>>().concat();
    let keys = (0..10_000).map(|n| format!("\"k{n}\":1,")).collect::<Vec<_>>().concat();
    let deep = format!("{{\"nonce\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    vec![
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), &[400]),
        ("words", b"please give me everything\r\n\r\n".to_vec(), &[400]),
        ("no host", b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n".to_vec(), &[400]),
        ("a version to come", b"GET /healthz HTTP/9.9\r\nhost: x\r\n\r\n".to_vec(), &[400, 505]),
        ("two hosts", request("GET", "/healthz", "host: y\r\n"), &[400]),
        ("a path that is no UTF-8", with(b"GET /jam/packages/", b"\xff\xfe", REST), &[400, 401, 404]),
        (
            "a token that is no UTF-8",
            with(
                b"GET /jam/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer ",
                b"\xff\xfe",
                b"\r\n\r\n",
            ),
            &[401],
        ),
        ("a header with NUL", with(b"GET /healthz HTTP/1.1\r\nx: ", b"a\0b", b"\r\n\r\n"), &[400]),
        (
            "a media type that is no UTF-8",
            unreadable(&request("PUT", &put_path(b""), "content-type: ??/??\r\n")),
            &[400],
        ),
        ("a huge header", request("GET", "/healthz", &format!("x: {}\r\n", "y".repeat(1 << 20))), &[431]),
        ("a head above 32 KiB", request("GET", "/healthz", &format!("x: {}\r\n", "y".repeat(33 << 10))), &[431]),
        ("a head below 32 KiB", request("GET", "/healthz", &format!("x: {}\r\n", "y".repeat(31 << 10))), &[200]),
        ("10,000 headers", request("GET", "/healthz", &lines), &[431]),
        ("a long path", request("GET", &format!("/{}", "a".repeat(100_000)), ""), &[431]),
        ("two lengths", request("POST", "/jam/packages", "content-length: 1\r\ncontent-length: 2\r\n"), &[400]),
        ("a negative length", request("POST", "/jam/packages", "content-length: -1\r\n"), &[400]),
        (
            "a length beyond all bounds",
            request("POST", "/jam/packages", "content-length: 99999999999999999999999\r\n"),
            &[400],
        ),
        ("a coding that nobody knows", request("POST", "/jam/packages", "transfer-encoding: rot13\r\n"), &[400, 501]),
        ("a chunk without a size", chunked("zz\r\n{}\r\n0\r\n\r\n"), &[400]),
        ("a chunk of 2^80 bytes", chunked("100000000000000000000\r\n{}\r\n"), &[400]),
        ("a chunk that is longer than it says", chunked("1\r\n{}{}{}\r\n0\r\n\r\n"), &[400]),
        ("an endless chunk extension", chunked(&format!("1;{}\r\n", "x".repeat(1 << 20))), &[400]),
        ("endless trailers", chunked(&format!("2\r\n{{}}\r\n0\r\n{}\r\n", "t: x\r\n".repeat(50_000))), &[400]),
        ("deep JSON", posted(&deep), &[400]),
        ("10,000 keys", posted(&format!("{{{keys}\"k\":1}}")), &[400]),
        ("a number beyond all bounds", posted("{\"max_fee\": 1e999999999}"), &[400]),
        ("half a surrogate", posted("{\"nonce\": \"\\ud800\"}"), &[400]),
        ("a body that is no UTF-8", unreadable(&posted("{\"nonce\": \"??\"}")), &[400]),
    ]
}

async fn hostile_bytes_are_answered_and_the_server_goes_on(world: World) {
    let server = world.serve().await;
    for (what, bytes, statuses) in hostile() {
        let answered = raw(&server.address, &bytes).await;
        assert!(statuses.contains(&answered.status), "{what}: {answered:?}");
        assert!(answered.status == 200 || answered.code().starts_with("jam_"), "{what}: {answered:?}");
        answer(server.bare("GET", "/healthz")).await.expect(200);
    }
    let chunk = broken_chunk(&server.address, "PUT", &put_path(b"x"), TOKEN).await;
    assert_eq!((chunk.status, chunk.code().as_str()), (400, "jam_bad_request"));
    assert!(!server.log().contains("panic") && !server.log().contains("\"level\":\"error\""), "{}", server.log());
}
