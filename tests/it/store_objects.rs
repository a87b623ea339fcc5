//! Laws of blobs outside of the database: in which order object and record come and go, and what is found of both.

use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc::UnboundedSender;
use futures::{StreamExt, TryStreamExt, stream};
use hyper::Method;
use jam_domain::{PreimageHash, Refusal, Timestamp};
use jam_store::{Objects, PostgresConfig, PostgresStore, Put, PutError, Store, StoreError, Trouble};
use tokio::task::JoinHandle;

use crate::store_fixture::{by, bytes_of, noise, put, upload};
use crate::store_retention::{at, rule};
use crate::support::objects::{KEY_ID, Place, SECRET, variables};
use crate::support::postgres;

const MIB: usize = 1024 * 1024;
const PART: usize = 5 * MIB;

/// An upload that is under way: its body, and its answer.
type Going = (UnboundedSender<Result<Bytes, Refusal>>, JoinHandle<Result<Put, PutError>>);

/// A store with its blobs in this place.
struct Outside {
    place: Place,
    dsn: String,
    store: PostgresStore,
}

impl Outside {
    async fn of(place: Place) -> Self {
        let dsn = postgres::migrated_database().await;
        let store = store_on(&dsn, Some(place.open())).await;
        Self { place, dsn, store }
    }

    /// One for each kind of place.
    async fn both() -> [Self; 2] {
        [Self::of(Place::files()).await, Self::of(Place::bucket().await).await]
    }

    /// Stores it and lets it be older than any retention.
    async fn put_old(&self, bytes: &[u8]) -> PreimageHash {
        self.put_aged(bytes, -400).await
    }

    /// Stores it so many days from the moment of these tests.
    async fn put_aged(&self, bytes: &[u8], days: i64) -> PreimageHash {
        let old = jam_store::Upload { now: at(days), ..upload(bytes) };
        let body = stream::iter([Ok(Bytes::copy_from_slice(bytes))]).boxed();
        assert!(matches!(self.store.put_preimage(old, body).await, Ok(Put::Created(_))));
        PreimageHash::of(bytes)
    }

    /// An upload that goes on as it is told.
    fn begin(&self, bytes: &[u8]) -> Going {
        let (sender, receiver) = futures::channel::mpsc::unbounded();
        let (store, upload) = (self.store.clone(), upload(bytes));
        (sender, tokio::spawn(async move { store.put_preimage(upload, receiver.boxed()).await }))
    }

    async fn doubts(&self) -> i64 {
        postgres::number(&self.dsn, "select count(*) from objects_in_doubt").await
    }

    async fn found(&self, count: usize) {
        for _ in 0..200 {
            if self.place.found().len() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{count} wanted, {:?} found", self.place.found());
    }
}

async fn store_on(dsn: &str, objects: Option<Objects>) -> PostgresStore {
    let (acquire_timeout, statement_timeout) = (Duration::from_mins(1), Duration::from_mins(1));
    let config = PostgresConfig { acquire_timeout, statement_timeout, objects, ..PostgresConfig::new(dsn) };
    PostgresStore::connect(config).await.unwrap()
}

async fn whole(store: &PostgresStore, hash: PreimageHash) -> Vec<u8> {
    bytes_of(store, hash, 0..u64::MAX).await
}

async fn refused(store: &PostgresStore, hash: PreimageHash) -> StoreError {
    store.read_preimage(hash, 0..u64::MAX).await.map(drop).unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_upload_left_is_swept_and_a_live_upload_is_not() {
    for outside in Outside::both().await {
        let bytes = noise(2 * PART + 9, 5);
        let (live, putting) = outside.begin(&bytes);
        live.unbounded_send(Ok(Bytes::copy_from_slice(&bytes[..PART + 9]))).unwrap();
        outside.found(1).await;
        let dead = noise(PART + 9, 6);
        let (sender, killed) = outside.begin(&dead);
        sender.unbounded_send(Ok(Bytes::copy_from_slice(&dead))).unwrap();
        outside.found(2).await;
        // Let its line look as after a kill, two hours ago.
        let old = "update objects_in_doubt set touched_at = now() - interval '2 hours'
            where blob = (select blob from objects_in_doubt order by blob desc limit 1)";
        postgres::execute(&outside.dsn, old).await;
        assert_eq!(outside.store.sweep_uploads(3600).await, Ok(1));
        outside.found(1).await;
        killed.abort();
        live.unbounded_send(Ok(Bytes::copy_from_slice(&bytes[PART + 9..]))).unwrap();
        drop(live);
        assert!(matches!(putting.await.unwrap(), Ok(Put::Created(_))));
        assert!(whole(&outside.store, PreimageHash::of(&bytes)).await == bytes);
        assert_eq!(outside.store.sweep_uploads(3600).await, Ok(0));
        assert_eq!((outside.place.found().len(), outside.doubts().await), (1, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_taken_for_abandoned_makes_no_preimage_and_leaves_no_object() {
    for outside in Outside::both().await {
        let bytes = noise(PART + 9, 7);
        let (sender, putting) = outside.begin(&bytes);
        sender.unbounded_send(Ok(Bytes::copy_from_slice(&bytes))).unwrap();
        outside.found(1).await;
        postgres::execute(&outside.dsn, "update objects_in_doubt set doomed = true").await;
        drop(sender);
        let answer = putting.await.unwrap();
        assert!(matches!(answer, Err(PutError::Store(StoreError::Unavailable(_)))), "{answer:?}");
        assert_eq!(outside.store.preimage(PreimageHash::of(&bytes)).await.unwrap(), None);
        outside.found(0).await;
        assert!(matches!(put(&outside.store, &bytes, MIB).await, Put::Created(_)), "the next one goes through");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_removes_the_objects_of_what_it_deletes_and_a_dry_run_counts_the_same() {
    for outside in Outside::both().await {
        for n in 0..130_u32 {
            outside.put_old(&n.to_le_bytes()).await;
        }
        let kept = outside.put_aged(b"young", 0).await;
        let dry = outside.store.cleanup(&rule(0), true).await.unwrap();
        assert_eq!((dry.deleted_preimages, outside.place.found().len()), (130, 131));
        assert_eq!(outside.store.cleanup(&rule(0), false).await.unwrap(), dry);
        assert_eq!((outside.place.found().len(), outside.doubts().await), (1, 0));
        assert_eq!(whole(&outside.store, kept).await, b"young");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_deletes_a_record_a_cleanup_finds_its_object() {
    for outside in Outside::both().await {
        put(&outside.store, b"one", 3).await;
        postgres::execute(&outside.dsn, "delete from preimages").await;
        assert_eq!(outside.place.found().len(), 1);
        outside.store.cleanup(&rule(0), false).await.unwrap();
        assert_eq!((outside.place.found().len(), outside.doubts().await), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_in_the_database_stay_readable_and_new_ones_go_outside() {
    for outside in Outside::both().await {
        let inside = store_on(&outside.dsn, None).await;
        let (old, new) = (PreimageHash::of(b"old"), PreimageHash::of(b"new"));
        put(&inside, b"old", 3).await;
        let Put::Created(record) = put(&outside.store, b"new", 3).await else { panic!("it is new") };
        assert_eq!(record.storage_class, outside.place.class());
        assert_eq!(outside.store.preimage(old).await.unwrap().unwrap().storage_class, "database");
        assert_eq!(
            (whole(&outside.store, old).await, whole(&outside.store, new).await),
            (b"old".into(), b"new".into())
        );
        assert!(matches!(put(&outside.store, b"old", 3).await, Put::AlreadyThere(_)));
        // Switched off later: what is outside is refused by name, and never taken for missing.
        let StoreError::Unavailable(told) = refused(&inside, new).await else { panic!("it is not lost") };
        assert!(told.contains("set JAM_BLOB_STORE") && told.contains(&new.to_string()), "{told}");
        let gone = async |hash| outside.store.delete_preimage(hash, &by(Timestamp::now())).await.unwrap();
        assert_eq!((gone(old).await, gone(new).await), (Some(true), Some(true)));
        assert_eq!((outside.place.found().len(), outside.doubts().await), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_wait_in_a_place_that_was_switched_off_fail_the_cleanup_by_name() {
    let outside = Outside::of(Place::files()).await;
    outside.put_old(b"old").await;
    let inside = store_on(&outside.dsn, None).await;
    let failed = inside.cleanup(&rule(0), false).await.unwrap_err();
    assert!(failed.to_string().contains("set JAM_BLOB_STORE to where they are"), "{failed}");
    outside.store.cleanup(&rule(0), false).await.unwrap();
    assert_eq!((outside.place.found().len(), outside.doubts().await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_missing_or_short_is_a_fault_that_says_what_to_do() {
    for outside in Outside::both().await {
        let bytes = noise(2 * MIB, 8);
        let hash = PreimageHash::of(&bytes);
        put(&outside.store, &bytes, MIB).await;
        let [object] = &outside.place.found()[..] else { panic!("one object") };
        std::fs::write(object, &bytes[..MIB]).unwrap();
        let StoreError::Fault(told) = refused(&outside.store, hash).await else { panic!("it is a fault") };
        assert!(told.contains("has 1048576 of the 2097152 bytes"), "{told}");
        // Also where nothing is left of what is asked for, and nothing at all; the store itself is well.
        for (left, start) in [(MIB, MIB), (MIB, MIB + 5), (0, 0), (0, 7)] {
            std::fs::write(object, &bytes[..left]).unwrap();
            let start = start as u64;
            let Err(told) = outside.store.read_preimage(hash, start..start + 9).await else { panic!("it is refused") };
            let StoreError::Fault(told) = told else { panic!("it is a fault: {told}") };
            assert!(told.contains(&format!("has {left} of the 2097152 bytes")), "{told}");
            assert_eq!(outside.store.blob_store().await, Some(Ok(())));
        }
        std::fs::remove_file(object).unwrap();
        let StoreError::Fault(told) = refused(&outside.store, hash).await else { panic!("it is a fault") };
        let key = object.file_name().unwrap().to_str().unwrap();
        assert!(told.contains("has no object") && told.contains(key), "{told}");
        assert!(outside.store.preimage(hash).await.unwrap().is_some(), "the record is there");
        assert_eq!(outside.store.delete_preimage(hash, &by(Timestamp::now())).await, Ok(Some(true)));
        assert!(matches!(put(&outside.store, &bytes, MIB).await, Put::Created(_)), "and it can be sent again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_uploads_are_parts_and_downloads_are_ranges_of_a_bounded_size() {
    let outside = Outside::of(Place::bucket().await).await;
    let bytes = noise(2 * PART + 9, 9);
    let hash = PreimageHash::of(&bytes);
    put(&outside.store, &bytes, 70_001).await;
    let bucket = outside.place.the_bucket();
    let puts: Vec<String> =
        bucket.asked().into_iter().filter(|(m, _)| m == Method::PUT).map(|(_, query)| query).collect();
    assert_eq!(puts.len(), 3, "{puts:?}");
    assert!(puts.iter().all(|query| query.contains("partNumber=")), "{puts:?}");
    assert!(bytes_of(&outside.store, hash, 5..9).await == bytes[5..9]);
    assert_eq!(bucket.asked(), [(Method::GET, "bytes=5-8".to_owned())]);
    let (_, mut body) = outside.store.read_preimage(hash, 0..u64::MAX).await.unwrap().unwrap();
    assert_eq!(
        bucket.asked(),
        [(Method::GET, "bytes=0-1048575".to_owned())],
        "the rest is asked for when it is wanted"
    );
    let mut read = 0;
    while let Some(chunk) = body.try_next().await.unwrap() {
        assert!(chunk.len() <= MIB);
        read += chunk.len();
    }
    assert_eq!((read, bucket.asked().len()), (bytes.len(), 10));
    assert!(matches!(put(&outside.store, &bytes, MIB).await, Put::AlreadyThere(_)));
    assert!(bucket.asked().is_empty(), "nothing is rewritten");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_bucket_is_unavailable_and_heals_by_itself() {
    let outside = Outside::of(Place::bucket().await).await;
    let hash = outside.put_old(b"blob").await;
    let bucket = outside.place.the_bucket();
    bucket.away(true);
    let body = stream::iter([Ok(Bytes::from_static(b"other"))]).boxed();
    let answers = [
        outside.store.put_preimage(upload(b"other"), body).await.map(drop).unwrap_err().to_string(),
        refused(&outside.store, hash).await.to_string(),
        outside.store.cleanup(&rule(0), false).await.unwrap_err().to_string(),
    ];
    for told in &answers {
        assert!(
            told.contains("s3://blobs/a/prefix at http://127.0.0.1:") && told.contains("does not answer"),
            "{told}"
        );
        assert!(!told.contains(SECRET) && !told.contains(KEY_ID), "{told}");
    }
    assert!(matches!(outside.store.blob_store().await, Some(Err(Trouble::Away { .. }))));
    assert_eq!(outside.store.ping().await, Ok(()), "the database is well");
    bucket.away(false);
    outside.put_aged(b"other", 0).await;
    assert_eq!(outside.store.blob_store().await, Some(Ok(())));
    // The record went before the outage was noticed; the next cleanup finds the object.
    outside.store.cleanup(&rule(0), false).await.unwrap();
    outside.store.sweep_uploads(0).await.unwrap();
    assert_eq!((outside.place.found().len(), outside.doubts().await), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_are_refusals_that_say_what_where_and_what_to_do() {
    let place = Place::bucket().await;
    let endpoint = place.the_bucket().endpoint();
    let probe = async |url: &str, id: &str, secret: &str| {
        let objects = Objects::open(url, variables(&endpoint, id, secret)).unwrap();
        let shown = format!("{objects:?} {objects}");
        assert!(!shown.contains(secret) && !shown.contains(id), "{shown}");
        objects.probe().await
    };
    for (url, id, secret, told) in [
        ("s3://blobs", KEY_ID, "wrong-secret", "check AWS_SECRET_ACCESS_KEY"),
        ("s3://blobs", "wrong-key", SECRET, "check AWS_ACCESS_KEY_ID"),
    ] {
        let Err(trouble @ Trouble::Refused { .. }) = probe(url, id, secret).await else { panic!("{told}") };
        let said = trouble.to_string();
        assert!(said.contains(told) && said.contains(url) && said.contains(&endpoint), "{said}");
        assert!(![id, secret].iter().any(|word| said.contains(word)), "{said}");
    }
    assert_eq!(probe("s3://blobs", KEY_ID, SECRET).await, Ok(()));
}
