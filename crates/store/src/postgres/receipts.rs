//! The tables of receipts and of accumulators: the links and the heads of the chains.

use std::collections::{BTreeMap, BTreeSet};

use jam_domain::page::{Page, PageRequest, ReceiptCursor, ReceiptFilter, Start, Visible};
use jam_domain::receipt::Chain;
use jam_domain::{AccumulatorRoot, PackageId, Receipt, ServiceId};
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{AssertSqlSafe, Row, query};
use uuid::Uuid;

use super::error::Failure;
use super::lists::{narrowed, page, skip_of};
use super::value::{At, body, count, number, root_bytes, unbody, word};

/// The columns of a receipt `r` that is joined to another table.
pub(super) const JOINED: &str = "r.service_id as r_service_id, r.seq as r_seq, r.entry_type as r_entry_type, \
    r.hash as r_hash, r.prev_root as r_prev_root, r.new_root as r_new_root, r.metadata_hash as r_metadata_hash, \
    r.status as r_status, r.processed_at as r_processed_at, r.extra as r_extra";

/// The receipt that was joined to the row, if there is one.
pub(super) fn joined(row: &PgRow) -> Result<Option<Receipt>, Failure> {
    let Some(seq) = row.try_get::<Option<i64>, _>("r_seq")? else { return Ok(None) };
    let service: &str = row.try_get("r_service_id")?;
    let read = columns_of(row, service, seq);
    read.map(Some).map_err(|failure| failure.in_row(|| format!("receipt {seq} of service {service}")))
}

fn columns_of(row: &PgRow, service: &str, seq: i64) -> Result<Receipt, Failure> {
    let extra: Option<&str> = row.try_get_unchecked("r_extra")?;
    Ok(Receipt {
        hash: row.try_get("r_hash")?,
        service_id: word(service)?,
        entry_type: word(row.try_get("r_entry_type")?)?,
        seq: count(seq)?,
        prev_root: hex::encode(row.try_get::<&[u8], _>("r_prev_root")?),
        new_root: hex::encode(row.try_get::<&[u8], _>("r_new_root")?),
        status: word(row.try_get("r_status")?)?,
        processed_at: row.try_get::<At, _>("r_processed_at")?.timestamp(),
        metadata_hash: hex::encode(row.try_get::<&[u8], _>("r_metadata_hash")?),
        extra: extra.map(unbody).transpose()?,
    })
}

/// The receipt of a row that is one.
fn receipt_of(row: &PgRow) -> Result<Receipt, Failure> {
    joined(row)?.ok_or_else(|| Failure::Corrupt("a receipt has no seq".into()))
}

fn all_joined(rows: &[PgRow]) -> Result<Vec<Receipt>, Failure> {
    rows.iter().filter_map(|row| joined(row).transpose()).collect()
}

/// Receipts of the rows of a table in which these packages stand in this column, in the order of the packages.
pub(super) async fn of(
    pool: &PgPool,
    (table, column): (&str, &str),
    packages: &[PackageId],
) -> Result<Vec<Receipt>, Failure> {
    let ids: Vec<Uuid> = packages.iter().map(|id| id.0).collect();
    let sql = format!(
        "select {JOINED} from unnest($1::uuid[]) with ordinality as u(id, place)
         join {table} t on t.{column} = u.id
         join receipts r on r.service_id = t.service_id and r.seq = t.receipt_seq order by u.place"
    );
    all_joined(&query(AssertSqlSafe(sql)).bind(ids).fetch_all(pool).await?)
}

pub(super) async fn list(
    pool: &PgPool,
    filter: &ReceiptFilter,
    request: PageRequest<ReceiptCursor>,
) -> Result<Page<Receipt, ReceiptCursor>, Failure> {
    let limit = request.limit;
    let rows = match &filter.service_id {
        Some(service) if filter.visible.as_ref().is_some_and(|visible| !visible.contains(service)) => Vec::new(),
        Some(service) => by_seq(pool, service, filter, request).await?,
        None => by_time(pool, filter, request).await?,
    };
    page(&rows, limit, receipt_of, |last| ReceiptCursor {
        processed_at: last.processed_at,
        service_id: last.service_id.clone(),
        seq: last.seq,
    })
}

async fn by_seq(
    pool: &PgPool,
    service: &ServiceId,
    filter: &ReceiptFilter,
    request: PageRequest<ReceiptCursor>,
) -> Result<Vec<PgRow>, Failure> {
    let (beyond, order) = if filter.ascending { (">", "asc") } else { ("<", "desc") };
    let seen = match &request.start {
        Start::After(cursor) => number(cursor.seq)?,
        Start::Offset(_) if filter.ascending => 0,
        Start::Offset(_) => i64::MAX,
    };
    let (skip, limit) = (skip_of(&request.start)?, request.limit + 1);
    let of_hash = if filter.hash.is_some() { "r.hash = $3" } else { "$3::text is null" };
    let sql = format!(
        "select {JOINED} from receipts r where r.service_id = $1 and r.seq {beyond} $2 and {of_hash}
         order by r.seq {order} offset {skip} limit {limit}"
    );
    let statement = query(AssertSqlSafe(sql)).persistent(skip == 0);
    Ok(statement.bind(service.as_str()).bind(seen).bind(filter.hash.as_deref()).fetch_all(pool).await?)
}

async fn by_time(
    pool: &PgPool,
    filter: &ReceiptFilter,
    request: PageRequest<ReceiptCursor>,
) -> Result<Vec<PgRow>, Failure> {
    let (at, service, seq) = match &request.start {
        Start::After(cursor) => (At::from(cursor.processed_at), cursor.service_id.to_string(), number(cursor.seq)?),
        Start::Offset(_) => (At::FUTURE, String::new(), 0),
    };
    let services = narrowed(None, &filter.visible);
    let (skip, limit) = (skip_of(&request.start)?, request.limit + 1);
    let before = "(r.processed_at, r.service_id, r.seq) < ($1, $2 collate \"C\", $3)";
    let order = "r.processed_at desc, r.service_id desc, r.seq desc";
    let sql = match (&filter.hash, &services) {
        (Some(_), None) => format!(
            "select {JOINED} from receipts r where {before} and r.hash = $4 and cardinality($5::text[]) = 0
             order by {order} offset {skip} limit {limit}"
        ),
        (Some(_), Some(_)) => format!(
            "select {JOINED} from receipts r where {before} and r.hash = $4 and r.service_id = any($5)
             order by {order} offset {skip} limit {limit}"
        ),
        (None, None) => format!(
            "select {JOINED} from receipts r where {before} and $4::text is null and cardinality($5::text[]) = 0
             order by {order} offset {skip} limit {limit}"
        ),
        // Each service's own receipts are one range of an index; `<= $1` is where it ends, `{before}` settles the ties.
        (None, Some(_)) => format!(
            "select {JOINED} from unnest($5::text[]) as v(service_id) cross join lateral (
                select * from receipts r where r.service_id = v.service_id and r.processed_at <= $1 and {before}
                    and $4::text is null
                order by r.processed_at desc, r.seq desc limit {reach}
             ) r order by {order} offset {skip} limit {limit}",
            reach = i64::from(limit) + skip
        ),
    };
    let statement = query(AssertSqlSafe(sql)).persistent(skip == 0).bind(at).bind(service).bind(seq);
    let statement = statement.bind(filter.hash.as_deref()).bind(services.unwrap_or_default());
    Ok(statement.fetch_all(pool).await?)
}

/// Locks the heads of these chains, in order of their names, and makes those that are missing.
///
/// Missing heads are made before any head is locked: whoever waits for a head that is being made holds no older one.
pub(super) async fn lock_heads(
    connection: &mut PgConnection,
    services: &BTreeSet<&ServiceId>,
) -> Result<BTreeMap<ServiceId, Chain>, Failure> {
    let names: Vec<&str> = services.iter().map(|service| service.as_str()).collect();
    // A head that another transaction makes at the same moment is only seen by the next statement.
    for _ in 0..4 {
        let rows = query(
            "with made as (
                insert into accumulators (service_id, seq, root, updated_at)
                select u.name, 0, '', now() from unnest($1::text[]) with ordinality as u(name, place)
                where not exists (select from accumulators a where a.service_id = u.name) order by u.place
                on conflict do nothing returning service_id, seq, root
             ), locked as (
                select service_id, seq, root from accumulators where service_id = any($1)
                order by service_id for no key update
             )
             select * from made union all select * from locked",
        )
        .bind(&names)
        .fetch_all(&mut *connection)
        .await?;
        let chains = rows.iter().map(chain_of).collect::<Result<BTreeMap<_, _>, _>>()?;
        if chains.len() == names.len() {
            return Ok(chains);
        }
    }
    Err(Failure::Gone("a chain's head appears and vanishes"))
}

fn chain_of(row: &PgRow) -> Result<(ServiceId, Chain), Failure> {
    let name: &str = row.try_get("service_id")?;
    let of_row = |failure: Failure| failure.in_row(|| format!("accumulator of service {name}"));
    let service: ServiceId = word(name).map_err(of_row)?;
    let root = hex::encode(row.try_get::<&[u8], _>("root")?);
    let chain = Chain::at(service.clone(), count(row.try_get("seq")?).map_err(of_row)?, root);
    Ok((service, chain))
}

/// Writes new links, and the heads that they moved.
pub(super) async fn append(
    connection: &mut PgConnection,
    chains: &BTreeMap<ServiceId, Chain>,
    receipts: &[Receipt],
) -> Result<(), Failure> {
    if receipts.is_empty() {
        return Ok(());
    }
    insert(&mut *connection, receipts).await?;
    let mut moved = BTreeMap::new();
    for receipt in receipts {
        moved.insert(&receipt.service_id, receipt.processed_at);
    }
    let (mut names, mut seqs, mut roots, mut times) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (service, chain) in chains {
        let Some(at) = moved.get(service) else { continue };
        names.push(service.as_str());
        seqs.push(number(chain.seq())?);
        roots.push(root_bytes(chain.root())?);
        times.push(At::from(*at));
    }
    query(
        "update accumulators a set seq = u.seq, root = u.root, updated_at = u.at
         from unnest($1::text[], $2::bigint[], $3::bytea[], $4::timestamptz[]) as u(name, seq, root, at)
         where a.service_id = u.name",
    )
    .bind(names)
    .bind(seqs)
    .bind(roots)
    .bind(times)
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert(connection: &mut PgConnection, receipts: &[Receipt]) -> Result<(), Failure> {
    let (mut services, mut seqs, mut types, mut hashes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut before, mut after, mut metadata) = (Vec::new(), Vec::new(), Vec::new());
    let (mut statuses, mut times, mut extras) = (Vec::new(), Vec::new(), Vec::new());
    for receipt in receipts {
        let Receipt {
            hash,
            service_id,
            entry_type,
            seq,
            prev_root,
            new_root,
            status,
            processed_at,
            metadata_hash,
            extra,
        } = receipt;
        services.push(service_id.as_str());
        seqs.push(number(*seq)?);
        types.push(entry_type.as_str());
        hashes.push(hash.as_str());
        before.push(root_bytes(prev_root)?);
        after.push(root_bytes(new_root)?);
        metadata.push(root_bytes(metadata_hash)?);
        statuses.push(status.as_str());
        times.push(At::from(*processed_at));
        extras.push(extra.as_ref().map(body).transpose()?);
    }
    query(
        "insert into receipts
            (service_id, seq, entry_type, hash, prev_root, new_root, metadata_hash, status, processed_at, extra)
         select u.service_id, u.seq, u.entry_type, u.hash, u.before, u.after, u.metadata, u.status, u.at, u.extra::json
         from unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::bytea[], $8::text[],
            $9::timestamptz[], $10::text[])
            as u(service_id, seq, entry_type, hash, before, after, metadata, status, at, extra)",
    )
    .bind(services)
    .bind(seqs)
    .bind(types)
    .bind(hashes)
    .bind(before)
    .bind(after)
    .bind(metadata)
    .bind(statuses)
    .bind(times)
    .bind(extras)
    .execute(connection)
    .await?;
    Ok(())
}

/// The heads of these chains, or of the first ones, sorted by service.
pub(super) async fn roots(pool: &PgPool, visible: &Visible, limit: u32) -> Result<Vec<AccumulatorRoot>, Failure> {
    let services = narrowed(None, visible);
    let of_services = if services.is_some() { "service_id = any($1)" } else { "cardinality($1::text[]) = 0" };
    let sql = format!(
        "select service_id, seq, root, updated_at from accumulators where seq > 0 and {of_services}
         order by service_id limit {limit}"
    );
    let rows = query(AssertSqlSafe(sql)).bind(services.unwrap_or_default()).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            let (_, chain) = chain_of(row)?;
            Ok(chain.head(row.try_get::<At, _>("updated_at")?.timestamp()))
        })
        .collect()
}
