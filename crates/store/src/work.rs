//! What both stores do with a package before any state is touched: refine it, and name what it refers to.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use jam_domain::refine::{Attested, Engine, RefineFault};
use jam_domain::{PreimageHash, Timestamp, WorkPackage};

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

/// Every preimage that the package or one of its items refers to, once, in the order in which stores lock them.
pub(crate) fn preimages_of(package: &WorkPackage) -> BTreeSet<PreimageHash> {
    let of_items = package.items.iter().filter_map(|item| item.preimage_hashes.as_ref());
    package.preimage_hashes.iter().chain(of_items).flatten().copied().collect()
}
