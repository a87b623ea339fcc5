//! Health, version, status and the document itself, in words.

use jam_domain::Code;

use super::call::{Answer, Call, Content, retry_after};
use super::calls::service_id;
use crate::api::shapes::{Alive, Build, JamHealth, JamStatus, Readiness, SystemStatus};

const HEALTH: &str = "health";
const STATUS: &str = "status";
const DOCUMENT: &str = "document";

pub(super) fn healthz() -> Call {
    Call::new(HEALTH, "Is the process alive", "Touches nothing but the process itself.")
        .answers(Answer::json::<Alive>(200, "It is."))
}

pub(super) fn readyz() -> Call {
    Call::new(
        HEALTH,
        "Can requests be served",
        "The store answers within 2 seconds, its schema is exactly the one that this build needs, and no stop was asked for.",
    )
    .answers(Answer::json::<Readiness>(200, "Yes."))
    .answers(later(Answer::json::<Readiness>(503, "No; each check says why.")))
}

/// The same answer, which says when it makes sense to ask again.
fn later(answer: Answer) -> Answer {
    let (name, description, schema) = retry_after();
    answer.header(name, description, schema)
}

pub(super) fn version() -> Call {
    Call::new(STATUS, "Which build runs", "The release, the commit, the time of the build and the compiler.")
        .answers(Answer::json::<Build>(200, "The build."))
}

pub(super) fn status() -> Call {
    Call::new(STATUS, "How the process is", "Answers also while JAM is disabled or the store is away.")
        .answers(Answer::json::<SystemStatus>(200, "The status; `degraded` when the store can't be used."))
}

pub(super) fn openapi() -> Call {
    Call::new(
        DOCUMENT,
        "This document",
        "OpenAPI 3.1, written from the server's own table of actions. `jam-api openapi` prints the same.",
    )
    .answers(Answer::with(200, "The document.", Content::Other("application/json")))
}

pub(super) fn docs() -> Call {
    Call::new(
        DOCUMENT,
        "This document as a page",
        "Readable without the internet; sends requests with a token of yours.",
    )
    .answers(Answer::with(200, "The page.", Content::Other("text/html; charset=utf-8")))
}

pub(super) fn jam_healthz() -> Call {
    Call::new(HEALTH, "Is JAM healthy", "Needs no token while `health_public` is true (the default).")
        .answers(Answer::json::<JamHealth>(200, "It is."))
        .answers(later(Answer::json::<JamHealth>(503, "It is not; each check says why.")))
}

pub(super) fn jam_status() -> Call {
    Call::new(
        STATUS,
        "The settings in force and the heads of the chains",
        "With `service_id` the head of that chain only.",
    )
    .takes(service_id("The head of this service's chain."))
    .answers(Answer::json::<JamStatus>(200, "The status."))
    .refuses(Code::ServiceDenied, "the token may not touch this service")
}
