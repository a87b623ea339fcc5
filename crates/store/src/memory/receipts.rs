//! The receipt chains in memory, by service and seq, by time and by hash.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jam_domain::page::{Page, PageRequest, ReceiptCursor, ReceiptFilter, Start, Visible};
use jam_domain::receipt::Chain;
use jam_domain::{AccumulatorRoot, Receipt, ServiceId};

use super::index::newest;
use super::state::narrowed;

/// Every chain.
#[derive(Default)]
pub(super) struct Ledgers {
    chains: BTreeMap<ServiceId, Ledger>,
    by_time: BTreeSet<ReceiptCursor>,
    by_hash: HashMap<String, BTreeSet<ReceiptCursor>>,
}

struct Ledger {
    chain: Chain,
    /// The link with seq n is at n - 1.
    receipts: Vec<Receipt>,
    by_time: BTreeSet<ReceiptCursor>,
}

impl Ledgers {
    /// Hangs one link on the service's chain.
    pub(super) fn append(&mut self, service: &ServiceId, link: impl FnOnce(&mut Chain) -> Receipt) -> Receipt {
        let mut chain = self.chains.get(service).map_or_else(|| Chain::empty(service.clone()), |l| l.chain.clone());
        let receipt = link(&mut chain);
        let place = place_of(&receipt);
        self.by_time.insert(place.clone());
        self.by_hash.entry(receipt.hash.clone()).or_default().insert(place.clone());
        let ledger = self.chains.entry(service.clone()).or_insert_with(|| Ledger {
            chain: Chain::empty(service.clone()),
            receipts: Vec::new(),
            by_time: BTreeSet::new(),
        });
        ledger.chain = chain;
        ledger.by_time.insert(place);
        ledger.receipts.push(receipt.clone());
        receipt
    }

    /// One link.
    pub(super) fn receipt(&self, service: &ServiceId, seq: u64) -> Option<&Receipt> {
        let at = usize::try_from(seq.checked_sub(1)?).ok()?;
        self.chains.get(service)?.receipts.get(at)
    }

    /// The head of one chain.
    pub(super) fn root(&self, service: &ServiceId) -> Option<AccumulatorRoot> {
        self.chains.get(service).and_then(Ledger::head)
    }

    /// The heads of the first chains.
    pub(super) fn roots(&self, visible: &Visible, limit: u32) -> Vec<AccumulatorRoot> {
        let seen = |service: &ServiceId| visible.as_ref().is_none_or(|services| services.contains(service));
        let heads = self.chains.iter().filter(|(service, _)| seen(service)).filter_map(|(_, ledger)| ledger.head());
        heads.take(limit as usize).collect()
    }
}

impl Ledger {
    fn head(&self) -> Option<AccumulatorRoot> {
        self.receipts.last().map(|last| self.chain.head(last.processed_at))
    }
}

fn place_of(receipt: &Receipt) -> ReceiptCursor {
    ReceiptCursor { processed_at: receipt.processed_at, service_id: receipt.service_id.clone(), seq: receipt.seq }
}

/// Cuts a list that was read one item too far to the page, and says where the next page starts.
pub(super) fn turn<T: Clone>(items: &mut Vec<T>, limit: u32) -> Option<T> {
    let limit = limit as usize;
    if items.len() <= limit {
        return None;
    }
    items.truncate(limit);
    items.last().cloned()
}

pub(super) fn list(
    ledgers: &Ledgers,
    filter: &ReceiptFilter,
    page: &PageRequest<ReceiptCursor>,
) -> Page<Receipt, ReceiptCursor> {
    let ReceiptFilter { service_id, hash, ascending, visible } = filter;
    let count = page.limit as usize + 1;
    let services = narrowed(service_id.as_ref(), visible.as_ref());
    let mut receipts: Vec<Receipt> = match service_id {
        Some(service) if services.as_ref().is_some_and(|names| !names.is_empty()) => {
            by_seq(ledgers, service, hash.as_deref(), *ascending, &page.start, count)
        }
        Some(_) => Vec::new(),
        None => by_time(ledgers, services.as_deref(), hash.as_deref(), &page.start, count),
    };
    let next = turn(&mut receipts, page.limit).map(|last| place_of(&last));
    Page { items: receipts, next }
}

fn skip_of(start: &Start<ReceiptCursor>) -> usize {
    match start {
        Start::Offset(offset) => usize::try_from(*offset).unwrap_or(usize::MAX),
        Start::After(_) => 0,
    }
}

fn by_seq(
    ledgers: &Ledgers,
    service: &ServiceId,
    hash: Option<&str>,
    ascending: bool,
    start: &Start<ReceiptCursor>,
    count: usize,
) -> Vec<Receipt> {
    let Some(ledger) = ledgers.chains.get(service) else { return Vec::new() };
    // Links before the start are cut off by position, so that a late page costs what the first one costs.
    let length = ledger.receipts.len();
    let cut = |seq: u64| usize::try_from(seq).unwrap_or(usize::MAX).min(length);
    let part = match (start, ascending) {
        (Start::Offset(_), _) => &ledger.receipts[..],
        (Start::After(cursor), true) => &ledger.receipts[cut(cursor.seq)..],
        (Start::After(cursor), false) => &ledger.receipts[..cut(cursor.seq.saturating_sub(1))],
    };
    let wanted = |receipt: &&Receipt| hash.is_none_or(|hash| receipt.hash == hash);
    let skip = skip_of(start);
    if ascending {
        part.iter().filter(wanted).skip(skip).take(count).cloned().collect()
    } else {
        part.iter().rev().filter(wanted).skip(skip).take(count).cloned().collect()
    }
}

fn by_time(
    ledgers: &Ledgers,
    services: Option<&[&ServiceId]>,
    hash: Option<&str>,
    start: &Start<ReceiptCursor>,
    count: usize,
) -> Vec<Receipt> {
    let lists: Vec<&BTreeSet<ReceiptCursor>> = match (hash, services) {
        (Some(hash), _) => ledgers.by_hash.get(hash).into_iter().collect(),
        (None, None) => vec![&ledgers.by_time],
        (None, Some(names)) => names.iter().filter_map(|name| ledgers.chains.get(*name)).map(|l| &l.by_time).collect(),
    };
    let seen =
        |place: &&ReceiptCursor| hash.is_none() || services.is_none_or(|names| names.contains(&&place.service_id));
    let places: Vec<ReceiptCursor> = match start {
        Start::Offset(_) => newest(lists.into_iter().map(|list| list.iter().rev().filter(seen)), skip_of(start), count),
        Start::After(cursor) => {
            newest(lists.into_iter().map(|list| list.range(..cursor.clone()).rev().filter(seen)), 0, count)
        }
    };
    places.iter().filter_map(|place| ledgers.receipt(&place.service_id, place.seq)).cloned().collect()
}
