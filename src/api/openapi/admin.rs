//! What administrators can ask for, in words.

use jam_domain::audit::AuditEntry;
use jam_domain::control::Toggle;
use jam_domain::quota::Quota;
use jam_domain::request::{AcceptRequest, BucketName, DelegateName, DelegateRequest, ToggleRequest};
use jam_domain::{Code, ServiceId, WorkPackage};
use serde_json::json;

use super::call::{Answer, Call, Parameter};
use super::calls::{listed, of, package_id, paging};
use crate::api::shapes::admin::{
    BucketInUse, CleanupRan, CleanupStands, Delegated, Disputed, Items, Overridden, ServiceLimitsView,
};

const ADMIN: &str = "admin";
const OTHER_SERVICE: &str = "the token may not touch this service";
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

pub(super) fn buckets() -> Call {
    Call::new(ADMIN, "List the rate limit's buckets in use", "By key. A bucket that is empty is not kept.")
        .takes(Parameter::query(
            "limit",
            "Buckets at most; 200 when left out or 0, more than 200 is 200.",
            json!({"type": "integer", "minimum": 0, "maximum": u64::MAX, "default": 200}),
        ))
        .answers(Answer::json::<Items<BucketInUse>>(200, "The buckets."))
        .refuses(Code::ServiceDenied, ALL_SERVICES)
}

pub(super) fn reset_bucket() -> Call {
    Call::new(ADMIN, "Empty a bucket of the rate limit", "Its key may send a whole burst again.")
        .reads::<BucketName>()
        .answers(Answer::empty(204, "It is empty."))
        .refuses(Code::NotFound, "no bucket in use has this key")
        .refuses(Code::ServiceDenied, ALL_SERVICES)
}

pub(super) fn toggles() -> Call {
    Call::new(ADMIN, "List overrides of settings", "Those in force; `/jam/status` has them, too.")
        .answers(Answer::json::<Items<Overridden>>(200, "The overrides."))
        .refuses(Code::ServiceDenied, ALL_SERVICES)
}

pub(super) fn set_toggle() -> Call {
    Call::new(
        ADMIN,
        "Override a setting",
        "In force here at once and in every replica within 2 seconds, until it is deleted or the setting's own value \
         changes: the last one to speak wins. `enabled: false` turns off everything under /jam but /jam/admin.",
    )
    .reads::<ToggleRequest>()
    .answers(Answer::json::<Overridden>(200, "The override."))
    .refuses(Code::ServiceDenied, ALL_SERVICES)
}

pub(super) fn delete_toggle() -> Call {
    Call::new(ADMIN, "Take an override back", "The setting's own value is in force again.")
        .takes(Parameter::path("key", "The setting.", of::<Toggle>()))
        .answers(Answer::empty(204, "It is taken back."))
        .refuses(Code::NotFound, "this setting is not overridden")
        .refuses(Code::ServiceDenied, ALL_SERVICES)
}

pub(super) fn quotas() -> Call {
    Call::new(ADMIN, "Read the quotas of a service", "What is set at run time, and what is in force.")
        .takes(service())
        .answers(Answer::json::<ServiceLimitsView>(200, "The quotas."))
        .refuses(Code::ServiceDenied, OTHER_SERVICE)
}

pub(super) fn set_quotas() -> Call {
    Call::new(
        ADMIN,
        "Set the quotas of a service",
        "All of them at once: what is left out is the settings' value again. They stand in front of `services` of the \
         settings, in force here at once and in every replica within 2 seconds.",
    )
    .takes(service())
    .reads::<Quota>()
    .answers(Answer::json::<ServiceLimitsView>(200, "The quotas."))
    .refuses(Code::ServiceDenied, OTHER_SERVICE)
}

pub(super) fn delete_quotas() -> Call {
    Call::new(ADMIN, "Take the quotas of a service back", "What the settings say of the service is in force again.")
        .takes(service())
        .answers(Answer::empty(204, "They are taken back."))
        .refuses(Code::NotFound, "no quotas are set for the service")
        .refuses(Code::ServiceDenied, OTHER_SERVICE)
}

pub(super) fn delegates() -> Call {
    Call::new(ADMIN, "List the tokens that may act for a service", "By their hashes: the server never holds a token.")
        .takes(service())
        .answers(Answer::json::<Items<Delegated>>(200, "The delegates."))
        .refuses(Code::ServiceDenied, OTHER_SERVICE)
}

pub(super) fn add_delegate() -> Call {
    Call::new(
        ADMIN,
        "Let a token act for a service",
        "It may read, submit and process for the services that it is a delegate of, and touch no others than these and \
         those of its own entry in the token file. In force in every replica within 2 seconds.",
    )
    .takes(service())
    .reads::<DelegateRequest>()
    .answers(Answer::json::<Delegated>(201, "It may."))
    .answers(Answer::json::<Delegated>(200, "It could before; its name is the one of now."))
    .refuses(Code::Conflict, "there are 1000 delegates already")
    .refuses(Code::ServiceDenied, OTHER_SERVICE)
}

pub(super) fn remove_delegate() -> Call {
    Call::new(ADMIN, "Take a delegate away", "In force in every replica within 2 seconds.")
        .takes(service())
        .reads::<DelegateName>()
        .answers(Answer::empty(204, "It may not any more."))
        .refuses(Code::NotFound, "the token is no delegate of the service")
        .refuses(Code::ServiceDenied, OTHER_SERVICE)
}

pub(super) fn dispute() -> Call {
    Call::new(
        ADMIN,
        "Read the dispute of a package",
        "A package is disputed when it could not be refined, or when a worker attests another output than its report's.",
    )
    .takes(disputed())
    .answers(Answer::json::<Disputed>(200, "The dispute, open or ended."))
    .refuses(Code::NotFound, "there is no such package, or it was never disputed")
    .refuses(Code::ServiceDenied, OTHER_SERVICE)
}

pub(super) fn accept_report() -> Call {
    Call::new(
        ADMIN,
        "End a dispute with a report",
        "It becomes the report of the package and is accumulated, whatever was attested; the others stay disputed.",
    )
    .takes(disputed())
    .reads::<AcceptRequest>()
    .answers(Answer::json::<Disputed>(200, "It is ended: the package is applied."))
    .refuses(Code::NotFound, "there is no such package, or it was never disputed")
    .refuses(Code::Conflict, "it was ended before")
    .refuses(Code::ServiceDenied, OTHER_SERVICE)
}

pub(super) fn reject_reports() -> Call {
    Call::new(ADMIN, "End a dispute without a report", "The package stays disputed for good.")
        .takes(disputed())
        .answers(Answer::json::<Disputed>(200, "It is ended."))
        .refuses(Code::NotFound, "there is no such package, or it was never disputed")
        .refuses(Code::Conflict, "it was ended before")
        .refuses(Code::ServiceDenied, OTHER_SERVICE)
}

fn disputed() -> Parameter {
    Parameter::path("package_id", "The package.", json!({"type": "string", "format": "uuid"}))
}

fn service() -> Parameter {
    Parameter::path("id", "The service.", of::<ServiceId>())
}
