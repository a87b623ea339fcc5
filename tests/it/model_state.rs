//! The simple model of the API: what every call must answer, with symbols for ids and times.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::model_words::{Draft, Expiry, Part, Way, When, Who};

const DENIED: &str = "jam_authz_service_denied";
/// The output of the workers who got another one than the report says.
pub const OTHER: &str = "abababababababababababababababababababababababababababababababab";
/// Packages that may be pending at once: low, so that the cap is met often.
pub const CAP: usize = 4;

/// An answer with symbols: status, and the body or code.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    pub status: u16,
    pub body: Value,
}

pub fn answer(status: u16, body: Value) -> Expected {
    Expected { status, body }
}

pub fn refusal(status: u16, code: &str) -> Expected {
    answer(status, json!({"code": code}))
}

#[derive(Debug)]
struct Package {
    by: Who,
    draft: Draft,
    status: &'static str,
    receipt: usize,
    report: Option<Report>,
}

#[derive(Debug)]
struct Report {
    words: Vec<(String, u64)>,
    /// Of workers who got [`OTHER`].
    rival: Vec<(String, u64)>,
    receipt: Option<usize>,
}

/// A stored blob: who brought it, and how many packages refer to it.
#[derive(Debug)]
struct Blob {
    by: Who,
    refcount: usize,
}

fn size_of(blob: u8) -> u64 {
    u64::from(blob) * 100
}

/// Everything that the API remembers.
#[derive(Debug)]
pub struct Model {
    /// Who makes the next call.
    pub who: Who,
    /// The weight that applies a report; the server's own worker has 1.
    threshold: u64,
    blobs: BTreeMap<u8, Blob>,
    packages: Vec<Package>,
    chains: BTreeMap<u8, Vec<Value>>,
}

impl Model {
    pub fn new(threshold: u64) -> Self {
        Self { who: Who::Anybody, threshold, blobs: BTreeMap::new(), packages: Vec::new(), chains: BTreeMap::new() }
    }

    pub fn packages(&self) -> usize {
        self.packages.len()
    }

    /// The content symbol of a package: equal for what the refiner takes for equal.
    pub fn content(&self, n: usize) -> String {
        let Draft { service, nonce, id: _, key: _, expiry: _, blobs } = &self.packages[n].draft;
        format!("H({service},{nonce},{:?},{:?})", blobs.0, blobs.1)
    }

    pub fn upload(&mut self, blob: u8, way: Way) -> Expected {
        if way == Way::Wrong {
            return refusal(400, "jam_validation_error");
        }
        let status = if self.blobs.contains_key(&blob) { 200 } else { 201 };
        self.blobs.entry(blob).or_insert(Blob { by: self.who, refcount: 0 });
        answer(status, self.blob(blob))
    }

    /// Which part of a blob comes, as its Content-Range says; the bytes are compared where they are.
    pub fn bytes(&self, blob: u8, part: Part, head: bool) -> Expected {
        if !self.blobs.contains_key(&blob) {
            return refusal(404, "jam_not_found");
        }
        let size = size_of(blob);
        let asked = match part {
            Part::Unless(true) => return answer(304, json!("")),
            Part::Whole | Part::Unless(false) => None,
            Part::Range(first, last) if last < first => None,
            Part::Range(first, last) => Some((first, last.saturating_add(1).min(size))),
            Part::From(first) => Some((first, size)),
            Part::Last(count) => Some((size - count.min(size), size)),
        };
        match asked {
            Some((first, end)) if !head && first < end => {
                answer(206, json!(format!("bytes {first}-{}/{size}", end - 1)))
            }
            Some(_) if !head => answer(416, json!(format!("bytes */{size}"))),
            Some(_) | None => answer(200, json!("")),
        }
    }

    pub fn meta(&self, blob: u8) -> Expected {
        if self.blobs.contains_key(&blob) { answer(200, self.blob(blob)) } else { refusal(404, "jam_not_found") }
    }

    /// Only an administrator's, and only while nobody refers to it.
    pub fn delete(&mut self, blob: u8) -> Expected {
        match (self.who, self.blobs.get(&blob).map(|blob| blob.refcount)) {
            (Who::Anybody | Who::Bound, _) => refusal(403, "jam_auth_forbidden"),
            (Who::Admin, None) => refusal(404, "jam_not_found"),
            (Who::Admin, Some(0)) => {
                self.blobs.remove(&blob);
                answer(204, Value::Null)
            }
            (Who::Admin, Some(_)) => refusal(409, "jam_conflict"),
        }
    }

    fn blob(&self, blob: u8) -> Value {
        let Blob { by, refcount } = &self.blobs[&blob];
        json!({"hash": format!("B{blob}"), "refcount": refcount, "size": size_of(blob),
            "media_type": "text/x", "created_at": "<time>", "uploader": by.symbol(), "storage_class": "<class>"})
    }

    pub fn submit(&mut self, draft: &Draft) -> Expected {
        if !self.who.sees(draft.service) {
            return refusal(403, DENIED);
        }
        let by_key = |p: &Package| draft.key.is_some() && p.draft.key == draft.key && p.by == self.who;
        let by_id = |p: &Package| draft.id.is_some() && p.draft.id == draft.id;
        let earlier = self.packages.iter().position(by_key).or_else(|| self.packages.iter().position(by_id));
        if let Some(n) = earlier {
            let Draft { service, nonce, id, key: _, expiry, blobs } = &self.packages[n].draft;
            let meant = draft.id.is_none() || draft.id == *id;
            let same =
                meant && (*service, *nonce, *expiry, blobs) == (draft.service, draft.nonce, draft.expiry, &draft.blobs);
            if !same {
                return refusal(409, "jam_conflict");
            }
            // A key that was answered by the id stands for the package from now on.
            if self.packages[n].by == self.who && self.packages[n].draft.key.is_none() {
                self.packages[n].draft.key = draft.key;
            }
            return answer(200, self.with_receipt(n));
        }
        if draft.expiry == Some(Expiry::Past) {
            return refusal(400, "jam_validation_error");
        }
        let mut used: Vec<u8> = draft.blobs.0.iter().chain(&draft.blobs.1).copied().collect();
        used.sort_unstable();
        used.dedup();
        if used.iter().any(|blob| !self.blobs.contains_key(blob)) {
            return refusal(400, "jam_validation_error");
        }
        if self.packages.iter().filter(|p| p.status == "pending").count() >= CAP {
            return refusal(409, "jam_pending_limit");
        }
        for blob in used {
            self.blobs.entry(blob).and_modify(|blob| blob.refcount += 1);
        }
        let n = self.packages.len();
        let receipt = self.append(draft.service, "package", "pending", &format!("P{n}"), None);
        self.packages.push(Package { by: self.who, draft: draft.clone(), status: "pending", receipt, report: None });
        answer(201, self.with_receipt(n))
    }

    /// Hangs a link on a chain and gives its place.
    fn append(&mut self, service: u8, kind: &str, status: &str, hash: &str, extra: Option<Value>) -> usize {
        let chain = self.chains.entry(service).or_default();
        let seq = chain.len() + 1;
        let prev = if seq == 1 { "" } else { "<root>" };
        let mut receipt = json!({"hash": hash, "service_id": format!("s{service}"), "entry_type": kind, "seq": seq,
            "prev_root": prev, "new_root": "<root>", "status": status, "processed_at": "<time>", "metadata_hash": "<root>"});
        if let Some(extra) = extra {
            receipt["extra"] = extra;
        }
        chain.push(receipt);
        seq - 1
    }

    pub fn package(&self, n: usize) -> Value {
        let Package { by, draft, status, .. } = &self.packages[n];
        let Draft { service, nonce, id: _, key: _, expiry, blobs } = draft;
        let named = |blobs: &[u8]| blobs.iter().map(|blob| json!(format!("B{blob}"))).collect::<Vec<_>>();
        let id = format!("P{n}");
        let item = json!({"id": format!("I{n}"), "package_id": id, "kind": "k", "params_hash": "p",
            "preimage_hashes": named(&blobs.1)});
        let mut package = json!({"id": id, "service_id": format!("s{service}"), "items": [item],
            "created_by": by.symbol(), "nonce": nonce.to_string(), "status": status, "created_at": "<time>",
            "preimage_hashes": named(&blobs.0)});
        if let Some(expiry) = expiry {
            package["expiry"] = json!(expiry.text());
        }
        package
    }

    fn with_receipt(&self, n: usize) -> Value {
        let Package { draft, receipt, .. } = &self.packages[n];
        json!({"package": self.package(n), "receipt": self.chains[&draft.service][*receipt]})
    }

    /// Why the caller is not told of a package.
    fn hidden(&self, n: usize) -> Option<Expected> {
        match self.packages.get(n) {
            Some(package) if self.who.sees(package.draft.service) => None,
            Some(_) => Some(refusal(403, DENIED)),
            None => Some(refusal(404, "jam_not_found")),
        }
    }

    /// Why the caller may not ask for this service.
    pub fn denied(&self, service: Option<u8>) -> Option<Expected> {
        service.is_some_and(|service| !self.who.sees(service)).then(|| refusal(403, DENIED))
    }

    /// The package that the number names, as the API answers.
    pub fn read(&self, n: usize) -> Expected {
        self.hidden(n).unwrap_or_else(|| answer(200, self.with_receipt(n)))
    }

    pub fn process(&mut self, limit: usize) -> Expected {
        let pending =
            |n: &usize| self.packages[*n].status == "pending" && self.who.sees(self.packages[*n].draft.service);
        let taken: Vec<usize> = (0..self.packages.len()).filter(pending).take(limit).collect();
        for n in &taken {
            self.packages[*n].status = "refined";
            self.packages[*n].report = Some(Report { words: Vec::new(), rival: Vec::new(), receipt: None });
            self.say(*n, "local", 1);
        }
        if taken.is_empty() {
            return answer(204, Value::Null);
        }
        answer(200, json!({"processed": true, "count": taken.len(), "failed": 0}))
    }

    fn say(&mut self, n: usize, worker: &str, weight: u64) {
        let Some(report) = &mut self.packages[n].report else { return };
        report.words.push((worker.to_owned(), weight));
        let total: u64 = report.words.iter().map(|(_, weight)| weight).sum();
        if total < self.threshold || self.packages[n].status != "refined" {
            return;
        }
        let (service, content) = (self.packages[n].draft.service, self.content(n));
        let extra = json!({"package_id": format!("P{n}"), "report_id": format!("R{n}")});
        let receipt = self.append(service, "report", "applied", &content, Some(extra));
        self.packages[n].status = "applied";
        if let Some(report) = &mut self.packages[n].report {
            report.receipt = Some(receipt);
        }
    }

    pub fn attest(&mut self, n: usize, worker: &str, weight: u64, other: bool) -> Expected {
        let seen = self.packages.get_mut(n).filter(|package| self.who.sees(package.draft.service));
        let Some(Package { draft, status, report: Some(report), .. }) = seen else {
            return refusal(404, "jam_not_found");
        };
        let mut earlier = report.words.iter().chain(&report.rival);
        if earlier.any(|(earlier, _)| earlier == worker) || (other && *status == "applied") {
            return refusal(409, "jam_conflict");
        }
        if !other {
            self.say(n, worker, weight);
            return answer(201, self.bundle(n));
        }
        report.rival.push((worker.to_owned(), weight));
        *status = "disputed";
        let (id, words) = (format!("V{n}"), words_of(&format!("V{n}"), &report.rival));
        let rival = json!({"id": id, "package_id": format!("P{n}"), "service_id": format!("s{}", draft.service),
            "refine_output_hash": OTHER, "refine_output_compact": "<compact>", "created_at": "<time>", "status": status});
        answer(201, json!({"report": rival, "attestations": words, "receipt": null}))
    }

    pub fn report(&self, n: usize) -> Expected {
        self.hidden(n).unwrap_or_else(|| match &self.packages[n].report {
            Some(_) => answer(200, self.bundle(n)),
            None => refusal(404, "jam_not_found"),
        })
    }

    fn bundle(&self, n: usize) -> Value {
        let Package { draft, report, .. } = &self.packages[n];
        let receipt = report.as_ref().and_then(|report| report.receipt).map(|at| &self.chains[&draft.service][at]);
        json!({"report": self.report_alone(n), "attestations": self.words(n), "receipt": receipt})
    }

    fn report_alone(&self, n: usize) -> Value {
        let Package { draft, status, .. } = &self.packages[n];
        json!({"id": format!("R{n}"), "package_id": format!("P{n}"), "service_id": format!("s{}", draft.service),
            "refine_output_hash": self.content(n), "refine_output_compact": "<compact>", "created_at": "<time>",
            "status": status})
    }

    fn words(&self, n: usize) -> Vec<Value> {
        let words = self.packages[n].report.as_ref().map(|report| &report.words[..]).unwrap_or_default();
        words_of(&format!("R{n}"), words)
    }

    pub fn attestations(&self, n: usize) -> Expected {
        self.hidden(n).unwrap_or_else(|| answer(200, json!({"items": self.words(n)})))
    }

    /// The whole list of packages, newest first, and their receipts.
    pub fn list(&self, service: Option<u8>, status: Option<&str>, when: Option<When>) -> (Vec<Value>, Vec<Value>) {
        let here = |n: &usize| match when {
            None => true,
            Some(When::Before(other)) => *n < other || other >= self.packages.len(),
            Some(When::After(other)) => *n > other,
        };
        self.found(service, status)
            .filter(here)
            .map(|n| self.with_receipt(n))
            .map(|mut both| (both["package"].take(), both["receipt"].take()))
            .unzip()
    }

    /// The whole list of reports, newest package first.
    pub fn reports(&self, service: Option<u8>, status: Option<&str>) -> Vec<Value> {
        self.found(service, status)
            .filter(|n| self.packages[*n].report.is_some())
            .map(|n| self.report_alone(n))
            .collect()
    }

    fn found(&self, service: Option<u8>, status: Option<&str>) -> impl Iterator<Item = usize> {
        let wanted = move |package: &Package| {
            self.who.sees(package.draft.service)
                && service.is_none_or(|service| package.draft.service == service)
                && status.is_none_or(|status| package.status == status)
        };
        (0..self.packages.len()).rev().filter(move |n| wanted(&self.packages[*n]))
    }

    pub fn receipts(&self, service: u8, ascending: bool) -> Vec<Value> {
        let mut chain = self.chains.get(&service).cloned().unwrap_or_default();
        if !ascending {
            chain.reverse();
        }
        chain
    }

    /// The latest receipt of a package, or of its report's content.
    pub fn latest(&self, hash: &str) -> Expected {
        let seen = self.chains.iter().filter(|(service, _)| self.who.sees(**service));
        seen.flat_map(|(_, chain)| chain.iter().rev())
            .find(|receipt| receipt["hash"] == hash)
            .map_or(refusal(404, "jam_not_found"), |r| answer(200, r.clone()))
    }

    pub fn head(&self, service: u8) -> Value {
        let Some(chain) = self.chains.get(&service) else { return Value::Null };
        json!({"service_id": format!("s{service}"), "seq": chain.len(), "root": "<root>", "updated_at": "<time>"})
    }

    /// The heads of all chains, by name.
    pub fn heads(&self) -> Vec<Value> {
        self.chains.keys().filter(|service| self.who.sees(**service)).map(|service| self.head(*service)).collect()
    }
}

/// What was said for a report.
fn words_of(report: &str, words: &[(String, u64)]) -> Vec<Value> {
    let word = |(worker, weight): &(String, u64)| {
        let (engine, version) = if worker == "local" { ("hash-refiner", "<version>") } else { ("unknown", "unknown") };
        json!({"report_id": report, "worker_id": worker, "signature": "<signature>", "weight": weight,
            "created_at": "<time>", "engine": engine, "engine_version": version})
    };
    words.iter().map(word).collect()
}
