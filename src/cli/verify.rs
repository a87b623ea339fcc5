//! `jam verify`: recomputes a service's receipt chain from what the server stores, and compares the records it was made for and
//! what was said for them.

use std::fmt::Write as _;

use jam_domain::receipt::{Chain, verify_next};
use jam_domain::{AccumulatorRoot, Code, EntryType, HashAlgorithm, Receipt, ServiceId, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::cli::answer::Answer;
use crate::cli::args::VerifyArgs;
use crate::cli::client::{Call, Client};
use crate::cli::fault::Fault;
use crate::cli::lists::{MAX_LIMIT, Pages, Query, Unread};
use crate::cli::named::Named;
use crate::cli::records::{Ledger, Mismatch, Suspects, Wanted, text};
use crate::cli::standing::{Asked, Doubt, Standing, Tally};
use crate::cli::status;

/// `jam verify`. Reads the head first: links that are added meanwhile come after it and are checked too. The records come last, so that
/// each was there when its receipt was read.
pub async fn run(client: &Client, args: VerifyArgs) -> Result<Answer, Fault> {
    let VerifyArgs { service, preimages } = args;
    let status = status::read(client, Some(service.to_string())).await?;
    if status.get("accumulators_enabled") == Some(&Value::Bool(false)) {
        return Err(Fault::not_found("the server keeps no receipts: JAM_ACCUMULATORS_ENABLED is false there"));
    }
    let algorithm: HashAlgorithm = field(&status, "accumulator_hash")?;
    let head = match field(&status, "accumulator_root")? {
        Some(head) => head,
        None => match late_head(client, &service).await? {
            Ok(head) => head,
            Err(problem) => return Ok(broken(service, algorithm, problem)),
        },
    };
    let threshold = status.get("attestation_threshold").and_then(Value::as_u64);
    let (chain, ledger) = (Chain::empty(service.clone()), Ledger::new(algorithm, service.clone()));
    let mut walk = Walk {
        client,
        algorithm,
        chain,
        ledger,
        standing: Standing::new(algorithm, threshold),
        head,
        named: preimages.then(Named::default),
        unsaid: Unsaid::default(),
    };
    match walk.whole(&service).await? {
        Ok(()) => Ok(sound(&service, &walk)),
        Err(problem) => Ok(broken(service, algorithm, problem)),
    }
}

/// The head of a service that had none: it has no receipts, got its first one just now, or has them without a head.
async fn late_head(client: &Client, service: &ServiceId) -> Result<Result<AccumulatorRoot, Problem>, Fault> {
    let filters = vec![("service_id", Some(service.to_string()))];
    let last = Pages::new(client, Query { name: "receipts", filters }, 1, 0).next_page().await?;
    let Some(last) = last.and_then(|page| page.items.into_iter().next()) else {
        return Err(Fault::not_found(format!("service {service} has no receipts")));
    };
    let status = status::read(client, Some(service.to_string())).await?;
    Ok(field::<Option<AccumulatorRoot>>(&status, "accumulator_root")?.ok_or_else(|| {
        let reached = last.get("seq").and_then(Value::as_u64).unwrap_or_default();
        let text = format!("the head is missing: the server has a receipt with seq {reached} and no root of the chain");
        Problem { verified: 0, text }
    }))
}

/// How many of the records that are not listed are looked for, the last ones first: retention takes the oldest. As many of each list are
/// asked for by themselves where it does not say whose the receipts are.
const LOOKED_FOR: usize = 50;

/// A chain being checked.
struct Walk<'c> {
    client: &'c Client,
    algorithm: HashAlgorithm,
    chain: Chain,
    ledger: Ledger,
    standing: Standing,
    head: AccumulatorRoot,
    /// What packages name, where it is to be read.
    named: Option<Named>,
    unsaid: Unsaid,
}

/// What lists don't say of receipts.
#[derive(Default)]
struct Unsaid {
    /// Records whose receipts were not compared.
    uncompared: usize,
    /// Whether that is because the server answers with bare arrays.
    bare_arrays: bool,
    /// Applied reports without a receipt.
    bare_reports: u64,
}

/// Where a chain breaks.
struct Problem {
    /// The receipts before it.
    verified: u64,
    text: String,
}

impl Walk<'_> {
    fn located(&self, Mismatch { seq, problem }: Mismatch) -> Problem {
        match seq {
            Some(seq) => Problem { verified: seq.saturating_sub(1), text: format!("seq {seq}: {problem}") },
            // Beside the chain, which is whole.
            None => Problem { verified: self.chain.seq(), text: problem },
        }
    }

    /// Checks the links, then what they were given for; the inner error says where it breaks.
    async fn whole(&mut self, service: &ServiceId) -> Result<Result<(), Problem>, Fault> {
        if let Err(problem) = self.links(service).await? {
            return Ok(Err(problem));
        }
        for name in ["packages", "reports"] {
            if let Err(mismatch) = self.records(service, name).await? {
                return Ok(Err(self.located(mismatch)));
            }
        }
        // What stands under another service is not in the lists of this one.
        let missing = self.ledger.missing(LOOKED_FOR);
        if let Err(mismatch) = self.one_by_one(missing).await? {
            return Ok(Err(self.located(mismatch)));
        }
        for doubt in self.standing.doubts(LOOKED_FOR) {
            let settled = match self.settled(&doubt).await {
                Err(fault) if fault.is_internal() => Err(unreadable(doubt.seq, &doubt.package_id)),
                settled => settled?,
            };
            if let Err(mismatch) = settled {
                return Ok(Err(self.located(mismatch)));
            }
        }
        let Some(named) = &self.named else { return Ok(Ok(())) };
        Ok(named.compare(self.client).await?.map_err(|mismatch| self.located(mismatch)))
    }

    /// Compares a list of records, page by page.
    async fn records(&mut self, service: &ServiceId, name: &'static str) -> Result<Result<(), Mismatch>, Fault> {
        let asked = |flag: &'static str| (flag, Some("true".to_owned()));
        let mut filters = vec![("service_id", Some(service.to_string())), asked("include_receipt")];
        filters.extend((name == "reports").then(|| asked("include_attestations")));
        let mut pages = Pages::new(self.client, Query { name, filters }, MAX_LIMIT, 0);
        let mut left = LOOKED_FOR;
        loop {
            let page = match pages.next_located().await? {
                Ok(Some(page)) => page,
                Ok(None) => return Ok(Ok(())),
                Err(unread) => return Ok(Err(Mismatch { seq: None, problem: unread_in(name, &unread) })),
            };
            for (at, record) in page.items.iter().enumerate() {
                let said = page.attestations.as_ref().and_then(|said| said.get(at));
                let fits = self.listed(name, record, said).await?;
                if fits.is_err() {
                    return Ok(fits);
                }
            }
            let given = page.receipts.as_deref();
            if name == "reports" {
                self.unsaid.bare_reports += self.ledger.bare(&page.items, given);
            }
            let Suspects { seeming, mut possible } = match self.ledger.suspects(&page.items, given) {
                Ok(suspects) => suspects,
                Err(mismatch) => return Ok(Err(mismatch)),
            };
            let asked = possible.len().min(left);
            left -= asked;
            self.unsaid.uncompared += possible.len() - asked;
            self.unsaid.bare_arrays |= page.bare;
            possible.truncate(asked);
            let fits = self.one_by_one(seeming.into_iter().chain(possible)).await?;
            if fits.is_err() {
                return Ok(fits);
            }
        }
    }

    /// Compares a record as it is listed, with what was said for it.
    async fn listed(
        &mut self,
        name: &str,
        record: &Value,
        said: Option<&Value>,
    ) -> Result<Result<(), Mismatch>, Fault> {
        let id = text(record, "id");
        if name == "reports" {
            self.standing.report(record, said, self.ledger.seq_of_report(id));
            return Ok(self.ledger.report(record));
        }
        self.standing.package(record);
        let seq = self.ledger.seq_of_package(id);
        self.named.iter_mut().for_each(|named| named.note(record, seq));
        Ok(match self.ledger.package(record) {
            Err(_) if self.used_again(id).await? => Ok(()),
            fits => fits,
        })
    }

    /// Whether the package with this id is another one than that of the receipt.
    async fn used_again(&mut self, package_id: &str) -> Result<bool, Fault> {
        let path = ["jam", "packages", package_id, "report"];
        let Ok(found) = self.found(&path[..3]).await? else { return Ok(false) };
        let bundle = match self.found(&path).await {
            Err(fault) if fault.is_internal() => return Ok(false),
            asked => asked?.ok(),
        };
        let report = bundle.as_ref().and_then(|bundle| bundle.get("report"));
        Ok(self.ledger.used_again(&found, report, Timestamp::now()))
    }

    /// What is there under this path; nothing, and what the server says of that, when it is not there.
    async fn found(&self, path: &[&str]) -> Result<Result<Value, Option<Value>>, Fault> {
        match self.client.send(Call::get(path).include_receipt(true)).await {
            Ok(reply) => reply.json().map(Ok),
            Err(Fault::Refused(refused)) if refused.code == Code::NotFound.as_str() => Ok(Err(refused.details)),
            Err(fault) => Err(fault),
        }
    }

    async fn one_by_one(&mut self, records: impl IntoIterator<Item = Wanted>) -> Result<Result<(), Mismatch>, Fault> {
        for wanted in records {
            let (path, name) = (["jam", "packages", &wanted.package_id, "report"], ["package", "report"]);
            let found = match self.found(&path[..if wanted.report { 4 } else { 3 }]).await {
                Err(fault) if fault.is_internal() => return Ok(Err(unreadable(wanted.seq, &wanted.package_id))),
                asked => asked?,
            };
            let Ok(found) = found else { continue };
            let Some(record) = found.get(name[usize::from(wanted.report)]) else { continue };
            let Err(mismatch) = self.ledger.answered(&wanted, record, found.get("receipt")) else { continue };
            let another = self.ledger.may_be_another(&wanted, record);
            if !another || !self.used_again(&wanted.package_id).await? || !self.ledger.is_used_again(&wanted) {
                return Ok(Err(mismatch));
            }
        }
        Ok(Ok(()))
    }

    /// Asks for a package in doubt, for its report, and for the package again: what it was both times, it was with this report.
    async fn settled(&mut self, doubt: &Doubt) -> Result<Result<(), Mismatch>, Fault> {
        let path = ["jam", "packages", &doubt.package_id, "report"];
        let before = self.found(&path[..3]).await?;
        if package_in(&before).is_some_and(|package| doubt.moved_on(package)) {
            return Ok(Ok(()));
        }
        let report = self.found(&path).await?;
        let after = self.found(&path[..3]).await?;
        let reason =
            report.as_ref().is_err_and(|details| details.as_ref().is_some_and(|it| !text(it, "reason").is_empty()));
        let (before, after) = (package_in(&before), package_in(&after));
        Ok(self.standing.settle(doubt, &Asked { before, bundle: report.as_ref().ok(), reason, after }))
    }

    /// Checks link after link up to the head and beyond it.
    async fn links(&mut self, service: &ServiceId) -> Result<Result<(), Problem>, Fault> {
        let filters = vec![("service_id", Some(service.to_string())), ("order", Some("asc".into()))];
        let mut pages = Pages::new(self.client, Query { name: "receipts", filters }, MAX_LIMIT, 0);
        loop {
            let page = match pages.next_located().await? {
                Ok(Some(page)) => page,
                Ok(None) => break,
                Err(_) => {
                    let verified = self.chain.seq();
                    let text =
                        format!("after seq {verified}: the server can't read the next receipt; its log says why");
                    return Ok(Err(Problem { verified, text }));
                }
            };
            for value in page.items {
                if let Err(problem) = self.step(value) {
                    return Ok(Err(problem));
                }
            }
        }
        let (reached, head) = (self.chain.seq(), self.head.seq);
        Ok(if reached < head {
            let text = format!("the receipts end at seq {reached}, the server's root is at seq {head}");
            Err(Problem { verified: reached, text })
        } else {
            Ok(())
        })
    }

    fn step(&mut self, value: Value) -> Result<(), Problem> {
        let verified = self.chain.seq();
        let problem = |text: String| Problem { verified, text };
        let receipt: Receipt = serde_json::from_value(value)
            .map_err(|why| problem(format!("after seq {verified}: a receipt cannot be read: {why}")))?;
        verify_next(self.algorithm, &mut self.chain, &receipt).map_err(|found| problem(found.to_string()))?;
        let AccumulatorRoot { service_id: _, seq, root, updated_at } = &self.head;
        if self.chain.seq() == *seq && self.chain.root() != root {
            let computed = self.chain.root();
            return Err(problem(format!("seq {seq}: the server's root is {root}, the receipts give {computed}")));
        }
        if self.chain.seq() == *seq && receipt.processed_at != *updated_at {
            let made = receipt.processed_at;
            return Err(problem(format!(
                "seq {seq}: the server's root was updated at {updated_at}, the receipt at {made}"
            )));
        }
        if receipt.entry_type == EntryType::Package {
            self.standing.note(&receipt.hash, receipt.seq);
        }
        self.ledger.note(receipt).map_err(|mismatch| self.located(mismatch))
    }
}

fn unread_in(list: &str, Unread { after }: &Unread) -> String {
    let one = list.trim_end_matches('s');
    match after {
        Some(id) => format!("after {one} {id}, newest first: the server can't read the next {one}; its log says why"),
        None => format!("the server can't read the newest {one}; its log says why"),
    }
}

fn unreadable(seq: Option<u64>, package_id: &str) -> Mismatch {
    let problem = format!("the server can't read package {package_id} or its report; its log says why");
    Mismatch { seq, problem }
}

/// The package of an answer.
fn package_in(found: &Result<Value, Option<Value>>) -> Option<&Value> {
    found.as_ref().ok()?.get("package")
}

fn sound(service: &ServiceId, walk: &Walk<'_>) -> Answer {
    let Walk { client: _, algorithm, chain, ledger, standing, head: _, named, unsaid } = walk;
    let (count, root, gone, again) = (chain.seq(), chain.root(), ledger.unseen(), ledger.ids_used_again());
    let Unsaid { uncompared, bare_arrays, bare_reports } = unsaid;
    let Tally { proven, unproven, unlisted, light, lightest_seq } = standing.tally();
    let json = json!({
        "service_id": service, "verified": true, "receipts": count, "root": root, "accumulator_hash": algorithm,
        "records_gone": gone, "ids_used_again_without_receipts": again, "record_receipts_not_compared": uncompared,
        "applied_reports_without_receipts": bare_reports, "attestations_verified": proven, "attestations_not_covered": unproven,
        "reports_without_attestations": unlisted, "reports_below_threshold": light, "first_below_threshold": lightest_seq,
        "preimages_verified": named.as_ref().map(Named::count),
    });
    let receipts = if count == 1 { "1 receipt".to_owned() } else { format!("{count} receipts") };
    let mut said = format!("service {service}: {receipts} verified, root {root} ({algorithm})\n");
    if let Some(named) = named {
        let _ = writeln!(said, "preimages that their packages name, whose bytes were compared: {}", named.count());
    }
    if gone > 0 {
        let _ = writeln!(said, "{gone} of their packages and reports are no longer listed: those were not compared");
    }
    if again > 0 {
        let _ = writeln!(said, "ids used again without receipts: {again}, whose packages nothing in the chain covers");
    }
    if *uncompared > 0 {
        let why = if *bare_arrays { "the server answers with bare arrays" } else { "others beside them have none" };
        let _ = writeln!(said, "receipts of records not compared: {uncompared} ({why})");
    }
    if *bare_reports > 0 {
        let _ = writeln!(
            said,
            "applied reports without receipts: {bare_reports}; accumulators were off then, or they were applied by hand"
        );
    }
    if unlisted > 0 {
        let _ = writeln!(said, "reports that are listed without attestations, which were not compared: {unlisted}");
    }
    if unproven > 0 {
        let _ =
            writeln!(said, "attestations by other workers or older releases, whose fields nothing proves: {unproven}");
    }
    if let Some(seq) = lightest_seq {
        let _ = writeln!(
            said,
            "applied reports whose attestations weigh less than the threshold in force now: {light}, the first at seq {seq}; \
             it was lower then, an administrator accepted them, or attestations are gone"
        );
    }
    Answer::json(json).with_text(said).with_names(vec![root.to_owned()])
}

fn broken(service: ServiceId, algorithm: HashAlgorithm, problem: Problem) -> Answer {
    let Problem { verified, text: problem } = problem;
    let json = json!({
        "service_id": service, "verified": false, "receipts": verified, "accumulator_hash": algorithm, "problem": problem,
    });
    let text = format!("service {service}: {verified} receipts verified up to the break\n");
    Answer::json(json).with_text(text).with_fault(Fault::Chain { service, problem })
}

fn field<T: DeserializeOwned>(status: &Map<String, Value>, key: &str) -> Result<T, Fault> {
    serde_json::from_value(status.get(key).cloned().unwrap_or(Value::Null)).map_err(|why| Fault::Answer {
        call: "GET /jam/status".into(),
        problem: format!("{key} is not what this slctl knows: {why}"),
    })
}
