//! The records behind a chain: packages and reports as the server lists them, against the receipts that were given for them.

use std::collections::{HashMap, HashSet};

use jam_domain::{EntryType, HashAlgorithm, PackageStatus, Receipt, ServiceId, Timestamp, canonical};
use serde_json::Value;

/// What a record does not fit, and where in the chain.
#[derive(Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The receipt; none of a record that the chain does not know.
    pub seq: Option<u64>,
    /// What is wrong.
    pub problem: String,
}

/// A record that is to be asked for by itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The seq of its receipt; none when the chain does not know it.
    pub seq: Option<u64>,
    /// Its package.
    pub package_id: String,
    /// Whether it is the package's report.
    pub report: bool,
}

/// The records of a page that are to be asked for by themselves.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Suspects {
    /// Those that seem to have another receipt than the one they got, or none.
    pub seeming: Vec<Wanted>,
    /// Those whose receipt may as well be the one of a record beside them, as a page does not say whose they are.
    pub possible: Vec<Wanted>,
}

/// The shortest time that a package is kept: `retention_days` is 1 or more, or for ever, and only cleanups delete packages.
const KEPT_SECONDS: i64 = 86_400;

/// How far the clocks may be apart by which packages, receipts and reports are dated and cleanups run.
const CLOCK_SECONDS: i64 = 60;

/// What the chain says of its records, until they are read.
pub struct Ledger {
    algorithm: HashAlgorithm,
    service: ServiceId,
    links: Vec<Link>,
    packages: HashMap<String, usize>,
    reports: HashMap<String, usize>,
    contents: HashMap<String, usize>,
    applied: HashSet<String>,
    /// Ids under which another package was submitted once theirs was deleted, and which have no receipt in this chain.
    again: HashMap<String, Timestamp>,
}

struct Link {
    seq: u64,
    hash: String,
    metadata_hash: String,
    status: &'static str,
    package_id: String,
    processed_at: Timestamp,
    seen: bool,
}

impl Ledger {
    /// No receipts yet.
    pub fn new(algorithm: HashAlgorithm, service: ServiceId) -> Self {
        Self {
            algorithm,
            service,
            links: Vec::new(),
            packages: HashMap::new(),
            reports: HashMap::new(),
            contents: HashMap::new(),
            applied: HashSet::new(),
            again: HashMap::new(),
        }
    }

    /// Takes down a receipt whose root was checked. `extra` is in no root: its form is checked here, its ids when the report is read.
    pub fn note(&mut self, receipt: Receipt) -> Result<(), Mismatch> {
        let Receipt {
            hash,
            service_id: _,
            entry_type,
            seq,
            prev_root: _,
            new_root: _,
            status,
            processed_at,
            metadata_hash,
            extra,
        } = receipt;
        let at = self.links.len();
        let package_id = match entry_type {
            EntryType::Package if extra.is_some() => {
                return Err(Mismatch { seq: Some(seq), problem: "extra belongs to receipts of reports alone".into() });
            }
            EntryType::Package => {
                self.packages.insert(hash.clone(), at);
                // An id may be used again once its record was deleted: what became of that one is not this one's.
                self.applied.remove(&hash);
                hash.clone()
            }
            EntryType::Report => {
                let Some((package_id, report_id)) = extra.as_ref().and_then(named) else {
                    return Err(Mismatch { seq: Some(seq), problem: "extra is not {package_id, report_id}".into() });
                };
                self.reports.entry(report_id).or_insert(at);
                self.contents.insert(metadata_hash.clone(), at);
                self.applied.insert(package_id.clone());
                package_id
            }
        };
        let status = status.as_str();
        self.links.push(Link { seq, hash, metadata_hash, status, package_id, processed_at, seen: false });
        Ok(())
    }

    /// Checks a package as the server lists it. One without a receipt here was submitted after the receipts were read.
    pub fn package(&mut self, package: &Value) -> Result<(), Mismatch> {
        let id = text(package, "id");
        let Some(link) = self.packages.get(id).and_then(|at| self.links.get_mut(*at)) else { return Ok(()) };
        link.seen = true;
        let found = hash_of(self.algorithm, package, link.status);
        link.fits(found == link.metadata_hash, || format!("metadata_hash is not the hash of package {id}"))?;
        // A package goes on from the status of its receipt; where it ends is in the receipt of its report.
        let status = text(package, "status");
        let applied = !self.applied.contains(id) || status == PackageStatus::Applied.as_str();
        link.fits(applied, || format!("package {id} is {status}, and its report has a receipt"))
    }

    /// Checks a report as the server lists it: it is known by its id in `extra`, and by its content.
    pub fn report(&mut self, report: &Value) -> Result<(), Mismatch> {
        let id = text(report, "id");
        let content = hash_of(self.algorithm, report, text(report, "status"));
        let (named, meant) = (self.reports.get(id).copied(), self.contents.get(&content).copied());
        let Some(at) = meant.or(named) else { return Ok(()) };
        let Some(link) = self.links.get_mut(at) else { return Ok(()) };
        link.seen = true;
        let whole = meant.is_some() || hash_of(self.algorithm, report, link.status) == link.metadata_hash;
        link.fits(whole, || format!("metadata_hash is not the hash of report {id}"))?;
        let status = text(report, "status");
        link.fits(status == link.status, || format!("report {id} is {status}, its receipt says {}", link.status))?;
        let ids = named == Some(at) && text(report, "package_id") == link.package_id;
        link.fits(ids, || format!("extra does not name report {id} of package {}", text(report, "package_id")))?;
        let output = text(report, "refine_output_hash") == link.hash;
        link.fits(output, || format!("hash is not the refine_output_hash of report {id}"))
    }

    /// Of a page of packages or reports and the receipts that came with it, in the same order, none where the server sends none: the
    /// records to be asked for by themselves, as records come and go meanwhile.
    pub fn suspects(&self, records: &[Value], receipts: Option<&[Value]>) -> Result<Suspects, Mismatch> {
        let known: Vec<Option<&Link>> = records.iter().map(|record| self.link_of(text(record, "id"))).collect();
        let Some(receipts) = receipts else {
            let possible = known.into_iter().flatten().map(Link::wanted).collect();
            return Ok(Suspects { seeming: Vec::new(), possible });
        };
        let seqs: Vec<Option<u64>> = receipts.iter().map(seq_of).collect();
        let whole = seqs.len() == records.len();
        if whole {
            // Each receipt is the one of the record at its place.
            records.iter().zip(&seqs).try_for_each(|(record, seq)| self.stranger(text(record, "id"), *seq))?;
        }
        // Where a record came without one, they still come in the order of the records, each once.
        let mut rest = known.iter().flatten().map(|link| link.seq);
        let strange = !whole && !seqs.iter().flatten().all(|seq| !self.reaches(*seq) || rest.any(|next| next == *seq));
        let mut suspects = Suspects::default();
        for (at, link) in known.iter().enumerate() {
            let Some(link) = link else {
                suspects.seeming.extend(strange.then(|| Wanted::stranger(&records[at])));
                continue;
            };
            let fits = if whole { seqs[at] == Some(link.seq) } else { seqs.contains(&Some(link.seq)) };
            // In that order, a receipt can have moved no further than onto a stranger next to its record.
            let beside =
                [at.checked_sub(1), Some(at + 1)].into_iter().flatten().any(|at| matches!(known.get(at), Some(None)));
            if strange || !fits {
                suspects.seeming.push(link.wanted());
            } else if !whole && beside {
                suspects.possible.push(link.wanted());
            }
        }
        Ok(suspects)
    }

    /// How many applied reports of a page have no receipt, as far as the receipts that came with it say.
    pub fn bare(&self, reports: &[Value], receipts: Option<&[Value]>) -> u64 {
        let bare = |report: &&Value| {
            text(report, "status") == PackageStatus::Applied.as_str() && self.link_of(text(report, "id")).is_none()
        };
        // Those that were applied since the chain was read have theirs behind its end.
        let later = receipts.into_iter().flatten().filter_map(seq_of).filter(|seq| !self.reaches(*seq)).count();
        reports.iter().filter(bare).count().saturating_sub(later) as u64
    }

    /// A record that the chain does not know came after it was read, with its receipt, or has none. Receipts never change hands.
    fn stranger(&self, id: &str, given: Option<u64>) -> Result<(), Mismatch> {
        match given.filter(|seq| self.link_of(id).is_none() && self.reaches(*seq)) {
            Some(_) => {
                Err(Mismatch { seq: given, problem: format!("this receipt is given for {id}, which it does not name") })
            }
            None => Ok(()),
        }
    }

    /// Whether the chain had a receipt of this seq when it was read.
    fn reaches(&self, seq: u64) -> bool {
        (1..=self.links.len() as u64).contains(&seq)
    }

    /// The records of the last receipts that were not seen, newest first, at most so many.
    pub fn missing(&self, most: usize) -> Vec<Wanted> {
        self.links.iter().rev().filter(|link| !link.seen).take(most).map(Link::wanted).collect()
    }

    /// Checks a record that was asked for by itself, with the receipt that the server gives for it.
    pub fn answered(&mut self, wanted: &Wanted, record: &Value, receipt: Option<&Value>) -> Result<(), Mismatch> {
        if wanted.report { self.report(record) } else { self.package(record) }?;
        let id = text(record, "id");
        let Some(link) = self.link_of(id) else {
            if wanted.seq.is_none() {
                return self.stranger(id, receipt.and_then(seq_of));
            }
            if self.is_used_again(wanted) {
                return Ok(());
            }
            let problem =
                format!("the report of package {} is {id}, which is not the one of this receipt", wanted.package_id);
            return Err(Mismatch { seq: wanted.seq, problem });
        };
        let own = receipt.and_then(seq_of) == Some(link.seq);
        link.fits(own, || format!("this is the receipt of {id}, for which the server gives another or none"))
    }

    /// Whether the package's id was used again after this receipt.
    pub fn is_used_again(&self, wanted: &Wanted) -> bool {
        let at = wanted.seq.and_then(|seq| usize::try_from(seq).ok()?.checked_sub(1));
        let made = at.and_then(|at| self.links.get(at)).map(|link| link.processed_at);
        // A receipt that was made after that is of this use.
        let again = self.again.get(&wanted.package_id);
        again.is_some_and(|created_at| made.is_none_or(|made| made < *created_at))
            || self.seq_of_package(&wanted.package_id) > wanted.seq
    }

    /// Whether this record, which does not fit what is wanted, may be of another package with the same id.
    pub fn may_be_another(&self, wanted: &Wanted, record: &Value) -> bool {
        let content = || hash_of(self.algorithm, record, text(record, "status"));
        !wanted.report || !(self.reports.contains_key(text(record, "id")) || self.contents.contains_key(&content()))
    }

    /// Whether a package that does not fit the receipt of its id, or of the report of its id, is another one: it has no receipt in the chain
    /// that was read, and was created when the one before it, which counts as gone, can have been deleted. `found` is it with its receipt,
    /// read before its `report`.
    pub fn used_again(&mut self, found: &Value, report: Option<&Value>, now: Timestamp) -> bool {
        let ours = found.get("receipt").filter(|receipt| text(receipt, "service_id") == self.service.as_str());
        if ours.and_then(seq_of).is_some_and(|seq| self.reaches(seq)) {
            return false;
        }
        let Some(package) = found.get("package") else { return false };
        let id = text(package, "id");
        if self.again.contains_key(id) {
            return true;
        }
        let reported = || self.links.iter().rposition(|link| link.package_id == id);
        let known = self.packages.get(id).copied().or_else(reported);
        let Some(link) = known.and_then(|at| self.links.get_mut(at)) else { return false };
        let Some(created_at) = created_at_of(package) else { return false };
        let later = if link.is_report() {
            // A report may come long after its package, and go at once: nothing but the order is known.
            created_at > link.processed_at
        } else {
            created_at >= link.processed_at.plus_seconds(KEPT_SECONDS - CLOCK_SECONDS)
        };
        let possible = later && created_at <= now.plus_seconds(CLOCK_SECONDS);
        // Reports leave together with their packages: where an older one is there, its package can't have been deleted.
        let own = |at: Timestamp| created_at <= at.plus_seconds(CLOCK_SECONDS);
        if !possible || report.is_some_and(|report| !created_at_of(report).is_some_and(own)) {
            return false;
        }
        link.seen = false;
        self.again.insert(id.to_owned(), created_at);
        self.packages.remove(id);
        true
    }

    /// How many ids were used again without a receipt in the chain that was read.
    pub fn ids_used_again(&self) -> usize {
        self.again.len()
    }

    /// The seq of a report's own receipt.
    pub fn seq_of_report(&self, id: &str) -> Option<u64> {
        self.reports.get(id).and_then(|at| self.links.get(*at)).map(|link| link.seq)
    }

    /// The seq of a package's receipt.
    pub fn seq_of_package(&self, id: &str) -> Option<u64> {
        self.packages.get(id).and_then(|at| self.links.get(*at)).map(|link| link.seq)
    }

    fn link_of(&self, id: &str) -> Option<&Link> {
        self.packages.get(id).or_else(|| self.reports.get(id)).and_then(|at| self.links.get(*at))
    }

    /// Receipts whose record the server no longer lists: retention archives and deletes records, never receipts.
    pub fn unseen(&self) -> usize {
        self.links.iter().filter(|link| !link.seen).count()
    }
}

impl Link {
    fn is_report(&self) -> bool {
        self.hash != self.package_id
    }

    fn wanted(&self) -> Wanted {
        Wanted { seq: Some(self.seq), package_id: self.package_id.clone(), report: self.is_report() }
    }

    fn fits(&self, fits: bool, problem: impl FnOnce() -> String) -> Result<(), Mismatch> {
        if fits { Ok(()) } else { Err(Mismatch { seq: Some(self.seq), problem: problem() }) }
    }
}

impl Wanted {
    fn stranger(record: &Value) -> Self {
        let package = record.get("package_id").and_then(Value::as_str);
        Self { seq: None, package_id: package.unwrap_or(text(record, "id")).to_owned(), report: package.is_some() }
    }
}

/// The ids in a report's `extra`, when it has these two fields and no other.
fn named(extra: &Value) -> Option<(String, String)> {
    let fields = extra.as_object().filter(|fields| fields.len() == 2)?;
    let id = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
    Some((id("package_id")?, id("report_id")?))
}

/// The hash of a record as it was when it got its receipt: with the status that the receipt names.
fn hash_of(algorithm: HashAlgorithm, record: &Value, status: &str) -> String {
    let mut record = record.clone();
    if let Some(fields) = record.as_object_mut() {
        fields.insert("status".into(), status.into());
    }
    hex::encode(algorithm.hash(&canonical::bytes(&record)))
}

fn created_at_of(record: &Value) -> Option<Timestamp> {
    text(record, "created_at").parse().ok()
}

fn seq_of(receipt: &Value) -> Option<u64> {
    receipt.get("seq").and_then(Value::as_u64)
}

/// A field that is a text.
pub fn text<'v>(record: &'v Value, field: &str) -> &'v str {
    record.get(field).and_then(Value::as_str).unwrap_or_default()
}
