//! What must hold afterwards, whatever the speed: one report for each package, chains that verify, refcounts that agree.

use jam_domain::digest::HashAlgorithm;
use jam_domain::page::{PageRequest, ReceiptFilter, Start};
use jam_domain::receipt::{Chain, verify_next};
use jam_domain::{Receipt, ServiceId};
use jam_store::Store as _;
use sqlx::{PgConnection, query_as, query_scalar};

use crate::database::store;
use crate::postgres::connect;

/// Services whose name begins so were filled in by SQL, without a chain that could verify.
pub const FILLED: &str = "stored-";
/// Links that are read at once.
const PAGE: u32 = 2000;

/// What was found.
#[derive(Default)]
pub struct Audit {
    /// Packages of services that were not filled in.
    pub packages: u64,
    /// Packages or reports that have more than one report or report receipt, and applied packages without one.
    pub duplicates: u64,
    /// Links that do not hang on the one before, and heads that are not the last link.
    pub broken_links: u64,
    /// Preimages whose refcount is not the number of packages that refer to them.
    pub refcounts: u64,
}

impl Audit {
    /// Everything that must not be.
    pub fn wrong(&self) -> u64 {
        let Self { packages: _, duplicates, broken_links, refcounts } = self;
        duplicates + broken_links + refcounts
    }
}

/// Checks a whole database.
pub async fn audit(dsn: &str) -> Audit {
    let mut connection = connect(dsn).await;
    let packages = count(&mut connection, "select count(*) from packages where service_id not like 'stored-%'").await;
    let duplicates = count(
        &mut connection,
        "select count(*) from packages p
         left join (select package_id, count(*) as n from reports group by 1) r on r.package_id = p.id
         left join (select extra ->> 'package_id' as id, count(*) as n from receipts
            where entry_type = 'report' and service_id not like 'stored-%' group by 1) e on e.id = p.id::text
         where p.service_id not like 'stored-%'
            and (coalesce(r.n, 0), coalesce(e.n, 0)) is distinct from
                case when p.status = 'applied' then (1::bigint, 1::bigint) else (0::bigint, 0::bigint) end",
    )
    .await;
    let refcounts = count(
        &mut connection,
        "with named as (
            select distinct p.id, h.hash from packages p cross join lateral (
                select json_array_elements_text(p.body -> 'preimage_hashes') as hash
                union all
                select json_array_elements_text(i -> 'preimage_hashes') from json_array_elements(p.body -> 'items') as i
            ) h where p.service_id not like 'stored-%'
         ), counted as (select hash, count(*) as n from named group by 1)
         select count(*) from preimages b full join counted c on c.hash = encode(b.hash, 'hex')
         where coalesce(b.refcount, -1) <> coalesce(c.n, 0)",
    )
    .await;
    let broken_links = broken_links(dsn, &mut connection).await;
    Audit { packages, duplicates, broken_links, refcounts }
}

async fn count(connection: &mut PgConnection, sql: &'static str) -> u64 {
    let count: i64 = query_scalar(sql).fetch_one(connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    count.unsigned_abs()
}

async fn broken_links(dsn: &str, connection: &mut PgConnection) -> u64 {
    let heads: Vec<(String, i64, Vec<u8>)> =
        query_as("select service_id, seq, root from accumulators order by service_id")
            .fetch_all(connection)
            .await
            .expect("heads can be read");
    let mut broken = 0;
    for (name, seq, root) in heads.into_iter().filter(|(name, ..)| !name.starts_with(FILLED)) {
        let service: ServiceId = name.parse().expect("stored names are valid");
        let mut chain = Chain::empty(service.clone());
        for link in links(dsn, &service).await {
            if verify_next(HashAlgorithm::Blake3, &mut chain, &link).is_err() {
                broken += 1;
                chain = Chain::at(service.clone(), link.seq, link.new_root);
            }
        }
        broken += u64::from(chain.seq() != seq.unsigned_abs() || chain.root() != hex::encode(root));
    }
    broken
}

async fn links(dsn: &str, service: &ServiceId) -> Vec<Receipt> {
    let store = store(dsn).await;
    let filter = ReceiptFilter { service_id: Some(service.clone()), ascending: true, ..ReceiptFilter::default() };
    let (mut found, mut start) = (Vec::new(), Start::Offset(0));
    loop {
        let page = store.receipts(&filter, PageRequest { limit: PAGE, start }).await.expect("receipts can be read");
        found.extend(page.items);
        match page.next {
            Some(next) => start = Start::After(next),
            None => break,
        }
    }
    store.close().await;
    found
}
