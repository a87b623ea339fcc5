//! A blob store behind the real server: what is said when it is away, refuses, or has lost an object.

use jam_domain::PreimageHash;

use crate::api_support::{Server, World, answer, jam_api, ran, until};
use crate::support::objects::{KEY_ID, Place, SECRET, variables};

/// Settings as the tests of the API take them.
fn borrowed(settings: &[(String, String)]) -> Vec<(&str, &str)> {
    settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn path_of(bytes: &[u8]) -> String {
    format!("/jam/preimages/{}", PreimageHash::of(bytes))
}

/// What `/readyz` says of the blob store, and whether the server is ready.
async fn readiness(server: &Server) -> (u16, serde_json::Value) {
    let said = answer(server.bare("GET", "/readyz")).await;
    (said.status, said.json()["checks"]["blob_store"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_blob_store_is_away_preimages_are_503_all_else_is_served_and_it_heals_by_itself() {
    let world = World::with_blobs(Place::bucket().await).await;
    let server = world.serve().await;
    server.upload(b"before").await;
    assert_eq!(readiness(&server).await, (200, serde_json::json!({"ok": true})));
    let bucket = world.place().unwrap().the_bucket();
    bucket.away(true);
    let put = answer(server.request("PUT", &path_of(b"new")).body("new")).await;
    for refused in [put, server.get(&path_of(b"before")).await] {
        assert!(refused.header("retry-after").parse::<u32>().unwrap() >= 1);
        let body = refused.refused(503, "jam_store_unavailable").to_string();
        for inside in ["s3", "127.0.0.1", "blobs", KEY_ID, SECRET] {
            assert!(!body.contains(inside), "{body}");
        }
    }
    server.get(&format!("{}/meta", path_of(b"before"))).await.expect(200);
    server.submit("s", "while it is away").await;
    let told = || async {
        let (status, said) = readiness(&server).await;
        assert_eq!(status, 200, "the process is ready: what else would serve the rest?");
        said["reason"].as_str().map(str::to_owned)
    };
    let reason = until("it is said", told).await;
    assert!(reason.starts_with("the blob store does not answer") && !reason.contains("127.0.0.1"), "{reason}");
    bucket.away(false);
    answer(server.request("PUT", &path_of(b"new")).body("new")).await.expect(201);
    assert_eq!(server.get(&path_of(b"before")).await.expect(200).bytes, b"before");
    let well = || async { readiness(&server).await.1["ok"].as_bool().filter(|ok| *ok) };
    until("it is well", well).await;
    let log = server.log();
    assert!(log.contains("does not answer") && !log.contains(SECRET) && !log.contains(KEY_ID), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_are_refused_at_the_start_naming_what_where_and_what_next_without_the_keys() {
    let world = World::with_blobs(Place::bucket().await).await;
    let endpoint = world.place().unwrap().the_bucket().endpoint();
    for (id, secret, next) in
        [(KEY_ID, "a-wrong-secret", "check AWS_SECRET_ACCESS_KEY"), ("a-wrong-key", SECRET, "check AWS_ACCESS_KEY_ID")]
    {
        let mut settings = world.settings();
        settings.retain(|(name, _)| !name.starts_with("AWS_"));
        settings.extend(variables(&endpoint, id, secret));
        settings.push(("JAM_ALLOWED_TOKENS".into(), "token".into()));
        settings.push(("JAM_LISTEN".into(), "127.0.0.1:0".into()));
        settings.push(("JAM_METRICS_LISTEN".into(), String::new()));
        let (code, out, err) = ran(&["serve"], &borrowed(&settings)).await;
        assert_eq!(code, 2, "{err}");
        let line = err.lines().find(|line| line.starts_with("jam-api: blob_store ")).unwrap_or_else(|| panic!("{err}"));
        assert!(line.contains("s3://blobs/a/prefix") && line.contains(&endpoint) && line.contains(next), "{line}");
        for hush in [id, secret] {
            assert!(!err.contains(hush) && !out.contains(hush), "{err}{out}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_store_that_is_away_at_the_start_is_waited_for() {
    let world = World::with_blobs(Place::bucket().await).await;
    let bucket = world.place().unwrap().the_bucket();
    bucket.away(true);
    let server = world.serve().await;
    assert_eq!(readiness(&server).await.0, 200);
    bucket.away(false);
    server.upload(b"now").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_object_is_500_before_anything_is_sent_and_logged_once() {
    for place in [Place::files(), Place::bucket().await] {
        let world = World::with_blobs(place).await;
        let server = world.serve().await;
        server.upload(b"lost").await;
        let [object] = &world.place().unwrap().found()[..] else { panic!("one object") };
        std::fs::remove_file(object).unwrap();
        let body = server.get(&path_of(b"lost")).await.refused(500, "jam_internal").to_string();
        assert!(!body.contains("object") && !body.contains("blobs"), "{body}");
        let log = server.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("has no object")).collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert!(lines[0].contains(&PreimageHash::of(b"lost").to_string()), "{log}");
        assert_eq!(server.get(&format!("{}/meta", path_of(b"lost"))).await.expect(200).json()["size"], 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_beyond_the_end_of_a_truncated_object_is_500_as_the_rest_of_it() {
    for place in [Place::files(), Place::bucket().await] {
        let world = World::with_blobs(place).await;
        let server = world.serve().await;
        server.upload(b"truncated").await;
        let [object] = &world.place().unwrap().found()[..] else { panic!("one object") };
        std::fs::write(object, b"trunc").unwrap();
        for range in ["bytes=0-8", "bytes=2-3", "bytes=5-8", "bytes=7-", "bytes=-1"] {
            answer(server.request("GET", &path_of(b"truncated")).header("range", range))
                .await
                .refused(500, "jam_internal");
        }
        let log = server.log();
        assert_eq!(log.lines().filter(|line| line.contains("has 5 of the 9 bytes")).count(), 5, "{log}");
        server.get("/readyz").await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_says_where_the_bytes_are_and_the_settings_show_no_key() {
    for place in [Place::files(), Place::bucket().await] {
        let world = World::with_blobs(place).await;
        let server = world.serve().await;
        server.upload(b"blob").await;
        let record = server.get(&format!("{}/meta", path_of(b"blob"))).await.expect(200).json();
        let place = world.place().unwrap();
        assert_eq!(record["storage_class"], place.class());
        let mut command = jam_api(&["check-config", "--allowed-tokens", "token"]);
        let shown = command.envs(world.settings()).output().await.unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.contains(&format!("blob_store = \"{}", place.url())), "{shown}");
        assert!(!shown.contains(SECRET) && !shown.contains(KEY_ID), "{shown}");
    }
}
