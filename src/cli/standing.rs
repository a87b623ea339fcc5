//! Where packages stand: their statuses, reports and attestations, as two lists tell them that were read one after the other.

use std::collections::HashMap;

use jam_domain::attestation::{LOCAL_WORKER, Proof, proof};
use jam_domain::{Attestation, HashAlgorithm, PackageStatus};
use serde_json::Value;

use crate::cli::records::{Mismatch, text};

/// A package of which the lists don't tell one story. They were read at different moments: each is to be asked for by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// The seq of its receipt, if it has one.
    pub seq: Option<u64>,
    /// The package.
    pub package_id: String,
    /// The seq of its report's receipt.
    report_seq: Option<u64>,
    /// Its report, when that was listed, and it was not.
    reported: Option<String>,
    /// What its report was listed as, where nothing else is wrong with that.
    listed: Option<PackageStatus>,
}

impl Doubt {
    /// Whether the package, asked for by itself, has moved on to what its report was listed as.
    pub fn moved_on(&self, package: &Value) -> bool {
        let now = status_of(package);
        self.listed.is_some_and(|report| now.is_some_and(|package| fits(package, Some(report))))
    }
}

/// One package, asked for by itself: before its report, its report, and after it.
pub struct Asked<'v> {
    /// The package; none when it is not there.
    pub before: Option<&'v Value>,
    /// `{report, attestations}`; none when there is no report.
    pub bundle: Option<&'v Value>,
    /// Whether the server says why it is disputed without a report.
    pub reason: bool,
    /// The package again.
    pub after: Option<&'v Value>,
}

/// What was found of attestations.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Of the worker in the server, with a signature over every field.
    pub proven: u64,
    /// Of further workers, whose signatures nobody here can read, or of older releases.
    pub unproven: u64,
    /// Reports that came without their attestations.
    pub unlisted: u64,
    /// Applied reports whose attestations weigh less than the threshold that is in force now.
    pub light: u64,
    /// The seq of the first of these.
    pub lightest_seq: Option<u64>,
}

/// The packages of a chain, and those that are listed beside it: a chain has none of the time when accumulators were off.
pub struct Standing {
    algorithm: HashAlgorithm,
    threshold: Option<u64>,
    places: HashMap<String, Place>,
    tally: Tally,
}

#[derive(Default)]
struct Place {
    seq: Option<u64>,
    package: Option<PackageStatus>,
    report: Option<PackageStatus>,
    report_seq: Option<u64>,
    /// The report, of a package that was not listed.
    reported: Option<String>,
    doubted: bool,
}

impl Standing {
    /// No package yet; the threshold is the one that the server names now.
    pub fn new(algorithm: HashAlgorithm, threshold: Option<u64>) -> Self {
        Self { algorithm, threshold, places: HashMap::new(), tally: Tally::default() }
    }

    /// Takes down a package that got this receipt.
    pub fn note(&mut self, package_id: &str, seq: u64) {
        self.places.insert(package_id.to_owned(), Place { seq: Some(seq), ..Place::default() });
    }

    /// Takes down where a listed package stands.
    pub fn package(&mut self, package: &Value) {
        self.places.entry(text(package, "id").to_owned()).or_default().package = status_of(package);
    }

    /// Takes down where a listed report stands, and looks at what was said for it; `seq` is that of the report's receipt.
    pub fn report(&mut self, report: &Value, attestations: Option<&Value>, seq: Option<u64>) {
        let place = self.places.entry(text(report, "package_id").to_owned()).or_default();
        (place.report, place.report_seq) = (status_of(report), seq);
        place.reported = place.package.is_none().then(|| text(report, "id").to_owned());
        let Some(attestations) = attestations else {
            self.tally.unlisted += 1;
            return;
        };
        match words(self.algorithm, report, attestations) {
            Err(_) => place.doubted = true,
            Ok(Words { proven, unproven, weight }) => {
                self.tally.proven += proven;
                self.tally.unproven += unproven;
                if let Some(seq) = seq
                    && self.threshold.is_some_and(|threshold| weight < threshold)
                {
                    self.tally.light += 1;
                    self.tally.lightest_seq = Some(self.tally.lightest_seq.map_or(seq, |first| first.min(seq)));
                }
            }
        }
    }

    /// The packages in doubt, by seq; of those that are only to be asked why they are disputed, so many of the last.
    pub fn doubts(&self, most: usize) -> Vec<Doubt> {
        let (mut doubts, mut disputed) = (Vec::new(), Vec::new());
        for (package_id, Place { seq, package, report, report_seq, reported, doubted }) in &self.places {
            // One that was listed itself may be archived before it is asked for.
            let (package_id, reported) = (package_id.clone(), reported.clone());
            let listed = report.filter(|_| !doubted);
            let doubt = || Doubt { seq: *seq, package_id, report_seq: *report_seq, reported, listed };
            match (package, report) {
                (None, None) => {}
                (Some(PackageStatus::Disputed), None) => disputed.push(doubt()),
                (Some(package), report) if fits(*package, *report) && !doubted => {}
                (None | Some(_), _) => doubts.push(doubt()),
            }
        }
        disputed.sort_by_key(|doubt| std::cmp::Reverse(doubt.seq));
        doubts.extend(disputed.into_iter().take(most));
        // What stands in the chain first: its place is known.
        doubts.sort_by_key(|doubt| (doubt.seq.is_none(), doubt.seq));
        doubts
    }

    /// Whether there is something wrong with a package in doubt. One that moved on meanwhile is let go.
    pub fn settle(&mut self, doubt: &Doubt, asked: &Asked<'_>) -> Result<(), Mismatch> {
        let Doubt { seq, package_id, report_seq, reported, listed: _ } = doubt;
        let wrong = |problem: String| Err(Mismatch { seq: *seq, problem });
        let Asked { before, bundle, reason, after } = asked;
        let Some(package) = before else {
            // Reports leave the lists together with their packages.
            return match reported {
                Some(report) if after.is_none() => {
                    wrong(format!("package {package_id} is not there, and its report is: {report}"))
                }
                Some(_) | None => Ok(()),
            };
        };
        let Some(status) = status_of(package).filter(|status| after.and_then(status_of) == Some(*status)) else {
            return Ok(());
        };
        let report = bundle.and_then(|bundle| bundle.get("report"));
        let stands = report.and_then(status_of);
        if !fits(status, stands) {
            let found = stands.map_or("it has no report".to_owned(), |report| format!("its report is {report}"));
            return wrong(format!("package {package_id} is {status}, and {found}"));
        }
        let Some(report) = report else {
            return if status == PackageStatus::Disputed && !reason {
                wrong(format!("package {package_id} is disputed, and nothing says why"))
            } else {
                Ok(())
            };
        };
        let none = Value::Null;
        let attestations = bundle.and_then(|bundle| bundle.get("attestations")).unwrap_or(&none);
        let Words { proven, unproven, weight: _ } = words(self.algorithm, report, attestations)
            .map_err(|problem| Mismatch { seq: report_seq.or(*seq), problem })?;
        self.tally.proven += proven;
        self.tally.unproven += unproven;
        Ok(())
    }

    /// What was found of attestations.
    pub fn tally(&self) -> Tally {
        self.tally
    }
}

/// Whether a package of this status has a report of this one.
fn fits(package: PackageStatus, report: Option<PackageStatus>) -> bool {
    match package {
        PackageStatus::Pending => report.is_none(),
        PackageStatus::Refined | PackageStatus::Applied => report == Some(package),
        // By a refiner without a report, by workers with one.
        PackageStatus::Disputed => report.is_none_or(|report| report == package),
    }
}

/// What was said for one report.
#[derive(Debug, Default)]
struct Words {
    proven: u64,
    unproven: u64,
    weight: u64,
}

/// Looks at what was said for a report, and says what is wrong with it.
fn words(algorithm: HashAlgorithm, report: &Value, attestations: &Value) -> Result<Words, String> {
    let id = text(report, "id");
    let said: Vec<Attestation> = serde_json::from_value(attestations.clone())
        .map_err(|why| format!("the attestations of report {id} can't be read: {why}"))?;
    // What a worker says who got another output is nobody else's word: its report has no output but the hash.
    let own = !text(report, "refine_output_compact").is_empty();
    if !said.iter().any(|word| !own || word.worker_id == LOCAL_WORKER) {
        return Err(format!("report {id} lacks the attestation of the worker that refined it"));
    }
    let mut found = Words::default();
    for word in &said {
        if word.report_id.to_string() != id {
            return Err(format!("an attestation of report {id} names report {}", word.report_id));
        }
        found.weight += u64::from(word.weight);
        let proven = if own && word.worker_id == LOCAL_WORKER { proof(algorithm, report, word) } else { Proof::Older };
        match proven {
            Proof::Whole => found.proven += 1,
            Proof::Older => found.unproven += 1,
            Proof::Nothing => {
                return Err(format!(
                    "the attestation of worker {LOCAL_WORKER} does not fit report {id}: a field of one of the two was changed"
                ));
            }
        }
    }
    Ok(found)
}

fn status_of(record: &Value) -> Option<PackageStatus> {
    text(record, "status").parse().ok()
}

#[cfg(test)]
mod tests {
    use jam_domain::refine::Engine;
    use jam_domain::{ReportId, Timestamp, WorkReport};
    use serde_json::json;

    use super::*;

    const ALGORITHM: HashAlgorithm = HashAlgorithm::Sha256;

    #[test]
    fn an_attestation_that_names_another_report_is_found() {
        let report: WorkReport = serde_json::from_value(json!({
            "id": "01890a5d-ac96-774b-bcce-b302099a8059", "package_id": "01890a5d-ac96-774b-bcce-b302099a8057",
            "service_id": "s", "refine_output_hash": "ab", "refine_output_compact": "q6ur",
            "created_at": "2026-01-31T12:00:01.000001Z", "status": "refined",
        }))
        .unwrap();
        let engine = Engine::hash_refiner(ALGORITHM, 1, true);
        let mut said = vec![engine.attestors[0].attest(&report, Timestamp::from_micros(1))];
        let judged = |said: &[Attestation]| words(ALGORITHM, &json!(report), &json!(said)).map(|words| words.proven);
        assert_eq!(judged(&said), Ok(1));
        said.push(Attestation { report_id: ReportId::new(), worker_id: "w".into(), ..said[0].clone() });
        assert!(judged(&said).unwrap_err().contains(" names report "));
        assert!(judged(&[]).unwrap_err().contains(" lacks the attestation "));
    }

    #[test]
    fn a_status_needs_its_report() {
        use PackageStatus::{Applied, Disputed, Pending, Refined};
        let all = || [None].into_iter().chain(PackageStatus::ALL.map(Some));
        let fitting: Vec<_> = PackageStatus::ALL
            .into_iter()
            .flat_map(|package| all().map(move |report| (package, report)))
            .filter(|(package, report)| fits(*package, *report))
            .collect();
        let some = [(Refined, Some(Refined)), (Disputed, None), (Disputed, Some(Disputed)), (Applied, Some(Applied))];
        assert_eq!(fitting, [&[(Pending, None)][..], &some].concat());
    }

    #[test]
    fn a_package_that_moves_on_while_it_is_looked_at_is_asked_for_once_and_may_be_archived() {
        let package = |status: &str| json!({"id": "p", "status": status});
        let doubts = |listed: Option<&Value>| {
            let mut standing = Standing::new(ALGORITHM, None);
            standing.note("p", 1);
            if let Some(package) = listed {
                standing.package(package);
            }
            standing.report(&json!({"package_id": "p", "status": "applied"}), None, Some(2));
            let doubt = standing.doubts(50).remove(0);
            let gone = Asked { before: None, bundle: None, reason: false, after: None };
            (doubt.moved_on(&package("applied")), doubt.moved_on(&package("pending")), standing.settle(&doubt, &gone))
        };
        assert_eq!(doubts(Some(&package("pending"))), (true, false, Ok(())), "its report came between the two lists");
        let (_, _, missing) = doubts(None);
        assert!(missing.unwrap_err().problem.contains("is not there, and its report is"));
    }
}
