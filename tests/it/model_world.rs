//! A real server as the model sees it: calls over HTTP, with symbols in place of ids, hashes and times.

use std::collections::HashMap;

use jam_domain::{PreimageHash, Timestamp};
use reqwest::{Body, RequestBuilder};
use serde_json::{Map, Value, json};

use crate::api_support::{Answer, Server, TOKEN, answer as send};
use crate::model_state::{Expected, Model, OTHER, answer};
use crate::model_words::{Draft, Expiry, Part, Way, When, Who};

/// How a list is read to its end.
#[derive(Debug, Clone)]
pub struct Paging {
    pub limit: usize,
    pub by_cursor: bool,
}

/// The token that is bound to the first service.
pub const BOUND: &str = "a-token-of-one-service";

/// The token of an administrator.
pub const ADMIN: &str = "a-token-of-an-administrator";

/// A server and the symbols of what it made.
pub struct Seen {
    server: Server,
    symbols: HashMap<String, String>,
    packages: Vec<String>,
    /// When each was created.
    created: Vec<String>,
    /// Who makes the next call.
    pub who: Who,
    /// Whether lists are the bare arrays of old clients.
    pub legacy: bool,
}

pub fn blob(n: u8) -> Vec<u8> {
    vec![n; usize::from(n) * 100]
}

fn hash_of(n: u8) -> String {
    PreimageHash::of(&blob(n)).to_string()
}

impl Seen {
    pub fn new(server: Server, legacy: bool) -> Self {
        let mut symbols: HashMap<String, String> = (0..8).map(|n| (hash_of(n), format!("B{n}"))).collect();
        for (token, who) in [(TOKEN, Who::Anybody), (BOUND, Who::Bound), (ADMIN, Who::Admin)] {
            symbols.insert(jam_domain::token::TokenHash::of(token).id().to_string(), who.symbol().into());
        }
        Self { server, symbols, packages: Vec::new(), created: Vec::new(), who: Who::Anybody, legacy }
    }

    fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let token = match self.who {
            Who::Anybody => TOKEN,
            Who::Bound => BOUND,
            Who::Admin => ADMIN,
        };
        self.server.bare(method, path).bearer_auth(token)
    }

    /// The id of a package; one that is not there when there are fewer.
    fn id(&self, n: usize) -> &str {
        self.packages.get(n).map_or("00000000-0000-4000-8000-000000000000", String::as_str)
    }

    pub async fn upload(&mut self, n: u8, way: Way, model: &Model) -> Expected {
        let put = self.request("PUT", &format!("/jam/preimages/{}", hash_of(n))).header("content-type", "text/x");
        let pieces = blob(n).chunks(37).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect::<Vec<_>>();
        let body = match way {
            Way::Whole => Body::from(blob(n)),
            Way::Chunked => Body::wrap_stream(futures::stream::iter(pieces)),
            Way::Wrong => Body::from([&blob(n)[..], b"x"].concat()),
        };
        let got = send(put.body(body)).await;
        self.shown(&got, model)
    }

    pub async fn submit(&mut self, draft: &Draft, model: &Model) -> Expected {
        let Draft { service, nonce, id, key, expiry, blobs } = draft;
        let hashes = |blobs: &[u8]| blobs.iter().map(|n| hash_of(*n)).collect::<Vec<_>>();
        let item = json!({"kind": "k", "params_hash": "p", "preimage_hashes": hashes(&blobs.1)});
        let mut body = json!({"service_id": format!("s{service}"), "nonce": nonce.to_string(), "items": [item],
            "preimage_hashes": hashes(&blobs.0)});
        if let Some(id) = id {
            body["id"] = json!(format!("01890a5d-ac96-774b-bcce-00000000000{id}"));
        }
        if let Some(expiry) = expiry {
            body["expiry"] = json!(expiry.text());
        }
        let mut request = self.request("POST", "/jam/packages?include_receipt=true").body(body.to_string());
        if let Some(key) = key {
            request = request.header("idempotency-key", format!("key {key}"));
        }
        let got = send(request).await;
        assert_eq!(got.header("idempotency-replayed") == "true", got.status == 200, "{}", got.text());
        if got.status == 201 {
            let package = &got.json()["package"];
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            assert_eq!(got.header("location"), format!("/jam/packages/{}", text(&package["id"])));
            let n = self.packages.len();
            self.packages.push(text(&package["id"]));
            self.created.push(text(&package["created_at"]));
            self.name(&text(&package["id"]), &format!("P{n}"));
            self.name(&text(&package["items"][0]["id"]), &format!("I{n}"));
        }
        self.shown(&got, model)
    }

    pub async fn get(&mut self, path: &str, model: &Model) -> Expected {
        let got = send(self.request("GET", path)).await;
        self.shown(&got, model)
    }

    pub async fn of_package(&mut self, n: usize, rest: &str, model: &Model) -> Expected {
        let path = format!("/jam/packages/{}", self.id(n));
        if rest == "/attestations" {
            // Attestations name a report that may not have been seen yet.
            self.get(&format!("{path}/report"), model).await;
        }
        self.get(&format!("{path}{rest}"), model).await
    }

    pub async fn meta(&mut self, n: u8, model: &Model) -> Expected {
        self.get(&format!("/jam/preimages/{}/meta", hash_of(n)), model).await
    }

    /// A blob or a part of it, by GET or HEAD: the status and what part it is; the bytes are compared here.
    pub async fn bytes(&mut self, n: u8, part: Part, head: bool, model: &Model) -> Expected {
        let request = self.request(if head { "HEAD" } else { "GET" }, &format!("/jam/preimages/{}", hash_of(n)));
        let got = send(match part {
            Part::Whole => request,
            Part::Unless(same) => {
                request.header("if-none-match", format!("\"{}\"", hash_of(if same { n } else { n + 1 })))
            }
            Part::Range(first, last) => request.header("range", format!("bytes={first}-{last}")),
            Part::From(first) => request.header("range", format!("bytes={first}-")),
            Part::Last(count) => request.header("range", format!("bytes=-{count}")),
        })
        .await;
        let range = got.header("content-range");
        let sent = match got.status {
            200 if !head => blob(n),
            206 => {
                let (first, last) = range["bytes ".len()..].split('/').next().unwrap().split_once('-').unwrap();
                blob(n)[first.parse().unwrap()..=last.parse().unwrap()].to_vec()
            }
            404 if head => return answer(404, json!({"code": "jam_not_found"})),
            404 => return self.shown(&got, model),
            416 => got.bytes.clone(),
            _ => Vec::new(),
        };
        assert!(got.bytes == sent, "{} of {} bytes", got.bytes.len(), sent.len());
        if got.status < 400 {
            assert_eq!(got.header("etag"), format!("\"{}\"", hash_of(n)));
        }
        if head && got.status == 200 {
            assert_eq!(got.header("x-preimage-size"), blob(n).len().to_string());
        }
        answer(got.status, json!(range))
    }

    pub async fn delete(&mut self, n: u8, model: &Model) -> Expected {
        let got = send(self.request("DELETE", &format!("/jam/preimages/{}", hash_of(n)))).await;
        self.shown(&got, model)
    }

    pub async fn process(&mut self, limit: usize, model: &Model) -> Expected {
        let got = send(self.request("POST", &format!("/jam/process?limit={limit}"))).await;
        self.shown(&got, model)
    }

    pub async fn attest(&mut self, n: usize, worker: &str, (weight, other): (u64, bool), model: &Model) -> Expected {
        let found = self.server.get(&format!("/jam/packages/{}/report", self.id(n))).await;
        let report = if found.status == 200 { found.json()["report"]["id"].clone() } else { json!("no-such-report") };
        let path = format!("/jam/reports/{}/attestations", report.as_str().unwrap());
        let mut said = json!({"worker_id": worker, "signature": "c2ln", "weight": weight});
        if other {
            said["refine_output_hash"] = json!(OTHER);
        }
        let got = send(self.request("POST", &path).body(said.to_string())).await;
        self.shown(&got, model)
    }

    /// The latest receipt of a package, or of its report's content.
    pub async fn latest(&mut self, n: usize, hash: &str, model: &Model) -> Expected {
        // The hash of a content is known once the report was seen.
        let report = self.server.get(&format!("/jam/packages/{}/report", self.id(n))).await;
        self.shown(&report, model);
        let found = self.symbols.iter().find(|(_, symbol)| *symbol == hash);
        let plain = found.map_or("no-such-receipt".to_owned(), |(plain, _)| plain.clone());
        self.get(&format!("/jam/receipts/{plain}"), model).await
    }

    /// The words of a query that narrow a list to some time.
    pub fn narrowed(&self, when: Option<When>) -> String {
        let time = |n: usize| self.created.get(n).map_or(Expiry::Ahead.text(), String::as_str);
        match when {
            None => String::new(),
            Some(When::Before(n)) => format!("&created_before={}", time(n)),
            Some(When::After(n)) => format!("&created_after={}", time(n)),
        }
    }

    /// A list read to its end: the sizes of its pages, and everything in it.
    pub async fn list(&mut self, path: &str, paging: &Paging, model: &Model) -> (Vec<usize>, Vec<Value>, Vec<Value>) {
        let (mut sizes, mut items, mut receipts, mut start) = (Vec::new(), Vec::new(), Vec::new(), String::new());
        loop {
            let page = send(self.request("GET", &format!("{path}&limit={}{start}", paging.limit))).await;
            let page = page.expect(200).json();
            if self.legacy {
                let page = page.as_array().expect("a bare array");
                // An old client reads on until a page is not full.
                if !page.is_empty() || sizes.is_empty() {
                    sizes.push(page.len());
                }
                items.extend(page.iter().cloned());
                start = format!("&offset={}", items.len());
                if page.len() < paging.limit {
                    break;
                }
                continue;
            }
            let list = |key: &str| page[key].as_array().cloned().unwrap_or_default();
            sizes.push(list("items").len());
            items.extend(list("items"));
            receipts.extend(list("receipts"));
            assert!(sizes.len() < 100, "a list without an end: {path}");
            let Some(cursor) = page["next_cursor"].as_str() else {
                assert_eq!(page["next_offset"], Value::Null, "both are null at the end");
                break;
            };
            if paging.by_cursor {
                start = format!("&cursor={cursor}");
            } else {
                assert_eq!(page["next_offset"], json!(items.len()));
                start = format!("&offset={}", items.len());
            }
        }
        for values in [&mut items, &mut receipts] {
            for value in values.iter_mut() {
                self.learn(value, model);
                self.mask("", value);
            }
        }
        (sizes, items, receipts)
    }

    fn shown(&mut self, got: &Answer, model: &Model) -> Expected {
        if got.bytes.is_empty() {
            return answer(got.status, Value::Null);
        }
        let mut body = got.json();
        if got.status >= 400 {
            assert!(body["error"].is_string(), "{body}");
            body = json!({"code": body["code"]});
        }
        self.learn(&body, model);
        self.mask("", &mut body);
        answer(got.status, body)
    }

    /// One symbol for one thing, and one thing for one symbol.
    fn name(&mut self, plain: &str, symbol: &str) {
        let earlier = self.symbols.insert(plain.to_owned(), symbol.to_owned());
        assert!(earlier.as_deref().is_none_or(|earlier| earlier == symbol), "{plain} is {earlier:?} and {symbol}");
        let same = self.symbols.values().filter(|known| *known == symbol).count();
        assert_eq!(same, 1, "{symbol} stands for {plain} and for something else");
    }

    /// Names the reports and contents that an answer shows for the first time.
    fn learn(&mut self, value: &Value, model: &Model) {
        match value {
            Value::Object(fields) => {
                self.learn_report(fields, model);
                fields.values().for_each(|field| self.learn(field, model));
            }
            Value::Array(items) => items.iter().for_each(|item| self.learn(item, model)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn learn_report(&mut self, fields: &Map<String, Value>, model: &Model) {
        let text = |fields: &Map<String, Value>, key: &str| fields.get(key).and_then(Value::as_str).map(str::to_owned);
        let told = fields.get("extra").and_then(Value::as_object).unwrap_or(fields);
        let hash = text(fields, "refine_output_hash").or_else(|| text(fields, "hash"));
        let report = text(told, "report_id").or_else(|| text(fields, "id"));
        let (Some(package), Some(report), Some(hash)) = (text(told, "package_id"), report, hash) else { return };
        let n = self.packages.iter().position(|id| *id == package).expect("a package that was submitted");
        if hash == OTHER {
            return self.name(&report, &format!("V{n}"));
        }
        self.name(&report, &format!("R{n}"));
        self.name(&hash, &model.content(n));
    }

    fn mask(&self, key: &str, value: &mut Value) {
        match value {
            Value::Object(fields) => fields.iter_mut().for_each(|(key, field)| self.mask(key, field)),
            Value::Array(items) => items.iter_mut().for_each(|item| self.mask(key, item)),
            Value::String(text) => *text = self.masked(key, text),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn masked(&self, key: &str, text: &str) -> String {
        match key {
            "prev_root" | "new_root" | "root" | "metadata_hash" if text.is_empty() => String::new(),
            "prev_root" | "new_root" | "root" | "metadata_hash" => {
                assert!(text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()), "{key}: {text}");
                "<root>".into()
            }
            "created_at" | "processed_at" | "updated_at" => {
                assert_eq!(text.parse::<Timestamp>().unwrap().to_string(), text, "microseconds, UTC");
                "<time>".into()
            }
            "signature" => "<signature>".into(),
            "engine_version" if text != "unknown" => "<version>".into(),
            "engine_version" => text.to_owned(),
            "storage_class" => "<class>".into(),
            "refine_output_compact" => "<compact>".into(),
            _ => self.symbols.get(text).cloned().unwrap_or_else(|| text.to_owned()),
        }
    }
}
