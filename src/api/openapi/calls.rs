//! Every action in words. The match is exhaustive: an action that nobody described does not compile.

use jam_domain::request::{AttestationRequest, PackageRequest};
use jam_domain::{Code, Receipt, ServiceId, WorkPackage, WorkReport};
use serde_json::{Value, json};

use super::call::{Answer, Call, Content, Parameter, shape};
use super::{admin, blobs, events, system};
use crate::api::action::Action;
use crate::api::shapes::{Attestations, Listed, PackageWithReceipt, ReportBundle, Worked};

const PACKAGES: &str = "packages";
const REPORTS: &str = "reports";
const RECEIPTS: &str = "receipts";

/// What this action takes and answers.
pub fn described(action: Action) -> Call {
    match action {
        Action::Healthz => system::healthz(),
        Action::Readyz => system::readyz(),
        Action::Version => system::version(),
        Action::SystemStatus => system::status(),
        Action::OpenApi => system::openapi(),
        Action::Docs => system::docs(),
        Action::JamHealthz => system::jam_healthz(),
        Action::JamStatus => system::jam_status(),
        Action::PutPreimage => blobs::put(),
        Action::HeadPreimage => blobs::head(),
        Action::ReadPreimage => blobs::read(),
        Action::PreimageMeta => blobs::meta(),
        Action::HeadPreimageMeta => blobs::head_meta(),
        Action::DeletePreimage => blobs::delete(),
        Action::SubmitPackage => submit(),
        Action::ListPackages => packages(),
        Action::ReadPackage => package(),
        Action::ReadReport => report(),
        Action::ListAttestations => attestations(),
        Action::AttestReport => attest(),
        Action::ListReports => reports(),
        Action::Process => process(),
        Action::ListReceipts => receipts(),
        Action::ReadReceipt => receipt(),
        Action::RestorePackage => admin::restore(),
        Action::RunCleanup => admin::run_cleanup(),
        Action::CleanupStatus => admin::cleanup_status(),
        Action::Audit => admin::audit(),
        Action::ListBuckets => admin::buckets(),
        Action::ResetBucket => admin::reset_bucket(),
        Action::ListToggles => admin::toggles(),
        Action::SetToggle => admin::set_toggle(),
        Action::DeleteToggle => admin::delete_toggle(),
        Action::ReadQuotas => admin::quotas(),
        Action::SetQuotas => admin::set_quotas(),
        Action::DeleteQuotas => admin::delete_quotas(),
        Action::ListDelegates => admin::delegates(),
        Action::AddDelegate => admin::add_delegate(),
        Action::RemoveDelegate => admin::remove_delegate(),
        Action::ReadDispute => admin::dispute(),
        Action::AcceptReport => admin::accept_report(),
        Action::RejectReports => admin::reject_reports(),
        Action::FollowEvents => events::follow(),
    }
}

fn submit() -> Call {
    let location = "Path of the package.";
    let with_receipt =
        |status, words| Answer::with(status, words, Content::Either(shape::<WorkPackage>, shape::<PackageWithReceipt>));
    let created = with_receipt(201, "Stored, status `pending`. With include_receipt=true: `{package, receipt}`.")
        .header("Location", location, json!({"type": "string"}));
    let replayed =
        with_receipt(200, "The same submission came before: the package as it is stored now; nothing was written.")
            .header("Location", location, json!({"type": "string"}))
            .header("Idempotency-Replayed", "Always `true`.", json!({"type": "string", "const": "true"}));
    Call::new(
        PACKAGES,
        "Submit a work package",
        "Idempotent by `id` or by the header `Idempotency-Key`: the same body again is answered from the store, also after \
         its expiry and while the cap is reached; another body is a conflict. The body has at most 1 MiB.",
    )
    .takes(Parameter::header(
        "Idempotency-Key",
        "1 to 128 visible ASCII characters; counts for the token that sends it.",
        json!({"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~](?:[ -~]*[!-~])?$"}),
    ))
    .takes(Parameter::flag("include_receipt", "Answer `{package, receipt}` instead of the package."))
    .reads::<PackageRequest>()
    .answers(created)
    .answers(replayed)
    .refuses(Code::ServiceDenied, "the token may not touch this service")
    .refuses(Code::Conflict, "the id or the Idempotency-Key was used for a different package")
    .refuses(Code::PendingLimit, "so many packages are pending already (`details.limit`): process some, then try again")
}

fn packages() -> Call {
    Call::new(PACKAGES, "List packages", "Newest first, ties by id, so that paging never repeats or skips.")
        .takes(service_id("Packages of this service."))
        .takes(status())
        .takes(Parameter::query(
            "created_after",
            "Created strictly after this time (RFC 3339).",
            json!({"type": "string", "format": "date-time"}),
        ))
        .takes(Parameter::query(
            "created_before",
            "Created strictly before this time (RFC 3339).",
            json!({"type": "string", "format": "date-time"}),
        ))
        .takes(Parameter::flag("include_receipt", "Add the receipts of the packages of this page under `receipts`."))
        .takes(Parameter::flag("archived", "The archived packages and only those; needs the scope `admin`."))
        .takes_all(paging())
        .answers(listed::<WorkPackage>())
        .refuses(Code::ServiceDenied, "the token may not touch this service")
}

fn package() -> Call {
    Call::new(PACKAGES, "Read a package", "The package as it is now.")
        .takes(package_id())
        .takes(also_archived())
        .takes(Parameter::flag("include_receipt", "Answer `{package, receipt}` instead of the package."))
        .answers(Answer::with(200, "The package.", Content::Either(shape::<WorkPackage>, shape::<PackageWithReceipt>)))
        .refuses(Code::NotFound, "there is no such package, or the id is no UUID")
        .refuses(Code::ServiceDenied, "the token may not touch the package's service")
}

fn report() -> Call {
    Call::new(REPORTS, "Read the report of a package", "What refining the package gave, and who attested it.")
        .takes(package_id())
        .takes(also_archived())
        .takes(Parameter::flag("include_receipt", "Add the report's receipt, null until it is accumulated."))
        .answers(Answer::json::<ReportBundle>(200, "The report."))
        .refuses(
            Code::NotFound,
            "there is no such package, or it has no report: `details.status` says how far it is, `details.reason` why it is disputed",
        )
        .refuses(Code::ServiceDenied, "the token may not touch the package's service")
}

fn attestations() -> Call {
    Call::new(REPORTS, "List the attestations of a package", "Oldest first; empty until the package is refined.")
        .takes(package_id())
        .takes(also_archived())
        .answers(Answer::json::<Attestations>(200, "The attestations."))
        .refuses(Code::NotFound, "there is no such package, or the id is no UUID")
        .refuses(Code::ServiceDenied, "the token may not touch the package's service")
}

fn attest() -> Call {
    Call::new(
        REPORTS,
        "Attest a report",
        "A further worker's word. When the sum of weights reaches `attestation_threshold` the report is accumulated: the \
         package becomes `applied` and the report gets its receipt. A worker that got another output says so in \
         `refine_output_hash`: its word counts for a report of its own, and the package is disputed until an administrator \
         ends that.",
    )
    .takes(Parameter::path("id", "The report.", json!({"type": "string", "format": "uuid"})))
    .reads::<AttestationRequest>()
    .answers(Answer::json::<ReportBundle>(201, "Recorded: the report with everything that was said about it."))
    .refuses(Code::NotFound, "there is no such report, or none of a service that the token may touch")
    .refuses(
        Code::Conflict,
        "this worker has attested this package already, or got another output and the report is applied, or the report has 1000 \
         attestations, or as many against it",
    )
}

fn reports() -> Call {
    Call::new(REPORTS, "List reports", "Newest first, ties by id.")
        .takes(service_id("Reports of this service."))
        .takes(status())
        .takes(Parameter::flag("include_receipt", "Add the receipts of the reports of this page under `receipts`."))
        .takes(Parameter::flag(
            "include_attestations",
            "Add the attestations of each report under `attestations`; they count for what a page holds.",
        ))
        .takes(Parameter::flag("archived", "The reports of archived packages and only those; needs the scope `admin`."))
        .takes_all(paging())
        .answers(listed::<WorkReport>())
        .refuses(Code::ServiceDenied, "the token may not touch this service")
}

fn process() -> Call {
    Call::new(
        PACKAGES,
        "Process pending packages",
        "Oldest first, each exactly once whatever the number of callers and replicas. A package that fails becomes disputed, \
         and the call still answers 200.",
    )
    .takes(Parameter::query(
        "limit",
        "Packages to process; 1 when left out or 0, more than 100 is 100.",
        json!({"type": "integer", "minimum": 0, "maximum": u64::MAX, "default": 1}),
    ))
    .answers(Answer::json::<Worked>(200, "So many packages were processed."))
    .answers(Answer::empty(204, "Nothing was pending."))
}

fn receipts() -> Call {
    Call::new(
        RECEIPTS,
        "List receipts",
        "Newest first. With `service_id` by seq, so that a chain can be verified page by page; docs/receipts.md has the bytes.",
    )
    .takes(service_id("Receipts of this service, by seq."))
    .takes(Parameter::query("hash", "Receipts with this hash: a package id or a refine_output_hash.", plain()))
    .takes(Parameter::query("order", "`asc` needs service_id and begins at seq 1.", json!({"type": "string", "enum": ["desc", "asc"], "default": "desc"})))
    .takes_all(paging())
    .answers(listed::<Receipt>())
    .refuses(Code::ServiceDenied, "the token may not touch this service")
    .refuses(Code::NotFound, "receipts are not kept here: accumulators_enabled is false")
}

fn receipt() -> Call {
    Call::new(
        RECEIPTS,
        "Read the latest receipt of a hash",
        "Equal content refined twice gives two receipts with one hash; what is unique is (service_id, seq).",
    )
    .takes(Parameter::path("hash", "A package id or a refine_output_hash.", plain()))
    .answers(Answer::json::<Receipt>(200, "The receipt."))
    .refuses(Code::NotFound, "there is no such receipt, or receipts are not kept here")
}

/// The answer of a list.
pub(super) fn listed<T: schemars::JsonSchema + 'static>() -> Answer {
    Answer::with(
        200,
        "The page; with `legacy_list_response` a bare array of the items.",
        Content::Either(shape::<Listed<'static, T>>, shape::<Vec<T>>),
    )
}

fn plain() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9._:-]+$"})
}

/// A package of the path.
pub(super) fn package_id() -> Parameter {
    Parameter::path("id", "The package.", json!({"type": "string", "format": "uuid"}))
}

fn also_archived() -> Parameter {
    Parameter::flag("archived", "Look among archived packages, too; needs the scope `admin`.")
}

/// A service of the query.
pub(super) fn service_id(description: &'static str) -> Parameter {
    Parameter::query("service_id", description, of::<ServiceId>())
}

fn status() -> Parameter {
    let words = jam_domain::PackageStatus::ALL.map(jam_domain::PackageStatus::as_str);
    Parameter::query("status", "Only those with this status.", json!({"type": "string", "enum": words}))
}

/// The schema of a type that stands where it is used.
pub(super) fn of<T: schemars::JsonSchema>() -> Value {
    T::json_schema(&mut schemars::SchemaGenerator::default()).to_value()
}

/// Which page.
pub(super) fn paging() -> [Parameter; 3] {
    [
        Parameter::query(
            "limit",
            "Items of the page at most; more than 200 is 200, 0 is 50. A page ends early where its items are large.",
            json!({"type": "integer", "minimum": 0, "maximum": u64::MAX, "default": 50}),
        ),
        Parameter::query(
            "offset",
            "Items to skip; excludes `cursor`. What is inserted meanwhile comes before, and shifts the others onto the next page: only `cursor` never repeats.",
            json!({"type": "integer", "minimum": 0, "maximum": u64::MAX, "default": 0}),
        ),
        Parameter::query(
            "cursor",
            "The `next_cursor` of the page before; excludes `offset`.",
            json!({"type": "string"}),
        ),
    ]
}
