//! Refused before the body: a client that has sent nothing but a request's head is answered, and never asked to go on.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::api_clients::put_path;
use crate::api_raw::{RawAnswer, connect};
use crate::api_support::{PATIENCE, TOKEN, World, file, laws, token_file};
use crate::store_fixture::noise;

laws!(what_can_be_refused_by_its_head_is_refused_without_its_body_and_without_100_continue);

/// What comes first on the connection: an answer with as much of its body as its length says, or `100 Continue`.
pub async fn first_answer(stream: &mut TcpStream) -> RawAnswer {
    let mut bytes = Vec::new();
    let whole = |bytes: &[u8]| {
        let answer = RawAnswer::of(bytes);
        let length = answer.head.to_lowercase().split("content-length: ").nth(1).map(str::to_owned);
        let length = length.and_then(|rest| rest.lines().next()?.trim().parse::<usize>().ok()).unwrap_or(0);
        bytes.windows(4).any(|end| end == b"\r\n\r\n") && answer.body.len() >= length
    };
    let reading = async {
        while !whole(&bytes) {
            assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "closed: {:?}", RawAnswer::of(&bytes));
        }
    };
    timeout(PATIENCE, reading).await.expect("an answer, although no body comes");
    RawAnswer::of(&bytes)
}

async fn what_can_be_refused_by_its_head_is_refused_without_its_body_and_without_100_continue(world: World) {
    let (_dir, path) = file("tokens.json", &token_file(&[("reader", Some(&["read"]), None)]));
    let settings = [
        ("JAM_TOKENS_FILE", path.to_str().unwrap()),
        ("JAM_MAX_PREIMAGE_BYTES", "100000"),
        ("JAM_ALLOWED_MEDIA_TYPES", "text/*"),
    ];
    let server = world.with(&settings).await;
    let body = noise(100_000, 7);
    let blob = put_path(&body);
    let text = "content-type: text/plain\r\ncontent-length: ";
    for (token, method, path, headers, status, code) in [
        ("unknown", "PUT", blob.as_str(), format!("{text}100000"), 401, "jam_auth_missing"),
        ("reader", "PUT", &blob, format!("{text}100000"), 403, "jam_auth_forbidden"),
        (TOKEN, "PUT", &blob, format!("{text}100001"), 413, "jam_preimage_too_large"),
        (TOKEN, "PUT", &blob, format!("{text}99999999999"), 413, "jam_preimage_too_large"),
        (TOKEN, "PUT", &blob, "content-length: 100000".into(), 415, "jam_unsupported_media_type"),
        (TOKEN, "PUT", "/jam/preimages/nothex", format!("{text}100000"), 400, "jam_validation_error"),
        (TOKEN, "POST", "/jam/packages", "content-length: 1048577".into(), 413, "jam_preimage_too_large"),
        (TOKEN, "POST", "/jam/nowhere", "content-length: 100000".into(), 404, "jam_not_found"),
        (TOKEN, "POST", &blob, "content-length: 100000".into(), 405, "jam_method_not_allowed"),
    ] {
        for expect in ["", "expect: 100-continue\r\n"] {
            let mut stream = connect(&server.address).await;
            let head = format!(
                "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{headers}\r\n{expect}\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let answered = first_answer(&mut stream).await;
            assert_eq!((answered.status, answered.code().as_str()), (status, code), "{head}{answered:?}");
        }
    }
    // One that can't be refused yet is asked for its body.
    let mut stream = connect(&server.address).await;
    let head = format!(
        "PUT {blob} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n{text}100000\r\nexpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(first_answer(&mut stream).await.status, 100);
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.write_all(&body).await.unwrap();
    assert_eq!(first_answer(&mut stream).await.status, 201);
}
