//! Preimages, in words.

use jam_domain::{Code, Preimage, PreimageHash};
use serde_json::{Value, json};

use super::call::{Answer, Call, Content, Parameter};
use super::calls::of;

const PREIMAGES: &str = "preimages";

pub(super) fn put() -> Call {
    Call::new(
        PREIMAGES,
        "Upload a preimage",
        "The body is streamed and hashed; its SHA-256 must be the hash of the path. It may have `max_preimage_bytes` bytes; \
         an empty one is a preimage too.",
    )
    .takes(hash())
    .takes(Parameter::header(
        "Content-Type",
        "Kept with the bytes; application/octet-stream when left out. At most 255 characters.",
        json!({"type": "string", "default": "application/octet-stream"}),
    ))
    .answers(tagged(Answer::json::<Preimage>(201, "Stored.")))
    .answers(tagged(Answer::json::<Preimage>(200, "It was there already; nothing was rewritten.")))
    .refuses(Code::Validation, "the hash is malformed, is not the SHA-256 of the body, or the Content-Type is no media type")
    .refuses(Code::BadRequest, "the body ended before it was whole, or came too slowly")
    .refuses(Code::TooLarge, "larger than `details.limit` bytes; known early from Content-Length, else while streaming")
    .refuses(Code::UnsupportedMediaType, "not one of `allowed_media_types`")
}

pub(super) fn head() -> Call {
    Call::new(PREIMAGES, "The headers of a preimage", "What GET would send, without the bytes.")
        .takes_all([hash(), if_none_match()])
        .answers(described(Answer::empty(200, "It is stored.")))
        .answers(tagged(Answer::empty(304, "The client has it already.")))
        .refuses(Code::Validation, MALFORMED)
        .refuses(Code::NotFound, "there is no such preimage")
}

pub(super) fn read() -> Call {
    let content_range = "Which bytes, of how many.";
    Call::new(
        PREIMAGES,
        "Read a preimage",
        "Streams the bytes as they were uploaded. A preimage never changes: its ETag is its hash.",
    )
    .takes_all([
        hash(),
        if_none_match(),
        Parameter::header(
            "Range",
            "One range of bytes, e.g. `bytes=0-1023`; what is no such range is ignored.",
            text(),
        ),
        Parameter::header("If-Range", "The range counts only when this is the ETag.", text()),
    ])
    .answers(described(Answer::with(200, "The bytes.", Content::Bytes)))
    .answers(described(Answer::with(206, "The bytes that were asked for.", Content::Bytes)).header(
        "Content-Range",
        content_range,
        text(),
    ))
    .answers(tagged(Answer::empty(304, "The client has it already.")))
    .answers(
        Answer::json::<super::Problem>(416, "The range lies outside of the bytes (code `jam_validation_error`).")
            .header("Content-Range", content_range, text()),
    )
    .refuses(Code::Validation, MALFORMED)
    .refuses(Code::NotFound, "there is no such preimage")
}

pub(super) fn meta() -> Call {
    Call::new(
        PREIMAGES,
        "The record of a preimage",
        "Size in bytes, media type, uploader and the number of packages that refer to it.",
    )
    .takes(hash())
    .answers(Answer::json::<Preimage>(200, "The record."))
    .refuses(Code::Validation, MALFORMED)
    .refuses(Code::NotFound, "there is no such preimage")
}

pub(super) fn head_meta() -> Call {
    Call::new(PREIMAGES, "Whether a preimage has a record", "The headers of the record's answer, without the record.")
        .takes(hash())
        .answers(Answer::empty(200, "It is stored."))
        .refuses(Code::Validation, MALFORMED)
        .refuses(Code::NotFound, "there is no such preimage")
}

pub(super) fn delete() -> Call {
    Call::new(PREIMAGES, "Delete a preimage", "Only one that no package refers to.")
        .takes(hash())
        .answers(Answer::empty(204, "It is gone."))
        .refuses(Code::Validation, MALFORMED)
        .refuses(Code::NotFound, "there is no such preimage")
        .refuses(Code::Conflict, "packages refer to it")
}

const MALFORMED: &str = "the hash is not 64 lower-case hex digits";

fn hash() -> Parameter {
    Parameter::path("hash", "Lower-case hex of the SHA-256 of the bytes.", of::<PreimageHash>())
}

fn if_none_match() -> Parameter {
    Parameter::header("If-None-Match", "ETags that the client has, or `*`.", text())
}

fn text() -> Value {
    json!({"type": "string"})
}

fn tagged(answer: Answer) -> Answer {
    answer.header("ETag", "The hash, in quotes.", text()).header("Cache-Control", "`private, immutable`.", text())
}

fn described(answer: Answer) -> Answer {
    let bytes = json!({"type": "integer", "minimum": 0});
    tagged(answer)
        .header("Content-Type", "The media type that it was uploaded with.", text())
        .header("Content-Length", "Bytes that are sent.", bytes.clone())
        .header("Accept-Ranges", "`bytes`.", text())
        .header("X-Preimage-Hash", "The hash.", of::<PreimageHash>())
        .header("X-Preimage-Size", "Bytes of the whole preimage.", bytes)
        .header("X-Preimage-Media-Type", "The media type that it was uploaded with.", text())
}
