//! Laws of blobs: streaming in and out, races, interruptions, deletion.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, stream};
use jam_domain::{Code, PreimageHash, Refusal, Timestamp};
use jam_store::{PostgresConfig, PostgresStore, Put, PutError, Store, StoreError};

use crate::store_fixture::{World, blob_laws, by, bytes_of, engine, noise, package, put, upload};
use crate::support::postgres;

blob_laws!(
    bytes_come_back_as_they_went_in_whole_and_in_ranges,
    a_hundred_uploads_of_one_blob_at_once_store_it_once,
    a_blob_that_is_there_is_read_to_its_end_and_not_rewritten,
    a_refused_upload_leaves_nothing,
    only_a_blob_that_nobody_refers_to_is_deleted,
);

const MIB: usize = 1024 * 1024;

async fn bytes_come_back_as_they_went_in_whole_and_in_ranges(world: World) {
    let store = world.store();
    for (n, length) in [0, 1, 262_143, 262_144, 262_145, MIB, MIB + 1, 3 * MIB + 7].into_iter().enumerate() {
        let bytes = noise(length, n as u64 + 1);
        let hash = PreimageHash::of(&bytes);
        let Put::Created(preimage) = put(&*store, &bytes, 70_001).await else { panic!("{length} bytes are new") };
        let size = length as u64;
        assert_eq!((preimage.size, preimage.refcount, preimage.media_type.as_str()), (size, 0, "text/plain"));
        assert_eq!(store.preimage(hash).await.unwrap(), Some(preimage));
        assert!(bytes_of(&*store, hash, 0..u64::MAX).await == bytes, "{length} bytes");
        for (from, to) in
            [(0, 1), (size / 2, size), (size / 3, size / 3 * 2), (size, size + 9), (262_143, 262_146), (5, 5)]
        {
            let inside = |at: u64| usize::try_from(at.min(size)).unwrap();
            let wanted = &bytes[inside(from)..inside(to.max(from))];
            assert!(bytes_of(&*store, hash, from..to).await == wanted, "{from}..{to} of {length}");
        }
    }
    assert!(store.read_preimage(PreimageHash::of(b"none"), 0..1).await.unwrap().is_none());
    assert_eq!(store.preimage(PreimageHash::of(b"none")).await.unwrap(), None);
}

async fn a_hundred_uploads_of_one_blob_at_once_store_it_once(world: World) {
    for (length, seed) in [(10, 1), (MIB + MIB / 2, 2)] {
        let bytes = Arc::new(noise(length, seed));
        let tasks = (0..100).map(|n| {
            let (store, bytes) = (world.replica(n), Arc::clone(&bytes));
            tokio::spawn(async move { put(&*store, &bytes, 100_000).await })
        });
        let puts: Vec<Put> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(puts.iter().filter(|put| matches!(put, Put::Created(_))).count(), 1);
        let hash = PreimageHash::of(&bytes);
        assert!(bytes_of(&*world.store(), hash, 0..u64::MAX).await == *bytes);
    }
    assert_no_leftovers(&world).await;
}

async fn a_blob_that_is_there_is_read_to_its_end_and_not_rewritten(world: World) {
    let store = world.store();
    let Put::Created(first) = put(&*store, b"blob", 1).await else { panic!("new") };
    let read = AtomicUsize::new(0);
    let body = stream::iter(0..4).map(|_| {
        read.fetch_add(1, Ordering::Relaxed);
        Ok(Bytes::from_static(b"x"))
    });
    let again = jam_store::Upload { media_type: "image/png".into(), ..upload(b"blob") };
    assert_eq!(store.put_preimage(again, body.boxed()).await.unwrap(), Put::AlreadyThere(first));
    assert_eq!(read.load(Ordering::Relaxed), 4);
    let refused = Refusal::new(Code::Validation, "another hash");
    let body = stream::iter([Ok(Bytes::from_static(b"blub")), Err(refused.clone())]).boxed();
    assert_eq!(store.put_preimage(upload(b"blob"), body).await, Err(PutError::Refused(refused)));
}

async fn a_refused_upload_leaves_nothing(world: World) {
    let store = world.store();
    for length in [10, 3 * MIB + 5] {
        let bytes = noise(length, 77);
        let refusal = Refusal::new(Code::TooLarge, "too large");
        let pieces = bytes.chunks(300_000).map(|piece| Ok(Bytes::copy_from_slice(piece)));
        let body: Vec<_> = pieces.chain([Err(refusal.clone())]).collect();
        let answer = store.put_preimage(upload(&bytes), stream::iter(body).boxed()).await;
        assert_eq!(answer, Err(PutError::Refused(refusal)));
        assert_eq!(store.preimage(PreimageHash::of(&bytes)).await.unwrap(), None);
    }
    // A client that goes away in the middle: the handler's future is dropped while it waits for bytes.
    let bytes = noise(3 * MIB, 78);
    let pieces: Vec<_> = bytes.chunks(300_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let body = stream::iter(pieces).chain(stream::pending()).boxed();
    let waiting = tokio::time::timeout(Duration::from_millis(700), store.put_preimage(upload(&bytes), body));
    assert!(waiting.await.is_err());
    assert_no_leftovers(&world).await;
    assert!(matches!(put(&*store, &bytes, 300_000).await, Put::Created(_)), "the next upload of it goes through");
}

/// Nothing is staged, and every chunk and every object belongs to a preimage. What a dropped upload left goes a moment later.
async fn assert_no_leftovers(world: &World) {
    if let (Some(dsn), Some(place)) = (&world.dsn, &world.place) {
        for _ in 0..200 {
            let wanted = postgres::number(dsn, "select count(*) from preimages").await;
            if place.found().len() == usize::try_from(wanted).unwrap() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("objects without a preimage are left: {:?}", place.found());
    }
    if let Some(dsn) = &world.dsn {
        assert_nothing_left_in(dsn).await;
    }
}

async fn assert_nothing_left_in(dsn: &str) {
    for _ in 0..100 {
        if leftovers(dsn).await == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} rows of interrupted uploads are left", leftovers(dsn).await);
}

async fn leftovers(dsn: &str) -> i64 {
    postgres::number(
        dsn,
        "select (select count(*) from uploads)
            + (select count(*) from blob_chunks c where not exists (select from preimages p where p.blob = c.blob))",
    )
    .await
}

async fn only_a_blob_that_nobody_refers_to_is_deleted(world: World) {
    let store = world.store();
    let hash = PreimageHash::of(b"blob");
    assert_eq!(store.delete_preimage(hash, &by(Timestamp::now())).await.unwrap(), None);
    put(&*store, b"blob", 4).await;
    assert_eq!(store.delete_preimage(hash, &by(Timestamp::now())).await.unwrap(), Some(true));
    assert_eq!(store.preimage(hash).await.unwrap(), None);
    assert_no_leftovers(&world).await;
    put(&*store, b"blob", 4).await;
    let mut new = package("s");
    new.package.preimage_hashes = Some(vec![hash]);
    store.submit(new, &engine()).await.unwrap();
    assert_eq!(store.delete_preimage(hash, &by(Timestamp::now())).await.unwrap(), Some(false));
    assert_eq!(bytes_of(&*store, hash, 0..4).await, b"blob");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_holds_no_connection() {
    let dsn = postgres::migrated_database().await;
    let config = PostgresConfig { max_connections: 1, ..PostgresConfig::new(&dsn) };
    let store = PostgresStore::connect(config).await.unwrap();
    let bytes = noise(2 * MIB, 5);
    let (sender, receiver) = futures::channel::mpsc::unbounded();
    let uploading = {
        let (store, upload) = (store.clone(), upload(&bytes));
        tokio::spawn(async move { store.put_preimage(upload, receiver.boxed()).await })
    };
    for piece in bytes.chunks(MIB + 9) {
        sender.unbounded_send(Ok(Bytes::copy_from_slice(piece))).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        store.ping().await.unwrap();
    }
    drop(sender);
    assert!(matches!(uploading.await.unwrap(), Ok(Put::Created(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_server_has_staged_is_swept_and_a_live_upload_is_not() {
    let dsn = postgres::migrated_database().await;
    let store = PostgresStore::connect(PostgresConfig::new(&dsn)).await.unwrap();
    let stage = "with u as (insert into uploads (blob, touched_at) values
            (gen_random_uuid(), now() - interval '2 hours'), (gen_random_uuid(), now()) returning blob)
        insert into blob_chunks (blob, start, bytes) select blob, 0, 'x' from u";
    postgres::execute(&dsn, stage).await;
    assert_eq!(store.sweep_uploads(3600).await.unwrap(), 1);
    assert_eq!(postgres::number(&dsn, "select count(*) from blob_chunks").await, 1);
    assert_eq!(store.sweep_uploads(0).await.unwrap(), 1);
    assert_eq!(leftovers(&dsn).await, 0);
}

/// Puts a blob of which a part is staged when the test has its way with the database, and returns the answer.
async fn put_with(store: &PostgresStore, dsn: &str, bytes: &[u8], meanwhile: &str) -> Result<Put, PutError> {
    let (sender, receiver) = futures::channel::mpsc::unbounded();
    let uploading = {
        let (store, upload) = (store.clone(), upload(bytes));
        tokio::spawn(async move { store.put_preimage(upload, receiver.boxed()).await })
    };
    let (staged, rest) = bytes.split_at(2 * MIB + 9);
    sender.unbounded_send(Ok(Bytes::copy_from_slice(staged))).unwrap();
    let chunks = async { while postgres::number(dsn, "select count(*) from blob_chunks").await < 8 {} };
    tokio::time::timeout(Duration::from_secs(10), chunks).await.expect("two windows are staged");
    postgres::execute(dsn, meanwhile).await;
    sender.unbounded_send(Ok(Bytes::copy_from_slice(rest))).unwrap();
    drop(sender);
    uploading.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_lost_bytes_in_a_crash_is_refused_and_the_next_one_of_it_goes_through() {
    let dsn = postgres::migrated_database().await;
    let store = PostgresStore::connect(PostgresConfig::new(&dsn)).await.unwrap();
    let bytes = noise(3 * MIB, 6);
    let lost = format!("delete from blob_chunks where start >= {MIB}");
    let answer = put_with(&store, &dsn, &bytes, &lost).await;
    assert!(matches!(answer, Err(PutError::Store(StoreError::Unavailable(_)))), "{answer:?}");
    assert_eq!(store.preimage(PreimageHash::of(&bytes)).await.unwrap(), None);
    assert!(matches!(put(&store, &bytes, 300_000).await, Put::Created(_)));
    assert!(bytes_of(&store, PreimageHash::of(&bytes), 0..u64::MAX).await == bytes);
    assert_nothing_left_in(&dsn).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_of_any_size_is_many_short_transactions() {
    let dsn = postgres::migrated_database().await;
    let (acquire_timeout, statement_timeout) = (Duration::from_secs(1), Duration::from_secs(2));
    let config = PostgresConfig { acquire_timeout, statement_timeout, ..PostgresConfig::new(&dsn) };
    let store = PostgresStore::connect(config).await.unwrap();
    // Together they take longer than one answer of the database may.
    let stage = "with u as (insert into uploads (blob, touched_at)
            select gen_random_uuid(), '-infinity' from generate_series(1, 3) returning blob)
        insert into blob_chunks (blob, start, bytes) select blob, n, 'x' from u, generate_series(1, 300) n;
        create function slow() returns trigger language plpgsql as $$ begin
            if (select count(*) from gone) > 128 then raise 'too many at once'; end if;
            perform pg_sleep(0.5);
            return null;
        end $$;
        create trigger slow after delete on blob_chunks referencing old table as gone
            for each statement execute function slow()";
    postgres::execute(&dsn, stage).await;
    assert_eq!(store.sweep_uploads(3600).await, Ok(3));
    assert_eq!(leftovers(&dsn).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_first_try_of_an_upload_has_a_key_of_its_own() {
    let dsn = postgres::migrated_database().await;
    let store = PostgresStore::connect(PostgresConfig::new(&dsn)).await.unwrap();
    // The first try ends as with a broken connection. Sequences alone keep what a failed statement did.
    let cut = "create sequence tries; create sequence first;
        create function cut() returns trigger language plpgsql as $$ begin
            if nextval('tries') = 1 then
                perform setval('first', 1 + abs(hashtext(new.blob::text)::bigint));
                raise 'cut off' using errcode = '08006';
            end if;
            return new;
        end $$;
        create trigger cut before insert on uploads for each row execute function cut()";
    postgres::execute(&dsn, cut).await;
    let bytes = noise(2 * MIB, 8);
    assert!(matches!(put(&store, &bytes, 300_000).await, Put::Created(_)));
    assert_eq!(postgres::number(&dsn, "select last_value from tries").await, 2);
    let same = "select count(*) from preimages, first where last_value = 1 + abs(hashtext(blob::text)::bigint)";
    assert_eq!(postgres::number(&dsn, same).await, 0);
    assert!(bytes_of(&store, PreimageHash::of(&bytes), 0..u64::MAX).await == bytes);
    assert_nothing_left_in(&dsn).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_blob_whose_answer_was_lost_is_still_new() {
    let dsn = postgres::migrated_database().await;
    let store = PostgresStore::connect(PostgresConfig::new(&dsn)).await.unwrap();
    // The first try writes its record, through a connection of its own, and then its answer is lost.
    let lost = "create extension dblink; create sequence tries;
        create function lost() returns trigger language plpgsql as $$ begin
            if nextval('tries') = 1 then
                perform dblink_exec(
                    format('host=127.0.0.1 port=%s user=postgres dbname=%s', current_setting('port'), current_database()),
                    format('insert into preimages select (%L::preimages).*', new));
                raise 'lost' using errcode = '08006';
            end if;
            return new;
        end $$;
        create trigger lost before insert on preimages for each row execute function lost()";
    postgres::execute(&dsn, lost).await;
    assert!(matches!(put(&store, b"", 1).await, Put::Created(_)));
    assert_eq!(postgres::number(&dsn, "select last_value from tries").await, 3, "tried, written, tried again");
    assert!(matches!(put(&store, b"", 1).await, Put::AlreadyThere(_)));
}
