//! `/docs` and CORS as a real browser has them: Chromium reads the page, types the token, presses the button, and keeps origins apart.

use serde_json::{Value, json};

use crate::api_document::{document, operations};
use crate::api_support::{Server, TOKEN, answer};
use crate::browser::Browser;
use crate::cli_support::{Fake, Reply};

/// Opens the form of an operation, sends it, and returns what is shown below it.
async fn sent(browser: &mut Browser, operation: &str) -> String {
    if browser.value(&format!("!document.getElementById('{operation}').open")).await == true {
        browser.click(&format!("#{operation} > summary")).await;
        browser.until(&format!("document.getElementById('{operation}').open")).await;
    }
    browser.click(&format!("#{operation} form.send button")).await;
    let shown = format!(
        "(() => {{ const pre = document.querySelector('#{operation} pre'); return !pre.hidden && pre.textContent !== '…' && pre.textContent; }})()"
    );
    browser.until(&shown).await.as_str().unwrap().to_owned()
}

/// The id of the operation behind a method and a path.
async fn id(method: &str, path: &str) -> String {
    let document = document().await;
    let all = operations(&document);
    let (_, _, operation) = all.iter().find(|(m, p, _)| m == method && p == path).unwrap();
    operation["operationId"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_works_in_a_browser_without_the_internet_and_sends_authorised_requests() {
    let server = Server::start().await;
    let home = server.address.clone();
    let mut browser = Browser::start().await;
    browser.open(&format!("{home}/docs")).await;
    assert_eq!(browser.value("location.href").await, format!("{home}/docs"));

    let documented = operations(&document().await);
    let shown = browser
        .value("[...document.querySelectorAll('details.call > summary')].filter(e => e.checkVisibility()).map(e => e.innerText)")
        .await;
    let shown: Vec<&str> = shown.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(shown.len(), documented.len(), "{shown:?}");
    for (method, path, operation) in &documented {
        let is_it = |text: &&&str| text.split_whitespace().take(2).eq([method.as_str(), path.as_str()]);
        let line = shown.iter().find(is_it).unwrap_or_else(|| panic!("{method} {path} is not shown"));
        assert!(line.contains(operation["summary"].as_str().unwrap()), "{line}");
    }
    // The stylesheet is in force: the policy names its hash.
    assert_eq!(browser.value("getComputedStyle(document.querySelector('table')).borderCollapse").await, "collapse");
    let wide = browser.value("document.documentElement.scrollWidth - document.documentElement.clientWidth").await;
    assert_eq!(wide, 0, "nothing sticks out to the side");
    browser.value("scrollTo(0, document.body.scrollHeight)").await;
    let token = "(() => { const r = document.getElementById('token').getBoundingClientRect(); return r.top >= 0 && r.bottom < innerHeight; })()";
    assert_eq!(browser.value(token).await, true, "the token can be seen and changed from everywhere");
    assert_eq!(browser.complaints(), Vec::<String>::new());

    let status = id("GET", "/jam/status").await;
    let refused = sent(&mut browser, &status).await;
    assert!(refused.starts_with("401 ") && refused.contains("\"code\": \"jam_"), "{refused}");
    browser.click("#token").await;
    browser.write(TOKEN).await;
    let pressed = "document.querySelector('details.call[open] pre').textContent = '…'";
    browser.value(pressed).await;
    let allowed = sent(&mut browser, &status).await;
    assert!(allowed.starts_with("200 OK") && allowed.contains("\"enabled\": true"), "{allowed}");
    assert!(!allowed.contains(TOKEN), "{allowed}");
    let rows = format!(
        "[...document.querySelectorAll('#{status} table td:first-child')].filter(e => e.checkVisibility()).map(e => e.innerText)"
    );
    assert!(browser.value(&rows).await.as_array().unwrap().contains(&json!("200")), "the table of answers beside it");

    let package = id("POST", "/jam/packages").await;
    browser.click(&format!("#{package} > summary")).await;
    browser.until(&format!("document.getElementById('{package}').open")).await;
    browser.click(&format!("#{package} textarea")).await;
    browser.write(r#"{"service_id": "demo", "items": [{"kind": "k", "params_hash": "p"}]}"#).await;
    let created = sent(&mut browser, &package).await;
    assert!(created.starts_with("201 Created") && created.contains("\"status\": \"pending\""), "{created}");
    let kept = browser.value("[localStorage.length, sessionStorage.length, document.cookie]").await;
    assert_eq!(kept, json!([0, 0, ""]), "nothing keeps the token");

    let elsewhere: Vec<String> = browser.requests().into_iter().filter(|url| !url.starts_with(&home)).collect();
    assert_eq!(elsewhere, Vec::<String>::new());
    assert!(browser.requests().len() >= 4);
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_an_allowed_origin_may_call_and_another_may_not() {
    let page = || {
        Fake::answering(|_, _| Some(Reply("200 OK", "content-type: text/html\r\n".into(), "<!doctype html>".into())))
    };
    let (ours, theirs) = (page(), page());
    let server = Server::with(&[("JAM_ALLOWED_ORIGINS", ours.addr.as_str())]).await;
    let call = |method: &str, path: &str| {
        let headers = json!({"Authorization": format!("Bearer {TOKEN}"), "Content-Type": "application/json"});
        let body = r#"{"service_id":"demo","items":[{"kind":"k","params_hash":"p"}]}"#;
        let mut options = json!({"method": method, "headers": headers});
        if method == "POST" {
            options["body"] = body.into();
        }
        format!("fetch('{}{path}', {options}).then(a => a.status, e => e.name)", server.address)
    };
    let stored = async || {
        answer(server.request("GET", "/jam/packages")).await.expect(200).json()["items"].as_array().unwrap().len()
    };
    let mut browser = Browser::start().await;
    browser.open(&theirs.addr).await;
    assert_eq!(browser.value(&call("GET", "/jam/status")).await, "TypeError");
    assert_eq!(browser.value(&call("POST", "/jam/packages")).await, "TypeError");
    assert_eq!(stored().await, 0, "the browser asked first, and did not send it");
    browser.open(&ours.addr).await;
    assert_eq!(browser.value(&call("GET", "/jam/status")).await, 200);
    assert_eq!(browser.value(&call("POST", "/jam/packages")).await, 201);
    assert_eq!(stored().await, 1);
    browser.close().await;
}
