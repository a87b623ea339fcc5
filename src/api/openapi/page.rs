//! The document as it is served, and as a page that needs nothing from elsewhere: script and style stand in it, named by hash.

use std::sync::LazyLock;

use axum::body::Body;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");

/// Constants in all but name: the same bytes for as long as this build runs.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| super::text().into());
static PAGE: LazyLock<Bytes> = LazyLock::new(|| written(&super::document()).into_string().into());

/// GET /openapi.json.
pub fn json() -> Response {
    served(DOCUMENT.clone(), "application/json")
}

/// GET /docs.
pub fn page() -> Response {
    let mut response = served(PAGE.clone(), "text/html; charset=utf-8");
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        source(SCRIPT),
        source(STYLE)
    );
    let headers = response.headers_mut();
    set(headers, CONTENT_SECURITY_POLICY, &policy);
    set(headers, REFERRER_POLICY, "no-referrer");
    response
}

fn served(bytes: Bytes, media_type: &str) -> Response {
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    set(headers, CONTENT_TYPE, media_type);
    set(headers, CACHE_CONTROL, "no-cache");
    set(headers, X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}

fn set(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    headers.insert(name, HeaderValue::from_str(text).expect("the text is ours and plain ASCII"));
}

/// The name of a script or style in a content security policy.
fn source(text: &str) -> String {
    format!("sha256-{}", BASE64.encode(Sha256::digest(text)))
}

fn written(document: &Value) -> Markup {
    let info = &document["info"];
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { (text(&info["title"])) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (text(&info["title"])) " " small { (text(&info["version"])) } }
                    @for paragraph in text(&info["description"]).split("\n\n") { p { (prose(paragraph)) } }
                    p { a href="openapi.json" { "openapi.json" } }
                    form id="who" {
                        label { "Token: " input id="token" type="password" autocomplete="off" size="40"; }
                    }
                }
                @for tag in list(&document["tags"]) { (chapter(document, tag)) }
                h2 id="shapes" { "Shapes" }
                @for (name, schema) in fields(&document["components"]["schemas"]) { (component(name, schema)) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

fn chapter(document: &Value, tag: &Value) -> Markup {
    let name = text(&tag["name"]);
    html! {
        h2 id=(name) { (name) }
        p { (prose(text(&tag["description"]))) }
        @for (path, methods) in fields(&document["paths"]) {
            @for (method, operation) in fields(methods) {
                @if operation["tags"][0] == tag["name"] { (call(path, method, operation)) }
            }
        }
    }
}

fn call(path: &str, method: &str, operation: &Value) -> Markup {
    html! {
        details.call id=(text(&operation["operationId"])) {
            summary { b { (method.to_uppercase()) } " " code { (path) } " " (text(&operation["summary"])) }
            p { (prose(text(&operation["description"]))) }
            form.send data-method=(method.to_uppercase()) data-path=(path) {
                @for parameter in list(&operation["parameters"]).iter().filter(|one| one.get("$ref").is_none()) {
                    label {
                        code { (text(&parameter["name"])) } " (" (text(&parameter["in"])) ", " (kind(&parameter["schema"])) ") "
                        (prose(text(&parameter["description"]))) br;
                        input name=(text(&parameter["name"])) data-in=(text(&parameter["in"])) size="60"
                            required[parameter["required"] == true];
                    }
                }
                @for (media_type, content) in fields(&operation["requestBody"]["content"]) {
                    label {
                        "Body: " (prose(text(&operation["requestBody"]["description"]))) " " (kind(&content["schema"]))
                        @if media_type == "application/json" { textarea data-in="body" {} }
                        @else { br; input type="file" data-in="file"; }
                    }
                }
                button { "Send" }
                pre hidden {}
            }
            table {
                tr { th { "Answer" } th { "When" } th { "Shape" } }
                @for (status, answer) in fields(&operation["responses"]) {
                    tr {
                        td { (status) }
                        td { (prose(text(&answer["description"]))) (headers(answer)) }
                        td { @for (_, content) in fields(&answer["content"]) { (kind(&content["schema"])) } }
                    }
                }
            }
        }
    }
}

fn headers(answer: &Value) -> Markup {
    html! {
        // What every answer carries stands once, in the document.
        @for (name, header) in fields(&answer["headers"]).filter(|(_, header)| header.get("$ref").is_none()) {
            br; code { (name) } ": " (prose(text(&header["description"])))
        }
    }
}

fn component(name: &str, schema: &Value) -> Markup {
    html! {
        h3 id=(format!("shape-{name}")) { (name) }
        p { (prose(text(&schema["description"]))) }
        @if schema.get("properties").is_none() { p { (kind(schema)) } }
        @else {
            table {
                tr { th { "Field" } th { "Type" } th { "What" } }
                @for (field, property) in fields(&schema["properties"]) {
                    tr {
                        td { code { (field) } @if list(&schema["required"]).iter().any(|r| r == field) { " *" } }
                        td { (kind(property)) }
                        td { (prose(text(&property["description"]))) }
                    }
                }
            }
        }
    }
}

/// The type of a schema, in few words; components are links.
fn kind(schema: &Value) -> Markup {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return html! { a href=(format!("#shape-{name}")) { (name) } };
    }
    for joint in ["anyOf", "oneOf", "allOf"] {
        if let Some(parts) = schema[joint].as_array() {
            let parts = parts.iter().filter(|part| part.get("properties").is_none());
            return html! { @for (n, part) in parts.enumerate() { @if n > 0 { " or " } (kind(part)) } };
        }
    }
    let limits = ["format", "const", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern", "default"];
    html! {
        @match &schema["type"] {
            Value::String(name) => (name),
            Value::Array(names) => (names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or ")),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {}
        }
        @if let Some(items) = schema.get("items") { " of " (kind(items)) }
        @for limit in limits {
            @if let Some(value) = schema.get(limit) { " " code { (limit) "=" (value) } }
        }
    }
}

/// Text with its `code` marked as such.
fn prose(text: &str) -> Markup {
    html! {
        @for (n, part) in text.split('`').enumerate() {
            @if n % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}
