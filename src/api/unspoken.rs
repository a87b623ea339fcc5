//! Answers that hyper gives by itself, before there is a request: they get the body that every error of ours has.

use bytes::Bytes;
use jam_domain::{Code, Refusal};

use super::fault::Plane;
use super::shapes::Problem;

/// Longest head that hyper writes for such an answer.
const MOST: usize = 256;

/// Our answer in place of this one of hyper's: a refusal of the client's bytes, without a body.
pub fn said(bytes: &[u8]) -> Option<Bytes> {
    let head = bytes.get(..MOST.min(bytes.len())).filter(|_| bytes.len() <= MOST)?;
    let status = head.strip_prefix(b"HTTP/1.1 ").or_else(|| head.strip_prefix(b"HTTP/1.0 "))?.get(..3)?;
    let message = match status {
        b"400" => "the request is not HTTP/1.1: check its first line and its headers",
        b"408" => "the head of the request did not come in time",
        b"414" => "the path and query are too long",
        b"431" => "the head of the request is too large: at most 32 KiB, and 100 lines of headers",
        _ => return None,
    };
    let text = std::str::from_utf8(head).ok()?;
    let (lines, rest) = text.split_once("\r\n\r\n")?;
    let empty = lines.split("\r\n").any(|line| line.eq_ignore_ascii_case("content-length: 0"));
    if !empty || !rest.is_empty() {
        return None;
    }
    let body = serde_json::to_vec(&Problem::of(&Refusal::new(Code::BadRequest, message), Plane::Jam)).ok()?;
    let kept = lines.split("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("content-length:"));
    let kept: Vec<_> = kept.collect();
    let (head, length) = (kept.join("\r\n"), body.len());
    let whole = format!("{head}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
    Some([whole.into_bytes(), body].concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_refusal_gets_a_body_and_everything_else_stays() {
        let empty = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let said = String::from_utf8(said(empty).unwrap().to_vec()).unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ndate: x\r\n"));
        assert!(head.ends_with(&format!("content-length: {}", body.len())));
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["code"], "jam_bad_request");
    }

    #[test]
    fn an_answer_that_has_a_body_is_left_as_it_is() {
        for other in [
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nmore",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n",
            "",
        ] {
            assert!(said(other.as_bytes()).is_none(), "{other}");
        }
    }
}
