//! What administrators can ask for, in words.

use jam_domain::Code;
use jam_domain::WorkPackage;
use jam_domain::audit::AuditEntry;

use super::call::{Answer, Call, Parameter};
use super::calls::{listed, package_id, paging};
use crate::api::shapes::admin::{CleanupRan, CleanupStands};

const ADMIN: &str = "admin";
const ALL_SERVICES: &str = "the token may touch some services only, and this concerns all of them";

pub(super) fn restore() -> Call {
    Call::new(
        ADMIN,
        "Bring an archived package back",
        "With its report; it is kept for another retention period from now.",
    )
    .takes(package_id())
    .answers(Answer::json::<WorkPackage>(200, "The package, back in every list."))
    .refuses(Code::NotFound, "no package of this id is archived")
    .refuses(Code::Conflict, "another package has its id or its Idempotency-Key now")
    .refuses(Code::ServiceDenied, "the token may not touch the package's service")
}

pub(super) fn run_cleanup() -> Call {
    Call::new(
        ADMIN,
        "Clean up now",
        "What `jam-api cleanup` does: archives, deletes, and answers when it is done. One at a time.",
    )
    .takes(Parameter::flag("dry_run", "Only count what would be archived and deleted."))
    .answers(Answer::json::<CleanupRan>(200, "What it did, or would do."))
    .refuses(Code::Conflict, "another cleanup is running")
    .refuses(Code::ServiceDenied, ALL_SERVICES)
}

pub(super) fn cleanup_status() -> Call {
    Call::new(ADMIN, "How cleaning up stands", "The last run, whoever started it.")
        .answers(Answer::json::<CleanupStands>(200, "How it stands."))
        .refuses(Code::ServiceDenied, ALL_SERVICES)
}

pub(super) fn audit() -> Call {
    Call::new(
        ADMIN,
        "What administrators did",
        "Newest first. Each line is written in the transaction of its effect: what is not here was not done.",
    )
    .takes_all(paging())
    .answers(listed::<AuditEntry>())
    .refuses(Code::ServiceDenied, ALL_SERVICES)
}
