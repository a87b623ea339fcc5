//! Expand and contract: what the release before the last migration does to the database goes on working on the new schema.
//!
//! That release can't be built here; its statements are kept below, as it sent them, and run beside the store of today.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jam_domain::page::{PackageFilter, ReportFilter};
use jam_domain::{PackageId, PackageStatus, Timestamp};
use jam_store::{PostgresConfig, PostgresStore, Store, migrate};
use sqlx::{Connection, Executor, PgConnection, Row, query, query_scalar};
use uuid::Uuid;

use crate::store_fixture::{by, engine, first, package, put, verified_chain};
use crate::store_retention::rule;
use crate::support::postgres;

/// The schema of the release whose statements these are, and the files that make it.
const BEFORE: i64 = 2;
const FILES: [(&str, &str); 2] = [
    ("initial", include_str!("../../migrations/0001_initial.sql")),
    ("receipts of a service by time", include_str!("../../migrations/0002_receipts_of_a_service_by_time.sql")),
];

/// A database as the release before left it.
async fn database_before() -> String {
    let dsn = postgres::migrated_database().await;
    let rows = "select version, description, checksum from _sqlx_migrations order by version";
    let mut connection = postgres::connect(&dsn).await;
    let applied = connection.fetch_all(rows).await.unwrap();
    let dsn = postgres::fresh_database().await;
    let mut connection = postgres::connect(&dsn).await;
    let table = "create table _sqlx_migrations (version bigint primary key, description text not null,
        installed_on timestamptz not null default now(), success boolean not null, checksum bytea not null,
        execution_time bigint not null)";
    connection.execute(table).await.unwrap();
    for (row, (description, sql)) in applied.iter().zip(FILES) {
        connection.execute(sql).await.unwrap();
        assert_eq!(row.get::<String, _>("description"), description);
        query("insert into _sqlx_migrations values ($1, $2, now(), true, $3, 0)")
            .bind(row.get::<i64, _>("version"))
            .bind(description)
            .bind(row.get::<Vec<u8>, _>("checksum"))
            .execute(&mut connection)
            .await
            .unwrap();
    }
    dsn
}

/// The previous release at work: each step is one of its transactions, in its own words.
struct Previous(PgConnection);

impl Previous {
    async fn on(dsn: &str) -> Self {
        let mut connection = postgres::connect(dsn).await;
        connection.execute("set statement_timeout = 5000").await.unwrap();
        Self(connection)
    }

    async fn submit(&mut self, service: &str, key: Option<&str>) -> Uuid {
        let id = PackageId::new().0;
        let mut work = self.0.begin().await.unwrap();
        query("select pg_advisory_xact_lock(5425451, 1)").execute(&mut *work).await.unwrap();
        query(
            "select t.id, t.service_id, t.status, t.created_at, t.created_by, t.body, t.fingerprint, t.idempotency_key
             from packages t where t.id = any($1) or t.id = any(array(
                select k.id from unnest($2::text[], $3::text[]) as u(created_by, name)
                join packages k on k.created_by = u.created_by and k.idempotency_key = u.name))",
        )
        .bind(vec![id])
        .bind(vec!["0badcafe"; key.iter().len()])
        .bind(key.iter().collect::<Vec<_>>())
        .execute(&mut *work)
        .await
        .unwrap();
        query(
            "select count(*) from (select from packages where $1 is null and status = 'pending'
                order by status, created_at desc, id desc limit 100) p",
        )
        .bind(None::<&str>)
        .execute(&mut *work)
        .await
        .unwrap();
        query("insert into packages
                (id, service_id, status, created_at, created_by, idempotency_key, fingerprint, receipt_seq, body)
             select u.id, u.service_id, u.status, now(), u.created_by, u.key, u.fingerprint, u.receipt, u.body::json
             from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bigint[], $8::text[])
                as u(id, service_id, status, created_by, key, fingerprint, receipt, body)")
            .bind(vec![id])
            .bind(vec![service])
            .bind(vec!["pending"])
            .bind(vec!["0badcafe"])
            .bind(vec![key])
            .bind(vec![vec![0_u8; 32]])
            .bind(vec![None::<i64>])
            .bind(vec![r#"{"items":[],"nonce":"previous"}"#])
            .execute(&mut *work)
            .await
            .unwrap();
        work.commit().await.unwrap();
        id
    }

    /// Claims one package and finishes it without a receipt; says which.
    async fn process(&mut self) -> Option<Uuid> {
        let mut work = self.0.begin().await.unwrap();
        let claimed = query(
            "select t.id, t.service_id, t.status, t.created_at, t.created_by, t.body from packages t
             where t.id = any(array(select id from packages where status = 'pending'
                order by status, created_at, id limit 1 for update skip locked)) order by t.created_at, t.id",
        )
        .fetch_optional(&mut *work)
        .await
        .unwrap()?;
        let (id, service): (Uuid, String) = (claimed.get("id"), claimed.get("service_id"));
        let report = Uuid::now_v7();
        query(
            "insert into attestations (report_id, worker_id, weight, created_at, body)
             select u.report_id, u.worker_id, u.weight, now(), u.body::json
             from unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[]) as u(report_id, worker_id, weight, body)
             on conflict on constraint attestations_once_per_worker do nothing",
        )
        .bind(vec![report])
        .bind(vec!["local"])
        .bind(vec![1_i64])
        .bind(vec![r#"{"signature":"","engine":"previous","engine_version":"1"}"#])
        .execute(&mut *work)
        .await
        .unwrap();
        query("update packages p set status = u.status from unnest($1::uuid[], $2::text[]) as u(id, status) where p.id = u.id")
            .bind(vec![id])
            .bind(vec!["applied"])
            .execute(&mut *work)
            .await
            .unwrap();
        query(
            "insert into reports (id, package_id, service_id, status, created_at, receipt_seq, body)
             select u.id, u.package_id, u.service_id, u.status, now(), u.receipt, u.body::json
             from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::text[])
                as u(id, package_id, service_id, status, receipt, body)",
        )
        .bind(vec![report])
        .bind(vec![id])
        .bind(vec![service])
        .bind(vec!["applied"])
        .bind(vec![None::<i64>])
        .bind(vec![r#"{"refine_output_hash":"00","refine_output_compact":""}"#])
        .execute(&mut *work)
        .await
        .unwrap();
        work.commit().await.unwrap();
        Some(id)
    }

    async fn put(&mut self, hash: &[u8], bytes: &[u8]) {
        let (blob, mut work) = (Uuid::now_v7(), self.0.begin().await.unwrap());
        query(
            "insert into preimages (hash, blob, size, media_type, created_at, uploader, storage_class, refcount)
             values ($1, $2, $3, 'text/plain', now(), 'anonymous', 'database', 0) on conflict (hash) do nothing",
        )
        .bind(hash)
        .bind(blob)
        .bind(i64::try_from(bytes.len()).unwrap())
        .execute(&mut *work)
        .await
        .unwrap();
        query("insert into blob_chunks (blob, start, bytes) values ($1, 0, $2)")
            .bind(blob)
            .bind(bytes)
            .execute(&mut *work)
            .await
            .unwrap();
        work.commit().await.unwrap();
    }

    /// How many packages its list and its page of one would show.
    async fn listed(&mut self) -> i64 {
        let sql = "select count(*) from unnest(array['pending', 'refined', 'disputed', 'applied']) as s(status)
            cross join lateral (select t.id, t.service_id, t.status, t.created_at, t.created_by, t.body from packages t
                where t.status = s.status and (t.created_at, t.id) < ('infinity', 'ffffffff-ffff-ffff-ffff-ffffffffffff')
                order by t.created_at desc, t.id desc limit 200) p";
        query_scalar(sql).fetch_one(&mut self.0).await.unwrap()
    }

    async fn finds(&mut self, id: Uuid) -> bool {
        let sql =
            "select t.id, t.service_id, t.status, t.created_at, t.created_by, t.body from packages t where t.id = $1";
        query(sql).bind(id).fetch_optional(&mut self.0).await.unwrap().is_some()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_previous_release_works_on_while_the_migration_runs_and_beside_the_new_one() {
    let dsn = database_before().await;
    let done = Arc::new(AtomicBool::new(false));
    let old = {
        let (mut previous, done) = (Previous::on(&dsn).await, Arc::clone(&done));
        tokio::spawn(async move {
            let mut submitted = Vec::new();
            while !done.load(Ordering::Relaxed) {
                submitted.push(previous.submit("old", None).await);
                previous.process().await;
            }
            submitted
        })
    };
    let config = PostgresConfig::new(&dsn);
    let applied = migrate::apply(&config).await.unwrap();
    assert!(applied.iter().all(|step| step.version > BEFORE));
    assert_eq!(applied.last().map(|step| step.version), Some(migrate::wanted()));
    let store = PostgresStore::connect(config).await.unwrap();
    let engine = engine();
    for _ in 0..40 {
        store.submit(package("new"), &engine).await.unwrap();
        store.process(2, &engine).await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    let submitted = old.await.unwrap();
    let mut previous = Previous::on(&dsn).await;
    while previous.process().await.is_some() {}
    // Everything of both is there, once, for both.
    let all = submitted.len() + 40;
    assert!(submitted.len() > 1, "the old release got on");
    assert_eq!(
        postgres::number(&dsn, "select count(*) from packages where status = 'applied'").await,
        i64::try_from(all).unwrap()
    );
    assert_eq!(
        postgres::number(&dsn, "select count(distinct package_id) from reports").await,
        i64::try_from(all).unwrap()
    );
    for id in submitted {
        let package = store.package(PackageId(id)).await.unwrap().unwrap();
        assert_eq!((package.status, package.nonce.as_str()), (PackageStatus::Applied, "previous"));
        assert!(store.report_of(PackageId(id)).await.unwrap().is_some());
    }
    verified_chain(&store, "new").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_waits_for_a_long_reader_does_not_stop_the_previous_release() {
    let dsn = database_before().await;
    let mut previous = Previous::on(&dsn).await;
    // A backup, say: it reads for an hour, the migration waits for it, and everybody else waits behind the migration.
    let mut reader = postgres::connect(&dsn).await;
    reader.execute("begin; select from packages").await.unwrap();
    let config = PostgresConfig::new(&dsn);
    let migration = tokio::spawn(async move { migrate::apply(&config).await });
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    while postgres::number(&dsn, waits).await == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // Within the time of its statements.
    previous.submit("s", None).await;
    assert!(!migration.is_finished(), "it tries again");
    reader.execute("rollback").await.unwrap();
    assert_eq!(migration.await.unwrap().unwrap().last().map(|step| step.version), Some(migrate::wanted()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_release_stores_the_other_reads_and_what_is_archived_neither_shows() {
    let dsn = postgres::migrated_database().await;
    let store = PostgresStore::connect(PostgresConfig::new(&dsn)).await.unwrap();
    let mut previous = Previous::on(&dsn).await;
    let by_old = previous.submit("s", Some("k")).await;
    let by_new = store.submit(package("s"), &engine()).await.unwrap().package.id;
    assert!(previous.finds(by_new.0).await && store.package(PackageId(by_old)).await.unwrap().is_some());
    let bytes = b"of the previous release";
    previous.put(&jam_domain::PreimageHash::of(bytes).0, bytes).await;
    assert!(matches!(put(&store, bytes, 5).await, jam_store::Put::AlreadyThere(_)));
    assert_eq!(crate::store_fixture::bytes_of(&store, jam_domain::PreimageHash::of(bytes), 0..99).await, bytes);
    assert!(previous.process().await.is_some());
    assert_eq!(store.process(1, &engine()).await.unwrap().len(), 1);
    assert_eq!(store.cleanup(&rule(4000), false).await.unwrap().archived_packages, 2);
    assert!(!previous.finds(by_old).await && previous.listed().await == 0);
    assert_eq!(store.packages(&PackageFilter::default(), first(9)).await.unwrap().items, []);
    assert_eq!(store.reports(&ReportFilter::default(), first(9)).await.unwrap().items, []);
    // The old release does not look into the archive: it accepts the key again, and then the archived one can't come back.
    previous.submit("s", Some("k")).await;
    let now = Timestamp::now();
    assert_eq!(store.restore(PackageId(by_old), &by(now)).await.unwrap(), jam_store::Restored::Taken);
    assert!(store.archived(PackageId(by_old)).await.unwrap().is_some(), "it stays where it is");
    assert!(matches!(store.restore(by_new, &by(now)).await.unwrap(), jam_store::Restored::Back(_)));
    assert_eq!(previous.listed().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_served_by_its_own_schema_and_by_later_ones_that_say_so() {
    let dsn = postgres::migrated_database().await;
    let store = PostgresStore::connect(PostgresConfig::new(&dsn)).await.unwrap();
    assert!(store.schema().await.unwrap().serves());
    assert_eq!(postgres::number(&dsn, "select oldest from schema_serves order by schema desc limit 1").await, BEFORE);
    let later = "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
        values (9999, 'later', true, '', 0)";
    postgres::execute(&dsn, later).await;
    let schema = store.schema().await.unwrap();
    assert_eq!((schema.found, schema.oldest, schema.serves()), (Some(9999), None, false), "no word, no promise");
    for (oldest, serves) in [(migrate::wanted() + 1, false), (migrate::wanted(), true), (1, true)] {
        let says =
            format!("delete from schema_serves where schema = 9999; insert into schema_serves values (9999, {oldest})");
        postgres::execute(&dsn, &says).await;
        assert_eq!(store.schema().await.unwrap().serves(), serves, "{oldest}");
    }
    postgres::execute(&dsn, "delete from _sqlx_migrations where version > 1").await;
    assert!(!store.schema().await.unwrap().serves(), "an older schema serves no later build");
}
