//! The OpenAPI 3.1 document: one operation for each row of the table of actions, in the words of `calls`, with the schemas of
//! the Rust types that the handlers serialise.

mod admin;
mod blobs;
mod call;
mod calls;
mod events;
mod page;
mod system;

use std::collections::BTreeMap;

use axum::http::Method;
use jam_domain::Code;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::action::{Action, BodyRule, Permission, Rule, TABLE, is_admin, is_jam};
use super::build;
use super::fault::Plane;
use call::{Answer, Call, Content, retry_after};
use calls::described;

pub use page::{json as served, page as docs};

type Problem = super::shapes::Problem<'static>;

const INTRODUCTION: &str = "JAM (Join-Accumulate Machine): clients upload preimages and submit work packages; packages are refined \
into reports, attested and accumulated; every accepted package and report gets a receipt in the hash chain of its service.\n\n\
Times are RFC 3339 in UTC with microseconds, sizes are bytes, lists are never null. Every GET answers HEAD too, without the body. A path \
that exists answers another method with 405 `jam_method_not_allowed` and `Allow`; a path that does not exist answers 404 `jam_not_found`, \
and so does every path under /jam while JAM is disabled. A parameter may be given once; unknown ones are ignored, empty ones count as left out.\n\n\
docs/ERRORS.md has an example of every status and code.";

/// The document as text, as it is served, printed and kept in docs/openapi.json.
pub fn text() -> String {
    let mut text = serde_json::to_string_pretty(&document()).expect("the document has string keys");
    text.push('\n');
    text
}

/// The document.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for rule in &TABLE {
        let methods = paths.entry(rule.path).or_default();
        methods.insert(rule.method.as_str().to_ascii_lowercase(), operation(rule, &mut generator));
    }
    // The generator names a type only when another one refers to it.
    generator.subschema_for::<Problem>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "JAM API",
            "version": build::VERSION,
            "description": INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The server that gave out this document."}],
        "tags": tags(),
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {
                "type": "http",
                "scheme": "bearer",
                "description": "A token of the server's list. What it may do are its scopes: read, submit, process, admin; \
                                the first three unless the list says otherwise.",
            }},
            "headers": headers(),
            "parameters": parameters(),
            "schemas": generator.take_definitions(true),
        },
    })
}

fn tags() -> Value {
    json!([
        {"name": "preimages", "description": "Blobs, named by the SHA-256 of their bytes."},
        {"name": "packages", "description": "Work: submitted, listed, processed."},
        {"name": "reports", "description": "What refining gave, and who attested it."},
        {"name": "receipts", "description": "The hash chains of the services."},
        {"name": "events", "description": "What happens, as it happens."},
        {"name": "admin", "description": "What administrators do; there only while `admin_tokens_file` is set. Refusals have codes of their own, `jam_admin_…`."},
        {"name": "health", "description": "What probes ask."},
        {"name": "status", "description": "What people and dashboards ask."},
        {"name": "document", "description": "The API, described by itself; without a token, also while JAM is disabled."},
    ])
}

fn operation(rule: &Rule, generator: &mut SchemaGenerator) -> Value {
    let call = described(rule.action);
    let mut parameters: Vec<Value> = call.parameters.iter().map(call::Parameter::written).collect();
    parameters.push(json!({"$ref": "#/components/parameters/traceparent"}));
    let mut operation = json!({
        "operationId": name_of(rule.action),
        "tags": [call.tag],
        "summary": call.summary,
        "description": format!("{} {}", call.description, needs(rule.permission)),
        "parameters": parameters,
        "responses": responses(rule, &call, generator),
        "security": security(rule.permission),
    });
    if let Some(body) = body(rule, &call, generator) {
        operation["requestBody"] = body;
    }
    operation
}

fn name_of(action: Action) -> String {
    let name = format!("{action:?}");
    name[..1].to_ascii_lowercase() + &name[1..]
}

fn needs(permission: Permission) -> String {
    match permission {
        Permission::Open => "Needs no token.".to_owned(),
        Permission::OpenHealth => "Where `health_public` is false it needs the scope `read`.".to_owned(),
        Permission::Needs(scope) => format!("Needs the scope `{scope}`."),
        Permission::Administers => "Needs a token of `admin_tokens_file`.".to_owned(),
    }
}

fn security(permission: Permission) -> Value {
    match permission {
        Permission::Open => json!([]),
        Permission::OpenHealth => json!([{}, {"token": []}]),
        Permission::Needs(scope) => json!([{"token": [scope.as_str()]}]),
        Permission::Administers => json!([{"token": ["admin"]}]),
    }
}

fn body(rule: &Rule, call: &Call, generator: &mut SchemaGenerator) -> Option<Value> {
    match (rule.body, call.body) {
        (BodyRule::None, _) => None,
        (BodyRule::Blob, _) => Some(json!({
            "required": false,
            "description": "The bytes.",
            "content": {"application/octet-stream": {}},
        })),
        (BodyRule::Json, shape) => {
            let schema = shape.map(|shape| shape(generator).to_value());
            Some(json!({
                "required": true,
                "description": "JSON of at most 1 MiB, whatever Content-Type says.",
                "content": {"application/json": {"schema": schema}},
            }))
        }
    }
}

/// The refusals that follow from the row, and those of the call.
pub(super) fn refusals(rule: &Rule, call: &Call) -> Vec<(Code, &'static str)> {
    let mut all = call.refusals.clone();
    let mut also = |code, when| {
        if !all.iter().any(|(known, _)| *known == code) {
            all.push((code, when));
        }
    };
    if rule.permission != Permission::Open {
        also(Code::Validation, "a parameter, or a field of the body, is wrong: `details.field` names it");
        also(Code::AuthMissing, "no token, or one that is unknown, expired or retired");
        also(Code::AuthForbidden, "the token lacks the scope, or is not in the allowlist");
    }
    if rule.limited {
        also(Code::RateLimit, "more than `rate_limit_per_minute` requests: wait for Retry-After");
    }
    if is_jam(rule.path) && !is_admin(rule.path) {
        also(Code::NotFound, "JAM is disabled");
    }
    if rule.path.starts_with("/jam/") && rule.limited {
        also(Code::Internal, "a fault of the server; the fault is logged under the id of X-Trace-Id");
        also(Code::StoreUnavailable, "the store does not answer: try again after Retry-After");
    }
    match rule.body {
        BodyRule::None => {}
        BodyRule::Json | BodyRule::Blob => {
            also(Code::BadRequest, "the body is not a JSON object, ended before it was whole, or came too slowly");
            also(Code::TooLarge, "the body is larger than 1 MiB");
        }
    }
    all.sort_by_key(|(code, _)| (code.status(), code.as_str()));
    all
}

fn responses(rule: &Rule, call: &Call, generator: &mut SchemaGenerator) -> Value {
    let mut responses: BTreeMap<String, Value> = BTreeMap::new();
    for answer in &call.answers {
        responses.insert(answer.status.to_string(), written(rule, answer, generator));
    }
    let mut by_status: BTreeMap<u16, Vec<(&str, &str)>> = BTreeMap::new();
    let plane = if is_admin(rule.path) { Plane::Admin } else { Plane::Jam };
    for (code, when) in refusals(rule, call) {
        by_status.entry(code.status()).or_default().push((plane.word(code), when));
    }
    if plane == Plane::Admin {
        // What is not mounted is not there at all, and has no code of its own.
        let not_mounted = (Code::NotFound.as_str(), "JAM is disabled, or `admin_tokens_file` is not set");
        by_status.entry(Code::NotFound.status()).or_default().push(not_mounted);
    }
    for (status, codes) in by_status {
        // A 503 that the call describes itself (readiness) has a shape of its own.
        responses.entry(status.to_string()).or_insert_with(|| refused(rule, status, &codes, generator));
    }
    json!(responses)
}

fn written(rule: &Rule, answer: &Answer, generator: &mut SchemaGenerator) -> Value {
    let mut headers = every_answer(rule);
    for (name, description, schema) in &answer.headers {
        headers.insert((*name).to_owned(), json!({"description": description, "schema": schema, "required": true}));
    }
    let mut written = json!({"description": answer.description, "headers": headers});
    let content = match &answer.content {
        Content::Empty => return written,
        Content::Json(shape) => json!({"application/json": {"schema": shape(generator)}}),
        Content::Either(one, other) => {
            json!({"application/json": {"schema": {"anyOf": [one(generator), other(generator)]}}})
        }
        Content::Bytes => json!({"*/*": {}}),
        Content::Events => {
            let event = generator.subschema_for::<jam_domain::event::Event>();
            json!({"text/event-stream": {"schema": {"type": "string", "x-event": event}}})
        }
        Content::Other(media_type) => json!({*media_type: {}}),
    };
    written["content"] = content;
    written
}

fn refused(rule: &Rule, status: u16, codes: &[(&str, &str)], generator: &mut SchemaGenerator) -> Value {
    let words: Vec<String> = codes.iter().map(|(code, when)| format!("`{code}`: {when}.")).collect();
    let mut headers = every_answer(rule);
    let mut header = |(name, description, schema): (&str, &str, Value)| {
        headers.insert(name.to_owned(), json!({"description": description, "schema": schema, "required": true}));
    };
    match status {
        401 => header(("WWW-Authenticate", "`Bearer`.", json!({"type": "string"}))),
        429 | 503 => header(retry_after()),
        _ => {}
    }
    let mut written = json!({"description": words.join(" "), "headers": headers});
    if rule.method != Method::HEAD {
        let codes: Vec<&str> = codes.iter().map(|(code, _)| *code).collect();
        let shape = generator.subschema_for::<Problem>();
        let schema = json!({"allOf": [shape, {"properties": {"code": {"enum": codes}}}]});
        written["content"] = json!({"application/json": {"schema": schema}});
    }
    written
}

/// The headers that every answer of a row may carry.
fn every_answer(rule: &Rule) -> Map<String, Value> {
    let limit: &[&str] =
        if rule.limited { &["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"] } else { &[] };
    let names = ["X-Trace-Id", "Traceparent"].iter().chain(limit);
    names.map(|name| ((*name).to_owned(), json!({"$ref": format!("#/components/headers/{name}")}))).collect()
}

/// The headers that many answers carry.
fn headers() -> Value {
    let whole = json!({"type": "integer", "minimum": 0});
    json!({
        "X-Trace-Id": {
            "description": "The trace id of this request: 32 lower-case hex digits.",
            "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
            "required": true,
        },
        "Traceparent": {
            "description": "W3C trace context of this request; its last flag is 1 where its span is exported (OTLP).",
            "schema": {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$"},
            "required": true,
        },
        "RateLimit-Limit": {"description": "Requests a minute; absent where there is no limit.", "schema": whole},
        "RateLimit-Remaining": {"description": "Requests that would pass right now.", "schema": whole},
        "RateLimit-Reset": {"description": "Seconds until the full burst is there again.", "schema": whole},
    })
}

/// The parameter that every call takes.
fn parameters() -> Value {
    json!({"traceparent": {
        "name": "traceparent",
        "in": "header",
        "description": "W3C trace context; its trace id comes back in X-Trace-Id and is in every log line of the request.",
        "schema": {"type": "string"},
    }})
}
