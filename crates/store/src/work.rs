//! What both stores do with a package before any state is touched: refine it, name what it refers to, and what is told.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use jam_domain::event::{Fact, Link};
use jam_domain::refine::{Attested, Engine, RefineFault};
use jam_domain::{PackageStatus, PreimageHash, Timestamp, WorkPackage, WorkReport};

/// Where a store reads the time that it writes itself; a test passes its own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The clock of the machine.
pub fn machine_clock() -> Clock {
    Arc::new(Timestamp::now)
}

/// Refines and attests one package, or says why it can't be.
///
/// A refiner that panics disputes its package: left pending, the package would stop the queue behind it for ever.
pub(crate) fn work(engine: &Engine, package: &WorkPackage, now: Timestamp) -> Result<Attested, String> {
    match catch_unwind(AssertUnwindSafe(|| engine.work(package, now))) {
        Ok(Ok(attested)) => Ok(attested),
        Ok(Err(RefineFault(reason))) => Err(reason),
        Err(_) => Err("the refiner panicked".into()),
    }
}

/// What is told of a new report, with the number of its receipt.
pub(crate) fn reported(report: &WorkReport, receipt: Option<u64>) -> Fact {
    let (service, package) = (report.service_id.clone(), report.package_id);
    match report.status {
        PackageStatus::Applied => Fact::Worked(service, package, report.id, link(report, receipt)),
        PackageStatus::Pending | PackageStatus::Refined | PackageStatus::Disputed => {
            Fact::Refined(service, package, report.id)
        }
    }
}

/// What is told of a report that a further attestation accumulated.
pub(crate) fn applied(report: &WorkReport, receipt: Option<u64>) -> Fact {
    Fact::Applied(report.service_id.clone(), report.package_id, report.id, link(report, receipt))
}

fn link(report: &WorkReport, receipt: Option<u64>) -> Option<Link> {
    receipt.map(|seq| Link(seq, report.refine_output_hash.clone()))
}

/// The first field of a package that names this preimage.
pub(crate) fn field_of(package: &WorkPackage, hash: &PreimageHash) -> String {
    let names = |hashes: &Option<Vec<PreimageHash>>| hashes.iter().flatten().any(|named| named == hash);
    let item = package.items.iter().position(|item| names(&item.preimage_hashes));
    match item.filter(|_| !names(&package.preimage_hashes)) {
        Some(at) => format!("items[{at}].preimage_hashes"),
        None => "preimage_hashes".into(),
    }
}

/// Every preimage that the package or one of its items refers to, once, in the order in which stores lock them.
pub(crate) fn preimages_of(package: &WorkPackage) -> BTreeSet<PreimageHash> {
    let of_items = package.items.iter().filter_map(|item| item.preimage_hashes.as_ref());
    package.preimage_hashes.iter().chain(of_items).flatten().copied().collect()
}
