//! The table of everything the API does: method, path, scope, limit and body of each action. Routing, admission and the
//! labels of metrics all read this one table.

use axum::http::Method;
use jam_domain::token::Scope;

/// Bytes that a JSON body has at most.
pub const MAX_JSON: u64 = 1 << 20;

/// One thing that a client can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// The process is alive.
    Healthz,
    /// The process can serve.
    Readyz,
    /// What runs here.
    Version,
    /// How it is.
    SystemStatus,
    /// The OpenAPI document.
    OpenApi,
    /// The OpenAPI document as a page.
    Docs,
    /// Whether JAM is healthy.
    JamHealthz,
    /// The JAM block's status.
    JamStatus,
    /// Upload a preimage.
    PutPreimage,
    /// A preimage's headers.
    HeadPreimage,
    /// A preimage's bytes.
    ReadPreimage,
    /// A preimage's record.
    PreimageMeta,
    /// Whether a preimage has a record.
    HeadPreimageMeta,
    /// Remove a preimage.
    DeletePreimage,
    /// Submit a package.
    SubmitPackage,
    /// List packages.
    ListPackages,
    /// One package.
    ReadPackage,
    /// A package's report.
    ReadReport,
    /// A package's attestations.
    ListAttestations,
    /// Attest a report.
    AttestReport,
    /// List reports.
    ListReports,
    /// Process pending packages.
    Process,
    /// List receipts.
    ListReceipts,
    /// One receipt.
    ReadReceipt,
    /// Follow what happens.
    FollowEvents,
    /// Bring an archived package back.
    RestorePackage,
    /// Clean up now.
    RunCleanup,
    /// How cleaning up stands.
    CleanupStatus,
    /// What administrators did.
    Audit,
}

/// Who may do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Everyone, without a token.
    Open,
    /// Everyone when `health_public`, else who may read.
    OpenHealth,
    /// Who carries the scope.
    Needs(Scope),
    /// Who is an administrator by the admin token file.
    Administers,
}

/// What body it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyRule {
    /// None; one that is sent is not read.
    None,
    /// JSON of at most [`MAX_JSON`] bytes.
    Json,
    /// A blob of at most the caller's cap, streamed.
    Blob,
}

/// One row of the table.
#[derive(Debug)]
pub struct Rule {
    /// The action.
    pub action: Action,
    /// Its method; a GET row answers HEAD too, unless HEAD has a row of its own.
    pub method: Method,
    /// Its path; `{…}` stands for one segment.
    pub path: &'static str,
    /// Who may do it.
    pub permission: Permission,
    /// Whether it counts against the rate limit.
    pub limited: bool,
    /// What body it takes.
    pub body: BodyRule,
}

const fn row(action: Action, method: Method, path: &'static str, permission: Permission, body: BodyRule) -> Rule {
    // Health and version are asked for by machines that must never be told to slow down.
    let limited = matches!(permission, Permission::Needs(_) | Permission::Administers);
    Rule { action, method, path, permission, limited, body }
}

const READ: Permission = Permission::Needs(Scope::Read);
const SUBMIT: Permission = Permission::Needs(Scope::Submit);
const PROCESS: Permission = Permission::Needs(Scope::Process);
const OFFICE: Permission = Permission::Administers;
const ADMIN: Permission = Permission::Needs(Scope::Admin);

/// Every action.
#[rustfmt::skip]
pub static TABLE: [Rule; 29] = [
    row(Action::Healthz,          Method::GET,    "/healthz",                       Permission::Open,       BodyRule::None),
    row(Action::Readyz,           Method::GET,    "/readyz",                        Permission::Open,       BodyRule::None),
    row(Action::Version,          Method::GET,    "/system/version",                Permission::Open,       BodyRule::None),
    row(Action::SystemStatus,     Method::GET,    "/system/status",                 READ,                   BodyRule::None),
    row(Action::OpenApi,          Method::GET,    "/openapi.json",                  Permission::Open,       BodyRule::None),
    row(Action::Docs,             Method::GET,    "/docs",                          Permission::Open,       BodyRule::None),
    row(Action::JamHealthz,       Method::GET,    "/jam/healthz",                   Permission::OpenHealth, BodyRule::None),
    row(Action::JamStatus,        Method::GET,    "/jam/status",                    READ,                   BodyRule::None),
    row(Action::PutPreimage,      Method::PUT,    "/jam/preimages/{hash}",          SUBMIT,                 BodyRule::Blob),
    row(Action::HeadPreimage,     Method::HEAD,   "/jam/preimages/{hash}",          READ,                   BodyRule::None),
    row(Action::ReadPreimage,     Method::GET,    "/jam/preimages/{hash}",          READ,                   BodyRule::None),
    row(Action::DeletePreimage,   Method::DELETE, "/jam/preimages/{hash}",          ADMIN,                  BodyRule::None),
    row(Action::PreimageMeta,     Method::GET,    "/jam/preimages/{hash}/meta",     READ,                   BodyRule::None),
    row(Action::HeadPreimageMeta, Method::HEAD,   "/jam/preimages/{hash}/meta",     READ,                   BodyRule::None),
    row(Action::SubmitPackage,    Method::POST,   "/jam/packages",                  SUBMIT,                 BodyRule::Json),
    row(Action::ListPackages,     Method::GET,    "/jam/packages",                  READ,                   BodyRule::None),
    row(Action::ReadPackage,      Method::GET,    "/jam/packages/{id}",             READ,                   BodyRule::None),
    row(Action::ReadReport,       Method::GET,    "/jam/packages/{id}/report",      READ,                   BodyRule::None),
    row(Action::ListAttestations, Method::GET,    "/jam/packages/{id}/attestations", READ,                  BodyRule::None),
    row(Action::AttestReport,     Method::POST,   "/jam/reports/{id}/attestations", PROCESS,                BodyRule::Json),
    row(Action::ListReports,      Method::GET,    "/jam/reports",                   READ,                   BodyRule::None),
    row(Action::Process,          Method::POST,   "/jam/process",                   PROCESS,                BodyRule::None),
    row(Action::ListReceipts,     Method::GET,    "/jam/receipts",                  READ,                   BodyRule::None),
    row(Action::ReadReceipt,      Method::GET,    "/jam/receipts/{hash}",           READ,                   BodyRule::None),
    row(Action::FollowEvents,     Method::GET,    "/jam/events",                    READ,                   BodyRule::None),
    row(Action::RestorePackage,   Method::POST,   "/jam/admin/packages/{id}/restore", OFFICE,               BodyRule::None),
    row(Action::RunCleanup,       Method::POST,   "/jam/admin/cleanup/run",         OFFICE,                 BodyRule::None),
    row(Action::CleanupStatus,    Method::GET,    "/jam/admin/cleanup/status",      OFFICE,                 BodyRule::None),
    row(Action::Audit,            Method::GET,    "/jam/admin/audit",               OFFICE,                 BodyRule::None),
];

/// Whether the path is one of JAM.
pub fn is_jam(path: &str) -> bool {
    path == "/jam" || path.starts_with("/jam/")
}

/// Whether the path is one of the admin plane.
pub fn is_admin(path: &str) -> bool {
    path == "/jam/admin" || path.starts_with("/jam/admin/")
}

/// Where a request leads.
#[derive(Debug)]
pub enum Route<'a> {
    /// To this row; the segment that stood for `{…}`, "" when the path has none.
    Found(&'static Rule, &'a str),
    /// The path exists; these are its methods.
    WrongMethod(&'static str, Vec<Method>),
    /// There is no such path.
    NoSuchPath,
}

/// Finds the row of a request.
pub fn find<'a>(method: &Method, path: &'a str) -> Route<'a> {
    let mut on_path = TABLE.iter().filter_map(|rule| segment(rule.path, path).map(|part| (rule, part))).peekable();
    let Some(&(first, _)) = on_path.peek() else { return Route::NoSuchPath };
    let mut allowed = Vec::new();
    let mut by_get = None;
    for (rule, part) in on_path {
        if rule.method == *method {
            return Route::Found(rule, part);
        }
        if rule.method == Method::GET {
            by_get = Some((rule, part));
        }
        allowed.push(rule.method.clone());
    }
    match by_get {
        Some((rule, part)) if *method == Method::HEAD => Route::Found(rule, part),
        Some(_) if !allowed.contains(&Method::HEAD) => {
            allowed.push(Method::HEAD);
            Route::WrongMethod(first.path, allowed)
        }
        Some(_) | None => Route::WrongMethod(first.path, allowed),
    }
}

/// What stands for `{…}` when the path fits the template.
fn segment<'a>(template: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, rest)) = template.split_once('{') else { return (template == path).then_some("") };
    let (_, after) = rest.split_once('}')?;
    let part = path.strip_prefix(before)?.strip_suffix(after)?;
    (!part.is_empty() && !part.contains('/')).then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: &Method, path: &str) -> Option<(Action, String)> {
        match find(method, path) {
            Route::Found(rule, part) => Some((rule.action, part.to_owned())),
            Route::WrongMethod(..) | Route::NoSuchPath => None,
        }
    }

    #[test]
    fn every_row_is_found_by_its_own_method_and_path() {
        for rule in &TABLE {
            let (before, after) = rule.path.split_once('{').unwrap_or((rule.path, "}"));
            let path =
                format!("{before}{}{}", if before == rule.path { "" } else { "x" }, after.split_once('}').unwrap().1);
            assert_eq!(found(&rule.method, &path).map(|(action, _)| action), Some(rule.action));
        }
    }

    #[test]
    fn what_administrators_do_is_under_one_path_and_nothing_else_is() {
        for rule in &TABLE {
            assert_eq!(is_admin(rule.path), rule.permission == Permission::Administers, "{}", rule.path);
        }
        assert!(is_jam("/jam/admin") && is_admin("/jam/admin") && !is_admin("/jam/administer"));
    }

    #[test]
    fn a_path_that_only_looks_alike_is_no_path() {
        for path in [
            "/jam",
            "/jam/",
            "/jam/preimages",
            "/jam/preimages/",
            "/jam/preimages/a/b",
            "/jam/packages/a/b",
            "/jam/status/",
            "//healthz",
        ] {
            assert!(matches!(find(&Method::GET, path), Route::NoSuchPath), "{path}");
        }
    }

    #[test]
    fn get_answers_head_and_a_wrong_method_learns_the_right_ones() {
        assert_eq!(found(&Method::HEAD, "/jam/preimages/x/meta"), Some((Action::HeadPreimageMeta, "x".into())));
        assert_eq!(found(&Method::HEAD, "/jam/preimages/x"), Some((Action::HeadPreimage, "x".into())));
        let Route::WrongMethod(path, allowed) = find(&Method::POST, "/jam/preimages/x") else { panic!("found") };
        assert_eq!(path, "/jam/preimages/{hash}");
        assert_eq!(allowed, [Method::PUT, Method::HEAD, Method::GET, Method::DELETE]);
    }
}
