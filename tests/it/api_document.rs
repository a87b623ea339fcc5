//! The OpenAPI document and its page: written from the code, complete, served to everyone, and true.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jam::api::action::TABLE;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::api_support::{Server, World, answer, ran};
use crate::crd_generated::{compare, repository};

/// The document that the program prints.
pub async fn document() -> Value {
    let (code, out, err) = ran(&["openapi"], &[]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    serde_json::from_str(&out).unwrap()
}

/// Every operation of a document: method, path, operation.
pub fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let methods = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().iter();
        methods.map(|(method, operation)| (method.to_uppercase(), path.clone(), operation.clone()))
    });
    methods.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kept_document_is_the_one_that_is_printed_and_served() {
    let (_, text, _) = ran(&["openapi"], &[]).await;
    compare(&repository("docs/openapi.json"), &text);
    let server = Server::start().await;
    let answered = answer(server.bare("GET", "/openapi.json")).await.expect(200);
    assert_eq!(answered.header("content-type"), "application/json");
    assert_eq!(answered.text(), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn document_and_page_answer_without_a_token_and_while_jam_is_disabled() {
    for enabled in ["true", "false"] {
        let server = Server::with(&[("JAM_ENABLED", enabled)]).await;
        for path in ["/openapi.json", "/docs", "/docs?whatever&whatever=%ff"] {
            answer(server.bare("GET", path)).await.expect(200);
            assert_eq!(answer(server.bare("HEAD", path)).await.expect(200).text(), "");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_documented_and_nothing_else() {
    let document = document().await;
    let documented: BTreeSet<_> = operations(&document).into_iter().map(|(method, path, _)| (method, path)).collect();
    let routed: BTreeSet<_> = TABLE.iter().map(|rule| (rule.method.to_string(), rule.path.to_owned())).collect();
    assert_eq!(documented, routed);
    // What a document says of a path it says with the parameter that the path has.
    for (method, path, operation) in operations(&document) {
        let named: Vec<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
        let parameters = operation["parameters"].as_array().unwrap().iter();
        let given: Vec<&str> = parameters.filter(|p| p["in"] == "path").map(|p| p["name"].as_str().unwrap()).collect();
        assert_eq!(given, named, "{method} {path}");
    }
}

/// Calls `visit` with every object of the document and the path to it.
fn walk(place: &str, value: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    visit(place, value);
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| walk(&format!("{place}/{}", key.replace('/', "~1")), value, visit));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, value)| walk(&format!("{place}/{n}"), value, visit));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_of_the_document_is_described_and_every_reference_leads_somewhere() {
    let document = document().await;
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        assert!(ids.insert(operation["operationId"].to_string()), "{method} {path}: its id is another's too");
        assert!(operation["summary"].as_str().is_some_and(|words| words.len() > 5), "{method} {path}");
    }
    let (mut references, mut described) = (0, 0);
    walk("", &document, &mut |place, value| {
        if let Some(target) = value.get("$ref").and_then(Value::as_str) {
            references += 1;
            assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{place}: {target}");
        }
        let parent = place.rsplit('/').nth(1).unwrap_or_default();
        let referred = value.get("$ref").is_some();
        if value.is_object()
            && ["parameters", "responses", "headers", "properties", "schemas", "tags"].contains(&parent)
            && !referred
        {
            // `code` of an error is described once, in the shape of every error.
            let narrowed = place.ends_with("/allOf/1/properties/code");
            let words = value["description"].as_str().unwrap_or_default();
            assert!(words.len() > 3 || narrowed, "{place} has no description");
            described += 1;
        }
    });
    assert!(references > 100 && described > 200, "{references} references, {described} descriptions");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_every_call_and_needs_nothing_from_elsewhere() {
    let server = Server::start().await;
    let answered = answer(server.bare("GET", "/docs")).await.expect(200);
    assert_eq!(answered.header("content-type"), "text/html; charset=utf-8");
    let (policy, page) = (answered.header("content-security-policy"), answered.text());
    for part in ["default-src 'none'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for (element, directive) in [("script", "script-src"), ("style", "style-src")] {
        let parts: Vec<&str> = page.split(&format!("<{element}")).collect();
        assert_eq!(parts.len(), 2, "one {element}");
        let inside = parts[1].split_once('>').unwrap().1.split(&format!("</{element}>")).next().unwrap();
        let named = format!("{directive} 'sha256-{}'", BASE64.encode(Sha256::digest(inside)));
        assert!(policy.contains(&named), "{named} in {policy}");
    }
    for attribute in [" src=", "http://", "https://", " onclick", " style="] {
        assert!(!page.contains(attribute), "{attribute}");
    }
    for (method, path, _) in operations(&document().await) {
        let form = format!("data-method=\"{method}\" data-path=\"{path}\"");
        assert!(page.contains(&form), "{form}");
    }
    for part in ["id=\"token\"", "id=\"shape-WorkPackage\"", "<code>jam_pending_limit</code>"] {
        assert!(page.contains(part), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_may_send_each_header_that_a_call_takes_and_read_each_that_an_answer_has() {
    let (document, origin) = (document().await, "https://app.example");
    let server = World::memory().with(&[("JAM_ALLOWED_ORIGINS", origin)]).await;
    let resolved = |one: &Value| match one["$ref"].as_str() {
        Some(path) => document.pointer(path.trim_start_matches('#')).unwrap().clone(),
        None => one.clone(),
    };
    let (mut taken, mut given) = (BTreeSet::from(["authorization".to_owned()]), BTreeSet::new());
    for (_, _, operation) in operations(&document) {
        let parameters = operation["parameters"].as_array().into_iter().flatten().map(resolved);
        taken.extend(
            parameters.filter(|one| one["in"] == "header").map(|one| one["name"].as_str().unwrap().to_lowercase()),
        );
        for answer in operation["responses"].as_object().unwrap().values().map(resolved) {
            given.extend(answer["headers"].as_object().into_iter().flatten().map(|(name, _)| name.to_lowercase()));
        }
    }
    // Those that every page may read (Fetch, CORS-safelisted response-header name).
    given.retain(|name| !["cache-control", "content-length", "content-type"].contains(&name.as_str()));
    let words = |text: &str| text.split(',').map(|word| word.trim().to_lowercase()).collect::<BTreeSet<_>>();
    let asked = server.bare("OPTIONS", "/jam/events").header("origin", origin);
    let asked = answer(asked.header("access-control-request-method", "GET")).await.expect(204);
    let allowed = words(asked.header("access-control-allow-headers"));
    assert!(taken.len() > 5 && taken.is_subset(&allowed), "{taken:?} of {allowed:?}");
    let read = answer(server.request("GET", "/jam/status").header("origin", origin)).await;
    let exposed = words(read.header("access-control-expose-headers"));
    assert!(given.len() > 5 && given.is_subset(&exposed), "{given:?} of {exposed:?}");
}
