//! A server killed between an object and its record, in both orders: cleanup leaves exactly the objects that have records.

use std::time::Duration;

use hyper::Method;
use jam_domain::PreimageHash;
use reqwest::Body;
use sqlx::Connection as _;

use crate::api_support::{PATIENCE, Server, TOKEN, World, file, ran, token_file, until};
use crate::support::objects::Place;
use crate::support::postgres;

const PART: usize = 5 << 20;

/// A server with its blobs in a place, and one blob in it that has to survive.
struct Scene {
    world: World,
    server: Server,
    kept: Vec<u8>,
    _tokens: tempfile::TempDir,
}

impl Scene {
    async fn of(place: Place) -> Self {
        let world = World::with_blobs(place).await;
        let all: &[&str] = &["read", "submit", "process", "admin"];
        let (tokens, path) = file("tokens.json", &token_file(&[(TOKEN, Some(all), None)]));
        let server = world.with(&[("JAM_TOKENS_FILE", path.to_str().unwrap())]).await;
        let kept = b"kept".repeat(1000);
        server.upload(&kept).await;
        Self { world, server, kept, _tokens: tokens }
    }

    fn place(&self) -> &Place {
        self.world.place().unwrap()
    }

    fn dsn(&self) -> &str {
        self.world.dsn().unwrap()
    }

    async fn objects(&self, count: usize) {
        let there = || async { (self.place().found().len() == count).then_some(()) };
        until("the objects are there", there).await;
    }

    /// Kills the server, which can't do anything about it.
    async fn kill(&mut self) {
        self.server.signal("KILL").await;
        assert!(!self.server.ended().await.success());
    }

    async fn cleanup(&self, more: &[&str]) -> String {
        let settings = self.world.settings();
        let settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (code, out, err) = ran(&[&["cleanup"], more].concat(), &settings).await;
        assert_eq!(code, 0, "{err}");
        out
    }

    /// After an hour, a cleanup leaves exactly the objects that have records, each with its bytes.
    async fn audit(&self) {
        postgres::execute(
            self.dsn(),
            "update objects_in_doubt set touched_at = now() - interval '2 hours' where touched_at > '-infinity'",
        )
        .await;
        let before = self.place().found();
        self.cleanup(&["--dry-run"]).await;
        assert_eq!(self.place().found(), before, "a dry run removes nothing");
        self.cleanup(&[]).await;
        let blobs = postgres::number(self.dsn(), "select count(*) from preimages").await;
        assert_eq!(blobs, 1);
        assert_eq!(self.place().found().len(), 1, "{:?}", self.place().found());
        assert_eq!(postgres::number(self.dsn(), "select count(*) from objects_in_doubt").await, 0);
        let path = format!("/jam/preimages/{}", PreimageHash::of(&self.kept));
        assert!(self.world.serve().await.get(&path).await.expect(200).bytes == self.kept);
    }
}

/// Uploads and waits for the answer that never comes.
fn upload(server: &Server, bytes: Vec<u8>) -> tokio::task::JoinHandle<bool> {
    let path = format!("/jam/preimages/{}", PreimageHash::of(&bytes));
    let put = server.request("PUT", &path).body(bytes);
    tokio::spawn(async move { put.send().await.is_ok() })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_whose_server_was_killed_before_its_record_is_removed_by_the_next_cleanup() {
    for place in [Place::files(), Place::bucket().await] {
        // In one part, and in several.
        let mut scene = Scene::of(place).await;
        for bytes in [b"lost".to_vec(), vec![7; PART + 9]] {
            // Records can be read, and not written, until the server is dead.
            let mut lock = postgres::connect(scene.dsn()).await;
            let mut held = lock.begin().await.unwrap();
            sqlx::query("lock table preimages in share mode").execute(&mut *held).await.unwrap();
            let putting = upload(&scene.server, bytes);
            scene.objects(2).await;
            // All of it: a part is there a moment before the object.
            let waits = || async {
                let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'
                    and datname = current_database()";
                (postgres::number(scene.dsn(), waiting).await > 0).then_some(())
            };
            until("the record waits", waits).await;
            scene.kill().await;
            assert!(!putting.await.unwrap(), "nobody was told that it is stored");
            held.rollback().await.unwrap();
            scene.objects(2).await;
            scene.audit().await;
            scene.server = scene.world.serve().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_of_an_upload_whose_server_was_killed_is_removed_by_the_next_cleanup() {
    for place in [Place::files(), Place::bucket().await] {
        let mut scene = Scene::of(place).await;
        let (sender, receiver) = futures::channel::mpsc::unbounded::<Result<Vec<u8>, std::io::Error>>();
        let path = format!("/jam/preimages/{}", PreimageHash::of(b"never to be known"));
        let put = scene.server.request("PUT", &path).body(Body::wrap_stream(receiver));
        let putting = tokio::spawn(async move { put.send().await.is_ok() });
        sender.unbounded_send(Ok(vec![7; PART + 9])).unwrap();
        scene.objects(2).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        scene.kill().await;
        drop(sender);
        assert!(!putting.await.unwrap());
        assert_eq!(scene.place().found().len(), 2, "half of it lies there");
        scene.audit().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_whose_server_was_killed_after_its_record_went_is_removed_by_the_next_cleanup() {
    let mut scene = Scene::of(Place::bucket().await).await;
    let hash = scene.server.upload(b"to be deleted").await;
    let bucket = scene.place().the_bucket();
    bucket.stall(Some(Method::DELETE));
    let delete = scene.server.request("DELETE", &format!("/jam/preimages/{hash}"));
    let deleting = tokio::spawn(async move { delete.send().await.is_ok() });
    let asked = || async { bucket.asked().iter().any(|(method, _)| method == Method::DELETE).then_some(()) };
    until("the object is to be removed", asked).await;
    assert_eq!(postgres::number(scene.dsn(), "select count(*) from preimages").await, 1, "the record went first");
    scene.kill().await;
    assert!(!deleting.await.unwrap());
    scene.place().the_bucket().stall(None);
    assert_eq!(scene.place().found().len(), 2);
    scene.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_that_is_killed_between_record_and_object_leaves_it_to_the_next_one() {
    let scene = Scene::of(Place::bucket().await).await;
    scene.server.upload(b"old").await;
    let age = "update preimages set created_at = now() - interval '400 days' where size = 3";
    postgres::execute(scene.dsn(), age).await;
    let bucket = scene.place().the_bucket();
    bucket.stall(Some(Method::DELETE));
    let mut command = crate::api_support::jam_api(&["cleanup"]);
    let mut child = command.envs(scene.world.settings()).spawn().unwrap();
    let asked = || async { bucket.asked().iter().any(|(method, _)| method == Method::DELETE).then_some(()) };
    until("the object is to be removed", asked).await;
    child.kill().await.unwrap();
    tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    bucket.stall(None);
    assert_eq!(scene.place().found().len(), 2);
    scene.audit().await;
}
