//! The tables of the shared rate limit.

use std::time::Duration;

use async_trait::async_trait;
use jam_domain::limit::{Ask, Grant, Lease};
use sqlx::{AssertSqlSafe, Row, query, query_scalar};
use tokio::time::timeout;

use super::PostgresStore;
use super::error::Failure;
use super::pool::{again, read};
use crate::{Limits, Reset, SharedBucket, StoreError, Stored};

/// How long a request waits for a lease before its process counts alone.
const PATIENCE: Duration = Duration::from_secs(2);
/// Empty buckets that are removed at once.
const IDLE: u32 = 20_000;
/// For how many seconds processes are told of a reset.
const TOLD: u32 = 10;
/// Now, in microseconds since 1970: one moment for the whole statement.
const NOW: &str = "(extract(epoch from now()) * 1000000)::bigint";

impl PostgresStore {
    /// [`Ask::grant`] in one statement.
    async fn grant(&self, key: &str, ask: Ask) -> Result<Grant, Failure> {
        let Ask { floor, length, horizon } = ask;
        let leased = |bucket: &str| {
            format!(
                "select f.next + g.granted, g.granted
                 from (select least(greatest({bucket}$2, {NOW}), {NOW} + $4) as next) f
                 cross join lateral (select case when f.next + $3 <= {NOW} + $4 then $3 else 0 end as granted) g"
            )
        };
        let sql = format!(
            "insert into rate_limits as r (key, filled_until, granted) select $1, l.* from ({new}) l
             on conflict (key) do update set (filled_until, granted) = ({known})
             returning filled_until, granted, {NOW} as now",
            new = leased(""),
            known = leased("r.filled_until, ")
        );
        let asked = query(AssertSqlSafe(sql)).bind(key).bind(floor).bind(length).bind(horizon);
        let row = asked.fetch_one(&self.pool).await?;
        let (end, granted): (i64, i64) = (row.try_get("filled_until")?, row.try_get("granted")?);
        Ok(Grant { lease: Lease { next: end - granted, end }, now: row.try_get("now")? })
    }
}

#[async_trait]
impl Limits for PostgresStore {
    async fn lease(&self, key: &str, ask: Ask) -> Stored<Grant> {
        self.outage.pass().await?;
        let asked = read(&self.pool, || again(|| self.grant(key, ask)));
        match timeout(PATIENCE, asked).await {
            Ok(granted) => granted.map_err(|failure| {
                self.outage.note(&failure);
                self.answer(&failure)
            }),
            Err(_) => Err(StoreError::Unavailable("the database did not answer in time".into())),
        }
    }

    async fn give_back(&self, unspent: &[(String, Lease)]) -> Stored<()> {
        let keys: Vec<&str> = unspent.iter().map(|(key, _)| key.as_str()).collect();
        let (nexts, ends): (Vec<i64>, Vec<i64>) = unspent.iter().map(|(_, lease)| (lease.next, lease.end)).unzip();
        let given = async {
            query(
                "update rate_limits r set filled_until = u.next
                 from unnest($1::text[], $2::bigint[], $3::bigint[]) as u(key, next, until)
                 where r.key = u.key and r.filled_until = u.until",
            )
            .bind(keys)
            .bind(nexts)
            .bind(ends)
            .execute(&self.pool)
            .await?;
            Ok(())
        };
        self.aside(given).await
    }

    async fn buckets(&self, limit: u32) -> Stored<Vec<SharedBucket>> {
        let found = async || {
            let sql = format!(
                "select key, filled_until - {NOW} as filled from rate_limits where filled_until > {NOW}
                 order by key limit {limit}"
            );
            let rows = query(AssertSqlSafe(sql)).fetch_all(&self.pool).await?;
            rows.iter()
                .map(|row| Ok(SharedBucket { key: row.try_get("key")?, filled: row.try_get("filled")? }))
                .collect()
        };
        self.read(found).await
    }

    async fn reset(&self, key: &str) -> Stored<bool> {
        let sql = "with told as (insert into rate_limit_resets (key) values ($1)),
            gone as (delete from rate_limits where key = $1 returning key)
            select exists (select from gone)";
        self.begun(again(async || Ok(query_scalar(sql).bind(key).fetch_one(&self.pool).await?))).await
    }

    async fn resets(&self) -> Stored<Vec<Reset>> {
        let sql = format!("select id, key from rate_limit_resets where at > now() - interval '{TOLD} s'");
        let told = async {
            let rows = query(AssertSqlSafe(sql)).fetch_all(&self.pool).await?;
            rows.iter().map(|row| Ok(Reset { id: row.try_get("id")?, key: row.try_get("key")? })).collect()
        };
        self.aside(told).await
    }

    async fn forget_idle(&self) -> Stored<u64> {
        // Whoever leases a bucket meanwhile keeps it: the row is looked at again under its lock.
        let sql = format!(
            "with told as (delete from rate_limit_resets where at < now() - interval '1 minute')
             delete from rate_limits where filled_until < {NOW} and key = any(array(
                select key from rate_limits where filled_until < {NOW} limit {IDLE}))"
        );
        self.aside(async { Ok(query(AssertSqlSafe(sql)).execute(&self.pool).await?.rows_affected()) }).await
    }
}
